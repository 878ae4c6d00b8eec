mod group;
mod private;
mod rebuild;

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::migration::{MIGRATIONS, Migration};
use super::*;
use crate::plan::{JournalEntry, Mark};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + second).unwrap()
}

fn options() -> OpenOptions {
    OpenOptions { probe: None, now: at(0) }
}

fn open(path: &Path) -> Opened {
    Catalog::open(path, &options()).unwrap()
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it's \"here\".duckdb");
    (directory, path)
}

fn backup(number: i64) -> BackupRecord {
    BackupRecord {
        backup_name: format!("shop-{number}.tar.gz"),
        backup_type: "Full".to_owned(),
        backup_path: format!("/backups/shop-{number}.tar.gz"),
        backup_size: Some(1000 + number),
        compression_type: "tar.gz".to_owned(),
        created_at: at(number),
        status: RecordStatus::Succeeded,
        verified_at: Some(at(number + 1)),
        duration_seconds: Some(1.5),
        target: "host:/srv".to_owned(),
        namespace: "shop".to_owned(),
        object: format!("nightly-{number}"),
        store: "main".to_owned(),
        schedule: Some("nightly".to_owned()),
        warnings: vec!["a 'quoted' \"line\" \\ ü".to_owned()],
        target_spec: Some(json!({"host": {"paths": ["/srv"]}})),
        ..BackupRecord::default()
    }
}

fn entry(name: &str, step: &str, mark: Mark) -> JournalEntry {
    JournalEntry {
        operation: format!("Backup/shop/{name}/1").parse().unwrap(),
        step: step.to_owned(),
        mark,
        at: at(0),
        session: "one".to_owned(),
        detail: json!({"files": 3, "text": "it's"}),
    }
}

/// The whole record as it had been read before the look was written, over what had become of it since.
#[tokio::test]
async fn an_archive_that_is_gone_takes_nothing_else_of_its_record_with_it() {
    let (_directory, path) = place();
    let catalog = open(&path).catalog;
    let mut seen = backup(1);
    seen.id = catalog.insert_backup(seen.clone()).await.unwrap();
    let found = || async { catalog.backup(BackupKey::Id(seen.id)).await.unwrap().unwrap() };
    let gone = || catalog.mark_backup_gone(seen.clone(), "it is gone".to_owned(), at(9));
    for meanwhile in [
        BackupRecord { backup_path: "/moved/shop-1.tar.gz".to_owned(), ..seen.clone() },
        BackupRecord { verified_at: Some(at(8)), ..seen.clone() },
        BackupRecord { deleted_at: Some(at(7)), status: RecordStatus::Deleted, ..seen.clone() },
    ] {
        catalog.update_backup(meanwhile.clone()).await.unwrap();
        assert_eq!(gone().await.unwrap(), 0);
        assert_eq!(found().await, meanwhile);
    }
    let meanwhile = BackupRecord { expires_at: Some(at(99)), ..seen.clone() };
    catalog.update_backup(meanwhile.clone()).await.unwrap();
    assert_eq!(gone().await.unwrap(), 1);
    let (status, error_message) = (RecordStatus::Deleted, Some("it is gone".to_owned()));
    let deleted_at = Some(at(9));
    assert_eq!(found().await, BackupRecord { status, error_message, deleted_at, ..meanwhile });
}

#[tokio::test]
async fn backups_read_back_as_written_and_change_by_number() {
    let (_directory, path) = place();
    let Opened { catalog, report } = open(&path);
    assert!(report.created && !report.needs_rebuild);
    let mut record = backup(1);
    record.id = catalog.insert_backup(record.clone()).await.unwrap();
    assert_eq!(catalog.insert_backup(backup(1)).await.unwrap(), record.id);
    let second = catalog.insert_backup(backup(2)).await.unwrap();
    assert_ne!(second, record.id);
    let key = BackupKey::Object { namespace: "shop".to_owned(), name: "nightly-1".to_owned() };
    assert_eq!(catalog.backup(key).await.unwrap().unwrap(), record);
    let filter = BackupFilter { schedule: Some("nightly".to_owned()), ..BackupFilter::default() };
    let newest = catalog.newest_verified(filter.clone()).await.unwrap().unwrap();
    assert_eq!(newest.id, second);
    catalog.mark_backup_deleted(second, at(9)).await.unwrap();
    assert_eq!(catalog.newest_verified(filter.clone()).await.unwrap().unwrap(), record);
    assert_eq!(catalog.backups(filter).await.unwrap().len(), 2);
    let none = BackupFilter { namespace: Some("other".to_owned()), ..BackupFilter::default() };
    assert_eq!(catalog.backups(none).await.unwrap(), []);
    let of = |name: &str| BackupFilter { object: Some(name.to_owned()), ..BackupFilter::default() };
    let found = catalog.backups(of("nightly-1")).await.unwrap();
    assert_eq!(found, std::slice::from_ref(&record));
    assert_eq!(catalog.backups(of("nightly")).await.unwrap(), []);
    assert!(catalog.update_backup(BackupRecord { id: 99, ..backup(3) }).await.is_err());
    catalog.close().await.unwrap();
    assert!(matches!(catalog.state().await, Err(CatalogError::Stopped)));
    let again = open(&path).catalog;
    assert_eq!(again.backup(BackupKey::Id(record.id)).await.unwrap().unwrap(), record);
}

#[tokio::test]
async fn an_operation_is_open_until_its_end_is_written() {
    let (_directory, path) = place();
    let catalog = open(&path).catalog;
    for line in [
        entry("a", "operation", Mark::Intent),
        entry("a", "stop", Mark::Done),
        entry("b", "operation", Mark::Intent),
        entry("b", "operation", Mark::Failed),
    ] {
        catalog.append_journal(line).await.unwrap();
    }
    let open = catalog.open_operations().await.unwrap();
    assert_eq!(open.iter().map(ToString::to_string).collect::<Vec<_>>(), ["Backup/shop/a/1"]);
    let lines = catalog.journal(&open[0]).await.unwrap();
    assert_eq!(lines, [entry("a", "operation", Mark::Intent), entry("a", "stop", Mark::Done)]);
    assert_eq!(catalog.prune_journal(at(1)).await.unwrap(), 2);
    assert_eq!(catalog.journal(&open[0]).await.unwrap().len(), 2);
}

#[tokio::test]
async fn resources_are_found_by_their_label_and_only_those() {
    let (_directory, path) = place();
    let catalog = open(&path).catalog;
    let label = "eider.dev/schedule";
    for (namespace, name, labels) in [
        ("shop", "b", json!({label: "nightly"})),
        ("shop", "a", json!({label: "nightly", "other": "x"})),
        ("shop", "c", json!({label: "night"})),
        ("shop", "d", json!({"other": "nightly"})),
        ("shop", "e", json!(null)),
        ("else", "f", json!({label: "nightly"})),
        ("shop", "gone", json!({label: "nightly"})),
    ] {
        let resource = ResourceRecord {
            kind: "Backup".to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            generation: 1,
            document: json!({"metadata": {"labels": labels}}),
            ..ResourceRecord::default()
        };
        catalog.put_resource(resource).await.unwrap();
    }
    catalog.remove_resource("Backup", "shop", "gone", at(5)).await.unwrap();
    let found = catalog.labelled("Backup", "shop", label, "nightly").await.unwrap();
    assert_eq!(found.iter().map(|found| found.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(catalog.labelled("Restore", "shop", label, "nightly").await.unwrap(), []);
}

#[tokio::test]
async fn current_state_is_replaced_and_histories_grow() {
    let (_directory, path) = place();
    let catalog = open(&path).catalog;
    let resource = ResourceRecord {
        kind: "Backup".to_owned(),
        namespace: "shop".to_owned(),
        name: "a".to_owned(),
        generation: 1,
        document: json!({"spec": {}}),
        ..ResourceRecord::default()
    };
    catalog.put_resource(resource.clone()).await.unwrap();
    catalog.put_resource(ResourceRecord { generation: 2, ..resource }).await.unwrap();
    let all = catalog.resources(None).await.unwrap();
    assert_eq!((all.len(), all[0].generation), (1, 2));
    let removed = catalog.remove_resource("Backup", "shop", "a", at(5)).await;
    assert_eq!(removed.unwrap(), 1);
    assert_eq!(catalog.resources(Some("Backup".into())).await.unwrap(), []);
    for (second, word) in [(0, "running"), (1, "stopped")] {
        let status = ServiceStatus {
            service_name: "web".to_owned(),
            status: word.to_owned(),
            health_status: "unknown".to_owned(),
            recorded_at: at(second),
            ..ServiceStatus::default()
        };
        catalog.append_service_status(status).await.unwrap();
    }
    assert_eq!(catalog.service_history(HistoryFilter::default()).await.unwrap().len(), 2);
    let current = catalog.current_services().await.unwrap();
    assert_eq!((current.len(), current[0].status.as_str()), (1, "stopped"));
    catalog
        .put_upgrade(UpgradeRecord {
            upgrade_id: "u".into(),
            backup_id: Some(7),
            ..UpgradeRecord::default()
        })
        .await
        .unwrap();
    catalog
        .put_upgrade(UpgradeRecord {
            upgrade_id: "u".into(),
            backup_id: Some(7),
            status: UpgradeStatusWord::RolledBack,
            ..UpgradeRecord::default()
        })
        .await
        .unwrap();
    let upgrades = catalog.upgrades(HistoryFilter::default()).await.unwrap();
    assert_eq!((upgrades.len(), upgrades[0].status), (1, UpgradeStatusWord::RolledBack));
    catalog.append_checks(vec![SystemCheck::default()]).await.unwrap();
    catalog.append_metrics(vec![PerformanceMetric::default(); 3]).await.unwrap();
    catalog.append_notification(Notification::default()).await.unwrap();
    catalog.append_user_action(UserAction::default()).await.unwrap();
    catalog.put_host(Host::default()).await.unwrap();
    catalog.put_host(Host::default()).await.unwrap();
    catalog.put_scheduled_task(ScheduledTask::default()).await.unwrap();
    assert_eq!(catalog.hosts().await.unwrap().len(), 1);
    assert_eq!(catalog.scheduled_tasks().await.unwrap().len(), 1);
    catalog.start_session("one".into(), at(1)).await.unwrap();
    assert_eq!(catalog.state().await.unwrap().unwrap().current_state, "RUNNING");
    catalog.stop_session(None, at(2)).await.unwrap();
    let state = catalog.state().await.unwrap().unwrap();
    assert_eq!(
        (state.current_state.as_str(), state.state_data.last_stop),
        ("STOPPED", Some(at(2)))
    );
    let findings = catalog.check(vec![]).await.unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].table, "upgrade_history");
    let report = catalog.maintain(at(3)).await.unwrap();
    let removed: u64 = report.removed.iter().map(|(_, count)| count).sum();
    assert_eq!(removed, 6, "what is of 1970 is removed: {report:?}");
    for view in [
        "current_download_progress",
        "latest_service_status",
        "config_by_category",
        "user_editable_config",
        "backup_statistics",
        "backup_trends",
        "target_last_backup",
    ] {
        catalog.query(&format!("SELECT * FROM {view}"), 10).await.unwrap();
    }
}

#[tokio::test]
async fn queries_only_read_and_only_the_catalog() {
    let (directory, path) = place();
    let catalog = open(&path).catalog;
    catalog.insert_backup(backup(1)).await.unwrap();
    let secret = directory.path().join("secret.csv");
    std::fs::write(&secret, "a,b\n1,2\n").unwrap();
    let secret = secret.display().to_string();
    let database = path.display().to_string().replace('\'', "''");
    for refused in [
        "DELETE FROM backup_records".to_owned(),
        "SELECT 1; DROP TABLE backup_records".to_owned(),
        "INSERT INTO hosts VALUES (1)".to_owned(),
        "WITH a AS (SELECT 1) DELETE FROM hosts".to_owned(),
        format!("SELECT * FROM '{secret}'"),
        format!("SELECT * FROM read_csv('{secret}')"),
        format!("SELECT * FROM (SELECT * FROM read_text('{secret}'))"),
        format!("SELECT (SELECT content FROM read_blob('{database}'))"),
        format!("COPY hosts TO '{secret}'"),
        format!("ATTACH '{secret}' AS other"),
        format!("EXPLAIN ANALYZE COPY hosts TO '{secret}'"),
        "SELECT * FROM glob('/*')".to_owned(),
        "SELECT * FROM query('DROP TABLE hosts')".to_owned(),
        "SET enable_external_access = true".to_owned(),
        "PRAGMA database_list".to_owned(),
        "INSTALL httpfs".to_owned(),
        "CHECKPOINT".to_owned(),
        String::new(),
    ] {
        assert!(catalog.query(&refused, 10).await.is_err(), "allowed: {refused}");
    }
    for allowed in [
        "SELECT count(*) FROM backup_records;",
        "WITH a AS (SELECT 1 AS one) SELECT * FROM a",
        "FROM backup_records",
        "EXPLAIN SELECT * FROM hosts",
        "DESCRIBE hosts",
        "SHOW TABLES",
    ] {
        let result = catalog.query(allowed, 10).await;
        assert!(result.is_ok_and(|rows| !rows.rows.is_empty()), "refused: {allowed}");
    }
    let rows = catalog.query("SELECT id, created_at, status FROM backup_records", 1).await.unwrap();
    assert_eq!(rows.columns, ["id", "created_at", "status"]);
    assert_eq!(rows.rows, [[json!(1), json!(at(1).to_string()), json!("Succeeded")]]);
    let many = catalog.query("SELECT * FROM range(100)", 5).await.unwrap();
    assert_eq!((many.rows.len(), many.truncated), (5, true));
}

fn synthetic() -> Vec<Migration> {
    let mut migrations = MIGRATIONS.to_vec();
    let version = MIGRATIONS.last().unwrap().version + 1;
    migrations.push(Migration {
        version,
        description: "more",
        sql: "ALTER TABLE hosts ADD COLUMN region VARCHAR",
    });
    migrations
}

#[tokio::test]
async fn an_older_file_is_migrated_and_a_newer_one_refused() {
    let (_directory, path) = place();
    let catalog = open(&path).catalog;
    catalog.insert_backup(backup(1)).await.unwrap();
    catalog.close().await.unwrap();
    let opened = Catalog::open_with(&path, &options(), synthetic()).unwrap();
    assert_eq!(opened.report.migrated_from, Some(1));
    assert!(opened.report.kept_copy.unwrap().is_file());
    assert_eq!(opened.catalog.backups(BackupFilter::default()).await.unwrap().len(), 1);
    opened.catalog.close().await.unwrap();
    match Catalog::open(&path, &options()) {
        Err(CatalogError::Newer { found: 2, supported: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
    let mut changed = synthetic();
    changed[0].sql = "SELECT 1";
    let error = Catalog::open_with(&path, &options(), changed).unwrap_err();
    assert!(matches!(error, CatalogError::MigrationChanged { version: 1, .. }), "{error}");
}

#[tokio::test]
async fn damage_is_set_aside_and_strangers_are_left_alone() {
    let (directory, path) = place();
    let catalog = open(&path).catalog;
    assert!(matches!(
        Catalog::open(&path, &options()),
        Err(CatalogError::Held { holder: Some(Holder { pid, .. }), .. }) if pid == std::process::id()
    ));
    catalog.insert_backup(backup(1)).await.unwrap();
    catalog.checkpoint().await.unwrap();
    for number in 2..20 {
        catalog.insert_backup(backup(number)).await.unwrap();
    }
    // The files as a crash at this moment would leave them.
    let (path, running) = (directory.path().join("crashed.duckdb"), path);
    std::fs::copy(&running, &path).unwrap();
    let mut log = std::fs::read(open::beside(&running, ".wal")).unwrap();
    let middle = log.len() / 2;
    log[middle] ^= 0x10;
    std::fs::write(open::beside(&path, ".wal"), log).unwrap();
    catalog.close().await.unwrap();
    let Opened { catalog, report } = open(&path);
    assert!(report.needs_rebuild && report.unclean && !report.created, "{report:?}");
    assert_eq!(report.set_aside.len(), 1);
    assert_eq!(catalog.backups(BackupFilter::default()).await.unwrap().len(), 1);
    catalog.close().await.unwrap();
    let length = path.metadata().unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length / 4).unwrap();
    let Opened { catalog, report } = open(&path);
    assert!(report.needs_rebuild && report.created);
    assert!(report.set_aside[0].exists());
    catalog.close().await.unwrap();
    let stranger = directory.path().join("passwd");
    std::fs::write(&stranger, "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    assert!(matches!(Catalog::open(&stranger, &options()), Err(CatalogError::NotACatalog { .. })));
    assert!(std::fs::read_to_string(&stranger).unwrap().starts_with("root:"));
}

/// Not a test of its own: what the test below runs in another process.
#[test]
fn child_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os("EIDER_TEST_CATALOG_CHILD") else { return };
    let catalog = open(Path::new(&path)).catalog;
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for number in 0.. {
            catalog.append_journal(entry(&format!("n{number}"), "s", Mark::Done)).await.unwrap();
            catalog.insert_backup(backup(number)).await.unwrap();
            println!("acknowledged {number}");
        }
    });
}

#[tokio::test]
async fn a_killed_holder_is_named_and_loses_nothing_acknowledged() {
    use std::io::{BufRead as _, BufReader};
    let (_directory, path) = place();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["catalog::tests::child_that_writes_until_it_is_killed", "--exact", "--nocapture"])
        .env("EIDER_TEST_CATALOG_CHILD", &path)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let acknowledged = |line: &str| line.strip_prefix("acknowledged ")?.parse::<usize>().ok();
    let mut last = 0;
    while last < 20 {
        last = acknowledged(&lines.next().unwrap().unwrap()).unwrap_or(last);
    }
    match Catalog::open(&path, &options()) {
        Err(CatalogError::Held { holder: Some(holder), .. }) => {
            assert_eq!(holder.pid, child.id());
            assert!(holder.command.is_some());
        }
        other => panic!("{other:?}"),
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for line in lines.map_while(Result::ok) {
        last = acknowledged(&line).unwrap_or(last);
    }
    let Opened { catalog, report } = open(&path);
    assert!(report.unclean && !report.needs_rebuild, "{report:?}");
    let kept = catalog.backups(BackupFilter::default()).await.unwrap();
    assert!(kept.len() > last, "{} of {last}", kept.len());
    assert!(catalog.open_operations().await.unwrap().len() > last);
}

#[tokio::test]
async fn the_socket_answers_as_the_owner_does() {
    let (directory, path) = place();
    let local = open(&path).catalog;
    let socket = directory.path().join("s.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(axum::serve(listener, serve_router(local.clone())).into_future());
    let remote = Catalog::remote(&socket);
    let id = remote.insert_backup(backup(1)).await.unwrap();
    let key = || BackupKey::Id(id);
    assert_eq!(remote.backup(key()).await.unwrap(), local.backup(key()).await.unwrap());
    assert_eq!(remote.configuration().await.unwrap(), local.configuration().await.unwrap());
    let sql = || "SELECT * FROM backup_records".to_owned();
    assert_eq!(remote.query(&sql(), 9).await.unwrap(), local.query(&sql(), 9).await.unwrap());
    let far = remote.set_configuration("none", json!(1), at(0)).await.unwrap_err();
    let near = local.set_configuration("none", json!(1), at(0)).await.unwrap_err();
    assert_eq!(far.body(), near.body());
    remote.close().await.unwrap();
    assert!(local.state().await.is_ok(), "a caller may not end the owner");
    server.abort();
}

#[tokio::test]
async fn a_copy_can_take_the_catalogs_place() {
    let (directory, path) = place();
    let catalog = open(&path).catalog;
    catalog.insert_backup(backup(1)).await.unwrap();
    let copy = directory.path().join("copy.duckdb");
    catalog.back_up_to(&copy).await.unwrap();
    assert!(catalog.back_up_to(&copy).await.is_err());
    catalog.insert_backup(backup(2)).await.unwrap();
    let kept = catalog.restore_from(&copy, at(5)).await.unwrap();
    assert!(kept[0].is_file());
    assert_eq!(catalog.backups(BackupFilter::default()).await.unwrap().len(), 1);
    let rubbish = directory.path().join("rubbish");
    std::fs::write(&rubbish, "no").unwrap();
    assert!(catalog.restore_from(&rubbish, at(6)).await.is_err());
    assert_eq!(catalog.backups(BackupFilter::default()).await.unwrap().len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_path_is_kept_as_it_is(tail in "[^\0]{0,40}") {
        let (_directory, path) = place();
        let catalog = open(&path).catalog;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let value = format!("/{tail}");
        let key = "auto_backup_directory".to_owned();
        let settings = runtime.block_on(async {
            catalog.set_configuration(&key, Value::from(value.clone()), at(1)).await.unwrap();
            let set = catalog.settings().await.unwrap();
            catalog.reset_configuration(&key, at(2)).await.unwrap();
            prop_assert_eq!(catalog.settings().await.unwrap(), Settings::from_entries(&[]));
            Ok(set)
        })?;
        prop_assert_eq!(settings.default_directory, value);
    }
}
