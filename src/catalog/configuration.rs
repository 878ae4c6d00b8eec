//! The settings in `app_config`: the rows there are, their rules, and their typed readers.
//!
//! Only rows that some code reads exist; `Settings` is that reader. Values are JSON of the declared
//! type and are never put together as text.

use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::error::CatalogError;
use super::row::{Column, Kind, Record, column};

/// The type of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ConfigType {
    /// Text.
    #[default]
    String,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A JSON object.
    Object,
    /// A JSON array.
    Array,
}

/// A setting: a row of `app_config`, by key.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConfigEntry {
    /// Its name.
    pub config_key: String,
    /// Its value.
    pub config_value: Value,
    /// What its value must be.
    pub config_type: ConfigType,
    /// What it belongs to.
    pub category: String,
    /// One sentence.
    pub description: Option<String>,
    /// Whether it is about the program itself.
    pub is_system_config: bool,
    /// Whether people may set it.
    pub is_user_editable: bool,
    /// `integer LOW..HIGH`, `cron`, `path`, or unset.
    pub validation_rule: Option<String>,
    /// What `reset` sets.
    pub default_value: Value,
    /// When the row was made.
    pub created_at: Timestamp,
    /// When the value was last set.
    pub updated_at: Timestamp,
}

impl Record for ConfigEntry {
    const TABLE: &'static str = "app_config";
    const COLUMNS: &'static [Column] = &[
        column("config_key", "configKey", Kind::Text),
        column("config_value", "configValue", Kind::Json),
        column("config_type", "configType", Kind::Text),
        column("category", "category", Kind::Text),
        column("description", "description", Kind::Text),
        column("is_system_config", "isSystemConfig", Kind::Boolean),
        column("is_user_editable", "isUserEditable", Kind::Boolean),
        column("validation_rule", "validationRule", Kind::Text),
        column("default_value", "defaultValue", Kind::Json),
        column("created_at", "createdAt", Kind::Time),
        column("updated_at", "updatedAt", Kind::Time),
    ];
}

pub(super) const APP_VERSION: &str = "app.version";
const SERVICE_HISTORY_DAYS: &str = "maintenance.cleanup_service_history_days";
const USER_ACTIONS_DAYS: &str = "maintenance.cleanup_user_actions_days";
const METRICS_DAYS: &str = "maintenance.cleanup_performance_metrics_days";
const JOURNAL_DAYS: &str = "maintenance.cleanup_operation_journal_days";
const VACUUM_SCHEDULE: &str = "maintenance.vacuum_schedule";
const UNFINISHED_GRACE: &str = "backup.unfinished_grace_minutes";
const AUTO_DIRECTORY: &str = "auto_backup_directory";

const DAYS: &str = "integer 1..3650";

/// The rows of a new catalog, with their default values.
pub(super) fn defaults(now: Timestamp) -> Vec<ConfigEntry> {
    let entry =
        |key: &str, value: Value, kind, rule: Option<&str>, system, editable, text: &str| {
            let category = match key.split_once('.') {
                Some((category, _)) => category,
                None => "auto_backup",
            };
            ConfigEntry {
                config_key: key.to_owned(),
                config_value: value.clone(),
                config_type: kind,
                category: category.to_owned(),
                description: Some(text.to_owned()),
                is_system_config: system,
                is_user_editable: editable,
                validation_rule: rule.map(str::to_owned),
                default_value: value,
                created_at: now,
                updated_at: now,
            }
        };
    let (text, number) = (ConfigType::String, ConfigType::Number);
    vec![
        entry(
            APP_VERSION,
            json!(env!("CARGO_PKG_VERSION")),
            text,
            None,
            true,
            false,
            "The program that last opened the catalog.",
        ),
        entry(
            SERVICE_HISTORY_DAYS,
            json!(7),
            number,
            Some(DAYS),
            true,
            true,
            "Days for which the states of services are kept.",
        ),
        entry(
            USER_ACTIONS_DAYS,
            json!(90),
            number,
            Some(DAYS),
            true,
            true,
            "Days for which actions, checks and notifications are kept.",
        ),
        entry(
            METRICS_DAYS,
            json!(30),
            number,
            Some(DAYS),
            true,
            true,
            "Days for which throughput and durations are kept.",
        ),
        entry(
            JOURNAL_DAYS,
            json!(90),
            number,
            Some(DAYS),
            true,
            true,
            "Days for which the journal of finished operations is kept.",
        ),
        entry(
            VACUUM_SCHEDULE,
            json!("0 2 * * 0"),
            text,
            Some("cron"),
            true,
            true,
            "When the catalog is maintained.",
        ),
        entry(
            UNFINISHED_GRACE,
            json!(60),
            number,
            Some("integer 1..10080"),
            false,
            true,
            "Minutes after which an unfinished archive without an operation may be removed.",
        ),
        entry(
            AUTO_DIRECTORY,
            json!("/var/lib/eider/backups"),
            text,
            Some("path"),
            false,
            true,
            "Where archives go when no store is named and none is known.",
        ),
    ]
}

/// Whether `value` may be set: of the entry's type, and within its rule.
pub(super) fn validate(entry: &ConfigEntry, value: &Value) -> Result<(), CatalogError> {
    let fits = match entry.config_type {
        ConfigType::String => value.is_string(),
        ConfigType::Number => value.is_number(),
        ConfigType::Boolean => value.is_boolean(),
        ConfigType::Object => value.is_object(),
        ConfigType::Array => value.is_array(),
    };
    let key = &entry.config_key;
    let refuse = |what: String| {
        Err(CatalogError::invalid(
            key.clone(),
            format!("{key} cannot be {value}: it must be {what}"),
        ))
    };
    if !fits {
        return refuse(format!("of type {:?}", entry.config_type).to_lowercase());
    }
    let Some(rule) = entry.validation_rule.as_deref() else { return Ok(()) };
    let text = value.as_str().unwrap_or_default();
    if let Some((low, high)) = rule
        .strip_prefix("integer ")
        .and_then(|range| range.split_once(".."))
        .and_then(|(low, high)| Some((low.parse::<i64>().ok()?, high.parse::<i64>().ok()?)))
    {
        return match value.as_i64() {
            Some(number) if (low..=high).contains(&number) => Ok(()),
            _ => refuse(format!("an integer from {low} to {high}")),
        };
    }
    match rule {
        "cron" => match croner::Cron::from_str(text) {
            Ok(_) => Ok(()),
            Err(error) => refuse(format!("a cron expression ({error})")),
        },
        "path" if text.starts_with('/') && !text.contains('\0') => Ok(()),
        "path" => refuse("an absolute path".to_owned()),
        unknown => refuse(format!("within the rule `{unknown}`, which this program does not know")),
    }
}

/// The settings, with their types.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Days for which the states of services are kept.
    pub service_history_days: i64,
    /// Days for which actions, checks and notifications are kept.
    pub user_actions_days: i64,
    /// Days for which metrics are kept.
    pub performance_metrics_days: i64,
    /// Days for which the journal of finished operations is kept.
    pub operation_journal_days: i64,
    /// When the catalog is maintained, as a cron expression.
    pub vacuum_schedule: String,
    /// Minutes after which an unfinished archive that belongs to no operation may be removed.
    pub unfinished_grace_minutes: i64,
    /// Where archives go when no store is named and none is known.
    pub default_directory: String,
    /// Version of the program that last opened the catalog.
    pub app_version: String,
}

impl Settings {
    /// Reads the settings; a row that is missing or not of its type counts as its default.
    pub fn from_entries(entries: &[ConfigEntry]) -> Self {
        let builtin = defaults(Timestamp::UNIX_EPOCH);
        let value = |key: &str| {
            let named = |entry: &&ConfigEntry| entry.config_key == key;
            let standard = builtin.iter().find(named);
            entries
                .iter()
                .find(named)
                .filter(|entry| {
                    standard.is_none_or(|standard| validate(standard, &entry.config_value).is_ok())
                })
                .or(standard)
                .map_or(Value::Null, |entry| entry.config_value.clone())
        };
        let number = |key| value(key).as_i64().unwrap_or_default();
        let text = |key| value(key).as_str().unwrap_or_default().to_owned();
        Self {
            service_history_days: number(SERVICE_HISTORY_DAYS),
            user_actions_days: number(USER_ACTIONS_DAYS),
            performance_metrics_days: number(METRICS_DAYS),
            operation_journal_days: number(JOURNAL_DAYS),
            vacuum_schedule: text(VACUUM_SCHEDULE),
            unfinished_grace_minutes: number(UNFINISHED_GRACE),
            default_directory: text(AUTO_DIRECTORY),
            app_version: text(APP_VERSION),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_keeps_its_own_rule() {
        for entry in defaults(Timestamp::UNIX_EPOCH) {
            validate(&entry, &entry.default_value).unwrap();
        }
    }

    #[test]
    fn values_of_another_type_or_beyond_the_rule_are_refused() {
        let entries = defaults(Timestamp::UNIX_EPOCH);
        let refused = |key: &str, value: Value| {
            let entry = entries.iter().find(|entry| entry.config_key == key).unwrap();
            assert!(validate(entry, &value).is_err(), "{key} accepted {value}");
        };
        refused(USER_ACTIONS_DAYS, json!("90"));
        refused(USER_ACTIONS_DAYS, json!(0));
        refused(USER_ACTIONS_DAYS, json!(1.5));
        refused(AUTO_DIRECTORY, json!(true));
        refused(VACUUM_SCHEDULE, json!("whenever"));
        refused(AUTO_DIRECTORY, json!("./backups"));
    }

    #[test]
    fn a_spoilt_row_counts_as_its_default() {
        let mut entries = defaults(Timestamp::UNIX_EPOCH);
        for entry in &mut entries {
            entry.config_value = json!({"spoilt": true});
        }
        let standard = Settings::from_entries(&[]);
        assert_eq!(Settings::from_entries(&entries), standard);
        assert_eq!(standard.user_actions_days, 90);
        assert_eq!(standard.vacuum_schedule, "0 2 * * 0");
    }
}
