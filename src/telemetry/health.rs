//! Whether the process lives and whether it is ready, for `/livez` and `/readyz`.
//!
//! Liveness depends on nothing: a cluster or a Docker Engine that is away must not get the process
//! killed in the middle of a restore. Readiness is the sum of the components, each of which says
//! what it waits for. No I/O here.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{PoisonError, RwLock};

use serde::Serialize;

/// How one component stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ComponentHealth {
    /// Its name, such as `catalog`.
    pub component: String,
    /// Whether it can do its work.
    pub ready: bool,
    /// What it waits for; empty when ready.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub waiting_for: String,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether every component is ready and the process is not stopping.
    pub ready: bool,
    /// Every component, by name.
    pub components: Vec<ComponentHealth>,
}

impl Readiness {
    /// The HTTP status: 200, or 503 while something is waited for.
    pub fn status_code(&self) -> u16 {
        if self.ready { 200 } else { 503 }
    }

    /// The body as text: a line for each component, and the sum.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for component in &self.components {
            if component.ready {
                let _ = writeln!(text, "[+] {} ready", component.component);
            } else {
                let _ = writeln!(
                    text,
                    "[-] {} waits for {}",
                    component.component, component.waiting_for
                );
            }
        }
        text.push_str(if self.ready { "ready\n" } else { "not ready\n" });
        text
    }
}

/// The shared state; every component reports its own part.
#[derive(Debug, Default)]
pub struct Health {
    /// Component to what it waits for; `None` when ready.
    components: RwLock<BTreeMap<String, Option<String>>>,
}

impl Health {
    /// A state in which every component in `components` still waits for its start.
    pub fn starting(components: &[&str]) -> Self {
        let waiting = |name: &&str| ((*name).to_owned(), Some("its start".to_owned()));
        Self { components: RwLock::new(components.iter().map(waiting).collect()) }
    }

    /// The component can do its work.
    pub fn ready(&self, component: &str) {
        self.put(component, None);
    }

    /// The component waits for `what` (`the catalog's lock`, `the Docker Engine at …`).
    pub fn waiting(&self, component: &str, what: impl Into<String>) {
        self.put(component, Some(what.into()));
    }

    /// The component is no longer part of this process.
    pub fn forget(&self, component: &str) {
        self.components.write().unwrap_or_else(PoisonError::into_inner).remove(component);
    }

    /// Takes the process out of rotation: it ends when running operations have ended.
    pub fn stopping(&self) {
        self.waiting("process", "the end of running operations before it stops");
    }

    /// The answer of `/livez`. That it can be given at all is the proof of life.
    pub fn liveness() -> &'static str {
        "ok\n"
    }

    /// The answer of `/readyz`. A process without components is still starting.
    pub fn readiness(&self) -> Readiness {
        let components = self.components.read().unwrap_or_else(PoisonError::into_inner);
        let components: Vec<_> = components
            .iter()
            .map(|(component, waiting)| ComponentHealth {
                component: component.clone(),
                ready: waiting.is_none(),
                waiting_for: waiting.clone().unwrap_or_default(),
            })
            .collect();
        Readiness {
            ready: !components.is_empty() && components.iter().all(|component| component.ready),
            components,
        }
    }

    fn put(&self, component: &str, waiting: Option<String>) {
        let mut components = self.components.write().unwrap_or_else(PoisonError::into_inner);
        components.insert(component.to_owned(), waiting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_says_what_is_waited_for_and_liveness_does_not_care() {
        let health = Health::starting(&["catalog", "docker"]);
        health.ready("catalog");
        health.waiting("docker", "the Docker Engine at unix:///var/run/docker.sock");
        let readiness = health.readiness();
        assert_eq!(readiness.status_code(), 503);
        assert_eq!(
            readiness.text(),
            "[+] catalog ready\n\
             [-] docker waits for the Docker Engine at unix:///var/run/docker.sock\nnot ready\n"
        );
        assert_eq!(Health::liveness(), "ok\n");

        health.ready("docker");
        assert_eq!(health.readiness().status_code(), 200);
        health.stopping();
        assert_eq!(health.readiness().status_code(), 503);
    }

    #[test]
    fn a_process_without_components_is_still_starting() {
        assert!(!Health::default().readiness().ready);
    }

    #[test]
    fn readiness_as_json_leaves_out_what_is_empty() {
        let health = Health::starting(&["catalog"]);
        health.ready("catalog");
        assert_eq!(
            serde_json::to_string(&health.readiness()).unwrap(),
            r#"{"ready":true,"components":[{"component":"catalog","ready":true}]}"#
        );
    }
}
