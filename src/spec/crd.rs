//! The CustomResourceDefinitions, generated from the Rust types.
//!
//! The types say what they mean; here it is put into the words that every API server since
//! Kubernetes 1.20 understands. The files in `crds/` are this module's output and nothing else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};

use super::document::Kind;
use super::{Backup, BackupSchedule, BackupStore, Restore, Upgrade};

/// Formats that the API server knows; it warns about, or refuses, all others.
const KNOWN_FORMATS: [&str; 3] = ["int32", "int64", "date-time"];

/// Why a definition could not be generated or written.
#[derive(Debug, thiserror::Error)]
pub enum CrdError {
    /// The generated definition is not valid JSON for its type: a mistake in the types.
    #[error("the definition of {kind} cannot be generated: {source}")]
    Generate {
        /// The kind.
        kind: Kind,
        /// What serde says.
        source: serde_json::Error,
    },
    /// A definition cannot be printed as YAML.
    #[error("the definition of {kind} cannot be printed: {message}")]
    Print {
        /// The kind.
        kind: Kind,
        /// What the printer says.
        message: String,
    },
    /// A file cannot be read or written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// A file whose content is not what would be generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// The file.
    pub path: PathBuf,
    /// Whether the file is not there at all.
    pub missing: bool,
}

/// The definition of every kind with the name of its file in `crds/`.
pub fn crds() -> Result<Vec<(String, CustomResourceDefinition)>, CrdError> {
    Kind::ALL
        .iter()
        .map(|kind| Ok((format!("eider.dev_{}.yaml", kind.plural()), crd(*kind)?)))
        .collect()
}

/// The definition of one kind.
pub fn crd(kind: Kind) -> Result<CustomResourceDefinition, CrdError> {
    let derived = match kind {
        Kind::Backup => Backup::crd(),
        Kind::Restore => Restore::crd(),
        Kind::Upgrade => Upgrade::crd(),
        Kind::BackupSchedule => BackupSchedule::crd(),
        Kind::BackupStore => BackupStore::crd(),
    };
    let error = |source| CrdError::Generate { kind, source };
    let mut value = serde_json::to_value(derived).map_err(error)?;
    if let Some(schema) = value.pointer_mut("/spec/versions/0/schema/openAPIV3Schema") {
        mend_schema(schema);
        mend_status(schema);
    }
    serde_json::from_value(value).map_err(error)
}

/// The OpenAPI schema of a whole object of `kind`.
pub(super) fn schema(kind: Kind) -> Result<Value, CrdError> {
    let error = |source| CrdError::Generate { kind, source };
    let value = serde_json::to_value(crd(kind)?).map_err(error)?;
    Ok(value.pointer("/spec/versions/0/schema/openAPIV3Schema").cloned().unwrap_or_default())
}

/// Puts every node into the subset of OpenAPI that structural schemas allow.
fn mend_schema(node: &mut Value) {
    let Some(object) = node.as_object_mut() else { return };
    // A null is pruned by the server, and by us, where a field is not nullable: the field counts as
    // absent. A nullable one would be present for CEL's `has()`, and its rules would see a null.
    object.remove("nullable");
    object.remove("title");
    // An API server of Kubernetes 1.20 takes an empty default for a null one and refuses the
    // definition; an absent text is an empty one for our types all the same.
    if object.get("default").and_then(Value::as_str) == Some("") {
        object.remove("default");
    }
    let unknown_format = object
        .get("format")
        .and_then(Value::as_str)
        .is_some_and(|format| !KNOWN_FORMATS.contains(&format));
    if unknown_format {
        object.insert("format".to_owned(), json!("int32"));
    }
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(mend_schema);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = object.get_mut(inner) {
            mend_schema(inner);
        }
    }
}

/// Server-side apply merges conditions by type, and a fresh object is not taken for finished.
fn mend_status(schema: &mut Value) {
    let Some(status) = schema.pointer_mut("/properties/status").and_then(Value::as_object_mut)
    else {
        return;
    };
    status.insert("default".to_owned(), json!({ "observedGeneration": -1 }));
    let conditions = status.get_mut("properties").and_then(|all| all.get_mut("conditions"));
    if let Some(conditions) = conditions.and_then(Value::as_object_mut) {
        conditions.insert("x-kubernetes-list-type".to_owned(), json!("map"));
        conditions.insert("x-kubernetes-list-map-keys".to_owned(), json!(["type"]));
    }
}

/// The definition as a YAML file, with a line that says where it comes from.
pub fn crd_yaml(crd: &CustomResourceDefinition) -> Result<String, CrdError> {
    let kind = Kind::ALL
        .iter()
        .copied()
        .find(|kind| kind.as_str() == crd.spec.names.kind)
        .unwrap_or(Kind::Backup);
    let yaml = super::yaml::print(crd)
        .map_err(|error| CrdError::Print { kind, message: error.to_string() })?;
    Ok(format!("# Generated by `eider generate crds` from src/spec; do not edit.\n{yaml}"))
}

/// Writes the definitions into `directory` and returns the files that were not up to date.
///
/// With `check` nothing is written.
pub fn write_crds(directory: &Path, check: bool) -> Result<Vec<Drift>, CrdError> {
    let mut drifts = Vec::new();
    for (name, crd) in crds()? {
        let path = directory.join(name);
        let wanted = crd_yaml(&crd)?;
        let found = match fs::read_to_string(&path) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(CrdError::Write { path, source }),
        };
        if found.as_deref() == Some(wanted.as_str()) {
            continue;
        }
        if !check {
            let failed = |source| CrdError::Write { path: path.clone(), source };
            fs::create_dir_all(directory).map_err(failed)?;
            fs::write(&path, &wanted).map_err(failed)?;
        }
        drifts.push(Drift { path, missing: found.is_none() });
    }
    Ok(drifts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visit(path: &str, node: &Value, visitor: &mut dyn FnMut(&str, &Value)) {
        visitor(path, node);
        for (name, inner) in node["properties"].as_object().into_iter().flatten() {
            visit(&format!("{path}.{name}"), inner, visitor);
        }
        for inner in ["items", "additionalProperties"] {
            if node[inner].is_object() {
                visit(&format!("{path}[]"), &node[inner], visitor);
            }
        }
    }

    #[test]
    fn schemas_are_structural_for_kubernetes_1_20() {
        let known = [
            "type",
            "description",
            "properties",
            "required",
            "items",
            "additionalProperties",
            "default",
            "enum",
            "format",
            "minimum",
            "maximum",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "pattern",
            "x-kubernetes-validations",
            "x-kubernetes-list-type",
            "x-kubernetes-list-map-keys",
        ];
        for kind in Kind::ALL {
            visit(kind.as_str(), &schema(*kind).unwrap(), &mut |path, node| {
                assert!(node["type"].is_string(), "{path} has no type");
                for keyword in node.as_object().unwrap().keys() {
                    assert!(known.contains(&keyword.as_str()), "{path} uses {keyword}");
                }
                if let Some(format) = node["format"].as_str() {
                    assert!(KNOWN_FORMATS.contains(&format), "{path} has format {format}");
                }
                assert!(
                    node["properties"].is_null() || node["additionalProperties"].is_null(),
                    "{path} mixes properties and additionalProperties"
                );
            });
        }
    }

    #[test]
    fn every_definition_has_what_people_and_tools_need() {
        for (kind, (name, crd)) in Kind::ALL.iter().zip(crds().unwrap()) {
            assert_eq!(name, format!("eider.dev_{}.yaml", kind.plural()));
            assert_eq!(crd.spec.names.short_names.unwrap(), [kind.short_name()]);
            assert_eq!(crd.spec.names.plural, kind.plural());
            assert_eq!(crd.spec.names.categories.unwrap(), ["eider"]);
            assert_eq!(crd.spec.scope, "Namespaced");
            let version = &crd.spec.versions[0];
            let columns = version.additional_printer_columns.as_ref().unwrap();
            let shown = columns.iter().filter(|column| column.priority.unwrap_or(0) == 0);
            assert!(shown.count() <= 7 && columns.last().unwrap().name == "Message", "{kind}");
            assert!(version.subresources.as_ref().unwrap().status.is_some());
            let schema = schema(*kind).unwrap();
            assert_eq!(
                schema["properties"]["status"]["default"],
                json!({"observedGeneration": -1})
            );
            let conditions = &schema["properties"]["status"]["properties"]["conditions"];
            assert_eq!(conditions["x-kubernetes-list-type"], "map");
            assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]));
        }
    }

    #[test]
    fn only_run_once_kinds_are_immutable() {
        for kind in Kind::ALL {
            let text = schema(*kind).unwrap().to_string();
            assert_eq!(text.contains("oldSelf"), kind.runs_once(), "{kind}");
        }
    }

    #[test]
    fn files_on_disk_are_up_to_date() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
        let write = std::env::var_os("EIDER_WRITE_GENERATED").is_some();
        let drifts = write_crds(&directory, !write).unwrap();
        assert!(
            write || drifts.is_empty(),
            "crds/ is out of date ({drifts:?}); run `eider generate crds`, \
             or this test with EIDER_WRITE_GENERATED=1"
        );
    }
}
