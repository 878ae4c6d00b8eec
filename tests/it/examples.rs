//! Every document in `examples/` validates as it stands, beside what is not Eider's.

use std::path::{Path, PathBuf};

fn directories(directory: &Path, found: &mut Vec<PathBuf>) {
    let mut documents = false;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            directories(&path, found);
        } else {
            // A directory without any is refused: a check that looks at nothing must not pass.
            documents |= path.extension().is_some_and(|extension| extension == "yaml")
                && std::fs::read_to_string(&path).unwrap().contains("apiVersion: eider.dev/");
        }
    }
    if documents {
        found.push(directory.to_owned());
    }
}

#[test]
fn every_example_validates() {
    let mut found = Vec::new();
    directories(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"), &mut found);
    assert!(found.len() > 3, "found only {found:?}");
    for directory in found {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_eider"))
            .args(["validate", "--file"])
            .arg(&directory)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", directory.display());
    }
}
