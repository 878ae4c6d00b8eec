//! Trees that nobody changes.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, makedev, mkdirat, mknodat, openat};
use serde_json::Value;

use super::{FORMATS, contents, counted_by_tar, there_and_back};
use crate::incremental::walked;
use crate::scene::{STORE, Scene, backup, shell};

/// The longest name of a file on the usual file systems, in bytes.
const NAME_MAX: usize = 255;

fn path(directory: &Path, name: &[u8]) -> PathBuf {
    directory.join(OsStr::from_bytes(name))
}

/// Every byte that a name may have: all but NUL and the slash.
fn bytes() -> impl Iterator<Item = u8> {
    (1..=255_u8).filter(|byte| *byte != b'/')
}

/// For each byte a file of that name, one that ends with it, one that begins with it, a directory with it in
/// the middle and ten files in that, a symlink to it; and beside it all a hard link to each file.
fn names_of_every_byte(root: &Path) {
    let (one, other) = (root.join("bytes"), root.join("links"));
    fs::create_dir(&one).unwrap();
    fs::create_dir(&other).unwrap();
    for byte in bytes() {
        let mut files = vec![vec![b'a', byte], [&[byte][..], b"z"].concat()];
        // A single dot is the directory itself.
        if byte != b'.' {
            files.push(vec![byte]);
        }
        let directory = [b"in", &[byte][..], b"out"].concat();
        fs::create_dir(path(&one, &directory)).unwrap();
        for number in 0..10 {
            files.push([&directory[..], b"/", number.to_string().as_bytes()].concat());
        }
        for (number, name) in files.iter().enumerate() {
            fs::write(path(&one, name), contents(name, 100 * number + usize::from(byte))).unwrap();
            let link = format!("{byte:03}-{number}");
            fs::hard_link(path(&one, name), other.join(link)).unwrap();
        }
        symlink(OsStr::from_bytes(&[b'a', byte]), path(&one, &[b"to", &[byte][..]].concat()))
            .unwrap();
    }
}

/// Names of every length, modes that nobody else has.
fn names_of_every_length(root: &Path) {
    let directory = root.join("lengths");
    fs::create_dir(&directory).unwrap();
    for length in 1..=NAME_MAX {
        let file = directory.join("n".repeat(length));
        fs::write(&file, contents(&length.to_le_bytes(), length)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o557)).unwrap();
    }
}

/// Files of every size around which something begins anew: blocks of tar, buffers, members of each format.
fn sizes_around_every_bound(root: &Path) {
    let directory = root.join("sizes");
    fs::create_dir(&directory).unwrap();
    for bound in [0_usize, 512, 1_024, 4_096, 10_240, 65_536, 256 << 10, 1 << 20, 4 << 20] {
        for size in [bound.saturating_sub(1), bound, bound + 1] {
            for kind in ["0", "1"] {
                let name = format!("{size}-{kind}");
                let data = contents(name.as_bytes(), size);
                fs::write(directory.join(&name), data).unwrap();
            }
        }
    }
    // Many members of one file, of which each could be in the place of another.
    for name in ["large-0", "large-1"] {
        fs::write(directory.join(name), contents(name.as_bytes(), 13_000_001)).unwrap();
    }
}

/// Directories with the longest names, so deep that no system call takes the path, and names of every
/// length at the bottom.
fn deeper_than_a_path_may_be(root: &Path) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut at: OwnedFd = openat(CWD, root, flags, Mode::empty()).unwrap();
    for level in 0..20_u8 {
        let name = CString::new(vec![b'a' + level; NAME_MAX]).unwrap();
        mkdirat(&at, &name, Mode::RWXU).unwrap();
        at = openat(&at, &name, flags, Mode::empty()).unwrap();
    }
    for length in 1..=NAME_MAX {
        let name = "f".repeat(length);
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = openat(&at, name.as_str(), flags, Mode::RUSR | Mode::WUSR).unwrap();
        File::from(file).write_all(&contents(name.as_bytes(), 3 * length)).unwrap();
    }
}

/// Symlinks to targets of every length that are not there.
fn targets_of_every_length(root: &Path) {
    let directory = root.join("targets");
    fs::create_dir(&directory).unwrap();
    for length in (1..=1_025).chain([2_048, 4_095]) {
        symlink("t".repeat(length), directory.join(length.to_string())).unwrap();
    }
}

/// A plain file with thousands of names.
fn thousands_of_links(root: &Path) {
    let directory = root.join("many");
    fs::create_dir(&directory).unwrap();
    fs::write(root.join("plain"), contents(b"plain", 300_030)).unwrap();
    for number in 0..3_000 {
        fs::hard_link(root.join("plain"), directory.join(number.to_string())).unwrap();
    }
}

/// Holes: a large one, one behind real zeros, one at the end, nothing but one, and many small ones.
fn holes(root: &Path) {
    let directory = root.join("holes");
    fs::create_dir(&directory).unwrap();
    let file = |name: &str, pieces: &[(u64, &[u8])], length: u64| {
        let mut file = File::create(directory.join(name)).unwrap();
        for (offset, data) in pieces {
            file.seek(SeekFrom::Start(*offset)).unwrap();
            file.write_all(data).unwrap();
        }
        file.set_len(length).unwrap();
    };
    let data = contents(b"holes", 500 * 300);
    file("large", &[(10_240_000, &data[..14])], 10_240_014);
    file("deceptive", &[(0, &[0; 4096]), (8192, &data[20..42])], 8_214);
    file("at-the-end", &[(0, &data[50..15_050])], 5_000_000);
    file("nothing-else", &[], 7_000_001);
    let many: Vec<(u64, &[u8])> =
        (0..).map(|number| number * 16_384).zip(data.chunks(300)).collect();
    file("many", &many, 500 * 16_384);
    file("zeros", &[(0, &vec![0; 100_000])], 100_000);
}

/// Modes that forbid reading or writing, and every special bit.
fn modes(root: &Path) {
    let directory = root.join("modes");
    fs::create_dir(&directory).unwrap();
    for mode in [0o000_u32, 0o555, 0o777, 0o4755, 0o2755, 0o1777, 0o7000, 0o6111] {
        let (file, inner) =
            (directory.join(format!("f{mode:o}")), directory.join(format!("d{mode:o}")));
        fs::write(&file, contents(&mode.to_le_bytes(), 700)).unwrap();
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("within"), contents(&mode.to_be_bytes(), 7)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Pipes, devices, a socket, attributes, access lists, capabilities, times that hardly fit.
fn kinds(root: &Path) {
    let directory = root.join("kinds");
    fs::create_dir(&directory).unwrap();
    shell(
        &directory,
        "mkfifo pipe; touch plain empty acl; mkdir acls; echo x > capable
         touch -d '1901-12-13 20:45:53 UTC' early; touch -d '2242-03-16 12:56:31.999999999 UTC' late
         touch -d @0.000000001 epoch
         chown 4294967294:4000000000 empty || true; ln -s nowhere link; chown -h 55:66 link || true
         touch -h -d '1970-01-02 UTC' link
         setfattr -n user.empty plain; setfattr -n user.binary -v 0x00ff0a0d3d25 plain
         setfattr -n 'user.name=with%signs' -v y plain
         for n in $(seq 40); do setfattr -n user.n$n -v $n plain; done
         setfattr -n trusted.secret -v z plain || true
         setfacl -m u:1234:rw,g:99:r acl; setfacl -m d:u:55:rwx,u:77:x acls
         setcap cap_net_raw+ep capable || true",
    );
    for (name, kind, device) in [
        ("character", FileType::CharacterDevice, makedev(1, 3)),
        ("block", FileType::BlockDevice, makedev(7, 200)),
        ("large-numbers", FileType::CharacterDevice, makedev(500, 70_000)),
    ] {
        let mode = Mode::RUSR | Mode::WUSR;
        if let Err(error) = mknodat(CWD, directory.join(name), kind, mode, device) {
            println!("SKIPPED: no {name} device can be made here: {error}");
        }
    }
    drop(std::os::unix::net::UnixListener::bind(directory.join("socket")).unwrap());
}

#[test]
fn whatever_a_tree_may_hold_comes_back_in_every_format() {
    let scene = Scene::new();
    scene.apply(STORE).ok();
    let live = scene.path("live");
    names_of_every_byte(&live);
    names_of_every_length(&live);
    sizes_around_every_bound(&live);
    deeper_than_a_path_may_be(&live);
    targets_of_every_length(&live);
    thousands_of_links(&live);
    holes(&live);
    modes(&live);
    kinds(&live);
    let expected = walked(&live);
    let entries = expected.lines().filter(|line| !line.contains(" one inode: ")).count() as u64;
    // Each file once, however many names it has, to a program that knows nothing of Eider either.
    let sizes =
        "find . -type f -printf '%i %s\\n' | sort -u | awk '{n += $2} END {printf \"%d\", n}'";
    let bytes: u64 = shell(&live, sizes).parse().unwrap();
    for format in FORMATS {
        let manifest = there_and_back(&scene, format);
        let name = format.replace('.', "-");
        let found = walked(&scene.path(&format!("back-{name}")));
        if found != expected {
            let lines: std::collections::BTreeSet<&str> = expected.lines().collect();
            let other: std::collections::BTreeSet<&str> = found.lines().collect();
            let apart: Vec<_> = lines.symmetric_difference(&other).take(10).collect();
            panic!("{format}: {apart:#?}");
        }
        let counts = &manifest["counts"];
        assert_eq!(counts["entries"], entries, "{format}");
        assert_eq!(manifest["sourceBytes"], bytes, "{format}");
        assert_eq!(counted_by_tar(&scene.archive(&name)), entries, "{format}");
        // The socket, and nothing else, is told of.
        assert_eq!(manifest["warningCount"], 1, "{}", manifest["warnings"]);
        println!(
            "{format}: {entries} entries of {bytes} bytes the same to Python and counted by GNU tar: {counts}"
        );
    }
    // Holes are holes again: no more blocks than before, but for one at the edges of each.
    let blocks = |root: &Path| -> u64 {
        let names = fs::read_dir(root.join("holes")).unwrap();
        let blocks = |entry: fs::DirEntry| {
            std::os::unix::fs::MetadataExt::blocks(&entry.metadata().unwrap())
        };
        names.map(|entry| blocks(entry.unwrap())).sum()
    };
    let (before, after) = (blocks(&live), blocks(&scene.path("back-tar-gz")));
    assert!(after <= before + 64, "{after} blocks of {before}");
}

#[test]
fn what_cannot_be_read_fails_the_backup_or_is_listed() {
    let scene = Scene::new();
    scene.apply(STORE).ok();
    let live = scene.path("live");
    fs::create_dir_all(live.join("closed")).unwrap();
    for (file, mode) in
        [("open", 0o644), ("secret", 0o000), ("closed/within", 0o644), ("last", 0o200)]
    {
        fs::write(live.join(file), file).unwrap();
        fs::set_permissions(live.join(file), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(live.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    let take = |name: &str, more: &str| {
        let document = scene.fill(&backup(name, "@/live", more));
        let file = scene.write(&format!("{name}.yaml"), document);
        let plain = scene.command(&["run", "-f", file.to_str().unwrap()]);
        // Root, but with no more rights on files than their modes give.
        let mut limited = std::process::Command::new("setpriv");
        limited
            .args(["--bounding-set=-dac_override,-dac_read_search", "--"])
            .arg(plain.get_program())
            .args(plain.get_args())
            .current_dir(scene.path(""))
            .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
        crate::scene::Ended::from(limited.output().unwrap())
    };
    if fs::File::open(live.join("secret")).is_err() {
        println!("SKIPPED: not root, so that modes cannot be told from rights");
        return;
    }
    let failed = take("strict", "").code(1);
    for path in ["secret", "closed", "last"] {
        assert!(failed.stderr.contains(path), "{path} is not named in\n{}", failed.stderr);
    }
    assert_eq!(scene.stored(), Vec::<String>::new());
    take("lenient", "allowUnreadable: true").ok();
    let manifest = super::manifest(&scene.archive("lenient"));
    let told: Vec<&str> = manifest["warnings"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|warning| warning["path"].as_str())
        .collect();
    assert_eq!(manifest["warningCount"], 3, "{told:?}");
    let held: Vec<Value> = scene
        .run(&["backup", "files", "lenient", "-o", "json"])
        .ok()
        .items()
        .into_iter()
        .map(|entry| entry["name"].clone())
        .collect();
    assert!(
        held.contains(&"live/open".into()) && !held.contains(&"live/secret".into()),
        "{held:?}"
    );
    println!("unreadable: {} paths named on failure, {} listed when allowed", 3, told.len());
}
