//! A proxy between the operator and the API server that fails exactly where it is told to, in the
//! manner of Sieve (OSDI '22): the k-th write is failed, its answer is lost, the operator is killed
//! right after it; events of a watch are hidden, repeated or late. What was asked and written is
//! recorded, so that a run can be compared with an undisturbed one. May not call the library.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::cluster::Cluster;
use super::forward;

/// What goes wrong. Writes, watches and events are numbered from 1, anew after each reset; `of` is
/// what the watch's path ends with, such as `/pods`, and only such watches are counted.
#[derive(Clone)]
pub enum Fault {
    /// This write is answered 500 and does not reach the server.
    FailWrite(usize),
    /// This write is answered 409 and does not reach the server.
    ConflictWrite(usize),
    /// Every status of an object of ours is answered 403, as if the permission was taken away.
    ForbidStatuses,
    /// This write reaches the server, and then the connection breaks: a retry is a second write.
    DropAnswer(usize),
    /// This write reaches the server, and nothing is ever heard of it: the connection stays.
    Silence(usize),
    /// This log that is followed, counted from 1, is opened, and nothing comes out of it.
    SilentLog(usize),
    /// This write reaches the server late.
    Delay(usize, Duration),
    /// After this write reached the server, and before its answer: for killing the operator.
    KillAt(usize, Arc<dyn Fn() + Send + Sync>),
    /// Just before this write all connections break, and new ones do for a while.
    Away(usize, Duration),
    /// These events never arrive.
    HideWatchEvents { of: &'static str, events: Range<usize> },
    /// Every event arrives twice.
    RepeatWatchEvents { of: &'static str },
    /// These events, and so what comes behind them, are late, each by this.
    DelayWatchEvents { of: &'static str, events: Range<usize>, by: Duration },
    /// This watch is told that its resource version is too old.
    GoneWatch { of: &'static str, watch: usize, how: Gone },
}

/// The two ways in which a server says that a watch cannot go on from where it was.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Status 200, and an `ERROR` event with code 410.
    Event,
    /// Status 410.
    Status,
}

/// A request, and what became of it.
#[derive(Clone, Debug)]
pub struct Exchange {
    pub method: String,
    /// The path and query.
    pub uri: String,
    /// The path of the object; that of an object to create ends with its name, or with
    /// `GENERATENAME*`, and that of a patch of the status with `/status`.
    pub object: String,
    /// The number among the counted writes.
    pub number: Option<usize>,
    /// What a write has written.
    pub content: Value,
    /// What the server answered, nothing if it was not asked.
    pub server: Option<u16>,
    /// What the client was told, nothing if its connection broke.
    pub told: Option<u16>,
}

/// An event of a watch that the server sent; bookmarks are not counted.
#[derive(Clone, Debug)]
pub struct Event {
    /// The path of the watch.
    pub path: String,
    /// `ADDED`, `MODIFIED`, `DELETED`, `ERROR`.
    pub kind: String,
    /// The object's name.
    pub name: String,
    /// How often it was handed on.
    pub copies: usize,
}

/// Which writes are numbered: told the method and the path.
pub type Filter = dyn Fn(&str, &str) -> bool + Send + Sync;

/// A running proxy; it ends when it goes out of scope.
pub struct Proxy {
    runtime: Option<Runtime>,
    state: Arc<State>,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Proxy {
    /// Starts a proxy that numbers the writes which [`matter`].
    pub fn start(cluster: &Cluster, faults: Vec<Fault>) -> Self {
        Self::counting(cluster, faults, matter)
    }

    /// Starts a proxy that numbers the writes of the filter's choice.
    pub fn counting(
        cluster: &Cluster,
        faults: Vec<Fault>,
        filter: impl Fn(&str, &str) -> bool + Send + Sync + 'static,
    ) -> Self {
        let runtime = Runtime::new().unwrap();
        let kubeconfig = Kubeconfig::read_from(cluster.kubeconfig()).unwrap();
        let (state, listener) = runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let mut configuration =
                kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
            // How long a watch may be silent is between the client and the server.
            configuration.read_timeout = None;
            configuration.write_timeout = None;
            let state = State {
                client: kube::Client::try_from(configuration).unwrap(),
                filter: Box::new(filter),
                away: watch::Sender::new(false),
                record: Mutex::new(Record::new(faults)),
            };
            (Arc::new(state), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap())
        });
        let address = listener.local_addr().unwrap();
        runtime.spawn(forward::serve(state.clone(), listener));
        let directory = tempfile::tempdir().unwrap();
        let proxy = Self { runtime: Some(runtime), state, address, directory };
        std::fs::write(proxy.kubeconfig(), proxy.configuration()).unwrap();
        proxy
    }

    fn configuration(&self) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: proxy\n\
             clusters: [{{name: proxy, cluster: {{server: \"http://{}\"}}}}]\n\
             users: [{{name: proxy, user: {{}}}}]\n\
             contexts: [{{name: proxy, context: {{cluster: proxy, user: proxy}}}}]\n",
            self.address
        )
    }

    /// A kubeconfig that leads to the proxy.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// Forgets what was recorded, numbers from 1 again and has these faults from now on. A server that
    /// is away comes back.
    pub fn reset(&self, faults: Vec<Fault>) {
        let mut record = self.state.record();
        if let Some(returning) = record.returning.take() {
            returning.abort();
        }
        let next = record.next;
        // The numbers of exchanges go on: one of before the reset must not be taken for another.
        *record = Record { next, ..Record::new(faults) };
        drop(record);
        self.state.away.send_replace(false);
    }

    /// Breaks all connections now, and new ones for a while.
    pub fn leave(&self, duration: Duration) {
        let runtime = self.runtime.as_ref().unwrap();
        let _guard = runtime.enter();
        self.state.leave(duration);
    }

    /// All requests, in the order in which they came.
    pub fn requests(&self) -> Vec<Exchange> {
        self.state.record().exchanges.values().cloned().collect()
    }

    /// The counted writes.
    pub fn writes(&self) -> Vec<Exchange> {
        let mut requests = self.requests();
        requests.retain(|exchange| exchange.number.is_some());
        requests
    }

    /// How often the server has carried out a counted write of an object, by `METHOD PATH`. This is
    /// what a disturbed run has to have in common with an undisturbed one, but for the write that was
    /// disturbed.
    pub fn count_by_object(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for write in self.writes() {
            if write.server.is_some_and(|status| status < 400) {
                *counts.entry(format!("{} {}", write.method, write.object)).or_default() += 1;
            }
        }
        counts
    }

    /// How many logs were followed.
    pub fn logs(&self) -> usize {
        self.state.logs()
    }

    /// The events of watches whose path has this part.
    pub fn events(&self, of: &str) -> Vec<Event> {
        let mut events = self.state.record().events.clone();
        events.retain(|event| event.path.contains(of));
        events
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Whether a write is one of those that an operation consists of: not the ones that happen by the
/// clock (leases), tell (events) or only ask (reviews, streams into pods).
pub fn matter(_method: &str, path: &str) -> bool {
    let apart = ["/coordination.k8s.io/", "/events", "/authentication.k8s.io/"];
    let asking = ["/authorization.k8s.io/", "/exec", "/attach", "/portforward"];
    !apart.iter().chain(&asking).any(|part| path.contains(part))
}

/// What the connections share.
pub struct State {
    pub client: kube::Client,
    pub filter: Box<Filter>,
    /// Whether the server is away; everybody with a connection looks at it.
    pub away: watch::Sender<bool>,
    record: Mutex<Record>,
}

/// What happened since the last reset.
pub struct Record {
    faults: Vec<Fault>,
    exchanges: BTreeMap<u64, Exchange>,
    next: u64,
    writes: usize,
    /// The logs that were followed.
    logs: usize,
    /// The paths of watches, in order.
    watches: Vec<String>,
    events: Vec<Event>,
    /// Brings the server back.
    returning: Option<JoinHandle<()>>,
}

impl Record {
    fn new(faults: Vec<Fault>) -> Self {
        Self {
            faults,
            exchanges: BTreeMap::new(),
            next: 0,
            writes: 0,
            logs: 0,
            watches: Vec::new(),
            events: Vec::new(),
            returning: None,
        }
    }
}

impl State {
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap()
    }

    /// Notes a request, with its number if it is a counted write. Gives its identity, and the faults
    /// of this write.
    pub fn begin(&self, mut exchange: Exchange, path: &str) -> (u64, Vec<Fault>) {
        let mut record = self.record();
        let mut faults = Vec::new();
        let writes = ["POST", "PUT", "PATCH", "DELETE"].contains(&exchange.method.as_str());
        if writes && (self.filter)(&exchange.method, path) {
            record.writes += 1;
            let number = record.writes;
            exchange.number = Some(number);
            let of_this = |fault: &&Fault| match fault {
                Fault::FailWrite(write)
                | Fault::ConflictWrite(write)
                | Fault::DropAnswer(write)
                | Fault::Silence(write)
                | Fault::Delay(write, _)
                | Fault::KillAt(write, _)
                | Fault::Away(write, _) => *write == number,
                Fault::ForbidStatuses => path.contains("/eider.dev/") && path.ends_with("/status"),
                Fault::HideWatchEvents { .. }
                | Fault::RepeatWatchEvents { .. }
                | Fault::DelayWatchEvents { .. }
                | Fault::SilentLog(_)
                | Fault::GoneWatch { .. } => false,
            };
            faults.extend(record.faults.iter().filter(of_this).cloned());
        }
        let identity = record.next;
        record.next += 1;
        record.exchanges.insert(identity, exchange);
        (identity, faults)
    }

    /// Completes what is known of a request, unless a reset has forgotten it.
    pub fn note(&self, identity: u64, note: impl FnOnce(&mut Exchange)) {
        if let Some(exchange) = self.record().exchanges.get_mut(&identity) {
            note(exchange);
        }
    }

    /// Notes that a log is followed, and says whether it stays silent.
    pub fn log(&self) -> bool {
        let mut record = self.record();
        record.logs += 1;
        let number = record.logs;
        record.faults.iter().any(|fault| matches!(fault, Fault::SilentLog(log) if *log == number))
    }

    /// How many logs were followed.
    pub fn logs(&self) -> usize {
        self.record().logs
    }

    /// Notes a watch, and says whether it is to be told that it is too old.
    pub fn watch(&self, path: &str) -> Option<Gone> {
        let mut record = self.record();
        record.watches.push(path.to_owned());
        record.faults.iter().find_map(|fault| match fault {
            Fault::GoneWatch { of, watch, how } if path.ends_with(of) => {
                let number = record.watches.iter().filter(|path| path.ends_with(of)).count();
                (number == *watch).then_some(*how)
            }
            _ => None,
        })
    }

    /// Notes an event, and says how often it is to be handed on and how late.
    pub fn event(&self, path: &str, kind: &str, name: &str) -> (usize, Duration) {
        let mut record = self.record();
        let event = Event {
            path: path.to_owned(),
            kind: kind.to_owned(),
            name: name.to_owned(),
            copies: 1,
        };
        record.events.push(event);
        let (mut copies, mut late) = (1, Duration::ZERO);
        for fault in &record.faults {
            let number =
                |of| record.events.iter().filter(|event| event.path.ends_with::<&str>(of)).count();
            match fault {
                Fault::HideWatchEvents { of, events }
                    if path.ends_with(of) && events.contains(&number(of)) =>
                {
                    copies = 0;
                }
                Fault::RepeatWatchEvents { of } if path.ends_with(of) => copies *= 2,
                Fault::DelayWatchEvents { of, events, by }
                    if path.ends_with(of) && events.contains(&number(of)) =>
                {
                    late += *by;
                }
                _ => {}
            }
        }
        if let Some(event) = record.events.last_mut() {
            event.copies = copies;
        }
        (copies, late)
    }

    /// The server is away for so long.
    pub fn leave(self: &Arc<Self>, duration: Duration) {
        let state = self.clone();
        let returning = tokio::spawn(async move {
            tokio::time::sleep(duration).await;
            state.away.send_replace(false);
        });
        self.record().returning = Some(returning);
        self.away.send_replace(true);
    }
}

/// The object that a request is about, see [`Exchange::object`].
pub fn object(method: &str, path: &str, content: &Value) -> String {
    let mut rest = path.trim_start_matches('/').split('/');
    // `api/v1` or `apis/GROUP/VERSION`.
    let skipped = if rest.next() == Some("apis") { 2 } else { 1 };
    let rest: Vec<&str> = rest.skip(skipped).collect();
    let rest = if rest.len() > 2 && rest[0] == "namespaces" { &rest[2..] } else { &rest[..] };
    if method != "POST" || rest.len() != 1 {
        return path.to_owned();
    }
    let metadata = &content["metadata"];
    match (metadata["name"].as_str(), metadata["generateName"].as_str()) {
        (Some(name), _) => format!("{path}/{name}"),
        (None, Some(prefix)) => format!("{path}/{prefix}*"),
        (None, None) => path.to_owned(),
    }
}

#[test]
fn objects_are_known_by_their_paths() {
    let named = serde_json::json!({"metadata": {"name": "a"}});
    let generated = serde_json::json!({"metadata": {"generateName": "a-"}});
    for (method, path, content, expected) in [
        ("POST", "/api/v1/namespaces/n/pods", &named, "/api/v1/namespaces/n/pods/a"),
        (
            "POST",
            "/apis/batch/v1/namespaces/n/jobs",
            &generated,
            "/apis/batch/v1/namespaces/n/jobs/a-*",
        ),
        ("POST", "/api/v1/namespaces", &named, "/api/v1/namespaces/a"),
        (
            "POST",
            "/api/v1/namespaces/n/pods/p/eviction",
            &named,
            "/api/v1/namespaces/n/pods/p/eviction",
        ),
        (
            "PATCH",
            "/api/v1/namespaces/n/pods/p/status",
            &named,
            "/api/v1/namespaces/n/pods/p/status",
        ),
    ] {
        assert_eq!(object(method, path, content), expected);
    }
}
