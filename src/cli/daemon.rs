//! `eider daemon`: the loop with its servers around it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use super::arguments::{DaemonArguments, GlobalArguments, Listen};
use super::output::{CliError, ExitCode, Output};
use super::session::{metrics, open_catalog, private_directory, stop_signal};
use crate::operator::Operator;
use crate::operator::daemon::Daemon;
use crate::spec::Reason;
use crate::telemetry::Health;
use crate::web::{ConnectionLimits, Server, control_router, public_router, serve};

/// Runs until SIGINT, SIGTERM or SIGHUP.
pub async fn daemon(
    global: &GlobalArguments,
    arguments: &DaemonArguments,
    output: Output,
) -> Result<(), CliError> {
    if !arguments.specs.is_dir() {
        return Err(CliError::new(
            ExitCode::Usage,
            Reason::InvalidSpec,
            format!("{} is not a directory", arguments.specs.display()),
        )
        .hint("name the directory that your documents are in"));
    }
    let specs = arguments.specs.canonicalize().map_err(|error| {
        CliError::new(
            ExitCode::Usage,
            Reason::InvalidSpec,
            format!("{}: {error}", arguments.specs.display()),
        )
    })?;
    crate::runtime::priority::set(arguments.nice);
    let stop = stop_signal();
    let (catalog, needs_rebuild) = open_catalog(&global.catalog, &output).await?;
    let operator =
        Operator::new(catalog.clone(), metrics()?, None, usize::from(arguments.concurrency))
            .with_ledger(&global.catalog)?;
    let health = Arc::new(Health::starting(&["recovery", "specs"]));
    let catalog_path = super::backup::absolute(&global.catalog)?;
    let server = Server {
        operator: operator.clone(),
        health: Arc::clone(&health),
        catalog: catalog_path.into(),
    };
    let _socket = serve_socket(&global.socket, server.clone())?;
    if let Listen::At(address) = arguments.listen {
        let listener = tokio::net::TcpListener::bind(address).await.map_err(|error| {
            CliError::new(
                ExitCode::Failed,
                Reason::InternalError,
                format!("cannot listen on {address}: {error}"),
            )
            .hint("choose another address with --listen, or `--listen off`")
        })?;
        tracing::info!(%address, "serving metrics, health and the read-only API");
        tokio::spawn(serve(listener, public_router(server), ConnectionLimits::default()));
    }
    if needs_rebuild {
        operator.sync_stores_only(&specs).await?;
        let added = operator.add_missing_records().await?;
        tracing::warn!(
            added,
            "the last end was not a clean one; records were made again from manifests"
        );
    }
    tracing::info!(specs = %specs.display(), catalog = %global.catalog.display(), "started");
    let watching = tokio::spawn(operator.clone().watch_catalog(Arc::clone(&health)));
    let result = Daemon::new(operator, specs, health).run(stop).await;
    watching.abort();
    catalog.close().await?;
    result.map_err(CliError::from)
}

/// The socket's file, removed when the daemon ends.
pub(super) struct SocketFile(std::path::PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Serves the control socket. The catalog's lock has been taken by now: a socket that is still there
/// is the remains of a process that is not.
pub(super) fn serve_socket(path: &Path, server: Server) -> Result<SocketFile, CliError> {
    let refuse = |action: &str, error: std::io::Error| {
        CliError::new(
            ExitCode::Failed,
            Reason::InternalError,
            format!("{action} the socket {} failed: {error}", path.display()),
        )
        .hint("choose another place with --socket or EIDER_SOCKET")
    };
    if let Some(directory) = path.parent() {
        private_directory(directory).map_err(|error| refuse("making a place for", error))?;
    }
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(refuse("replacing", error)),
    }
    let listener =
        tokio::net::UnixListener::bind(path).map_err(|error| refuse("opening", error))?;
    // Whoever can write to the socket can have files read and replaced with the daemon's rights.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| refuse("closing others out of", error))?;
    tokio::spawn(serve(listener, control_router(server), ConnectionLimits::default()));
    Ok(SocketFile(path.to_owned()))
}
