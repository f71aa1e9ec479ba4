"""The descriptors that a relay sends for a task's stdin, stdout and stderr."""

from __future__ import annotations

import os
import stat
from typing import Final

_NULL_DEVICE: Final = os.makedev(1, 3)
_NAMES: Final = ("stdin", "stdout", "stderr")


def wrong_fd(fds: tuple[int, ...]) -> str | None:
    """Return what is wrong with a task's stdio, or None: it must be pipes or /dev/null (attack 67)."""
    for number, fd in enumerate(fds):
        status = os.fstat(fd)
        pipe = stat.S_ISFIFO(status.st_mode)
        if not pipe and not (stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL_DEVICE):
            return f"{_NAMES[number]} from the relay is neither a pipe nor /dev/null"
    return None


def close_all(fds: tuple[int, ...]) -> None:
    """Close them."""
    for fd in fds:
        os.close(fd)
