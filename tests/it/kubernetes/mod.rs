//! The operator against a real cluster: how tests reach one, a proxy that makes an API server
//! misbehave, and what stands on them. Skipped, loudly, where there is no cluster.

mod beside;
mod cluster;
mod cluster_tests;
mod deployed;
mod failures;
mod faults;
mod forward;
mod hooks;
mod incremental;
mod kills;
mod meddling;
mod operations;
mod permissions;
mod process;
mod process_tests;
mod proxy;
mod proxy_tests;
mod reader;
mod refusals;
mod removal;
mod replicas;
mod restores;
mod restricted;
mod resumed;
mod scale;
mod scene;
mod sidecar;
mod two_nodes;
mod waiting;
mod watching;
mod ways_back;
