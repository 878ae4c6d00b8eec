//! The owner thread: takes requests in their order and answers each.
//!
//! Every write is committed, and with that on disk, before its answer is sent.

use duckdb::types::Value as Cell;
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};

use super::activity::HistoryFilter;
use super::backup::{BackupFilter, BackupKey, BackupRecord, RecordStatus, UpgradeRecord};
use super::configuration::{self, ConfigEntry};
use super::current::{
    ApplicationState, CurrentService, ResourceRecord, ScheduledTask, SessionState,
};
use super::error::CatalogError;
use super::group::{self, Queue};
use super::request::{Reply, Request};
use super::row::{Record, time_cell};
use super::store::{Store, text};
use super::{check, export, maintenance, query};
use crate::failpoint;
use crate::plan::OperationId;

/// A request and where its answer goes.
pub(super) struct Message {
    pub request: Request,
    pub reply: oneshot::Sender<Result<Reply, CatalogError>>,
}

/// Answers requests until all handles are gone or one asks to close; `trouble` says why the latest write
/// failed, if it did.
pub(super) fn run(
    mut store: Store,
    requests: mpsc::Receiver<Message>,
    trouble: &watch::Sender<Option<String>>,
) {
    let mut queue = Queue::new(requests);
    while let Some(group) = queue.take() {
        let writes = group.iter().any(|message| message.request.writes_a_row());
        let answers = if group.len() > 1 { group::answers(&mut store, &group) } else { None };
        if let Some(answers) = answers {
            if writes {
                store.keep_private();
                tell(trouble, None);
            }
            for (message, answer) in group.into_iter().zip(answers) {
                // Nobody waits for the answer of a cancelled call.
                let _ = message.reply.send(Ok(answer));
            }
            continue;
        }
        for Message { request, reply } in group {
            let closing = matches!(request, Request::Close);
            let writes = request.writes_a_row();
            let answer = answer(&mut store, request);
            if writes {
                store.keep_private();
                tell(trouble, answer.as_ref().err());
            }
            if let Err(CatalogError::Statement { message, .. }) = &answer
                && (message.contains("has been invalidated") || message.contains("FATAL"))
            {
                // The engine refuses everything from here on; what was committed is in its log.
                tracing::error!(message, "the catalog's engine failed; opening the file again");
                if let Err(error) = store.reopen() {
                    tracing::error!(%error, "the catalog cannot be opened again");
                }
            }
            let _ = reply.send(answer);
            if closing {
                return;
            }
        }
    }
    if let Err(error) = store.close() {
        tracing::error!(%error, "the catalog was not closed cleanly");
    }
}

/// Says how the latest write went, if it is news. A request that makes no sense says nothing about the file.
fn tell(trouble: &watch::Sender<Option<String>>, error: Option<&CatalogError>) {
    if matches!(error, Some(CatalogError::Invalid { .. })) {
        return;
    }
    let news = error.map(ToString::to_string);
    trouble.send_if_modified(|known| {
        // Two requests fail in different words by the same cause.
        let is_news = known.is_some() != news.is_some();
        if is_news {
            *known = news;
        }
        is_news
    });
}

/// Carries a request out.
pub(super) fn answer(store: &mut Store, request: Request) -> Result<Reply, CatalogError> {
    Ok(match request {
        Request::AppendJournal(entry) => Reply::Id(store.append(&entry)?),
        Request::Journal(operation) => Reply::Journal(
            store.select("WHERE operation = ? ORDER BY id", &[text(operation.to_string())])?,
        ),
        Request::OpenOperations => Reply::Operations(open_operations(store)?),
        Request::PruneJournal { before } => {
            Reply::Count(maintenance::prune_journal(store, before)?)
        }
        Request::PutResource(record) => {
            let key = resource_key(&record.kind, &record.namespace, &record.name);
            store.rewrite(RESOURCE_KEY, &key, &*record)?;
            Reply::Done
        }
        Request::Resource { kind, namespace, name } => {
            let key = resource_key(&kind, &namespace, &name);
            Reply::Resource(first(store.select(RESOURCE_KEY, &key)?))
        }
        Request::Resources { kind } => Reply::Resources(match kind {
            Some(kind) => store.select(
                "WHERE kind = ? AND removed_at IS NULL ORDER BY namespace, name",
                &[text(kind)],
            )?,
            None => store.select("WHERE removed_at IS NULL ORDER BY kind, namespace, name", &[])?,
        }),
        Request::Labelled { kind, namespace, label, value } => Reply::Resources(store.select(
            "WHERE kind = ? AND namespace = ? AND removed_at IS NULL AND (document->>?) = ? \
             ORDER BY name",
            &[
                text(kind),
                text(namespace),
                text(format!("$.metadata.labels.\"{label}\"")),
                text(value),
            ],
        )?),
        Request::RemoveResource { kind, namespace, name, at } => {
            remove_resource(store, &kind, &namespace, &name, at)?
        }
        Request::InsertBackup(record) => Reply::Id(insert_backup(store, *record)?),
        Request::UpdateBackup(record) => {
            rewrite_backup(store, &record)?;
            Reply::Done
        }
        Request::Backup(key) => Reply::Backup(first(find_backup(store, &key)?)),
        Request::Backups(filter) => Reply::Backups(list_backups(store, &filter)?),
        Request::MarkBackupDeleted { id, at } => {
            let mut record =
                first(find_backup(store, &BackupKey::Id(id))?).ok_or_else(|| no_backup(id))?;
            // A failure that is cleared away stays a failure: nobody may take it for a backup that was.
            if record.status != RecordStatus::Failed {
                record.status = RecordStatus::Deleted;
            }
            record.deleted_at = Some(at);
            rewrite_backup(store, &record)?;
            Reply::Done
        }
        Request::MarkBackupGone { seen, message, at } => {
            let found = first(find_backup(store, &BackupKey::Id(seen.id))?);
            // Moved, written again, ended or begun meanwhile: nobody has looked for that one.
            let Some(mut record) = found.filter(|found| found.tells_of_the_archive_of(&seen))
            else {
                return Ok(Reply::Count(0));
            };
            if record.status == RecordStatus::Succeeded {
                record.status = RecordStatus::Deleted;
                record.error_message = Some(message);
            }
            record.deleted_at = Some(at);
            rewrite_backup(store, &record)?;
            Reply::Count(1)
        }
        Request::PutUpgrade(record) => Reply::Id(put_upgrade(store, *record)?),
        Request::Upgrades(filter) => {
            Reply::Upgrades(history(store, &filter, "target", "created_at")?)
        }
        Request::AppendUserAction(action) => Reply::Id(store.append(&*action)?),
        Request::UserActions(filter) => {
            Reply::UserActions(history(store, &filter, "action_type", "started_at")?)
        }
        Request::AppendChecks(checks) => store.append_all(&checks)?,
        Request::Checks(filter) => {
            Reply::Checks(history(store, &filter, "check_type", "checked_at")?)
        }
        Request::AppendMetrics(metrics) => store.append_all(&metrics)?,
        Request::Metrics(filter) => {
            Reply::Metrics(history(store, &filter, "metric_name", "recorded_at")?)
        }
        Request::AppendServiceStatuses(statuses) => {
            let reply = store.append_all(&statuses)?;
            for status in statuses {
                let key = [text(status.service_name.clone())];
                let current = CurrentService::from(status);
                store.rewrite("WHERE service_name = ?", &key, &current)?;
            }
            reply
        }
        Request::ServiceHistory(filter) => {
            Reply::ServiceHistory(history(store, &filter, "service_name", "recorded_at")?)
        }
        Request::CurrentServices => {
            Reply::CurrentServices(store.select("ORDER BY service_name", &[])?)
        }
        Request::AppendNotification(sent) => Reply::Id(store.append(&*sent)?),
        Request::Notifications(filter) => {
            Reply::Notifications(history(store, &filter, "channel", "sent_at")?)
        }
        Request::PutHost(host) => {
            store.rewrite("WHERE name = ?", &[text(host.name.clone())], &host)?;
            Reply::Done
        }
        Request::Hosts => Reply::Hosts(store.select("ORDER BY name", &[])?),
        Request::PutScheduledTask(task) => {
            let key = [text(task.namespace.clone()), text(task.task_name.clone())];
            store.rewrite(TASK_KEY, &key, &*task)?;
            Reply::Done
        }
        Request::ScheduledTasks => {
            Reply::ScheduledTasks(store.select("ORDER BY namespace, task_name", &[])?)
        }
        Request::RemoveScheduledTask { namespace, name } => {
            let sql = format!("DELETE FROM {} {TASK_KEY}", ScheduledTask::TABLE);
            Reply::Count(store.execute(&sql, &[text(namespace), text(name)])?)
        }
        Request::Configuration => Reply::Configuration(store.select("ORDER BY config_key", &[])?),
        Request::SetConfiguration { key, value, at } => {
            set_configuration(store, &key, Some(value), at)?
        }
        Request::ResetConfiguration { key, at } => set_configuration(store, &key, None, at)?,
        Request::StartSession { session, at } => {
            let data =
                SessionState { session: Some(session), last_start: Some(at), last_stop: None };
            put_state(store, "RUNNING", data, None, at)?
        }
        Request::StopSession { error, at } => {
            let state: Option<ApplicationState> = store.select("", &[])?.pop();
            let mut data = state.map(|state| state.state_data).unwrap_or_default();
            data.last_stop = Some(at);
            put_state(store, "STOPPED", data, error, at)?
        }
        Request::State => Reply::State(store.select("", &[])?.pop()),
        Request::Query { sql, limit } => Reply::Rows(query::run(store, &sql, limit)?),
        Request::Export { directory } => Reply::Paths(export::parquet(store, &directory)?),
        Request::BackUpTo { file } => {
            export::copy_to(store, &file)?;
            Reply::Done
        }
        Request::RestoreFrom { file, at } => {
            Reply::Paths(vec![export::replace_by(store, &file, at)?])
        }
        Request::Check { archives } => Reply::Findings(check::run(store, &archives)?),
        Request::Maintain { at } => Reply::Maintenance(maintenance::run(store, at)?),
        Request::Rebuild { backups } => Reply::Rebuild(maintenance::rebuild(store, backups)?),
        Request::Checkpoint => {
            super::open::checkpoint(store.connection()?)?;
            Reply::Done
        }
        Request::Close => {
            store.end()?;
            Reply::Done
        }
    })
}

const RESOURCE_KEY: &str = "WHERE kind = ? AND namespace = ? AND name = ?";
const TASK_KEY: &str = "WHERE namespace = ? AND task_name = ?";

fn resource_key(kind: &str, namespace: &str, name: &str) -> [Cell; 3] {
    [text(kind), text(namespace), text(name)]
}

fn first<T>(rows: Vec<T>) -> Option<Box<T>> {
    rows.into_iter().next().map(Box::new)
}

fn no_backup(id: i64) -> CatalogError {
    CatalogError::invalid(format!("backup {id}"), format!("there is no backup record {id}"))
}

fn open_operations(store: &Store) -> Result<Vec<OperationId>, CatalogError> {
    let failed = |error: String| CatalogError::statement("list open operations", error);
    let mut statement = store
        .connection()?
        .prepare(
            "SELECT operation FROM operation_journal GROUP BY operation \
             HAVING count(*) FILTER (WHERE step = 'operation' AND mark IN ('Done', 'Failed')) = 0 \
             ORDER BY min(id)",
        )
        .map_err(|error| failed(error.to_string()))?;
    let names: Vec<String> = statement
        .query_map([], |row| row.get(0))
        .and_then(Iterator::collect)
        .map_err(|error| failed(error.to_string()))?;
    names.iter().map(|name| name.parse().map_err(failed)).collect()
}

fn remove_resource(
    store: &Store,
    kind: &str,
    namespace: &str,
    name: &str,
    at: Timestamp,
) -> Result<Reply, CatalogError> {
    let key = resource_key(kind, namespace, name);
    let Some(mut record) = first::<ResourceRecord>(store.select(RESOURCE_KEY, &key)?) else {
        return Ok(Reply::Count(0));
    };
    record.removed_at = Some(at);
    Ok(Reply::Count(store.rewrite(RESOURCE_KEY, &key, &*record)?))
}

fn insert_backup(store: &mut Store, mut record: BackupRecord) -> Result<i64, CatalogError> {
    // The same archive recorded twice is a repeated attempt after a crash, not a second backup.
    let same = find_backup(store, &BackupKey::Name(record.backup_name.clone()))?;
    record.id = match same.iter().find(|present| present.is_same_archive(&record)) {
        Some(present) => present.id,
        None => store.next_number::<BackupRecord>()?,
    };
    put_backup(store, &record)?;
    Ok(record.id)
}

fn rewrite_backup(store: &Store, record: &BackupRecord) -> Result<(), CatalogError> {
    if find_backup(store, &BackupKey::Id(record.id))?.is_empty() {
        return Err(no_backup(record.id));
    }
    put_backup(store, record)
}

fn put_backup(store: &Store, record: &BackupRecord) -> Result<(), CatalogError> {
    store.transaction(|store| {
        store.execute("DELETE FROM backup_records WHERE id = ?", &[Cell::BigInt(record.id)])?;
        super::row::insert(store.connection()?, record, None)?;
        failpoint::hit("catalog.before-commit");
        Ok(())
    })?;
    failpoint::hit("catalog.after-commit");
    Ok(())
}

fn find_backup(store: &Store, key: &BackupKey) -> Result<Vec<BackupRecord>, CatalogError> {
    match key {
        BackupKey::Id(id) => store.select("WHERE id = ?", &[Cell::BigInt(*id)]),
        BackupKey::Name(name) => store.select("WHERE backup_name = ?", &[text(name)]),
        BackupKey::Object { namespace, name } => store.select(
            "WHERE (backup_metadata->>'$.namespace') = ? AND (backup_metadata->>'$.object') = ? \
             ORDER BY created_at DESC, id DESC LIMIT 1",
            &[text(namespace), text(name)],
        ),
    }
}

fn list_backups(store: &Store, filter: &BackupFilter) -> Result<Vec<BackupRecord>, CatalogError> {
    let mut clause = "WHERE true".to_owned();
    let mut parameters = Vec::new();
    let texts = [
        (" AND target = ?", filter.target.as_deref()),
        (" AND (backup_metadata->>'$.namespace') = ?", filter.namespace.as_deref()),
        (" AND (backup_metadata->>'$.object') = ?", filter.object.as_deref()),
        (" AND (backup_metadata->>'$.schedule') = ?", filter.schedule.as_deref()),
        (" AND (backup_metadata->>'$.store') = ?", filter.store.as_deref()),
        (" AND status = ?", filter.status.map(RecordStatus::as_str)),
    ];
    for (condition, value) in texts {
        if let Some(value) = value {
            clause.push_str(condition);
            parameters.push(text(value));
        }
    }
    if filter.verified {
        clause.push_str(
            " AND status = 'Succeeded' AND verified_at IS NOT NULL AND deleted_at IS NULL",
        );
    }
    if let Some(since) = filter.since {
        clause.push_str(" AND created_at >= ?");
        parameters.push(time_cell(since));
    }
    clause.push_str(" ORDER BY created_at DESC, id DESC");
    if let Some(limit) = filter.limit {
        clause.push_str(" LIMIT ?");
        parameters.push(Cell::BigInt(i64::from(limit)));
    }
    store.select(&clause, &parameters)
}

fn put_upgrade(store: &mut Store, mut record: UpgradeRecord) -> Result<i64, CatalogError> {
    let key = [text(record.upgrade_id.clone())];
    let same: Vec<UpgradeRecord> = store.select("WHERE upgrade_id = ?", &key)?;
    record.id = match same.first() {
        Some(present) => present.id,
        None => store.next_number::<UpgradeRecord>()?,
    };
    store.rewrite("WHERE upgrade_id = ?", &key, &record)?;
    Ok(record.id)
}

fn history<R: Record>(
    store: &Store,
    filter: &HistoryFilter,
    name_column: &str,
    time_column: &str,
) -> Result<Vec<R>, CatalogError> {
    let mut clause = "WHERE true".to_owned();
    let mut parameters = Vec::new();
    if let Some(name) = &filter.name {
        clause = format!("{clause} AND {name_column} = ?");
        parameters.push(text(name));
    }
    if let Some(since) = filter.since {
        clause = format!("{clause} AND {time_column} >= ?");
        parameters.push(time_cell(since));
    }
    clause = format!("{clause} ORDER BY {time_column} DESC, id DESC");
    if let Some(limit) = filter.limit {
        clause.push_str(" LIMIT ?");
        parameters.push(Cell::BigInt(i64::from(limit)));
    }
    store.select(&clause, &parameters)
}

fn set_configuration(
    store: &Store,
    key: &str,
    value: Option<serde_json::Value>,
    at: Timestamp,
) -> Result<Reply, CatalogError> {
    let rows: Vec<ConfigEntry> = store.select("WHERE config_key = ?", &[text(key)])?;
    let Some(mut entry) = rows.into_iter().next() else {
        return Err(CatalogError::invalid(key, format!("there is no setting `{key}`")));
    };
    if !entry.is_user_editable {
        return Err(CatalogError::invalid(key, format!("`{key}` is set by the program itself")));
    }
    let value = value.unwrap_or_else(|| entry.default_value.clone());
    configuration::validate(&entry, &value)?;
    entry.config_value = value;
    entry.updated_at = at;
    store.rewrite("WHERE config_key = ?", &[text(key)], &entry)?;
    Ok(Reply::Done)
}

fn put_state(
    store: &Store,
    word: &str,
    data: SessionState,
    error: Option<String>,
    at: Timestamp,
) -> Result<Reply, CatalogError> {
    let before: Option<ApplicationState> = store.select("", &[])?.pop();
    let state = ApplicationState {
        id: 1,
        current_state: word.to_owned(),
        state_data: data,
        last_error: error,
        created_at: before.map_or(at, |state| state.created_at),
        updated_at: at,
    };
    store.rewrite("", &[], &state)?;
    Ok(Reply::Done)
}
