//! The kit's operator process, with a script in the operator's place.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::cluster::{Cluster, PATIENCE};
use super::process::{Operator, OperatorProcess};
use super::proxy::Proxy;

/// Says what it was given, and then does as it is told.
const SCRIPT: &str = r#"#!/bin/sh
trap 'echo stopped; exit 3' TERM
echo "arguments: $*"
echo "catalog: $EIDER_CATALOG, kubeconfig: $KUBECONFIG, failpoint: $EIDER_FAILPOINT" >&2
case $EIDER_FAILPOINT in
here) kill -KILL $$ ;;
esac
while :; do sleep 0.05; done
"#;

fn operator(cluster: &Cluster, directory: &tempfile::TempDir) -> Operator {
    operator_of(SCRIPT, cluster, directory)
}

fn operator_of(text: &str, cluster: &Cluster, directory: &tempfile::TempDir) -> Operator {
    let script = directory.path().join("operator");
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    Operator::new(cluster, "kit-none").program(&script)
}

/// Waits until the script has got to its loop, as far as its log tells.
fn begun(cluster: &Cluster, process: &OperatorProcess) -> String {
    cluster.wait("the script to say what it was given", PATIENCE, || {
        Some(process.log()).filter(|log| log.contains("failpoint: "))
    })
}

#[test]
fn an_operator_is_started_killed_and_started_again_on_the_same_catalog() {
    let Some(cluster) = Cluster::connect() else { return };
    let directory = tempfile::tempdir().unwrap();
    let operator = operator(&cluster, &directory).arguments(&["--more"]).environment("A", "b");

    let mut process = operator.start();
    let first = begun(&cluster, &process);
    let lease = format!("--lease-name {}", operator.lease_name());
    for part in [
        "operator --namespace kit-none --mover-image eider",
        "--more --listen off",
        &lease,
        "failpoint: \n",
    ] {
        assert!(first.contains(part), "no {part} in {first}");
    }
    assert!(first.contains(cluster.kubeconfig().to_str().unwrap()), "{first}");
    assert!(process.runs());
    operator.kill_switch().press();
    assert_eq!(process.wait_exit(PATIENCE).signal, Some(9));
    // Nothing runs: nothing happens.
    operator.kill_switch().press();

    let process = operator.start();
    let second = begun(&cluster, &process);
    assert_eq!(first, second);
    assert_eq!(process.kill().signal, Some(9));

    let finished = operator.start_into("here").wait_exit(PATIENCE);
    assert_eq!(finished.signal, Some(9));
    assert!(finished.stderr.contains("failpoint: here"), "{finished:?}");

    let replica = self::operator(&cluster, &directory).lease(operator.lease_name()).listening();
    let other = replica.kubeconfig(directory.path());
    let process = other.start();
    let said = begun(&cluster, &process);
    assert!(said.contains(&lease) && said.contains("--listen 127.0.0.1:"), "{said}");
    assert_ne!(other.directory(), operator.directory());
    assert_eq!(process.get("/readyz"), None);
    let finished = process.stop();
    assert_eq!((finished.code, finished.stderr.ends_with("stopped\n")), (Some(3), true));
}

#[test]
fn no_process_is_left_behind() {
    let Some(cluster) = Cluster::connect() else { return };
    let directory = tempfile::tempdir().unwrap();
    let operator = operator(&cluster, &directory);
    let process = operator.start();
    let id = process.id();
    assert!(fs::exists(format!("/proc/{id}")).unwrap());
    drop(process);
    assert!(!fs::exists(format!("/proc/{id}")).unwrap());
}

#[test]
fn an_operator_is_killed_between_a_write_and_its_answer() {
    let Some(cluster) = Cluster::connect() else { return };
    let namespace = cluster.namespace("kit-kill");
    let directory = tempfile::tempdir().unwrap();
    let script = format!("#!/bin/sh\nexec kubectl -n {namespace} create configmap one\n");
    let operator = operator_of(&script, &cluster, &directory);
    let proxy = Proxy::start(&cluster, vec![operator.kill_switch().at_write(1)]);
    let operator = operator.kubeconfig(&proxy.kubeconfig());

    let killed = operator.start().wait_exit(PATIENCE);
    assert_eq!((killed.signal, killed.stderr.as_str()), (Some(9), ""));
    assert!(cluster.object(&namespace, "configmap", "one").is_some());
    // The next one finds what the first could not know of.
    let again = operator.start().wait_exit(PATIENCE);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("already exists"), "{again:?}");
    let counts = proxy.count_by_object();
    assert_eq!((proxy.writes().len(), counts.into_values().collect()), (2, vec![1]));
}
