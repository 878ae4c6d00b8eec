//! Ten thousand backups: the catalog is made again from their manifests, and lists them all.

use std::fs;

use super::scene::Scene;
use eider::engine::Manifest;

const MANY: usize = 10_000;

#[test]
fn ten_thousand_manifests_make_the_catalog_again() {
    let scene = Scene::new();
    scene.write("live/f", "x");
    scene.backup("pattern", "@/live", "").ok();
    let archive = scene.archive("pattern");
    let name = archive.file_name().unwrap().to_str().unwrap();
    let bytes = fs::read(&archive).unwrap();
    let text = fs::read(scene.path(&format!("store/{name}.manifest.json"))).unwrap();
    let mut manifest = Manifest::from_text(name, &text).unwrap();
    let begin = manifest.created_at;
    fs::create_dir(scene.path("many")).unwrap();
    for number in 0..MANY {
        let at = begin - jiff::SignedDuration::from_mins(i64::try_from(number).unwrap());
        manifest.name =
            format!("backup_scheduled_v1.0_{}.tar.gz", at.strftime("%Y-%m-%d_%H-%M-%S"));
        manifest.backup = format!("nightly-{number}");
        manifest.schedule = Some("nightly".to_owned());
        manifest.created_at = at;
        manifest.verified_at = Some(at);
        fs::write(scene.path("many").join(&manifest.name), &bytes).unwrap();
        let beside = format!("many/{}.manifest.json", manifest.name);
        fs::write(scene.path(&beside), manifest.to_text()).unwrap();
    }
    fs::remove_dir_all(scene.path("catalog")).unwrap();
    scene.run(&["db", "rebuild", "--store", "many"]).ok();
    let listed = scene.run(&["backup", "list"]).ok();
    assert_eq!(listed.stdout.lines().count(), MANY + 1);
    assert!(!listed.stdout.contains("MISSING"));
    let rows = scene.run(&["db", "query", "--json", "SELECT count(*) AS n FROM backup_records"]);
    assert_eq!(rows.ok().items()[0]["n"], MANY);
    // A second time changes nothing.
    scene.run(&["db", "rebuild", "--store", "many"]).ok();
    assert_eq!(scene.run(&["backup", "list", "-o", "json"]).ok().items().len(), MANY);
}
