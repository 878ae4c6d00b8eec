//! A real Docker Engine: what is stopped runs again, what is restored is the same, and a killed
//! process changes neither. Judged by the `docker` client, GNU tar and rsync.

mod backups;
mod calls;
mod compose;
mod contained;
mod database;
mod downtime;
mod engine;
mod faults;
mod files;
mod images;
mod incremental;
mod inherited;
mod kills;
mod labels;
mod meanwhile;
mod neighbours;
mod packaging;
mod proxies;
mod redis;
mod remote;
mod restores;
mod revivals;
mod rollbacks;
mod second;
mod services;
mod tls;
mod upgrades;
mod waiting;
