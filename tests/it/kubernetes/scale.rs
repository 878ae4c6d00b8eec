//! Five hundred Backups and a hundred schedules at once: the operator stays small and quick, never has
//! more movers than it may, and writes no more than each object explains. May not call the library.
//!
//! Five hundred real movers would keep one node busy for hours and prove nothing more about the loop.
//! So 40 Backups are really carried out by movers; 230 are of claims that do not exist, and go the whole
//! way through the loop to their end without a mover; and 230 wait for a store that does not exist: they
//! are looked at again every ten seconds while all the rest happens, and are deleted in the end. All of
//! them are there before the operator is, so that its first lists have them all. Three of the schedules fire for claims
//! that there are, and keep one backup each.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cluster::Cluster;
use super::process::{Operator, OperatorProcess};
use super::proxy::{Exchange, Proxy};
use super::scene::Scene;

/// Backups that movers carry out, over these claims.
const CARRIED_OUT: usize = 40;
const CLAIMS: usize = 8;
/// Backups whose claim is not there.
const REFUSED: usize = 230;
/// Backups that wait for their store.
const WAITING: usize = 230;
/// Schedules that are not due, and schedules that fire every minute, for a claim that is not there.
const SCHEDULES: usize = 80;
const FIRING: usize = 17;
/// Schedules with a claim of their own that fire every other minute and keep one backup: all the others go.
const RETAINING: usize = 3;
/// Operations at the same time.
const CONCURRENCY: usize = 4;
/// The most resident memory, in bytes.
const MEMORY: u64 = 256 << 20;
/// How long all of it may take: 40 movers, four at a time, on a machine that does everything else too.
const PATIENCE: Duration = Duration::from_mins(25);

/// The most writes for each Backup that a mover carries out, with its Job and pod: seven for its steps and its end, four
/// for its Job and its finalizer, three that tell the mover to go on, and two that say what it waits for.
const WRITES_OF_A_BACKUP: usize = 16;
/// The most writes of one that is refused: the finalizer, that it waits for its turn, the step that finds
/// it out, the end, the finalizer.
const WRITES_OF_A_REFUSAL: usize = 6;
/// The most writes of one that waits, however long: the finalizer, the condition, and the condition once
/// more if the finalizer's own event brings about a look at the object as it was before the first.
const WRITES_OF_WAITING: usize = 3;
/// The most writes of one that waits and is deleted: its finalizer goes, too.
const WRITES_OF_LEAVING: usize = 4;
/// The most Jobs of a run whose retention removes something: its mover, a look at what there is, the removal.
const JOBS_OF_A_RUN: usize = 3;
/// The most writes of a schedule that is not due.
const WRITES_OF_A_SCHEDULE: usize = 2;

fn documents() -> String {
    let mut text = String::new();
    let mut backup = |name: String, claim: String, store: &str| {
        write!(
            text,
            "---\napiVersion: eider.dev/v1alpha1\nkind: Backup\nmetadata: {{name: {name}}}\nspec:\n  \
             target: {{volumeClaims: [{claim}]}}\n  storeRef: {{name: {store}}}\n"
        )
        .unwrap();
    };
    for number in 0..WAITING {
        backup(format!("waiting-{number}"), "claim-0".to_owned(), "later");
    }
    for number in 0..REFUSED {
        backup(format!("refused-{number}"), format!("nothing-{number}"), "main");
    }
    for number in 0..CARRIED_OUT {
        backup(format!("carried-{number}"), format!("claim-{}", number % CLAIMS), "main");
    }
    for number in 0..SCHEDULES {
        write!(
            text,
            "---\napiVersion: eider.dev/v1alpha1\nkind: BackupSchedule\n\
             metadata: {{name: schedule-{number}}}\nspec:\n  schedule: \"@yearly\"\n  template:\n    \
             spec: {{target: {{volumeClaims: [claim-0]}}, storeRef: {{name: main}}}}\n"
        )
        .unwrap();
    }
    for number in 0..FIRING {
        write!(
            text,
            "---\napiVersion: eider.dev/v1alpha1\nkind: BackupSchedule\n\
             metadata: {{name: firing-{number}}}\nspec:\n  schedule: \"* * * * *\"\n  template:\n    \
             spec: {{target: {{volumeClaims: [nothing-at-all]}}, storeRef: {{name: main}}}}\n"
        )
        .unwrap();
    }
    for number in 0..RETAINING {
        write!(
            text,
            "---\napiVersion: eider.dev/v1alpha1\nkind: BackupSchedule\n\
             metadata: {{name: retaining-{number}}}\nspec:\n  schedule: \"*/2 * * * *\"\n  \
             retention: {{keepLast: 1}}\n  template:\n    \
             spec: {{target: {{volumeClaims: [claim-{}]}}, storeRef: {{name: main}}}}\n",
            CLAIMS + number
        )
        .unwrap();
    }
    text
}

fn reason(object: &Value) -> String {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|one| one["type"] == "Succeeded").unwrap_or_default();
    found["reason"].as_str().unwrap_or_default().to_owned()
}

/// How many objects of a list have a name that begins so, and are as the test wants them.
fn count(list: &Value, prefix: &str, is: impl Fn(&Value) -> bool) -> usize {
    let items = list["items"].as_array().unwrap().iter();
    items
        .filter(|item| item["metadata"]["name"].as_str().unwrap().starts_with(prefix))
        .filter(|item| is(item))
        .count()
}

/// The most resident memory that a process has had so far, in bytes.
fn most_memory(process: &OperatorProcess) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Looks at a kind of object: how many, and how many of them took no more than a second. From the
/// operator's own histogram.
fn looks(metrics: &str, kind: &str) -> (u64, u64) {
    let family = "eider_reconcile_duration_seconds";
    let kind = format!("kind=\"{kind}\"");
    let number = |name: &str, bound: &str| {
        let name = format!("{family}_{name}{{");
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&name) && line.contains(&kind) && line.contains(bound));
        let value = line.and_then(|line| line.rsplit(' ').next()).unwrap_or("0");
        value.parse::<u64>().unwrap()
    };
    (number("count", ""), number("bucket", "le=\"1\""))
}

/// The most mover Jobs of Backups that were there at once: from the order in which they were made and
/// deleted through the proxy.
fn most_movers(writes: &[Exchange]) -> usize {
    let (mut now, mut most) = (std::collections::BTreeSet::new(), 0);
    for write in writes.iter().filter(|write| write.object.contains("/jobs/eider-backup-")) {
        match write.method.as_str() {
            "POST" => now.insert(write.object.clone()),
            "DELETE" => now.remove(&write.object),
            other => panic!("{other} of a Job: {}", write.object),
        };
        most = most.max(now.len());
    }
    most
}

/// Those that the server took, and how many it did not: a status that loses its last entry of an object is
/// refused by servers of 1.20, and is written a second time in another way.
fn accepted(writes: Vec<Exchange>) -> (Vec<Exchange>, usize) {
    let all = writes.len();
    let taken: Vec<Exchange> =
        writes.into_iter().filter(|write| write.server.is_none_or(|status| status < 400)).collect();
    let refused = all - taken.len();
    (taken, refused)
}

/// The writes of all objects whose name begins so, their statuses included; the most of one, and which.
fn written(writes: &[Exchange], part: &str) -> (usize, usize, String) {
    let mut counts = BTreeMap::<&str, usize>::new();
    for write in writes.iter().filter(|write| write.object.contains(part)) {
        *counts.entry(write.object.trim_end_matches("/status")).or_default() += 1;
    }
    let all = counts.values().sum();
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map_or((all, 0, String::new()), |(name, count)| (all, count, name.to_owned()))
}

/// How many schedules have removed a second backup.
fn removed(writes: &[Exchange]) -> usize {
    let mut counts = BTreeMap::<&str, usize>::new();
    for write in writes.iter().filter(|write| write.method == "DELETE") {
        let name = write.object.rsplit('/').next().unwrap_or_default();
        if let Some((schedule, _)) = name.rsplit_once('-')
            && schedule.starts_with("retaining-")
        {
            *counts.entry(schedule).or_default() += 1;
        }
    }
    counts.values().filter(|count| **count >= 2).count()
}

/// Says what was measured: the figures of a run are read off its output.
#[allow(clippy::print_stderr)]
fn note(text: &str) {
    eprintln!("SCALE {text}");
}

#[test]
fn five_hundred_backups_and_a_hundred_schedules_at_once() {
    let Some(cluster) = Cluster::connect() else { return };
    let scene = Scene::empty(cluster);
    let namespace: &str = &scene.namespace;
    for number in 0..CLAIMS + RETAINING {
        scene.apply(&format!(
            "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {{name: claim-{number}}}\n\
             spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}\n"
        ));
    }
    for number in 0..CLAIMS + RETAINING {
        let path = scene.cluster.claim_path(namespace, &format!("claim-{number}"));
        std::fs::write(path.join("file"), format!("of claim {number}\n")).unwrap();
    }
    let create = ["-n", namespace, "create", "--validate=false", "-f", "-"];
    scene.cluster.kubectl_reading(&create, &documents()).unwrap();
    let proxy = Proxy::start(&scene.cluster, Vec::new());
    let operator = Operator::new(&scene.cluster, namespace)
        .kubeconfig(&proxy.kubeconfig())
        .arguments(&["--concurrency", &CONCURRENCY.to_string()])
        .listening();
    let mut process = operator.start();

    let begun = Instant::now();
    let mut first = BTreeMap::new();
    loop {
        let list = scene.cluster.json(&["-n", namespace, "get", "backups"]);
        let schedules = scene.cluster.json(&["-n", namespace, "get", "backupschedules"]);
        let jobs = scene.cluster.json(&["-n", namespace, "get", "jobs"]);
        let movers = count(&jobs, "eider-backup-", |_| true);
        assert!(movers <= CONCURRENCY, "{movers} movers at once");
        assert!(process.runs(), "{}", process.log());
        let done = [
            (
                "carried out",
                CARRIED_OUT,
                count(&list, "carried-", |one| reason(one) == "Succeeded"),
            ),
            ("refused", REFUSED, count(&list, "refused-", |one| reason(one) == "TargetNotFound")),
            ("waiting", WAITING, count(&list, "waiting-", |one| reason(one) == "StoreNotFound")),
            (
                "schedules",
                SCHEDULES,
                count(&schedules, "schedule-", |one| one["status"]["nextRunAt"].is_string()),
            ),
            (
                "fired",
                FIRING,
                count(&schedules, "firing-", |one| one["status"]["lastRunAt"].is_string()),
            ),
            // The third run of each has removed what the second had left.
            ("retained", RETAINING, removed(&proxy.writes()).min(RETAINING)),
        ];
        for (what, wanted, found) in &done {
            if wanted == found {
                first.entry(*what).or_insert_with(|| begun.elapsed().as_secs());
            }
        }
        if first.len() == done.len() {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{done:?} after {:?}", begun.elapsed());
        std::thread::sleep(Duration::from_secs(5));
    }
    note(&format!("complete after so many seconds: {first:?}"));

    // Each minute one run and no second one, for as long as the earlier one has ended.
    let list = scene.cluster.json(&["-n", namespace, "get", "backups"]);
    let runs = count(&list, "firing-", |_| true);
    let minutes = usize::try_from(begun.elapsed().as_secs()).unwrap() / 60 + 2;
    note(&format!("{FIRING} schedules fired {runs} times in {minutes} minutes at the most"));
    assert!((FIRING..=FIRING * minutes).contains(&runs), "{runs} runs");

    let (writes, refused) = accepted(proxy.writes());
    note(&format!("writes: {}, and {refused} that the server refused", writes.len()));
    let (_, metrics) = process.get("/metrics").expect("the operator's metrics");
    note(&format!("memory: {} MiB at the most", most_memory(&process) >> 20));
    for kind in ["Backup", "BackupSchedule"] {
        let (all, quick) = looks(&metrics, kind);
        note(&format!("looks at {kind}: {all}, {} took longer than a second", all - quick));
        let objects = if kind == "Backup" { CARRIED_OUT + REFUSED + WAITING } else { SCHEDULES };
        assert!(all >= u64::try_from(objects).unwrap(), "{kind}: {all} looks");
        assert!((all - quick) * 100 <= all, "{kind}: {} of {all} were slow", all - quick);
    }
    let most = most_movers(&writes);
    note(&format!("movers at once: {most}"));
    assert!((2..=CONCURRENCY).contains(&most), "{most} movers at once");
    let made = |kind: &str| {
        let part = format!("/jobs/eider-{kind}-");
        let made = writes.iter();
        made.filter(|write| write.method == "POST" && write.object.contains(&part)).count()
    };
    // Counted by their finalizers, as most of them are gone by now.
    let retaining: BTreeSet<&str> = writes
        .iter()
        .map(|write| write.object.trim_end_matches("/status"))
        .filter(|object| object.contains("/backups/retaining-"))
        .collect();
    let (movers, errands) = (made("backup"), made("backupstore"));
    let runs = retaining.len();
    note(&format!("{runs} runs with retention; Jobs: {movers} movers, {errands} of the store"));
    // Some may not have begun yet.
    assert!(
        (CARRIED_OUT + 2 * RETAINING..=CARRIED_OUT + runs).contains(&movers),
        "{movers} movers for {CARRIED_OUT} Backups and {runs} runs"
    );
    // And the store's own, when it was seen first.
    assert!(errands <= (JOBS_OF_A_RUN - 1) * runs + 2, "{errands} Jobs of the store");
    let of_carried = |write: &&Exchange| {
        let of = [
            "/backups/carried-",
            "/backups/retaining-",
            "/jobs/eider-backup-",
            "/pods/eider-backup-",
        ];
        of.iter().any(|part| write.object.contains(part))
    };
    let per_backup = writes.iter().filter(of_carried).count().div_ceil(movers);
    note(&format!("writes of a Backup that is carried out: {per_backup}"));
    let mut kinds = BTreeMap::<String, usize>::new();
    for write in writes.iter().filter(of_carried) {
        let path: Vec<&str> = write.object.split('/').collect();
        let place = path.iter().rposition(|part| {
            ["eider-backup-", "carried-", "retaining-"].iter().any(|of| part.contains(of))
        });
        let kind = place.and_then(|place| path.get(place - 1)).unwrap_or(&"");
        let of_status = if write.object.ends_with("/status") { " status" } else { "" };
        // Of a status what it says, without what differs from one to the other.
        let said = write.content["status"]["message"].as_str().unwrap_or_default();
        let said = said.split(|letter: char| letter.is_ascii_digit()).next().unwrap_or_default();
        let phase = write.content["status"]["phase"].as_str().unwrap_or_default();
        *kinds.entry(format!("{} {kind}{of_status} {phase} {said}", write.method)).or_default() +=
            1;
    }
    note(&format!("which are: {kinds:#?}"));
    assert!(per_backup <= WRITES_OF_A_BACKUP, "{per_backup} writes");
    for (part, bound) in [
        ("/backups/refused-", WRITES_OF_A_REFUSAL),
        ("/backups/waiting-", WRITES_OF_WAITING),
        ("/backupschedules/schedule-", WRITES_OF_A_SCHEDULE),
    ] {
        let (all, most, which) = written(&writes, part);
        note(&format!("writes of {part}*: {all}, {most} of one at the most"));
        assert!((1..=bound).contains(&most), "{most} writes of {which}");
    }

    // What waits can go: 230 finalizers at once.
    let mut names = Vec::new();
    names.extend((0..WAITING).map(|number| format!("waiting-{number}")));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let delete = ["-n", namespace, "delete", "backups", "--wait=false"];
    scene.cluster.kubectl(&[&delete[..], &names].concat());
    let begun = Instant::now();
    loop {
        let list = scene.cluster.json(&["-n", namespace, "get", "backups"]);
        let left = count(&list, "waiting-", |_| true);
        if left == 0 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_mins(5), "{left} do not go");
        std::thread::sleep(Duration::from_secs(2));
    }
    note(&format!("{WAITING} that waited are gone after {} s", begun.elapsed().as_secs()));
    let (all, most, which) = written(&accepted(proxy.writes()).0, "/backups/waiting-");
    note(&format!("writes of those that waited and left: {all}, {most} of one at the most"));
    assert!(most <= WRITES_OF_LEAVING, "{most} writes of {which}");
    let memory = most_memory(&process);
    note(&format!("memory: {} MiB at the most, to the end", memory >> 20));
    assert!(memory < MEMORY, "{} MiB of memory", memory >> 20);
    // One that has just been made may be there beside the one that is kept.
    let archives = scene.archives().len();
    assert!(
        (CARRIED_OUT + RETAINING..=CARRIED_OUT + 2 * RETAINING).contains(&archives),
        "{archives}"
    );
}
