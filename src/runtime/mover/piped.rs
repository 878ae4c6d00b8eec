//! A mover at the end of a pipe: asked by lines of standard input, answering by lines of standard output.
//!
//! Its life is the pipe's: when whoever asks is gone, the engine closes the pipe, and the mover ends
//! whatever it does. Nothing it has done counts unless its answer was written down at the other end.

use std::collections::VecDeque;
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::process::Mover;
use super::{Mission, Request, SIGN_OF_LIFE, Saying, Surroundings, Told};
use crate::engine::Cancel;
use crate::runtime::host::HostRuntime;

/// One thing that was asked for.
type Asked = (Box<Mission>, Request);

/// Carries out what it is asked for until its standard input ends.
pub async fn run_piped(say: Arc<dyn Fn(&str) + Send + Sync>) {
    let (sender, receiver) = unbounded_channel();
    // A thread of its own, which nobody waits for: a read of standard input cannot be cut short.
    std::thread::spawn(move || listen(std::io::stdin().lock(), &sender));
    serve(receiver, say).await;
}

/// Passes on what is told, until the end of the input.
fn listen(input: impl BufRead, sender: &UnboundedSender<Told>) {
    for line in input.split(b'\n') {
        let Ok(line) = line else { return };
        match serde_json::from_slice(&line) {
            Ok(told) => {
                if sender.send(told).is_err() {
                    return;
                }
            }
            Err(error) => tracing::warn!("a line of standard input does not decode: {error}"),
        }
    }
}

async fn serve(mut told: UnboundedReceiver<Told>, say: Arc<dyn Fn(&str) + Send + Sync>) {
    let spoken = Arc::clone(&say);
    let alive = tokio::spawn(async move {
        loop {
            tokio::time::sleep(SIGN_OF_LIFE).await;
            spoken(&Saying::Alive.to_line());
        }
    });
    // One runtime for all requests: it holds the archive between being written and being sealed.
    let runtime = HostRuntime::default();
    let mut waiting = VecDeque::new();
    loop {
        let (mission, request) = match waiting.pop_front() {
            Some(next) => next,
            None => match told.recv().await {
                Some(Told::Ask { mission, request }) => (mission, request),
                Some(_) => continue,
                None => break,
            },
        };
        if !answer(&runtime, *mission, &request, (&mut told, &mut waiting), &say).await {
            break;
        }
    }
    alive.abort();
}

/// Carries out one request and says its outcome. False if whoever asked is gone.
async fn answer(
    runtime: &HostRuntime,
    mission: Mission,
    request: &Request,
    (told, waiting): (&mut UnboundedReceiver<Told>, &mut VecDeque<Asked>),
    say: &Arc<dyn Fn(&str) + Send + Sync>,
) -> bool {
    let stop = Cancel::new();
    let mut mover = Mover {
        runtime: runtime.clone(),
        journal: mission.journal.clone(),
        mission,
        outcomes: Vec::new(),
        surroundings: Surroundings {
            requests: PathBuf::new(),
            termination: PathBuf::new(),
            say: Arc::clone(say),
            stop: stop.clone(),
        },
    };
    let mut working = std::pin::pin!(mover.carry_out(request));
    let outcome = loop {
        tokio::select! {
            outcome = &mut working => break outcome,
            more = told.recv() => match more {
                Some(Told::Cancel) => stop.cancel(),
                Some(Told::Ask { mission, request }) => waiting.push_back((mission, request)),
                Some(Told::Alive) => {}
                None => {
                    stop.cancel();
                    return false;
                }
            },
        }
    };
    let id = request.id.clone();
    let said = match outcome {
        Ok(facts) => Saying::Done { id, facts },
        Err(failure) => Saying::Failed { id, failure },
    };
    say(&said.to_line());
    true
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::plan::StoreBinding;
    use crate::runtime::mover::Work;

    fn ask(id: &str, work: Work) -> Told {
        let store: StoreBinding = serde_json::from_value(serde_json::json!({
            "namespace": "n", "name": "main", "spec": {"local": {"path": "/nonexistent/store"}},
        }))
        .unwrap();
        let mission = Mission { job: None, journal: Vec::new(), store };
        let request = Request { id: id.to_owned(), work, again: false, journal: Vec::new() };
        Told::Ask { mission: Box::new(mission), request }
    }

    #[test]
    fn every_line_is_answered_in_turn_and_the_end_of_input_is_the_end() {
        let text: String = [
            serde_json::to_string(&ask("look.0", Work::Look)).unwrap(),
            "nonsense".to_owned(),
            serde_json::to_string(&Told::Alive).unwrap(),
            serde_json::to_string(&Told::Cancel).unwrap(),
            serde_json::to_string(&ask("look.1", Work::Look)).unwrap(),
        ]
        .join("\n");
        let (sender, receiver) = unbounded_channel();
        listen(std::io::Cursor::new(text), &sender);
        let said = Arc::new(Mutex::new(Vec::new()));
        // The input ends when both have been answered.
        let (heard, sender) = (Arc::clone(&said), Mutex::new(Some(sender)));
        let say = Arc::new(move |line: &str| {
            let mut heard = heard.lock().unwrap();
            heard.push(line.to_owned());
            if heard.len() == 2 {
                sender.lock().unwrap().take();
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(receiver, say));
        let said = said.lock().unwrap();
        let answers: Vec<Saying> = said.iter().filter_map(|line| Saying::from_line(line)).collect();
        assert_eq!(answers.len(), 2, "{said:?}");
        assert!(answers[0].answers("look.0").unwrap().is_err(), "it has no operation");
        assert!(answers[1].answers("look.1").is_some());
    }
}
