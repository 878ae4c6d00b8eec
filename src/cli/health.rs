//! `eider health`: whether the daemon of this machine is ready, for a container's health check.

use std::time::Duration;

use super::arguments::GlobalArguments;
use super::output::{CliError, ExitCode, Output};
use crate::spec::Reason;
use crate::web::ControlClient;

/// A daemon that takes longer to answer is not well.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the daemon at the socket.
pub async fn health(global: &GlobalArguments, output: Output) -> Result<(), CliError> {
    let client = ControlClient::new(&global.socket);
    let unwell = |message: String| CliError::new(ExitCode::Unreachable, Reason::Pending, message);
    let answer = tokio::time::timeout(PATIENCE, client.readiness()).await.map_err(|_| {
        unwell(format!("the daemon did not answer within {} s", PATIENCE.as_secs()))
    })?;
    let (ready, said) = answer
        .map_err(|failure| CliError::new(ExitCode::Unreachable, failure.reason, failure.message))?;
    let said = said.trim();
    if !ready {
        return Err(unwell(format!("the daemon is not ready: {said}")));
    }
    output.done("ready", &serde_json::json!({"ready": true, "parts": said}))
}
