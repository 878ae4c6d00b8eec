//! The histories of what was done and checked: the audit and the preflight results.

use jiff::Timestamp;
use serde_json::json;

use super::record::positive;
use super::{Operator, OperatorError};
use crate::catalog::{HistoryFilter, SystemCheck, UserAction};
use crate::plan::{Conclusion, Log, OperationId, PreflightFacts, backup};
use crate::spec::Reason;

impl Operator {
    /// Whether the end of the operation that began then is in the audit.
    pub(super) async fn is_audited(
        &self,
        operation: &OperationId,
        began: Timestamp,
    ) -> Result<bool, OperatorError> {
        let filter = HistoryFilter {
            name: Some(operation.kind.to_uppercase()),
            since: Some(began),
            ..HistoryFilter::default()
        };
        let actions = self.catalog.user_actions(filter).await?;
        let identity = operation.to_string();
        Ok(actions.iter().any(|action| action.action_params["operation"] == identity))
    }

    pub(super) async fn record_checks(
        &self,
        log: &Log<'_>,
        at: Timestamp,
    ) -> Result<(), OperatorError> {
        let facts: PreflightFacts = log.facts(backup::step::PREFLIGHT).unwrap_or_default();
        if facts.checks.is_empty() {
            return Ok(());
        }
        let checks = facts
            .checks
            .into_iter()
            .map(|(name, outcome, found)| SystemCheck {
                check_type: name.clone(),
                check_name: name.to_lowercase(),
                platform: Some(format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH)),
                actual_value: Some(found),
                status: outcome,
                checked_at: at,
                ..SystemCheck::default()
            })
            .collect();
        self.catalog.append_checks(checks).await?;
        Ok(())
    }

    pub(super) async fn record_action(
        &self,
        operation: &OperationId,
        conclusion: &Conclusion,
        began: Timestamp,
        at: Timestamp,
    ) -> Result<(), OperatorError> {
        let status = match &conclusion.failure {
            None => "SUCCESS",
            Some(failure) if failure.reason == Reason::Cancelled => "CANCELLED",
            Some(_) => "FAILED",
        };
        self.audit(&UserAction {
            action_type: operation.kind.to_uppercase(),
            action_description: format!(
                "{} {}/{}",
                operation.kind, operation.namespace, operation.name
            ),
            action_params: json!({"operation": operation.to_string()}),
            status: status.to_owned(),
            result_message: Some(conclusion.message.clone()),
            started_at: began,
            completed_at: Some(at),
            duration_seconds: Some(positive(at.duration_since(began)).as_secs_f64()),
            ..UserAction::default()
        })
        .await
    }

    /// Writes a line of the audit, with who and what this process is.
    pub async fn audit(&self, action: &UserAction) -> Result<(), OperatorError> {
        let action = UserAction {
            actor: actor(),
            session_id: Some(self.session().to_owned()),
            client_version: Some(crate::VERSION.to_owned()),
            platform_info: Some(format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH)),
            ..action.clone()
        };
        self.catalog.append_user_action(action).await?;
        Ok(())
    }
}

/// The user this process acts for.
fn actor() -> String {
    std::env::var("SUDO_USER")
        .or_else(|_| std::env::var("USER"))
        .unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()))
}
