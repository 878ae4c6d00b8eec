//! The arguments of `eider operator`.

use std::time::Duration;

use clap::Args;

use super::{Listen, parse_listen};
use crate::spec::DurationText;

/// `eider operator`.
#[derive(Debug, Args)]
pub struct OperatorArguments {
    /// Namespace to watch; may be repeated. Default: all of them.
    #[arg(long = "namespace", short, value_name = "NAMESPACE")]
    pub namespaces: Vec<String>,
    /// Where metrics, health and the read-only API are served; `off` for nowhere.
    #[arg(long, env = "EIDER_LISTEN", hide_env_values = true, default_value = "127.0.0.1:9110", value_name = "ADDRESS", value_parser = parse_listen)]
    pub listen: Listen,
    /// Operations at the same time, and so movers.
    #[arg(long, env = "EIDER_CONCURRENCY", hide_env_values = true, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Image of the movers; default the image of this pod.
    #[arg(long, env = "EIDER_IMAGE", hide_env_values = true, value_name = "IMAGE")]
    pub mover_image: Option<String>,
    /// When movers' nodes pull the image: Always, IfNotPresent or Never.
    #[arg(long, env = "EIDER_MOVER_IMAGE_PULL_POLICY", hide_env_values = true, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub mover_image_pull_policy: Option<String>,
    /// Secret that movers' images are pulled with, in the namespaces where they run; may be repeated.
    #[arg(
        long = "mover-image-pull-secret",
        env = "EIDER_MOVER_IMAGE_PULL_SECRETS",
        hide_env_values = true,
        value_name = "NAME",
        value_delimiter = ','
    )]
    pub mover_image_pull_secrets: Vec<String>,
    /// Service account of the movers, without its token; default that of each namespace.
    #[arg(long, env = "EIDER_MOVER_SERVICE_ACCOUNT", hide_env_values = true, value_name = "NAME")]
    pub mover_service_account: Option<String>,
    /// CPU that a mover asks for, such as 500m.
    #[arg(long, env = "EIDER_MOVER_CPU", hide_env_values = true, value_name = "QUANTITY")]
    pub mover_cpu: Option<String>,
    /// CPU that a mover may use at most, such as 2; no limit by default.
    #[arg(long, env = "EIDER_MOVER_CPU_LIMIT", hide_env_values = true, value_name = "QUANTITY")]
    pub mover_cpu_limit: Option<String>,
    /// Memory that a mover asks for and may use, such as 512Mi.
    #[arg(long, env = "EIDER_MOVER_MEMORY", hide_env_values = true, value_name = "QUANTITY")]
    pub mover_memory: Option<String>,
    /// How long a mover may take until it runs.
    #[arg(long, env = "EIDER_MOVER_START_TIMEOUT", hide_env_values = true, default_value = "10m", value_name = "DURATION", value_parser = parse_duration)]
    pub mover_start_timeout: Duration,
    /// How long a mover may run.
    #[arg(long, env = "EIDER_MOVER_DEADLINE", hide_env_values = true, default_value = "1d", value_name = "DURATION", value_parser = parse_duration)]
    pub mover_deadline: Duration,
    /// How long the API server may take until it answers a request; then it is asked again.
    #[arg(long, env = "EIDER_REQUEST_TIMEOUT", hide_env_values = true, default_value = "1m", value_name = "DURATION", value_parser = parse_duration)]
    pub request_timeout: Duration,
    /// Name of the Lease that replicas take turns at; the Role of the manifests allows the default alone.
    #[arg(
        long,
        env = "EIDER_LEASE_NAME",
        hide_env_values = true,
        default_value = "eider-operator",
        value_name = "NAME"
    )]
    pub lease_name: String,
    /// How long the Lease holds when it cannot be renewed, 5s at least. Longer bears a slower API server;
    /// another replica takes over as much later.
    #[arg(long, env = "EIDER_LEASE_DURATION", hide_env_values = true, default_value = "15s", value_name = "DURATION", value_parser = parse_lease)]
    pub lease_duration: Duration,
    /// Namespace of the Lease.
    #[arg(
        long,
        env = "POD_NAMESPACE",
        hide_env_values = true,
        default_value = "default",
        value_name = "NAMESPACE"
    )]
    pub lease_namespace: String,
    /// What this replica is called in the Lease; default the name of the machine and a number.
    #[arg(long, env = "POD_NAME", hide_env_values = true, value_name = "NAME")]
    pub identity: Option<String>,
}

/// A lease is kept in whole seconds, and renewed several times while it holds.
fn parse_lease(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration < Duration::from_secs(5) {
        return Err(format!("{text} is too short: a lease holds for 5s at least"));
    }
    Ok(duration)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    serde_json::from_value::<DurationText>(serde_json::json!(text))
        .map(|duration| duration.to_duration())
        .map_err(|error| error.to_string())
}
