//! The operator against a real cluster: how tests reach one, a proxy that makes an API server
//! misbehave, and what stands on them. Skipped, loudly, where there is no cluster.

mod cluster;
mod cluster_tests;
mod failures;
mod faults;
mod forward;
mod kills;
mod operations;
mod permissions;
mod process;
mod process_tests;
mod proxy;
mod proxy_tests;
mod scale;
mod scene;
mod sidecar;
mod watching;
