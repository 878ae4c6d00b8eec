//! The actions of a Restore on a host.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::place::lies_in;
use super::store::{local_path, open_store};
use super::{Handles, blocking, unsupported};
use crate::engine::replace::{
    CarryRules, Replacement, ReplacementState as Found, StagedKind, Staging, carry_over,
};
use crate::engine::{self, EntryKind, Limits, LocalStore, Manifest, UnpackOptions};
use crate::plan::{
    Action, ExtractFacts, Failure, LiveFacts, Log, PreflightFacts, ReplacementState, RestoreJob,
    safety,
};
use crate::runtime::priority::in_background;
use crate::spec::{BackupTrigger, HostTarget, Reason, RestoreMode, Target, VerifyMode};

/// The operation's name in the names of its staging places.
fn key(job: &RestoreJob) -> String {
    blake3::hash(job.operation.to_string().as_bytes()).to_hex()[..12].to_owned()
}

fn paths(job: &RestoreJob) -> Vec<PathBuf> {
    let host = job.target.host.as_ref();
    let path = |path: &String| {
        let path = PathBuf::from(path);
        // A root that is a symlink stands for the tree it leads to: that is what was backed up, and
        // replacing the link itself would leave the tree behind.
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_symlink() => path.canonicalize().unwrap_or(path),
            _ => path,
        }
    };
    host.map(|host| host.paths.iter().map(path).collect()).unwrap_or_default()
}

fn replacement(job: &RestoreJob) -> Replacement {
    Replacement::new(key(job), paths(job))
}

pub(super) fn observe(job: &RestoreJob) -> Result<ReplacementState, Failure> {
    Ok(match replacement(job).observe()? {
        Found::AllOld => ReplacementState::Old,
        Found::AllNew => ReplacementState::New,
        Found::Mixed => ReplacementState::Mixed,
    })
}

pub(super) async fn perform(
    job: &RestoreJob,
    action: &Action,
    _: Log<'_>,
    handles: Handles,
) -> Result<Value, Failure> {
    let job = job.clone();
    match action {
        Action::Preflight => in_background(move || preflight(&job, &handles)).await,
        Action::VerifySource => in_background(move || verify_source(&job, &handles)).await,
        Action::Extract => in_background(move || extract(&job, &handles)).await,
        Action::FindLive => {
            blocking(move || Ok(json!(LiveFacts { live_paths: live_among(&paths(&job)) }))).await
        }
        Action::CarryOver => in_background(move || carry(&job, &handles)).await,
        Action::Swap => blocking(move || Ok(replacement(&job).swap().map(|()| Value::Null)?)).await,
        Action::SwapBack => {
            blocking(move || Ok(replacement(&job).swap_back().map(|()| Value::Null)?)).await
        }
        Action::DropOld => {
            in_background(move || Ok(replacement(&job).drop_old().map(|()| Value::Null)?)).await
        }
        Action::DiscardStaging => {
            in_background(move || Ok(replacement(&job).discard_staging().map(|()| Value::Null)?))
                .await
        }
        other => Err(unsupported(other)),
    }
}

/// Which root of the archive goes where, in the order of both.
fn destinations(job: &RestoreJob, manifest: &Manifest) -> Result<Vec<(String, PathBuf)>, Failure> {
    let paths = paths(job);
    if manifest.roots.is_empty() {
        // An archive from elsewhere has no roots: all of it goes to the one path.
        return match <[PathBuf; 1]>::try_from(paths) {
            Ok([path]) => Ok(vec![(String::new(), path)]),
            Err(paths) => Err(Failure::new(
                Reason::InvalidSpec,
                format!("{} names no roots and the target {}", job.archive, paths.len()),
            )
            .hint("name exactly one path to unpack it to")),
        };
    }
    if !job.root_names.is_empty() {
        return Ok(job.root_names.iter().cloned().zip(paths).collect());
    }
    if paths.len() != manifest.roots.len() {
        let names: Vec<&str> = manifest.roots.iter().map(|root| root.name.as_str()).collect();
        return Err(Failure::new(
            Reason::InvalidSpec,
            format!(
                "{} holds {} roots ({}) and the target names {} paths",
                job.archive,
                names.len(),
                names.join(", "),
                paths.len()
            ),
        )
        .hint("name one path for each root, in the same order"));
    }
    // The very paths of the backup are matched by themselves, whatever their order.
    let known: HashMap<&str, &str> =
        manifest.roots.iter().map(|root| (root.path.as_str(), root.name.as_str())).collect();
    let written = job.target.host.as_ref().map(|host| host.paths.clone()).unwrap_or_default();
    let all_known = written.iter().all(|path| known.contains_key(path.as_str()));
    Ok(paths
        .into_iter()
        .zip(written)
        .zip(&manifest.roots)
        .map(|((path, written), root)| {
            let own = known.get(written.as_str()).filter(|_| all_known);
            ((*own.unwrap_or(&root.name.as_str())).to_owned(), path)
        })
        .collect())
}

fn read_manifest(job: &RestoreJob) -> Result<(LocalStore, Manifest), Failure> {
    let store = LocalStore::open(&local_path(&job.store)?, &job.store.name, false)?;
    let manifest = store.read_manifest(&job.archive)?;
    Ok((store, manifest))
}

/// Whether anything would be lost.
fn is_live(path: &Path) -> bool {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => {
            // Where the root is a mount point the new tree is unpacked in it.
            let is_own = |entry: &std::fs::DirEntry| {
                engine::replace::is_working_directory(&entry.file_name())
            };
            std::fs::read_dir(path).map_or(true, |entries| {
                entries.into_iter().any(|entry| entry.map_or(true, |entry| !is_own(&entry)))
            })
        }
        Ok(_) => true,
        Err(_) => false,
    }
}

fn live_among(paths: &[PathBuf]) -> Vec<String> {
    let live = paths.iter().filter(|path| is_live(path));
    live.map(|path| path.to_string_lossy().into_owned()).collect()
}

/// The nearest directory that exists, where the new tree will be written: beside what is replaced, or in
/// it where that is a file system of its own.
fn ground(path: &Path) -> Option<PathBuf> {
    let above = path.ancestors().skip(1).find(|ancestor| ancestor.is_dir())?;
    let device = |path: &Path| std::fs::metadata(path).ok().map(|metadata| metadata.dev());
    let is_mounted = path.is_dir() && device(path) != device(above);
    Some(if is_mounted { path } else { above }.to_owned())
}

/// A file system that is written to.
struct Space {
    free: u64,
    ground: PathBuf,
    needed: u64,
}

/// Fails if the backup of what is live could not be taken once the service stands still.
fn can_be_kept(
    job: &RestoreJob,
    live_paths: &[String],
    handles: &Handles,
) -> Result<Vec<(String, String, String)>, Failure> {
    let target =
        Target { host: Some(HostTarget { paths: live_paths.to_vec() }), ..Target::default() };
    let backup = safety::backup(&job.operation, target, &job.store, BackupTrigger::PreRestore);
    match super::backup::preflight(&backup, handles) {
        Ok(facts) => Ok(facts.checks),
        Err(failure) => Err(Failure {
            message: format!("the safety backup could not be taken: {}", failure.message),
            ..failure
        }),
    }
}

fn preflight(job: &RestoreJob, handles: &Handles) -> Result<Value, Failure> {
    let (store, manifest) = read_manifest(job)?;
    let destinations = destinations(job, &manifest)?;
    let mut checks = Vec::new();
    let mut check = |name: &str, found: String| {
        checks.push((name.to_owned(), "PASS".to_owned(), found));
    };
    check("ARCHIVE", format!("{} files, {} bytes", manifest.counts.files, manifest.source_bytes));
    let archive = store.archive_path(&job.archive);
    let mut spaces: HashMap<u64, Space> = HashMap::new();
    let by_root = engine::space_needed(&archive, manifest.format)?;
    for (root, path) in &destinations {
        if lies_in(&archive, path) {
            return Err(Failure::new(
                Reason::InvalidSpec,
                format!(
                    "the store of {} lies inside {}, which is to be replaced",
                    job.archive,
                    path.display()
                ),
            )
            .hint("move the store out of what is restored"));
        }
        let ground = ground(path).ok_or_else(|| {
            Failure::new(Reason::TargetNotFound, format!("{} has no parent", path.display()))
        })?;
        let metadata = std::fs::metadata(&ground).map_err(|error| {
            Failure::new(Reason::TargetNotFound, format!("{}: {error}", ground.display()))
        })?;
        let space = rustix::fs::statvfs(&ground).map_err(|error| {
            Failure::new(Reason::TargetNotFound, format!("{}: {error}", ground.display()))
        })?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let place = spaces.entry(metadata.dev()).or_insert(Space { free, ground, needed: 0 });
        let known = by_root.iter().flatten().find(|(name, _)| name == root);
        place.needed = place.needed.saturating_add(known.map_or(0, |(_, bytes)| *bytes));
    }
    // Of an archive without an index nobody knows how it is spread over the roots, and what `include`
    // takes of it nobody knows at all.
    if by_root.is_none() && spaces.len() == 1 {
        for space in spaces.values_mut() {
            space.needed = manifest.source_bytes;
        }
    }
    for Space { free, ground, needed } in spaces.values() {
        if !job.spec.include.is_empty() {
            break;
        }
        if needed > free {
            return Err(Failure::new(
                Reason::NotEnoughSpace,
                format!(
                    "{} has {free} bytes free and the archive needs {needed}: the new tree is unpacked beside the old one",
                    ground.display(),
                ),
            )
            .hint("free some space, or restore a part with `include`"));
        }
        check(
            "STORAGE_SPACE",
            format!("{free} bytes free at {}, {needed} needed", ground.display()),
        );
    }
    let paths: Vec<PathBuf> = destinations.into_iter().map(|(_, path)| path).collect();
    let live_paths = live_among(&paths);
    if job.spec.safety_backup && !live_paths.is_empty() {
        let kept = can_be_kept(job, &live_paths, handles)?;
        checks.extend(
            kept.into_iter()
                .map(|(name, outcome, found)| (format!("SAFETY_BACKUP_{name}"), outcome, found)),
        );
    }
    Ok(json!(PreflightFacts {
        estimated_bytes: manifest.source_bytes,
        estimated_entries: manifest.counts.entries,
        live_data: !live_paths.is_empty(),
        all_live: live_paths.len() == paths.len(),
        live_paths,
        from_version: None,
        from_namespace: Some(manifest.namespace).filter(|name| !name.is_empty()),
        claims: Vec::new(),
        places: Vec::new(),
        definitions: None,
        not_put_back: Vec::new(),
        mover: None,
        parent: None,
        warnings: Vec::new(),
        checks,
    }))
}

fn verify_source(job: &RestoreJob, handles: &Handles) -> Result<Value, Failure> {
    let store = open_store(&job.store)?;
    handles.progress.phase("verifying");
    let progress = handles.progress.as_ref();
    engine::verify(&store, &job.archive, VerifyMode::Full, progress, &handles.cancel)?;
    Ok(Value::Null)
}

/// What each destination is made as.
///
/// # Errors
/// [`Reason::InvalidSpec`] for a root of which the archive holds nothing: to put that back would only take
/// away what is there.
fn staged_kinds(
    archive: &Path,
    manifest: &Manifest,
    destinations: &[(String, PathBuf)],
) -> Result<Vec<StagedKind>, Failure> {
    let names: Vec<&str> = destinations.iter().map(|(root, _)| root.as_str()).collect();
    let kinds = engine::root_kinds(archive, manifest.format, &names)?;
    let kind = |(root, path): &(String, PathBuf)| match kinds.get(root) {
        Some(EntryKind::Directory) => Ok(StagedKind::Directory),
        Some(_) => Ok(StagedKind::File),
        // An archive without roots is unpacked as a whole.
        None if root.is_empty() => Ok(StagedKind::Directory),
        None => Err(Failure::new(
            Reason::InvalidSpec,
            format!(
                "{} holds nothing of its root {root}, so that {} cannot be put back",
                manifest.name,
                path.display()
            ),
        )
        .hint("take out what it does hold with `eider backup extract`")),
    };
    destinations.iter().map(kind).collect()
}

fn extract(job: &RestoreJob, handles: &Handles) -> Result<Value, Failure> {
    let (store, manifest) = read_manifest(job)?;
    let destinations = destinations(job, &manifest)?;
    let archive = store.archive_path(&job.archive);
    let kinds = staged_kinds(&archive, &manifest, &destinations)?;
    let key = key(job);
    let mut staged = Vec::new();
    for ((root, path), kind) in destinations.into_iter().zip(kinds) {
        let staging = Staging::create(&path, &key, kind)?;
        staged.push((root, staging.path().to_owned()));
    }
    let options = UnpackOptions {
        include: job.spec.include.clone(),
        preserve: job.spec.preserve.clone(),
        destinations: staged,
        limits: Limits {
            entries: Some(manifest.counts.entries),
            bytes: Some(manifest.source_bytes),
        },
        ..UnpackOptions::default()
    };
    let progress = handles.progress.as_ref();
    let summary = engine::unpack(&archive, manifest.format, &options, progress, &handles.cancel)?;
    if !job.spec.include.is_empty() && summary.entries == 0 {
        let names: Vec<&str> = manifest.roots.iter().map(|root| root.name.as_str()).collect();
        return Err(Failure::new(
            Reason::InvalidSpec,
            format!("nothing in {} matches {}", job.archive, job.spec.include.join(", ")),
        )
        .hint(format!(
            "names in the archive begin with {}; `eider backup files` lists them",
            names.join(" or ")
        )));
    }
    Ok(json!(ExtractFacts {
        files: summary.files,
        bytes: summary.bytes,
        warnings: summary
            .warnings
            .iter()
            .take(100)
            .map(|warning| format!("{}: {}", warning.path, warning.message))
            .collect(),
    }))
}

fn carry(job: &RestoreJob, handles: &Handles) -> Result<Value, Failure> {
    let key = key(job);
    let (_, manifest) = read_manifest(job)?;
    let names: HashMap<PathBuf, String> =
        destinations(job, &manifest)?.into_iter().map(|(name, path)| (path, name)).collect();
    handles.progress.phase("carrying over");
    let cancel = || handles.cancel.is_cancelled();
    let (mut linked, mut copied, mut warnings) = (0, 0, Vec::new());
    for path in paths(job) {
        let Some(staging) = Staging::find(&path, &key)? else {
            continue;
        };
        let merges = job.spec.mode == RestoreMode::Merge || !job.spec.include.is_empty();
        let rules = if merges {
            let root = names.get(&path).map_or("", String::as_str);
            CarryRules::merge(&job.spec.include, root)?
        } else {
            CarryRules::preserve(&job.spec.preserve)?
        };
        let carried = carry_over(&path, &staging, &rules, &cancel)?;
        linked += carried.linked;
        copied += carried.copied;
        let told = |warning: String| format!("{}: {warning}", path.display());
        warnings.extend(carried.warnings.into_iter().map(told));
        if rules_are_both(job) {
            // With `include`, `preserve` still wins over what was unpacked.
            let preserve = CarryRules::preserve(&job.spec.preserve)?;
            let carried = carry_over(&path, &staging, &preserve, &cancel)?;
            warnings.extend(carried.warnings.into_iter().map(told));
        }
    }
    warnings.truncate(100);
    Ok(json!({"linked": linked, "copied": copied, "warnings": warnings}))
}

fn rules_are_both(job: &RestoreJob) -> bool {
    !job.spec.include.is_empty() && !job.spec.preserve.is_empty()
}
