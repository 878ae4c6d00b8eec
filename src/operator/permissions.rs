//! What the operator may do in a cluster: the one list that every form of its RBAC is made from.
//!
//! `eider generate rbac` writes it out for kustomize and Helm. There is no way to say a wildcard
//! here, and no rule without a reason. Data only: nothing here talks to a cluster.

use std::fmt;

use Scope::{Own, Watched};
use Verb::{Create, Delete, Get, List, Patch, Update, Watch};

/// Name of the Lease that the leader holds, unless `--lease-name` says another.
pub const LEASE_NAME: &str = "eider-operator";

/// What is done to a resource. A closed set, so that a wildcard cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// Read one object.
    Get,
    /// Read all objects of a kind.
    List,
    /// Be told of changes.
    Watch,
    /// Make an object.
    Create,
    /// Replace an object.
    Update,
    /// Change fields of an object; server-side apply is a patch as well.
    Patch,
    /// Remove an object.
    Delete,
}

impl Verb {
    /// The verb as RBAC writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Get => "get",
            List => "list",
            Watch => "watch",
            Create => "create",
            Update => "update",
            Patch => "patch",
            Delete => "delete",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Where a permission is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// In every namespace that the operator watches: a ClusterRole, or a Role in each of them.
    Watched,
    /// In the operator's own namespace.
    Own,
}

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permission {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// Resources in the plural, a subresource after a slash.
    pub resources: &'static [&'static str],
    /// Only objects of these names; empty for all.
    pub names: &'static [&'static str],
    /// What is done to them.
    pub verbs: &'static [Verb],
    /// Where.
    pub scope: Scope,
    /// What the operator cannot do without it, in one sentence.
    pub reason: &'static str,
}

const fn watched(
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [Verb],
    reason: &'static str,
) -> Permission {
    Permission { group, resources, names: &[], verbs, scope: Watched, reason }
}

const fn own(
    group: &'static str,
    resources: &'static [&'static str],
    names: &'static [&'static str],
    verbs: &'static [Verb],
    reason: &'static str,
) -> Permission {
    Permission { group, resources, names, verbs, scope: Own, reason }
}

/// Everything that the operator is allowed to do, and nothing that it does not do.
pub const PERMISSIONS: &[Permission] = &[
    watched(
        "eider.dev",
        &["backups", "restores", "upgrades", "backupschedules", "backupstores"],
        &[Get, List, Watch],
        "The documents say what is wanted; it watches them and looks up those that refer to each other.",
    ),
    watched(
        "eider.dev",
        &["backups"],
        &[Create, Patch, Delete],
        "Schedules, Restores and Upgrades make Backups, the finalizer goes on and off, and history limits remove old ones.",
    ),
    watched(
        "eider.dev",
        &["restores"],
        &[Create, Patch],
        "The rollback of an Upgrade puts data back by a Restore, and the finalizer goes on and off.",
    ),
    watched(
        "eider.dev",
        &["upgrades"],
        &[Patch],
        "The finalizer holds an Upgrade that is deleted in the middle until the service runs again.",
    ),
    watched(
        "eider.dev",
        &[
            "backups/status",
            "restores/status",
            "upgrades/status",
            "backupschedules/status",
            "backupstores/status",
        ],
        &[Patch],
        "Conditions, progress and the journal of an operation are kept in the status by server-side apply.",
    ),
    watched(
        "batch",
        &["jobs"],
        &[List, Create, Delete],
        "One Job an operation, the mover, reads and writes the claims; it is found again after a restart and removed at the end.",
    ),
    watched(
        "",
        &["pods"],
        &[List, Patch],
        "It waits for a workload's pods to go and come, sees how the mover's pod fares, and asks it for steps by an annotation.",
    ),
    watched("", &["pods/log"], &[Get], "The mover answers with lines in its log."),
    watched(
        "",
        &["pods/exec"],
        &[Get, Create],
        "Hooks run in the pods of a workload; whether that is a get or a create depends on the server's version.",
    ),
    watched(
        "events.k8s.io",
        &["events"],
        &[Create, Patch],
        "Every transition and every failed reconcile is an event; one that is repeated becomes a series.",
    ),
    watched(
        "",
        &["events"],
        &[List],
        "The warnings about a mover that does not start say why: a quota, a volume that cannot be mounted.",
    ),
    watched(
        "apps",
        &["deployments", "statefulsets"],
        &[Get, Patch],
        "It reads the workload that is held still or upgraded, marks it as held, and changes images in an Upgrade.",
    ),
    watched(
        "apps",
        &["daemonsets"],
        &[Get],
        "A DaemonSet can be a target too; it is read live and never changed.",
    ),
    watched(
        "apps",
        &["deployments/scale", "statefulsets/scale"],
        &[Patch],
        "A workload is scaled to zero while its data is read or replaced, and back.",
    ),
    watched(
        "apps",
        &["replicasets"],
        &[List],
        "A Deployment that somebody scales up and down again while it is held still is found out by them.",
    ),
    watched(
        "autoscaling",
        &["horizontalpodautoscalers"],
        &[List],
        "An autoscaler that would scale a stopped workload up again is found before the workload is touched.",
    ),
    watched(
        "",
        &["persistentvolumeclaims"],
        &[Get, List, Create],
        "Targets and stores are claims; a Restore into new claims makes them.",
    ),
    watched(
        "",
        &["namespaces"],
        &[Get],
        "Annotations of a namespace say whether movers may run as root, and whose backups it takes.",
    ),
    own(
        "coordination.k8s.io",
        &["leases"],
        &[],
        &[Create],
        "The first leader makes the Lease; a create cannot be limited to a name.",
    ),
    own(
        "coordination.k8s.io",
        &["leases"],
        &[LEASE_NAME],
        &[Get, Update],
        "Whoever holds the Lease is the one replica that acts.",
    ),
    own(
        "",
        &["pods"],
        &[],
        &[Get],
        "Movers run the image of the operator's own pod unless another is configured.",
    ),
];

/// The rules of one scope.
pub fn in_scope(scope: Scope) -> impl Iterator<Item = &'static Permission> {
    PERMISSIONS.iter().filter(move |permission| permission.scope == scope)
}

/// The rules of the operator's own namespace that those of the watched ones do not give already:
/// all that is needed there when that namespace is among the watched ones.
pub fn own_beyond_watched() -> impl Iterator<Item = &'static Permission> {
    in_scope(Own).filter(|permission| {
        !permission.resources.iter().all(|resource| {
            permission.verbs.iter().all(|verb| {
                in_scope(Watched).any(|other| {
                    other.group == permission.group
                        && other.resources.contains(resource)
                        && other.verbs.contains(verb)
                })
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn there_is_no_wildcard_no_secret_and_nothing_empty() {
        for permission in PERMISSIONS {
            assert!(!permission.resources.is_empty() && !permission.verbs.is_empty());
            let words = permission.resources.iter().chain(permission.names);
            for word in words.chain([&permission.group]) {
                assert!(!word.contains('*'), "{permission:?}");
                assert!(!word.contains("secret"), "{permission:?}");
                assert_eq!(word.to_lowercase(), **word);
            }
        }
    }

    #[test]
    fn what_gives_more_rights_to_others_is_never_asked_for() {
        for permission in PERMISSIONS {
            assert_ne!(permission.group, "rbac.authorization.k8s.io", "{permission:?}");
            for resource in permission.resources {
                assert!(
                    !["serviceaccounts", "serviceaccounts/token", "pods/ephemeralcontainers"]
                        .contains(resource),
                    "{permission:?}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_said_twice() {
        let mut seen = HashSet::new();
        for permission in PERMISSIONS {
            for resource in permission.resources {
                for verb in permission.verbs {
                    let once = (permission.scope, permission.group, *resource, *verb);
                    assert!(seen.insert(once), "{once:?} is there twice");
                }
            }
        }
    }

    #[test]
    fn each_rule_has_a_reason_of_its_own_in_one_sentence() {
        let mut seen = HashSet::new();
        for permission in PERMISSIONS {
            let reason = permission.reason;
            assert!(reason.len() > 20 && reason.ends_with('.'), "{reason}");
            assert!(!reason.contains(['\n', '#']) && !reason.contains(". "), "{reason}");
            assert!(seen.insert(reason), "{reason}");
        }
    }

    #[test]
    fn the_own_namespace_needs_the_lease_and_its_own_pod_where_it_is_watched_too() {
        let groups: Vec<_> = own_beyond_watched().map(|permission| permission.group).collect();
        assert_eq!(groups, ["coordination.k8s.io", "coordination.k8s.io", ""]);
    }

    #[test]
    fn every_kind_is_watched_and_has_its_status_written() {
        for kind in crate::spec::Kind::ALL {
            let may = |resource: &str, verb: Verb| {
                in_scope(Watched).any(|permission| {
                    permission.group == "eider.dev"
                        && permission.resources.contains(&resource)
                        && permission.verbs.contains(&verb)
                })
            };
            assert!(may(kind.plural(), Watch), "{kind}");
            assert!(may(&format!("{}/status", kind.plural()), Patch), "{kind}");
        }
    }
}
