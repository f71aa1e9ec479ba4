"""Why the system does not permit a change of an entry: the flags that chattr sets, which no error names."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from gexec.files.directories import reason

#: FS_IOC_GETFLAGS, as linux/fs.h computes it: the direction's bits differ by architecture.
_READS = 0x40000000 if os.uname().machine.startswith(("ppc", "mips", "sparc", "alpha")) else 0x80000000
_GET_FLAGS = _READS | struct.calcsize("l") << 16 | ord("f") << 8 | 1
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def why_unchangeable(above: int, name: bytes, error: OSError) -> str:
    """Return why an entry cannot be replaced, renamed or removed, and what to do, for errors.

    Args:
        above: its directory, open; O_PATH is enough.
        error: what the system reported.
    """
    if error.errno == errno.EPERM:
        flags = _flags(above, name)
        if flags & _IMMUTABLE:
            return "it is immutable: run chattr -i on it first"
        if flags & _APPEND_ONLY:
            return "it is append-only: run chattr -a on it first"
        flags = _flags(above, b".")
        if flags & _IMMUTABLE:
            return "its directory is immutable: run chattr -i on that first"
        if flags & _APPEND_ONLY:
            return "its directory is append-only: run chattr -a on that first"
    return reason(error)


def _flags(above: int, name: bytes) -> int:
    """Return the flags of a file or directory; 0 if they cannot be read."""
    try:
        # Only these are opened: opening a device or a pipe has effects.
        if stat.S_IFMT(os.lstat(name, dir_fd=above).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            return 0
        descriptor = os.open(name, _OPEN, dir_fd=above)
    except OSError:
        return 0
    try:
        found: int = struct.unpack_from("=I", fcntl.ioctl(descriptor, _GET_FLAGS, bytes(8)))[0]
    except OSError:
        return 0
    finally:
        os.close(descriptor)
    return found
