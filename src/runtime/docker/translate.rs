//! A job on containers and volumes as a job on the host's directories, which the host runtime does.

use crate::plan::docker::{Definitions, Place};
use crate::plan::{BackupJob, Job, RestoreJob};
use crate::spec::{Hooks, HostTarget, Target};

/// The same job, on the places where its data is.
pub fn onto(places: &[Place], definitions: Option<&Definitions>, job: &Job) -> Job {
    let paths = places.iter().map(|place| place.path.clone()).collect();
    let target = Target { host: Some(HostTarget { paths }), ..Target::default() };
    let root_names: Vec<String> = places.iter().map(|place| place.root.clone()).collect();
    match job {
        Job::Backup(job) => {
            let mut translated = BackupJob { root_names, ..job.clone() };
            translated.origin = Some(job.spec.target.clone());
            translated.definitions = definitions.cloned();
            translated.spec.target = target;
            translated.spec.hooks = Hooks::default();
            Job::Backup(translated)
        }
        Job::Restore(job) => {
            let mut translated = RestoreJob { root_names, ..job.clone() };
            translated.spec.target = Some(target.clone());
            translated.spec.hooks = Hooks::default();
            translated.target = target;
            Job::Restore(translated)
        }
        Job::Upgrade(job) => Job::Upgrade(job.clone()),
    }
}
