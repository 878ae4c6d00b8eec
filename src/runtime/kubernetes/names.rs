//! Names, labels and annotations of what Eider makes and marks in a cluster.

use std::collections::BTreeMap;

use crate::plan::OperationId;

/// Name of the container that a mover's pod is made for.
pub const MOVER_CONTAINER: &str = "mover";
/// Label that ties a mover to its operation.
pub const OPERATION_LABEL: &str = "eider.dev/operation";
/// Label with the kind of the operation's object, in lower case.
pub const KIND_LABEL: &str = "eider.dev/kind";
/// Label with the name of the operation's object, where it is short enough for a label.
pub const NAME_LABEL: &str = "eider.dev/name";
/// Annotation on a workload that is held still: the operation and the replicas before.
pub const HELD_ANNOTATION: &str = "eider.dev/held";
/// Annotation on a workload that is being upgraded: the operation and the images before.
pub const IMAGES_ANNOTATION: &str = "eider.dev/images-before";
/// Annotation on a namespace whose movers may run as root.
pub const ROOT_MOVERS_ANNOTATION: &str = "eider.dev/allow-root-movers";
/// Annotation on a namespace into which backups of other namespaces may be restored: their names, with
/// commas between them, or `*` for all.
pub const RESTORE_FROM_ANNOTATION: &str = "eider.dev/allow-restore-from";

/// Twelve characters that stand for an operation in names and labels.
pub fn key(operation: &OperationId) -> String {
    blake3::hash(operation.to_string().as_bytes()).to_hex()[..12].to_owned()
}

/// The same for one kind of work on an object that may have several done at once.
pub fn key_of_work(object: &OperationId, work: &str) -> String {
    blake3::hash(format!("{object} {work}").as_bytes()).to_hex()[..12].to_owned()
}

/// The name of the n-th mover of an operation.
pub fn mover(operation: &OperationId, key: &str, attempt: u32) -> String {
    format!("eider-{}-{key}-{attempt}", operation.kind.to_lowercase())
}

/// The labels of everything that is made for an operation.
pub fn labels(operation: &OperationId, key: &str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([
        ("app.kubernetes.io/name".to_owned(), "eider".to_owned()),
        ("app.kubernetes.io/component".to_owned(), "mover".to_owned()),
        ("app.kubernetes.io/managed-by".to_owned(), "eider".to_owned()),
        (OPERATION_LABEL.to_owned(), key.to_owned()),
        (KIND_LABEL.to_owned(), operation.kind.to_lowercase()),
    ]);
    if operation.name.len() <= 63 {
        labels.insert(NAME_LABEL.to_owned(), operation.name.clone());
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_and_tell_objects_apart() {
        let operation: OperationId = "Backup/shop/nightly-20261121/1/aa".parse().unwrap();
        let again: OperationId = "Backup/shop/nightly-20261121/1/bb".parse().unwrap();
        let one = key(&operation);
        assert_ne!(one, key(&again));
        assert_ne!(key_of_work(&operation, "inspect"), key_of_work(&operation, "delete"));
        let name = mover(&operation, &one, 2);
        assert_eq!(name, format!("eider-backup-{one}-2"));
        assert!(name.len() <= 63);
        let long: OperationId = format!("Restore/shop/{}/1", "x".repeat(200)).parse().unwrap();
        assert!(!labels(&long, &one).contains_key(NAME_LABEL));
    }
}
