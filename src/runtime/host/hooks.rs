//! One hook of a host target: a command on this machine or an HTTP request.
//!
//! Blocking; callers run it where blocking is allowed. Decides nothing: what a failure means for the
//! operation is the planner's matter. Secrets (the authorization file, user info and query of an
//! URL) never reach a message.

use std::collections::BTreeMap;
use std::io::{PipeReader, Read as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use rustix::time::Timespec;

use super::web_hook;
use crate::spec::hooks::{ExecHook, Hook};
use crate::spec::reason::Reason;

/// How much of the end of a command's output is kept, in bytes.
const KEPT_OUTPUT: usize = 4096;
/// How long a process group has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// How often a running command is looked at while it says nothing.
const TICK: Duration = Duration::from_millis(20);

/// How a successful hook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookStatus {
    /// The command's exit code, which is 0.
    Exit(i32),
    /// The HTTP status, 200 to 299.
    Http(u16),
}

/// What a successful hook left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookOutcome {
    /// How it ended.
    pub status: HookStatus,
    /// The last 4 KiB of what the command wrote, or the first 512 bytes of the answer.
    pub output: String,
    /// How long it took.
    pub duration: Duration,
}

/// Why a hook failed and what to do.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// A hook for a container on a target that has none.
    #[error(
        "the hook names the container `{container}`, but a host target has no containers; remove \
         `container`, or use a docker or workload target"
    )]
    ContainerOnHost {
        /// The container.
        container: String,
    },
    /// Neither or both of exec and http, or an empty command.
    #[error("the hook cannot run: {why}; give it exactly one of exec and http")]
    Invalid {
        /// What is wrong.
        why: &'static str,
    },
    /// The program does not exist.
    #[error(
        "the command `{program}` of the hook was not found; install it, or name it by its absolute \
         path"
    )]
    CommandNotFound {
        /// The program.
        program: String,
    },
    /// The program could not be started or watched.
    #[error("cannot run the hook's command `{program}`: {source}; is it executable?")]
    CannotRun {
        /// The program.
        program: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The command ended with an exit code other than 0, or by a signal.
    #[error("the hook's command `{program}` {ending}; it wrote: {output}")]
    CommandFailed {
        /// The program.
        program: String,
        /// `ended with exit code 3` or `was ended by signal 9`.
        ending: String,
        /// The last 4 KiB of what it wrote.
        output: String,
    },
    /// It took too long and was ended.
    #[error(
        "the hook `{hook}` took longer than {timeout} and was ended; raise its `timeout` or look why"
    )]
    TimedOut {
        /// The program or the URL.
        hook: String,
        /// The timeout as it was written.
        timeout: String,
        /// The last 4 KiB of what a command wrote until then.
        output: String,
    },
    /// The operation was cancelled.
    #[error("the hook `{hook}` was ended because the operation was cancelled")]
    Cancelled {
        /// The program or the URL.
        hook: String,
    },
    /// The file with the authorization could not be used.
    #[error(
        "cannot use the hook's authorizationFile {path}: {why}; it has to hold one header value"
    )]
    AuthorizationFile {
        /// The file.
        path: String,
        /// Why; never its content.
        why: String,
    },
    /// The request could not be sent or answered.
    #[error(
        "the hook's request to {url} failed: {why}; check the URL and that the service answers"
    )]
    Request {
        /// The URL without user info and query.
        url: String,
        /// Why.
        why: String,
    },
    /// The answer was not a success.
    #[error("the hook's request to {url} was answered with status {status}: {body}")]
    Status {
        /// The URL without user info and query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The first 512 bytes of the answer, or why a redirect was not followed.
        body: String,
    },
}

impl HookError {
    /// The reason for conditions and metrics.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Cancelled { .. } => Reason::Cancelled,
            _ => Reason::HookFailed,
        }
    }
}

/// Carries out one hook of a host target.
///
/// `environment` is added to the inherited environment of a command (`EIDER_OPERATION` and so on).
/// `cancel` is asked while a command runs; a request runs until its timeout.
pub fn run_hook(
    hook: &Hook,
    environment: &BTreeMap<String, String>,
    cancel: &dyn Fn() -> bool,
) -> Result<HookOutcome, HookError> {
    match (&hook.exec, &hook.http) {
        (Some(exec), None) => {
            let limits = Limits { hook, grace: GRACE, cancel };
            run_command(exec, environment, &limits)
        }
        (None, Some(_)) if cancel() => Err(HookError::Cancelled { hook: "http".to_owned() }),
        (None, Some(http)) => web_hook::send(http, &hook.timeout),
        (Some(_), Some(_)) => Err(HookError::Invalid { why: "it has both exec and http" }),
        (None, None) => Err(HookError::Invalid { why: "it has neither exec nor http" }),
    }
}

/// Sends the request of an HTTP hook and judges the answer, for places where commands run elsewhere.
pub fn send_request(hook: &Hook) -> Result<HookOutcome, HookError> {
    match &hook.http {
        Some(http) => web_hook::send(http, &hook.timeout),
        None => Err(HookError::Invalid { why: "it has no http" }),
    }
}

/// Settings of the C library's allocator that suit a process which is idle for most of its life: few
/// arenas, and pieces of 64 KiB or more go back to the system when they are freed.
pub const ALLOCATOR_SETTINGS: [(&str, &str); 2] =
    [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "65536")];

/// Set together with [`ALLOCATOR_SETTINGS`] when they are Eider's own choice for itself: a hook's
/// command must not inherit them then.
pub const ALLOCATOR_MARK: &str = "EIDER_ALLOCATOR_SETTLED";

/// What ends a command early.
struct Limits<'a> {
    hook: &'a Hook,
    grace: Duration,
    cancel: &'a dyn Fn() -> bool,
}

fn run_command(
    exec: &ExecHook,
    environment: &BTreeMap<String, String>,
    limits: &Limits<'_>,
) -> Result<HookOutcome, HookError> {
    if let Some(container) = &exec.container {
        return Err(HookError::ContainerOnHost { container: container.clone() });
    }
    let Some((program, arguments)) = exec.command.split_first() else {
        return Err(HookError::Invalid { why: "its command is empty" });
    };
    let cannot_run =
        |source: std::io::Error| HookError::CannotRun { program: program.clone(), source };
    let (reader, writer) = std::io::pipe().map_err(cannot_run)?;
    let begun = Instant::now();
    let mut command = Command::new(program);
    if std::env::var_os(ALLOCATOR_MARK).is_some() {
        for (name, _) in ALLOCATOR_SETTINGS {
            command.env_remove(name);
        }
        command.env_remove(ALLOCATOR_MARK);
    }
    let mut child = command
        .args(arguments)
        .envs(environment)
        .stdin(Stdio::null())
        .stdout(writer.try_clone().map_err(cannot_run)?)
        .stderr(writer)
        .process_group(0)
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => HookError::CommandNotFound { program: program.clone() },
            _ => cannot_run(error),
        })?;
    let mut output = Output { reader, kept: Vec::new(), open: true };
    let watched =
        output.set_nonblocking().and_then(|()| watch(&mut child, &mut output, begun, limits));
    let ended = match watched {
        Ok(ended) => ended,
        Err(error) => {
            end_group(&mut child, limits.grace);
            return Err(cannot_run(error));
        }
    };
    let text = output.text();
    match ended {
        Ended::Itself(status) if status.success() => {
            Ok(HookOutcome { status: HookStatus::Exit(0), output: text, duration: begun.elapsed() })
        }
        Ended::Itself(status) => Err(HookError::CommandFailed {
            program: program.clone(),
            ending: match (status.code(), status.signal()) {
                (Some(code), _) => format!("ended with exit code {code}"),
                (None, Some(signal)) => format!("was ended by signal {signal}"),
                (None, None) => "ended in an unknown way".to_owned(),
            },
            output: text,
        }),
        Ended::TimedOut => Err(HookError::TimedOut {
            hook: program.clone(),
            timeout: limits.hook.timeout.to_string(),
            output: text,
        }),
        Ended::Cancelled => Err(HookError::Cancelled { hook: program.clone() }),
    }
}

enum Ended {
    Itself(ExitStatus),
    TimedOut,
    Cancelled,
}

/// Reads what the command writes until it ends or has to be ended.
///
/// Only the command itself is waited for: a daemon that it left behind may keep the pipe open.
fn watch(
    child: &mut Child,
    output: &mut Output,
    begun: Instant,
    limits: &Limits<'_>,
) -> std::io::Result<Ended> {
    let timeout = limits.hook.timeout.to_duration();
    loop {
        output.wait(TICK)?;
        if let Some(status) = child.try_wait()? {
            output.read_available()?;
            return Ok(Ended::Itself(status));
        }
        let ended = if (limits.cancel)() {
            Ended::Cancelled
        } else if begun.elapsed() >= timeout {
            Ended::TimedOut
        } else {
            continue;
        };
        end_group(child, limits.grace);
        output.read_available()?;
        return Ok(ended);
    }
}

/// Ends a command and everything it started: SIGTERM, and SIGKILL to what is left after the grace.
fn end_group(child: &mut Child, grace: Duration) {
    let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else { return };
    let _ = rustix::process::kill_process_group(group, Signal::TERM);
    let begun = Instant::now();
    while begun.elapsed() < grace {
        let _ = child.try_wait();
        if rustix::process::test_kill_process_group(group) == Err(Errno::SRCH) {
            return;
        }
        std::thread::sleep(TICK);
    }
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
    let _ = child.wait();
}

/// The end of what a command writes, standard output and standard error in one.
struct Output {
    reader: PipeReader,
    kept: Vec<u8>,
    open: bool,
}

impl Output {
    fn set_nonblocking(&self) -> std::io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.reader)?;
        Ok(rustix::fs::fcntl_setfl(&self.reader, flags | rustix::fs::OFlags::NONBLOCK)?)
    }

    /// Waits for output for at most `tick` and reads it.
    fn wait(&mut self, tick: Duration) -> std::io::Result<()> {
        if !self.open {
            std::thread::sleep(tick);
            return Ok(());
        }
        let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(tick.subsec_nanos()) };
        match rustix::event::poll(&mut [PollFd::new(&self.reader, PollFlags::IN)], Some(&tick)) {
            Ok(0) | Err(Errno::INTR) => Ok(()),
            Ok(_) => self.read_available(),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads what is there, at most 1 MiB at a time so that a chatty command still times out.
    fn read_available(&mut self) -> std::io::Result<()> {
        let mut buffer = [0_u8; 8192];
        for _ in 0..128 {
            match self.reader.read(&mut buffer) {
                Ok(0) => {
                    self.open = false;
                    return Ok(());
                }
                Ok(count) => {
                    self.kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
                    let surplus = self.kept.len().saturating_sub(KEPT_OUTPUT);
                    self.kept.drain(..surplus);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.kept).trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: &str) -> Hook {
        let command = ["/bin/sh", "-c", script];
        serde_json::from_value(
            serde_json::json!({"exec": {"command": command}, "timeout": timeout}),
        )
        .unwrap()
    }

    fn run(hook: &Hook) -> Result<HookOutcome, HookError> {
        run_hook(hook, &BTreeMap::new(), &|| false)
    }

    #[test]
    fn a_command_gets_the_environment_and_both_outputs_are_kept() {
        let environment = BTreeMap::from([("EIDER_PHASE".to_owned(), "before".to_owned())]);
        let hook = shell("echo out $EIDER_PHASE; echo err >&2; cat", "30s");
        let outcome = run_hook(&hook, &environment, &|| false).unwrap();
        assert_eq!(outcome.output, "out before\nerr");
        assert_eq!(outcome.status, HookStatus::Exit(0));
    }

    #[test]
    fn only_the_end_of_a_long_output_is_kept() {
        let outcome =
            run(&shell("head -c 3000000 /dev/zero | tr '\\0' x; printf '\\377end'", "30s"));
        let output = outcome.unwrap().output;
        assert!(output.ends_with("x\u{fffd}end"));
        assert_eq!(output.chars().count(), KEPT_OUTPUT);
    }

    #[test]
    fn exit_codes_and_signals_are_named() {
        let error = run(&shell("echo why; exit 3", "30s")).unwrap_err();
        assert_eq!(error.reason(), Reason::HookFailed);
        let text = error.to_string();
        assert!(text.contains("exit code 3") && text.contains("why"), "{text}");
        let text = run(&shell("kill -9 $$", "30s")).unwrap_err().to_string();
        assert!(text.contains("signal 9"), "{text}");
    }

    #[test]
    fn a_missing_command_and_a_container_are_refused_with_a_hint() {
        let mut hook = shell("", "30s");
        hook.exec.as_mut().unwrap().command = vec!["eider-no-such-program".to_owned()];
        assert!(matches!(run(&hook), Err(HookError::CommandNotFound { .. })));
        hook.exec.as_mut().unwrap().container = Some("web".to_owned());
        assert!(run(&hook).unwrap_err().to_string().contains("remove `container`"));
    }

    #[test]
    fn a_daemon_left_behind_does_not_hold_the_hook() {
        let outcome = run(&shell("sleep 60 & echo $!", "30s")).unwrap();
        let daemon = Pid::from_raw(outcome.output.parse().unwrap()).unwrap();
        rustix::process::kill_process(daemon, Signal::KILL).unwrap();
    }

    /// Whether a process is gone or only waits to be reaped by init.
    fn is_dead(process: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{process}/stat"))
            .map_or(true, |stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')))
    }

    #[test]
    fn a_timeout_ends_the_children_of_the_children() {
        let hook = shell("sh -c 'echo $$; sleep 600; true' & wait", "1s");
        let error = run(&hook).unwrap_err();
        let HookError::TimedOut { output, timeout, .. } = &error else { panic!("{error}") };
        assert_eq!(timeout, "1s");
        assert!(!output.is_empty() && is_dead(output), "{output}");
    }

    #[test]
    fn what_ignores_the_polite_signal_is_killed_on_cancel_too() {
        let hook = shell("trap '' TERM; echo $$; while :; do sleep 600; done", "600s");
        let (directory, name) = (tempfile::tempdir().unwrap(), "pid");
        let file = directory.path().join(name);
        let mut hook = hook;
        let command = &mut hook.exec.as_mut().unwrap().command;
        command[2] = format!(
            "trap '' TERM; echo $$ > {0}.tmp; mv {0}.tmp {0}; while :; do sleep 600; done",
            file.display()
        );
        let cancel = || file.exists();
        let limits = Limits { hook: &hook, grace: Duration::from_millis(50), cancel: &cancel };
        let exec = hook.exec.as_ref().unwrap();
        let error = run_command(exec, &BTreeMap::new(), &limits).unwrap_err();
        assert_eq!(error.reason(), Reason::Cancelled);
        assert!(is_dead(std::fs::read_to_string(&file).unwrap().trim()));
    }
}
