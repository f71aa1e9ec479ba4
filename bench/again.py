"""Copying to 8 nodes what is there already, or nearly: ensync next to a loop of rsync and clush --copy."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from copiers import MIB, BenchError, Ours, Place, Ssh, cpu_s, guard_of, place_in, sshd_settings, timed
from run import cluster, settle
from sshd import LocalSshd, missing

NODES = 8
#: Bytes of each of many files, and files in a directory.
_FILE_BYTES = 4000
_IN_FOLDER = 100
#: How long other traffic on the loopback interface is measured.
_IDLE_S = 2.0

#: Name -> what copies a place's source to all its nodes.
Tools = dict[str, Callable[[Place], None]]


def measure_again(files: int, mib: int, repeat: int, directory: str) -> dict[str, Any]:
    """Measure three cases with all tools in turn; seconds, CPU seconds and bytes sent of each repetition."""
    if absent := missing():
        return {"skipped": f"not installed: {absent}"}
    rows: dict[str, dict[str, dict[str, list[float]]]] = {}
    wanted = (NODES + 1) * max(mib * MIB, files * 2 * 4096)
    with (
        place_in(directory, NODES, wanted) as place,
        cluster(NODES) as (environ, _),
        LocalSshd(sshd_settings(place)) as sshd,
    ):
        ssh = Ssh(sshd)
        tools: Tools = {"ensync": Ours("ensync", place, environ).whole}
        if shutil.which("rsync"):
            tools["rsync in a loop"] = ssh.rsync
        if ssh.has_clush():
            tools["clush --copy -p"] = ssh.clush_over
        daemons = [guard_of(environ), sshd.pid]
        if files:
            _make_tree(place.source, files)
            _spread(place)
            rows[f"{files} files, unchanged"] = _in_turns(tools, place, repeat, daemons)
            one = place.source / "0000" / "000000"
            rows[f"{files} files, 1 changed"] = _in_turns(tools, place, repeat, daemons, one)
            shutil.rmtree(place.source)
        if mib:
            with open(place.source, "wb") as file:
                for _ in range(mib):
                    file.write(os.urandom(MIB))  # so that compression does not help
            _spread(place)
            rows[f"{mib} MiB, unchanged"] = _in_turns(tools, place, repeat, daemons)
    return {"nodes": NODES, "rows": rows}


def _make_tree(top: Path, files: int) -> None:
    for number in range(files):
        path = top / f"{number // _IN_FOLDER:04d}" / f"{number:06d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(_FILE_BYTES))


def _spread(place: Place) -> None:
    """Give every node an exact copy, with times."""
    place.clear()
    for name in place.names:
        subprocess.run(["cp", "-a", str(place.source), str(place.target / name)], check=True)


def _in_turns(
    tools: Tools, place: Place, repeat: int, daemons: Sequence[int], changed: Path | None = None
) -> dict[str, dict[str, list[float]]]:
    """Return each tool's figures of all repetitions; ``changed``: it gets new contents before each."""
    found: dict[str, dict[str, list[float]]] = {name: {"s": [], "cpu_s": [], "bytes": []} for name in tools}
    for _ in range(repeat):
        for name, tool in tools.items():
            if changed is not None:
                changed.write_bytes(os.urandom(_FILE_BYTES))
            settle()
            idle = _idle_bytes_per_s()
            before_s, before_bytes = cpu_s(list(daemons)), _loopback_bytes()
            taken_s = timed(lambda tool=tool: tool(place), place)  # type: ignore[misc]
            sent = _loopback_bytes() - before_bytes - idle * taken_s
            for key, figure in (("s", taken_s), ("cpu_s", cpu_s(list(daemons)) - before_s), ("bytes", sent)):
                found[name][key].append(figure)
            print(f"  {name}: {taken_s:.2f} s, {sent / MIB:.2f} MiB", file=sys.stderr, flush=True)
            if changed is not None:
                _check_one(place, changed, name)
    place.check("the last tool")
    return found


def _check_one(place: Place, changed: Path, what: str) -> None:
    content, path = changed.read_bytes(), changed.relative_to(place.source.parent)
    for name in place.names:
        if (place.target / name / path).read_bytes() != content:
            raise BenchError(f"{what}: the changed file is not on {name}")


def _loopback_bytes() -> int:
    """Return the bytes that the loopback interface has sent: headers included, to all nodes together."""
    for line in Path("/proc/net/dev").read_text(encoding="ascii").splitlines():
        name, _, fields = line.partition(":")
        if name.strip() == "lo":
            return int(fields.split()[8])
    raise BenchError("there is no loopback interface: no bytes can be measured")


def _idle_bytes_per_s() -> float:
    """Return what others send at present (daemons that wait: very little)."""
    before = _loopback_bytes()
    time.sleep(_IDLE_S)
    return (_loopback_bytes() - before) / _IDLE_S


def again_lines(found: dict[str, Any]) -> list[str]:
    """Return the figures as text, with ratios to ensync's."""
    if "skipped" in found:
        return [f"what is there already: {found['skipped']}"]
    lines = []
    for row, tools in found["rows"].items():
        title = f"{row}, {found['nodes']} nodes"
        heading = f"{'s':>7} {'cpu s':>7} {'MiB sent':>9}   of ensync's: {'s':>6} {'sent':>6}"
        lines += ["", f"{title:<34} {heading}"]
        ours = {key: statistics.median(figures) for key, figures in tools["ensync"].items()}
        for name, figures in tools.items():
            own = {key: statistics.median(values) for key, values in figures.items()}
            lines.append(
                f"  {name:<32} {own['s']:7.2f} {own['cpu_s']:7.2f} {own['bytes'] / MIB:9.2f}"
                f"{'':15} {own['s'] / ours['s']:6.2f} {own['bytes'] / max(1.0, ours['bytes']):6.2f}"
            )
    return lines[1:]
