use super::*;

/// Bytes of a file that are in the page cache; nothing where that cannot be asked.
fn cached(path: &Path) -> Option<u64> {
    let text = run("fincore", &["-b", "-n", "-o", "RES", path.to_str().unwrap()])?;
    text.trim().parse().ok()
}

#[test]
fn reading_leaves_the_page_cache_as_it_was() {
    let place = tempfile::tempdir().unwrap();
    let root = place.path().join("data");
    std::fs::create_dir(&root).unwrap();
    let length = 8_u64 << 20;
    let write = |name: &str| {
        std::fs::write(root.join(name), vec![7; 8 << 20]).unwrap();
        let file = std::fs::File::open(root.join(name)).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        root.join(name)
    };
    let (cold, warm) = (write("cold"), write("warm"));
    let _ = std::fs::read(&warm).unwrap();
    if cached(&cold) != Some(0) || cached(&warm) != Some(length) {
        println!("SKIPPED: this file system keeps everything in memory");
        return;
    }
    pack_to(&options(&root, ArchiveFormat::TarZst), &place.path().join("x.tar.zst")).unwrap();
    assert_eq!(cached(&warm), Some(length), "what others had read is still there");
    // Since Linux 6.14, on file systems that have it.
    let file = std::fs::File::open(&cold).unwrap();
    let mut piece = [0; 1];
    let flag = rustix::io::ReadWriteFlags::from_bits_retain(0x80);
    let slices = &mut [std::io::IoSliceMut::new(&mut piece)];
    if rustix::io::preadv2(&file, slices, 0, flag).is_err() {
        println!("SKIPPED: no RWF_DONTCACHE here");
        return;
    }
    let left = cached(&cold).unwrap();
    assert!(left <= length / 8, "{left} bytes of a file that was read once");
}
