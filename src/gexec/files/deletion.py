"""Removes entries that a stream does not have: through descriptors, following no links, within one mount."""

from __future__ import annotations

import os
import stat

from gexec import limits
from gexec.files.directories import RefusedError, open_below


def remove(above: int, name: bytes) -> int:
    """Remove ``name`` in an open directory, and everything below it.

    Returns:
        How many entries were removed.

    Raises:
        RefusedError: something is mounted there or below, or it is too deep; entries may already be removed.
        OSError: something cannot be removed.
    """
    return _remove(above, name, _mount(above), limits.ARCHIVE_DEPTH_MAX)


def _remove(above: int, name: bytes, mount: str, depth: int) -> int:
    if not stat.S_ISDIR(os.lstat(name, dir_fd=above).st_mode):
        os.unlink(name, dir_fd=above)
        return 1
    if not depth:
        raise RefusedError("it is too deep to be removed: remove it by hand")
    descriptor = open_below(above, name, to_read=True)
    try:
        if _mount(descriptor) != mount:
            raise RefusedError("another file system is mounted there: it is not changed")
        count = 1
        for entry in os.listdir(descriptor):
            count += _remove(descriptor, os.fsencode(entry), mount, depth - 1)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=above)
    return count


def _mount(descriptor: int) -> str:
    """Return an open directory's mount id: a bind mount of the same file system has another one."""
    device = str(os.fstat(descriptor).st_dev)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("mnt_id:"):
                    return device + line
    except OSError:
        pass
    return device
