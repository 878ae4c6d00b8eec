//! Saves what a damaged archive still holds. What it cannot save it names; nothing is made up but the
//! zeros in the place of a missing piece of a large file, which is named too.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use super::check::{Checker, Plan, check};
use super::run::{Lost, extract_lenient, extract_pieces};
use super::{UnpackOptions, tree_options};
use crate::engine::archive::{Archive, Origin, each_entry};
use crate::engine::codec::{archive_label, open_archive};
use crate::engine::error::EngineError;
use crate::engine::progress::{Cancel, Progress};
use crate::engine::store::LocalStore;
use crate::engine::summary::UnpackSummary;
use crate::spec::ArchiveFormat;

/// What was saved of a damaged archive, and what was not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Salvaged {
    /// What was put in place.
    pub summary: UnpackSummary,
    /// Names of entries that are lost, and of large files in which pieces are zeros, as far as they
    /// are known; at most [`Salvaged::LISTED`].
    pub lost: Vec<String>,
    /// How many are lost, as far as that is known.
    pub lost_count: u64,
    /// Whether the index was whole, so that everything that is lost is known.
    pub indexed: bool,
    /// Places where reading had to begin anew, in an archive whose index is lost too.
    pub gaps: u64,
    /// Names of entries that were saved but may belong to an archive that is a file in this one, as nothing but a
    /// search behind damage has found them; at most [`Salvaged::LISTED`].
    pub uncertain: Vec<String>,
    /// How many these are.
    pub uncertain_count: u64,
    /// Whether checksums prove what is in the files: a bare tar has them in its index alone.
    pub proved: bool,
    /// What else is known not to be there.
    pub ancestors: Ancestors,
}

/// What an archive that has lost its index may have referred to: that is in none of its entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Ancestors {
    /// Nothing, or all of it was put in place.
    #[default]
    None,
    /// Its manifest says that it builds on this archive, whose entries are not among those that were saved.
    LeftOut(String),
    /// It has no manifest that says whether it builds on another.
    Unknown,
}

impl Salvaged {
    /// The most names that are listed.
    pub const LISTED: usize = 1000;
}

/// Unpacks everything that can still be read of an archive, as [`super::extract_tree`] would.
///
/// # Errors
/// What is not damage: an unsafe name, no rights, no space.
pub fn salvage(
    path: &Path,
    format: ArchiveFormat,
    include: &[String],
    destination: &Path,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Salvaged, EngineError> {
    let options = tree_options(include, destination)?;
    progress.phase("salvage");
    match Archive::open(path, format) {
        Ok(archive) if archive.index.is_some() => {
            let plan = check(&archive, &options, cancel)?;
            progress.total(plan.entries, plan.bytes);
            let (summary, lost) = extract_lenient(&archive, &options, &plan, progress, cancel)?;
            Ok(Salvaged { indexed: true, proved: true, ..salvaged(summary, lost) })
        }
        // Of another program, which builds on nothing, or cut before its end: then its manifest tells.
        Ok(_) => {
            let salvaged = without_index(path, format, &options, progress, cancel)?;
            let ancestors = match ancestors(path) {
                Ancestors::Unknown => Ancestors::None,
                known => known,
            };
            Ok(Salvaged { ancestors, ..salvaged })
        }
        Err(EngineError::Damaged { .. }) => {
            let salvaged = without_index(path, format, &options, progress, cancel)?;
            Ok(Salvaged { ancestors: ancestors(path), ..salvaged })
        }
        Err(error) => Err(error),
    }
}

fn ancestors(path: &Path) -> Ancestors {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let manifest = LocalStore::open(directory.unwrap_or(Path::new(".")), "salvage", false)
        .and_then(|store| store.read_manifest(&archive_label(path)));
    match manifest.map(|manifest| manifest.parent) {
        Ok(None) => Ancestors::None,
        Ok(Some(parent)) => Ancestors::LeftOut(parent.name),
        Err(_) => Ancestors::Unknown,
    }
}

fn salvaged(summary: UnpackSummary, mut lost: Lost) -> Salvaged {
    // Threads come by them in any order.
    lost.names.sort();
    Salvaged { summary, lost: lost.names, lost_count: lost.count, ..Salvaged::default() }
}

fn without_index(
    path: &Path,
    format: ArchiveFormat,
    options: &UnpackOptions,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Salvaged, EngineError> {
    let file = open_archive(path)?;
    let label = archive_label(path);
    let Looked { plan, refused, lost } = look_through(&file, format, &label, options, cancel)?;
    progress.total(plan.entries, plan.bytes);
    let (mut gaps, mut uncertain) = (0, Lost::default());
    let lost = Mutex::new(lost);
    let summary = extract_pieces(&label, options, &plan, &lost, progress, cancel, &mut |take| {
        let mut number = 0_u64;
        gaps = each_entry(&file, format, &label, cancel, &mut |reader, entry, origin| {
            number += 1;
            if refused.contains(&number) {
                return Ok(());
            }
            let is_uncertain =
                origin == Origin::Found && plan.place(&label, &entry.info)?.is_some();
            let name = entry.info.display_name();
            take(reader, entry)?;
            if is_uncertain {
                uncertain.add(name);
            }
            Ok(())
        })?;
        Ok(())
    })?;
    let lost = lost.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(Salvaged {
        gaps,
        proved: format != ArchiveFormat::Tar,
        uncertain: uncertain.names,
        uncertain_count: uncertain.count,
        ..salvaged(summary, lost)
    })
}

/// What there is to save.
struct Looked {
    plan: Plan,
    /// Entries that are not put in place, by their number.
    refused: HashSet<u64>,
    lost: Lost,
}

/// Looks at every entry that can be read, and writes nothing.
fn look_through(
    file: &File,
    format: ArchiveFormat,
    label: &str,
    options: &UnpackOptions,
    cancel: &Cancel,
) -> Result<Looked, EngineError> {
    let mut checker = Checker::new(label, options)?;
    // What may not be written is lost too: a link to a file that is lost looks like one out of it.
    let mut refused = HashSet::new();
    let mut lost = Lost::default();
    // Only what is certainly the archive's may be there twice, and all of it comes first.
    for wanted in [Origin::Own, Origin::Found] {
        let mut number = 0_u64;
        let mut is_there = false;
        each_entry(file, format, label, cancel, &mut |_, entry, origin| {
            number += 1;
            is_there = is_there || origin == Origin::Found;
            if origin != wanted {
                return Ok(());
            }
            if origin == Origin::Found && checker.knows(&entry.info) {
                refused.insert(number);
                return Ok(());
            }
            match checker.entry(&entry.info) {
                Err(EngineError::Unsafe { .. }) => {
                    refused.insert(number);
                    lost.add(entry.info.display_name());
                    Ok(())
                }
                result => result,
            }
        })?;
        if !is_there {
            break;
        }
    }
    Ok(Looked { plan: checker.into_plan(), refused, lost })
}

/// How many entries [`salvage`] finds in an archive without asking its index, and in how many places it has to begin
/// anew. Their data is read; nothing is written.
///
/// # Errors
/// What is not damage: a file that cannot be read.
pub fn count_salvageable(
    path: &Path,
    format: ArchiveFormat,
    cancel: &Cancel,
) -> Result<(u64, u64), EngineError> {
    let options = UnpackOptions {
        destinations: vec![(String::new(), PathBuf::from("/"))],
        allow_devices: true,
        ..UnpackOptions::default()
    };
    let (file, label) = (open_archive(path)?, archive_label(path));
    let looked = look_through(&file, format, &label, &options, cancel)?;
    let (mut number, mut entries) = (0_u64, 0);
    let gaps = each_entry(&file, format, &label, cancel, &mut |reader, entry, _| {
        number += 1;
        entries += u64::from(!looked.refused.contains(&number));
        looked.plan.place(&label, &entry.info).ok();
        reader.skip_data()
    })?;
    Ok((entries, gaps))
}
