//! Builds the hostile archives, block by block: nothing here is the program's own writer.

pub const BLOCK: usize = 512;

/// One archive, and whether an honest reader may take it.
pub struct Shape {
    pub what: &'static str,
    pub bytes: Vec<u8>,
    /// It must be refused; otherwise unpacking it has to be harmless.
    pub refused: bool,
}

/// A header with everything that the shapes need.
pub struct Header<'a> {
    pub name: &'a [u8],
    pub kind: u8,
    pub size: u64,
    pub link: &'a [u8],
}

impl Header<'_> {
    pub fn block(&self) -> [u8; BLOCK] {
        let mut block = [0_u8; BLOCK];
        let length = self.name.len().min(100);
        block[..length].copy_from_slice(&self.name[..length]);
        block[100..108].copy_from_slice(b"0000644\0");
        block[108..116].copy_from_slice(b"0000000\0");
        block[116..124].copy_from_slice(b"0000000\0");
        block[124..136].copy_from_slice(format!("{:011o}\0", self.size).as_bytes());
        block[136..148].copy_from_slice(b"00000000000\0");
        block[156] = self.kind;
        let length = self.link.len().min(100);
        block[157..157 + length].copy_from_slice(&self.link[..length]);
        block[257..265].copy_from_slice(b"ustar\x0000");
        seal(&mut block);
        block
    }
}

/// Puts the right checksum in.
pub fn seal(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block[..BLOCK].iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An archive in the making.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn padded(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    pub fn header(self, kind: u8, name: &[u8], link: &[u8], size: u64) -> Self {
        self.raw(&Header { name, kind, size, link }.block())
    }

    /// A header that `change` alters before it gets its checksum.
    pub fn altered(self, kind: u8, name: &str, change: impl FnOnce(&mut [u8; BLOCK])) -> Self {
        let mut block = Header { name: name.as_bytes(), kind, size: 0, link: b"" }.block();
        change(&mut block);
        seal(&mut block);
        self.raw(&block)
    }

    pub fn file(self, name: &str) -> Self {
        self.header(b'0', name.as_bytes(), b"", 4).padded(b"evil")
    }

    pub fn directory(self, name: &str) -> Self {
        self.header(b'5', name.as_bytes(), b"", 0)
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.header(b'2', name.as_bytes(), target.as_bytes(), 0)
    }

    pub fn link(self, name: &str, target: &str) -> Self {
        self.header(b'1', name.as_bytes(), target.as_bytes(), 0)
    }

    /// An extended header with these records.
    pub fn pax(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length.to_string().len() + rest != length {
                length = length.to_string().len() + rest;
            }
            text.extend_from_slice(format!("{length} {key}=").as_bytes());
            text.extend_from_slice(value);
            text.push(b'\n');
        }
        self.header(kind, b"PaxHeaders/x", b"", text.len() as u64).padded(&text)
    }

    /// GNU's long name or link.
    pub fn long(self, kind: u8, text: &[u8]) -> Self {
        let text = [text, b"\0"].concat();
        self.header(kind, b"././@LongLink", b"", text.len() as u64).padded(&text)
    }

    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 2 * BLOCK]).0
    }
}

fn base256(field: &mut [u8], value: &[u8]) {
    field.fill(0);
    let start = field.len() - value.len();
    field[start..].copy_from_slice(value);
    field[0] |= 0x80;
}

/// Everything that lies in names and links.
pub fn names_and_links() -> Vec<Shape> {
    let t = Tar::new;
    let bad = |what, tar: Tar| Shape { what, bytes: tar.end(), refused: true };
    let fine = |what, tar: Tar| Shape { what, bytes: tar.end(), refused: false };
    let long = |length: usize| "n".repeat(length);
    let deep = "d/".repeat(9_000);
    let mut shapes = vec![
        bad("absolute", t().file("/tmp/eider-hostile-absolute")),
        bad("two slashes", t().file("//eider-hostile")),
        bad("dot-dot", t().file("../outside/file")),
        bad("dot-dot inside", t().file("a/../../outside/file")),
        bad("only dot-dot", t().directory("..")),
        bad("ends in dot-dot", t().directory("a/..")),
        bad("dot and dot-dot", t().file("./../outside/file")),
        bad("empty name", t().file("")),
        bad("the destination as a file", t().file(".")),
        bad("the destination as a symlink", t().symlink("./", "../outside")),
        bad("the destination as a hard link", t().file("f").link(".", "f")),
        bad("NUL in a name", t().pax(b'x', &[("path", b"a\0b")]).file("x")),
        bad("a component too long", t().long(b'L', long(256).as_bytes()).file("x")),
        bad("a name too long", t().long(b'L', "d/".repeat(40_000).as_bytes()).file("x")),
        fine("nine thousand directories", t().long(b'L', deep.as_bytes()).directory("x")),
        bad("absolute by record", t().pax(b'x', &[("path", b"/tmp/eider-hostile")]).file("x")),
        bad("dot-dot by record", t().pax(b'x', &[("path", b"../outside/file")]).file("x")),
        bad("dot-dot by long name", t().long(b'L', b"../outside/file").file("x")),
        bad(
            "dot-dot by prefix",
            t().altered(b'0', "file", |block| block[345..355].copy_from_slice(b"../outside")),
        ),
        bad(
            "absolute by prefix",
            t().altered(b'0', "x", |block| block[345..349].copy_from_slice(b"/tmp")),
        ),
        bad(
            "dot-dot by sparse name",
            t().pax(
                b'x',
                &[
                    ("GNU.sparse.major", b"1"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.name", b"../outside/file"),
                    ("GNU.sparse.realsize", b"0"),
                ],
            )
            .header(b'0', b"x", b"", 512)
            .padded(b"0\n"),
        ),
        fine("backslashes", t().file("..\\..\\outside\\file")),
        fine("line breaks and escapes", t().file("a\nb\x1b[2J")),
        bad("through a symlink", t().symlink("l", "../outside").file("l/file")),
        bad("through two", t().symlink("l", "..").symlink("l/m", "outside").file("l/m/file")),
        bad("through an absolute one", t().symlink("l", "/tmp").file("l/eider-hostile")),
        bad("through one, with a dot", t().symlink("l", "../outside").file("l/./file")),
        bad("through one, two slashes", t().symlink("l", "../outside").file("l//file")),
        bad("through one that comes later", t().file("d/x").symlink("d", "../outside").file("d/y")),
        bad("symlink, then directory", t().symlink("l", "../outside").directory("l")),
        bad("symlink, then directory with slash", t().symlink("l", "../outside").directory("l/")),
        bad("symlink, then file", t().symlink("l", "../outside/file").file("l")),
        bad("symlink, then FIFO", t().symlink("l", "../outside/new").header(b'6', b"l", b"", 0)),
        bad("file, then symlink", t().file("f").symlink("f", "../outside/file")),
        bad("directory, then symlink", t().directory("d").symlink("d", "../outside").file("d/f")),
        bad("a symlink to itself", t().symlink("l", "l").file("l/f")),
        bad("symlinks in a ring", t().symlink("a", "b").symlink("b", "a").file("a/f")),
        bad("an empty target", t().symlink("l", "")),
        bad("NUL in a target", t().pax(b'x', &[("linkpath", b"a\0b")]).symlink("l", "x")),
        bad("a target too long", t().long(b'K', long(5000).as_bytes()).symlink("l", "x")),
        fine("a dangling symlink that escapes", t().symlink("l", "../../../nowhere")),
        bad("hard link out", t().link("h", "../outside/file")),
        bad(
            "hard link out, by record",
            t().pax(b'x', &[("linkpath", b"../outside/file")]).link("h", "x"),
        ),
        bad("hard link out, by long link", t().long(b'K', b"../outside/file").link("h", "x")),
        bad("absolute hard link", t().link("h", "/etc/passwd")),
        bad("hard link through a symlink", t().symlink("l", "../outside").link("h", "l/file")),
        bad("hard link to a later file", t().link("h", "later").file("later")),
        bad("hard link to a directory", t().directory("d").link("h", "d")),
        bad("hard link to itself", t().link("h", "h")),
        bad("hard link to nothing", t().link("h", "planted")),
        bad("hard links in a ring", t().link("a", "b").link("b", "a")),
        fine("hard link to a symlink", t().symlink("l", "../outside/file").link("h", "l")),
        bad(
            "written through that link",
            t().symlink("l", "../outside/file").link("h", "l").file("h"),
        ),
        bad(
            "up by symlinks in steps",
            t().directory("a/b/c")
                .symlink("a/b/c/up", "../..")
                .symlink("a/b/escape", "c/up/../..")
                .link("exfil", "a/b/escape/outside/file"),
        ),
        bad("file and directory", t().file("x").directory("x")),
        bad("directory and file", t().directory("x").file("x")),
        bad("a file with something in it", t().file("x").file("x/y")),
        bad("a FIFO with something in it", t().header(b'6', b"p", b"", 0).file("p/y")),
        bad("FIFO, then file", t().header(b'6', b"p", b"", 0).file("p")),
        bad("a character device", t().header(b'3', b"dev", b"", 0)),
        bad("a block device", t().header(b'4', b"dev", b"", 0)),
        fine("a file twice", t().file("f").file("f")),
        fine("a directory twice", t().directory("d").file("d/f").directory("d")),
        bad("an unknown type", t().header(b'Q', b"x", b"", 0)),
        bad("a part of a volume", t().header(b'M', b"x", b"", 0)),
    ];
    // As in CVE-2025-4517: names so long that string functions give up, links that lead back up.
    let mut chain = t();
    let mut path = String::new();
    for letter in "abcdefghijklmnop".chars() {
        let long = "d".repeat(247);
        chain = chain.long(b'L', format!("{path}{long}").as_bytes()).directory("x");
        chain = chain
            .long(b'L', format!("{path}{letter}").as_bytes())
            .long(b'K', long.as_bytes())
            .symlink("x", "x");
        path = format!("{path}{letter}/");
    }
    chain = chain
        .long(b'L', format!("{path}{}", "l".repeat(254)).as_bytes())
        .symlink("x", "../../../..");
    shapes.push(bad("a long chain of symlinks", chain.file("escape/x")));
    shapes
}

/// Everything that lies in sizes, numbers, records and the end.
pub fn structure() -> Vec<Shape> {
    let t = Tar::new;
    let raw = |what, bytes: Vec<u8>| Shape { what, bytes, refused: true };
    let bad = |what, tar: Tar| Shape { what, bytes: tar.end(), refused: true };
    let fine = |what, tar: Tar| Shape { what, bytes: tar.end(), refused: false };
    let inner = t().file("../outside/smuggled").0;
    let sparse = |realsize: &[u8], map: &[u8]| {
        let records: [(&str, &[u8]); 4] = [
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse"),
            ("GNU.sparse.realsize", realsize),
        ];
        let length = map.len().next_multiple_of(BLOCK) as u64;
        t().pax(b'x', &records).header(b'0', b"x", b"", length + 512).padded(map).padded(&[7; 512])
    };
    let old_sparse = |more: u8, real: &[u8; 12]| {
        let real = *real;
        t().altered(b'S', "old", move |block| {
            block[257..265].copy_from_slice(b"ustar  \0");
            block[386..398].copy_from_slice(b"00000000000\0");
            block[398..410].copy_from_slice(b"00000001000\0");
            block[482] = more;
            block[483..495].copy_from_slice(&real);
            block[124..136].copy_from_slice(b"00000001000\0");
        })
    };
    let record =
        |text: &[u8]| t().header(b'x', b"p", b"", text.len() as u64).padded(text).file("x");
    let mut endless = t().altered(b'S', "endless", |block| {
        block[482] = 1;
        block[483..495].copy_from_slice(b"00000001000\0");
    });
    for _ in 0..70_000 {
        let mut block = [0_u8; BLOCK];
        block[504] = 1;
        block[..12].copy_from_slice(b"00000000000\0");
        block[12..24].copy_from_slice(b"00000000000\0");
        endless = endless.raw(&block);
    }
    let mut globals = t();
    for number in 0..60 {
        let key = format!("comment{number}");
        globals = globals.pax(b'g', &[(key.as_str(), vec![b'x'; 30_000].as_slice())]);
    }
    let whole = t().file("a").file("b").end();
    vec![
        fine("size by record, entry in the data", {
            t().pax(b'x', &[("size", b"1024")]).header(b'0', b"outer", b"", 0).raw(&inner)
        }),
        bad("no size by record, entry behind it", {
            t().pax(b'x', &[("size", b"0")]).header(b'0', b"outer", b"", 1024).raw(&inner)
        }),
        bad("a negative size", t().altered(b'0', "x", |block| block[124..136].fill(0xff))),
        bad(
            "a huge size",
            t().altered(b'0', "x", |block| {
                base256(&mut block[124..136], &[0x7f, 255, 255, 255, 255, 255, 255, 255]);
            }),
        ),
        bad(
            "a size beyond 64 bits",
            t().altered(b'0', "x", |block| base256(&mut block[124..136], &[255; 11])),
        ),
        bad(
            "the largest size by record",
            t().pax(b'x', &[("size", b"18446744073709551615")]).file("x"),
        ),
        bad("a size of words", t().pax(b'x', &[("size", b"four")]).file("x")),
        bad("a negative size by record", t().pax(b'x', &[("size", b"-1")]).file("x")),
        bad("8 GiB that are not there", t().header(b'0', b"x", b"", 8_589_934_591)),
        bad("a directory with a size", t().header(b'5', b"d", b"", 1024).raw(&inner)),
        bad("a symlink with a size", t().header(b'2', b"l", b"x", 1024).raw(&inner)),
        bad("a FIFO with a size", t().header(b'6', b"p", b"", 1024).raw(&inner)),
        bad(
            "a size that is not octal",
            t().altered(b'0', "x", |block| block[124..136].copy_from_slice(b"0000000009x\0")),
        ),
        bad("an extended header of a gigabyte", t().header(b'x', b"p", b"", 1 << 30).file("x")),
        bad("a long name of a gigabyte", t().header(b'L', b"p", b"", 1 << 30).file("x")),
        bad("a record that is longer than its header", record(b"99 path=x\n")),
        bad("a record without end", record(b"10 path=xy")),
        bad("a record without sign", record(b"9 pathxy\n")),
        bad("a record of length 0", record(b"0 path=x\n")),
        bad("a record of endless digits", record(&[b'1'; 600])),
        bad(
            "two extended headers",
            t().pax(b'x', &[("path", b"a")]).pax(b'x', &[("path", b"b")]).file("c"),
        ),
        bad("an extended header for nothing", t().file("a").pax(b'x', &[("path", b"b")])),
        bad("a long name for nothing", t().file("a").long(b'L', b"b")),
        bad("a name for all", t().pax(b'g', &[("path", b"x")]).file("a")),
        bad("a size for all", t().pax(b'g', &[("size", b"0")]).file("a")),
        bad("a link for all", t().pax(b'g', &[("linkpath", b"../outside/file")]).link("a", "b")),
        bad("holes for all", t().pax(b'g', &[("GNU.sparse.size", b"9")]).file("a")),
        bad("endless records for all", globals.file("a")),
        bad(
            "a wrong checksum",
            t().raw(&{
                let mut block = Header { name: b"x", kind: b'0', size: 0, link: b"" }.block();
                block[0] = b'y';
                block
            }),
        ),
        bad(
            "a mode of words",
            t().altered(b'0', "x", |block| block[100..108].copy_from_slice(b"rwxrwxr\0")),
        ),
        bad("a time of words", t().pax(b'x', &[("mtime", b"yesterday")]).file("x")),
        bad("an owner below nobody", t().pax(b'x', &[("uid", b"-2")]).file("x")),
        fine(
            "an owner beyond everybody",
            t().pax(b'x', &[("uid", b"18446744073709551615")]).file("x"),
        ),
        fine("the end of time", t().pax(b'x', &[("mtime", b"9223372036854775807")]).file("x")),
        bad("holes that overlap", sparse(b"2000", b"2\n0\n300\n200\n212\n")),
        bad("holes beyond the file", sparse(b"100", b"1\n0\n512\n")),
        bad("holes that do not add up", sparse(b"2000", b"1\n0\n100\n")),
        bad("2^60 holes", sparse(b"2000", b"1152921504606846976\n0\n512\n")),
        bad("a map of words", sparse(b"2000", b"one\n")),
        bad("a map without end", sparse(b"2000", &[b'1'; 2048])),
        bad("8 EiB of hole", sparse(b"9223372036854775807", b"1\n0\n512\n")),
        bad("16 EiB of hole", sparse(b"18446744073709551615", b"1\n0\n512\n")),
        bad(
            "an unknown map",
            t().pax(
                b'x',
                &[
                    ("GNU.sparse.major", b"7"),
                    ("GNU.sparse.minor", b"0"),
                    ("GNU.sparse.realsize", b"0"),
                ],
            )
            .file("x"),
        ),
        bad(
            "half a pair",
            t().pax(b'x', &[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0")]).file("x"),
        ),
        bad("an old map that is not octal", old_sparse(0, b"xxxxxxxxxxxx").padded(&[1; 512])),
        bad("an old map without end", endless),
        raw("nothing", Vec::new()),
        raw("a cut header", whole[..300].to_vec()),
        raw("cut data", whole[..514].to_vec()),
        raw("no end", whole[..2048].to_vec()),
        raw("half an end", whole[..2560].to_vec()),
        raw("something behind the end", [&whole[..], b"more"].concat()),
        raw("an archive behind the end", [&whole[..], &whole[..]].concat()),
        raw("an archive behind half an end", [&whole[..2560], &whole[..]].concat()),
        raw("endless zeros", [&whole[..], &vec![0; 20 << 20]].concat()),
        raw(
            "noise",
            (0..40_000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect(),
        ),
    ]
}
