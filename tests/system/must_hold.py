"""Tools of the tests that hold the project to its list of what must hold."""

from __future__ import annotations

import itertools
import os
import subprocess
from pathlib import Path

from gexec.cluster import processes

from .conftest import DEADLINE_S, Cluster, wait_until

_numbers = itertools.count(1)


def marker() -> str:
    """Return a number that no other process's arguments hold: `sleep <marker>` is found again."""
    return f"77{os.getpid():07d}{next(_numbers):03d}"


def marked(mark: str, but: int = 0) -> list[int]:
    """Return the living processes with ``mark`` in their arguments, wherever they hang, without ``but``."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in (but, os.getpid()):
            continue
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in words and processes.seen(int(entry)) is not None:
            found.append(int(entry))
    return found


def wait_started(mark: str, count: int, client: subprocess.Popen[bytes]) -> None:
    """Wait until ``count`` processes with ``mark`` run, besides the client whose words hold it too."""
    wait_until(lambda: len(marked(mark, client.pid)) >= count, f"not {count} processes of {mark}")


def wait_gone(mark: str, but: int = 0) -> None:
    """Wait until no process with ``mark`` is left."""
    wait_until(lambda: not marked(mark, but), f"left: {[_command(pid) for pid in marked(mark, but)]}")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return "?"


def end(client: subprocess.Popen[bytes]) -> tuple[bytes, bytes]:
    """Return what the client said, after its end."""
    try:
        out, err = client.communicate(timeout=DEADLINE_S)
    except subprocess.TimeoutExpired:
        client.kill()
        out, err = client.communicate()
        raise AssertionError(f"gexec does not end; it said {err[-2000:]!r}") from None
    return out or b"", err or b""


def sorted_lines(data: bytes) -> list[str]:
    """Return the lines, sorted."""
    return sorted(data.decode().splitlines())


class Peaks:
    """How much the resident memory of processes grows from now on, at its highest.

    The kernel's own high-water mark (VmHWM) is reset, so no short peak is missed. Where that is
    not allowed it stays as it is, which can only make the growth look larger.
    """

    def __init__(self, pids: list[int]) -> None:
        self._from: dict[int, int] = {}
        for pid in pids:
            try:
                Path(f"/proc/{pid}/clear_refs").write_text("5")
            except OSError:
                pass
            self._from[pid] = _status_kb(pid, "VmRSS")

    def growth_bytes(self) -> dict[int, int]:
        """Return for each process that lives its growth."""
        grown = {}
        for pid, before_kb in self._from.items():
            try:
                grown[pid] = (_status_kb(pid, "VmHWM") - before_kb) * 1024
            except (OSError, StopIteration):
                continue
        return grown


def _status_kb(pid: int, field: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def daemons(cluster: Cluster) -> list[int]:
    """Return the pids of all daemons' processes."""
    return [process.pid for name in cluster.names for process in cluster.daemon(name)]
