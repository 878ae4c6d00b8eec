//! A replacement ended before each of its operations, in both layouts.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::primitive::injection;
use super::*;

const KEY: &str = "k1";

/// Everything that can be seen of a tree: kind, mode, modification time, content or target.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, String> {
    fn visit(path: &Path, relative: &Path, found: &mut BTreeMap<PathBuf, String>) {
        let Ok(status) = path.symlink_metadata() else { return };
        let content = if status.is_symlink() {
            format!("{:?}", std::fs::read_link(path).unwrap())
        } else if status.is_dir() {
            for entry in std::fs::read_dir(path).unwrap() {
                let name = entry.unwrap().file_name();
                visit(&path.join(&name), &relative.join(&name), found);
            }
            String::new()
        } else {
            format!("{} {}", status.nlink(), std::fs::read_to_string(path).unwrap_or_default())
        };
        let line =
            format!("{:o} {}.{} {content}", status.mode(), status.mtime(), status.mtime_nsec());
        found.insert(relative.to_owned(), line);
    }
    let mut found = BTreeMap::new();
    visit(root, Path::new(""), &mut found);
    found
}

fn write(path: &Path, content: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn set_time(path: &Path, seconds: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    std::fs::File::open(path).unwrap().set_modified(time).unwrap();
}

/// A live tree with what makes trouble: narrow modes, hard links, symlinks to directories.
fn fill_old(root: &Path) {
    write(&root.join("config/settings"), "old");
    write(&root.join("data/one"), "1");
    std::fs::hard_link(root.join("data/one"), root.join("data/again")).unwrap();
    write(&root.join("narrow/file"), "n");
    symlink("/etc", root.join("link")).unwrap();
    set_mode(&root.join("narrow"), 0o500);
    set_mode(root, 0o750);
    set_time(root, 1000);
}

fn fill_new(staged: &Path) {
    write(&staged.join("config/settings"), "new");
    write(&staged.join("data/two"), "2");
    symlink("data", staged.join("link")).unwrap();
    write(&staged.join("fresh/file"), "f");
    set_mode(&staged.join("fresh"), 0o500);
    set_mode(staged, 0o711);
    set_time(staged, 2000);
}

/// A root of each shape, staged.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Beside,
    Inside,
    File,
    Missing,
}

fn stage(root: &Path, shape: Shape) -> Staging {
    let (kind, layout) = match shape {
        Shape::Beside | Shape::Missing => (StagedKind::Directory, Layout::Beside),
        Shape::Inside => (StagedKind::Directory, Layout::Inside),
        Shape::File => (StagedKind::File, Layout::Beside),
    };
    match shape {
        Shape::Beside | Shape::Inside => {
            std::fs::create_dir_all(root).unwrap();
            fill_old(root);
        }
        Shape::File => write(root, "old file"),
        Shape::Missing => {}
    }
    let staging = Staging::create_as(root, KEY, kind, Some(layout)).unwrap();
    assert_eq!(staging.layout(), layout);
    if kind == StagedKind::File {
        write(staging.path(), "new file");
    } else {
        fill_new(staging.path());
    }
    staging
}

/// The root without the operation's own directory, whose name is not data.
fn content(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = snapshot(root);
    found.retain(|path, _| !path.starts_with(".eider-restore-k1"));
    found
}

struct Scene {
    _directory: tempfile::TempDir,
    parent: PathBuf,
    replacement: Replacement,
    roots: Vec<PathBuf>,
    old: Vec<BTreeMap<PathBuf, String>>,
    new: Vec<BTreeMap<PathBuf, String>>,
}

impl Scene {
    fn make(shapes: &[Shape]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let parent = directory.path().to_owned();
        let (mut roots, mut old, mut new) = (Vec::new(), Vec::new(), Vec::new());
        for (number, shape) in shapes.iter().enumerate() {
            let root = parent.join(format!("root {number}"));
            let staging = stage(&root, *shape);
            old.push(content(&root));
            new.push(snapshot(staging.path()));
            roots.push(root);
        }
        let replacement = Replacement::new(KEY, roots.clone());
        Self { _directory: directory, parent, replacement, roots, old, new }
    }

    fn contents(&self) -> Vec<BTreeMap<PathBuf, String>> {
        self.roots.iter().map(|root| content(root)).collect()
    }

    /// Nothing of the operation may be left, beside the roots or in them.
    fn assert_clean(&self) {
        assert_eq!(leftovers(&self.parent).unwrap(), Vec::<PathBuf>::new());
        for root in self.roots.iter().filter(|root| root.is_dir()) {
            assert_eq!(leftovers(root).unwrap(), Vec::<PathBuf>::new());
        }
    }
}

const SCENES: [&[Shape]; 6] = [
    &[Shape::Beside],
    &[Shape::Inside],
    &[Shape::File],
    &[Shape::Missing],
    &[Shape::Inside, Shape::Inside],
    &[Shape::Beside, Shape::Inside, Shape::File, Shape::Missing],
];

/// Runs `work` with `allowed` operations; `true` if it came to its end.
fn limited(allowed: u64, work: impl FnOnce() -> Result<(), ReplaceError>) -> bool {
    injection::allow(Some(allowed));
    let result = work();
    injection::allow(None);
    result.is_ok()
}

/// Calls `check` with a scene after every prefix of a swap, until the swap is complete.
fn after_every_prefix(check: impl Fn(Scene, bool)) {
    for without in [false, true] {
        injection::without_exchange(without);
        for shapes in SCENES {
            for allowed in 0.. {
                let scene = Scene::make(shapes);
                let complete = limited(allowed, || scene.replacement.swap());
                check(scene, complete);
                if complete {
                    assert!(allowed > 2, "the operations are not counted");
                    break;
                }
            }
        }
    }
    injection::without_exchange(false);
}

#[test]
fn every_prefix_of_a_swap_can_be_undone_and_cleaned_up() {
    after_every_prefix(|scene, _| {
        scene.replacement.swap_back().unwrap();
        assert_eq!(scene.contents(), scene.old);
        assert_eq!(scene.replacement.observe().unwrap(), ReplacementState::AllOld);
        scene.replacement.swap_back().unwrap();
        for (root, new) in scene.roots.iter().zip(&scene.new) {
            let staging = Staging::find(root, KEY).unwrap().unwrap();
            assert_eq!(&snapshot(staging.path()), new);
        }
        scene.replacement.discard_staging().unwrap();
        scene.replacement.discard_staging().unwrap();
        assert_eq!(scene.contents(), scene.old);
        scene.assert_clean();
    });
}

#[test]
fn every_prefix_of_a_swap_can_be_finished_and_the_old_dropped() {
    after_every_prefix(|scene, complete| {
        if complete {
            assert_eq!(scene.replacement.observe().unwrap(), ReplacementState::AllNew);
        }
        scene.replacement.swap().unwrap();
        assert_eq!(scene.contents(), scene.new);
        assert_eq!(scene.replacement.observe().unwrap(), ReplacementState::AllNew);
        scene.replacement.drop_old().unwrap();
        scene.replacement.drop_old().unwrap();
        assert_eq!(scene.contents(), scene.new);
        scene.assert_clean();
    });
}

#[test]
fn every_prefix_of_a_swap_back_can_go_on_in_either_direction() {
    for without in [false, true] {
        injection::without_exchange(without);
        for shapes in SCENES {
            for allowed in 0.. {
                let mut complete = false;
                for forward in [false, true] {
                    let scene = Scene::make(shapes);
                    scene.replacement.swap().unwrap();
                    complete = limited(allowed, || scene.replacement.swap_back());
                    if forward {
                        scene.replacement.swap().unwrap();
                        assert_eq!(scene.contents(), scene.new);
                    } else {
                        scene.replacement.swap_back().unwrap();
                        assert_eq!(scene.contents(), scene.old);
                    }
                }
                if complete {
                    break;
                }
            }
        }
    }
    injection::without_exchange(false);
}

#[test]
fn every_prefix_of_a_drop_leaves_the_new_content_and_can_be_finished() {
    for shapes in SCENES {
        for allowed in 0.. {
            let scene = Scene::make(shapes);
            scene.replacement.swap().unwrap();
            let complete = limited(allowed, || scene.replacement.drop_old());
            if scene.replacement.is_dropping().unwrap() {
                assert_eq!(scene.replacement.observe().unwrap(), ReplacementState::AllNew);
                assert!(scene.replacement.swap_back().is_err());
                assert_eq!(scene.contents(), scene.new);
            }
            scene.replacement.drop_old().unwrap();
            assert_eq!(scene.contents(), scene.new);
            scene.assert_clean();
            if complete {
                break;
            }
        }
    }
}

#[test]
fn every_prefix_of_a_discard_leaves_the_old_content_and_can_be_finished() {
    for shapes in SCENES {
        for allowed in 0.. {
            let scene = Scene::make(shapes);
            let complete = limited(allowed, || scene.replacement.discard_staging());
            assert_eq!(scene.replacement.observe().unwrap(), ReplacementState::AllOld);
            scene.replacement.discard_staging().unwrap();
            assert_eq!(scene.contents(), scene.old);
            scene.assert_clean();
            if complete {
                break;
            }
        }
    }
}

#[test]
fn what_the_service_did_after_the_swap_does_not_hinder_the_way_back() {
    let scene = Scene::make(&[Shape::Beside, Shape::Inside, Shape::File]);
    scene.replacement.swap().unwrap();
    write(&scene.roots[0].join("data/log"), "x");
    write(&scene.roots[1].join("log"), "x");
    std::fs::remove_dir_all(scene.roots[1].join("data")).unwrap();
    // A service saves a file by renaming a new one over it: another inode.
    write(&scene.parent.join("temporary"), "saved");
    std::fs::rename(scene.parent.join("temporary"), &scene.roots[2]).unwrap();
    scene.replacement.swap_back().unwrap();
    assert_eq!(scene.contents(), scene.old);
    scene.replacement.discard_staging().unwrap();
    scene.assert_clean();
}

#[test]
fn an_interrupted_extraction_is_staged_afresh() {
    let scene = Scene::make(&[Shape::Beside]);
    let staging = Staging::create(&scene.roots[0], KEY, StagedKind::Directory).unwrap();
    assert_eq!(std::fs::read_dir(staging.path()).unwrap().count(), 0);
    assert_eq!(scene.contents(), scene.old);
    scene.replacement.swap().unwrap();
    assert!(Staging::create(&scene.roots[0], KEY, StagedKind::Directory).is_err());
}

#[test]
fn symlinks_relative_paths_and_unsafe_keys_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("link");
    symlink("/etc", &link).unwrap();
    let create = |root: &Path, key| Staging::create(root, key, StagedKind::Directory);
    assert!(create(&link, KEY).unwrap_err().to_string().contains("symlink"));
    assert!(create(Path::new("relative"), KEY).is_err());
    assert!(create(&directory.path().join("x"), "a/b").is_err());
    assert!(create(&directory.path().join("x"), "").is_err());
}

fn carry(root: &Path, staging: &Staging, rules: &CarryRules) -> Carried {
    carry_over(root, staging, rules, &|| false).unwrap()
}

fn inode(path: &Path) -> u64 {
    path.symlink_metadata().unwrap().ino()
}

#[test]
fn merge_brings_what_the_archive_does_not_have_by_link() {
    for shape in [Shape::Beside, Shape::Inside] {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        let staging = stage(&root, shape);
        let (one, narrow) = (inode(&root.join("data/one")), snapshot(&root.join("narrow")));
        let before = snapshot(&staging.path().join("config"));
        let carried = carry(&root, &staging, &CarryRules::merge(&[], "").unwrap());
        // data/one, data/again, narrow/file; config/settings and link are in the archive.
        assert_eq!((carried.linked, carried.copied, carried.directories), (3, 0, 1));
        assert_eq!(snapshot(&staging.path().join("config")), before);
        swap(&root, KEY).unwrap();
        assert_eq!(inode(&root.join("data/one")), one);
        assert_eq!(inode(&root.join("data/again")), one);
        assert_eq!(std::fs::read_to_string(root.join("config/settings")).unwrap(), "new");
        assert_eq!(std::fs::read_link(root.join("link")).unwrap(), Path::new("data"));
        let mode = root.join("narrow").metadata().unwrap().mode() & 0o7777;
        assert_eq!((mode, narrow.len()), (0o500, 2));
        assert_eq!(root.metadata().unwrap().mtime(), 2000);
        drop_old(&root, KEY).unwrap();
        assert_eq!(snapshot(&root.join("narrow")), narrow);
    }
}

#[test]
fn preserve_keeps_what_matches_as_it_is_now() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let staging = stage(&root, Shape::Beside);
    write(&root.join("deep/er/keep.me"), "kept");
    write(&root.join("deep/er/other"), "gone");
    write(&staging.path().join("logs/only-in-the-archive"), "no");
    set_mode(&root.join("deep/er"), 0o700);
    set_time(&root.join("deep/er"), 3000);
    set_time(&staging.path().join("data"), 4000);
    let (settings, kept) =
        (inode(&root.join("config/settings")), inode(&root.join("deep/er/keep.me")));
    let patterns = ["/config/", "*.me", "logs/", "data/again", "link"].map(String::from);
    let carried = carry(&root, &staging, &CarryRules::preserve(&patterns).unwrap());
    assert_eq!((carried.linked, carried.directories), (4, 3));
    swap(&root, KEY).unwrap();
    assert_eq!(inode(&root.join("config/settings")), settings);
    assert_eq!(inode(&root.join("deep/er/keep.me")), kept);
    assert_eq!(std::fs::read_link(root.join("link")).unwrap(), Path::new("/etc"));
    assert_eq!(root.join("deep/er").metadata().unwrap().mtime(), 3000);
    assert_eq!(root.join("data").metadata().unwrap().mtime(), 4000);
    for gone in ["deep/er/other", "logs", "data/one", "narrow"] {
        assert!(!root.join(gone).exists(), "{gone}");
    }
    assert!(root.join("data/two").exists() && root.join("data/again").exists());
    assert!(CarryRules::preserve(&["[z-a]".to_owned()]).is_err());
}

#[test]
fn a_cancelled_or_broken_carry_leaves_the_live_tree_alone() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    let staging = stage(&root, Shape::Beside);
    let names: Vec<_> = content(&root).into_keys().collect();
    let error =
        carry_over(&root, &staging, &CarryRules::merge(&[], "").unwrap(), &|| true).unwrap_err();
    assert_eq!(error.reason(), crate::spec::reason::Reason::Cancelled);
    for allowed in 0.. {
        let work = || {
            carry_over(&root, &staging, &CarryRules::merge(&[], "").unwrap(), &|| false).map(|_| ())
        };
        if limited(allowed, work) {
            break;
        }
    }
    discard_staging(&root, KEY).unwrap();
    assert_eq!(content(&root).into_keys().collect::<Vec<_>>(), names);
    assert_eq!(std::fs::read_to_string(root.join("data/one")).unwrap(), "1");
    assert_eq!(root.join("data/one").metadata().unwrap().nlink(), 2);
}

#[test]
fn other_operations_leftovers_are_named_and_left_alone() {
    let scene = Scene::make(&[Shape::Inside]);
    write(&scene.roots[0].join(".eider-restore-other/old/precious"), "p");
    write(&scene.parent.join(".eider-old-other-x"), "p");
    scene.replacement.swap().unwrap();
    scene.replacement.drop_old().unwrap();
    let inner = scene.roots[0].join(".eider-restore-other");
    assert_eq!(std::fs::read_to_string(inner.join("old/precious")).unwrap(), "p");
    assert_eq!(leftovers(&scene.roots[0]).unwrap(), vec![inner]);
    assert_eq!(leftovers(&scene.parent).unwrap().len(), 1);
}

/// Mounts a tmpfs, if this process may; unmounts it at the end.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: &Path) -> Option<Self> {
        let command = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "eider-test"])
            .arg(path)
            .output();
        command.is_ok_and(|output| output.status.success()).then(|| Self(path.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_real_mount_point_is_replaced_from_inside_and_one_below_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let Some(_mounted) = Mounted::at(&root) else {
        println!("skipped: this process may not mount");
        return;
    };
    fill_old(&root);
    let refused = Staging::create(directory.path(), KEY, StagedKind::Directory).unwrap_err();
    assert!(refused.to_string().contains("is mounted below it"), "{refused}");
    let old = content(&root);
    let staging = Staging::create(&root, KEY, StagedKind::Directory).unwrap();
    assert_eq!(staging.layout(), Layout::Inside);
    fill_new(staging.path());
    let new = snapshot(staging.path());
    swap(&root, KEY).unwrap();
    assert_eq!(content(&root), new);
    swap_back(&root, KEY).unwrap();
    assert_eq!(content(&root), old);
    swap(&root, KEY).unwrap();
    drop_old(&root, KEY).unwrap();
    assert_eq!(snapshot(&root), new);
}
