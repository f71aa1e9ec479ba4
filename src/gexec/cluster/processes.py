"""Processes of this host from /proc: identity, families, and ending them.

A pid alone does not identify a process, because pids are reused. A :class:`Process` is a pid with the start
time that its process had when it was read; it is only signalled while both match.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import NamedTuple

from gexec.posix import descendants

_CLONE_NEWUTS = 0x04000000
#: Task flag: forked, and has not called exec since (include/linux/sched.h).
_PF_FORKNOEXEC = 0x40

_libc = ctypes.CDLL(None, use_errno=True)


class Process(NamedTuple):
    """One process: its pid and its start time in clock ticks since boot (/proc/PID/stat, field 22)."""

    pid: int
    start: int


def seen(pid: int) -> Process | None:
    """Return the process that has this pid now, or None if there is none or it is a zombie."""
    stat = descendants.stat_of(pid)
    return None if stat is None or stat.state in "ZX" else Process(pid, stat.born)


def myself() -> Process:
    """Return the calling process."""
    process = seen(os.getpid())
    if process is None:
        raise RuntimeError("/proc is not mounted: gexec needs it to identify processes")
    return process


def is_alive(process: Process) -> bool:
    """True if this process still runs (a zombie does not)."""
    return seen(process.pid) == process


def send_signal(process: Process, signum: int) -> bool:
    """Signal this process; False if it has ended (even if its pid was reused)."""
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:
        return False
    try:
        # The pidfd was opened first, so this checks the process to which it refers.
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)
    return True


def forked_family(main: Process) -> list[Process]:
    """Return ``main`` and its descendants that are forks of it and have not run another program.

    These are a daemon's spawner, relay and helpers, and never a task: a task has called exec, and a subshell
    of a task has another command line.
    """
    if not is_alive(main):
        return []
    words = _command_line(main.pid)
    family = [main]
    for parent in family:
        for pid in descendants.children_of(parent.pid):
            stat = descendants.stat_of(pid)
            if (
                stat is not None
                and stat.state not in "ZX"
                and stat.flags & _PF_FORKNOEXEC
                and _command_line(pid) == words
            ):
                family.append(Process(pid, stat.born))
    return family


def _command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""


def pss_bytes(pid: int) -> int:
    """Return a process's proportional share of memory in bytes; 0 if it is gone or may not be read."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def enter_uts_namespace() -> bool:
    """Give the calling process its own host name; False if that is not allowed."""
    return bool(_libc.unshare(ctypes.c_int(_CLONE_NEWUTS)) == 0)
