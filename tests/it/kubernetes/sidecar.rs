//! The daemon as a second container of a pod, with the example's own files: documents from a
//! ConfigMap, a shared volume, archives on another. Judged by GNU tar on the host.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::cluster::Cluster;
use super::scene::LONG;

#[test]
fn a_sidecar_backs_up_a_shared_volume_and_follows_its_config_map() {
    let Some(cluster) = Cluster::connect() else { return };
    let namespace = cluster.namespace("sidecar");
    let image = cluster.image();
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sidecar");
    let read = |name: &str| std::fs::read_to_string(examples.join(name)).unwrap();
    let documents = tempfile::tempdir().unwrap();
    let schedule = documents.path().join("schedule.yaml");
    std::fs::write(&schedule, read("schedule.yaml").replace("@hourly", "* * * * *")).unwrap();
    let from = format!("--from-file={}", documents.path().display());
    let create = ["-n", &namespace, "create", "configmap", "notes-eider", &from];
    cluster.kubectl(&create);
    let pod = read("kubernetes/pod.yaml")
        .replace("eider:latest", &image)
        .replace("busybox:1.36", cluster.busybox());
    cluster.apply(&namespace, &pod);

    let store = cluster.claim_path(&namespace, "notes-backups");
    let archive = |trigger: &str| {
        cluster.wait(&format!("an archive that is {trigger}"), LONG, || {
            // Also the state that is printed when it is waited for in vain.
            let logs = ["-n", &namespace, "logs", "notes-0", "-c", "eider", "--tail=20"];
            let _ = cluster.try_kubectl(&logs);
            manifests(&store).into_iter().find(|path| path.display().to_string().contains(trigger))
        })
    };
    let first = archive("_scheduled_");
    assert_eq!(content(&first, "data/notes.txt"), text_of(&cluster, &namespace));

    // A document that comes into the ConfigMap is carried out; the one that changes is followed.
    std::fs::write(
        documents.path().join("once.yaml"),
        "apiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {name: once}\n\
         spec: {target: {host: {paths: [/data]}}, storeRef: {name: main}}\n",
    )
    .unwrap();
    std::fs::write(&schedule, read("schedule.yaml").replace("@hourly", "@yearly")).unwrap();
    cluster.kubectl(&["-n", &namespace, "exec", "notes-0", "-c", "notes", "--", "sh", "-c", ADD]);
    let changed = cluster.kubectl(&[&create[..], &["--dry-run=client", "-o", "yaml"]].concat());
    cluster.apply(&namespace, &changed);
    // The kubelet looks at a changed pod at once, and at others within a minute or two.
    cluster.kubectl(&["-n", &namespace, "annotate", "pod", "notes-0", "looked=now"]);
    let second = archive("_manual_");
    assert_eq!(content(&second, "data/added"), "more\n");
    let in_pod = ["-n", &namespace, "exec", "notes-0", "-c", "eider", "--", "eider"];
    let list = cluster.kubectl(&[&in_pod[..], &["schedule", "list"]].concat());
    assert!(list.contains("@yearly"), "{list}");
    let list = cluster.kubectl(&[&in_pod[..], &["backup", "list"]].concat());
    assert!(list.contains("once") && list.contains("scheduled"), "{list}");
}

const ADD: &str = "echo more > /data/added";

/// The archives that have their manifest: sealed ones.
fn manifests(store: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path());
    files.filter_map(|path| Some(path.to_str()?.strip_suffix(".manifest.json")?.into())).collect()
}

/// A file of an archive, by GNU tar.
fn content(archive: &Path, file: &str) -> String {
    let output = Command::new("tar").arg("-xOf").arg(archive).arg(file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn text_of(cluster: &Cluster, namespace: &str) -> String {
    cluster.kubectl(&[
        "-n",
        namespace,
        "exec",
        "notes-0",
        "-c",
        "notes",
        "--",
        "cat",
        "/data/notes.txt",
    ])
}
