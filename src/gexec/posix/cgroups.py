"""Control groups (cgroup v2) by their files: a *cell* for each task, below the group ``jobs`` of a gexecd.

Cells are threaded groups, because only a thread that moves itself inside one threaded domain is moved
without a grace period of the kernel (docs/decisions/0031-cells.md). Only root can move a process.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

from gexec.errors import ConfigError
from gexec.posix import descendants

#: The group, below the one that gexecd may divide, that has the starter, the helpers and all cells.
JOBS: Final = "jobs"
AUTO, NONE = "auto", "none"
#: systemd marks the groups that it has delegated.
_DELEGATED: Final = ("user.delegate", "trusted.delegate")
_READ_BYTES: Final = 64 * 1024
#: The sticky bit of a cell's directory: what is in it was left alone. It outlives every process of gexecd.
_LEFT: Final = 0o1755
_USED: Final = 0o755


def divisible(setting: str) -> tuple[str, str]:
    """Return the directory of the group that gexecd may divide, or "" and the reason.

    Args:
        setting: AUTO: the own group, or the one above it, if systemd has delegated it; NONE; or a directory.

    Raises:
        ConfigError: the given directory is not a group of cgroup v2.
    """
    if setting == NONE:
        return "", "the settings forbid it"
    if setting != AUTO:
        if not os.path.exists(f"{setting}/cgroup.procs") or not os.path.exists(f"{setting}/cgroup.type"):
            # The root of the hierarchy has no type; it is systemd's, or the container's.
            raise ConfigError(f"control_group = {setting[:80]!r}: it is no group of cgroup v2 below the root")
        return setting, ""
    try:
        mount, above = _mount()
        own = _path_of("self")
    except (OSError, ValueError):
        return "", "cgroup v2 is not mounted"
    own = own.removeprefix(above) if above != "/" else own
    place = mount + own.rstrip("/")
    for candidate in (place, os.path.dirname(place)):
        if candidate.startswith(mount + "/") and _is_delegated(candidate):
            if not os.access(candidate, os.W_OK):
                return "", f"{candidate} is read-only"
            return candidate, ""
    return "", "systemd has delegated none to gexecd (Delegate= in gexecd.service)"


def _mount() -> tuple[str, str]:
    """Return where cgroup v2 is mounted, and the group that is its root there."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields, _, kind = line.partition(" - ")
            if kind.startswith("cgroup2 "):
                return fields.split()[4], fields.split()[3]
    raise ValueError("cgroup v2 is not mounted")


def _path_of(pid: int | str) -> str:
    with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.startswith("0::"):
                return line[3:].rstrip("\n")
    raise ValueError("the process is in no group of cgroup v2")


def _is_delegated(directory: str) -> bool:
    for name in _DELEGATED:
        with contextlib.suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False


def cell_of(pid: int) -> str:
    """Return the name of the cell that a process is in; "" if it is in none, or has ended."""
    try:
        path = _path_of(pid)
    except (OSError, ValueError):
        return ""
    _, found, below = path.partition(f"/{JOBS}/")
    return below.partition("/")[0] if found else ""


def is_divided(pid: int) -> bool:
    """Tell whether a process, a starter, is in the group that has the cells."""
    try:
        return _path_of(pid).endswith(f"/{JOBS}")
    except (OSError, ValueError):
        return False


def members(fd: int) -> bytes:
    """Return the first thread ids in the cell whose ``cgroup.threads`` this is; b"" if nothing runs there.

    Processes that have ended and were not reaped do not count.
    """
    return os.pread(fd, 16, 0)


class CellTree:
    """The group ``jobs`` and its cells. The calling process is in ``jobs`` from then on, not in a cell.

    Args:
        parent: the directory of the group that this process may divide.

    Raises:
        OSError: it cannot.
    """

    def __init__(self, parent: str) -> None:
        self.place = f"{parent}/{JOBS}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.place, 0o755)
        _write(f"{self.place}/cgroup.procs", b"0")

    def home(self) -> int:
        """Return a new descriptor of ``jobs``: writing 0 to it moves the calling thread back there."""
        return os.open(f"{self.place}/cgroup.threads", os.O_RDWR | os.O_CLOEXEC)

    def make(self, name: str) -> int:
        """Make a cell; return a descriptor: writing 0 to it moves the calling thread there.

        The permission to do so is that of the process that opened it, so whoever gets it needs no other.

        Raises:
            OSError: it cannot be made.
        """
        path = f"{self.place}/{name}"
        os.mkdir(path, _USED)
        try:
            _write(f"{path}/cgroup.type", b"threaded")
            return os.open(f"{path}/cgroup.threads", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            os.rmdir(path)
            raise

    def names(self) -> list[str]:
        """Return the names of all cells, those of earlier gexecds included."""
        with os.scandir(self.place) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]

    def leave(self, name: str) -> None:
        """Mark a cell: what is in it is left alone, also by later gexecds."""
        with contextlib.suppress(OSError):
            os.chmod(f"{self.place}/{name}", _LEFT)

    def is_left(self, name: str) -> bool:
        """Tell whether the cell has this mark."""
        try:
            return os.stat(f"{self.place}/{name}").st_mode & 0o7777 == _LEFT
        except OSError:
            return False

    def remove(self, name: str) -> bool:
        """Remove a cell; False if something runs in it."""
        try:
            for directory, _, _ in os.walk(f"{self.place}/{name}", topdown=False):
                os.rmdir(directory)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    def end(self, name: str) -> bool:
        """Stop everything in a cell and send it SIGKILL; True if nothing was there, and the cell is removed.

        The cell stays frozen, so that nothing in it forks: what a fork that was under way adds is ended by
        the next call.
        """
        path = f"{self.place}/{name}"
        with contextlib.suppress(OSError):
            _write(f"{path}/cgroup.freeze", b"1")
        found = False
        for directory, _, _ in os.walk(path):  # only a task of root can have made groups below
            for thread in _threads(f"{directory}/cgroup.threads"):
                found = True
                _kill(thread, name)
        return not found and self.remove(name)


def _threads(path: str) -> list[int]:
    pieces = []
    try:
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(_READ_BYTES):
                pieces.append(piece)
    except OSError:
        return []
    return [int(thread) for thread in b"".join(pieces).split()]


def _kill(thread: int, cell: str) -> None:
    """Kill the process of a thread. Its pidfd is opened before its cell is checked (attack 84)."""
    pidfd = -1
    try:
        pidfd = os.pidfd_open(descendants.process_of(thread))
        if cell_of(thread) == cell:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except OSError:
        pass  # it has ended
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _write(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)
