"""Checks that daemons do not grow: small jobs, and large ones of every kind among them, on one cluster.

Usage: python bench/soak.py [--jobs 10000] [--every 100] [--nodes 6]

Prints memory and descriptors of each role, and the bytes of the cluster's files, ten times. Exit status: 0
everything is within the bounds (docs/reliability.md), 1 something exceeds them or a job ended in a wrong way.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from run import BIN, JOB_DEADLINE_S, below, daemons

import gexec
from gexec.cluster import control
from gexec.cluster.layout import Layout, environment

#: How much larger a process may be at the end than after a fifth of the jobs, in MiB and in descriptors; the
#: number of links to other nodes varies.
BOUNDS = {
    "spawner": (4.0, 8),
    "relay": (6.0, 32),
    "starter": (4.0, 8),
    "authd": (2.0, 8),
    "helper": (4.0, 8),
}
#: How often everything is measured; growth counts from this one on.
SAMPLES, WARM_SAMPLES = 10, 2
#: Audit logs are renamed at 1 MiB, and one renamed file is kept.
_CONFIG = "audit_max_bytes = 1048576\naudit_keep = 1\n"
#: Of the cluster's own directory, all files of all nodes.
DISK_MAX_BYTES = 24 * 1024 * 1024
#: The daemons return free memory some seconds after the last job.
IDLE_S = 10.0
#: 0.8 MB of environment, as in the largest jobs.
LARGE = {f"SOAK{number}": "x" * 100_000 for number in range(8)}
MIB = 1024 * 1024


class SoakError(Exception):
    """A job ended in a wrong way; the text says how."""


class Disk(NamedTuple):
    """The files of a cluster: their number and size."""

    files: int
    bytes: int

    def __str__(self) -> str:
        return f"  {self.files} files of {self.bytes / MIB:.1f} MiB in the cluster's directory"


@dataclass(frozen=True)
class Use:
    """The resources of one process."""

    mib: float
    descriptors: int


class Soak:
    """A cluster whose last node is killed in its first job, and the jobs on it."""

    def __init__(self, nodes: int, folder: Path) -> None:
        self.place = Layout(folder / "cluster")
        self.place.dir.mkdir(mode=0o755)
        self.files = folder / "files"
        self.files.mkdir()
        for number in range(20):
            (self.files / f"f{number}").write_bytes(os.urandom(200_000))
        config = folder / "gexecd.toml"
        config.write_text(_CONFIG)
        words = ["--dir", str(self.place.dir), "--config", str(config)]
        self._command("gexecctl", "cluster", "up", str(nodes), *words)
        self.state = control.require(self.place)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GEXEC_")}
        own = environment(self.place, self.state)
        os.environ.update(own)  # for gexec.run
        self.large = clean | own | LARGE
        self.names = [node.name for node in self.state.nodes]
        self.living = ",".join(self.names[:-1])
        self.everyone = ",".join(self.names)
        self._fetched = folder / "fetched"

    def _command(self, *words: str) -> None:
        subprocess.run(
            [sys.executable, str(BIN / words[0]), *words[1:]], check=True, stdout=subprocess.DEVNULL
        )

    def down(self) -> None:
        """End the cluster."""
        self._command("gexecctl", "cluster", "down", "--dir", str(self.place.dir))

    # -- jobs ---------------------------------------------------------------------------------

    def run(self, expected: int, *words: str, command: str = "gexec", **options: object) -> None:
        """Run a command with the large environment; it must end with this status."""
        arguments = [sys.executable, str(BIN / command), *words]
        done = subprocess.run(  # type: ignore[call-overload]
            arguments,
            env=self.large,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=JOB_DEADLINE_S,
            **({"stdin": subprocess.DEVNULL} if "input" not in options else {}),
            **options,
        )
        if done.returncode != expected:
            said = f"status {done.returncode}, expected {expected}: {done.stderr[-500:]!r}"
            raise SoakError(f"{' '.join(words)[:80]}: {said}")

    def lose_a_node(self) -> None:
        """Kill a node's daemon during a job; it stays dead."""
        with self._begun(self.everyone) as job:
            for process in control.node_processes(self.state, self.names[-1]):
                os.kill(process.pid, signal.SIGKILL)
            job.send_signal(signal.SIGINT)
            job.wait(JOB_DEADLINE_S)

    def interrupt(self) -> None:
        """A job that ^C ends."""
        with self._begun(self.living) as job:
            job.send_signal(signal.SIGINT)
            if job.wait(JOB_DEADLINE_S) != 130:
                raise SoakError(f"a job that was interrupted ended with {job.returncode}")

    def leave(self) -> None:
        """A job whose client is killed."""
        with self._begun(self.living) as job:
            job.kill()

    def _begun(self, nodes: str) -> subprocess.Popen[bytes]:
        words = [sys.executable, str(BIN / "gexec"), "-w", nodes, "sh", "-c", "echo up; exec sleep 600"]
        job = subprocess.Popen(
            words, env=self.large, stdin=subprocess.DEVNULL, stdout=-1, stderr=subprocess.DEVNULL
        )
        assert job.stdout is not None
        for _ in nodes.split(","):
            if b"up" not in job.stdout.readline():
                raise SoakError("a job that should be killed does not begin")
        return job

    def kinds(self) -> dict[str, Callable[[], None]]:
        """Return the large jobs, by kind."""
        some = self.living
        fetched = str(self._fetched)
        return {
            "plain": lambda: self.run(0, "-w", some, "true"),
            "plain, a dead node": lambda: self.run(255, "-w", self.everyone, "true"),
            "strict": lambda: self.run(0, "--strict", "-w", some, "true"),
            "strict, a dead node": lambda: self.run(255, "--strict", "-w", self.everyone, "true"),
            "not started": lambda: self.run(127, "-w", some, "--remote-path", "no-such-program"),
            "timed out": lambda: self.run(124, "-w", some, "--timeout", "0.3", "sleep", "600"),
            "detached": lambda: self.run(0, "-d", "--lease=1", "-w", some, "true"),
            "interrupted": self.interrupt,
            "client killed": self.leave,
            "output": lambda: self.run(0, "-w", some, "head", "-c", str(4 * MIB), "/dev/zero"),
            "stdin": lambda: self.run(0, "-w", some, "sh", "-c", "cat >/dev/null", input=bytes(4 * MIB)),
            "one node 500 times": lambda: self.run(0, "-w", ",".join([self.names[0]] * 500), "true"),
            "a service left behind": lambda: self.run(
                0, "-w", some, "sh", "-c", "setsid sleep 3 </dev/null >/dev/null 2>&1 & exit 0"
            ),
            "output held": lambda: self.run(255, "-w", some, "sh", "-c", "sleep 4 & exit 0"),
            "ensync": lambda: self.run(
                0,
                "-w",
                some,
                "--parents",
                "--dest",
                f"{self.place.dir}/copies/%h",
                str(self.files),
                command="ensync",
            ),
            "fetch": lambda: self.run(0, "-w", some, "--fetch", str(self.files), "--to", fetched),
        }

    def small_job(self) -> None:
        """Run a job of four nodes."""
        result = gexec.run(["true"], nodes=self.names[:4], cwd="/")
        if not result.ok:
            raise SoakError(f"a job of four nodes: {result.results}")

    # -- measuring ----------------------------------------------------------------------------

    def disk(self) -> Disk:
        """Return what the cluster has in its directory, without the files that jobs copied there."""
        files = [
            path
            for folder in ("keys", "run", "logs", "audit")
            for path in (self.place.dir / folder).iterdir()
        ]
        return Disk(len(files), sum(path.lstat().st_size for path in files))

    def use(self) -> dict[int, tuple[str, Use]]:
        """Return role and resources of each daemon of the cluster by pid, after IDLE_S."""
        until_s = time.monotonic() + IDLE_S
        while time.monotonic() < until_s:
            time.sleep(0.5)
        found: dict[int, tuple[str, Use]] = {}
        for pid in below(self.state.supervisor.pid):
            role = role_of(pid)
            if role:
                found[pid] = role, Use(resident_mib(pid), len(os.listdir(f"/proc/{pid}/fd")))
        return found


def role_of(pid: int) -> str:
    """Return which of the cluster's daemons a process is, or ""."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
    return name.removeprefix("gexecd-") if name.removeprefix("gexecd-") in BOUNDS else ""


def resident_mib(pid: int) -> float:
    """Return how much of a process is in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def table(title: str, found: dict[int, tuple[str, Use]]) -> str:
    """Return a line for each role: the number of processes, the largest one, all together."""
    lines = [title]
    for role in BOUNDS:
        uses = [use for each, use in found.values() if each == role]
        if uses:
            largest, total = max(use.mib for use in uses), sum(use.mib for use in uses)
            descriptors = max(use.descriptors for use in uses)
            memory = f"{largest:7.1f} MiB at most, {total:8.1f} in total"
            lines.append(f"  {len(uses):4} {role:8} {memory}, {descriptors:4} descriptors")
    return "\n".join(lines)


def grown(before: dict[int, tuple[str, Use]], after: dict[int, tuple[str, Use]]) -> list[str]:
    """Return a sentence for each process that exceeds its bounds."""
    said = []
    for pid, (role, use) in after.items():
        if pid not in before:
            continue
        old = before[pid][1]
        mib, descriptors = BOUNDS[role]
        if use.mib - old.mib > mib or use.descriptors - old.descriptors > descriptors:
            said.append(
                f"{role} {pid}: {old.mib:.1f} to {use.mib:.1f} MiB, {old.descriptors} to {use.descriptors} "
                f"descriptors: at most {mib:g} MiB and {descriptors} more are allowed"
            )
    return said


def soak(options: argparse.Namespace, folder: Path) -> int:
    """Run everything; return the exit status."""
    said = []
    with ExitStack() as stack:
        cluster = Soak(options.nodes, folder)
        stack.callback(cluster.down)
        print(table("at the start", cluster.use()), f"\n{cluster.disk()}", flush=True)
        cluster.lose_a_node()
        large = itertools.cycle(cluster.kinds().items())
        step = options.jobs // SAMPLES
        before: dict[int, tuple[str, Use]] = {}
        for number in range(1, options.jobs + 1):
            name, job = ("small", cluster.small_job) if number % options.every else next(large)
            try:
                job()
            except SoakError as error:
                print(f"job {number}, {name}: {error}")
                return 1
            if number % step == 0:
                after = cluster.use()
                print(table(f"after {number} jobs", after), f"\n{cluster.disk()}", flush=True)
                if number == WARM_SAMPLES * step:
                    before = after
        said += grown(before, after)
        if cluster.disk().bytes > DISK_MAX_BYTES:
            said.append(f"{cluster.disk()}: at most {DISK_MAX_BYTES} are allowed")
    print("\n".join(said) or "within the bounds")
    return 1 if said else 0


def main() -> int:
    """Run the command line's jobs; return the exit status."""
    parser = argparse.ArgumentParser(
        description="Run small and large jobs, and measure what the daemons keep of them."
    )
    add = parser.add_argument
    add("--jobs", type=int, default=10_000, help="jobs of four nodes or more (default: 10000)")
    add("--every", type=int, default=100, help="every so many jobs a large one (default: 100)")
    add("--nodes", type=int, default=6, help="nodes of the cluster, at least 5 (default: 6)")
    options = parser.parse_args()
    if options.nodes < 5 or options.jobs < SAMPLES or options.every < 2:
        parser.error(f"expected 5 nodes or more, {SAMPLES} jobs or more, and 2 or more between large ones")
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    # In the background of a script it would be ignored, here and in every gexec that is interrupted.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(f"daemons: {daemons()}")
    folder = Path(tempfile.mkdtemp(prefix="gxs", dir="/tmp"))
    folder.chmod(0o755)
    try:
        return soak(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
