//! Names of archives. Pure text; making a name unique in its store is the store's work.

use jiff::{Timestamp, tz::TimeZone};

use super::version::sanitise;
use crate::spec::{ArchiveFormat, BackupTrigger};

/// `backup_{trigger}_v{version}_{YYYY-MM-DD_HH-MM-SS}.{extension}` in UTC; without a version `v0`.
pub fn archive_name(
    trigger: BackupTrigger,
    version: Option<&str>,
    at: Timestamp,
    format: ArchiveFormat,
) -> String {
    let at = at.to_zoned(TimeZone::UTC).datetime();
    format!(
        "backup_{}_v{}_{:04}-{:02}-{:02}_{:02}-{:02}-{:02}.{}",
        trigger.as_str(),
        sanitise(version.unwrap_or_default()),
        at.year(),
        at.month(),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        format.extension()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_why_what_and_when() {
        let at: Timestamp = "2026-11-20T03:00:00.9+01:00".parse().unwrap();
        let name = |trigger, version, format| archive_name(trigger, version, at, format);
        assert_eq!(
            name(BackupTrigger::Manual, Some("v1.2.0"), ArchiveFormat::TarGz),
            "backup_manual_v1.2.0_2026-11-20_02-00-00.tar.gz"
        );
        assert_eq!(
            name(BackupTrigger::PreUpgrade, None, ArchiveFormat::TarZst),
            "backup_pre-upgrade_v0_2026-11-20_02-00-00.tar.zst"
        );
        assert_eq!(
            name(BackupTrigger::Scheduled, Some("a/b"), ArchiveFormat::Tar),
            "backup_scheduled_va-b_2026-11-20_02-00-00.tar"
        );
    }
}
