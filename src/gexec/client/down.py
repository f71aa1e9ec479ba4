"""Nodes that could not be reached lately: a small file of each user, for --skip-down.

``${XDG_CACHE_HOME:-~/.cache}/gexec/down`` has a line ``seconds-since-1970 name`` for each. It is a
comfort and never a reason to fail: what cannot be read or written is left alone. Only a folder of
this user that nobody else may write to is used, so that root follows nobody's symbolic link.
Loaded only when a node failed or --skip-down is given.
"""

from __future__ import annotations

import os
import time

from gexec import limits
from gexec.select.nodes import folded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME = "down"
_LINE_MAX_BYTES = limits.NAME_MAX_BYTES + 24


def lately_down() -> set[str]:
    """Return the names, folded, of nodes that could not be reached in the last DOWN_FORGET_S."""
    try:
        folder = _open_folder(make=False)
    except OSError:
        return set()
    try:
        return set(_read(folder, time.time()))
    finally:
        os.close(folder)


def remember(down: Iterable[str], reached: Iterable[str]) -> None:
    """Write down which nodes could not be reached, and strike out those that were.

    Without ``down`` this costs one look at whether there is anything to strike out. Never fails.
    """
    new = {folded(name) for name in down}
    try:
        folder = _open_folder(make=bool(new))
    except OSError:
        return
    try:
        _update(folder, new, {folded(name) for name in reached}, time.time())
    except OSError:
        pass
    finally:
        os.close(folder)


def _update(folder: int, new: set[str], reached: set[str], now_s: float) -> None:
    old = _read(folder, now_s)
    entries = {name: seen_s for name, seen_s in old.items() if name not in reached}
    if not new and len(entries) == len(old):
        return
    entries.update({name: int(now_s) for name in new})
    if not entries:
        os.unlink(_NAME, dir_fd=folder)
        return
    latest = sorted(entries, key=entries.__getitem__)[-limits.DOWN_NODES_MAX :]
    text = "".join([f"{entries[name]} {name}\n" for name in latest])
    draft = f"{_NAME}.{os.getpid()}"
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    try:
        with open(fd, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        os.rename(draft, _NAME, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        os.unlink(draft, dir_fd=folder)
        raise


def _read(folder: int, now_s: float) -> dict[str, int]:
    """Return name -> seconds since 1970 of what is not forgotten yet; lines that are none are skipped."""
    try:
        fd = os.open(_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return {}
    try:
        raw = os.read(fd, limits.DOWN_NODES_MAX * _LINE_MAX_BYTES)
    except OSError:
        raw = b""  # a folder, or a pipe without anything in it
    finally:
        os.close(fd)
    entries = {}
    for line in raw.decode("utf-8", "surrogateescape").splitlines():
        seconds, _, name = line.partition(" ")
        if name and seconds.isascii() and seconds.isdigit() and len(seconds) <= 18:
            seen_s = int(seconds)
            if -1 <= now_s - seen_s < limits.DOWN_FORGET_S:
                entries[name] = seen_s
    return entries


def _open_folder(make: bool) -> int:
    """Return a descriptor of the folder; OSError if it is not there, or not this user's alone."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = os.path.expanduser("~/.cache")
    if not base.startswith("/"):
        raise FileNotFoundError("this user has no home directory")
    path = os.path.join(base, "gexec")
    if make:
        there = path
        while not os.path.exists(there):
            there = os.path.dirname(there)
        _check(os.stat(there))
        os.makedirs(path, 0o700, exist_ok=True)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _check(os.fstat(folder))
    except OSError:
        os.close(folder)
        raise
    return folder


def _check(status: os.stat_result) -> None:
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError("not this user's alone")
