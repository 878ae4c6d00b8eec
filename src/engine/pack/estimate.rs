//! Counts what a backup would archive, without reading any file.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::previous::Previous;
use super::{PackOptions, display_path};
use crate::engine::entry::EntryKind;
use crate::engine::error::EngineError;
use crate::engine::progress::Cancel;
use crate::engine::source;
use crate::engine::summary::{Estimate, Warning, WarningKind};
use crate::engine::walk::{Found, Visitor, walk};

/// Counts what [`super::pack`] would archive, without reading any file. What a parent holds already
/// is counted, but needs no space.
pub fn estimate(options: &PackOptions, cancel: &Cancel) -> Result<Estimate, EngineError> {
    let boundaries = options.boundaries()?;
    // Without the parent more is expected than will come, which only errs on the safe side.
    let previous = options.parent.as_ref().and_then(|parent| Previous::open(parent).ok());
    let mut estimator = Estimator { previous, ..Estimator::default() };
    for root in &options.roots {
        walk(root, &boundaries, cancel, &mut estimator)?;
    }
    Ok(estimator.estimate)
}

#[derive(Default)]
struct Estimator {
    estimate: Estimate,
    links: HashSet<(u64, u64)>,
    previous: Option<Previous>,
}

impl Estimator {
    fn is_unchanged(&mut self, found: &Found<'_>, stat: &Stat) -> bool {
        self.previous.as_mut().is_some_and(|previous| {
            let entry = source::describe(found.name.to_vec(), EntryKind::File, stat);
            previous.unchanged(&entry, stat).is_some()
        })
    }
}

impl Visitor for Estimator {
    fn directory(&mut self, _: &Found<'_>, _: &OwnedFd, _: &Stat) -> Result<(), EngineError> {
        self.estimate.entries += 1;
        Ok(())
    }

    fn leaf(&mut self, found: &Found<'_>) -> Result<(), EngineError> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let Ok(stat) = rustix::fs::statat(found.parent, found.file_name, flags) else {
            return Ok(());
        };
        let Some(kind) = source::kind_of(FileType::from_raw_mode(stat.st_mode)) else {
            return Ok(());
        };
        self.estimate.entries += 1;
        if kind != EntryKind::File
            || (stat.st_nlink > 1 && !self.links.insert((stat.st_dev, stat.st_ino)))
        {
            return Ok(());
        }
        let size = source::size(&stat);
        self.estimate.files += 1;
        self.estimate.bytes = self.estimate.bytes.saturating_add(size);
        if !self.is_unchanged(found, &stat) {
            let allocated = source::allocated(&stat).min(size);
            self.estimate.allocated_bytes = self.estimate.allocated_bytes.saturating_add(allocated);
        }
        let readable = rustix::fs::accessat(
            found.parent,
            found.file_name,
            rustix::fs::Access::READ_OK,
            AtFlags::EACCESS,
        );
        match readable {
            Err(error @ (Errno::ACCESS | Errno::PERM)) => self.unreadable(found.path, error),
            _ => Ok(()),
        }
    }

    fn unreadable(&mut self, path: &Path, error: Errno) -> Result<(), EngineError> {
        self.estimate.unreadable_count += 1;
        if self.estimate.unreadable.len() < Estimate::LISTED {
            self.estimate.unreadable.push(Warning {
                path: display_path(path),
                kind: WarningKind::Unreadable,
                message: std::io::Error::from(error).to_string(),
            });
        }
        Ok(())
    }

    fn left_out(&mut self, _: &Path, _: WarningKind, _: &str) {}
}
