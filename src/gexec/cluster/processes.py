"""Processes of this host from /proc: identity, children, and ending them.

A pid alone does not identify a process, because pids are reused. A :class:`Process` is a pid with the start
time that its process had when it was read; it is only signalled while both match.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWUTS = 0x04000000
#: Task flag: forked, and has not called exec since (include/linux/sched.h).
_PF_FORKNOEXEC = 0x40

_libc = ctypes.CDLL(None, use_errno=True)


class Process(NamedTuple):
    """One process: its pid and its start time in clock ticks since boot (/proc/PID/stat, field 22)."""

    pid: int
    start: int


class _Stat(NamedTuple):
    state: str
    parent: int
    flags: int
    start: int


def _stat(pid: int) -> _Stat | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    # The name in parentheses may contain anything, even parentheses: the rest starts after the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    return _Stat(fields[0].decode(), int(fields[1]), int(fields[6]), int(fields[19]))


def seen(pid: int) -> Process | None:
    """Return the process that has this pid now, or None if there is none or it is a zombie."""
    stat = _stat(pid)
    return None if stat is None or stat.state in "ZX" else Process(pid, stat.start)


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


def children(pid: int) -> list[int]:
    """Return the pids of a process's children, zombies included, in no particular order."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                found += [int(word) for word in file.read().split()]
    except FileNotFoundError:
        if not os.path.exists(f"/proc/{pid}"):
            return []
        return _children_by_scan(pid)
    except ProcessLookupError:
        return []
    return found


def _children_by_scan(parent: int) -> list[int]:
    """Like ``children``, on a kernel without CONFIG_PROC_CHILDREN."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = _stat(int(name))
            if stat is not None and stat.parent == parent:
                found.append(int(name))
    return found


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
        for pid in children(parent.pid):
            stat = _stat(pid)
            if (
                stat is not None
                and stat.state not in "ZX"
                and stat.flags & _PF_FORKNOEXEC
                and _command_line(pid) == words
            ):
                family.append(Process(pid, stat.start))
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


def become_subreaper() -> None:
    """Make the calling process inherit its orphaned descendants, so that it can end them."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(signum: int) -> None:
    """Let the kernel send ``signum`` to the calling process when its parent dies.

    The parent may already be gone: the caller's duty is to compare os.getppid() afterwards.
    """
    _prctl(_PR_SET_PDEATHSIG, signum)


def set_name(name: str) -> None:
    """Set what ps and top show as the calling process's name; the kernel keeps 15 bytes."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


def _prctl(option: int, value: int | ctypes.c_char_p) -> None:
    argument = value if isinstance(value, ctypes.c_char_p) else ctypes.c_ulong(value)
    if _libc.prctl(ctypes.c_int(option), argument, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def enter_uts_namespace() -> bool:
    """Give the calling process its own host name; False if that is not allowed."""
    return bool(_libc.unshare(ctypes.c_int(_CLONE_NEWUTS)) == 0)
