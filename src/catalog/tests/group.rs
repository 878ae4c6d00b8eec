//! Requests that wait together are committed together, and each is answered as if it had been alone.

use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::catalog::actor::{self, Message};
use crate::catalog::group::{self, Queue};
use crate::catalog::store::Store;
use crate::catalog::{migration, open};

type Answer = oneshot::Receiver<Result<Reply, CatalogError>>;

fn store(path: &Path) -> Store {
    let claim = open::Claim::new(path).unwrap();
    let (connection, _) = open::open(path, &options(), migration::MIGRATIONS).unwrap();
    Store::new(connection, path.to_owned(), claim)
}

fn message(request: Request) -> (Message, Answer) {
    let (reply, answer) = oneshot::channel();
    (Message { request, reply }, answer)
}

fn line(number: usize) -> Request {
    Request::AppendJournal(entry("nightly", &format!("step-{number}"), Mark::Done))
}

/// The database takes no such path into a document.
fn refused() -> Request {
    Request::Labelled {
        kind: "Backup".to_owned(),
        namespace: "shop".to_owned(),
        label: "a\"b".to_owned(),
        value: "c".to_owned(),
    }
}

/// Requests that wait in a channel which nobody else writes to any more, and their answers.
fn waiting(requests: Vec<Request>) -> (mpsc::Receiver<Message>, Vec<Answer>) {
    let (sender, receiver) = mpsc::channel(requests.len());
    let (messages, answers): (Vec<_>, Vec<_>) = requests.into_iter().map(message).unzip();
    for message in messages {
        sender.try_send(message).unwrap_or_else(|_| panic!("the channel has room for all"));
    }
    (receiver, answers)
}

#[test]
fn only_small_requests_wait_for_one_another() {
    let mut requests: Vec<Request> = (0..5).map(line).collect();
    requests.push(Request::Checkpoint);
    requests.push(Request::Checkpoint);
    requests.extend((5..75).map(line));
    let (receiver, _answers) = waiting(requests);
    let mut queue = Queue::new(receiver);
    let sizes = std::iter::from_fn(|| queue.take()).map(|group| group.len());
    assert_eq!(sizes.collect::<Vec<_>>(), [5, 1, 1, 64, 6]);
}

#[test]
fn a_group_is_written_whole_or_not_at_all() {
    let (_directory, path) = place();
    let mut store = store(&path);
    let (lines, _answers): (Vec<_>, Vec<_>) = (0..3).map(line).map(message).unzip();
    let replies = group::answers(&mut store, &lines).unwrap();
    assert_eq!(replies, [Reply::Id(1), Reply::Id(2), Reply::Id(3)]);
    let (bad, _answers): (Vec<_>, Vec<_>) =
        [line(3), refused(), line(4)].into_iter().map(message).unzip();
    assert_eq!(group::answers(&mut store, &bad), None);
    assert_eq!(store.number("SELECT count(*) FROM operation_journal").unwrap(), 3);
    let next = actor::answer(&mut store, line(5)).unwrap();
    assert_eq!(next, Reply::Id(4), "a number is free again when its row is not there after all");
}

#[test]
fn one_that_fails_in_a_group_fails_alone() {
    let (_directory, path) = place();
    let (receiver, answers) =
        waiting(vec![line(0), refused(), line(1), Request::Journal(operation())]);
    let store = store(&path);
    actor::run(store, receiver, &tokio::sync::watch::channel(None).0);
    let answers: Vec<_> =
        answers.into_iter().map(|answer| answer.blocking_recv().unwrap()).collect();
    assert_eq!(answers[0].as_ref().unwrap(), &Reply::Id(1));
    answers[1].as_ref().unwrap_err();
    assert_eq!(answers[2].as_ref().unwrap(), &Reply::Id(2));
    let Reply::Journal(lines) = answers[3].as_ref().unwrap() else { panic!("{:?}", answers[3]) };
    assert_eq!(lines.len(), 2, "what was asked for later sees what was written before");
}

#[test]
fn a_row_is_rewritten_several_times_in_one_group() {
    let (_directory, path) = place();
    let task = |missed| {
        let name = "nightly".to_owned();
        Request::PutScheduledTask(Box::new(ScheduledTask {
            task_name: name,
            missed_runs: missed,
            created_at: at(0),
            ..ScheduledTask::default()
        }))
    };
    let mut requests: Vec<Request> = (0..20).map(task).collect();
    requests.push(Request::ScheduledTasks);
    let (messages, _answers): (Vec<_>, Vec<_>) = requests.into_iter().map(message).unzip();
    let mut store = store(&path);
    let replies = group::answers(&mut store, &messages).unwrap();
    let Some(Reply::ScheduledTasks(tasks)) = replies.last() else { panic!("{replies:?}") };
    assert_eq!(tasks.iter().map(|task| task.missed_runs).collect::<Vec<_>>(), [19]);
}

fn operation() -> crate::plan::OperationId {
    "Backup/shop/nightly/1".parse().unwrap()
}
