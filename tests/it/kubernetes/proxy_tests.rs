//! The fault proxy against a real API server: each fault does what it says, and nothing else.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{
    AttachParams, DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;

use super::cluster::{Cluster, Namespace, PATIENCE};
use super::proxy::{Exchange, Fault, Gone, Proxy};

/// A namespace, and a client that reaches it through a proxy.
struct Scene {
    cluster: Cluster,
    namespace: Namespace,
    proxy: Proxy,
    client: Client,
    runtime: Runtime,
}

impl Scene {
    fn new(faults: Vec<Fault>) -> Option<Self> {
        let cluster = Cluster::connect()?;
        let namespace = cluster.namespace("kit-proxy");
        let proxy = Proxy::start(&cluster, faults);
        let runtime = Runtime::new().unwrap();
        let client = runtime.block_on(async {
            let kubeconfig = Kubeconfig::read_from(proxy.kubeconfig()).unwrap();
            let options = KubeConfigOptions::default();
            let configuration = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
            Client::try_from(configuration.unwrap()).unwrap()
        });
        Some(Self { cluster, namespace, proxy, client, runtime })
    }

    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Runs to the end, or fails the test when there is none.
    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let limited = async { tokio::time::timeout(PATIENCE, future).await };
        self.runtime.block_on(limited).expect("the proxy answers in time")
    }

    /// Creates a ConfigMap through the proxy.
    fn create(&self, name: &str) -> Result<(), kube::Error> {
        let maps = self.maps();
        self.run(async { maps.create(&PostParams::default(), &map(name)).await.map(drop) })
    }

    /// The ConfigMaps that a client past the proxy sees.
    fn there(&self) -> String {
        let query = "jsonpath={.items[?(@.metadata.labels.kit)].metadata.name}";
        self.cluster.kubectl(&["-n", &self.namespace, "get", "configmaps", "-o", query])
    }

    /// Where a ConfigMap is on the server.
    fn path(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/configmaps/{name}", self.namespace)
    }

    /// The names of `events` events of a watch from the beginning, while `cause` happens.
    fn watched(&self, events: usize, cause: impl FnOnce()) -> Vec<String> {
        let maps = self.maps();
        let parameters = WatchParams::default().labels("kit").timeout(60);
        let mut stream = Box::pin(self.run(maps.watch(&parameters, "0")).unwrap());
        cause();
        self.run(async {
            let mut names = Vec::new();
            while names.len() < events {
                match stream.next().await.expect("the watch goes on").unwrap() {
                    WatchEvent::Added(map) => names.push(map.metadata.name.unwrap()),
                    WatchEvent::Deleted(map) => {
                        names.push(format!("-{}", map.metadata.name.unwrap()));
                    }
                    WatchEvent::Bookmark(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            names
        })
    }
}

fn map(name: &str) -> ConfigMap {
    let map = json!({"metadata": {"name": name, "labels": {"kit": "yes"}}, "data": {"a": "b"}});
    serde_json::from_value(map).unwrap()
}

/// The code of an answer that refuses.
fn code(result: Result<(), kube::Error>) -> Option<u16> {
    match result {
        Err(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

/// What became of each counted write.
fn answers(proxy: &Proxy) -> Vec<(Option<usize>, Option<u16>, Option<u16>)> {
    let writes = proxy.writes();
    writes.iter().map(|write| (write.number, write.server, write.told)).collect()
}

#[test]
fn what_is_written_is_forwarded_counted_and_recorded() {
    let Some(scene) = Scene::new(vec![]) else { return };
    let maps = scene.maps();
    scene.create("one").unwrap();
    let patch = Patch::Apply(json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "one"}, "data": {"c": "d"},
    }));
    let apply = PatchParams::apply("kit").force();
    scene.run(maps.patch("one", &apply, &patch)).unwrap();
    scene.run(maps.patch("one", &apply, &patch)).unwrap();
    assert_eq!(code(scene.create("one")), Some(409));
    scene.run(maps.get("one")).unwrap();
    // What happens by the clock is forwarded, and not numbered.
    let kubeconfig = scene.proxy.kubeconfig();
    let lease = format!(
        "apiVersion: coordination.k8s.io/v1\nkind: Lease\n\
         metadata: {{name: l, namespace: {}}}\nspec: {{}}\n",
        scene.namespace
    );
    let to_proxy = ["--kubeconfig", kubeconfig.to_str().unwrap()];
    let arguments = [&to_proxy[..], &["apply", "--validate=false", "-f", "-"]].concat();
    scene.cluster.kubectl_reading(&arguments, &lease).unwrap();
    scene.run(maps.delete("one", &DeleteParams::default())).unwrap();

    let created = Some(201);
    let done = Some(200);
    assert_eq!(
        answers(&scene.proxy),
        [
            (Some(1), created, created),
            (Some(2), done, done),
            (Some(3), done, done),
            (Some(4), Some(409), Some(409)),
            (Some(5), done, done),
        ]
    );
    let path = scene.path("one");
    let counts: Vec<(String, usize)> = scene.proxy.count_by_object().into_iter().collect();
    let expected = [("DELETE", 1), ("PATCH", 2), ("POST", 1)];
    assert_eq!(counts, expected.map(|(method, count)| (format!("{method} {path}"), count)));
    assert_eq!(scene.proxy.writes()[1].content["data"]["c"], "d");
    let requests = scene.proxy.requests();
    let leases =
        |exchange: &&Exchange| exchange.object.ends_with("/leases/l") && exchange.method == "POST";
    let lease = requests.iter().find(leases).expect("the lease was written");
    assert_eq!((lease.number, lease.server), (None, created));
    assert!(requests.iter().any(|exchange| exchange.method == "GET" && exchange.object == path));
    let applied = |exchange: &&Exchange| exchange.uri.contains("fieldManager=kit");
    assert_eq!(requests.iter().filter(applied).count(), 2);

    scene.proxy.reset(vec![Fault::FailWrite(1)]);
    assert!(scene.proxy.requests().is_empty());
    assert_eq!(code(scene.create("two")), Some(500));
}

#[test]
fn a_failed_write_does_not_reach_the_server() {
    let Some(scene) = Scene::new(vec![Fault::FailWrite(2)]) else { return };
    scene.create("one").unwrap();
    let answer = scene.create("two");
    let Err(kube::Error::Api(status)) = &answer else { panic!("{answer:?}") };
    assert_eq!((status.code, status.reason.as_str()), (500, "InternalError"));
    scene.create("three").unwrap();
    assert_eq!(scene.there(), "one three");
    assert_eq!(answers(&scene.proxy)[1], (Some(2), None, Some(500)));
    assert_eq!(scene.proxy.count_by_object().len(), 2);
}

#[test]
fn a_conflicting_write_does_not_reach_the_server() {
    let Some(scene) = Scene::new(vec![Fault::ConflictWrite(1)]) else { return };
    let answer = scene.create("one");
    let Err(kube::Error::Api(status)) = &answer else { panic!("{answer:?}") };
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    assert_eq!(scene.there(), "");
    scene.create("one").unwrap();
    assert_eq!(scene.there(), "one");
}

#[test]
fn a_lost_answer_is_to_a_write_that_happened() {
    let Some(scene) = Scene::new(vec![Fault::DropAnswer(2)]) else { return };
    scene.create("one").unwrap();
    let answer = scene.create("two");
    assert!(
        matches!(answer, Err(kube::Error::HyperError(_) | kube::Error::Service(_))),
        "{answer:?}"
    );
    assert_eq!(scene.there(), "one two");
    assert_eq!(code(scene.create("two")), Some(409));
    assert_eq!(
        answers(&scene.proxy)[1..],
        [(Some(2), Some(201), None), (Some(3), Some(409), Some(409)),]
    );
}

#[test]
fn a_delayed_write_arrives_later_than_one_that_was_sent_after_it() {
    let late = Duration::from_secs(2);
    let Some(scene) = Scene::new(vec![Fault::Delay(1, late)]) else { return };
    let maps = scene.maps();
    let begin = Instant::now();
    let delayed = scene
        .runtime
        .spawn(async move { maps.create(&PostParams::default(), &map("late")).await.map(drop) });
    scene
        .cluster
        .wait("the first write", PATIENCE, || (scene.proxy.writes().len() == 1).then_some(()));
    scene.create("soon").unwrap();
    scene.run(delayed).unwrap().unwrap();
    assert!(begin.elapsed() >= late);
    let maps =
        scene.run(scene.maps().list(&kube::api::ListParams::default().labels("kit"))).unwrap();
    let version = |name: &str| -> u64 {
        let found = maps.items.iter().find(|map| map.metadata.name.as_deref() == Some(name));
        found.unwrap().metadata.resource_version.as_ref().unwrap().parse().unwrap()
    };
    assert!(version("soon") < version("late"));
}

#[test]
fn the_moment_to_kill_is_after_the_write_and_before_its_answer() {
    let Some(scene) = Scene::new(vec![]) else { return };
    let killed = Arc::new(AtomicBool::new(false));
    let kill = {
        let (cluster, namespace) = (scene.cluster.clone(), scene.namespace.to_string());
        let killed = killed.clone();
        move || {
            let there = cluster.object(&namespace, "configmap", "one").is_some();
            let next = cluster.object(&namespace, "configmap", "two").is_some();
            killed.store(there && !next, Ordering::SeqCst);
        }
    };
    scene.proxy.reset(vec![Fault::KillAt(1, Arc::new(kill))]);
    scene.create("one").unwrap();
    assert!(killed.load(Ordering::SeqCst));
    scene.create("two").unwrap();
    assert_eq!(scene.there(), "one two");
}

#[test]
fn a_server_that_is_away_breaks_watches_and_comes_back() {
    let Some(scene) = Scene::new(vec![Fault::Away(2, Duration::from_secs(3))]) else { return };
    scene.create("one").unwrap();
    let maps = scene.maps();
    let parameters = WatchParams::default().labels("kit").timeout(60);
    let mut stream = Box::pin(scene.run(maps.watch(&parameters, "0")).unwrap());
    scene.run(stream.next()).unwrap().unwrap();

    assert_eq!(code(scene.create("two")), None);
    // The stream ends by an error or just so; what it does not do is go on.
    let next = scene.run(stream.next());
    assert!(!matches!(next, Some(Ok(_))), "{next:?}");
    assert!(scene.create("three").is_err());
    assert_eq!(scene.there(), "one");
    scene.cluster.wait("the server to be back", PATIENCE, || scene.create("four").ok());
    assert_eq!(scene.there(), "four one");
    assert_eq!(answers(&scene.proxy)[1], (Some(2), None, None));

    // At any other moment, and until the test has seen enough.
    scene.proxy.leave(PATIENCE);
    assert!(scene.create("five").is_err());
    scene.proxy.reset(vec![]);
    scene.create("six").unwrap();
    assert_eq!(scene.there(), "four one six");
}

#[test]
fn hidden_events_are_never_seen_and_the_next_ones_are() {
    let events = 2..4;
    let Some(scene) = Scene::new(vec![Fault::HideWatchEvents { of: "/configmaps", events }]) else {
        return;
    };
    let names = scene.watched(3, || {
        for name in ["a", "b", "c", "d", "e"] {
            scene.create(name).unwrap();
        }
    });
    assert_eq!(names, ["a", "d", "e"]);
    let copies: Vec<(String, usize)> = scene
        .proxy
        .events("/configmaps")
        .into_iter()
        .map(|event| (event.name, event.copies))
        .collect();
    let expected = [("a", 1), ("b", 0), ("c", 0), ("d", 1), ("e", 1)];
    assert_eq!(copies, expected.map(|(name, copies)| (name.to_owned(), copies)));
    assert!(scene.proxy.events("/pods").is_empty());
}

#[test]
fn repeated_events_are_seen_twice() {
    let Some(scene) = Scene::new(vec![Fault::RepeatWatchEvents { of: "" }]) else { return };
    let names = scene.watched(6, || {
        scene.create("a").unwrap();
        scene.create("b").unwrap();
        scene.run(scene.maps().delete("a", &DeleteParams::default())).unwrap();
    });
    assert_eq!(names, ["a", "a", "b", "b", "-a", "-a"]);
    let events = scene.proxy.events("/configmaps");
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["ADDED", "ADDED", "DELETED"]);
}

#[test]
fn delayed_events_are_seen_late_and_in_order() {
    let by = Duration::from_secs(2);
    let fault = Fault::DelayWatchEvents { of: "/configmaps", events: 1..2, by };
    let Some(scene) = Scene::new(vec![fault]) else { return };
    let begin = Instant::now();
    let names = scene.watched(2, || {
        scene.create("a").unwrap();
        scene.create("b").unwrap();
    });
    assert_eq!(names, ["a", "b"]);
    assert!(begin.elapsed() >= by);
}

#[test]
fn a_watch_is_told_in_both_ways_that_it_is_too_old() {
    let gone = |watch, how| Fault::GoneWatch { of: "/configmaps", watch, how };
    let faults = vec![gone(1, Gone::Event), gone(2, Gone::Status)];
    let Some(scene) = Scene::new(faults) else { return };
    let maps = scene.maps();
    let parameters = WatchParams::default().labels("kit").timeout(60);
    // Another watch is not counted.
    let pods: Api<Pod> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let _pods = scene.run(pods.watch(&parameters, "0")).unwrap();

    let mut stream = Box::pin(scene.run(maps.watch(&parameters, "0")).unwrap());
    let event = scene.run(stream.next());
    assert!(
        matches!(&event, Some(Ok(WatchEvent::Error(status))) if status.code == 410),
        "{event:?}"
    );
    assert!(scene.run(stream.next()).is_none());
    match scene.run(maps.watch(&parameters, "0")) {
        Err(kube::Error::Api(status)) => assert_eq!(status.code, 410),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the second watch is not refused"),
    }
    assert_eq!(scene.watched(1, || scene.create("a").unwrap()), ["a"]);
}

#[test]
fn streams_into_pods_pass_the_proxy() {
    let Some(scene) = Scene::new(vec![]) else { return };
    scene.cluster.apply(
        &scene.namespace,
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: sleeper}}\nspec:\n  \
             terminationGracePeriodSeconds: 0\n  containers: [{{name: main, image: '{}', \
             imagePullPolicy: IfNotPresent, command: [sleep, '1000']}}]\n",
            scene.cluster.busybox()
        ),
    );
    scene.cluster.wait("the pod to run", PATIENCE, || {
        let pod = scene.cluster.object(&scene.namespace, "pod", "sleeper")?;
        (pod["status"]["phase"] == "Running").then_some(())
    });
    let pods: Api<Pod> = Api::namespaced(scene.client.clone(), &scene.namespace);
    let said = scene.run(async {
        let parameters = AttachParams::default();
        let command = ["sh", "-c", "echo from inside"];
        let mut process = pods.exec("sleeper", command, &parameters).await.unwrap();
        let mut said = String::new();
        process.stdout().unwrap().read_to_string(&mut said).await.unwrap();
        process.join().await.unwrap();
        said
    });
    assert_eq!(said, "from inside\n");
    assert_eq!(scene.proxy.writes().len(), 0);
}
