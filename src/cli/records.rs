//! `eider service …`, `eider history`, `eider config …`: what the catalog keeps.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::arguments::{ConfigCommand, GlobalArguments, HistoryArguments, ServiceCommand};
use super::output::format::{age, duration, local_time, size};
use super::output::{CliError, ExitCode, Output};
use super::session::Session;
use crate::catalog::{ConfigEntry, HistoryFilter, UserAction};
use crate::spec::Reason;

fn none() -> String {
    "-".to_owned()
}

/// How long a service has been up; nothing for one that is not.
fn up(seconds: i64) -> String {
    match u64::try_from(seconds) {
        Ok(seconds) if seconds > 0 => duration(std::time::Duration::from_secs(seconds)),
        _ => none(),
    }
}

/// Bytes received and sent.
fn network(found: &Value) -> String {
    match (found["receivedBytes"].as_i64(), found["sentBytes"].as_i64()) {
        (Some(received), Some(sent)) => format!("{}/{}", size(received), size(sent)),
        _ => none(),
    }
}

/// `eider service …`.
pub async fn service(
    global: &GlobalArguments,
    command: &ServiceCommand,
    output: Output,
) -> Result<(), CliError> {
    let session = Session::open(global, output).await?;
    let result: Result<(), CliError> = async {
        match command {
            ServiceCommand::Status => {
                let services = session.operator.catalog().current_services().await?;
                let rows: Vec<Vec<String>> = services
                    .iter()
                    .map(|service| {
                        vec![
                            service.service_name.clone(),
                            service.status.clone(),
                            service.health_status.clone(),
                            service.restart_count.to_string(),
                            up(service.uptime_seconds),
                            format!("{} ago", age(service.last_updated)),
                        ]
                    })
                    .collect();
                session.output.table(
                    &["SERVICE", "STATUS", "HEALTH", "RESTARTS", "UP", "SEEN"],
                    &rows,
                    &services,
                )?;
            }
            ServiceCommand::History { name, limit } => {
                let filter = HistoryFilter {
                    name: name.clone(),
                    limit: u32::try_from(*limit).ok(),
                    ..HistoryFilter::default()
                };
                let history = session.operator.catalog().service_history(filter).await?;
                let rows: Vec<Vec<String>> = history
                    .iter()
                    .map(|status| {
                        vec![
                            local_time(status.recorded_at),
                            status.service_name.clone(),
                            status.status.clone(),
                            status.health_status.clone(),
                            status.restart_count.map_or_else(none, |count| count.to_string()),
                            status.cpu_usage.map_or_else(none, |percent| format!("{percent:.1} %")),
                            status.memory_usage.map_or_else(none, size),
                            network(&status.network_io),
                            status.error_message.clone().unwrap_or_default(),
                        ]
                    })
                    .collect();
                session.output.table(
                    &[
                        "TIME", "SERVICE", "STATUS", "HEALTH", "RESTARTS", "CPU", "MEMORY",
                        "IN/OUT", "MESSAGE",
                    ],
                    &rows,
                    &history,
                )?;
            }
        }
        Ok(())
    }
    .await;
    session.finish(result).await
}

/// `eider history`.
pub async fn history(
    global: &GlobalArguments,
    arguments: &HistoryArguments,
    output: Output,
) -> Result<(), CliError> {
    let session = Session::open(global, output).await?;
    let result: Result<(), CliError> = async {
        let filter = HistoryFilter {
            name: arguments.action_type.clone(),
            limit: u32::try_from(arguments.limit).ok(),
            ..HistoryFilter::default()
        };
        let actions = session.operator.catalog().user_actions(filter).await?;
        let rows: Vec<Vec<String>> = actions
            .iter()
            .map(|action| {
                let took = action.duration_seconds.map_or_else(
                    || "-".to_owned(),
                    |seconds| duration(std::time::Duration::from_secs_f64(seconds.max(0.0))),
                );
                vec![
                    local_time(action.started_at),
                    action.actor.clone(),
                    action.action_type.clone(),
                    action.status.clone(),
                    took,
                    format!(
                        "{}: {}",
                        action.action_description,
                        action.result_message.as_deref().unwrap_or("done")
                    ),
                ]
            })
            .collect();
        session.output.table(
            &["TIME", "ACTOR", "ACTION", "STATUS", "TOOK", "WHAT"],
            &rows,
            &actions,
        )?;
        Ok(())
    }
    .await;
    session.finish(result).await
}

/// `eider config …`.
pub async fn config(
    global: &GlobalArguments,
    command: &ConfigCommand,
    output: Output,
) -> Result<(), CliError> {
    let session = Session::open(global, output).await?;
    let result: Result<(), CliError> = async {
        let catalog = session.operator.catalog();
        let now = Timestamp::now();
        let changed = match command {
            ConfigCommand::List => {
                let entries = catalog.configuration().await?;
                let rows: Vec<Vec<String>> = entries
                    .iter()
                    .map(|entry| {
                        vec![
                            entry.config_key.clone(),
                            entry.config_value.to_string(),
                            if entry.config_value == entry.default_value {
                                "default"
                            } else {
                                "changed"
                            }
                            .to_owned(),
                            entry.description.clone().unwrap_or_default(),
                        ]
                    })
                    .collect();
                session.output.table(&["KEY", "VALUE", "STATE", "DESCRIPTION"], &rows, &entries)?;
                None
            }
            ConfigCommand::Get { key } => {
                let entry = entry(&session, key).await?;
                session.output.object(
                    &entry,
                    &[
                        ("Key".to_owned(), entry.config_key.clone()),
                        ("Value".to_owned(), entry.config_value.to_string()),
                        ("Default".to_owned(), entry.default_value.to_string()),
                        ("Type".to_owned(), format!("{:?}", entry.config_type).to_lowercase()),
                        ("Rule".to_owned(), entry.validation_rule.clone().unwrap_or_default()),
                        ("Description".to_owned(), entry.description.clone().unwrap_or_default()),
                    ],
                )?;
                None
            }
            ConfigCommand::Set { key, value } => {
                entry(&session, key).await?;
                // What reads as JSON is meant as such: `7` is a number; everything else is text.
                let value: Value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
                catalog.set_configuration(key, value, now).await?;
                Some(key)
            }
            ConfigCommand::Reset { key } => {
                entry(&session, key).await?;
                catalog.reset_configuration(key, now).await?;
                Some(key)
            }
        };
        if let Some(key) = changed {
            let entry = entry(&session, key).await?;
            session
                .operator
                .audit(&UserAction {
                    action_type: "CONFIG_CHANGE".to_owned(),
                    action_description: format!("{key} = {}", entry.config_value),
                    action_params: json!({"key": key, "value": entry.config_value}),
                    status: "SUCCESS".to_owned(),
                    started_at: now,
                    completed_at: Some(now),
                    ..UserAction::default()
                })
                .await?;
            session.output.done(&format!("{key} = {}", entry.config_value), &entry)?;
        }
        Ok(())
    }
    .await;
    session.finish(result).await
}

async fn entry(session: &Session, key: &str) -> Result<ConfigEntry, CliError> {
    let entries = session.operator.catalog().configuration().await?;
    entries.into_iter().find(|entry| entry.config_key == *key).ok_or_else(|| {
        CliError::new(
            ExitCode::NotFound,
            Reason::InvalidSpec,
            format!("there is no setting `{key}`"),
        )
        .hint("`eider config list` shows them all")
    })
}
