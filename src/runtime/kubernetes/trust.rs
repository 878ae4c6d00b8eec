//! What a document may not ask of the operator, which holds rights that its author may not have.

use crate::plan::Job;
use crate::runtime::hook_phase;

/// Whether a request of the job is to carry the content of a file: in a cluster that would be any file
/// of the operator, its token included, sent to wherever the document says.
pub fn asks_for_a_file(job: &Job) -> bool {
    let hooks = hook_phase::of_job(job);
    let mut hooked = hooks.before.iter().chain(&hooks.after).filter_map(|hook| hook.http.as_ref());
    let probes = match job {
        Job::Upgrade(job) => job.spec.health_gate.probes.as_slice(),
        _ => &[],
    };
    hooked.any(|http| http.authorization_file.is_some())
        || probes.iter().any(|probe| probe.http.authorization_file.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::UpgradeJob;

    #[test]
    fn no_file_of_the_operator_is_sent_anywhere() {
        let token = "/var/run/secrets/kubernetes.io/serviceaccount/token";
        let asks = |hooks: Value, probes: Value| {
            let spec = json!({
                "target": {"workload": {"kind": "Deployment", "name": "web"}},
                "toVersion": "2", "images": {"web": "web:2"}, "backup": {"mode": "Skip"},
                "hooks": hooks, "healthGate": {"probes": probes},
            });
            asks_for_a_file(&Job::Upgrade(UpgradeJob {
                operation: "Upgrade/shop/u/1/u".parse().unwrap(),
                spec: serde_json::from_value(spec).unwrap(),
                store: None,
            }))
        };
        let plain = json!([{"http": {"url": "http://x/"}}]);
        let with_file = json!([{"http": {"url": "http://x/", "authorizationFile": token}}]);
        assert!(!asks(json!({"before": plain}), plain.clone()));
        assert!(asks(json!({"before": with_file}), json!([])));
        assert!(asks(json!({"after": with_file}), json!([])));
        assert!(asks(json!({}), with_file.clone()));
    }
}
