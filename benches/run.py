#!/usr/bin/env python3
"""Compares the archive engine with its peers, side by side in one go; `make bench` runs it.

Makes its own data sets, runs every row's commands in turn (so that a slow moment of the machine hits
all of them), takes the best of the rounds, and prints and writes a table of times, ratios, sizes and
peak memory. Peers that are missing are named and left out.

    run.py BENCH_BINARY [--work DIR] [--rounds N] [--output FILE] [--scale PERCENT] [--only WORD]
"""

import argparse
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PASSWORD = {"RESTIC_PASSWORD": "bench", "BORG_PASSPHRASE": "bench", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}


# ---- data sets -----------------------------------------------------------------------------------
def source_tree(to, limit):
    """Real source code: what cargo has unpacked on this machine, or Python's library."""
    roots = sorted(Path.home().glob(".cargo/registry/src/*/*")) or [Path(os.__file__).parent]
    total = 0
    for root in roots:
        if total > limit:
            break
        for directory, names, files in os.walk(root):
            names.sort()
            place = to / root.name / Path(directory).relative_to(root)
            place.mkdir(parents=True, exist_ok=True)
            for file in files:
                source = Path(directory) / file
                # Objects of test suites that are no source.
                if source.is_symlink() or source.stat().st_size > 4 << 20:
                    continue
                shutil.copy2(source, place / file)
                total += source.stat().st_size
    return to


def small_files(to, count):
    generator = random.Random(1)
    words = [bytes(generator.choices(b"abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 9))) for _ in range(3000)]
    for number in range(count):
        directory = to / f"{number // 500:03}"
        directory.mkdir(parents=True, exist_ok=True)
        text = b" ".join(generator.choices(words, k=generator.randint(30, 700)))
        (directory / f"{number}.txt").write_bytes(text)
    return to


def large_binaries(to, limit):
    to.mkdir(parents=True, exist_ok=True)
    found = []
    for place in ["/usr/lib", "/usr/bin", str(Path.home() / ".rustup/toolchains")]:
        for directory, _, files in os.walk(place):
            for file in files:
                path = Path(directory) / file
                if not path.is_symlink() and path.is_file() and path.stat().st_size > 4 << 20:
                    with open(path, "rb") as start:
                        if start.read(4) == b"\x7fELF":
                            found.append(path)
    total = 0
    for number, path in enumerate(sorted(found, key=lambda path: (-path.stat().st_size, path))):
        if total + path.stat().st_size <= limit:
            shutil.copy2(path, to / f"{number}-{path.name}")
            total += path.stat().st_size
    return to


def incompressible(to, size):
    to.mkdir(parents=True, exist_ok=True)
    with open(to / "random", "wb") as file:
        for _ in range(size >> 20):
            file.write(os.urandom(1 << 20))
    return to


def sparse(to, size):
    to.mkdir(parents=True, exist_ok=True)
    with open(to / "sparse", "wb") as file:
        for number in range(200):
            file.seek(size // 200 * number)
            file.write(os.urandom(1 << 16))
        file.truncate(size)
    return to


# ---- measuring -----------------------------------------------------------------------------------
class Result:
    def __init__(self):
        self.seconds = float("inf")
        self.work = float("inf")
        self.memory = 0
        self.size = None


def measure(command, environment):
    """Runs a command; seconds, seconds of all processors, and the peak memory of its largest process in MiB."""
    words = ["bash", "-o", "pipefail", "-ec", command]
    # What starts a program counts as its memory too, and Python is not small.
    small = shutil.which("time")
    report = tempfile.NamedTemporaryFile() if small else None
    if small:
        words = [small, "-q", "-f", "%M", "-o", report.name, *words]
    start = time.monotonic()
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"bench: failed ({process.returncode}): {command}\n{errors.decode(errors='replace')}")
    memory = (int(report.read().split()[-1]) if small else usage.ru_maxrss) / 1024
    return seconds, usage.ru_utime + usage.ru_stime, memory


def size_of(path):
    path = Path(path)
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


class Bench:
    def __init__(self, arguments):
        self.binary = str(Path(arguments.binary).resolve())
        self.rounds = arguments.rounds
        self.only = arguments.only
        self.work = Path(arguments.work).resolve()
        self.environment = {**os.environ, **PASSWORD, "LC_ALL": "C",
                            "BORG_BASE_DIR": str(self.work / "borg-home"),
                            "RESTIC_CACHE_DIR": str(self.work / "restic-cache")}
        self.rows = []
        self.missing = [tool for tool in ["pigz", "zstd", "restic", "borg", "bsdtar"] if not shutil.which(tool)]

    def wants(self, title):
        return not self.only or self.only in title

    def has(self, command):
        return not any(f"{tool} " in command for tool in self.missing)

    def row(self, title, contenders, by_memory=False):
        """`contenders`: name, command, what to remove before, what to measure the size of, and what to run
        before without measuring it. The first is ours. PLACE in a command is a new directory's name each time:
        ext4 goes out of its way to leave inodes alone that were freed in the last minutes, so that whoever
        unpacks where a tree was just removed is measured with that search (ext4_create, recently_deleted). For
        the same reason `restore` comes before all rows that remove anything. `by_memory` compares the memory of
        the second half of the contenders with that of the first, one by one, instead of the time with ours."""
        if not self.wants(title):
            return
        contenders = [contender for contender in contenders if self.has(contender[1])]
        results = {name: Result() for name, *_ in contenders}
        places = []
        for _ in range(self.rounds):
            for name, command, remove, product, *before in contenders:
                for path in remove:
                    subprocess.run(["rm", "-rf", str(path)], check=True)
                for prepare in before:
                    prepare()
                if "PLACE" in command:
                    places.append(self.work / f"place-{len(places)}")
                    command = command.replace("PLACE", str(places[-1]))
                seconds, work, memory = measure(command, self.environment)
                result = results[name]
                result.work = min(result.work, work)
                result.seconds = min(result.seconds, seconds)
                result.memory = max(result.memory, memory)
                result.size = size_of(product) if product else None
        for path in places:
            subprocess.run(["rm", "-rf", str(path)], check=True)
        for _, _, remove, product, *_ in contenders:
            for path in remove:
                if path != product:
                    subprocess.run(["rm", "-rf", str(path)], check=True)
        for number, (name, *_) in enumerate(contenders):
            result = results[name]
            # A peer is compared with the last of ours above it: unpacking zstd with unpacking zstd.
            if name.startswith("Eider"):
                ours = result
            ratio = "" if result is ours else f"{result.seconds / ours.seconds:.2f}×"
            if by_memory:
                before = number - len(contenders) // 2
                ratio = "" if before < 0 else f"memory {result.memory / results[contenders[before][0]].memory:.2f}×"
            size = "" if result.size is None else f"{result.size / 1e6:.1f} MB"
            if result is not ours and result.size and ours.size:
                size += f" (ours {100 * (ours.size / result.size - 1):+.2f} %)"
            line = [title if number == 0 else "", name, f"{result.seconds:.2f} s", ratio, f"{result.work:.2f} s", size,
                    f"{result.memory:.0f} MiB"]
            self.rows.append(line)
            print("  ".join(f"{cell:<28}" for cell in line).rstrip(), flush=True)

    def run(self, scale):
        data, store = self.work / "data", self.work / "store"
        shutil.rmtree(self.work, ignore_errors=True)
        store.mkdir(parents=True)
        part = lambda number: max(number * scale // 100, 1)
        eider, out = self.binary, self.work / "peer"

        def pack(root, name, level=""):
            return (f"Eider", f"{eider} pack {root} {store} {name} {level}",
                    [store / name, store / f"{name}.manifest.json"], store / name)

        def peer(name, command):
            return (name, f"cd {data} && {command} > {out} && sync {out}", [out], out)

        tree = source_tree(data / "source", part(505_000_000))
        files = sum(len(files) for *_, files in os.walk(tree))
        self.title = f"source tree: {files} files, {size_of(tree) / 1e6:.0f} MB"
        print(self.title, flush=True)
        restic, borg = self.work / "restic", self.work / "borg"
        self.restore(tree, store, restic)
        self.row("gzip level 6", [pack(tree, "six.tar.gz", "6"), peer("tar c \\| gzip -6", "tar c source | gzip -6"),
                                  peer("tar c \\| pigz -6", "tar c source | pigz -6 ")])
        self.row("gzip level 1", [pack(tree, "one.tar.gz", "1"), peer("tar c \\| pigz -1", "tar c source | pigz -1 ")])
        self.row("zstd level 3", [pack(tree, "three.tar.zst", "3"),
                                  peer("tar c \\| zstd -3 -T2", "tar c source | zstd -3 -T2 -q ")])
        self.row("zstd level 3, first run", [
            pack(tree, "first.tar.zst", "3"),
            ("restic backup, new repository", f"restic -q -r {restic} init && restic -q -r {restic} backup {tree}",
             [restic, self.work / "restic-cache"], restic),
            ("borg create, zstd,3", f"borg init -e none {borg} && borg create -C zstd,3 {borg}::a {tree}",
             [borg, self.work / "borg-home"], borg)])
        self.incremental(tree, store, restic, borg)
        subprocess.run(["rm", "-rf", str(borg), str(restic)], check=True)
        self.flat(tree, store, restic, part)
        entry = max((Path(directory) / file for directory, _, names in os.walk(tree) for file in names),
                    key=lambda path: str(path))
        entry = f"source/{entry.relative_to(tree)}"
        self.row("list", [("Eider", f"{eider} list {store} r.tar.gz", [], None),
                          ("tar tzf", f"tar tzf {store}/r.tar.gz", [], None)])
        self.row("one file", [("Eider", f"{eider} one {store} r.tar.gz {entry}", [], None),
                              ("tar xzf … path", f"tar xzOf {store}/r.tar.gz {entry}", [], None)])
        self.row("verify, full", [("Eider, tar.gz", f"{eider} verify {store} r.tar.gz", [], None),
                                  ("gzip -t", f"gzip -t {store}/r.tar.gz", [], None),
                                  ("Eider, tar.zst", f"{eider} verify {store} r.tar.zst", [], None),
                                  ("zstd -t", f"zstd -tq {store}/r.tar.zst", [], None)])
        self.clear(store)
        subprocess.run(["rm", "-rf", str(tree)], check=True)

        for title, root, commands in [
            ("many small files", lambda: small_files(data / "small", part(50_000)), ["gzip -6", "pigz -6 "]),
            ("large binaries", lambda: large_binaries(data / "binaries", part(400_000_000)), ["gzip -6", "pigz -6 "]),
            ("incompressible", lambda: incompressible(data / "random", part(400 << 20)), ["gzip -6", "pigz -6 "]),
            ("sparse, 20 GB", lambda: sparse(data / "sparse", part(20_000_000_000)), ["gzip -6"]),
        ]:
            root = root()
            print(f"{title}: {size_of(root) / 1e6:.0f} MB", flush=True)
            flags = "S" if title.startswith("sparse") else ""
            self.row(f"{title}, gzip 6", [pack(root, "x.tar.gz", "6")] + [
                peer(f"tar c{flags} \\| {command.strip()}", f"tar c{flags} {root.name} | {command}") for command in commands])
            self.row(f"{title}, zstd 3", [
                pack(root, "x.tar.zst", "3"),
                peer(f"tar c{flags} \\| zstd -3 -T2", f"tar c{flags} {root.name} | zstd -3 -T2 -q ")])
            self.clear(store)
            subprocess.run(["rm", "-rf", str(root)], check=True)

    def restore(self, tree, store, restic):
        """Packs the two archives that later rows read too, and unpacks them."""
        eider = self.binary
        measure(f"{eider} pack {tree} {store} r.tar.gz 6", self.environment)
        measure(f"{eider} pack {tree} {store} r.tar.zst 3", self.environment)
        if not self.wants("restore"):
            return
        contenders = [("Eider, tar.gz", f"{eider} restore {store} r.tar.gz PLACE", [], None),
                      ("tar xzf", f"mkdir PLACE && tar xzf {store}/r.tar.gz -C PLACE", [], None),
                      ("tar xzf, sync -f", f"mkdir PLACE && tar xzf {store}/r.tar.gz -C PLACE && sync -f PLACE",
                       [], None)]
        if "restic" not in self.missing:
            measure(f"restic -q -r {restic} init && restic -q -r {restic} backup {tree}", self.environment)
            contenders.append(("restic restore", f"restic -q -r {restic} restore latest --target PLACE", [], None))
        contenders += [
            ("Eider, tar.zst", f"{eider} restore {store} r.tar.zst PLACE", [], None),
            ("bsdtar xf, tar.zst", f"mkdir PLACE && bsdtar xf {store}/r.tar.zst -C PLACE", [], None)]
        self.row("restore", contenders)
        subprocess.run(["rm", "-rf", str(restic)], check=True)

    def flat(self, tree, store, restic, part):
        """Peak memory of a quarter of a tree and of all of it: what grows with the data grows here."""
        title = "memory as data grows, zstd 3"
        if not self.wants(title):
            return
        quarter = source_tree(tree.parent / "quarter", part(505_000_000) // 4)
        contenders = []
        for name, root in [("a quarter of the tree", quarter), ("the tree", tree)]:
            archive = f"{root.name}.tar.zst"
            contenders += [
                (f"Eider, {name}", f"{self.binary} pack {root} {store} {archive} 3",
                 [store / archive, store / f"{archive}.manifest.json"], None),
                (f"restic backup, {name}", f"restic -q -r {restic} init && restic -q -r {restic} backup {root}",
                 [restic, self.work / "restic-cache"], None)]
        self.row(title, contenders, by_memory=True)
        subprocess.run(["rm", "-rf", str(quarter)], check=True)

    def incremental(self, tree, store, restic, borg):
        """A second run over a tree of which nothing, or one file in a hundred, has changed since the first."""
        titles = ["incremental, unchanged tree", "incremental, 1 % changed"]
        if not any(self.wants(title) for title in titles):
            return
        eider = self.binary
        first = "parent.tar.zst"
        measure(f"{eider} pack {tree} {store} {first} 3", self.environment)
        for tool, command in [
            ("restic", f"rm -rf {restic} && restic -q -r {restic} init && restic -q -r {restic} backup {tree}"),
            ("borg", f"rm -rf {borg} {self.work}/borg-home && borg init -e none {borg} "
                     f"&& borg create -C zstd,3 {borg}::first {tree}"),
        ]:
            if tool not in self.missing:
                measure(command, self.environment)
        # Time stamps of the last seconds are trusted by nobody.
        time.sleep(4)
        measure(f"{eider} pack {tree} {store} {first}.again.tar.zst 3", self.environment)
        files = sorted(Path(directory) / name for directory, _, names in os.walk(tree) for name in names)

        def change():
            for path in files[::100]:
                with open(path, "ab") as file:
                    file.write(b"changed\n")

        for title, before in zip(titles, [[], [change]]):
            self.row(title, [
                ("Eider", f"{eider} pack {tree} {store} next.tar.zst 3 {first}.again.tar.zst",
                 [store / "next.tar.zst", store / "next.tar.zst.manifest.json"], store / "next.tar.zst", *before),
                ("restic backup, second run", f"restic -q -r {restic} backup {tree}", [], None, *before),
                ("borg create, second run", f"borg create -C zstd,3 {borg}::run-$RANDOM$RANDOM {tree}", [], None,
                 *before)])

    def clear(self, store):
        shutil.rmtree(store)
        store.mkdir()

    def report(self, output):
        cpu = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
        lines = [
            "# Benchmarks", "",
            "Written by `make bench` (`benches/run.py`): every row's commands in turn in one go, the best of "
            f"{self.rounds} rounds; archives are synced to disk, caches are warm. Ours is everything from the "
            "walk to the fsync of the manifest's directory, hashes and `verify: Quick` included, by the engine's own "
            "small program: `eider` opens its catalog as well, which takes about a tenth of a second and 60 MiB for each "
            "command, whatever the data. `×` is how many times as long the peer takes as the last row of ours above "
            "it. Memory is the peak of the largest process.", "",
            f"{os.cpu_count()} cores ({cpu}), Linux {platform.release()}; {self.title}.", "",
            "| work | command | time | against ours | processors | size | memory |", "| --- | --- | --- | --- | --- | --- | --- |"]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows]
        if self.missing:
            lines += ["", f"Not installed here: {', '.join(self.missing)}."]
        notes = (Path(__file__).parent / "notes.md").read_text()
        Path(output).write_text("\n".join(lines) + "\n\n" + notes)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--work", default="/var/tmp/eider-bench")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=int, default=50)
    parser.add_argument("--only", default="")
    parser.add_argument("--output")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    try:
        bench.run(arguments.scale)
    finally:
        shutil.rmtree(bench.work, ignore_errors=True)
    if arguments.only:
        print(f"bench: a part of the table alone is not written to {arguments.output}", file=sys.stderr)
    elif arguments.output:
        bench.report(arguments.output)
    if bench.missing:
        print(f"bench: not installed here: {', '.join(bench.missing)}", file=sys.stderr)


if __name__ == "__main__":
    main()
