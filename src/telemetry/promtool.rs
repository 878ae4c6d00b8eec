//! Runs `promtool`, the foreign judge of metrics and alert rules. Tests only.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The output of `promtool` with `input` on stdin, or nothing, loudly, where it is not installed.
pub(super) fn run(arguments: &[&str], input: &str, directory: &Path) -> Option<Output> {
    let child = Command::new("promtool")
        .args(arguments)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let required = std::env::var("EIDER_REQUIRE").unwrap_or_default();
            assert!(
                !required.split(',').any(|name| name == "promtool"),
                "promtool is required and cannot be run: {error}"
            );
            eprintln!("SKIPPED: promtool cannot be run ({error}); install Debian's `prometheus`");
            return None;
        }
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}
