"""Descendants of this process, from /proc, and signals that are safe against pid reuse.

An unreaped child of this process keeps its pid, so it may be signalled by its pid. For any deeper
process, a pidfd is opened first, and then the parent is checked, so that it is the right process (attack 84).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from stat import S_ISFIFO
from typing import Final, NamedTuple

#: One read: 65536 bytes hold the pids of some 9000 children.
_READ_BYTES: Final = 64 * 1024
_ENVIRON_MAX_BYTES: Final = 2 * 1024 * 1024
#: Maximum of descriptors of one process that are checked.
_FDS_MAX: Final = 1024
#: Rounds of searching for children that were forked while the tree was being stopped.
_STOP_ROUNDS_MAX: Final = 12


class Children:
    """This process's own children, read from one descriptor that stays open.

    Make it in the process itself (after a fork, not before), in its main thread.
    """

    def __init__(self) -> None:
        try:
            self._fd = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._fd = -1  # a kernel without CONFIG_PROC_CHILDREN

    def pids(self) -> list[int]:
        """Return the pids of all children, with zombies."""
        if self._fd < 0:
            return _children_by_scan(os.getpid())
        pieces = []
        position = 0
        while piece := os.pread(self._fd, _READ_BYTES, position):
            pieces.append(piece)
            position += len(piece)
            if len(piece) < _READ_BYTES // 2:
                break
        return [int(pid) for pid in b"".join(pieces).split()]

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Stat(NamedTuple):
    """The used fields of /proc/PID/stat. ``born`` is the start time, in ``clock.ticks``."""

    parent: int
    group: int
    session: int
    state: str
    born: int
    name: str
    flags: int


def stat_of(pid: int) -> Stat | None:
    """Return the fields of a process, or None if it has ended."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        raw = os.read(fd, 4096)
    except OSError:
        return None
    finally:
        os.close(fd)
    # The command's name is in parentheses and may contain any character, also parentheses.
    begin, end = raw.find(b"(") + 1, raw.rfind(b")")
    fields = raw[end + 2 :].split()
    if len(fields) < 20:
        return None
    name = raw[begin:end].decode("utf-8", "backslashreplace")
    state = fields[0].decode("ascii", "replace")
    return Stat(int(fields[1]), int(fields[2]), int(fields[3]), state, int(fields[19]), name, int(fields[6]))


def process_of(thread: int) -> int:
    """Return the pid of the process that a thread belongs to.

    Raises:
        OSError: the thread has ended.
    """
    with open(f"/proc/{thread}/status", "rb", buffering=0) as file:
        return int(file.read(4096).partition(b"\nTgid:")[2].split(maxsplit=1)[0])


def children_of(pid: int) -> list[int]:
    """Return the children of all threads of another process; empty if it has ended."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                while piece := file.read(_READ_BYTES):
                    found += [int(child) for child in piece.split()]
                    if len(piece) < _READ_BYTES // 2:
                        break
        except FileNotFoundError:
            if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
                return _children_by_scan(pid)
        except (OSError, ValueError):
            pass  # that thread has ended
    return found


def _children_by_scan(parent: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            stat = stat_of(int(name))
            if stat is not None and stat.parent == parent:
                found.append(int(name))
    return found


def environ_of(pid: int) -> list[bytes]:
    """Return the environment that the process was started with; empty if it cannot be read."""
    try:
        fd = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        pieces = []
        size = 0
        while size < _ENVIRON_MAX_BYTES and (piece := os.read(fd, _READ_BYTES)):
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces).split(b"\0")
    except OSError:
        return []
    finally:
        os.close(fd)


def pipe_inodes(fds: Iterable[int]) -> frozenset[int]:
    """Return the inodes of those of this process's descriptors that are pipes."""
    states = [os.fstat(fd) for fd in fds]
    return frozenset([state.st_ino for state in states if S_ISFIFO(state.st_mode)])


def pipes_of(pid: int) -> set[int]:
    """Return the inodes of the pipes that a process holds; empty if /proc cannot be read.

    Only the first 1024 descriptors of a process are checked.
    """
    found: set[int] = set()
    directory = f"/proc/{pid}/fd"
    try:
        names = os.listdir(directory)
    except OSError:
        return found
    for name in names[:_FDS_MAX]:
        try:
            target = os.readlink(f"{directory}/{name}")
        except OSError:
            continue  # the process has closed it
        if target.startswith("pipe:["):
            found.add(int(target[6:-1]))
    return found


def uid_of(pid: int) -> int | None:
    """Return the effective uid of a process (the owner of its /proc directory), or None."""
    try:
        return os.stat(f"/proc/{pid}/stat").st_uid
    except OSError:
        return None


def send(pid: int, signum: int, parent: int) -> bool:
    """Signal a process if it is still a child of ``parent``; True if it was signalled.

    The pidfd is opened before the parent is checked, so that a process that got a recycled pid in
    between gets no signal.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        stat = stat_of(pid)
        if stat is None or stat.parent != parent:
            return False
        signal.pidfd_send_signal(pidfd, signum)
        return True
    except OSError:
        return False
    finally:
        os.close(pidfd)


def send_tree(roots: list[int], signums: tuple[int, ...]) -> int:
    """Signal the children ``roots`` and all processes below them; return how many were reached.

    The caller's duty: the roots are unreaped children of this process.
    """
    me = os.getpid()
    reached = 0
    queue = [(root, me) for root in roots]
    while queue:
        pid, parent = queue.pop()
        below = children_of(pid)
        ok = False
        for signum in signums:
            ok = send(pid, signum, parent) or ok
        reached += ok
        queue += [(child, pid) for child in below]
    return reached


def kill_tree(roots: list[int]) -> int:
    """End the children ``roots`` and all processes below them with SIGKILL; return how many.

    The tree is stopped from the top before any process is killed: a stopped process does not fork,
    and a process keeps its parent while the parent lives. Processes of a fork bomb that is faster than
    the rounds here become orphans, for the next call (attack 61).
    """
    me = os.getpid()
    known: dict[int, int] = dict.fromkeys(roots, me)
    fresh = list(roots)
    for _ in range(_STOP_ROUNDS_MAX):
        for pid in fresh:
            send(pid, signal.SIGSTOP, known[pid])
        fresh = []
        for pid in list(known):
            for child in children_of(pid):
                if child not in known:
                    known[child] = pid
                    fresh.append(child)
        if not fresh:
            break
    # From the bottom, so that each process still has the parent that ``send`` checks.
    return sum([send(pid, signal.SIGKILL, known[pid]) for pid in reversed(known)])
