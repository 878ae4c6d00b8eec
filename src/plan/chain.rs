//! Chains of incremental archives: which archive a new one continues, and which archives others rest on.
//!
//! An incremental archive holds what has changed since its parent was taken, and is worth nothing
//! without the parent, the parent's parent, and so on to a full one. What is decided here is decided
//! from what manifests and records say; nobody looks into a store.
//!
//! - **A parent is proved, alike and complete:** verified, of the same target and selection, in the
//!   same store, and with every archive that it rests on itself.
//! - **No parent is no failure.** Then everything is stored, and a warning says why.
//! - **What others rest on stays** whatever retention, age or a person want, until the others go.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::job::BackupJob;
use crate::spec::{BackupType, Target};

/// Archives that a chain may have, the full one included, where the specification does not say.
pub const DEFAULT_LENGTH: u8 = 30;

/// One archive, named so that no other of its name is taken for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ParentFacts {
    /// File name of the archive.
    pub name: String,
    /// SHA-256 of the archive file, in hexadecimal.
    pub sha256: String,
}

/// An archive in the store, as far as it may be continued.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its name and hash.
    pub archive: ParentFacts,
    /// The archive that it continues itself.
    pub parent: Option<ParentFacts>,
    /// Namespace of the Backup that made it.
    pub namespace: String,
    /// Name of that Backup.
    pub backup: String,
    /// What it contains.
    pub backup_type: BackupType,
    /// What it was taken of.
    pub target: Target,
    /// What was left out.
    pub exclude: Vec<String>,
    /// Whether what was mounted under a root was read too.
    pub cross_file_systems: bool,
    /// When it was begun.
    pub created_at: Timestamp,
    /// Whether every byte of it was read back.
    pub verified: bool,
}

/// The archive that a Backup continues, or why there is none.
///
/// # Errors
/// The reason to store everything instead, as a sentence.
pub fn choose(job: &BackupJob, stored: &[Candidate]) -> Result<ParentFacts, String> {
    let target = job.origin.as_ref().unwrap_or(&job.spec.target);
    let named = job.spec.parent_ref.as_ref().map(|reference| reference.name.as_str());
    let of_target = |one: &&Candidate| {
        one.namespace == job.operation.namespace
            && one.target == *target
            && one.backup_type != BackupType::DataOnly
            && named.is_none_or(|name| one.backup == name)
    };
    let (summary, store) = (target.summary(), &job.store.name);
    let known: Vec<&Candidate> = stored.iter().filter(of_target).collect();
    if known.is_empty() {
        return Err(match named {
            Some(name) => format!("store {store} holds no archive of {summary} by Backup {name}"),
            None => format!("store {store} holds no backup of {summary}"),
        });
    }
    let alike = |one: &&Candidate| {
        one.exclude == job.spec.exclude && one.cross_file_systems == job.spec.cross_file_systems
    };
    let alike: Vec<&Candidate> = known.into_iter().filter(alike).collect();
    if alike.is_empty() {
        return Err(format!("the backups of {summary} in store {store} leave out other paths"));
    }
    // The name breaks ties, so that the order given never matters.
    let newest = alike
        .into_iter()
        .filter(|one| one.verified)
        .max_by_key(|one| (one.created_at, &one.archive.name))
        .ok_or_else(|| format!("no backup of {summary} in store {store} has been verified"))?;
    let limit = usize::from(job.spec.max_chain.unwrap_or(DEFAULT_LENGTH));
    let length = length(newest, stored, store)?;
    if length >= limit {
        return Err(format!(
            "the chain that ends in {} has {length} of {limit} archives",
            newest.archive.name
        ));
    }
    Ok(newest.archive.clone())
}

/// How many archives a restore of this one needs, itself included.
fn length(last: &Candidate, stored: &[Candidate], store: &str) -> Result<usize, String> {
    let mut length = 1;
    let mut at = last;
    while let Some(parent) = &at.parent {
        at = stored.iter().find(|one| one.archive == *parent).ok_or_else(|| {
            format!("{} builds on {}, which is not in store {store}", at.archive.name, parent.name)
        })?;
        length += 1;
        if length > stored.len() {
            return Err(format!("{} builds on itself", at.archive.name));
        }
    }
    Ok(length)
}

/// What a store holds of an archive that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// SHA-256 of the archive file, in hexadecimal.
    pub sha256: String,
    /// The archive that it continues.
    pub parent: Option<ParentFacts>,
}

/// The first archive on the way from this one to a full one that is not among those that are there.
pub fn missing_ancestor<'a>(name: &str, stored: &'a BTreeMap<String, Stored>) -> Option<&'a str> {
    let mut at = stored.get(name)?;
    for _ in 0..stored.len() {
        let parent = at.parent.as_ref()?;
        // Another archive of the parent's name is nobody's parent.
        match stored.get(&parent.name).filter(|found| found.sha256 == parent.sha256) {
            Some(found) => at = found,
            None => return Some(&parent.name),
        }
    }
    // What builds on itself has no full one.
    at.parent.as_ref().map(|parent| parent.name.as_str())
}

/// An archive and the one that it continues, by their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// File name of the archive.
    pub name: String,
    /// File name of its parent.
    pub parent: Option<String>,
}

impl Link {
    fn continues(&self, name: &str) -> bool {
        self.parent.as_deref() == Some(name) && self.name != name
    }
}

/// An archive that continues this one, if there is any.
pub fn resting_on<'a>(name: &str, links: &'a [Link]) -> Option<&'a str> {
    links.iter().find(|link| link.continues(name)).map(|link| link.name.as_str())
}

/// Which of the names are needed by archives that are not among them, and by which: retention judges
/// the backups of one schedule, and those of another may build on them.
pub fn needed_by_others(names: &[&str], links: &[Link]) -> BTreeMap<String, String> {
    let judged: BTreeSet<&str> = names.iter().copied().collect();
    let parents = parents(links);
    let mut needed = BTreeMap::new();
    for link in links.iter().filter(|link| !judged.contains(link.name.as_str())) {
        let mut seen = BTreeSet::new();
        let mut open = vec![link.name.as_str()];
        while let Some(child) = open.pop() {
            for parent in parents.get(child).into_iter().flatten().copied() {
                if !seen.insert(parent) {
                    continue;
                }
                if judged.contains(parent) {
                    // What this one rests on is kept for its sake.
                    needed.entry(parent.to_owned()).or_insert_with(|| link.name.clone());
                } else {
                    open.push(parent);
                }
            }
        }
    }
    needed
}

/// Every parent of a name; several records may have one name.
fn parents(links: &[Link]) -> BTreeMap<&str, Vec<&str>> {
    let mut parents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for link in links {
        if let Some(parent) = link.parent.as_deref().filter(|parent| *parent != link.name) {
            parents.entry(&link.name).or_default().push(parent);
        }
    }
    parents
}

/// What may be removed, and what has to stay.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Removal {
    /// In the order of removing: whatever rests on another goes before it, so that stopping in between
    /// leaves no archive without its parent.
    pub remove: Vec<String>,
    /// What stays, each with an archive that builds on it.
    pub stay: Vec<(String, String)>,
}

/// Decides which of these archives may be removed. `links` are all there are.
pub fn removal(names: &[String], links: &[Link]) -> Removal {
    let mut left: Vec<&str> = Vec::new();
    for name in names {
        if !left.contains(&name.as_str()) {
            left.push(name);
        }
    }
    let mut stay = Vec::new();
    loop {
        let held = left.iter().enumerate().find_map(|(at, name)| {
            let child = links
                .iter()
                .find(|link| link.continues(name) && !left.contains(&link.name.as_str()))?;
            Some((at, child.name.clone()))
        });
        let Some((at, child)) = held else { break };
        stay.push((left.remove(at).to_owned(), child));
    }
    Removal { remove: children_first(left, links), stay }
}

fn children_first(mut left: Vec<&str>, links: &[Link]) -> Vec<String> {
    let mut ordered = Vec::new();
    while !left.is_empty() {
        let free = left.iter().position(|name| {
            let child = |link: &&Link| link.continues(name) && left.contains(&link.name.as_str());
            !links.iter().any(|link| child(&link))
        });
        // Archives in a circle cannot be; should manifests say so, their order means nothing.
        ordered.push(left.remove(free.unwrap_or(0)).to_owned());
    }
    ordered
}

/// Archives that belong together, parents before what rests on them: they are copied in this order, and
/// removed in the other. Families come in the order of their first members.
pub fn families(links: &[Link]) -> Vec<Vec<String>> {
    let parents = parents(links);
    let known: BTreeSet<&str> = links.iter().map(|link| link.name.as_str()).collect();
    let first = |name: &'_ str| {
        let mut at = known.get(name).copied().unwrap_or_default();
        let mut seen = BTreeSet::new();
        while let Some(parent) =
            parents.get(at).and_then(|found| found.iter().find(|one| known.contains(**one)))
        {
            if !seen.insert(at) {
                // A circle is one family, named by the least of it.
                return seen.iter().copied().min().unwrap_or(at).to_owned();
            }
            at = parent;
        }
        at.to_owned()
    };
    let mut families: Vec<(String, Vec<&str>)> = Vec::new();
    for link in links {
        let founder = first(&link.name);
        match families.iter_mut().find(|(known, _)| *known == founder) {
            Some((_, members)) if members.contains(&link.name.as_str()) => {}
            Some((_, members)) => members.push(&link.name),
            None => families.push((founder, vec![&link.name])),
        }
    }
    let ordered = |(_, members): (String, Vec<&str>)| {
        let mut ordered = children_first(members, links);
        ordered.reverse();
        ordered
    };
    families.into_iter().map(ordered).collect()
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
