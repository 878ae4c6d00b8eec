//! How much room unpacking an archive takes: data, not holes.

use std::path::Path;

use super::archive::Archive;
use super::entry::{EntryKind, key, trimmed};
use super::error::EngineError;
use super::extract::entries_elsewhere;
use super::index::{IndexEntry, Location};
use crate::spec::ArchiveFormat;

/// Bytes that each root's files will take up, as far as an index knows: of sparse files what is stored
/// of them, of others their size. Nothing of archives without an index.
///
/// # Errors
/// If the index, or that of an archive which this one builds on, cannot be read.
pub fn space_needed(
    path: &Path,
    format: ArchiveFormat,
) -> Result<Option<Vec<(String, u64)>>, EngineError> {
    let archive = Archive::open(path, format)?;
    let Some(index) = &archive.index else { return Ok(None) };
    let roots = &index.description.roots;
    let mut needed: Vec<(String, u64)> = roots.iter().map(|root| (root.name.clone(), 0)).collect();
    let mut add = |entry: &IndexEntry, bytes: u64| {
        let name = trimmed(&entry.info.name);
        let of = needed.iter_mut().find(|(root, _)| {
            let rest = name.strip_prefix(root.as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        });
        if let Some((_, sum)) = of {
            *sum = sum.saturating_add(bytes);
        }
    };
    let mut holes_elsewhere = false;
    archive.visit_index(index, &mut |entry| {
        match entry.location {
            _ if entry.info.kind != EntryKind::File => {}
            Location::Here { stored, .. } if entry.info.sparse => add(&entry, stored),
            Location::Ancestor(_) if entry.info.sparse => holes_elsewhere = true,
            _ => add(&entry, entry.info.size),
        }
        Ok(())
    })?;
    if holes_elsewhere {
        let elsewhere = entries_elsewhere(&archive, index)?;
        for (position, ancestor) in (0_u32..).zip(&index.description.ancestors) {
            let opened = archive.open_ancestor(ancestor)?;
            let Some(held) = &opened.index else { continue };
            opened.visit_index(held, &mut |entry| {
                let found = elsewhere.get(&key(trimmed(&entry.info.name)));
                if let Location::Here { stored, .. } = entry.location
                    && entry.info.sparse
                    && found.is_some_and(|reference| reference.means(position, &entry))
                {
                    add(&entry, stored);
                }
                Ok(())
            })?;
        }
    }
    Ok(Some(needed))
}
