"""Real copies with real faults: ``python -m laboratory.copying --seeds 0-199``.

For each seed, ensync copies a random tree to the nodes of a local cluster, which have older versions of it,
while one or two things go wrong. Then every file on every node must be the old one or the new one, whole,
nothing temporary may be left, and the source is as it was. A further copy without faults must succeed, and
bring every node to the new tree. What a seed does is in laboratory.copies, how trees are compared in
laboratory.trees; when exactly a fault comes depends on the machine.

As root, files are in memory (a tmpfs of its own, in a mount namespace of its own); otherwise in --dir.

Exit status: 0, 1 if a seed has findings, 2 usage error, 130 after ^C.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from laboratory import trees
from laboratory.copies import FAULTS, CopyPlan, HarmedNodes, RunningCopy

#: Of all files together; nothing comes near it.
_SPACE_MIB = 800
_NAMESPACE = "GEXEC_LABORATORY_NAMESPACE"
#: Beyond the old version, on a disk that gets full.
_SPARE_BYTES = 256 * 1024


class Runner:
    """Runs seeds on one cluster after the other; use it inside ``with``.

    Args:
        directory: of all files; one is made there.
        kinds: of faults.
        keeps: the files of a seed with findings are copied to a directory that stays.
    """

    def __init__(self, directory: str, kinds: list[str], keeps: bool) -> None:
        self._kinds = kinds
        self._keeps = keeps
        self._top = Path(tempfile.mkdtemp(prefix="gxcopy", dir=directory))
        self._top.chmod(0o755)
        self._mounts = bool(os.environ.get(_NAMESPACE))
        if self._mounts:
            _mount(self._top, f"size={_SPACE_MIB}m,mode=755")
        elif "full" in kinds:
            self._kinds = [kind for kind in kinds if kind != "full"]
            print("no disk gets full: that needs root, and unshare and mount")
        self._nodes: HarmedNodes | None = None
        #: Why the next seed needs another cluster, or "".
        self._harmed = "there is none"
        self.happened: Counter[str] = Counter()

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        """End the cluster and remove all files."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._nodes is not None:
            self._nodes.down()
        if self._mounts:
            subprocess.run(["umount", "-R", "-l", str(self._top)], check=False)
        shutil.rmtree(self._top, ignore_errors=True)

    def seed(self, seed: int) -> tuple[str, list[str]]:
        """Run one seed; return what it does, and its findings."""
        if self._harmed or self._nodes is None:
            self._start(Random(seed).randint(4, 8))
        assert self._nodes is not None
        plan = CopyPlan(seed, len(self._nodes.names), self._kinds)
        does = f"{len(plan.old)} nodes, {' '.join(plan.options)}; {'; '.join(map(str, plan.faults))}"
        one = _Seed(self._nodes, plan, self._top / "seed", self._mounts)
        try:
            findings = one.run()
            self._harmed = "a node is dead" if one.is_harmed else ""
            self.happened.update(one.happened)
            broken = self._nodes.broken_daemons()
            if broken:
                findings.append(broken)
                self._harmed = "a daemon has a defect"
            if findings and self._keeps:
                kept = tempfile.mkdtemp(prefix=f"gexec-copying-{seed}-", dir="/tmp")
                shutil.copytree(
                    self._top, f"{kept}/files", symlinks=True, ignore=shutil.ignore_patterns("*.sock")
                )
                findings.append(f"files: {kept}")
            return f"{does}; status {one.status}", findings
        finally:
            one.clear()

    def _start(self, count: int) -> None:
        if self._nodes is not None:
            self._nodes.down()
            shutil.rmtree(self._top / "cluster", ignore_errors=True)
        self._nodes = HarmedNodes(self._top / "cluster", count)
        self._nodes.up()


class _Seed:
    """The files and the copies of one seed."""

    def __init__(self, nodes: HarmedNodes, plan: CopyPlan, place: Path, mounts: bool) -> None:
        self._nodes, self._plan, self._place = nodes, plan, place
        self._source = place / "source"
        self._mounts = mounts
        self._mounted: list[Path] = []
        self.is_harmed = False
        self.happened: list[str] = []
        self.status = 0

    def run(self) -> list[str]:
        """Return the findings."""
        self._write()
        before = trees.fingerprint(self._source)
        rate = max(50_000, int(self._plan.bytes / self._plan.lasts_s))
        copy = RunningCopy(self._nodes, self._plan, self._words(f"--bwlimit={rate}"), self._place / "to")
        findings = []
        try:
            status = copy.run()
        except TimeoutError as error:
            status = 1
            findings.append(str(error))
        if not copy.wait_gone():
            findings.append("a receiver does not end")
        self.status = status
        self.is_harmed = bool(copy.dead)
        self.happened += copy.happened + ["full"] * len(self._mounted)
        findings += self._judged(copy, status)
        wrong = trees.TreeRules(delete=True).missing(trees.read(self._source), {}, self._plan.new)
        if trees.fingerprint(self._source) != before or wrong:
            findings.append("the source is not as it was")
        return findings or self._again(copy)

    def clear(self) -> None:
        """Remove all files."""
        for path in self._mounted:
            subprocess.run(["umount", "-l", str(path)], check=False)
        shutil.rmtree(self._place, ignore_errors=True)

    def _judged(self, copy: RunningCopy, status: int) -> list[str]:
        """Return what is wrong after a copy in which something happened."""
        findings = []
        if b"Traceback" in copy.stderr:
            findings.append(f"a traceback: {copy.stderr.decode(errors='replace')[-1500:]}")
        if status and not copy.happened and not self._mounted:
            findings.append(f"status {status} though nothing happened: {copy.stderr[-500:]!r}")
        for index, old in enumerate(self._plan.old):
            found = trees.read(self._to(index))
            wrong = self._plan.rules.broken(found, old, self._plan.new)
            # A receiver that got SIGKILL may leave a temporary name, until the next copy.
            was_killed = index in copy.killed | copy.dead
            findings += [
                f"{self._nodes.names[index]}: {what}"
                for what in wrong
                if not (was_killed and what.endswith("is a temporary file"))
            ]
            if status == 0:
                left = self._plan.rules.missing(found, old, self._plan.new)
                findings += [f"status 0, but {self._nodes.names[index]}: {what}" for what in left]
        return findings

    def _again(self, copy: RunningCopy) -> list[str]:
        """Copy without faults: to the living nodes, and after a new start to those that were dead."""
        for path in self._mounted:
            subprocess.run(["mount", "-o", f"remount,size={_SPACE_MIB // 2}m", str(path)], check=True)
        everyone = set(range(len(self._plan.old)))
        groups = [everyone - copy.dead, copy.dead] if copy.dead and 0 not in copy.dead else [everyone]
        for number, group in enumerate(groups):
            if number or 0 in copy.dead:
                self._nodes.up()
                self.is_harmed = False
            findings = self._whole(sorted(group)) if group else []
            if findings:
                return findings
        return []

    def _whole(self, group: list[int]) -> list[str]:
        """Copy to some nodes, and return what is not as it must be after that."""
        names = ",".join(self._nodes.names[index] for index in group)
        before = [trees.read(self._to(index)) for index in group]
        done = subprocess.run(
            [sys.executable, str(Path(sys.executable).parent / "ensync"), *self._words("-w", names)],
            env=self._nodes.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=90,
        )  # fmt: skip
        if done.returncode:
            said = done.stderr.decode(errors="replace")
            return [f"status {done.returncode} of the copy without faults to {names}: {said[-500:]!r}"]
        findings = []
        rules = self._plan.rules
        for index, old in zip(group, before, strict=True):
            found = trees.read(self._to(index))
            kept = {path: entry for path, entry in old.items() if trees.TEMPORARY not in path}
            wrong = rules.missing(found, kept, self._plan.new) + rules.broken(found, kept, self._plan.new)
            findings += [
                f"after the copy without faults, {self._nodes.names[index]}: {what}" for what in wrong
            ]
        return findings

    def _words(self, *more: str) -> list[str]:
        words = ["--via=gexec", "--parents", f"--dest={self._place}/to/%h", *self._plan.options, *more]
        if "-w" not in more:
            words += ["-w", ",".join(self._nodes.names[: len(self._plan.old)])]
        return [*words, "--", str(self._source / "tree"), str(self._source / "single")]

    def _write(self) -> None:
        self._source.mkdir(parents=True)
        trees.write(self._plan.new, self._source)
        full = {fault.node for fault in self._plan.faults if fault.kind == "full"}
        for index, old in enumerate(self._plan.old):
            self._to(index).mkdir(parents=True)
            if index in full:
                # Room for what is there, about, and for some of what comes.
                size = sum(len(entry.content) // 4096 * 4096 + 8192 for entry in old.values())
                _mount(self._to(index), f"size={size + _SPARE_BYTES},mode=755")
                self._mounted.append(self._to(index))
            trees.write(old, self._to(index))

    def _to(self, index: int) -> Path:
        return self._place / "to" / self._nodes.names[index]


def _mount(path: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)


def _enter_namespace(words: list[str]) -> None:
    """As root, run this program again in a mount namespace of its own, if that works here."""
    if os.geteuid() or os.environ.get(_NAMESPACE) or not shutil.which("unshare"):
        return
    own = ["unshare", "-m", "--propagation", "private"]
    probe = "d=$(mktemp -d) && mount -t tmpfs -o size=1m tmpfs $d; s=$?; umount $d; rmdir $d; exit $s"
    if subprocess.run([*own, "sh", "-c", probe], capture_output=True).returncode == 0:
        os.environ[_NAMESPACE] = "1"
        sys.stdout.flush()
        os.execvp(own[0], [*own, sys.executable, "-m", "laboratory.copying", *words])


def main(words: list[str]) -> int:
    """Run the seeds of the arguments; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m laboratory.copying", description=__doc__)
    parser.add_argument("--seeds", metavar="A-B", default="0-19", help="default: 0-19")
    parser.add_argument(
        "--dir", default="/tmp", help="of all files, below a directory of its own (default: /tmp)"
    )
    parser.add_argument(
        "--faults", default=",".join(FAULTS), help="kinds, separated by commas (default: %(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="keep a copy of the files of seeds with findings")
    parser.add_argument("--verbose", action="store_true", help="also name seeds without findings")
    options = parser.parse_args(words)
    first, _, last = options.seeds.partition("-")
    if not first.isdecimal() or not (last or first).isdecimal():
        parser.error(f"--seeds {options.seeds!r}: expected a number, or two such as 0-199")
    kinds = [kind for kind in options.faults.split(",") if kind]
    if unknown := [kind for kind in kinds if kind not in FAULTS]:
        parser.error(f"--faults {unknown[0]!r}: expected some of {', '.join(FAULTS)}")
    _enter_namespace(words)
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    began_s, failed, count = time.monotonic(), 0, 0
    try:
        with Runner(options.dir, kinds, options.keep) as runner:
            for seed in range(int(first), int(last or first) + 1):
                does, findings = runner.seed(seed)
                count += 1
                failed += bool(findings)
                if findings:
                    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
                    print(f"seed {seed}: {findings[0]}{more} [{does}]", flush=True)
                    if options.keep:
                        print(*[f"  {finding}" for finding in findings], sep="\n", flush=True)
                elif options.verbose:
                    print(f"seed {seed}: well [{does}]", flush=True)
    except KeyboardInterrupt:
        return 130
    faults = ", ".join(f"{number} {kind}" for kind, number in sorted(runner.happened.items())) or "none"
    print(f"{count} seeds, {time.monotonic() - began_s:.0f} s, faults: {faults}: {failed} with findings")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
