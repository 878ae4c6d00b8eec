//! Every document of Eider's in `examples/` validates as it stands.

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
        let text = std::fs::read_to_string(&file).unwrap();
        let mut documents: Vec<&str> = text.split("\n---\n").collect();
        if file.components().any(|part| part.as_os_str() == "kubernetes") {
            // The rest of those files is Kubernetes's own.
            documents.retain(|document| document.contains("apiVersion: eider.dev/"));
            if documents.is_empty() {
                continue;
            }
        }
        let copy = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
        std::fs::write(&copy, documents.join("\n---\n")).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_eider"))
            .args(["validate", "--file"])
            .arg(copy.path())
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", file.display());
        assert!(!errors.contains("no documents"), "{}: {errors}", file.display());
    }
}
