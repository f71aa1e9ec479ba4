"""Private directories of each node of a local cluster, for `gexecctl cluster up --private`.

A daemon enters a mount namespace and mounts an empty tmpfs on each of the directories. All processes that it
forks are in the namespace too: relay, helpers, tasks. So one path is a different file on every node. The
kernel removes the mounts with the last process in the namespace, however that process ends.
"""

from __future__ import annotations

import ctypes
import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from gexec.cluster.layout import ClusterError, Layout
from gexec.errors import UsageError

#: Size limit of a node's directory, in MiB; only its contents use memory.
SIZE_DEFAULT_MIB = 1024
SIZE_MAX_MIB = 1024 * 1024
#: Private directories of one cluster: enough for any test; each is one mount per node.
FOLDERS_MAX = 16

# include/uapi/linux/sched.h and mount.h
_CLONE_NEWNS = 0x00020000
_MS_NOSUID = 1 << 1
_MS_NODEV = 1 << 2
_MS_REC = 1 << 14
_MS_PRIVATE = 1 << 18

_libc = ctypes.CDLL(None, use_errno=True)


def checked(folders: Sequence[str], size_mib: int, place: Layout) -> list[str]:
    """Return the absolute paths of private directories, without symbolic links.

    Args:
        size_mib: size limit of each on each node, 1 to SIZE_MAX_MIB.
        place: the cluster that will have them.

    Raises:
        UsageError: a path is not a directory, cannot be hidden from a daemon, or contains another one; the
            size is out of bounds; the caller is not root.
    """
    if not folders:
        return []
    if os.geteuid() != 0:
        raise UsageError("--private needs root: only root may give a node its own files")
    if not 1 <= size_mib <= SIZE_MAX_MIB:
        raise UsageError(f"--private-size {size_mib}: expected 1 to {SIZE_MAX_MIB} (MiB)")
    if len(folders) > FOLDERS_MAX:
        raise UsageError(f"{len(folders)} private directories: a local cluster has at most {FOLDERS_MAX}")
    paths: list[str] = []
    for folder in folders:
        path = os.path.realpath(folder)
        if not os.path.isdir(path):
            raise UsageError(f"--private {folder}: not a directory; create it first")
        for needed, what in _needed(place):
            if _holds(path, needed):
                raise UsageError(
                    f"--private {folder}: contains {what} ({needed}), which a node needs; "
                    "choose a separate directory"
                )
        for other in paths:
            if _holds(path, other) or _holds(other, path):
                raise UsageError(f"--private {folder}: {other} is already private; give only one of them")
        paths.append(path)
    return paths


def _needed(place: Layout) -> list[tuple[str, str]]:
    """Return the paths that a private directory must not hide, and what they are."""
    files = [place.dir, place.private_key, place.authd_socket, place.log("authd"), place.audit("authd")]
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")]
    found = [
        *((str(path), "the cluster's files") for path in files),
        *((path, "Python") for path in (sys.executable, *libraries)),
        *((str(path), "gexec itself") for path in Path(__file__).parents[1].iterdir()),
        ("/proc", "the processes"),
        ("/dev", "the devices"),
        ("/etc/passwd", "the users"),
        ("/bin/sh", "the shell"),
    ]
    return [(os.path.realpath(path), what) for path, what in found]


def _holds(folder: str, path: str) -> bool:
    return os.path.commonpath([folder, path]) == folder


def enter(folders: Sequence[str], size_mib: int) -> None:
    """Give the calling process, and all that it forks, an empty tmpfs (root's, 0755) at each directory.

    Other processes do not see the mounts. Does nothing if there are no directories.

    Raises:
        ClusterError: the kernel refuses, because a directory is gone or root has no CAP_SYS_ADMIN here.
    """
    if not folders:
        return
    if _libc.unshare(ctypes.c_int(_CLONE_NEWNS)):
        raise ClusterError(f"--private: cannot create a mount namespace here ({_reason()})")
    # In a shared subtree, mounts would appear in the host's namespace too, and the host's mounts here.
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE, None)
    for folder in folders:
        _mount("gexec", folder, "tmpfs", _MS_NOSUID | _MS_NODEV, f"mode=0755,size={size_mib}m")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None) -> None:
    words = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    if _libc.mount(*words[:3], ctypes.c_ulong(flags), words[3]):
        raise ClusterError(f"{target}: cannot be made private to a node ({_reason()})")


def _reason() -> str:
    return os.strerror(ctypes.get_errno())
