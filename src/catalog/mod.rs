//! What happened: the DuckDB file, and the only room that names DuckDB.
//!
//! One thread owns the connection; a [`Catalog`] is a handle to it, or to the process that has it.
//! Archives and their manifests are the truth, this is the index that can be made again from them.
//! May import `spec` and `plan` only.

mod activity;
mod actor;
mod backup;
mod check;
mod configuration;
mod current;
mod error;
mod export;
mod group;
mod maintenance;
mod methods;
mod migration;
mod open;
mod private;
mod query;
mod remote;
mod request;
mod row;
mod store;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use tokio::sync::{mpsc, oneshot, watch};

pub use activity::{
    HistoryFilter, Notification, PerformanceMetric, ServiceStatus, SystemCheck, UserAction,
};
pub use backup::{
    BackupFilter, BackupKey, BackupRecord, RecordStatus, UpgradeRecord, UpgradeStatusWord,
};
pub use configuration::{ConfigEntry, ConfigType, Settings};
pub use current::{
    ApplicationState, CurrentService, Host, ResourceRecord, ScheduledTask, SessionState,
};
pub use error::{CatalogError, ErrorBody, Holder};
pub use open::{OpenOptions, OpenReport, PROBE_VERB, probe};
pub use remote::serve_router;
pub use request::{
    ArchiveOnDisk, Finding, MaintenanceReport, QueryResult, RebuildReport, Reply, Request,
    Severity, SkippedManifest,
};

/// The version of DuckDB this program is built against.
pub const DUCKDB_VERSION: &str = "1.5.6";

/// Requests that may wait for the owner before callers have to.
const WAITING: usize = 128;

/// A handle to the catalog; clones speak to the same owner.
#[derive(Debug, Clone)]
pub struct Catalog(Owner);

#[derive(Debug, Clone)]
enum Owner {
    Thread {
        requests: mpsc::Sender<actor::Message>,
        /// Why the latest write failed, if it did.
        trouble: watch::Receiver<Option<String>>,
    },
    Socket(PathBuf),
}

/// An opened catalog, and what happened while opening.
#[derive(Debug)]
pub struct Opened {
    /// The handle.
    pub catalog: Catalog,
    /// What happened.
    pub report: OpenReport,
}

impl Catalog {
    /// Opens the file, or makes it, and starts the thread that owns it. Blocks.
    ///
    /// # Errors
    /// [`CatalogError::Held`] if another process has the file, [`CatalogError::Newer`] and
    /// [`CatalogError::MigrationChanged`] if it is not of this program,
    /// [`CatalogError::NotACatalog`] if it is something else. Damage is no error: see
    /// [`OpenReport::set_aside`].
    pub fn open(path: &Path, options: &OpenOptions) -> Result<Opened, CatalogError> {
        Self::open_with(path, options, migration::MIGRATIONS.to_vec())
    }

    fn open_with(
        path: &Path,
        options: &OpenOptions,
        migrations: Vec<migration::Migration>,
    ) -> Result<Opened, CatalogError> {
        let absolute =
            std::path::absolute(path).map_err(|error| CatalogError::file("find", path, error))?;
        // One file has one name here, or the same process could open it twice.
        let path = absolute.canonicalize().unwrap_or(absolute);
        let claim = open::Claim::new(&path)?;
        let options = options.clone();
        let (sender, requests) = mpsc::channel(WAITING);
        let (tell, trouble) = watch::channel(None);
        let (opened, report) = std::sync::mpsc::sync_channel(1);
        let file = path.clone();
        // Opened by the thread that owns it from then on: the C library's allocator gives each thread
        // memory of its own, and what opening frees is used again only by the thread that opened.
        let owner = move || {
            private::is_private_from_now_on();
            match open::open(&path, &options, &migrations) {
                Ok((connection, report)) => {
                    let store = store::Store::new(connection, path, claim);
                    // The caller has to be waiting: it does nothing else until it has this.
                    let _ = opened.send(Ok(report));
                    actor::run(store, requests, &tell);
                }
                Err(error) => {
                    drop(claim);
                    let _ = opened.send(Err(error));
                }
            }
        };
        std::thread::Builder::new()
            .name("catalog".to_owned())
            .spawn(owner)
            .map_err(|error| CatalogError::file("start the owner of", &file, error))?;
        let report = report.recv().map_err(|_| CatalogError::Stopped)??;
        let owner = Owner::Thread { requests: sender, trouble };
        Ok(Opened { catalog: Self(owner), report })
    }

    /// The catalog of the process that listens on `socket` with [`serve_router`].
    pub fn remote(socket: &Path) -> Self {
        Self(Owner::Socket(socket.to_owned()))
    }

    /// Why the latest write failed, if it did, and every change of that; unset for the catalog of another
    /// process, which says so itself.
    pub fn trouble(&self) -> Option<watch::Receiver<Option<String>>> {
        match &self.0 {
            Owner::Socket(_) => None,
            Owner::Thread { trouble, .. } => Some(trouble.clone()),
        }
    }

    /// Asks for something; the methods of this type are the same with types.
    pub async fn call(&self, request: Request) -> Result<Reply, CatalogError> {
        match &self.0 {
            Owner::Socket(socket) => remote::call(socket, &request).await,
            Owner::Thread { requests: sender, .. } => {
                let (reply, answer) = oneshot::channel();
                sender
                    .send(actor::Message { request, reply })
                    .await
                    .map_err(|_| CatalogError::Stopped)?;
                answer.await.map_err(|_| CatalogError::Stopped)?
            }
        }
    }
}
