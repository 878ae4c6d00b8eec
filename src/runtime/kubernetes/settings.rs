//! What the operator is told about its movers.

use std::time::Duration;

/// Settings of everything that the runtime makes in a cluster.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Image of the movers: Eider's own.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`; the cluster's default when unset.
    pub image_pull_policy: Option<String>,
    /// Secrets of the mover's namespace that its image is pulled with.
    pub image_pull_secrets: Vec<String>,
    /// Service account of the movers, for what admission ties to accounts; the namespace's default when
    /// unset. Its token is never mounted.
    pub service_account: Option<String>,
    /// Requested CPU of a mover, as Kubernetes writes it.
    pub cpu: Option<String>,
    /// Largest CPU of a mover. Unset where nothing asks for it: throttling makes an outage longer.
    pub cpu_limit: Option<String>,
    /// Requested and largest memory of a mover, as Kubernetes writes it.
    pub memory: Option<String>,
    /// How long a mover may take until it runs.
    pub start_timeout: Duration,
    /// How long a mover may run before Kubernetes ends it.
    pub deadline: Duration,
    /// How many movers are tried for one operation when they get lost.
    pub attempts: u32,
}

impl Settings {
    /// The defaults, with this image.
    pub fn new(image: impl Into<String>) -> Self {
        Self {
            image: image.into(),
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            service_account: None,
            cpu: None,
            cpu_limit: None,
            memory: None,
            start_timeout: Duration::from_mins(10),
            deadline: Duration::from_hours(24),
            attempts: 4,
        }
    }
}
