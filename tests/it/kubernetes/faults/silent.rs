//! Logs of movers that go silent while their connection stays: the answer is in them, and a service stands
//! still until it is heard.

use super::{STOPS, Scene, Stage, assert_same, copy_of, note};
use crate::kubernetes::cluster::Cluster;
use crate::kubernetes::proxy::Fault;

/// A Backup stayed at its archive, and the service down, for as long as the operator lived.
#[test]
fn a_log_that_goes_silent_is_opened_anew() {
    let Some(cluster) = Cluster::connect() else { return };
    let mut stage = Stage::new(cluster);
    let data = copy_of(&stage.data());
    // One for preflight, archive, seal and verify each.
    for log in 1..=4 {
        let before = stage.scene.archives();
        let name = format!("silent-{log}");
        let begin = |scene: &Scene| {
            scene.back_up(&name, "db", &format!("  consistency: {{timeout: {STOPS}}}\n"));
        };
        stage.disturbed(vec![Fault::SilentLog(log)], begin, "backup", &name);
        stage.scene.running("db");
        stage.archived(&before, 1);
        assert!(stage.proxy.logs() > log, "nobody has listened again");
        note(&format!("Backup that stops, log {log} silent: {} were opened", stage.proxy.logs()));
    }
    assert_same(data.path(), &stage.data());
}
