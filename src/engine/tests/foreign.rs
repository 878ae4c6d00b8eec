use std::os::unix::fs::MetadataExt;

use super::*;

#[test]
fn gnu_tar_and_bsdtar_restore_what_is_packed() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    build_tree(&root);
    let archive = place.path().join("x.tar.gz");
    pack_to(&options(&root, ArchiveFormat::TarGz), &archive).unwrap();
    let archive = archive.to_str().unwrap();
    let listed = run("tar", &["tzf", archive]).unwrap();
    assert_eq!(listed.lines().count(), names_in(Path::new(archive)).len());

    let to = place.path().join("gnu");
    std::fs::create_dir(&to).unwrap();
    let to_text = to.to_str().unwrap();
    run("tar", &["xpzf", archive, "-C", to_text, "--xattrs", "--xattrs-include=*", "--acls"]);
    // GNU tar 1.34 takes ACLs from its own records only and never sets attributes of symlinks.
    let mut mine = snapshot(&root);
    let mut theirs = snapshot(&to.join("data"));
    mine.remove(Path::new(""));
    theirs.remove(Path::new(""));
    // ACL entries show in the group bits, which GNU tar leaves to the ACL.
    mine.remove(Path::new("a/b"));
    theirs.remove(Path::new("a/b"));
    assert_eq!(mine, theirs);
    assert!(to.join("data/a/hole").metadata().unwrap().blocks() < 200, "holes stay holes");

    let to = place.path().join("bsd");
    std::fs::create_dir(&to).unwrap();
    if run("bsdtar", &["xpf", archive, "-C", to.to_str().unwrap()]).is_some() {
        let mut theirs = snapshot(&to.join("data"));
        theirs.remove(Path::new(""));
        theirs.remove(Path::new("a/b"));
        // libarchive 3.6 adds the fraction of a negative time instead of subtracting it.
        for tree in [&mut mine, &mut theirs] {
            tree.retain(|_, text| !text.contains(" -") || text.contains(" -> "));
        }
        assert_eq!(mine, theirs);
        assert!(to.join("data/a/hole").metadata().unwrap().blocks() < 200, "holes stay holes");
    }
}

#[test]
fn python_reads_what_is_packed() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    build_tree(&root);
    let archive = place.path().join("x.tar.gz");
    let summary = pack_to(&options(&root, ArchiveFormat::TarGz), &archive).unwrap();
    let script = "import sys,tarfile\n\
        t=tarfile.open(sys.argv[1]); m=t.getmembers()\n\
        h=t.getmember('data/a/hole'); d=t.extractfile(h).read()\n\
        print(len(m), h.size, d[0:1], d[10000000:10000001], sum(x.size for x in m))";
    let Some(text) = run("python3", &["-c", script, archive.to_str().unwrap()]) else { return };
    let expected =
        format!("{} 20971520 b'y' b'x' {}\n", summary.counts.entries, summary.source_bytes);
    assert_eq!(text, expected);
}

#[test]
fn archives_of_gnu_tar_in_every_dialect_are_read() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    build_tree(&root);
    for (format, sparse) in [
        ("gnu", "-S --sparse-version=0.0"),
        ("gnu", ""),
        ("posix", "-S --sparse-version=1.0"),
        ("posix", "-S --sparse-version=0.1"),
        ("posix", "-S --sparse-version=0.0"),
        ("posix", "--xattrs --xattrs-include=*"),
    ] {
        let archive = place.path().join("x.tar");
        let script = format!("tar cf x.tar --format={format} {sparse} data");
        shell(place.path(), &script);
        let to = place.path().join("out");
        let _ = std::fs::remove_dir_all(&to);
        let result = unpack_to(&archive, "data", &to);
        assert!(result.is_ok(), "{script}: {result:?}");
        // GNU's own format has no fractions of seconds.
        let clean = |tree: BTreeMap<PathBuf, String>| -> Vec<(PathBuf, String)> {
            tree.into_iter()
                .filter(|(path, _)| path != Path::new("a/b"))
                .map(|(path, text)| {
                    if format == "posix" {
                        return (path, text);
                    }
                    let text: Vec<&str> = text.split(' ').collect();
                    let time = text[2].split('.').next().unwrap();
                    (path, format!("{} {} {time} {}", text[0], text[1], text[3..].join(" ")))
                })
                .collect()
        };
        assert_eq!(clean(snapshot(&root)), clean(snapshot(&to)), "{script}");
        assert_eq!(sparse.contains("-S"), to.join("a/hole").metadata().unwrap().blocks() < 200);
    }
}

#[test]
fn archives_of_the_old_dialects_are_read() {
    let place = tempfile::tempdir().unwrap();
    shell(
        place.path(),
        "mkdir -p data/sub; echo one > data/one; ln data/one data/sub/two; ln -s one data/l; \
         mkdir -p data/$(printf 'p%.0s' $(seq 1 90)); echo 3 > data/$(printf 'p%.0s' $(seq 1 90))/three; \
         touch -d '2020-01-01 UTC' data/one data/*/three data/sub data/p* data; \
         tar cf ustar.tar --format=ustar data; tar cf v7.tar --format=v7 data/one data/sub data/l; \
         tar czf v7.tar.gz --format=oldgnu ./data; cat data/one > /dev/null; \
         tar cf - data | zstd -q -o x.tar.zst",
    );
    for name in ["ustar.tar", "v7.tar", "v7.tar.gz", "x.tar.zst"] {
        let to = place.path().join(format!("out-{name}"));
        unpack_to(&place.path().join(name), "data", &to).unwrap();
        let text = std::fs::read_to_string(to.join("sub/two")).unwrap();
        assert_eq!(text, "one\n", "{name}");
        assert_eq!(std::fs::read_link(to.join("l")).unwrap(), Path::new("one"));
        let one = place.path().join("data/one").metadata().unwrap();
        assert_eq!(to.join("one").metadata().unwrap().modified().unwrap(), one.modified().unwrap());
    }
}

#[test]
fn python_archives_with_global_headers_and_large_numbers_are_read() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("x.tar");
    let script = "import sys,tarfile,io\n\
        for f in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):\n\
        \x20 t=tarfile.open(sys.argv[1],'w',format=f,pax_headers={'comment':'hi','uname':'x'})\n\
        \x20 i=tarfile.TarInfo('d/'+'n'*150+'/f'); i.size=3; i.uid=5000000000; i.mtime=-5 if f==tarfile.PAX_FORMAT else 9000000000\n\
        \x20 t.addfile(i,io.BytesIO(b'abc')); t.close()\n\
        \x20 sys.argv[1]+='2'";
    if run("python3", &["-c", script, path.to_str().unwrap()]).is_none() {
        return;
    }
    for (name, seconds) in [("x.tar", -5), ("x.tar2", 9_000_000_000)] {
        let mut seen = Vec::new();
        list_entries(&place.path().join(name), ArchiveFormat::Tar, &mut |entry| {
            seen.push((entry.uid, entry.modified.seconds, entry.name.len(), entry.size));
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [(5_000_000_000, seconds, 154, 3)]);
    }
}

/// Their texts of access control lists were passed over without a word: what only a list allowed or forbade was lost.
#[test]
fn access_lists_and_attributes_of_gnu_tar_and_bsdtar_are_restored() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    std::fs::create_dir_all(root.join("d")).unwrap();
    shell(
        &root,
        "echo 1 > f; chmod 640 f; setfacl -m u:1234:r-x,g:77:rwx f; setfattr -n user.a=b -v x f
         setfacl -m u:4321:rwx,d:u:4321:r-x,d:g:77:rwx d; touch -d '2020-01-01 UTC' d .",
    );
    let unpacked = |archive: &str| {
        let to = place.path().join(format!("out-{archive}"));
        let summary = unpack_to(&place.path().join(archive), "data", &to).unwrap();
        (to, summary)
    };
    let gnu = "tar cf gnu.tar --format=posix --acls --xattrs data";
    let libarchive = "bsdtar cf bsd.tar --format=pax --acls --xattrs data";
    shell(place.path(), &format!("{gnu}; {libarchive}"));
    for archive in ["gnu.tar", "bsd.tar"] {
        let (to, summary) = unpacked(archive);
        assert_eq!(summary.warnings, [], "{archive}");
        assert_same_by_rsync(&root, &to);
    }
    // Of a user who has a name GNU tar gives no number: that is told, for each file.
    shell(&root, "setfacl -m u:daemon:rwx f; touch -d '2020-01-01 UTC' f");
    shell(place.path(), &format!("rm -r *.tar; {gnu}; {libarchive}"));
    let (to, summary) = unpacked("bsd.tar");
    assert_eq!(summary.warnings, []);
    assert_same_by_rsync(&root, &to);
    let (to, summary) = unpacked("gnu.tar");
    let [warning] = &summary.warnings[..] else { panic!("{:?}", summary.warnings) };
    assert_eq!((warning.path.as_str(), warning.kind), ("data/f", WarningKind::Attributes));
    assert!(warning.message.contains("SCHILY.acl.access is not applied"), "{}", warning.message);
    // All else of the file is there.
    let clean = "setfacl -b f; chmod 640 f; touch -d '2020-01-01 UTC' f d .";
    shell(&to, clean);
    shell(&root, clean);
    assert_same_by_rsync(&root, &to);
}
