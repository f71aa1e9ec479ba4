"""Measures gexec next to the floor, in the same run (docs/benchmarks.md).

Usage: python bench/run.py [--sizes 1,4,64,256,1000] [--repeat 7] [--out bench-results]

Exit status: 0 measured, 1 a job gave wrong output. Speed never fails the run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from floor import CORES, floor_s
from sshd import LocalSshd, missing

from gexec.cluster import control, processes
from gexec.cluster.layout import Layout, environment, node_address
from gexec.posix.descendants import children_of

BIN = Path(sys.executable).parent
COMMANDS = ("hostname", "true")
JOB_DEADLINE_S = 120.0
#: Jobs before the measured ones. A local cluster's daemons share all pages at first, and copy a page when
#: they first write to it; a daemon that has run for some time has already done this.
WARM_UP = 5
SSH_NODES_MAX = 64
PDSH_NODES_MAX = 256
#: Targets: warm gexec against the floor, and one node against the interpreter's start.
TARGET_WARM_RATIO = 2.5
TARGET_ONE_NODE_RATIO = 4.0


#: How long to wait for an idle machine before a measurement.
SETTLE_MAX_S = 4.0


def main() -> int:
    """Measure what the command line requests; return the exit status."""
    parser = argparse.ArgumentParser(description="Time gexec on local clusters, next to the bare machine.")
    parser.add_argument("--sizes", default="1,4,64,256,1000", help="nodes, separated by commas")
    parser.add_argument("--repeat", type=int, default=7, help="warm jobs of each kind (default: 7)")
    parser.add_argument("--out", default="bench-results", help="directory for the figures as JSON")
    parser.add_argument("--no-ssh", action="store_true", help="leave out ssh and pdsh")
    options = parser.parse_args()
    # If this is ended from outside, end the cluster too.
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    sizes = [int(word) for word in options.sizes.split(",")]
    results: dict[str, Any] = {"machine": machine(), "sizes": {}}
    for size in sizes:
        results["sizes"][size] = measure_size(size, options.repeat)
    results["one_node"] = measure_start(max(21, 3 * options.repeat))
    results["ssh"] = {} if options.no_ssh else measure_ssh(sizes)
    print(table(results))
    folder = Path(options.out)
    folder.mkdir(exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    path = folder / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\nfigures: {path}")
    return 0


def machine() -> dict[str, Any]:
    """Return the conditions on which the figures depend."""
    model = ""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "cores": CORES,
        "cpu": model,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "user": "root" if os.geteuid() == 0 else "ordinary user",
        "daemons": daemons(),
        "load_before": os.getloadavg()[0],
    }


def daemons() -> str:
    """Return whether the daemons that are measured are ``compiled`` or ``interpreted``."""
    told = subprocess.run(
        [sys.executable, str(BIN / "gexecd"), "-V"], capture_output=True, text=True, check=True
    )
    return told.stdout.strip().rpartition("(")[2].rstrip(")")


# -- clusters ---------------------------------------------------------------------------------


@contextmanager
def cluster(size: int) -> Iterator[tuple[dict[str, str], dict[str, float]]]:
    """Run a new cluster; yield its environment variables and the cost of its start."""
    folder = Path(tempfile.mkdtemp(prefix="gxb", dir="/tmp"))
    if os.geteuid() == 0:
        folder.chmod(0o755)
    place = Layout(folder)
    command = [sys.executable, str(BIN / "gexecctl"), "cluster"]
    try:
        started_s = time.perf_counter()
        done = subprocess.run(
            [*command, "up", str(size), "--dir", str(folder)], capture_output=True, text=True
        )
        up_s = time.perf_counter() - started_s
        if done.returncode:
            sys.exit(f"bench: {done.stderr.strip()}")
        state = control.require(place)
        pids = below(state.guard.pid)
        cost = {"up_s": up_s, "processes": len(pids), "pss_bytes": memory_bytes(place)}
        print(f"{size} nodes: up after {up_s:.1f} s", file=sys.stderr, flush=True)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("GEXEC_")}
        yield environ | environment(place, state), cost
    finally:
        subprocess.run([*command, "down", "--dir", str(folder)], stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)


def memory_bytes(place: Layout) -> float:
    """Return the proportional share of memory of all processes of a cluster."""
    return float(sum(processes.pss_bytes(pid) for pid in below(control.require(place).guard.pid)))


def below(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    found = [pid]
    for one in found:
        found += children_of(one)
    return found


# -- measurements -----------------------------------------------------------------------------


def gexec_words(*words: str) -> list[str]:
    """Return the argv of the installed gexec with these arguments."""
    script = BIN / "gexec"
    return [*([] if os.access(script, os.X_OK) else [sys.executable]), str(script), *words]


def job_s(size: int, command: str, environ: dict[str, str]) -> float:
    """Return the seconds of one whole gexec, from its start to its end; wrong output ends the run."""
    started_s = time.perf_counter()
    done = subprocess.run(
        gexec_words("-n", "0", "-p", "none", command),
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=JOB_DEADLINE_S,
    )
    taken_s = time.perf_counter() - started_s
    lines = done.stdout.count(b"\n")
    if done.returncode or done.stderr or lines != (size if command == "hostname" else 0):
        said = done.stderr.decode(errors="replace").strip()[:500]
        print(f"bench: {command} on {size} nodes: status {done.returncode}, {lines} lines, {said}")
        sys.exit(1)
    return taken_s


def measure_size(size: int, repeat: int) -> dict[str, Any]:
    """Measure cold and warm jobs on ``size`` nodes, taking turns with the floor."""
    print(f"{size} nodes: starting", file=sys.stderr, flush=True)
    found: dict[str, Any] = {}
    with cluster(size) as (environ, cost):
        found["start"] = cost
        found["cold_s"] = job_s(size, COMMANDS[0], environ)
        for command in COMMANDS:
            path = shutil.which(command) or sys.exit(f"bench: {command} is not in PATH")
            for _ in range(WARM_UP):
                job_s(size, command, environ)
            floors, warm = [], []
            # In turns, so that other load on this machine slows down both equally.
            for _ in range(repeat):
                settle()
                floors.append(floor_s([path], size))
                settle()
                warm.append(job_s(size, command, environ))
            found[command] = {"floor_s": floors, "warm_s": warm}
        cost["pss_after_bytes"] = memory_bytes(Layout.of(environ["GEXEC_CLUSTER_DIR"]))
    return found


def settle() -> None:
    """Wait until the machine is idle, at most SETTLE_MAX_S.

    Daemons drop a job up to a second after it; neither the floor nor the next job may be measured during
    that.
    """
    deadline_s = time.monotonic() + SETTLE_MAX_S
    time.sleep(1.5)
    while time.monotonic() < deadline_s:
        before = cpu_ticks()
        time.sleep(0.3)
        idle, total = (after - earlier for after, earlier in zip(cpu_ticks(), before, strict=True))
        if idle >= 0.7 * total:
            return


def cpu_ticks() -> tuple[int, int]:
    """Return the idle ticks and the total ticks of all cores together."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def measure_start(repeat: int) -> dict[str, Any]:
    """Measure `gexec -n 1 true` against the start of the same interpreter, in turns."""
    interpreter = [sys.executable, "-I", "-c", "pass"]
    starts, jobs = [], []
    with cluster(1) as (environ, _):
        for _ in range(3):
            spawned_s(gexec_words("-n", "1", "true"), environ)
        for _ in range(repeat):
            starts.append(spawned_s(interpreter, environ))
            jobs.append(spawned_s(gexec_words("-n", "1", "true"), environ))
    return {"interpreter_s": starts, "gexec_s": jobs}


def spawned_s(argv: list[str], environ: dict[str, str]) -> float:
    """Return the seconds from the start of a command to its end."""
    started_s = time.perf_counter()
    pid = os.posix_spawn(argv[0], argv, environ)
    _, status = os.waitpid(pid, 0)
    taken_s = time.perf_counter() - started_s
    if status:
        print(f"bench: {' '.join(argv)} failed")
        sys.exit(1)
    return taken_s


def measure_ssh(sizes: list[int]) -> dict[str, Any]:
    """Measure ssh and pdsh over our own sshd, if they are installed."""
    absent = missing()
    if absent:
        return {"skipped": f"not installed: {absent}"}
    found: dict[str, Any] = {}
    has_pdsh = shutil.which("pdsh") is not None
    if not has_pdsh:
        found["skipped"] = "not installed: pdsh"
    try:
        with LocalSshd() as sshd:
            for size in sizes:
                addresses = [node_address(index) for index in range(size)]
                one = found[str(size)] = dict[str, float]()
                if size <= SSH_NODES_MAX:
                    one["ssh_s"] = sshd.ssh_s(addresses, "hostname", at_once=CORES)
                if has_pdsh and size <= PDSH_NODES_MAX:
                    one["pdsh_s"] = sshd.pdsh_s(addresses, "hostname")
    except RuntimeError as error:
        found["skipped"] = str(error)
    return found


# -- the report -------------------------------------------------------------------------------


def table(results: dict[str, Any]) -> str:
    """Return all figures as text."""
    where = results["machine"]
    lines = [
        f"{where['cores']} cores of {where['cpu']}, Linux {where['kernel']}, Python {where['python']}, "
        f"{where['user']}; daemons {where['daemons']}; seconds, medians of the warm runs",
        "",
        f"{'nodes':>6} {'command':<9} {'floor':>8} {'cold':>8} {'warm':>8} {'best':>8} {'warm/floor':>11}",
    ]
    for size, found in results["sizes"].items():
        for command in COMMANDS:
            floors, warm = found[command]["floor_s"], found[command]["warm_s"]
            ratio = statistics.median(warm) / statistics.median(floors)
            cold = f"{found['cold_s']:8.3f}" if command == COMMANDS[0] else " " * 8
            mark = "" if size < 256 else " <= 2.5" if ratio <= TARGET_WARM_RATIO else " over 2.5"
            lines.append(
                f"{size:>6} {command:<9} {statistics.median(floors):8.4f} {cold} "
                f"{statistics.median(warm):8.3f} {min(warm):8.3f} {ratio:11.2f}{mark}"
            )
    one = results["one_node"]
    start, job = statistics.median(one["interpreter_s"]), statistics.median(one["gexec_s"])
    mark = "<=" if job / start <= TARGET_ONE_NODE_RATIO else "over"
    lines += [
        "",
        f"gexec -n 1 true: {job * 1000:.1f} ms; python3 -I -c pass: {start * 1000:.1f} ms; "
        f"{job / start:.2f} times ({mark} {TARGET_ONE_NODE_RATIO:g})",
        "",
        f"{'nodes':>6} {'up':>8} {'processes':>10} {'memory (PSS)':>13} {'after jobs':>13}",
    ]
    for size, found in results["sizes"].items():
        cost = found["start"]
        before, after = cost["pss_bytes"] / 1e6, cost["pss_after_bytes"] / 1e6
        lines.append(
            f"{size:>6} {cost['up_s']:6.1f} s {cost['processes']:10.0f} {before:10.0f} MB {after:10.0f} MB"
        )
    lines += ["", *ssh_lines(results["ssh"])]
    return "\n".join(lines)


def ssh_lines(found: dict[str, Any]) -> list[str]:
    """Return the figures of ssh and pdsh, or the reason why there are none."""
    lines = []
    for size, one in found.items():
        if size != "skipped" and one:
            figures = ", ".join(f"{name.removesuffix('_s')} {value:.2f} s" for name, value in one.items())
            lines.append(f"{size:>6} nodes over a local sshd, hostname: {figures}")
    if "skipped" in found:
        lines.append(f"ssh and pdsh were not measured: {found['skipped']}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
