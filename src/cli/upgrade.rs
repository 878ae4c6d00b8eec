//! `eider upgrade …`: what upgrades there were, a new one made from flags, and the way back from one.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::arguments::{GlobalArguments, UpgradeCommand, UpgradeCreateArguments};
use super::backup::{checked, print_plan, stamped, store_reference};
use super::output::format::local_time;
use super::output::{CliError, ExitCode, Output};
use super::session::{Session, judge};
use crate::catalog::{HistoryFilter, UpgradeRecord};
use crate::plan::version::of_image;
use crate::spec::{self, Document, Reason};

/// Carries one of them out.
pub async fn upgrade(
    global: &GlobalArguments,
    command: &UpgradeCommand,
    output: Output,
) -> Result<(), CliError> {
    let acts = match command {
        UpgradeCommand::List | UpgradeCommand::Show { .. } => false,
        UpgradeCommand::Create(arguments) => !arguments.dry_run,
        UpgradeCommand::Rollback { dry_run, .. } => !dry_run,
    };
    let session = if acts {
        Session::open_to_act(global, output).await?
    } else {
        Session::open(global, output).await?
    };
    let result = match command {
        UpgradeCommand::List => list(&session).await,
        UpgradeCommand::Show { name } => show(&session, name).await,
        UpgradeCommand::Create(arguments) => create(&session, arguments).await,
        UpgradeCommand::Rollback { name, namespace, dry_run } => {
            roll_back(&session, namespace, name, *dry_run, global.yes).await
        }
    };
    session.finish(result).await
}

fn name_of(upgrade: &UpgradeRecord) -> String {
    upgrade.upgrade_id.split('/').nth(2).unwrap_or_default().to_owned()
}

fn optional_time(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "-".to_owned(), local_time)
}

async fn list(session: &Session) -> Result<(), CliError> {
    let upgrades = session.operator.catalog().upgrades(HistoryFilter::default()).await?;
    let rows: Vec<Vec<String>> = upgrades
        .iter()
        .map(|upgrade| {
            vec![
                name_of(upgrade),
                upgrade.from_version.clone().unwrap_or_else(|| "-".to_owned()),
                upgrade.to_version.clone(),
                json!(upgrade.status).as_str().unwrap_or_default().to_owned(),
                optional_time(upgrade.started_at),
                upgrade.target.clone(),
            ]
        })
        .collect();
    let head = ["NAME", "FROM", "TO", "STATUS", "STARTED", "TARGET"];
    session.output.table(&head, &rows, &upgrades)
}

async fn show(session: &Session, name: &str) -> Result<(), CliError> {
    let upgrades = session.operator.catalog().upgrades(HistoryFilter::default()).await?;
    let upgrade = upgrades.iter().find(|upgrade| name_of(upgrade) == *name).ok_or_else(|| {
        CliError::new(
            ExitCode::NotFound,
            Reason::TargetNotFound,
            format!("there is no upgrade `{name}`"),
        )
        .hint("`eider upgrade list` shows what there is")
    })?;
    let status = json!(upgrade.status).as_str().unwrap_or_default().to_owned();
    let fields = vec![
        ("Name".to_owned(), name_of(upgrade)),
        ("Status".to_owned(), status),
        ("From".to_owned(), upgrade.from_version.clone().unwrap_or_default()),
        ("To".to_owned(), upgrade.to_version.clone()),
        ("Target".to_owned(), upgrade.target.clone()),
        ("Started".to_owned(), optional_time(upgrade.started_at)),
        ("Completed".to_owned(), optional_time(upgrade.completed_at)),
        ("Error".to_owned(), upgrade.error_message.clone().unwrap_or_default()),
        ("Rolled back".to_owned(), upgrade.rollback_reason.clone().unwrap_or_default()),
    ];
    session.output.object(upgrade, &fields)
}

async fn create(session: &Session, arguments: &UpgradeCreateArguments) -> Result<(), CliError> {
    let (store, mut documents) =
        store_reference(session, &arguments.namespace, arguments.store.as_deref()).await?;
    let target = match &arguments.project {
        Some(project) => json!({"project": project}),
        None => json!({"containers": arguments.containers}),
    };
    let first = arguments.images.first().map(|(_, image)| image.as_str()).unwrap_or_default();
    let version = arguments.to_version.clone().or_else(|| of_image(first)).ok_or_else(|| {
        CliError::new(
            ExitCode::Usage,
            Reason::InvalidSpec,
            format!("the image `{first}` names no version"),
        )
        .hint("say which one it is with --version")
    })?;
    let images: Map<String, Value> =
        arguments.images.iter().map(|(name, image)| (name.clone(), json!(image))).collect();
    let archives = arguments
        .image_archives
        .iter()
        .map(|file| Ok(json!(std::path::absolute(file)?.to_string_lossy())))
        .collect::<std::io::Result<Vec<Value>>>()
        .map_err(|error| {
            CliError::new(ExitCode::Usage, Reason::InvalidSpec, format!("--image-archive: {error}"))
        })?;
    let mut gate = Map::new();
    for (field, value) in [("timeout", &arguments.timeout), ("soak", &arguments.soak)] {
        if let Some(value) = value {
            gate.insert(field.to_owned(), json!(value));
        }
    }
    let name = arguments.name.clone().unwrap_or_else(|| stamped("upgrade"));
    let mut document = json!({
        "apiVersion": spec::API_VERSION,
        "kind": "Upgrade",
        "metadata": {"name": name, "namespace": arguments.namespace},
        "spec": {
            "target": {"docker": target},
            "toVersion": version,
            "images": images,
            "backup": {"storeRef": {"name": store}, "mode": "Required"},
            "healthGate": gate,
            "force": arguments.force,
        },
    });
    if !archives.is_empty() {
        document["spec"]["imageArchives"] = json!(archives);
    }
    documents.extend(checked(&document)?);
    let what = format!("{} to {version}", arguments.project.as_deref().unwrap_or("containers"));
    carry_out(session, documents, &name, &what, arguments.dry_run).await
}

async fn roll_back(
    session: &Session,
    namespace: &str,
    name: &str,
    dry_run: bool,
    yes: bool,
) -> Result<(), CliError> {
    let document = session.operator.way_back(namespace, name).await?;
    let spec = &document["spec"];
    let version = spec["toVersion"].as_str().unwrap_or_default().to_owned();
    let backup = spec["dataFrom"]["name"].as_str().unwrap_or_default();
    let question = format!("Go back to version {version}, with the data of the backup `{backup}`?");
    let own = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let documents = checked(&document)?;
    if !dry_run {
        session.output.confirm(&question, yes)?;
    }
    carry_out(session, documents, &own, &format!("{name} back to {version}"), dry_run).await
}

async fn carry_out(
    session: &Session,
    documents: Vec<Document>,
    name: &str,
    what: &str,
    dry_run: bool,
) -> Result<(), CliError> {
    if dry_run {
        for document in &documents {
            if let Some(job) = session.operator.preview(document, &documents).await? {
                session.output.note("nothing was done; this is the plan:");
                print_plan(session, &job.map_err(CliError::from)?).await?;
            }
        }
        return Ok(());
    }
    session.listen_for_interrupts();
    let documents = documents.into_iter().map(|document| (document, "cli".to_owned())).collect();
    let done = session.carry_out(documents).await?;
    judge(&done)?;
    let Some(last) = done.last() else { return Ok(()) };
    session.output.done(
        &format!("{what}: {}", last.conclusion.message),
        &json!({"name": name, "message": last.conclusion.message, "succeeded": true}),
    )
}
