//! Owner, mode, extended attributes and times of an open file or directory, put in the order that keeps them all.
//!
//! Owner before mode, because a change of owner clears setuid; both before the attributes, because
//! it clears capabilities too, and an ACL repeats the mode; times last, because everything else
//! touches them. What a file system does not carry, or the process may not set, is told and costs nothing else:
//! the data is worth more. Who may read it is not given away so: an access list that has to go goes.

use std::os::fd::AsFd;

use rustix::fs::{Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::entry::display_start;
use super::summary::WarningKind;

/// Names of the lists that a new file has from the directory above it.
pub(super) const ACCESS_LISTS: [&[u8]; 2] =
    [b"system.posix_acl_access", b"system.posix_acl_default"];

/// What a file or directory is to have.
pub(super) struct Wanted<'a> {
    /// Numbers of owner and group, unless they stay what they are.
    pub owner: Option<(u64, u64)>,
    /// All twelve bits; those that let it run as its owner only if that can be set.
    pub mode: u32,
    /// Names and values.
    pub attributes: &'a [(Vec<u8>, Vec<u8>)],
    /// Names of attributes that it may have and is not to have.
    pub surplus: Vec<&'a [u8]>,
    /// Seconds and nanoseconds of access and modification.
    pub times: [(i64, i64); 2],
}

/// Takes what could not be set.
pub(super) type Refused<'a> = dyn FnMut(WarningKind, String) + 'a;

impl Wanted<'_> {
    /// Gives all of it to an open file or directory.
    pub(super) fn put(&self, file: impl AsFd, refused: &mut Refused<'_>) -> rustix::io::Result<()> {
        let file = file.as_fd();
        let mut mode = self.mode & 0o7777;
        if let Some((uid, gid)) = self.owner {
            let owned = owner(uid, gid).and_then(|(uid, gid)| {
                let status = rustix::fs::fstat(file)?;
                if (status.st_uid, status.st_gid) == (uid.as_raw(), gid.as_raw()) {
                    return Ok(());
                }
                rustix::fs::fchown(file, Some(uid), Some(gid))
            });
            if owned.is_err() {
                // Without its owner a file must not run as somebody else.
                mode &= 0o1777;
            }
            tell_owner((uid, gid), owned, refused);
        }
        for name in &self.surplus {
            match rustix::fs::fremovexattr(file, *name) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(error) if ACCESS_LISTS.contains(name) => return Err(error),
                removed => tell_attribute(name, "removed", removed, refused),
            }
        }
        let mut set = |of_users: bool| {
            for (name, value) in self.attributes {
                if name.starts_with(b"user.") != of_users {
                    continue;
                }
                let set = rustix::fs::fsetxattr(file, &name[..], value, XattrFlags::empty());
                let mut found = vec![0; value.len() + 1];
                // What it has already need not be allowed.
                if set.is_err()
                    && rustix::fs::fgetxattr(file, &name[..], &mut found[..]) == Ok(value.len())
                    && found.starts_with(value)
                {
                    continue;
                }
                tell_attribute(name, "set", set, refused);
            }
        };
        // Those of users need the right to write, which the mode may take away; access control lists change the mode.
        set(true);
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
        set(false);
        rustix::fs::futimens(file, &times(self.times))
    }
}

/// The kernel's number for "leave it" is no owner either.
pub(super) fn owner(uid: u64, gid: u64) -> rustix::io::Result<(Uid, Gid)> {
    let number = |value: u64| {
        u32::try_from(value).ok().filter(|number| *number != u32::MAX).ok_or(Errno::RANGE)
    };
    Ok((Uid::from_raw(number(uid)?), Gid::from_raw(number(gid)?)))
}

/// Times of access and modification as the kernel takes them.
pub(super) fn times(times: [(i64, i64); 2]) -> Timestamps {
    let [last_access, last_modification] =
        times.map(|(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec });
    Timestamps { last_access, last_modification }
}

/// Tells of an owner that could not be set.
pub(super) fn tell_owner(
    (uid, gid): (u64, u64),
    result: rustix::io::Result<()>,
    refused: &mut Refused<'_>,
) {
    if let Err(error) = result {
        let error = std::io::Error::from(error);
        refused(WarningKind::Owner, format!("its owner {uid}:{gid} could not be set: {error}"));
    }
}

/// Tells of an attribute that could not be set or removed.
pub(super) fn tell_attribute(
    name: &[u8],
    done: &str,
    result: rustix::io::Result<()>,
    refused: &mut Refused<'_>,
) {
    if let Err(error) = result {
        let (name, error) = (display_start(name), std::io::Error::from(error));
        let message = format!("its attribute {name} could not be {done}: {error}");
        refused(WarningKind::Attributes, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a file system refuses was a warning where an archive was unpacked, and the end of a Restore where what
    /// stays was carried over.
    #[test]
    fn what_is_refused_is_told_and_costs_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(place.path().join("file")).unwrap();
        let attribute = |name: &str, value: &str| (name.into(), value.into());
        // No file system knows names of such a class.
        let attributes = [attribute("nobody.knows", "it"), attribute("user.known", "value")];
        let wanted = Wanted {
            owner: Some((u64::from(u32::MAX), 0)),
            mode: 0o4640,
            attributes: &attributes,
            surplus: vec![b"nobody.had", b"user.not-there"],
            times: [(7, 8), (9, 10)],
        };
        let mut told = Vec::new();
        wanted.put(&file, &mut |kind, message| told.push((kind, message))).unwrap();
        let kinds: Vec<WarningKind> = told.iter().map(|(kind, _)| *kind).collect();
        let told = format!("{told:?}");
        assert!(kinds.contains(&WarningKind::Owner), "{told}");
        assert!(told.contains("nobody.knows") && !told.contains("user."), "{told}");
        let stat = rustix::fs::fstat(&file).unwrap();
        assert_eq!((stat.st_mode & 0o7777, stat.st_mtime), (0o640, 9));
        let mut value = [0; 16];
        assert_eq!(rustix::fs::fgetxattr(&file, "user.known", &mut value[..]), Ok(5));
    }
}
