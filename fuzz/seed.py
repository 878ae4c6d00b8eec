#!/usr/bin/env python3
"""Lays out the corpus to begin with: the golden archives, the indexes in them, and their manifests.

    seed.py ARCHIVES CORPUS
"""

import gzip
import struct
import subprocess
import sys
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


def main():
    archives, corpus = Path(sys.argv[1]), Path(sys.argv[2])
    for target in ["reader", "index", "manifest"]:
        (corpus / target).mkdir(parents=True, exist_ok=True)
    for path in sorted(path for path in archives.rglob("*") if path.is_file()):
        data, name = path.read_bytes(), "golden-" + path.name
        if name.endswith(".manifest.json"):
            (corpus / "manifest" / name).write_bytes(data)
            continue
        if not any(word in name for word in [".tar", ".tgz"]):
            continue
        (corpus / "reader" / name).write_bytes(data)
        if name.endswith("gz"):
            # Bare, so that headers can be changed without a checksum.
            (corpus / "reader" / (name + ".bare")).write_bytes(gzip.decompress(data))
        index = index_of(data)
        if index:
            (corpus / "index" / name).write_bytes(unpacked(index))


if __name__ == "__main__":
    main()
