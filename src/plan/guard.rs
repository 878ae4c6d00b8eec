//! Limits that turn a suspicious success into a failure, and the space a backup needs.
//!
//! Pure comparisons of numbers; reading sources and file systems is the runtime's work.

use crate::spec::{ArchiveFormat, Guards, Reason};

/// How much a source held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SourceFacts {
    /// Number of regular files.
    pub files: u64,
    /// Their content in bytes.
    pub bytes: u64,
}

/// Why a finished archive does not count as a success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct GuardFailure {
    /// `EmptySource` or `SuspiciousShrink`.
    pub reason: Reason,
    /// The numbers, and what to do.
    pub message: String,
}

/// Compares a source with the target's last verified backup.
///
/// A shrink of exactly `maxShrink` percent passes; 100 turns that guard off. Emptiness has its own
/// switch: `allowEmpty` accepts a source without files, and is then not judged as a shrink either.
///
/// # Errors
/// [`GuardFailure`] when the source is empty or shrank by more than the guard allows.
pub fn check(
    previous: Option<&SourceFacts>,
    current: &SourceFacts,
    guards: &Guards,
) -> Result<(), GuardFailure> {
    let Some(previous) = previous else { return Ok(()) };
    if current.files == 0 && previous.files > 0 {
        if guards.allow_empty {
            return Ok(());
        }
        return Err(GuardFailure {
            reason: Reason::EmptySource,
            message: format!(
                "the source holds no file, the last verified backup held {} ({} bytes); check that \
                 the volume is mounted, or set guards.allowEmpty if this is meant",
                previous.files, previous.bytes
            ),
        });
    }
    for (what, before, after) in
        [("files", previous.files, current.files), ("bytes", previous.bytes, current.bytes)]
    {
        if shrank_by_more(before, after, guards.max_shrink) {
            let percent = u128::from(before - after) * 100 / u128::from(before);
            return Err(GuardFailure {
                reason: Reason::SuspiciousShrink,
                message: format!(
                    "{what} shrank by {percent} % from {before} to {after} against the last verified \
                     backup, more than the {} % allowed; check the source, or raise guards.maxShrink \
                     if this is meant",
                    guards.max_shrink
                ),
            });
        }
    }
    Ok(())
}

fn shrank_by_more(before: u64, after: u64, percent: u8) -> bool {
    percent < 100
        && after < before
        && u128::from(before - after) * 100 > u128::from(before) * u128::from(percent)
}

/// What a backup needs and does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the store has {free} bytes free, the backup may need {needed} and {min_free} must stay free; \
     free {} bytes, or lower minFree",
    .needed.saturating_add(*.min_free).saturating_sub(*.free)
)]
pub struct SpaceShortage {
    /// Bytes the archive may take.
    pub needed: u64,
    /// Bytes that must stay free.
    pub min_free: u64,
    /// Bytes that are free now.
    pub free: u64,
}

/// Upper estimate of an archive's size in bytes, from the source's bytes.
///
/// It assumes that nothing compresses, for media and encrypted data do not: the whole source, plus
/// 1/16 for tar headers and padding, plus for compressed formats 1/64 for stored blocks, plus 1 MiB
/// for the manifest. A backup refused wrongly can be repeated with more space; a full disk stops
/// every service on it.
pub fn needed_space(estimate_bytes: u64, format: ArchiveFormat) -> u64 {
    let framing = match format {
        ArchiveFormat::Tar => 0,
        ArchiveFormat::TarGz | ArchiveFormat::TarZst => estimate_bytes / 64,
    };
    estimate_bytes
        .saturating_add(estimate_bytes / 16)
        .saturating_add(framing)
        .saturating_add(1024 * 1024)
}

/// Whether the archive fits and leaves `min_free` bytes.
///
/// # Errors
/// [`SpaceShortage`] with the three numbers.
pub fn check_space(
    estimate_bytes: u64,
    format: ArchiveFormat,
    min_free: u64,
    free: u64,
) -> Result<(), SpaceShortage> {
    let needed = needed_space(estimate_bytes, format);
    if needed.saturating_add(min_free) > free {
        return Err(SpaceShortage { needed, min_free, free });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(before: (u64, u64), after: (u64, u64), guards: &Guards) -> Option<Reason> {
        let facts = |(files, bytes)| SourceFacts { files, bytes };
        check(Some(&facts(before)), &facts(after), guards).err().map(|failure| failure.reason)
    }

    #[test]
    fn shrinking_is_judged_by_files_and_by_bytes() {
        let guards = Guards::default();
        assert_eq!(judge((100, 1000), (50, 500), &guards), None);
        assert_eq!(judge((100, 1000), (49, 1000), &guards), Some(Reason::SuspiciousShrink));
        assert_eq!(judge((100, 1000), (100, 499), &guards), Some(Reason::SuspiciousShrink));
        assert_eq!(judge((100, u64::MAX), (100, 1), &guards), Some(Reason::SuspiciousShrink));
        let off = Guards { max_shrink: 100, allow_empty: false };
        assert_eq!(judge((100, 1000), (1, 0), &off), None);
        assert_eq!(judge((100, 1000), (0, 0), &off), Some(Reason::EmptySource));
        let strict = Guards { max_shrink: 0, allow_empty: true };
        assert_eq!(judge((100, 1000), (100, 999), &strict), Some(Reason::SuspiciousShrink));
        assert_eq!(judge((100, 1000), (0, 0), &strict), None);
        assert_eq!(judge((0, 0), (0, 0), &guards), None);
        assert!(check(None, &SourceFacts::default(), &guards).is_ok());
    }

    #[test]
    fn space_is_estimated_without_compression_and_never_overflows() {
        assert!(needed_space(1 << 30, ArchiveFormat::TarGz) > 1 << 30);
        let needed = needed_space(1000, ArchiveFormat::Tar);
        assert!(check_space(1000, ArchiveFormat::Tar, 10, needed + 10).is_ok());
        assert!(check_space(1000, ArchiveFormat::Tar, 10, needed + 9).is_err());
        assert!(check_space(u64::MAX, ArchiveFormat::TarZst, u64::MAX, u64::MAX - 1).is_err());
    }
}
