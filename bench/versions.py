"""Compares checkouts of gexec: warm jobs, or copies, on a local cluster of each, in turns.

Usage: python bench/versions.py CHECKOUT CHECKOUT... [--nodes 64] [--repeat 25] [--copy MIB]

Run `make native` in each checkout first; `CHECKOUT=no` runs its daemons interpreted. All clusters are up
at the same time, so that other load on the machine affects all of them alike.
With --copy a file of random bytes is copied to all nodes by ensync, instead of the jobs, and by cat.
Exit status: 0 measured, 1 a job failed.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from copying import MIB, Place, by_cat

#: Jobs before the measured ones, as in bench/run.py.
WARM_UP = 5
#: One process alone is measured more often: it is short.
ONE_REPEAT = 40
JOBS = {
    "true": ("-n", "0", "-p", "none", "true"),
    "hostname": ("-n", "0", "-p", "none", "hostname"),
    "-n 1 true": ("-n", "1", "true"),
}


class Version:
    """A checkout and its running cluster.

    Args:
        text: the checkout's directory; with ``=no`` behind it, its daemons are interpreted.
        nodes: of the cluster.
    """

    def __init__(self, text: str, nodes: int) -> None:
        path, _, native = text.partition("=")
        self.name = text
        self._bin = Path(path).resolve() / ".venv" / "bin"
        self._place = tempfile.mkdtemp(prefix="gexec-versions-")
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith(("GEXEC", "PYTHON"))
        }
        self._env = clean | {"GEXEC_CLUSTER_DIR": self._place} | ({"GEXEC_NATIVE": "no"} if native else {})
        self._gexecctl("cluster", "up", str(nodes))
        for line in self._gexecctl("cluster", "env").splitlines():
            name, _, value = line.removeprefix("export ").partition("=")
            self._env[name] = "".join(shlex.split(value))

    def _gexecctl(self, *words: str) -> str:
        return subprocess.run(
            [self._bin / "gexecctl", *words], env=self._env, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    def run(self, *words: str, command: str = "gexec") -> float:
        """Run a command; return the seconds that it took. CalledProcessError: it failed."""
        begin_s = time.monotonic()
        subprocess.run([self._bin / command, *words], env=self._env, check=True, stdout=subprocess.DEVNULL)
        return time.monotonic() - begin_s

    def copy(self, place: Place) -> float:
        """Copy the place's file to all nodes; return the seconds that it took."""
        place.clear()
        words = ["--via=gexec", "--nodes", ",".join(place.names), "--dest", f"{place.target}/%h"]
        return self.run(*words, str(place.source), command="ensync")

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU time that the cluster's relays, spawners and starters have had, and, as
        ``receivers``, the processes that they have started and that have ended.
        """
        spent: dict[str, float] = {}
        mark = self._place.encode()
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    environ = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
                    name = (process / "comm").read_text().strip()
                    run_ns = int((process / "schedstat").read_text().split()[0])
                    ended = (process / "stat").read_text().rpartition(")")[2].split()[13:15]
                except (OSError, ValueError):
                    continue
                if mark in environ and name.startswith("gexecd-"):
                    spent[name] = spent.get(name, 0.0) + run_ns / 1e9
                    ended_s = sum(map(int, ended)) / os.sysconf("SC_CLK_TCK")
                    spent["receivers"] = spent.get("receivers", 0.0) + ended_s
        return spent

    def down(self) -> None:
        """End the cluster."""
        self._gexecctl("cluster", "down")


def main() -> int:
    """Measure what the command line requests; return the exit status."""
    parser = argparse.ArgumentParser(description="Time checkouts of gexec in turns, on local clusters.")
    parser.add_argument(
        "checkouts", nargs="+", metavar="CHECKOUT", help="a directory; CHECKOUT=no: interpreted"
    )
    parser.add_argument("--nodes", type=int, default=64, help="of each cluster (default: 64)")
    parser.add_argument("--repeat", type=int, default=25, help="jobs of each kind (default: 25)")
    parser.add_argument("--copy", type=int, default=0, metavar="MIB", help="copy a file of this size instead")
    options = parser.parse_args()
    # If this is ended from outside, end the clusters too.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    with ExitStack() as clusters:
        versions = []
        for text in options.checkouts:
            versions.append(Version(text, options.nodes))
            clusters.callback(versions[-1].down)
        try:
            if options.copy:
                _measure_copies(versions, options.nodes, options.repeat, options.copy)
            else:
                _measure(versions, options.nodes, options.repeat)
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"versions: {shlex.join(map(str, error.cmd))}: exited {error.returncode}\n")
            return 1
    return 0


def _measure(versions: list[Version], nodes: int, repeat: int) -> None:
    for version in versions:
        for _ in range(WARM_UP):
            version.run(*JOBS["hostname"])
    for label, words in JOBS.items():
        before = {version.name: version.cpu_s() for version in versions}
        count = ONE_REPEAT if label == "-n 1 true" else repeat
        taken_s: dict[str, list[float]] = {version.name: [] for version in versions}
        for turn in range(count):
            for version in versions if turn % 2 == 0 else reversed(versions):
                taken_s[version.name].append(version.run(*words))
        for version in versions:
            cpu = {
                name: f"{(spent_s - before[version.name].get(name, 0.0)) / count / nodes * 1000:.2f}"
                for name, spent_s in sorted(version.cpu_s().items())
            }
            times = taken_s[version.name]
            print(
                f"{nodes} nodes, {label}: {version.name}: median {statistics.median(times):.4f} s, "
                f"least {min(times):.4f} s; CPU ms a node and job: {cpu}",
                flush=True,
            )


def _measure_copies(versions: list[Version], nodes: int, repeat: int, mib: int) -> None:
    gib = mib * nodes / 1024
    with tempfile.TemporaryDirectory(prefix="gexec-versions-", dir="/dev/shm") as folder:
        place = Place(Path(folder), nodes)
        with open(place.source, "wb") as file:
            for _ in range(mib):
                file.write(os.urandom(MIB))
        taken_s: dict[str, list[float]] = {name: [] for name in ("cat", *[one.name for one in versions])}
        cpu_s: dict[str, list[dict[str, float]]] = {name: [] for name in taken_s}
        for turn in range(repeat):
            place.clear()
            before_s, begin_s = _children_s(), time.monotonic()
            by_cat(place)
            taken_s["cat"].append(time.monotonic() - begin_s)
            cpu_s["cat"].append({"cat": _children_s() - before_s})
            for version in versions if turn % 2 == 0 else reversed(versions):
                before, before_s = version.cpu_s(), _children_s()
                taken_s[version.name].append(version.copy(place))
                spent = {"client and sender": _children_s() - before_s}
                spent |= {name: now_s - before.get(name, 0.0) for name, now_s in version.cpu_s().items()}
                cpu_s[version.name].append(spent)
    for name, times in taken_s.items():
        ratio = statistics.median([mine / cat for mine, cat in zip(times, taken_s["cat"], strict=True)])
        every = statistics.median([sum(spent.values()) for spent in cpu_s[name]]) / gib
        kinds = {
            kind: f"{statistics.median([spent.get(kind, 0.0) for spent in cpu_s[name]]) / gib:.2f}"
            for kind in sorted(cpu_s[name][-1])
        }
        print(
            f"{mib} MiB to {nodes} nodes: {name}: median {statistics.median(times):.2f} s, "
            f"{ratio:.2f} times cat; CPU s for each GiB delivered: {every:.2f}, {kinds}",
            flush=True,
        )


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
