#!/usr/bin/env python3
"""Walks a tree without following anything and prints one line for every entry: name, mode, owner, time in
nanoseconds, extended attributes, then size and contents, target or device, and which names are one inode.
Two trees are the same if the lines are. Knows nothing of Eider; the kernel is the judge. Directories are
held open, so that paths may be longer than a system call takes. Sockets are passed over."""

import hashlib
import os
import stat
import sys


def contents(name, directory):
    digest = hashlib.sha256()
    with open(os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory), "rb", buffering=0) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()[:32]


def attributes(name, directory):
    path = b"/proc/self/fd/%d/%s" % (directory, name)
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
    except OSError:
        return []
    return [(one, os.getxattr(path, one, follow_symlinks=False).hex()) for one in names]


def walk(directory, prefix, lines, inodes):
    names = [os.fsencode(name) for name in os.listdir(directory)]
    for name in names if prefix else [b"."] + names:
        found = os.lstat(name, dir_fd=directory)
        kind = stat.S_IFMT(found.st_mode)
        if kind == stat.S_IFSOCK:
            continue
        line = [oct(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns]
        line.append(attributes(name, directory))
        if kind == stat.S_IFREG:
            line += [found.st_size, contents(name, directory)]
        elif kind == stat.S_IFLNK:
            line.append(os.readlink(name, dir_fd=directory))
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            line.append((os.major(found.st_rdev), os.minor(found.st_rdev)))
        lines.append((prefix + name, repr(line)))
        if kind == stat.S_IFDIR and name != b".":
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            walk(inner, prefix + name + b"/", lines, inodes)
            os.close(inner)
        elif kind != stat.S_IFDIR and found.st_nlink > 1:
            inodes.setdefault((found.st_dev, found.st_ino), []).append(prefix + name)


def main():
    lines, inodes = [], {}
    walk(os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY), b"", lines, inodes)
    for names in inodes.values():
        if len(names) > 1:
            lines.append((min(names), "one inode: " + repr(sorted(names))))
    for name, line in sorted(lines):
        print(repr(name), line)


main()
