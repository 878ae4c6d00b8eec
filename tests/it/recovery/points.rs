//! Every point at which the kill tests end the program, and the documents that pass them. A point
//! that is in the sources has to be here, and in `docs/design/failpoints.md`; `listed` sees to it.

/// Around each step: before anything, after the intent, after the effect, after the outcome.
pub const MOMENTS: &[&str] = &["before", "intended", "performed", "recorded"];
/// Around the end of an operation.
pub const END: &[&str] = &["before", "recorded", "closed", "published"];

/// The steps of a Backup with hooks that goes well.
pub const BACKUP_STEPS: &[&str] =
    &["preflight", "hooks-before", "archive", "hooks-after", "seal", "verify"];
/// The steps of a Backup that come only when it fails.
pub const BACKUP_UNDO_STEPS: &[&str] = &["discard"];
/// What the engine passes in a Backup.
pub const BACKUP_INNER: &[&str] = &[
    "archive.started",
    "archive.middle",
    "archive.read",
    "archive.written",
    "seal.synced",
    "seal.renamed",
    "seal.manifest-written",
    "seal.manifest-written:2",
    "seal.manifest-renamed",
    "seal.manifest-renamed:2",
    "verify.started",
    "verify.middle",
    "verify.proved",
];

/// The steps of a Restore with hooks, safety backup and preserved paths that goes well.
pub const RESTORE_STEPS: &[&str] = &[
    "preflight",
    "verify-source",
    "extract",
    "hooks-before",
    "safety-backup",
    "carry-over",
    "swap",
    "hooks-after",
    "drop-old",
];
/// The step more of a Restore to a place that was empty.
pub const RESTORE_EMPTY_STEPS: &[&str] = &["find-live"];
/// The steps of a Restore whose service does not come up on the new tree.
pub const RESTORE_UNDO_STEPS: &[&str] =
    &["undo-hooks-before", "swap-back", "undo-hooks-after", "discard-staging"];
/// What the engine passes in a Restore of a root that can be exchanged by rename.
pub const RESTORE_INNER: &[&str] = &[
    "verify.started",
    "verify.middle",
    "extract.started",
    "extract.middle",
    "extract.finished",
    "carry.middle",
    "carry.middle:3",
    "swap.exchanged",
    "swap.old-moved",
    "swap.next-root",
    "drop.started",
    "drop.middle",
    "drop.middle:5",
];
/// What the engine passes when such a Restore is undone.
pub const RESTORE_UNDO_INNER: &[&str] = &["swap-back.root", "discard.middle", "discard.middle:5"];
/// What the engine passes when the root is a mount point, and its children are moved one by one.
pub const INSIDE_INNER: &[&str] = &[
    "swap.child-moved-out",
    "swap.child-moved-out:4",
    "swap.child-moved-in",
    "swap.child-moved-in:4",
    "swap.next-root",
    "drop.started",
    "drop.middle",
];
/// What the engine passes when such a Restore is undone.
pub const INSIDE_UNDO_INNER: &[&str] = &[
    "swap-back.child-moved-out",
    "swap-back.child-moved-out:3",
    "swap-back.child-moved-in",
    "swap-back.child-moved-in:3",
    "discard.middle",
];
/// What `store migrate` passes; the numbers reach its second archive.
pub const MIGRATE: &[&str] = &[
    "migrate.copied",
    "migrate.copied:2",
    "migrate.manifest",
    "migrate.manifest:2",
    "migrate.recorded",
    "migrate.recorded:2",
    "seal.synced",
    "seal.renamed",
    "seal.manifest-written",
    "seal.manifest-renamed:2",
];
/// What `backup delete` passes.
pub const DELETE: &[&str] = &["delete.archive-removed"];
/// Around each transaction of the catalog.
pub const CATALOG: &[&str] = &["catalog.before-commit", "catalog.after-commit"];

/// `{kind}.{step}.{moment}` for each of the steps.
pub fn around(kind: &str, steps: &[&str]) -> Vec<String> {
    steps
        .iter()
        .flat_map(|step| MOMENTS.iter().map(move |moment| format!("{kind}.{step}.{moment}")))
        .collect()
}

/// `{kind}.conclude.{moment}`.
pub fn end(kind: &str) -> Vec<String> {
    END.iter().map(|moment| format!("{kind}.conclude.{moment}")).collect()
}

/// Points by their names, owned.
pub fn named(points: &[&str]) -> Vec<String> {
    points.iter().map(|point| (*point).to_owned()).collect()
}
