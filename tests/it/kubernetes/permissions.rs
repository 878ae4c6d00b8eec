//! The operator gets along with exactly the permissions of the generated list, and needs every one of
//! them: it works as a service account with these rules, and what it asks of the server is compared
//! with the list in both directions.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::cluster::{Cluster, PATIENCE};
use super::process::Operator;
use super::proxy::{Exchange, Proxy};
use super::removal;
use super::scene::{LONG, STOPS, Scene, service_image};
use super::waiting::waits;

/// An access as RBAC sees it: group, resource with its subresource, verb.
pub type Access = (String, String, String);

/// In the list, and not provoked here.
const ELSEWHERE: &[(&str, &str, &str, &str)] = &[
    ("events.k8s.io", "events", "patch", "an event that is repeated within six minutes"),
    ("eider.dev", "backupschedules", "get", "a status that servers of 1.20 refuse to apply"),
    ("eider.dev", "backupstores", "get", "a status that servers of 1.20 refuse to apply"),
    ("", "pods", "get", "the operator's own pod, for its image; here it is no pod"),
];

/// A kubeconfig of a service account.
fn kubeconfig_of(cluster: &Cluster, namespace: &str, account: &str, directory: &Path) -> Cluster {
    // Clusters from 1.24 on make no Secret by themselves, and those before cannot be asked.
    let asked = cluster.try_kubectl(&["-n", namespace, "create", "token", account]);
    let token = asked.unwrap_or_else(|_| {
        let encoded = cluster.wait("the token of the account", PATIENCE, || {
            let account = cluster.object(namespace, "serviceaccount", account)?;
            let secret = account["secrets"][0]["name"].as_str()?.to_owned();
            let secret = cluster.object(namespace, "secret", &secret)?;
            Some(secret["data"]["token"].as_str()?.to_owned())
        });
        let file = directory.join("token");
        std::fs::write(&file, encoded).unwrap();
        let output =
            std::process::Command::new("base64").arg("-d").arg(&file).output().unwrap().stdout;
        String::from_utf8(output).unwrap()
    });
    let mut view = cluster.json(&["config", "view", "--raw", "--flatten", "--minify"]);
    let user = view["contexts"][0]["context"]["user"].clone();
    view["users"] = json!([{"name": user, "user": {"token": token.trim()}}]);
    let path = directory.join("kubeconfig");
    std::fs::write(&path, view.to_string()).unwrap();
    cluster.reached_by(&path)
}

/// The accesses that the rules of a Role give.
pub fn given(role: &Value) -> BTreeSet<Access> {
    let mut given = BTreeSet::new();
    let words = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    for rule in role["rules"].as_array().unwrap() {
        for group in words(&rule["apiGroups"]) {
            for resource in words(&rule["resources"]) {
                for verb in words(&rule["verbs"]) {
                    given.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    given
}

/// What a request is to RBAC; nothing if it is not about objects of a namespace.
pub fn access(request: &Exchange) -> Option<Access> {
    let (path, query) = request.uri.split_once('?').unwrap_or((&request.uri, ""));
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", "v1", rest @ ..] => ("", rest),
        ["apis", group, _version, rest @ ..] => (*group, rest),
        _ => return None,
    };
    let (resource, name, subresource) = match rest {
        ["namespaces", name] => ("namespaces", Some(*name), None),
        ["namespaces", _, resource] => (*resource, None, None),
        ["namespaces", _, resource, name] => (*resource, Some(*name), None),
        ["namespaces", _, resource, name, subresource] => {
            (*resource, Some(*name), Some(*subresource))
        }
        _ => return None,
    };
    let verb = match (request.method.as_str(), name) {
        ("GET", None) if query.contains("watch=") => "watch",
        ("GET", None) => "list",
        ("GET", Some(_)) => "get",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", Some(_)) => "delete",
        other => panic!("{other:?} has no place in the list: {}", request.uri),
    };
    let resource = match subresource {
        Some(subresource) => format!("{resource}/{subresource}"),
        None => resource.to_owned(),
    };
    Some((group.to_owned(), resource, verb.to_owned()))
}

#[test]
fn the_permissions_are_enough_and_every_one_is_needed() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::new(cluster);
    let namespace: &str = &scene.namespace;
    let rules = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/kustomize/overlays/one-namespace/rbac.yaml");
    let rules = std::fs::read_to_string(rules).unwrap();
    // What kustomize does.
    let subject = "- kind: ServiceAccount\n    name: eider";
    assert!(rules.contains(subject));
    scene.apply(&rules.replace(subject, &format!("{subject}\n    namespace: {namespace}")));
    let directory = tempfile::tempdir().unwrap();
    let account = kubeconfig_of(&scene.cluster, namespace, "eider", directory.path());
    let denied = account.try_kubectl(&["get", "nodes"]).unwrap_err();
    assert!(denied.contains("Forbidden"), "the account may do more than its rules say: {denied}");

    let proxy = Proxy::start(&account, Vec::new());
    let operator = Operator::new(&scene.cluster, namespace)
        .kubeconfig(&proxy.kubeconfig())
        .arguments(&["--lease-namespace", namespace])
        .lease("eider-operator");
    let process = operator.start();
    everything(&scene);
    let log = process.stop().stderr;
    assert!(!log.contains(" is forbidden"), "something was refused:\n{log}");

    let requests = proxy.requests();
    let refused: Vec<_> =
        requests.iter().filter(|one| one.server == Some(403)).map(|one| &one.uri).collect();
    assert!(refused.is_empty(), "{refused:?}");
    let used: BTreeSet<Access> = requests.iter().filter_map(access).collect();
    let roles = ["eider", "eider-operator"].map(|name| scene.object("role", name).unwrap());
    let given = &given(&roles[0]) | &given(&roles[1]);
    let missing: Vec<_> = used.difference(&given).collect();
    assert!(missing.is_empty(), "used and not in the list: {missing:#?}");
    // A command in a pod is a create for servers from 1.35 on and a get for older ones.
    let exec = |verb: &str| (String::new(), "pods/exec".to_owned(), verb.to_owned());
    let (get, create) = (used.contains(&exec("get")), used.contains(&exec("create")));
    assert!(get || create, "no hook has run");
    let unused: Vec<_> = given
        .difference(&used)
        .filter(|(group, resource, verb)| {
            let own = (&**group, &**resource, &**verb);
            resource != "pods/exec" && !ELSEWHERE.iter().any(|one| (one.0, one.1, one.2) == own)
        })
        .collect();
    assert!(unused.is_empty(), "in the list and never used: {unused:#?}");
    // Neither is anything excused that is gone from the list, or from the operator.
    for one in ELSEWHERE {
        let own = (one.0.to_owned(), one.1.to_owned(), one.2.to_owned());
        assert!(given.contains(&own), "excused and not in the list: {one:?}");
    }
    let removed = removal::each(&scene.cluster, &account, &roles, &requests);
    assert_eq!(removed, given.intersection(&used).count());
    #[allow(clippy::print_stderr)] // The number is for the report.
    {
        eprintln!("PERMISSIONS removed one by one, each refused: {removed} of {}", given.len());
    }
}

/// Everything that an operator does in a namespace.
fn everything(scene: &Scene) {
    let image = scene.cluster.busybox();
    scene.apply(&format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  strategy: {{type: Recreate}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: service
        image: {image}
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "date > /data/started; sleep 100000"]
        volumeMounts: [{{name: data, mountPath: /data}}]
      volumes: [{{name: data, persistentVolumeClaim: {{claimName: web}}}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec:
  selector: {{matchLabels: {{app: agent}}}}
  template:
    metadata: {{labels: {{app: agent}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: service
        image: {image}
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "date > /data/started; sleep 100000"]
        volumeMounts: [{{name: data, mountPath: /data}}]
      volumes: [{{name: data, persistentVolumeClaim: {{claimName: agent}}}}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: web}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: agent}}
spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}
"#
    ));
    scene.cluster.kubectl(&["-n", &scene.namespace, "rollout", "status", "deployment/web"]);
    scene.cluster.kubectl(&["-n", &scene.namespace, "rollout", "status", "daemonset/agent"]);
    scene.back_up(
        "stopped",
        "db",
        "  consistency: {timeout: 5m}\n  hooks: {before: [{exec: {command: [/bin/true], container: service}}]}\n",
    );
    scene.succeeded("backup", "stopped");
    let backup = |name: &str, kind: &str, target: &str, mode: &str| {
        scene.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec:\n  \
             target: {{workload: {{kind: {kind}, name: {target}}}}}\n  storeRef: {{name: main}}\n  \
             consistency: {{mode: {mode}, timeout: {STOPS}}}\n"
        ));
    };
    backup("of-web", "Deployment", "web", "Stop");
    backup("of-agent", "DaemonSet", "agent", "Live");
    scene.succeeded("backup", "of-web");
    scene.succeeded("backup", "of-agent");
    // A Job whose pod is gone is asked how it fares.
    backup("orphaned", "Deployment", "web", "Live");
    let movers = ["-n", &scene.namespace, "-l", "eider.dev/name=orphaned"];
    scene.cluster.wait("the mover of a Backup to run", LONG, || {
        let list = scene.cluster.json(&[&movers[..], &["get", "pods"]].concat());
        (list["items"][0]["status"]["phase"] == "Running").then_some(())
    });
    let delete = ["delete", "pods", "--grace-period=0", "--force", "--wait=false"];
    scene.cluster.kubectl(&[&movers[..], &delete[..]].concat());
    scene.succeeded("backup", "orphaned");
    // Why a mover does not start is asked of its events.
    // Three run already; what is there stays.
    scene.apply(
        "apiVersion: v1\nkind: ResourceQuota\nmetadata: {name: small}\nspec: {hard: {pods: \"1\"}}\n",
    );
    backup("squeezed", "Deployment", "web", "Live");
    waits(scene, "squeezed", "QuotaExceeded");
    scene.cluster.kubectl(&["-n", &scene.namespace, "delete", "resourcequota", "small"]);
    scene.succeeded("backup", "squeezed");
    scene.apply(
        "apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {name: in-place}\n\
         spec: {from: {backupRef: {name: stopped}}, consistency: {timeout: 5m}}\n---\n\
         apiVersion: eider.dev/v1alpha1\nkind: Restore\nmetadata: {name: copied}\n\
         spec: {from: {backupRef: {name: stopped}}, target: {volumeClaims: [copy]}}\n",
    );
    scene.succeeded("restore", "in-place");
    scene.succeeded("restore", "copied");
    for (version, patience, ends) in [(2, LONG.as_secs(), "Succeeded"), (3, 25, "RolledBack")] {
        let image = service_image(&scene.cluster, version);
        scene.apply(&format!(
            "apiVersion: eider.dev/v1alpha1\nkind: Upgrade\nmetadata: {{name: to-{version}}}\nspec:\n  \
             target: {{workload: {{kind: StatefulSet, name: db}}}}\n  toVersion: \"{version}.0.0\"\n  \
             images: {{service: \"{image}\"}}\n  backup: {{storeRef: {{name: main}}}}\n  \
             consistency: {{timeout: {STOPS}}}\n  healthGate: {{timeout: {patience}s, soak: 1s}}\n"
        ));
        let status = scene.ended("upgrade", &format!("to-{version}"));
        assert_eq!(status["phase"], ends, "{status:#}");
    }
    // Two backups that a schedule makes, of which it keeps one.
    scene.apply(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: plain}\n\
         spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n---\n\
         apiVersion: eider.dev/v1alpha1\nkind: BackupSchedule\nmetadata: {name: often}\nspec:\n  \
         schedule: \"* * * * *\"\n  retention: {keepLast: 1}\n  template:\n    spec:\n      \
         target: {volumeClaims: [plain]}\n      storeRef: {name: main}\n      \
         guards: {allowEmpty: true}\n",
    );
    scene.cluster.wait(
        "a backup to be removed by retention",
        LONG + Duration::from_mins(1),
        || {
            let events = scene.cluster.kubectl(&["-n", &scene.namespace, "get", "events"]);
            let runs: BTreeSet<&str> = events
                .split_whitespace()
                .filter(|word| word.starts_with("backup/often-"))
                .collect();
            let names =
                scene.cluster.kubectl(&["-n", &scene.namespace, "get", "backups", "-o", "name"]);
            let kept = names.lines().filter(|name| name.contains("/often-")).count();
            (runs.len() > kept && runs.len() >= 2).then_some(())
        },
    );
}
