//! Where paths really are. One directory may be seen at several places: over symbolic links, and by mounts
//! of it or of what lies in it, as containers see volumes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// What the kernel says of the mounts that this process sees (`proc(5)`).
const MOUNTS: &str = "/proc/self/mountinfo";

/// Whether `inner` is `outer` or lies in it, as far as the paths exist.
pub(super) fn lies_in(inner: &Path, outer: &Path) -> bool {
    let (inner, outer) = (resolved(inner), resolved(outer));
    inner.starts_with(&outer)
        || std::fs::read(MOUNTS).is_ok_and(|text| Mounts::read(&text).lies_in(&inner, &outer))
}

/// A path without symbolic links.
fn resolved(path: &Path) -> PathBuf {
    let real = |ancestor: &Path| {
        let rest = path.strip_prefix(ancestor).ok()?;
        Some(ancestor.canonicalize().ok()?.join(rest))
    };
    path.ancestors().find_map(real).unwrap_or_else(|| path.to_owned())
}

/// One mount: a directory of a file system, and where it is seen.
#[derive(Debug, PartialEq)]
struct Mount {
    /// Numbers of the device: one for each file system.
    file_system: String,
    /// The directory in that file system.
    root: PathBuf,
    /// Where it is.
    point: PathBuf,
}

/// All mounts, in the order of mounting.
struct Mounts(Vec<Mount>);

impl Mounts {
    fn read(text: &[u8]) -> Self {
        let mount = |line: &[u8]| {
            let mut fields = line.split(|byte| *byte == b' ').skip(2);
            let file_system = String::from_utf8_lossy(fields.next()?).into_owned();
            let (root, point) = (unescaped(fields.next()?), unescaped(fields.next()?));
            Some(Mount { file_system, root, point })
        };
        Self(text.split(|byte| *byte == b'\n').filter_map(mount).collect())
    }

    /// The file system that a path is on, and the path in it.
    fn place(&self, path: &Path) -> Option<(&str, PathBuf)> {
        let above = self.0.iter().filter(|mount| path.starts_with(&mount.point));
        // The last of those at one place hides the others.
        let mount = above.max_by_key(|mount| mount.point.components().count())?;
        let rest = path.strip_prefix(&mount.point).ok()?;
        Some((&mount.file_system, mount.root.join(rest)))
    }

    fn lies_in(&self, inner: &Path, outer: &Path) -> bool {
        let both = self.place(inner).zip(self.place(outer));
        both.is_some_and(|(inner, outer)| inner.0 == outer.0 && inner.1.starts_with(outer.1))
    }
}

/// A field of the kernel's: what would end it is written as three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = field;
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..3).filter(|_| *first == b'\\');
        let code =
            digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { more.get(3..).unwrap_or_default() } else { more };
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker's: two volumes with one `device=`, a directory in it by another name, and others.
    const WORKER: &[u8] = b"\
700 600 0:52 / / rw,relatime - overlay overlay rw,lowerdir=/l
701 700 254:1 /srv/shop /eider/volumes/volumes/data ro,relatime - ext4 /dev/vda1 rw
702 700 254:1 /srv/shop /backups rw,relatime - ext4 /dev/vda1 rw
703 700 254:1 /srv/shop/back\\040up /nested rw,relatime - ext4 /dev/vda1 rw
704 700 254:1 /srv/shopping /apart rw,relatime - ext4 /dev/vda1 rw
705 700 254:2 /srv/shop /other rw,relatime shared:7 - ext4 /dev/vdb1 rw
706 700 0:60 / /covered rw - tmpfs tmpfs rw
707 700 254:1 /srv/shop /covered rw - ext4 /dev/vda1 rw
";

    #[test]
    fn what_is_mounted_at_two_places_is_one_place() {
        let mounts = Mounts::read(WORKER);
        let data = Path::new("/eider/volumes/volumes/data");
        for store in ["/backups", "/backups/main", "/nested", "/nested/main", "/covered/main"] {
            assert!(mounts.lies_in(Path::new(store), data), "{store}");
        }
        for store in ["/apart", "/other", "/other/main", "/", "/elsewhere"] {
            assert!(!mounts.lies_in(Path::new(store), data), "{store}");
        }
        assert!(!mounts.lies_in(data, Path::new("/nested")), "it holds the other one");
        assert_eq!(mounts.0[3].root, Path::new("/srv/shop/back up"));
    }

    #[test]
    fn links_are_followed_as_far_as_there_is_something() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        std::fs::create_dir_all(at("data/inner")).unwrap();
        std::os::unix::fs::symlink(at("data"), at("link")).unwrap();
        assert!(lies_in(&at("link/inner/not/yet"), &at("data")));
        assert!(lies_in(&at("data"), &at("link")));
        assert!(!lies_in(&at("database"), &at("data")));
    }
}
