//! A job of the cluster as the host job that a mover carries out on what is mounted.

use serde_json::json;

use crate::plan::{BackupJob, Failure, Job, JournalEntry, RestoreJob, StoreBinding};
use crate::runtime::mover::{Mission, STORE_DIRECTORY, VOLUMES_DIRECTORY};
use crate::spec::{BackupStoreSpec, Hooks, HostTarget, LocalStore, Reason, Target};

/// The claim of a store, and the store as the mover sees it.
pub fn store(store: &StoreBinding) -> Result<(String, StoreBinding), Failure> {
    let Some(claim) = &store.spec.volume_claim else {
        return Err(Failure::new(
            Reason::StoreUnavailable,
            format!("store {} is not a claim, and movers can mount nothing else", store.name),
        )
        .hint("use `spec.volumeClaim` in a cluster"));
    };
    if store.spec.encryption.is_some() {
        return Err(Failure::new(
            Reason::StoreUnavailable,
            format!("store {} asks for encryption, which this version does not write", store.name),
        )
        .hint("remove `spec.encryption`, or use an encrypted StorageClass"));
    }
    let path = match claim.path.trim_matches('/') {
        "" => STORE_DIRECTORY.to_owned(),
        inner => format!("{STORE_DIRECTORY}/{inner}"),
    };
    let spec = BackupStoreSpec {
        local: Some(LocalStore { path }),
        volume_claim: None,
        ..store.spec.clone()
    };
    Ok((claim.name.clone(), StoreBinding { name: store.name.clone(), spec }))
}

/// Where an archive lies, for people: `claim/path/archive`.
pub fn location(store: &StoreBinding, archive: &str) -> String {
    let claim = store.spec.volume_claim.as_ref();
    let name = claim.map_or("", |claim| claim.name.as_str());
    match claim.map_or("", |claim| claim.path.trim_matches('/')) {
        "" => format!("{name}/{archive}"),
        inner => format!("{name}/{inner}/{archive}"),
    }
}

fn mounted(claims: &[String]) -> Target {
    let paths = claims.iter().map(|claim| format!("{VOLUMES_DIRECTORY}/{claim}")).collect();
    Target { host: Some(HostTarget { paths }), ..Target::default() }
}

/// The mission of a mover for this job, with what has been done of it.
pub fn mission(job: &Job, claims: &[String], journal: &[JournalEntry]) -> Result<Mission, Failure> {
    let binding = match job {
        Job::Backup(job) => &job.store,
        Job::Restore(job) => &job.store,
        Job::Upgrade(_) => {
            return Err(Failure::new(Reason::InternalError, "an upgrade has no mover of its own"));
        }
    };
    let (_, binding) = store(binding)?;
    let translated = match job {
        Job::Backup(job) => {
            let mut translated = BackupJob { store: binding.clone(), ..job.clone() };
            translated.origin = Some(job.spec.target.clone());
            translated.spec.target = mounted(claims);
            // Hooks are the operator's: the mover cannot reach into pods, and their headers are no
            // business of a Job's environment.
            translated.spec.hooks = Hooks::default();
            Job::Backup(translated)
        }
        Job::Restore(job) => {
            let mut translated = RestoreJob { store: binding.clone(), ..job.clone() };
            translated.target = mounted(claims);
            translated.spec.target = Some(mounted(claims));
            translated.spec.hooks = Hooks::default();
            Job::Restore(translated)
        }
        Job::Upgrade(_) => return Err(Failure::new(Reason::InternalError, "no mover")),
    };
    // The first line holds the job a second time; warnings of steps are of no use to the mover.
    let journal = journal
        .iter()
        .filter(|entry| entry.step != crate::plan::OPERATION)
        .cloned()
        .map(|mut entry| {
            if let Some(warnings) = entry.detail.get_mut("warnings") {
                *warnings = json!([]);
            }
            entry
        })
        .collect();
    Ok(Mission { job: Some(translated), journal, store: binding })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(path: &str) -> StoreBinding {
        let spec =
            serde_json::from_value(json!({"volumeClaim": {"name": "backups", "path": path}}));
        StoreBinding { name: "main".to_owned(), spec: spec.unwrap() }
    }

    #[test]
    fn a_store_is_a_directory_of_the_mover() {
        let (claim, mounted) = store(&binding("shop")).unwrap();
        assert_eq!(claim, "backups");
        assert_eq!(mounted.spec.local.unwrap().path, "/eider/store/shop");
        assert_eq!(location(&binding(""), "a.tar.gz"), "backups/a.tar.gz");
        assert_eq!(location(&binding("shop"), "a.tar.gz"), "backups/shop/a.tar.gz");
        let local = StoreBinding {
            name: "main".to_owned(),
            spec: serde_json::from_value(json!({"local": {"path": "/x"}})).unwrap(),
        };
        assert_eq!(store(&local).unwrap_err().reason, Reason::StoreUnavailable);
    }

    #[test]
    fn a_mission_names_mounts_and_keeps_the_origin() {
        let spec = json!({
            "target": {"workload": {"kind": "StatefulSet", "name": "db"}},
            "storeRef": {"name": "main"},
            "hooks": {"before": [{"http": {"url": "http://x/", "headers": {"x": "secret"}}}]},
        });
        let job = Job::Backup(BackupJob::new(
            "Backup/shop/b/1/u".parse().unwrap(),
            serde_json::from_value(spec).unwrap(),
            binding(""),
        ));
        let mission = mission(&job, &["data-db-0".to_owned()], &[]).unwrap();
        let text = serde_json::to_string(&mission).unwrap();
        assert!(!text.contains("secret"), "{text}");
        let Some(Job::Backup(translated)) = mission.job else { panic!("{text}") };
        assert_eq!(translated.spec.target.host.unwrap().paths, ["/eider/volumes/data-db-0"]);
        assert_eq!(translated.origin.unwrap().summary(), "statefulset/db");
    }
}
