//! Looking at a Docker target before anything changes: what it selects, where that is, who has to
//! stand still, and which volumes are missing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bollard::models::VolumeCreateRequest;
use serde_json::{Value, json};

use super::connection::{ANSWER, limited};
use super::listing::host_facts;
use super::{DockerRuntime, definitions, docker_target, translate, worker};
use crate::engine::{EntryKind, LocalStore, Manifest, root_kinds};
use crate::plan::docker::{
    Definitions, Disturbers, HostFacts, Place, Placements, Root, RootSource, RunState, Selection,
    Stopping, Touch, VolumeDefinition, check_company, place, select, stop_set,
};
use crate::plan::version::of_image;
use crate::plan::{Action, Failure, Job, Log, PreflightFacts, RestoreJob, safety};
use crate::runtime::Handles;
use crate::runtime::host::local_path;
use crate::spec::target::DockerTarget;
use crate::spec::{BackupType, ConsistencyMode, Reason};

/// Label that names the version of what is in an image.
const VERSION_LABEL: &str = "org.opencontainers.image.version";

/// A job's target, looked at.
pub(super) struct Look {
    pub facts: HostFacts,
    pub selection: Selection,
    /// Where roots go; for restores.
    pub placements: Placements,
    /// Ids of those that another operation holds still by now, as an Upgrade does for the Restore of its way back.
    pub held: HashSet<String>,
}

/// What an operation of this kind does to the data.
pub(super) fn touch(job: &Job) -> Touch {
    match job {
        Job::Backup(_) => Touch::Read,
        Job::Restore(_) | Job::Upgrade(_) => Touch::Replace,
    }
}

/// Whether how containers are configured is left out.
fn is_data_only(job: &Job) -> bool {
    matches!(job, Job::Backup(job) if job.spec.backup_type == BackupType::DataOnly)
}

/// Whether volumes without a name of anybody's are held too. Who names volumes means those alone.
fn holds_anonymous(job: &Job) -> bool {
    let names_volumes = job.target().docker.as_ref().is_some_and(|target| target.volumes.is_some());
    !names_volumes
        && match job {
            Job::Backup(job) => job.anonymous_volumes,
            Job::Upgrade(job) => safety::of_upgrade(job).is_some(),
            Job::Restore(_) => false,
        }
}

/// How a job holds its target still.
pub(super) fn mode(job: &Job) -> ConsistencyMode {
    match job {
        Job::Backup(job) => job.spec.consistency.mode,
        Job::Restore(job) => job.spec.consistency.mode,
        Job::Upgrade(_) => ConsistencyMode::Stop,
    }
}

/// These worked on the data while it was read or replaced.
pub(super) fn ran(names: impl IntoIterator<Item = String>) -> Failure {
    let names: Vec<String> = names.into_iter().collect();
    Failure::new(
        Reason::QuiesceFailed,
        format!("{} ran while it was to stand still: somebody started it", names.join(", ")),
    )
    .hint("find out who starts it (a restart of the engine, another tool), and try again")
}

/// These were disturbed in another way, or by others too, while they were to stand still.
pub(super) fn disturbed(found: Disturbers) -> Failure {
    if found.copied.is_empty() {
        return ran(found.ran);
    }
    let copied: Vec<String> = found.copied.into_iter().collect();
    let mut message =
        format!("files were copied into {} while it was to stand still", copied.join(", "));
    if !found.ran.is_empty() {
        message.push_str("; ");
        message.push_str(&ran(found.ran).message);
    }
    Failure::new(Reason::QuiesceFailed, message)
        .hint("find out who copies (`docker cp`, another tool), and try again")
}

/// How long a job's target may take to be held still.
fn timeout(job: &Job) -> Duration {
    let consistency = match job {
        Job::Backup(job) => &job.spec.consistency,
        Job::Restore(job) => &job.spec.consistency,
        Job::Upgrade(job) => &job.spec.consistency,
    };
    consistency.timeout.to_duration()
}

/// Who would be held still for a job, with everything that people have to know before that.
pub(super) fn foreseen(look: &Look, job: &Job) -> Result<Stopping, Failure> {
    let mode = mode(job);
    let mut stopping = stop_set(&look.selection, &look.facts, touch(job), mode)?;
    if mode == ConsistencyMode::Stop {
        stopping.warn_if_slower_than(timeout(job));
        check_company(&stopping, &look.facts, touch(job), |id| look.held.contains(id))?;
    }
    if touch(job) == Touch::Replace {
        if mode == ConsistencyMode::Live {
            check_nobody_works(&stopping, &look.held)?;
        }
        stopping.warn_of_the_ill();
    }
    Ok(stopping)
}

/// Fails if anybody who is up works on what is to be replaced while nobody is held still: it would go on with
/// a tree that nobody finds again.
fn check_nobody_works(stopping: &Stopping, held: &HashSet<String>) -> Result<(), Failure> {
    let names: Vec<&str> = stopping
        .order
        .iter()
        .filter(|entry| entry.holds_data && !held.contains(&entry.id))
        .map(|entry| entry.name.as_str())
        .collect();
    if names.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        Reason::UnsupportedTarget,
        format!("{} would go on with the data that is replaced", names.join(", ")),
    )
    .hint("use `consistency.mode: Stop`, or stop what mounts the data before"))
}

impl DockerRuntime {
    /// Looks at what a job is about.
    pub(super) async fn look(&self, job: &Job) -> Result<Look, Failure> {
        let target = docker_target(job)?;
        // One that is let go in the middle of the look may have been seen before that.
        let mut found_by_others = self.holds.as_found_by_others(job.operation());
        let mut facts = host_facts(&self.connection).await?;
        found_by_others.extend(self.holds.as_found_by_others(job.operation()));
        let held = facts.as_before(&found_by_others);
        let Job::Restore(restore) = job else {
            let selection = match job {
                Job::Backup(backup) if !backup.places.is_empty() => {
                    let root = |place: &Place| Root {
                        source: place.source.clone(),
                        containers: [].into(),
                    };
                    let roots = backup.places.iter().map(root).collect();
                    let containers = containers_if_any(target, &facts)?;
                    Selection { containers, roots, uncovered: Vec::new() }
                }
                Job::Backup(_) if is_data_only(job) => select(target, &facts)?.data_only(&facts),
                _ if holds_anonymous(job) => select(target, &facts)?.with_anonymous(&facts),
                _ => select(target, &facts)?,
            };
            return Ok(Look { facts, selection, placements: Placements::default(), held });
        };
        let manifest = read_manifest(restore)?;
        let definitions = kept(&manifest);
        let names: Vec<String> = manifest.roots.iter().map(|root| root.name.clone()).collect();
        let origin = manifest.target.docker.as_ref();
        let placements = place(target, origin, &names, &definitions, &facts)?;
        let containers = containers_if_any(target, &facts)?;
        let selection =
            Selection { containers, roots: placements.as_roots(), uncovered: Vec::new() };
        Ok(Look { facts, selection, placements, held })
    }

    /// Who has to stand still for a job.
    pub(super) async fn stopping(&self, job: &Job) -> Result<Stopping, Failure> {
        let look = self.look(job).await?;
        stop_set(&look.selection, &look.facts, touch(job), mode(job))
    }

    /// Fails if anybody works on the data by now who was to stand still.
    pub(super) async fn check_still(&self, job: &Job) -> Result<(), Failure> {
        let is_live = mode(job) == ConsistencyMode::Live;
        if is_live && touch(job) == Touch::Read {
            return Ok(());
        }
        let look = self.look(job).await?;
        if is_live {
            return foreseen(&look, job).map(|_| ());
        }
        let up = stop_set(&look.selection, &look.facts, touch(job), ConsistencyMode::Pause)?;
        let held = self.holds.of_others(job.operation());
        let runs = |id: &String| {
            let container = look.facts.container(id);
            !held.contains(id)
                && container.is_some_and(|found| {
                    matches!(found.state, RunState::Running | RunState::Restarting)
                })
        };
        let names: Vec<String> = up
            .order
            .iter()
            .filter(|entry| runs(&entry.id))
            .map(|entry| entry.name.clone())
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(ran(names))
    }

    /// Looks at target and store; makes the volumes that a Restore is to fill and that are not there.
    pub(super) async fn preflight(
        &self,
        job: &Job,
        log: Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let mut look = self.look(job).await?;
        let (_, own) = self.connected().await?;
        // Said before anything stops: what would be gone once stopped, for instance.
        let mut warnings = foreseen(&look, job)?.warnings;
        let (places, definitions) = match job {
            Job::Restore(restore) => {
                warnings.extend(look.placements.warnings.iter().cloned());
                let cancel = &handles.cancel;
                warnings.extend(self.prepare_revival(restore, &look.facts, cancel).await?);
                let held = paths_held(restore, &look.placements).await?;
                warnings.extend(look.placements.leave_empty(|root| held.contains_key(root)));
                (self.make_places(&look, &held, own.is_some()).await?, None)
            }
            _ => {
                let selection = &look.selection;
                warnings.extend(selection.uncovered.iter().filter(|left| !left.usual).map(
                    |left| {
                        format!("{}: {} is not covered: {}", left.container, left.place, left.why)
                    },
                ));
                let mut definitions =
                    definitions::of(&self.connection, selection, &look.facts).await?;
                if is_data_only(job) {
                    // Volumes are made like these when their data is put back; no more is said.
                    definitions.containers.clear();
                    definitions.networks.clear();
                }
                let places = match job {
                    Job::Backup(backup) if !backup.places.is_empty() => backup.places.clone(),
                    _ => places(&selection.roots, &look.facts, own.is_some())?,
                };
                (places, Some(definitions))
            }
        };
        if places.is_empty() {
            return Err(Failure::new(
                Reason::TargetNotFound,
                format!("{} mounts no volume or path, so it has no data", job.target().summary()),
            )
            .hint("`eider run --dry-run` lists what is not covered, and why"));
        }
        let translated = translate::onto(&places, definitions.as_ref(), job);
        let answer = self.on_data(&translated, &places, &Action::Preflight, log, handles).await?;
        let mut answer: PreflightFacts = serde_json::from_value(answer).map_err(|error| {
            Failure::new(Reason::InternalError, format!("preflight does not decode: {error}"))
        })?;
        answer.from_version = version(&look.selection, &look.facts);
        answer.places = places;
        answer.definitions = definitions;
        answer.warnings.extend(warnings);
        Ok(json!(answer))
    }

    /// The places that an archive goes to; volumes that are missing are made.
    async fn make_places(
        &self,
        look: &Look,
        held: &HashMap<String, EntryKind>,
        in_worker: bool,
    ) -> Result<Vec<Place>, Failure> {
        if !in_worker {
            look.facts.check_paths()?;
        }
        let docker = self.connection.docker().await?;
        let mut made = HashMap::new();
        let of_roots = look.placements.roots.iter().filter_map(|root| root.create.as_ref());
        for definition in of_roots.chain(&look.placements.besides) {
            let what = format!("make volume {}", definition.name);
            let call = docker.create_volume(request(definition));
            let volume = limited(&what, ANSWER, call).await?;
            made.insert(definition.name.clone(), volume.mountpoint);
        }
        look.placements
            .roots
            .iter()
            .map(|placement| {
                let root = Root { source: placement.source.clone(), containers: [].into() };
                let path = match &placement.source {
                    _ if in_worker => worker::path_of(&placement.root),
                    RootSource::Volume(name) if made.contains_key(name) => made[name].clone(),
                    _ => root.path(&look.facts)?,
                };
                let is_file = in_worker
                    && held.get(&placement.root).is_some_and(|kind| *kind != EntryKind::Directory);
                Ok(Place { root: placement.root.clone(), source: root.source, path, is_file })
            })
            .collect()
    }
}

/// The containers of a target, of which there may be none yet: the host may be an empty one.
fn containers_if_any(target: &DockerTarget, facts: &HostFacts) -> Result<Vec<String>, Failure> {
    let whole = DockerTarget { volumes: None, ..target.clone() };
    match select(&whole, facts) {
        Ok(selection) => Ok(selection.containers),
        Err(failure) if failure.reason == Reason::TargetNotFound => Ok(Vec::new()),
        Err(failure) => Err(failure),
    }
}

fn places(roots: &[Root], facts: &HostFacts, in_worker: bool) -> Result<Vec<Place>, Failure> {
    let place = |root: &Root| {
        // The engine mounts whatever there is for a worker, wherever its data may be.
        let path = if in_worker { worker::path_of(&root.name()) } else { root.path(facts)? };
        let (root, source) = (root.name(), root.source.clone());
        Ok(Place { root, source, path, is_file: false })
    };
    roots.iter().map(place).collect()
}

fn request(definition: &VolumeDefinition) -> VolumeCreateRequest {
    VolumeCreateRequest {
        name: Some(definition.name.clone()),
        driver: Some(definition.driver.clone()).filter(|driver| !driver.is_empty()),
        driver_opts: Some(definition.options.clone().into_iter().collect()),
        labels: Some(definition.labels.clone().into_iter().collect()),
        ..VolumeCreateRequest::default()
    }
}

/// What the archive holds of the paths among its roots. Volumes are directories, and always there.
async fn paths_held(
    job: &RestoreJob,
    placements: &Placements,
) -> Result<HashMap<String, EntryKind>, Failure> {
    let roots = placements.roots.iter().filter(|found| matches!(found.source, RootSource::Bind(_)));
    let roots: Vec<String> = roots.map(|found| found.root.clone()).collect();
    if roots.is_empty() {
        return Ok(HashMap::new());
    }
    let (path, name, archive) =
        (local_path(&job.store)?, job.store.name.clone(), job.archive.clone());
    let listing = tokio::task::spawn_blocking(move || {
        let store = LocalStore::open(&path, &name, false)?;
        let format = store.read_manifest(&archive)?.format;
        let roots: Vec<&str> = roots.iter().map(String::as_str).collect();
        Ok::<_, Failure>(root_kinds(&store.archive_path(&archive), format, &roots)?)
    });
    listing.await.unwrap_or_else(|error| {
        Err(Failure::new(Reason::InternalError, format!("listing the archive: {error}")))
    })
}

pub(super) fn read_manifest(job: &RestoreJob) -> Result<Manifest, Failure> {
    let store = LocalStore::open(&local_path(&job.store)?, &job.store.name, false)?;
    Ok(store.read_manifest(&job.archive)?)
}

/// What an archive says of containers and volumes; nothing for archives of other targets.
pub(super) fn kept(manifest: &Manifest) -> Definitions {
    let definitions = manifest.definitions.clone();
    definitions.and_then(|value| serde_json::from_value(value).ok()).unwrap_or_default()
}

/// The version of the first selected container that tells one: by its label, or its image's tag.
pub(super) fn version(selection: &Selection, facts: &HostFacts) -> Option<String> {
    selection.containers.iter().filter_map(|id| facts.container(id)).find_map(|found| {
        found.labels.get(VERSION_LABEL).cloned().or_else(|| of_image(&found.image))
    })
}
