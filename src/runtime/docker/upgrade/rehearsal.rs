//! What can be known of an Upgrade while the service still runs: whom it replaces and whether they run, that
//! everything can be read, that the store takes it, and that a rollback could put it back.

use serde_json::{Value, json};

use super::{chosen, looking};
use crate::engine::replace::check_replaceable;
use crate::plan::docker::{Place, Replaced, Selection, Stopping, changes, left_aside, resting};
use crate::plan::version::refusal;
use crate::plan::{Failure, Job, Log, PreflightFacts, UpgradeJob, safety};
use crate::runtime::Handles;
use crate::runtime::docker::looking::Look;
use crate::runtime::docker::{DockerRuntime, raw};
use crate::spec::Reason;

impl DockerRuntime {
    /// Looks at everything that can be looked at before any downtime.
    pub(super) async fn upgrade_preflight(
        &self,
        whole: &Job,
        job: &UpgradeJob,
        log: &Log<'_>,
        handles: &Handles,
    ) -> Result<Value, Failure> {
        let look = self.look(whole).await?;
        let mut stopping = looking::foreseen(&look, whole)?;
        let Judged { chosen, from, mut warnings } = judge(whole, job, &look, &stopping)?;
        warnings.extend(self.inherited(&chosen).await?);
        let sources = self.sources(job).await?;
        let backup = self.rehearse_backup(job, log, handles).await?;
        let is_data_put_back = job.spec.rollback.data && safety::of_upgrade(job).is_some();
        let mut not_put_back = Vec::new();
        if is_data_put_back {
            self.check_ways_back(&backup.places).await?;
            not_put_back = look.selection.not_put_back(&chosen, &look.facts);
        }
        warnings.extend(not_put_back.iter().map(|what| {
            format!("{what} is not in the upgrade's backup: a rollback leaves it as it is then")
        }));
        let names: Vec<&str> = chosen.iter().map(|one| one.name.as_str()).collect();
        let mut checks = vec![("SERVICE".to_owned(), "PASS".to_owned(), names.join(", "))];
        checks.push(("IMAGES".to_owned(), "PASS".to_owned(), sources.join(", ")));
        checks.extend(backup.checks);
        warnings.append(&mut stopping.warnings);
        for warning in backup.warnings {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        Ok(json!(PreflightFacts {
            estimated_bytes: backup.estimated_bytes,
            estimated_entries: backup.estimated_entries,
            live_data: true,
            from_version: from,
            not_put_back,
            warnings,
            checks,
            ..PreflightFacts::default()
        }))
    }

    /// What a plan says of an Upgrade: where the images come from, and what people have to know.
    ///
    /// # Errors
    /// Those for which preflight would refuse it by what the host's containers are.
    pub(in crate::runtime::docker) async fn explain_upgrade(
        &self,
        whole: &Job,
        job: &UpgradeJob,
        look: &Look,
        stopping: &Stopping,
    ) -> Result<Vec<String>, Failure> {
        let Judged { chosen, warnings, .. } = judge(whole, job, look, stopping)?;
        let mut lines = self.sources(job).await?;
        lines.extend(warnings);
        lines.extend(self.inherited(&chosen).await?);
        Ok(lines)
    }

    /// What of the new images takes the place of what the old ones said, as far as they are here.
    pub(super) async fn inherited(&self, chosen: &[Replaced]) -> Result<Vec<String>, Failure> {
        let docker = self.connection.docker().await?;
        let mut told = Vec::new();
        for one in chosen.iter().filter(|one| !one.keeps_image) {
            let Some(container) = raw::container(&docker, &one.id).await? else { continue };
            let id = container["Image"].as_str().unwrap_or_default();
            let (old, new) =
                (raw::image(&docker, id).await?, raw::image(&docker, &one.image).await?);
            let (Some(old), Some(new)) = (old, new) else { continue };
            let changes = changes(&container["Config"], &old["Config"], &new["Config"]);
            if !changes.is_empty() {
                told.push(format!(
                    "{} takes from its new image what it had as the old one says it, whoever wrote it: {}",
                    one.name,
                    changes.join(", ")
                ));
            }
        }
        Ok(told)
    }

    /// Looks at data and store as the backup will once everybody stands still: what it would fail for
    /// would be downtime for nothing.
    async fn rehearse_backup(
        &self,
        job: &UpgradeJob,
        log: &Log<'_>,
        handles: &Handles,
    ) -> Result<PreflightFacts, Failure> {
        let Some(backup) = safety::of_upgrade(job) else { return Ok(PreflightFacts::default()) };
        let found = self.preflight(&Job::Backup(backup), *log, handles).await;
        // The backup itself is an operation of its own, with a worker of its own.
        self.workers.conclude(&self.connection, &job.operation).await;
        serde_json::from_value(found?).map_err(|error| undecoded(&error))
    }

    /// Fails where a rollback could not replace what is there: the old version would be left on the data of
    /// the new one. What a worker would find is not known here.
    async fn check_ways_back(&self, places: &[Place]) -> Result<(), Failure> {
        if self.connected().await?.1.is_some() {
            return Ok(());
        }
        for place in places {
            check_replaceable(place.path.as_ref()).map_err(|error| {
                let message = format!("a rollback could not put the data back: {error}");
                Failure::new(Reason::UnsupportedTarget, message).hint(
                    "unmount it, or set `spec.rollback.data: false` if the new version may keep its data",
                )
            })?;
        }
        Ok(())
    }
}

/// An Upgrade that may be done.
struct Judged {
    /// Whom it replaces.
    chosen: Vec<Replaced>,
    /// The version that runs now.
    from: Option<String>,
    /// What people have to know.
    warnings: Vec<String>,
}

/// Looks whether an Upgrade may be done at all.
fn judge(
    whole: &Job,
    job: &UpgradeJob,
    look: &Look,
    stopping: &Stopping,
) -> Result<Judged, Failure> {
    let chosen = chosen(job, look)?;
    check_own(&chosen, look)?;
    let mut warnings = check_left_aside(&chosen, look, job)?;
    let from = check_version(whole, job, &chosen, look)?;
    warnings.extend(check_who_runs(&chosen, stopping, look, job)?);
    Ok(Judged { chosen, from, warnings })
}

fn undecoded(error: &serde_json::Error) -> Failure {
    Failure::new(Reason::InternalError, format!("the look at the upgrade's backup: {error}"))
}

fn check_own(chosen: &[Replaced], look: &Look) -> Result<(), Failure> {
    let refused = chosen.iter().find_map(|one| {
        look.facts.company(&one.id).map(|company| company.cannot_be_replaced(&one.name))
    });
    refused.map_or(Ok(()), Err)
}

/// What other upgrades have kept in the place of these containers; told only if somebody insists.
fn check_left_aside(
    chosen: &[Replaced],
    look: &Look,
    job: &UpgradeJob,
) -> Result<Vec<String>, Failure> {
    let left = left_aside(chosen, &look.facts);
    if left.is_empty() || job.spec.force {
        let warning = |name: &str| format!("{name} is left of another upgrade, and is left alone");
        return Ok(left.into_iter().map(warning).collect());
    }
    let names = left.join(", ");
    Err(Failure::new(Reason::TargetBusy, format!("{names} is left of another upgrade")).hint(
        "`docker rm` it if it is not needed, or set `spec.force: true` to leave it where it is",
    ))
}

/// The version that runs now, if that may be replaced by the one that is wanted.
fn check_version(
    whole: &Job,
    job: &UpgradeJob,
    chosen: &[Replaced],
    look: &Look,
) -> Result<Option<String>, Failure> {
    let from = chosen.first().and_then(|first| {
        let containers = vec![first.id.clone()];
        looking::version(&Selection { containers, ..Selection::default() }, &look.facts)
    });
    let unchanged = chosen
        .iter()
        .all(|one| look.facts.container(&one.id).is_some_and(|found| found.image == one.image));
    match refusal(from.as_deref(), &job.spec.to_version, unchanged) {
        Some(why) if !job.spec.force => {
            let message = format!("{}: {why}", whole.target().summary());
            Err(Failure::new(Reason::NotAnUpgrade, message)
                .hint("set `spec.force: true` to do it all the same"))
        }
        _ => Ok(from),
    }
}

/// Whose new version is not started, so that nothing tells whether it is any good.
fn check_who_runs(
    chosen: &[Replaced],
    stopping: &Stopping,
    look: &Look,
    job: &UpgradeJob,
) -> Result<Vec<String>, Failure> {
    let resting = resting(chosen, stopping, &look.facts);
    if let Some(name) = resting.going_on.first() {
        let message = format!("{name} is not stopped, as its label eider.stop says");
        return Err(Failure::new(Reason::UnsupportedTarget, message)
            .hint("what goes on cannot be replaced: leave it out of `spec.images`"));
    }
    if resting.idle.len() == chosen.len() && !job.spec.force {
        let message = format!("{} does not run: nothing would try the new version", {
            resting.idle.join(", ")
        });
        return Err(Failure::new(Reason::NotAnUpgrade, message)
            .hint("start it first, or set `spec.force: true` to have it made and not started"));
    }
    let warning =
        |name: &str| format!("{name} does not run: its new version is made and not started");
    Ok(resting.idle.into_iter().map(warning).collect())
}
