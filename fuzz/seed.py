#!/usr/bin/env python3
"""Lays out the corpus to begin with: the golden archives, the indexes in them, and their manifests.

    seed.py ARCHIVES CORPUS
"""

import gzip
import io
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

FOOTER = 76


def index_of(data):
    """The index of an archive, by docs/design/archive-format.md; nothing of one without."""
    at = data.rfind(b"EIDERIDX")
    if at < 0:
        return None
    offset, length, payload = struct.unpack_from("<QQQ", data, at + 16)
    tail, found, here = data[offset:offset + length], b"", 0
    if tail[:2] == b"\x1f\x8b":
        while here < len(tail):
            count = struct.unpack_from("<H", tail, here + 14)[0]
            found += tail[here + 16:here + 16 + count]
            here += 16 + count + 10
    elif tail[:4] == b"\x50\x2a\x4d\x18":
        while here < len(tail):
            count = struct.unpack_from("<I", tail, here + 4)[0]
            found += tail[here + 8:here + 8 + count]
            here += 8 + count
    else:
        found = tail
    return found[:payload]


def unpacked(index):
    """The same index with blocks that are not compressed, as the target wants them."""
    found, here = b"", 0
    while here < len(index):
        head, length = index[here:here + 5], struct.unpack_from("<I", index, here + 9)[0]
        contents = index[here + 13:here + 13 + length]
        here += 13 + length
        if head[:1] != b"H":
            contents = subprocess.run(["zstd", "-dcq"], input=contents, stdout=subprocess.PIPE, check=True).stdout
        found += head + struct.pack("<II", len(contents), len(contents)) + contents
    return found


RECORDS = {
    "acl": {
        "SCHILY.acl.access": "user::rw-,user:joe:r-x:1234,group::r--,mask::r-x,other::---",
        "SCHILY.acl.default": "user::rwx\nuser:1234:r-x\t#effective:r--\ngroup::r--\nmask::r-x\nother::---\n",
        "SCHILY.acl.ace": "owner@:rw-p--aARWcCos:-------:allow",
    },
    "base64": {"LIBARCHIVE.xattr.user.a%3Db": "b3RoZXI", "LIBARCHIVE.xattr.user.c": "?"},
    "raw": {"SCHILY.xattr.user.a=b": "raw", "SCHILY.xattr.security.capability": "\x01", "RHT.security.selinux": "u:r:t"},
}


def attributed(records):
    """An archive as other programs write attributes and access control lists into it."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, kind in [("d", tarfile.DIRTYPE), ("d/f", tarfile.REGTYPE)]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.pax_headers = kind, records
            entry.size = 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(entry, io.BytesIO(b"abc"))
    return output.getvalue()


def damaged(data):
    """The same archive without its end, and with damage in it, for what is saved of such."""
    middle = len(data) // 3
    yield "cut", data[:-80]
    yield "hit", data[:middle] + bytes(byte ^ 0x55 for byte in data[middle:middle + 20]) + data[middle + 20:-80]


def main():
    archives, corpus = Path(sys.argv[1]), Path(sys.argv[2])
    for target in ["reader", "index", "manifest"]:
        (corpus / target).mkdir(parents=True, exist_ok=True)
    every = {kind: value for records in RECORDS.values() for kind, value in records.items()}
    for name, records in [*RECORDS.items(), ("every", every)]:
        data = attributed(records)
        (corpus / "reader" / f"records-{name}.tar").write_bytes(data)
        (corpus / "reader" / f"records-{name}.tar.gz").write_bytes(gzip.compress(data, mtime=0))
    for path in sorted(path for path in archives.rglob("*") if path.is_file()):
        data, name = path.read_bytes(), "golden-" + path.name
        if name.endswith(".manifest.json"):
            (corpus / "manifest" / name).write_bytes(data)
            continue
        if not any(word in name for word in [".tar", ".tgz"]):
            continue
        (corpus / "reader" / name).write_bytes(data)
        for how, text in damaged(data):
            (corpus / "reader" / f"{name}.{how}").write_bytes(text)
        if name.endswith("gz"):
            # Bare, so that headers can be changed without a checksum.
            (corpus / "reader" / (name + ".bare")).write_bytes(gzip.decompress(data))
        index = index_of(data)
        if index:
            (corpus / "index" / name).write_bytes(unpacked(index))


if __name__ == "__main__":
    main()
