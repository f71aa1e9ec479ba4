"""Measures copying files to all nodes: ensync next to cat, scp, pdcp and clush, in the same run.

Usage: python bench/copying.py [--sizes 512:2,512:8,256:32] [--small 10000] [--dir /dev/shm]

All "nodes" are this machine, and each has its own directory in --dir, by default in memory, so that no disk
affects the result. The result is the bytes of all copies together, divided by the seconds from the command's
start until it has ended and everything is on the disk (`sync -f`). Beside it are the CPU seconds of all
processes involved, which other load on the machine changes less.

Exit status: 0 measured, 1 a copy failed or differs from the original. Speed never fails the run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from floor import CORES
from run import BIN, below, cluster, machine, settle
from sshd import LocalSshd, missing

from gexec.cluster import control
from gexec.cluster.layout import Layout, node_address, node_names

MIB = 2**20
#: Time limit of one command.
DEADLINE_S = 900.0
#: Bytes of a small file, and small files in a directory.
SMALL_BYTES = 1000
FILES_PER_FOLDER = 100
SMALL_NODES = 8
#: Space kept free in --dir for other processes of this machine.
SPARE_BYTES = 512 * MIB
TARGET_SCP_RATIO = 5.0
TARGET_SPREAD = 0.75
TARGET_SMALL_RATIO = 10.0
#: The sftp servers, which scp uses since OpenSSH 9.
SFTP_SERVERS = (
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/lib/ssh/sftp-server",
)


class BenchError(Exception):
    """A command failed, or had a wrong result."""


class Place:
    """The target of one measurement: a directory for each node, by its name or its address."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.source = folder / "source"
        self.target = folder / "to"
        self.names = node_names(nodes)
        self.addresses = [node_address(index) for index in range(nodes)]

    def clear(self) -> None:
        """Create empty directories for all nodes; a name and its address are the same directory."""
        shutil.rmtree(self.target, ignore_errors=True)
        for name, address in zip(self.names, self.addresses, strict=True):
            (self.target / name).mkdir(parents=True)
            (self.target / address).symlink_to(name)

    def check(self, what: str) -> None:
        """Raise BenchError unless every node has an exact copy."""
        for name in self.names:
            copy = self.target / name / self.source.name
            if subprocess.run(["diff", "-rq", self.source, copy], stdout=subprocess.DEVNULL).returncode:
                raise BenchError(f"{what}: the copy on {name} differs from the original")


def main() -> int:
    """Measure what the command line requests; return the exit status."""
    parser = argparse.ArgumentParser(description="Time copying to all nodes of local clusters.")
    sizes = "512:2,512:8,256:32"
    parser.add_argument(
        "--sizes", type=sizes_of, default=sizes, help=f"MIB:NODES, separated by commas (default: {sizes})"
    )
    parser.add_argument(
        "--small", type=count_of, default=10_000, help="number of small files (default: 10000; 0: none)"
    )
    parser.add_argument("--sample", type=count_of, default=100, help="copied one by one (default: 100)")
    parser.add_argument("--repeat", type=count_of, default=1, help="repetitions; the median counts")
    parser.add_argument("--dir", default="/dev/shm", help="of all files (default: /dev/shm)")
    parser.add_argument("--by", choices=("ensync", "gexec"), default="ensync", help="gexec: stdin of cat")
    parser.add_argument("--no-ssh", action="store_true", help="leave out scp, pdcp and clush")
    parser.add_argument("--out", default="bench-results", help="directory for the figures as JSON")
    options = parser.parse_args()
    # If this is ended from outside, also end the cluster and remove the files.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    results: dict[str, Any] = {"machine": machine(), "dir": described(options.dir), "by": options.by}
    try:
        results["large"] = [measure_large(mib, nodes, options) for mib, nodes in options.sizes]
        if options.small:
            results["small"] = measure_small(options)
    except (BenchError, RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(table(results))
    folder = Path(options.out)
    folder.mkdir(exist_ok=True)
    path = folder / f"copy-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nfigures: {path}")
    return 0


def sizes_of(text: str) -> list[tuple[int, int]]:
    """Return the value of --sizes, [] for an empty one."""
    sizes = []
    for word in filter(None, text.split(",")):
        mib, _, nodes = word.partition(":")
        sizes.append((count_of(mib), count_of(nodes)))
        if 0 in sizes[-1]:
            raise argparse.ArgumentTypeError(f"{word!r}: expected MIB:NODES, both 1 or more")
    return sizes


def count_of(text: str) -> int:
    """Return a number that is not negative."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number, 0 or more")
    return int(text)


def described(folder: str) -> str:
    """Return the directory and its file system, e.g. ``/dev/shm (tmpfs)``."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True).stdout.strip()
    return f"{folder} ({kind})"


@contextmanager
def place_in(directory: str, nodes: int, wanted_bytes: int) -> Iterator[Place]:
    """Create a directory for a source and its copies, and remove it afterwards."""
    free = shutil.disk_usage(directory).free
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split()[:2] for line in file)
    if "tmpfs" in described(directory):
        free = min(free, int(fields["MemAvailable:"]) * 1024)
    if wanted_bytes + SPARE_BYTES > free:
        raise BenchError(
            f"{directory}: {wanted_bytes // MIB} MiB are needed and {free // MIB} are free, of which "
            f"{SPARE_BYTES // MIB} must stay free; choose smaller --sizes or another --dir"
        )
    folder = Path(tempfile.mkdtemp(prefix="gexec-bench-", dir=directory))
    folder.chmod(0o755)
    try:
        yield Place(folder, nodes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# -- the tools ----------------------------------------------------------------------------------


def by_cat(place: Place) -> None:
    """Copy once for each node with cat, one at a time per core: no program here writes faster."""
    waiting, running = list(place.names), list[subprocess.Popen[bytes]]()
    while waiting or running:
        while waiting and len(running) < CORES:
            with open(place.target / waiting.pop() / place.source.name, "wb") as file:
                running.append(subprocess.Popen(["cat", place.source], stdout=file))
        if running.pop(0).wait():
            raise BenchError("cat failed")


def by_cp(place: Place) -> None:
    """Copy the directory of small files once for each node with cp, one at a time per core."""
    waiting, running = list(place.names), list[subprocess.Popen[bytes]]()
    while waiting or running:
        while waiting and len(running) < CORES:
            words = ["cp", "-r", str(place.source), str(place.target / waiting.pop())]
            running.append(subprocess.Popen(words))
        if running.pop(0).wait():
            raise BenchError("cp failed")


class Ours:
    """ensync, or instead gexec with the file as stdin of a cat on each node."""

    def __init__(self, tool: str, place: Place, environ: dict[str, str]) -> None:
        self._tool, self._place, self._environ = tool, place, environ
        self.name = "ensync" if tool == "ensync" else "gexec ... cat"
        self._nodes = ",".join(place.names)

    def copy(self, path: Path) -> None:
        """Copy a file or directory to all nodes."""
        if self._tool == "ensync":
            words = [sys.executable, str(BIN / "ensync"), "--nodes", self._nodes, "--via=gexec"]
            call([*words, "--dest", f"{self._place.target}/%h", str(path)], self._environ)
            return
        gexec = shlex.join([sys.executable, str(BIN / "gexec"), "--nodes", self._nodes, "--chdir=/"])
        target, quoted = shlex.quote(str(self._place.target)), shlex.quote(str(path))
        if path.is_dir():
            script = f"tar c -C {shlex.quote(str(path.parent))} {path.name}"
            script += f" | {gexec} sh -c 'tar x -C \"$0/$GEXEC_NODE\"' {target}"
        else:
            script = f"{gexec} sh -c 'cat >\"$0/$GEXEC_NODE/$1\"' {target} {path.name} <{quoted}"
        call(["sh", "-c", script], self._environ)

    def whole(self, place: Place) -> None:
        """Copy the place's source."""
        self.copy(place.source)


class Ssh:
    """Copies over our own sshd. An address leads to the directory of that node."""

    def __init__(self, sshd: LocalSshd) -> None:
        words = [shlex.quote(word) for word in sshd.options]
        self._words = sshd.options
        self._config = sshd.folder / "ssh_config"
        self._config.write_text(
            f"Port {sshd.port}\nIdentityFile {sshd.folder}/user\nUser {words[words.index('-l') + 1]}\n"
            "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\nBatchMode yes\n"
        )

    def scp(self, place: Place) -> None:
        """Copy to one node after the other."""
        for address in place.addresses:
            call(["scp", "-q", "-F", str(self._config), str(place.source), f"{address}:{place.source.name}"])

    def pdcp(self, place: Place) -> None:
        """Copy with pdcp, with its default fan-out of 32."""
        environ = os.environ | {"PDSH_SSH_ARGS": f"-F {self._config} -2 -a -x %h"}
        words = ["pdcp", "-R", "ssh", "-w", ",".join(place.addresses)]
        call([*words, str(place.source), place.source.name], environ)

    def clush(self, place: Place) -> None:
        """Copy with clush, with its default fan-out of 64."""
        words = [sys.executable, str(BIN / "clush"), "-S", "-o", f"-F {self._config}"]
        words += ["-w", ",".join(place.addresses)]
        call([*words, "--copy", str(place.source), "--dest", place.source.name])


def sshd_settings(place: Place) -> str:
    """Return settings with which sshd starts each command in the directory of the called address."""
    server = next((path for path in SFTP_SERVERS if os.path.exists(path)), "")
    subsystem = f"Subsystem sftp {server}\n" if server else ""
    target = shlex.quote(str(place.target))
    into = f'set -- $SSH_CONNECTION; cd {target}/"$3" && eval "$SSH_ORIGINAL_COMMAND"'
    return f"{subsystem}ForceCommand exec sh -c {shlex.quote(into)}\n"


def call(words: list[str], environ: dict[str, str] | None = None) -> None:
    """Run a command to its end; BenchError if it fails."""
    done = subprocess.run(
        words, env=environ, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise BenchError(f"{' '.join(words)[:200]}: status {done.returncode}, {said}")


# -- measurements -----------------------------------------------------------------------------


def measure_large(mib: int, nodes: int, options: argparse.Namespace) -> dict[str, Any]:
    """Copy one file to ``nodes`` nodes with each tool in turn."""
    found: dict[str, Any] = {"mib": mib, "nodes": nodes}
    with place_in(options.dir, nodes, mib * MIB * (nodes + 1)) as place, cluster(nodes) as (environ, _):
        with open(place.source, "wb") as file:
            for _ in range(mib):
                file.write(os.urandom(MIB))  # so that compression does not help
        ours = Ours(options.by, place, environ)
        tools: dict[str, Callable[[Place], None]] = {"cat": by_cat, ours.name: ours.whole}
        absent = missing()
        if options.no_ssh or absent:
            found["skipped"] = absent and f"not installed: {absent}"
            found["tools"] = in_turns(tools, place, max(1, options.repeat), [guard_of(environ)])
            return found
        with LocalSshd(sshd_settings(place)) as sshd:
            ssh = Ssh(sshd)
            tools["scp in a loop"] = ssh.scp
            if shutil.which("pdcp"):
                tools["pdcp"] = ssh.pdcp
            if (BIN / "clush").exists():
                tools["clush --copy"] = ssh.clush
            found["tools"] = in_turns(tools, place, max(1, options.repeat), [guard_of(environ), sshd.pid])
    return found


def guard_of(environ: dict[str, str]) -> int:
    """Return the pid of the first process of a cluster."""
    return control.require(Layout.of(environ["GEXEC_CLUSTER_DIR"])).guard.pid


def in_turns(
    tools: Mapping[str, Callable[[Place], None]], place: Place, repeat: int, daemons: list[int]
) -> dict[str, dict[str, list[float]]]:
    """Return each tool's figures of all repetitions; every copy is compared with the original.

    Args:
        daemons: the first processes of all that works for the tools without being started by them.
    """
    found: dict[str, dict[str, list[float]]] = {name: {"s": [], "cpu_s": []} for name in tools}
    for _ in range(repeat):
        for name, tool in tools.items():
            place.clear()
            settle()
            before_s = cpu_s(daemons)
            found[name]["s"].append(timed(lambda tool=tool: tool(place), place))  # type: ignore[misc]
            found[name]["cpu_s"].append(cpu_s(daemons) - before_s)
            place.check(name)
            print(f"  {name}: {found[name]['s'][-1]:.2f} s", file=sys.stderr, flush=True)
    place.clear()
    return found


def timed(what: Callable[[], None], place: Place) -> float:
    """Return the seconds until it is done and everything it wrote is on the disk."""
    started_s = time.perf_counter()
    what()
    subprocess.run(["sync", "-f", place.target], check=True)
    return time.perf_counter() - started_s


def cpu_s(daemons: list[int]) -> float:
    """Return the CPU seconds of our ended children, and of daemons with all that they started."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks = 0
    for pid in {pid for daemon in daemons for pid in below(daemon)}:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended
        ticks += sum(map(int, fields[11:15]))  # its own, and those of its ended children
    return used.ru_utime + used.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def measure_small(options: argparse.Namespace) -> dict[str, Any]:
    """Copy many small files to 8 nodes: at once, and some of them one by one."""
    count = options.small
    sample = max(1, min(options.sample, count))
    # A file takes a block, and a directory and its entry also take space.
    wanted = (SMALL_NODES + 1) * count * 8192
    with place_in(options.dir, SMALL_NODES, wanted) as place, cluster(SMALL_NODES) as (environ, _):
        place.source.mkdir()
        files = []
        for number in range(count):
            folder = place.source / f"{number // FILES_PER_FOLDER:04d}"
            folder.mkdir(exist_ok=True)
            files.append(folder / f"{number:06d}")
            files[-1].write_bytes(os.urandom(SMALL_BYTES))
        ours = Ours(options.by, place, environ)
        tools = {"cp -r": by_cp, ours.name: ours.whole}
        found = in_turns(tools, place, max(1, options.repeat), [guard_of(environ)])

        def each() -> None:
            for file in files[:sample]:
                ours.copy(file)

        settle()
        one_by_one_s = timed(each, place)
    return {
        "files": count,
        "nodes": SMALL_NODES,
        "tools": found,
        "sample": sample,
        "sample_s": one_by_one_s,
    }


# -- the report -------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    """Return all figures as text."""
    where, ours = results["machine"], "ensync" if results["by"] == "ensync" else "gexec ... cat"
    lines = [
        f"{where['cores']} cores of {where['cpu']}, Linux {where['kernel']}, Python {where['python']}, "
        f"{where['user']}; files in {results['dir']}",
    ]
    rates: dict[str, float] = {}
    for found in results["large"]:
        total = found["mib"] * MIB * found["nodes"]
        title = f"{found['mib']} MiB to {found['nodes']} nodes"
        medians = {name: statistics.median(figures["s"]) for name, figures in found["tools"].items()}
        rates[title] = total / medians[ours]
        lines += [
            "",
            f"{title:<22} {'s':>8} {'cpu s':>7} {'MB/s written':>13} {'of cat':>7} {'times scp':>10}",
        ]
        scp_s = medians.get("scp in a loop")
        for name, taken_s in medians.items():
            times = f"{scp_s / taken_s:10.2f}" if scp_s else " " * 10
            if name == ours and scp_s and found["nodes"] == 8:
                times += f" ({'reaches' if scp_s / taken_s >= TARGET_SCP_RATIO else 'target'} 5)"
            used_s, rate = statistics.median(found["tools"][name]["cpu_s"]), total / taken_s / 1e6
            of_cat = medians["cat"] / taken_s
            lines.append(f"  {name:<20} {taken_s:8.2f} {used_s:7.2f} {rate:13.0f} {of_cat:7.2f} {times}")
        if found.get("skipped"):
            lines.append(f"  scp, pdcp, clush: {found['skipped']}")
    if len(rates) > 1:
        best = max(rates.values())
        told = ", ".join(f"{title} {rate / best:.2f}" for title, rate in rates.items())
        lines += ["", f"{ours}, of its best rate: {told} (target: {TARGET_SPREAD:g} or more)"]
    if "small" in results:
        lines += ["", *small_lines(results["small"], ours)]
    return "\n".join(lines)


def small_lines(found: dict[str, Any], ours: str) -> list[str]:
    """Return the figures of small files."""
    lines = [f"{found['files']} files of {SMALL_BYTES} bytes to {found['nodes']} nodes"]
    medians = {name: statistics.median(figures["s"]) for name, figures in found["tools"].items()}
    for name, taken_s in medians.items():
        lines.append(f"  {name:<20} {taken_s:8.2f} s {found['files'] / taken_s:8.0f} files/s to each node")
    all_s = found["sample_s"] / found["sample"] * found["files"]
    lines.append(
        f"  {'one by one':<20} {all_s:8.0f} s, extrapolated from {found['sample']} files in "
        f"{found['sample_s']:.2f} s: all at once is {all_s / medians[ours]:.0f} times as fast "
        f"(target: {TARGET_SMALL_RATIO:g})"
    )
    return lines


if __name__ == "__main__":
    sys.exit(main())
