//! Commands and requests that run before and after the data is touched.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quantity::DurationText;

/// Hooks of an operation. `after` runs on failure too, and after a crash.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hooks {
    /// Run in order before the service is held still. The first failure ends the operation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub before: Vec<Hook>,
    /// Run in order after the service runs again; all of them, whatever happened.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub after: Vec<Hook>,
}

impl Hooks {
    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.before.is_empty() && self.after.is_empty()
    }
}

/// One hook: exactly one of `exec` and `http`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.exec) != has(self.http)").message("a hook needs exactly one of exec and http")
)]
pub struct Hook {
    /// A command, in a container of the target or, for a host target, on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecHook>,
    /// An HTTP request that has to answer with a status from 200 to 299.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpHook>,
    /// How long it may take before it counts as failed.
    #[serde(default = "default_timeout")]
    pub timeout: DurationText,
    /// What a failure means for the operation.
    #[serde(default)]
    pub on_error: OnError,
}

fn default_timeout() -> DurationText {
    DurationText::seconds(300)
}

/// A command without a shell: the first item is the program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExecHook {
    /// Container or Compose service to run in; not for host targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Program and arguments.
    #[schemars(length(min = 1, max = 256))]
    pub command: Vec<String>,
}

/// An HTTP request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.url.startsWith('http://') || self.url.startsWith('https://')")
        .message("url must start with http:// or https://").field_path(".url")
)]
pub struct HttpHook {
    /// Where to send it; `http://` or `https://`.
    #[schemars(length(min = 8, max = 2048))]
    pub url: String,
    /// The method; default POST.
    #[serde(default)]
    pub method: HttpMethod,
    /// Headers that are no secrets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// File whose content is sent as the `Authorization` header (host, Docker and sidecar).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_file: Option<String>,
    /// Body to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub body: Option<String>,
}

/// The methods a hook may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum HttpMethod {
    /// Read a resource.
    Get,
    /// Ask for an action.
    #[default]
    Post,
    /// Replace a resource.
    Put,
}

/// What a failed hook means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum OnError {
    /// The operation fails.
    #[default]
    Fail,
    /// It is noted as a warning and the operation goes on.
    Continue,
}
