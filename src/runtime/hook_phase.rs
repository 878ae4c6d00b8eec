//! The hooks of a phase, one after the other, where commands run in containers of the target. What a
//! command is and where it runs is the caller's; requests are sent from here.

use std::time::Duration;

use serde_json::{Value, json};

use super::BoxFuture;
use super::host::hooks::{HookError, send_request};
use crate::engine::Cancel;
use crate::plan::{Failure, HookFacts, HookPhase, Job};
use crate::spec::hooks::{ExecHook, Hook};
use crate::spec::{Hooks, OnError, Reason};

/// How much of the end of a command's output is kept, in bytes.
const KEPT_OUTPUT: usize = 4096;

/// Runs one command in its containers within a time; an error is a sentence for people.
pub type RunCommand<'a> =
    &'a (dyn Fn(ExecHook, Duration) -> BoxFuture<'a, Result<(), String>> + Sync);

/// The hooks of a job.
pub fn of_job(job: &Job) -> &Hooks {
    match job {
        Job::Backup(job) => &job.spec.hooks,
        Job::Restore(job) => &job.spec.hooks,
        Job::Upgrade(job) => &job.spec.hooks,
    }
}

/// Runs the hooks of a phase in order. Before: the first failure ends it. After: all of them run.
pub async fn run(
    job: &Job,
    phase: HookPhase,
    cancel: &Cancel,
    command: RunCommand<'_>,
) -> Result<Value, Failure> {
    let (hooks, word) = match phase {
        HookPhase::Before => (&of_job(job).before, "before"),
        HookPhase::After => (&of_job(job).after, "after"),
    };
    let mut facts = HookFacts::default();
    let mut first_failure = None;
    for (index, hook) in hooks.iter().enumerate() {
        if phase == HookPhase::Before && cancel.is_cancelled() {
            return Err(Failure::new(Reason::Cancelled, "cancelled before a hook"));
        }
        let result = match (&hook.exec, &hook.http) {
            (Some(exec), None) => command(exec.clone(), hook.timeout.to_duration()).await,
            (None, Some(_)) => request(hook, job.target().in_cluster()).await,
            _ => Err("the hook needs exactly one of exec and http".to_owned()),
        };
        let Err(why) = result else { continue };
        let message = format!("hook {word} {}: {why}", index + 1);
        if hook.on_error == OnError::Continue {
            facts.warnings.push(message);
            continue;
        }
        let failure = Failure::new(Reason::HookFailed, message);
        if phase == HookPhase::Before {
            return Err(failure);
        }
        first_failure.get_or_insert(failure);
    }
    first_failure.map_or_else(|| Ok(json!(facts)), Err)
}

async fn request(hook: &Hook, discreet: bool) -> Result<(), String> {
    let hook = hook.clone();
    let sent = tokio::task::spawn_blocking(move || send_request(&hook)).await;
    match sent.map_err(|error| error.to_string())? {
        Ok(_) => Ok(()),
        Err(error) => Err(told(&error, discreet)),
    }
}

/// What is said of a failed request. In a cluster not what was answered: who writes a document must
/// not read by way of its status what only the operator can reach.
pub fn told(error: &HookError, discreet: bool) -> String {
    match error {
        HookError::Status { url, status, .. } if discreet => {
            format!("the request to {url} was answered with status {status}")
        }
        other => other.to_string(),
    }
}

/// The end of what a command wrote: all of it is taken, so that the command is not held up.
#[derive(Default)]
pub struct Tail {
    kept: Vec<u8>,
}

impl Tail {
    /// Takes a piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.kept.extend_from_slice(piece);
        if self.kept.len() > 4 * KEPT_OUTPUT {
            self.kept.drain(..self.kept.len() - KEPT_OUTPUT);
        }
    }

    /// The last 4 KiB, as text.
    pub fn text(&self) -> String {
        let start = self.kept.len().saturating_sub(KEPT_OUTPUT);
        String::from_utf8_lossy(&self.kept[start..]).trim().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::Tail;

    #[test]
    fn the_end_of_a_long_output_is_kept() {
        let mut tail = Tail::default();
        for _ in 0..100_000 {
            tail.push(b"line\n");
        }
        tail.push(b"the end\n");
        let text = tail.text();
        assert!(text.ends_with("line\nthe end") && text.len() <= 4096, "{}", text.len());
    }
}
