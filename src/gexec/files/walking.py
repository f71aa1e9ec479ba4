"""Walks what is sent, in the order of the stream, and opens its files when their contents are needed.

Every directory is opened through its parent's descriptor and without following links, so that other users
cannot redirect the walk. What cannot be read is found as SKIPPED, with the reason.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator
from heapq import heappop, heappush

from gexec import limits
from gexec.files.patterns import NO_RULES, Rules
from gexec.files.reading import may_be_unsized, unreadable
from gexec.files.roots import ALL, NO_MATCH, TOO_LONG
from gexec.files.temporary import is_temporary
from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gexec.files.entries import Attributes
    from gexec.files.roots import SourceRoot

    #: Called with a file or directory that was found, and a path to it that leads through no link.
    Inspect = Callable[["Found", bytes], None]

#: Kinds of what is found.
DIRECTORY, FILE, SYMLINK, SKIPPED, REMOVAL = range(1, 6)
_KINDS = {stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK}
_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_ABOVE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: O_NONBLOCK: in case it has become a named pipe since lstat.
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Found:
    """An entry of the walk.

    Attributes:
        root: what it is, or is below.
        name: its path in the stream; b"" if it can only be reported.
        kind: DIRECTORY, FILE, SYMLINK, SKIPPED, or REMOVAL: must not be there.
        status: of fstat for a directory, of lstat for others; None if that failed.
        target: of a symbolic link.
        reason: of SKIPPED: why it is not sent although it should be; "" if its kind is not copied.
        is_whole: of DIRECTORY: everything in it is found, except what rules leave out. False for one of which
            only some entries are sent.
        attributes: extended attributes, None if they were not asked for.
        is_unsized: of a file: its size is not that of its contents, as in /proc.
    """

    __slots__ = (
        "attributes", "is_unsized", "is_whole", "kind", "name", "reason", "root", "status", "target",
    )  # fmt: skip

    def __init__(
        self,
        root: SourceRoot,
        name: bytes,
        kind: int,
        status: os.stat_result | None = None,
        target: bytes = b"",
        reason: str = "",
    ) -> None:
        self.root = root
        self.name = name
        self.kind = kind
        self.status = status
        self.target = target
        self.reason = reason
        self.is_whole = kind == DIRECTORY
        self.attributes: Attributes | None = None
        self.is_unsized = False

    @property
    def is_directory(self) -> bool:
        """Return True for a directory, also one that is SKIPPED."""
        return self.status is not None and stat.S_ISDIR(self.status.st_mode)

    @property
    def path(self) -> bytes:
        """Return its absolute path on this host, for messages."""
        return self.root.path + self.name[len(self.root.name) :]

    @property
    def fits(self) -> bool:
        """Return False if it has no name, or one that is too long or deep for a stream: only report it."""
        return self.name != b"" and _fits(self.name)

    @property
    def problem(self) -> str:
        """Return the sentence about something SKIPPED."""
        if self.reason == NO_MATCH:
            return f"{shown(self.path)}: {self.reason}"
        if self.reason or self.status is None:
            return f"{shown(self.path)}: not sent: {self.reason}"
        is_ours = is_temporary(self.name.rpartition(b"/")[2])
        what = "a temporary file of another copy" if is_ours else _special(self.status)
        return f"{shown(self.path)}: {what} is not copied"


def walk(
    roots: Sequence[SourceRoot], rules: Rules = NO_RULES, inspect: Inspect | None = None
) -> Iterator[Found]:
    """Yield everything that is to be sent: ascending by the components of its name, directories first.

    Uses one descriptor for each directory that the current entry is in. Close the iterator if it is not
    used to its end.

    Args:
        roots: from roots_of or listed_roots, in their order. A root that is below another one takes the
            place of the entry of that name there.
        rules: which entries are left out.
        inspect: fills in what is to be known of each file and directory.
    """
    begin = 0
    while begin < len(roots):
        end = begin + 1
        while end < len(roots) and roots[end].name.startswith(roots[begin].name + b"/"):
            end += 1
        if end == begin + 1:
            yield from _below(roots[begin], rules, inspect)
        else:
            yield from _merged(roots[begin:end], rules, inspect)
        begin = end


def removals(roots: Iterable[SourceRoot]) -> Iterator[Found]:
    """Yield what is to be removed on the nodes; ``status`` is that of this host's own file, if it has one."""
    for root in roots:
        try:
            status = os.lstat(root.place)
        except OSError:
            status = None
        yield Found(root, root.name, REMOVAL, status)


def _merged(roots: Sequence[SourceRoot], rules: Rules, inspect: Inspect | None) -> Iterator[Found]:
    """Yield what ``walk`` does for a root and others that are below it."""
    #: (components of its name, 0 for a root itself, a number, an entry that comes next, what follows it)
    waiting: list[tuple[list[bytes], int, int, Found, Iterator[Found]]] = []
    begun = 0
    last = Found(roots[0], b"", SKIPPED)
    try:
        while waiting or begun < len(roots):
            while begun < len(roots) and (not waiting or roots[begun].name.split(b"/") <= waiting[0][0]):
                root = roots[begun]
                entries = _below(root, rules, inspect)
                if last.name and last.kind != DIRECTORY and root.name.startswith(last.name + b"/"):
                    what = "a symbolic link" if last.kind == SYMLINK else "no directory"
                    reason = f"{shown(last.path)} is copied, too, and is {what}: copy one after the other"
                    entries = iter([Found(root, b"", SKIPPED, reason=reason)])
                _wait(waiting, begun, root, entries)
                begun += 1
            if not waiting:
                continue
            _, _, number, found, entries = heappop(waiting)
            if not found.name:
                yield found
            elif found.name != last.name:
                last = found
                yield found
            _wait(waiting, number, found.root, entries, first=False)
    finally:
        for *_, entries in waiting:
            if isinstance(entries, Generator):
                entries.close()


def _wait(
    waiting: list[tuple[list[bytes], int, int, Found, Iterator[Found]]],
    number: int,
    root: SourceRoot,
    entries: Iterator[Found],
    first: bool = True,
) -> None:
    found = next(entries, None)
    if found is not None:
        heappush(waiting, ((found.name or root.name).split(b"/"), not first, number, found, entries))


def _below(root: SourceRoot, rules: Rules, inspect: Inspect | None) -> Iterator[Found]:
    """Yield a root and what is below it."""
    if root.reason:
        yield Found(root, root.name, SKIPPED, reason=root.reason)
        return
    folder, base = os.path.split(root.place)
    try:
        above = os.open(folder, _ABOVE)
    except OSError as error:
        yield Found(root, root.name, SKIPPED, reason=unreadable(error))
        return
    #: Open directories, what the names in them begin with, and their entries that have not been visited.
    levels = [(above, b"", iter([base]))]
    try:
        while levels:
            directory, prefix, entries = levels[-1]
            entry = next(entries, None)
            if entry is None:
                levels.pop()
                os.close(directory)
                continue
            name = prefix + entry if prefix else root.name
            if not _fits(name):
                yield Found(root, name, SKIPPED, reason=TOO_LONG)
                continue
            found = _look(root, name, directory, entry, is_named=not prefix)
            if not (root.is_certain and not prefix) and rules.excludes(name, found.is_directory):
                continue
            if found.kind == DIRECTORY and root.depth != ALL and len(levels) > root.depth:
                found.is_whole = False
            elif found.kind == DIRECTORY:
                try:
                    inner = os.open(entry, _DIRECTORY | os.O_RDONLY, dir_fd=directory)
                    # First: what has been opened is closed in any case.
                    levels.append((inner, name + b"/", iter(())))
                    inside = sorted(map(os.fsencode, os.listdir(inner)))
                    found.status = os.fstat(inner)
                    levels[-1] = (inner, name + b"/", iter(inside))
                except OSError as error:
                    found.kind, found.reason = SKIPPED, unreadable(error)
            if inspect is not None and found.kind in (FILE, DIRECTORY):
                inspect(found, b"/proc/self/fd/%d/%s" % (directory, entry))
            yield found
    finally:
        for directory, _, _ in levels:
            os.close(directory)


def _look(root: SourceRoot, name: bytes, directory: int, entry: bytes, *, is_named: bool) -> Found:
    """Return what an entry of an open directory is. ``is_named``: the user named it, so it must be sent."""
    try:
        status = os.lstat(entry, dir_fd=directory)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), SKIPPED)
        target = os.readlink(entry, dir_fd=directory) if kind == SYMLINK else b""
    except OSError as error:
        return Found(root, name, SKIPPED, reason=unreadable(error))
    if not is_named and is_temporary(entry):
        return Found(root, name, SKIPPED, status)
    reason = ""
    if kind == SKIPPED and is_named:
        # Otherwise it is no failure; receivers keep what they have there.
        reason = f"it is {_special(status)}; only contents are copied"
    return Found(root, name, kind, status, target, reason)


def _fits(name: bytes) -> bool:
    return len(name) <= limits.ARCHIVE_PATH_MAX_BYTES and name.count(b"/") < limits.ARCHIVE_DEPTH_MAX


def _is_same(before: os.stat_result, after: os.stat_result) -> bool:
    """Return True if both are of one file. Those of /proc may get another inode at any time."""
    return (
        stat.S_ISREG(after.st_mode)
        and before.st_dev == after.st_dev
        and (before.st_ino == after.st_ino or (may_be_unsized(before) and may_be_unsized(after)))
    )


def _special(status: os.stat_result) -> str:
    return _SPECIAL.get(stat.S_IFMT(status.st_mode), "a special file")


class Opener:
    """Opens files that a walk has found, also long after it. ``close`` it, always.

    The directories of the last one stay open, one descriptor for each level: ask for files in the order of
    the walk.
    """

    __slots__ = ("_above", "_levels", "_root")

    def __init__(self) -> None:
        #: Names and descriptors of open directories; the first one is the path that a root is in.
        self._levels: list[tuple[bytes, int]] = []
        #: The last one is this directory of the stream, of this root.
        self._above: bytes | None = None
        self._root: SourceRoot | None = None

    def open(self, found: Found) -> int:
        """Return a descriptor for reading a FILE; the caller closes it.

        No link is followed below the directory that its root is in.

        Raises:
            OSError: it cannot be opened. ELOOP: it is not the file that was found, but another one that has
                replaced it, or a link. ``reading.unreadable`` has the sentence.
        """
        above, _, entry = found.name.rpartition(b"/")
        if len(found.name) == len(found.root.name):
            folder, entry = os.path.split(found.root.place)
            self._go_to([folder])
        elif found.root is not self._root or above != self._above:
            folder, base = os.path.split(found.root.place)
            self._go_to([folder, *(base + above[len(found.root.name) :]).split(b"/")])
            self._root, self._above = found.root, above
        descriptor = os.open(entry, FILE_FLAGS, dir_fd=self._levels[-1][1])
        try:
            if found.status is None or not _is_same(found.status, os.fstat(descriptor)):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        except OSError:
            os.close(descriptor)
            raise
        return descriptor

    def close(self) -> None:
        """Close all directories."""
        self._above = None
        self._leave(0)

    def _go_to(self, wanted: Sequence[bytes]) -> None:
        """Open these directories, each in the one before; those that are open already stay so."""
        self._above = None
        same = 0
        for (name, _), other in zip(self._levels, wanted, strict=False):
            if name != other:
                break
            same += 1
        self._leave(same)
        for name in wanted[same:]:
            self._enter(name)

    def _enter(self, name: bytes) -> None:
        if self._levels:
            descriptor = os.open(name, _DIRECTORY | os.O_PATH, dir_fd=self._levels[-1][1])
        else:
            descriptor = os.open(name, _ABOVE)
        self._levels.append((name, descriptor))

    def _leave(self, count: int) -> None:
        """Close all but the first ``count`` directories."""
        while len(self._levels) > count:
            os.close(self._levels.pop()[1])
