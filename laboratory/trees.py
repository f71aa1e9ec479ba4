"""Random trees of files in two versions, and whether what is on a disk is made of these two.

For runs of real copies (laboratory.copying). Random is what the caller's generator gives: a seed is a tree.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import NamedTuple

#: Contents of all files of a tree.
TREE_MAX_BYTES = 6 * 1024 * 1024
_BLOCK = 64 * 1024
_NAMES = ("with space", "new\nline", "-n", "*", "ä", "%h", "'", "\\", "~", "x" * 200)
_MTIME_NS = 1_600_000_000_000_000_000
#: Names that are temporary (docs/files.md).
TEMPORARY = ".gexec-"


class TreeEntry(NamedTuple):
    """A file, link or directory: ``content`` is the file's, or the link's target, or nothing."""

    kind: str
    content: bytes
    mode: int
    mtime_ns: int


#: Entries by their paths; every directory comes before what is in it.
Tree = dict[str, TreeEntry]


def random_tree(rng: Random) -> Tree:
    """Return a directory ``tree`` of files of all sizes, links and directories, and a file ``single``."""
    tree: Tree = {"tree": _entry(rng, "directory")}
    folders = ["tree"]
    left = rng.choice((1, 4, 8)) * TREE_MAX_BYTES // 8
    for number in range(rng.randint(3, 60)):
        name = rng.choice(_NAMES) + str(number) if rng.random() < 0.2 else f"f{number}"
        path = f"{folders[-1] if rng.random() < 0.3 else rng.choice(folders)}/{name}"
        kind = rng.random()
        if kind < 0.2 and path.count("/") < 20 and len(path) < 2000:
            tree[path] = _entry(rng, "directory")
            folders.append(path)
        elif kind < 0.3:
            target = rng.choice(("nowhere", "/etc/hostname", "..", rng.choice(list(tree)))).encode()
            tree[path] = _entry(rng, "link", target)
        else:
            content = _content(rng, left)
            left -= len(content)
            tree[path] = _entry(rng, "file", content)
    tree["single"] = _entry(rng, "file", _content(rng, left))
    return tree


def older(rng: Random, tree: Mapping[str, TreeEntry]) -> Tree:
    """Return what this tree may have been: some entries are missing or different, and some are more."""
    old: Tree = {}
    for path, entry in tree.items():
        above = os.path.dirname(path)
        if (above and above not in old) or (path != "tree" and rng.random() < 0.15):
            continue
        chance = rng.random()
        if entry.kind == "directory" or chance < 0.4:
            old[path] = entry._replace(mtime_ns=entry.mtime_ns - 10**9 * rng.randint(0, 1))
        elif chance < 0.5:  # a file where a link is now, and the other way round
            kind, content = ("link", b"old") if entry.kind == "file" else ("file", b"old")
            old[path] = _entry(rng, kind, content)
        elif entry.kind == "link":
            old[path] = entry._replace(content=b"elsewhere")
        else:
            size = len(entry.content) if rng.random() < 0.5 else rng.randint(0, 100_000)
            old[path] = _entry(rng, "file", rng.randbytes(size))
    for number in range(rng.randint(0, 8)):
        above = rng.choice([path for path, entry in old.items() if entry.kind == "directory"])
        kind = rng.choice(("file", "link", "directory"))
        old[f"{above}/extra{number}"] = _entry(rng, kind, b"" if kind == "directory" else b"extra")
    return old


def _entry(rng: Random, kind: str, content: bytes = b"") -> TreeEntry:
    mode = rng.choice((0o755, 0o700) if kind == "directory" else (0o644, 0o600, 0o755))
    return TreeEntry(kind, content, mode, _MTIME_NS + rng.randint(0, 10**9) * 1000)


def _content(rng: Random, left: int) -> bytes:
    size = min(left, rng.choice((0, 1, 100, 5000, _BLOCK, 100_001, 20 * _BLOCK, 2_500_000)))
    content = rng.randbytes(size)
    if size >= 3 * _BLOCK and rng.random() < 0.3:  # a hole
        content = content[:_BLOCK] + bytes(_BLOCK) + content[2 * _BLOCK :]
    return content


def write(tree: Mapping[str, TreeEntry], top: Path) -> None:
    """Make these entries below an existing directory."""
    for path, entry in tree.items():
        target = top / path
        if entry.kind == "directory":
            target.mkdir()
        elif entry.kind == "link":
            os.symlink(entry.content, os.fsencode(target))
        else:
            target.write_bytes(entry.content)
    for path, entry in reversed(list(tree.items())):
        if entry.kind != "link":
            os.chmod(top / path, entry.mode)
            os.utime(top / path, ns=(entry.mtime_ns, entry.mtime_ns))


def read(top: Path) -> Tree:
    """Return everything below a directory."""
    tree: Tree = {}
    waiting = [""]
    while waiting:
        above = waiting.pop()
        for name in sorted(os.listdir(top / above)):
            path = f"{above}/{name}" if above else name
            status = os.lstat(top / path)
            mode, mtime_ns = stat.S_IMODE(status.st_mode), status.st_mtime_ns
            if stat.S_ISDIR(status.st_mode):
                tree[path] = TreeEntry("directory", b"", mode, mtime_ns)
                waiting.append(path)
            elif stat.S_ISLNK(status.st_mode):
                tree[path] = TreeEntry("link", os.readlink(os.fsencode(top / path)), mode, mtime_ns)
            else:
                tree[path] = TreeEntry("file", (top / path).read_bytes(), mode, mtime_ns)
    return tree


def fingerprint(top: Path) -> dict[str, tuple[int, ...]]:
    """Return inode, size, times and mode of everything below a directory: what no reader changes."""
    found: dict[str, tuple[int, ...]] = {}
    for folder, directories, files in os.walk(top):
        for name in directories + files:
            status = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (
                status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode
            )  # fmt: skip
    return found


class TreeRules:
    """What a copy with some options may leave.

    Args:
        delete, backup: as --delete and --backup.
    """

    def __init__(self, delete: bool = False, backup: bool = False) -> None:
        self.delete = delete
        self.backup = backup

    def broken(
        self, found: Mapping[str, TreeEntry], old: Mapping[str, TreeEntry], new: Mapping[str, TreeEntry]
    ) -> list[str]:
        """Return what is neither old nor new, after a copy that may have ended anywhere."""
        wrong = []
        for path, entry in found.items():
            if os.path.basename(path).startswith(TEMPORARY):
                wrong.append(f"{path!r} is a temporary file")
            elif not any(_same(entry, wanted) for wanted in self._allowed(path, old, new)):
                wrong.append(f"{path!r} ({entry.kind}, {len(entry.content)} bytes) is neither old nor new")
        for path in old:
            if path not in found and (path in new or not self.delete):
                wrong.append(f"{path!r} was there and is not any more")
        return wrong

    def missing(
        self, found: Mapping[str, TreeEntry], old: Mapping[str, TreeEntry], new: Mapping[str, TreeEntry]
    ) -> list[str]:
        """Return what is not as it must be after a whole copy."""
        wrong = []
        for path, wanted in new.items():
            entry = found.get(path)
            if entry is None or not _same(entry, wanted):
                wrong.append(f"{path!r} is not the new one")
            elif wanted.kind != "link":
                if entry.mode != wanted.mode:
                    wrong.append(f"{path!r} has mode {entry.mode:o}, not {wanted.mode:o}")
                if entry.mtime_ns != wanted.mtime_ns:
                    wrong.append(f"{path!r} has another time")
            before = old.get(path)
            is_replaced = before is not None and before.kind != "directory" and not _same(before, wanted)
            if self.backup and is_replaced and f"{path}~" not in found:
                wrong.append(f"{path!r} was replaced without a backup")
        if self.delete and self.backup:
            gone = [path for path, entry in old.items() if path not in new and entry.kind != "directory"]
            kept = [path for path in gone if not path.endswith("~") and f"{path}~" not in found]
            wrong += [f"{path!r} was deleted without a backup" for path in kept]
        if self.delete:
            # A directory stays if a backup stays in it.
            extra = [
                path
                for path, entry in found.items()
                if path.startswith("tree/")
                and path not in new
                and not (self.backup and entry.kind == "directory")
            ]
            wrong += [f"{path!r} is not deleted" for path in extra if not path.endswith("~")]
        return wrong

    def _allowed(
        self, path: str, old: Mapping[str, TreeEntry], new: Mapping[str, TreeEntry]
    ) -> list[TreeEntry]:
        allowed = [tree[path] for tree in (old, new) if path in tree]
        if self.backup and path.endswith("~") and path[:-1] in old:
            allowed.append(old[path[:-1]])
        return allowed


def _same(one: TreeEntry, other: TreeEntry) -> bool:
    return one[:2] == other[:2]
