"""Measures copying files to all nodes: ensync next to cat, scp, pdcp and clush, in the same run.

Usage: python bench/copying.py [--sizes 512:2,512:8,256:32] [--small 10000] [--again 5000:500] [--dir DIR]

All "nodes" are this machine, and each has its own directory in --dir, by default in memory, so that no disk
affects the result. The result is the bytes of all copies together, divided by the seconds from the command's
start until it has ended and everything is on the disk (`sync -f`). Beside it are the CPU seconds of all
processes involved, which other load on the machine changes less.

What is there already (--again) is copied by ensync, rsync and clush in turns. Beside the seconds are the
bytes that the loopback interface sent, less what it sent before, when idle. Other load disturbs that; as
root, `unshare -n sh -c 'ip link set lo up; make bench-copy'` has an interface of its own.

Exit status: 0 measured, 1 a copy failed or differs from the original. Speed never fails the run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from again import again_lines, measure_again
from copiers import (
    MIB,
    BenchError,
    Ours,
    Place,
    Ssh,
    by_cat,
    by_cp,
    cpu_s,
    described,
    guard_of,
    place_in,
    sshd_settings,
    timed,
)
from run import BIN, cluster, machine, settle
from sshd import LocalSshd, missing

#: Bytes of a small file, and small files in a directory.
SMALL_BYTES = 1000
FILES_PER_FOLDER = 100
SMALL_NODES = 8
TARGET_SCP_RATIO = 5.0
TARGET_SPREAD = 0.75
TARGET_SMALL_RATIO = 10.0


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
    parser.add_argument(
        "--again",
        type=again_of,
        default="5000:500",
        help="FILES:MIB of what is there already (default: 5000:500; 0:0: nothing)",
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
        if any(options.again) and not options.no_ssh and options.by == "ensync":
            results["again"] = measure_again(*options.again, max(1, options.repeat), options.dir)
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


def again_of(text: str) -> tuple[int, int]:
    """Return the value of --again."""
    files, _, mib = text.partition(":")
    return count_of(files), count_of(mib)


def count_of(text: str) -> int:
    """Return a number that is not negative."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number, 0 or more")
    return int(text)


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
    if "again" in results:
        lines += ["", *again_lines(results["again"])]
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
