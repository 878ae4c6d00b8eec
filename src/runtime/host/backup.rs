//! The actions of a Backup on a host.

use std::num::NonZeroUsize;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::parent;
use super::place::lies_in;
use super::store::{local_path, open_store};
use super::{Handles, HostRuntime, blocking, unsupported};
use crate::engine::{
    self, Cancel, LocalStore, Manifest, ManifestRoot, PackOptions, PackSummary, PendingArchive,
};
use crate::failpoint;
use crate::plan::backup::step;
use crate::plan::{
    self, Action, ArchiveFacts, ArchivePresence, BackupJob, Failure, Job, Log, ParentFacts,
    PreflightFacts, SealFacts, StoreBinding, VerifyFacts, guard, names,
};
use crate::runtime::priority::in_background;
use crate::spec::{BackupType, ByteSize, Reason, VerifyMode};

/// Written with the intent of the archive step: what a later start has to look for.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Reservation {
    archive: String,
}

/// The archive of this operation, as the journal names it.
pub fn archive_name(log: &Log<'_>) -> Option<String> {
    log.intent::<Reservation>(step::ARCHIVE).map(|reservation| reservation.archive)
}

pub(super) fn presence(store: &StoreBinding, name: &str) -> Result<ArchivePresence, Failure> {
    let path = local_path(store)?;
    if !path.is_dir() {
        return Ok(ArchivePresence::Absent);
    }
    let store = LocalStore::open(&path, &store.name, false)?;
    Ok(if store.has_manifest(name) {
        ArchivePresence::Sealed
    } else if store.has_any(name) {
        ArchivePresence::Unfinished
    } else {
        ArchivePresence::Absent
    })
}

/// The name that an archive of this job is to have if nobody else has it.
pub fn wanted_name(job: &BackupJob) -> String {
    names::archive_name(
        job.spec.trigger,
        job.spec.service_version.as_deref(),
        Timestamp::now(),
        job.spec.archive.format,
    )
}

/// What the intent of the archive step says when it is written before a store can be looked into.
pub fn wanted(name: String) -> Value {
    json!(Reservation { archive: name })
}

/// Picks the archive's name, the one that is wanted already if there is one, and makes its temporary
/// file.
pub(super) fn reserve(
    job: &BackupJob,
    wanted: Option<String>,
) -> Result<(PendingArchive, Value), Failure> {
    let store = open_store(&job.store)?;
    let name = wanted.unwrap_or_else(|| wanted_name(job));
    let pending = store.begin(&name)?;
    let reservation = Reservation { archive: pending.name().to_owned() };
    Ok((pending, json!(reservation)))
}

/// Removes what a writer that is gone has left of the archive under its temporary name.
pub fn discard_partial(job: &Job, log: &Log<'_>) -> Result<(), Failure> {
    if let (Job::Backup(job), Some(name)) = (job, archive_name(log)) {
        open_store(&job.store)?.discard(&name)?;
    }
    Ok(())
}

pub(super) async fn perform(
    runtime: &HostRuntime,
    job: &BackupJob,
    action: &Action,
    log: Log<'_>,
    handles: Handles,
) -> Result<Value, Failure> {
    let work = job.clone();
    match action {
        Action::Preflight => in_background(move || Ok(json!(preflight(&work, &handles)?))).await,
        Action::Archive => {
            let pending = runtime.take(&job.operation).ok_or_else(|| {
                Failure::new(Reason::InternalError, "the archive has no temporary file")
            })?;
            let known: PreflightFacts = log.facts(step::PREFLIGHT).unwrap_or_default();
            let (pending, facts) =
                in_background(move || archive(&work, known.parent, pending, &handles)).await?;
            runtime.keep(&job.operation, pending);
            Ok(json!(facts))
        }
        Action::Seal => {
            let pending = runtime.take(&job.operation);
            let facts: ArchiveFacts = log.facts(step::ARCHIVE).ok_or_else(|| {
                Failure::new(Reason::InternalError, "the journal has no facts of the archive")
            })?;
            let downtime = downtime_seconds(&log);
            blocking(move || seal(&work, pending, &facts, downtime, &handles)).await
        }
        Action::Verify { mode } => {
            let mode = *mode;
            let facts: ArchiveFacts = log.facts(step::ARCHIVE).unwrap_or_default();
            in_background(move || verify(&work, &facts, mode, &handles)).await
        }
        Action::DiscardArchive => {
            drop(runtime.take(&job.operation));
            let facts: Option<ArchiveFacts> = log.facts(step::ARCHIVE);
            let name = facts.map(|facts| facts.name).or_else(|| archive_name(&log));
            blocking(move || discard(&work, name.as_deref())).await
        }
        other => Err(unsupported(other)),
    }
}

/// How long the service was held still, in seconds.
fn downtime_seconds(log: &Log<'_>) -> Option<f64> {
    plan::status::downtime(log).map(|span| span.as_secs_f64())
}

fn options(job: &BackupJob) -> Result<PackOptions, Failure> {
    let host = job.spec.target.host.as_ref().ok_or_else(|| {
        Failure::new(Reason::UnsupportedTarget, "the target names no paths on this host")
    })?;
    let mut roots = engine::name_roots(&host.paths)?;
    for (root, name) in roots.iter_mut().zip(&job.root_names) {
        root.name.clone_from(name);
    }
    Ok(PackOptions {
        roots,
        exclude: job.spec.exclude.clone(),
        format: job.spec.archive.format,
        level: job.spec.archive.level,
        threads: job.spec.archive.threads.and_then(|count| NonZeroUsize::new(count.into())),
        io_limit: job.spec.archive.io_limit.as_ref().map(ByteSize::bytes),
        allow_unreadable: job.spec.allow_unreadable,
        cross_file_systems: job.spec.cross_file_systems,
        definitions: definitions(job),
        ..PackOptions::default()
    })
}

/// How the containers and volumes were made whose data it is.
fn definitions(job: &BackupJob) -> Option<Value> {
    job.definitions.as_ref().map(|definitions| json!(definitions))
}

/// What a backup finds before it begins; changes nothing.
pub(super) fn preflight(job: &BackupJob, handles: &Handles) -> Result<PreflightFacts, Failure> {
    let mut options = options(job)?;
    let store_path = local_path(&job.store)?;
    if let Some(root) = options.roots.iter().find(|root| lies_in(&store_path, &root.path)) {
        return Err(Failure::new(
            Reason::InvalidSpec,
            format!(
                "store {} ({}) lies inside {}, which is to be backed up",
                job.store.name,
                store_path.display(),
                root.path.display()
            ),
        )
        .hint("keep the store outside what it backs up"));
    }
    let mut checks = Vec::new();
    let mut check = |name: &str, found: String| {
        checks.push((name.to_owned(), "PASS".to_owned(), found));
    };
    let store = open_store(&job.store)?;
    store.check_writable()?;
    check("PERMISSIONS", format!("{} is writable", store_path.display()));
    let (parent, warnings) = parent::choose(job, &store, handles)?;
    if let Some(parent) = &parent {
        check("PARENT", format!("{} is continued", parent.name));
        options.parent = parent::options(&store, parent).ok();
    }
    handles.progress.phase("looking");
    let estimate = engine::estimate(&options, &handles.cancel)?;
    if !estimate.unreadable.is_empty() && !job.spec.allow_unreadable {
        return Err(engine::EngineError::Unreadable {
            total: usize::try_from(estimate.unreadable_count).unwrap_or(usize::MAX),
            paths: estimate
                .unreadable
                .iter()
                .map(|found| format!("{} ({})", found.path, found.message))
                .collect(),
        }
        .into());
    }
    check("SOURCE", format!("{} entries, {} bytes", estimate.entries, estimate.bytes));
    let free = store.free_bytes()?;
    let min_free = job.store.spec.min_free.as_ref().map_or(0, crate::spec::ByteSize::bytes);
    guard::check_space(estimate.allocated_bytes, job.spec.archive.format, min_free, free).map_err(
        |found| {
            Failure::new(
                Reason::NotEnoughSpace,
                format!(
                    "not enough space in store {} ({}): {found}",
                    job.store.name,
                    store_path.display()
                ),
            )
            .hint("remove old backups, or keep the store on a larger file system")
        },
    )?;
    check("STORAGE_SPACE", format!("{free} bytes free"));
    Ok(PreflightFacts {
        estimated_bytes: estimate.bytes,
        estimated_entries: estimate.entries,
        live_data: estimate.entries > 0,
        live_paths: Vec::new(),
        all_live: false,
        from_version: None,
        from_namespace: None,
        claims: Vec::new(),
        places: Vec::new(),
        definitions: None,
        not_put_back: Vec::new(),
        mover: None,
        parent,
        warnings,
        checks,
    })
}

/// A first backup has no other to be judged against, so that the guards cannot speak.
const EMPTY: &str = "the source holds no file; check that what is to be backed up is mounted";

fn archive(
    job: &BackupJob,
    parent: Option<ParentFacts>,
    mut pending: PendingArchive,
    handles: &Handles,
) -> Result<(PendingArchive, ArchiveFacts), Failure> {
    let mut options = options(job)?;
    let (parent, gone) = parent::confirm(&open_store(&job.store)?, parent, handles)?;
    options.parent = parent;
    let started_at = Timestamp::now();
    handles.progress.phase("archiving");
    let summary = engine::pack(&options, &mut pending, handles.progress.as_ref(), &handles.cancel)?;
    let unexpected = summary.counts.files == 0 && !job.spec.guards.allow_empty;
    let empty = unexpected.then_some(EMPTY);
    let facts = ArchiveFacts {
        name: pending.name().to_owned(),
        service_version: job.spec.service_version.clone(),
        entries: summary.counts.entries,
        files: summary.counts.files,
        source_bytes: summary.source_bytes,
        size_bytes: summary.archive_bytes,
        sha256: summary.sha256.clone(),
        content_digest: summary.content_digest.clone(),
        parent: options.parent.map(|parent| parent::facts(parent.archive)),
        warning_count: summary.warning_count
            + u64::from(empty.is_some())
            + u64::from(gone.is_some()),
        warnings: empty
            .map(str::to_owned)
            .into_iter()
            .chain(gone)
            .chain(
                summary
                    .warnings
                    .iter()
                    .take(100)
                    .map(|warning| format!("{}: {}", warning.path, warning.message)),
            )
            .collect(),
        started_at: Some(started_at),
        runtime: json!(summary),
    };
    Ok((pending, facts))
}

fn manifest(
    job: &BackupJob,
    facts: &ArchiveFacts,
    downtime: Option<f64>,
) -> Result<Manifest, Failure> {
    let summary: PackSummary = serde_json::from_value(facts.runtime.clone()).map_err(|error| {
        Failure::new(Reason::InternalError, format!("the journal's facts do not decode: {error}"))
    })?;
    let now = Timestamp::now();
    let created_at = facts.started_at.unwrap_or(now);
    let roots = options(job)?
        .roots
        .iter()
        .map(|root| ManifestRoot {
            name: root.name.clone(),
            path: root.path.to_string_lossy().into_owned(),
        })
        .collect();
    let mut manifest = Manifest::new(&facts.name, job.spec.archive.format, &summary, created_at);
    manifest.namespace.clone_from(&job.operation.namespace);
    manifest.backup.clone_from(&job.operation.name);
    manifest.generation = Some(job.operation.generation);
    manifest.trigger = job.spec.trigger;
    manifest.backup_type = job.spec.backup_type;
    manifest.parent = facts.parent.clone().map(parent::named);
    if manifest.backup_type == BackupType::Incremental && manifest.parent.is_none() {
        manifest.backup_type = BackupType::Full;
    }
    manifest.exclude.clone_from(&job.spec.exclude);
    manifest.cross_file_systems = job.spec.cross_file_systems;
    let target = job.origin.as_ref().unwrap_or(&job.spec.target);
    manifest.target_summary = target.summary();
    manifest.target = target.clone();
    manifest.service_version.clone_from(&facts.service_version);
    manifest.description.clone_from(&job.spec.description);
    manifest.schedule.clone_from(&job.schedule);
    manifest.store.clone_from(&job.store.name);
    manifest.deletion_policy = job.spec.deletion_policy;
    manifest.host = host_name();
    manifest.completed_at = Some(now);
    manifest.expires_at =
        job.spec.expires_after.as_ref().and_then(|after| now.checked_add(after.to_signed()).ok());
    manifest.duration_seconds = now.duration_since(created_at).as_secs_f64().max(0.0);
    manifest.downtime_seconds = downtime;
    manifest.roots = roots;
    manifest.definitions = definitions(job);
    Ok(manifest)
}

/// The name of this machine.
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn seal(
    job: &BackupJob,
    pending: Option<PendingArchive>,
    facts: &ArchiveFacts,
    downtime: Option<f64>,
    handles: &Handles,
) -> Result<Value, Failure> {
    let store = open_store(&job.store)?;
    let location = store.archive_path(&facts.name).to_string_lossy().into_owned();
    if store.has_manifest(&facts.name) {
        // An earlier process sealed it and died before it could say so.
        return Ok(json!(SealFacts { location }));
    }
    handles.progress.phase("sealing");
    let manifest = manifest(job, facts, downtime)?;
    parent::check_there(&store, facts)?;
    match pending {
        Some(pending) => pending.seal(&manifest)?,
        // The process that wrote it is gone: what it left is taken over only if it is, byte for
        // byte, what the journal says was written.
        None => {
            store.check_left_behind(&facts.name, &facts.sha256, facts.size_bytes)?;
            store.publish(&facts.name)?;
            store.write_manifest(&manifest)?;
        }
    }
    Ok(json!(SealFacts { location }))
}

fn verify(
    job: &BackupJob,
    facts: &ArchiveFacts,
    mode: VerifyMode,
    handles: &Handles,
) -> Result<Value, Failure> {
    let store = open_store(&job.store)?;
    let name = facts.name.as_str();
    handles.progress.phase("verifying");
    let cancel = Cancel::default();
    let cancel = if mode == VerifyMode::Full { &handles.cancel } else { &cancel };
    // The parent was verified before anything was held still.
    engine::verify_newest(&store, name, mode, handles.progress.as_ref(), cancel)?;
    let verified_at = (mode == VerifyMode::Full).then(Timestamp::now);
    failpoint::hit("verify.proved");
    if let Some(at) = verified_at {
        store.mark_verified(name, at)?;
    }
    Ok(json!(VerifyFacts { verified_at }))
}

fn discard(job: &BackupJob, name: Option<&str>) -> Result<Value, Failure> {
    let path = local_path(&job.store)?;
    // A store that has vanished holds nothing to discard.
    if let (Some(name), true) = (name, path.is_dir()) {
        let store = LocalStore::open(&path, &job.store.name, false)?;
        store.discard(name)?;
        // A committed archive of that name may be somebody else's.
        let own = store.read_manifest(name).is_ok_and(|manifest| {
            manifest.backup == job.operation.name
                && manifest.namespace == job.operation.namespace
                && manifest.generation == Some(job.operation.generation)
        });
        if own {
            store.delete(name)?;
        }
    }
    Ok(Value::Null)
}
