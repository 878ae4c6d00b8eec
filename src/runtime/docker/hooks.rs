//! Hooks on a Docker host: commands in containers.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ExecInspectResponse;
use futures_util::StreamExt;

use super::connection::{Connection, failure};
use super::listing::host_facts;
use crate::plan::docker::{ContainerFacts, HostFacts, RunState, select};
use crate::runtime::hook_phase::Tail;
use crate::spec::hooks::ExecHook;
use crate::spec::target::DockerTarget;

/// How often a command is asked about whose output nobody hears.
const LOOK: Duration = Duration::from_millis(200);
/// How often a command may be found neither running nor ended before nobody believes any more that it starts.
const LOOKS_BEFORE_START: u32 = 25;
/// How long the engine may take to say what has become of a command whose time is over.
const LAST_LOOK: Duration = Duration::from_secs(5);

/// Runs a command in the container or the service that the hook names; in the only container of the
/// target if it names none.
pub async fn in_containers(
    connection: &Connection,
    target: &DockerTarget,
    hook: &ExecHook,
    timeout: Duration,
) -> Result<(), String> {
    let begun = Instant::now();
    let facts = host_facts(connection).await.map_err(|failure| failure.message)?;
    let docker = connection.docker().await.map_err(|failure| failure.message)?;
    for container in chosen(target, hook, &facts)? {
        let name = &container.name;
        if container.state != RunState::Running {
            return Err(format!("container {name} does not run, so no command runs in it"));
        }
        let left = timeout.saturating_sub(begun.elapsed());
        let execution = OnceLock::new();
        match tokio::time::timeout(left, in_one(&docker, container, hook, &execution)).await {
            Ok(result) => result?,
            Err(_) => {
                let left = left_running(&docker, execution.get()).await;
                return Err(format!(
                    "the command in {name} took longer than {} s{left}",
                    timeout.as_secs()
                ));
            }
        }
    }
    Ok(())
}

/// What is said of a command whose time is over, as the end of a sentence: an engine has no call that would end
/// one, and it has nothing to do with how long anybody listens to it.
async fn left_running(docker: &Docker, execution: Option<&String>) -> String {
    let Some(id) = execution else { return String::new() };
    let seen = tokio::time::timeout(LAST_LOOK, docker.inspect_exec(id)).await;
    let seen = seen.ok().and_then(Result::ok).unwrap_or_default();
    let process = match seen.pid {
        Some(process) if process > 0 => format!(", as process {process} of the host"),
        _ => String::new(),
    };
    match seen.running {
        Some(false) => ", and has ended since".to_owned(),
        _ => format!(" and goes on in the container{process}: no engine can end it"),
    }
}

/// The containers that a hook means.
fn chosen<'a>(
    target: &DockerTarget,
    hook: &ExecHook,
    facts: &'a HostFacts,
) -> Result<Vec<&'a ContainerFacts>, String> {
    let selection = select(target, facts).map_err(|failure| failure.message)?;
    let selected: Vec<&ContainerFacts> =
        selection.containers.iter().filter_map(|id| facts.container(id)).collect();
    let names = || selected.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
    match &hook.container {
        None if selected.len() == 1 => Ok(selected),
        None => Err(format!("the hook has to name one of its `container`s: {}", names())),
        Some(wanted) => {
            let is_meant = |container: &&ContainerFacts| {
                container.name == *wanted || container.service() == Some(wanted)
            };
            let found: Vec<&ContainerFacts> = selected.iter().copied().filter(is_meant).collect();
            if found.is_empty() {
                return Err(format!(
                    "the target has no container or service `{wanted}`, only {}",
                    names()
                ));
            }
            Ok(found)
        }
    }
}

/// Whether the engine has begun a command and something in between kept the connection from becoming a pipe:
/// HAProxy does so for requests that have a body.
fn is_deaf_proxy(error: &Error) -> bool {
    matches!(error, Error::HyperResponseError { err } if err.to_string().contains("upgrade"))
}

/// Whether a command has ended, at a look after so many others. One that the engine has only just been told to start
/// does not run yet, and has no exit code either.
fn has_ended(seen: &ExecInspectResponse, looks: u32) -> bool {
    seen.running != Some(true) && (seen.exit_code.is_some() || looks >= LOOKS_BEFORE_START)
}

/// Runs the command in one container; `execution` is what the engine calls it.
async fn in_one(
    docker: &Docker,
    container: &ContainerFacts,
    hook: &ExecHook,
    execution: &OnceLock<String>,
) -> Result<(), String> {
    let name = &container.name;
    let explain = |error: &Error| failure(&format!("run a command in {name}"), error).message;
    let options = CreateExecOptions {
        cmd: Some(hook.command.clone()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let made = docker.create_exec(&container.id, options).await.map_err(|e| explain(&e))?;
    let _ = execution.set(made.id.clone());
    let started = docker.start_exec(&made.id, None::<StartExecOptions>).await;
    let (mut written, mut errors) = (Tail::default(), Tail::default());
    match started {
        Ok(StartExecResults::Attached { mut output, .. }) => {
            while let Some(piece) = output.next().await {
                match piece.map_err(|error| explain(&error))? {
                    LogOutput::StdErr { message } => errors.push(&message),
                    other => written.push(&other.into_bytes()),
                }
            }
        }
        Ok(StartExecResults::Detached) => {}
        // The command runs all the same: its end is waited for below.
        Err(error) if is_deaf_proxy(&error) => {
            errors.push(b"(a proxy before the engine does not pass on what commands write)");
        }
        Err(error) => return Err(explain(&error)),
    }
    let mut looks = 0;
    let ended = loop {
        let seen = docker.inspect_exec(&made.id).await.map_err(|error| explain(&error))?;
        if has_ended(&seen, looks) {
            break seen;
        }
        looks += 1;
        tokio::time::sleep(LOOK).await;
    };
    match ended.exit_code {
        Some(0) => Ok(()),
        code => {
            let said = if errors.text().is_empty() { written.text() } else { errors.text() };
            let code =
                code.map_or_else(|| "without a code".to_owned(), |code| format!("with {code}"));
            Err(format!("the command in {name} ended {code}; it wrote: {said}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Behind a proxy that does not pass on what commands write, one that was slow to start counted as failed.
    #[test]
    fn a_command_that_has_not_started_yet_has_not_ended() {
        let seen = |running, exit_code| ExecInspectResponse {
            running: Some(running),
            exit_code,
            ..ExecInspectResponse::default()
        };
        assert!(!has_ended(&seen(false, None), 0));
        assert!(!has_ended(&seen(true, None), 1000));
        assert!(has_ended(&seen(false, Some(0)), 0));
        assert!(has_ended(&seen(false, None), LOOKS_BEFORE_START), "it never will");
    }

    #[test]
    fn a_hook_means_a_container_a_service_or_the_only_one() {
        let container = |name: &str, service: &str| ContainerFacts {
            id: format!("id-{name}"),
            name: name.to_owned(),
            labels: [("com.docker.compose.service".to_owned(), service.to_owned())].into(),
            ..ContainerFacts::default()
        };
        let facts = HostFacts {
            containers: vec![container("shop-db-1", "db"), container("web", "w")],
            ..HostFacts::default()
        };
        let target = |names: &[&str]| DockerTarget {
            containers: Some(names.iter().map(|name| (*name).to_owned()).collect()),
            ..DockerTarget::default()
        };
        let hook = |container: Option<&str>| ExecHook {
            container: container.map(str::to_owned),
            command: vec!["true".to_owned()],
        };
        let both = target(&["shop-db-1", "web"]);
        let names = |target: &DockerTarget, hook: &ExecHook| {
            chosen(target, hook, &facts)
                .map(|found| found.iter().map(|one| one.name.clone()).collect::<Vec<_>>())
        };
        assert_eq!(names(&target(&["web"]), &hook(None)).unwrap(), ["web"]);
        assert_eq!(names(&both, &hook(Some("db"))).unwrap(), ["shop-db-1"]);
        assert_eq!(names(&both, &hook(Some("web"))).unwrap(), ["web"]);
        assert!(names(&both, &hook(None)).unwrap_err().contains("shop-db-1, web"));
        assert!(names(&both, &hook(Some("x"))).unwrap_err().contains("`x`"));
    }
}
