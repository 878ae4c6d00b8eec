//! The pipe to a worker: requests in, answers out, signs of life both ways.

use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, StartContainerOptions, WaitContainerOptionsBuilder,
};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::failpoint;
use crate::plan::Failure;
use crate::runtime::Handles;
use crate::runtime::docker::connection::{ANSWER, limited};
use crate::runtime::hook_phase::Tail;
use crate::runtime::mover::{Mission, Request, SIGN_OF_LIFE, Saying, Told};
use crate::spec::Reason;

/// A worker that has said nothing for this long, not even that it is there, is lost.
const SILENCE: Duration = Duration::from_mins(2);
/// How often a request that is under way looks for a cancellation.
const LOOK: Duration = Duration::from_millis(200);
/// How long the engine may take to tell how a worker has ended.
const ENDING: Duration = Duration::from_secs(5);

/// A worker that can be asked.
pub struct Line {
    id: String,
    told: UnboundedSender<Told>,
    heard: UnboundedReceiver<Heard>,
    tasks: [JoinHandle<()>; 2],
}

enum Heard {
    Said(Saying),
    Ended(String),
}

impl Line {
    /// Attaches to a container that has been made and starts it.
    pub async fn begin(docker: &Docker, id: String) -> Result<Self, Failure> {
        let options = AttachContainerOptionsBuilder::new()
            .stdin(true)
            .stdout(true)
            .stderr(true)
            .stream(true)
            .build();
        let attaching = docker.attach_container(&id, Some(options));
        let pipe = limited("attach to the worker", ANSWER, attaching).await?;
        failpoint::hit("docker.worker-attached");
        let (told, orders) = unbounded_channel();
        let (sayings, heard) = unbounded_channel();
        let tasks = [
            tokio::spawn(speak(pipe.input, orders)),
            tokio::spawn(listen(docker.clone(), id.clone(), pipe.output, sayings)),
        ];
        // From here on the pipe is closed when this is dropped.
        let line = Self { id, told, heard, tasks };
        let starting = docker.start_container(&line.id, None::<StartContainerOptions>);
        limited("start the worker", ANSWER, starting).await?;
        failpoint::hit("docker.worker-started");
        Ok(line)
    }

    /// The worker's container.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whether it is still there, as far as it can be told without asking.
    pub fn is_open(&self) -> bool {
        !self.tasks.iter().any(JoinHandle::is_finished)
    }

    /// Asks for one thing and waits for the answer. The outer error is a lost worker.
    pub async fn ask(
        &mut self,
        mission: Mission,
        request: Request,
        interruptible: bool,
        handles: &Handles,
    ) -> Result<Result<Value, Failure>, Failure> {
        let id = request.id.clone();
        // A send that fails has a listener that knows why.
        let _ = self.told.send(Told::Ask { mission: Box::new(mission), request });
        let (mut cancelled, mut last) = (false, Instant::now());
        loop {
            let heard = tokio::select! {
                heard = self.heard.recv() => heard,
                () = tokio::time::sleep(LOOK) => {
                    if interruptible && !cancelled && handles.cancel.is_cancelled() {
                        cancelled = true;
                        let _ = self.told.send(Told::Cancel);
                    }
                    if last.elapsed() > SILENCE {
                        let seconds = SILENCE.as_secs();
                        return Err(lost(&format!("it has said nothing for {seconds} s")));
                    }
                    continue;
                }
            };
            last = Instant::now();
            match heard {
                Some(Heard::Said(said)) => {
                    if let Some(answer) = said.answers(&id) {
                        return Ok(answer);
                    }
                    match said {
                        Saying::Progress { entries, bytes, total } => {
                            handles.progress.phase("worker");
                            handles.progress.total(0, total);
                            handles.progress.advance(entries, bytes);
                        }
                        Saying::Read => handles.progress.all_read(),
                        _ => {}
                    }
                }
                Some(Heard::Ended(how)) => return Err(lost(&how)),
                None => return Err(lost("its connection was cut")),
            }
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn lost(how: &str) -> Failure {
    Failure::new(Reason::MoverLost, format!("the worker that reaches the data was lost: {how}"))
}

/// Writes what the worker is told, and now and then that somebody is there.
async fn speak(
    mut input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
    mut orders: UnboundedReceiver<Told>,
) {
    loop {
        let told = tokio::select! {
            told = orders.recv() => match told {
                Some(told) => told,
                None => return,
            },
            () = tokio::time::sleep(SIGN_OF_LIFE) => Told::Alive,
        };
        let mut line = serde_json::to_vec(&told).unwrap_or_default();
        line.push(b'\n');
        if input.write_all(&line).await.is_err() || input.flush().await.is_err() {
            return;
        }
    }
}

/// Reads what the worker says until it ends, and says how.
async fn listen(
    docker: Docker,
    id: String,
    mut output: std::pin::Pin<
        Box<dyn futures_util::Stream<Item = Result<LogOutput, bollard::errors::Error>> + Send>,
    >,
    sayings: UnboundedSender<Heard>,
) {
    let (mut rest, mut complaints) = (Vec::new(), Tail::default());
    let mut cut = None;
    while let Some(piece) = output.next().await {
        match piece {
            Ok(LogOutput::StdErr { message }) => complaints.push(&message),
            Ok(other) => {
                rest.extend_from_slice(&other.into_bytes());
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    if let Some(said) = Saying::from_line(&String::from_utf8_lossy(&line))
                        && sayings.send(Heard::Said(said)).is_err()
                    {
                        return;
                    }
                }
            }
            Err(error) => {
                cut = Some(error.to_string());
                break;
            }
        }
    }
    let mut how = match cut {
        Some(error) => format!("its connection was cut: {error}"),
        None => ending(&docker, &id).await,
    };
    if !complaints.text().is_empty() {
        how = format!("{how}; it wrote: {}", complaints.text());
    }
    let _ = sayings.send(Heard::Ended(how));
}

/// How a container has ended that removes itself, if the engine still knows.
async fn ending(docker: &Docker, id: &str) -> String {
    let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
    let mut waiting = docker.wait_container(id, Some(options));
    match tokio::time::timeout(ENDING, waiting.next()).await {
        Ok(Some(Ok(answer))) => code(answer.status_code),
        Ok(Some(Err(bollard::errors::Error::DockerContainerWaitError { code: found, .. }))) => {
            code(found)
        }
        _ => "it has ended".to_owned(),
    }
}

fn code(code: i64) -> String {
    match code {
        137 => "it was killed (out of memory, or by somebody)".to_owned(),
        code => format!("it has ended with code {code}"),
    }
}
