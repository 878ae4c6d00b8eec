//! `eider mover`: what a mover's pod or container runs. Not for people.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::arguments::MoverArguments;
use super::output::{CliError, ExitCode};
use crate::engine::Cancel;
use crate::runtime::mover::{self, MISSION_VARIABLE, STEPS_DIRECTORY, STEPS_FILE, Surroundings};
use crate::spec::Reason;

/// Where Kubernetes reads the last words of a container.
const TERMINATION: &str = "/dev/termination-log";

/// Carries out what the operator asks for, until it asks no more.
pub async fn mover(arguments: &MoverArguments) -> Result<(), CliError> {
    crate::runtime::priority::set(arguments.nice);
    if arguments.pipe {
        mover::run_piped(Arc::new(super::output::speak)).await;
        return Ok(());
    }
    let refuse = |message: String| CliError::new(ExitCode::Usage, Reason::InvalidSpec, message);
    let mission = std::env::var(MISSION_VARIABLE).map_err(|_| {
        refuse(format!("{MISSION_VARIABLE} is not set")).hint("movers are started by the operator")
    })?;
    let mission = serde_json::from_str(&mission)
        .map_err(|error| refuse(format!("the mission does not decode: {error}")))?;
    let stop = Cancel::new();
    let signalled = stop.clone();
    tokio::spawn(async move {
        super::session::stop_signal().await;
        signalled.cancel();
    });
    let surroundings = Surroundings {
        requests: Path::new(STEPS_DIRECTORY).join(STEPS_FILE),
        termination: PathBuf::from(TERMINATION),
        say: Arc::new(super::output::speak),
        stop,
    };
    if mover::run(mission, surroundings).await {
        Ok(())
    } else {
        Err(CliError::new(ExitCode::Failed, Reason::Interrupted, "the last request failed"))
    }
}
