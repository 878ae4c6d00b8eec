//! `eider schedule …`, `eider auto-backup …`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::arguments::{AutoBackupCommand, GlobalArguments, ScheduleCommand, ScheduleName};
use super::backup::stamped;
use super::output::format::{age, local_time};
use super::output::{CliError, Output};
use super::session::{Session, judge};
use crate::catalog::{ScheduledTask, UserAction};
use crate::operator::{KnownSchedule, Operator};
use crate::spec::{BackupTrigger, counted};

const DEFAULT: &str = "default";

/// Carries one of them out.
pub async fn schedule(
    global: &GlobalArguments,
    command: &ScheduleCommand,
    output: Output,
) -> Result<(), CliError> {
    match command {
        ScheduleCommand::List => {
            let session = Session::open(global, output).await?;
            let result: Result<(), CliError> = async {
                list(&session).await?;
                Ok(())
            }
            .await;
            session.finish(result).await
        }
        ScheduleCommand::Run(name) => run(global, name, output).await,
        ScheduleCommand::Suspend(name) => suspend(global, name, true, output).await,
        ScheduleCommand::Resume(name) => suspend(global, name, false, output).await,
        ScheduleCommand::Prune { schedule, dry_run } => {
            prune(global, schedule, *dry_run, output).await
        }
    }
}

/// The schedule named `default`, under its older verbs.
pub async fn auto_backup(
    global: &GlobalArguments,
    command: &AutoBackupCommand,
    output: Output,
) -> Result<(), CliError> {
    let name = ScheduleName { name: DEFAULT.to_owned(), namespace: DEFAULT.to_owned() };
    match command {
        AutoBackupCommand::Status => {
            let session = Session::open(global, output).await?;
            let result: Result<(), CliError> = async {
                let known = session.operator.schedule(DEFAULT, DEFAULT).await?;
                let task = session.operator.schedule_task(&known, Timestamp::now()).await?;
                session.output.object(&item(&known, &task), &fields(&known, &task))?;
                Ok(())
            }
            .await;
            session.finish(result).await
        }
        AutoBackupCommand::Run => run(global, &name, output).await,
        AutoBackupCommand::Enabled { enable } => suspend(global, &name, !enable, output).await,
    }
}

fn item(known: &KnownSchedule, task: &ScheduledTask) -> Value {
    json!({
        "name": known.resource.name,
        "namespace": known.resource.namespace,
        "schedule": known.spec.schedule,
        "timeZone": known.spec.time_zone,
        "suspended": known.spec.suspend || task.suspended,
        "target": known.spec.template.spec.target.summary(),
        "lastRunAt": task.last_run_at,
        "lastSuccessAt": task.last_success_at,
        "nextRunAt": task.next_run_at,
        "lastStatus": task.status,
        "missedRuns": task.missed_runs,
        "overdue": overdue(known),
    })
}

fn overdue(known: &KnownSchedule) -> bool {
    let conditions = known.resource.status["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition["type"] == "Overdue" && condition["status"] == "True")
    })
}

fn fields(known: &KnownSchedule, task: &ScheduledTask) -> Vec<(String, String)> {
    let time = |at: Option<Timestamp>| at.map_or_else(|| "never".to_owned(), local_time);
    let yes = |holds: bool| if holds { "yes" } else { "no" }.to_owned();
    vec![
        ("Name".to_owned(), format!("{}/{}", known.resource.namespace, known.resource.name)),
        ("Schedule".to_owned(), format!("{} ({})", known.spec.schedule, known.spec.time_zone)),
        ("Enabled".to_owned(), yes(!(known.spec.suspend || task.suspended))),
        ("Target".to_owned(), known.spec.template.spec.target.summary()),
        ("Last run".to_owned(), time(task.last_run_at)),
        ("Last success".to_owned(), time(task.last_success_at)),
        ("Next run".to_owned(), time(task.next_run_at)),
        ("Last status".to_owned(), task.status.clone()),
        ("Missed runs".to_owned(), task.missed_runs.to_string()),
        ("Overdue".to_owned(), yes(overdue(known))),
    ]
}

async fn list(session: &Session) -> Result<(), CliError> {
    let mut rows = Vec::new();
    let mut items = Vec::new();
    for known in session.operator.schedules().await? {
        let task = session.operator.schedule_task(&known, Timestamp::now()).await?;
        let ago = |at: Option<Timestamp>| {
            at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(at)))
        };
        rows.push(vec![
            known.resource.namespace.clone(),
            known.resource.name.clone(),
            known.spec.schedule.clone(),
            if known.spec.suspend || task.suspended { "yes" } else { "no" }.to_owned(),
            ago(task.last_run_at),
            ago(task.last_success_at),
            task.next_run_at.map_or_else(|| "-".to_owned(), local_time),
            if overdue(&known) { "OVERDUE" } else { "no" }.to_owned(),
        ]);
        items.push(item(&known, &task));
    }
    session.output.table(
        &[
            "NAMESPACE",
            "NAME",
            "SCHEDULE",
            "SUSPENDED",
            "LAST RUN",
            "LAST SUCCESS",
            "NEXT RUN",
            "OVERDUE",
        ],
        &rows,
        &items,
    )
}

async fn run(
    global: &GlobalArguments,
    name: &ScheduleName,
    output: Output,
) -> Result<(), CliError> {
    let session = Session::open_to_act(global, output).await?;
    let result: Result<(), CliError> = async {
        session.listen_for_interrupts();
        let known = session.operator.schedule(&name.namespace, &name.name).await?;
        let backup = stamped(&name.name);
        let document = Operator::scheduled_backup(&known, backup, BackupTrigger::Scheduled);
        let done = session.carry_out(vec![(document, format!("schedule {}", name.name))]).await?;
        let verdict = judge(&done);
        if verdict.is_ok() {
            let now = Timestamp::now();
            session.operator.prune(&name.namespace, &name.name, &known.spec, now, false).await?;
            if let Some(last) = done.last() {
                session.output.done(
                    &format!("{}: {}", last.operation.name, last.conclusion.message),
                    &json!({"name": last.operation.name, "message": last.conclusion.message}),
                )?;
            }
        }
        verdict
    }
    .await;
    session.finish(result).await
}

async fn prune(
    global: &GlobalArguments,
    name: &ScheduleName,
    dry_run: bool,
    output: Output,
) -> Result<(), CliError> {
    let session = Session::open(global, output).await?;
    let result: Result<(), CliError> = async {
        let known = session.operator.schedule(&name.namespace, &name.name).await?;
        let now = Timestamp::now();
        let prune = |dry_run| {
            session.operator.prune(&name.namespace, &name.name, &known.spec, now, dry_run)
        };
        let mut report = prune(true).await?;
        let dropped = report.backups.iter().filter(|backup| !backup.keep).count();
        if !dry_run && dropped > 0 {
            let what = counted(dropped, "backup");
            let question = format!("Remove {what} of schedule {}?", name.name);
            session.output.confirm(&question, global.yes)?;
            report = prune(false).await?;
        }
        let removed = if dry_run { "would remove" } else { "removed" };
        let rows: Vec<Vec<String>> = report
            .backups
            .iter()
            .map(|backup| {
                vec![
                    backup.id.to_string(),
                    backup.name.clone(),
                    if backup.keep { "keep" } else { removed }.to_owned(),
                    backup.rules.join(", "),
                ]
            })
            .collect();
        session.output.table(&["ID", "ARCHIVE", "VERDICT", "RULES"], &rows, &report.backups)
    }
    .await;
    session.finish(result).await
}

/// Held back in the catalog, not in the document: Eider never writes another's specification.
async fn suspend(
    global: &GlobalArguments,
    name: &ScheduleName,
    suspended: bool,
    output: Output,
) -> Result<(), CliError> {
    let session = Session::open(global, output).await?;
    let result: Result<(), CliError> = async {
    let known = session.operator.schedule(&name.namespace, &name.name).await?;
    let now = Timestamp::now();
    let mut task = session.operator.schedule_task(&known, now).await?;
    task.suspended = suspended;
    task.updated_at = now;
    session.operator.catalog().put_scheduled_task(task.clone()).await?;
    let word = if suspended { "suspended" } else { "resumed" };
    session
        .operator
        .audit(&UserAction {
            action_type: "SCHEDULE".to_owned(),
            action_description: format!("schedule {}/{} {word}", name.namespace, name.name),
            action_params: json!({"suspended": suspended}),
            status: "SUCCESS".to_owned(),
            started_at: now,
            completed_at: Some(now),
            ..UserAction::default()
        })
        .await?;
    if let Some(daemon) = &session.daemon {
        daemon.sync().await.map_err(CliError::from)?;
    }
    if !suspended && known.spec.suspend {
        session
            .output
            .note("its document says `suspend: true`; it stays suspended until that is changed");
    }
    session.output.done(
        &format!("schedule {}/{} {word}", name.namespace, name.name),
        &json!({"name": name.name, "namespace": name.namespace, "suspended": suspended || known.spec.suspend}),
    )?;
    Ok(())
    }
    .await;
    session.finish(result).await
}
