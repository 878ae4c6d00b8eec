//! Reading objects over a `kubectl proxy` that stays: a look every half second as a process of its own
//! would be most of what a small machine does.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// API and plural of the kinds that tests look at again and again.
const KINDS: &[(&str, &str, &str)] = &[
    ("backup", "apis/eider.dev/v1alpha1", "backups"),
    ("restore", "apis/eider.dev/v1alpha1", "restores"),
    ("upgrade", "apis/eider.dev/v1alpha1", "upgrades"),
    ("backupschedule", "apis/eider.dev/v1alpha1", "backupschedules"),
    ("backupstore", "apis/eider.dev/v1alpha1", "backupstores"),
    ("statefulset", "apis/apps/v1", "statefulsets"),
    ("deployment", "apis/apps/v1", "deployments"),
    ("job", "apis/batch/v1", "jobs"),
    ("pod", "api/v1", "pods"),
    ("persistentvolumeclaim", "api/v1", "persistentvolumeclaims"),
];

/// A proxy to the API server, ended when dropped.
pub struct Reader {
    process: Child,
    agent: ureq::Agent,
    address: String,
}

impl Reader {
    /// Starts the proxy. None if it does not start: then everything is asked of `kubectl` itself.
    pub fn start(kubeconfig: &Path) -> Option<Self> {
        // It ends with the test, however that ends.
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "kubectl", "proxy", "--port=0"])
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let mut line = String::new();
        BufReader::new(process.stdout.take()?).read_line(&mut line).ok()?;
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(20)))
            .build()
            .new_agent();
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        let address = format!("http://127.0.0.1:{}", port.unwrap_or_default());
        // Dropped, and so ended, if it has not said where it listens.
        let reader = Self { process, agent, address };
        port.is_some().then_some(reader)
    }

    /// An object, or all of a kind without a name, as the API server has it; an error for kinds that are
    /// not known here, and for any answer but an object or its absence.
    pub fn read(
        &self,
        namespace: &str,
        kind: &str,
        name: Option<&str>,
    ) -> Result<Option<Value>, String> {
        let known = KINDS.iter().find(|(singular, _, plural)| [*singular, *plural].contains(&kind));
        let (_, api, plural) = known.ok_or_else(|| format!("{kind} is not known here"))?;
        let name = name.map_or_else(String::new, |name| format!("/{name}"));
        let path = format!("{}/{api}/namespaces/{namespace}/{plural}{name}", self.address);
        let mut answer = self.agent.get(&path).call().map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let text = answer.body_mut().read_to_string().map_err(|error| error.to_string())?;
        match status {
            200 => serde_json::from_str(&text).map(Some).map_err(|error| error.to_string()),
            404 if text.contains("NotFound") => Ok(None),
            other => Err(format!("{other}: {text}")),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
