//! Every file in `examples/` is a document that validates as it stands.

use std::path::{Path, PathBuf};

fn documents(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            documents(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            found.push(path);
        }
    }
}

#[test]
fn every_example_validates() {
    let mut files = Vec::new();
    documents(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"), &mut files);
    assert!(files.len() > 5, "found only {files:?}");
    for file in files {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_eider"))
            .args(["validate", "--file"])
            .arg(&file)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", file.display());
        assert!(!errors.contains("no documents"), "{}: {errors}", file.display());
    }
}
