"""The entries of an archive stream: what is copied, without the contents; and lists of them. Pure.

A list is a batch of entries in the order of the walk. It is compressed by zlib: owners, modes and the
beginnings of paths repeat.
"""

from __future__ import annotations

import zlib
from struct import Struct
from struct import error as StructError

from gexec import limits
from gexec.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    #: Extended attributes: (name, value), ascending by name.
    Attributes = tuple[tuple[bytes, bytes], ...]

#: kind, flags, mode, uid, gid, mtime in ns, size, device, inode;
#: bytes of owner, group, path, target and attributes
_ENTRY = Struct("!BBHIIqQQQBBHHI")
#: bytes of a name and of its value
_ATTRIBUTE = Struct("!BI")

DIRECTORY, FILE, SYMLINK, HARD_LINK, SKIPPED, REMOVAL = range(1, 7)
#: Of a file: its size is not that of its contents (/proc, /sys), so it cannot be compared by it.
UNSIZED = 1
#: Of a file: a hard link to it follows.
IS_LINKED = 2
#: Attributes were read; without it, whatever a receiver has stays.
_HAS_ATTRIBUTES = 4
#: Of a directory: only some of its entries are sent.
IS_PARTIAL = 8
_FLAGS_ALL = UNSIZED | IS_LINKED | _HAS_ATTRIBUTES | IS_PARTIAL

_TIME_MAX_NS = 2**63 - 1
SIZE_MAX_BYTES = 2**63 - 1


class Meta:
    """What an entry is besides its contents.

    Attributes:
        mode: permission bits (07777).
        uid, gid, owner, group: as numbers and names; an empty name is unknown.
        mtime_ns: of the last change of the contents.
        attributes: extended attributes, ACLs and capabilities among them; None: they were not read.
        device, inode: of the source, on its host; 0: unknown.
    """

    __slots__ = ("attributes", "device", "gid", "group", "inode", "mode", "mtime_ns", "owner", "uid")

    def __init__(
        self,
        mode: int,
        uid: int,
        gid: int,
        mtime_ns: int,
        owner: bytes,
        group: bytes,
        *,
        attributes: Attributes | None = None,
        device: int = 0,
        inode: int = 0,
    ) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime_ns = mtime_ns
        self.owner = owner
        self.group = group
        self.attributes = attributes
        self.device = device
        self.inode = inode


class StreamEntry:
    """An entry. ``path`` is relative, its components joined by ``/`` (checked by check_path)."""

    __slots__: tuple[str, ...] = ("meta", "path")

    def __init__(self, path: bytes, meta: Meta) -> None:
        self.path = path
        self.meta = meta

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r})"


class Directory(StreamEntry):
    """A directory; the entries below it follow.

    Attributes:
        is_whole: all entries in it are in the stream, except those left out by the rules.
    """

    __slots__ = ("is_whole",)

    def __init__(self, path: bytes, meta: Meta, *, is_whole: bool = True) -> None:
        super().__init__(path, meta)
        self.is_whole = is_whole


class File(StreamEntry):
    """A regular file of ``size`` bytes.

    Attributes:
        is_unsized: ``size`` says nothing about its contents.
        is_linked: a HardLink to it follows.
    """

    __slots__ = ("is_linked", "is_unsized", "size")

    def __init__(
        self, path: bytes, meta: Meta, size: int, *, is_unsized: bool = False, is_linked: bool = False
    ) -> None:
        super().__init__(path, meta)
        self.size = size
        self.is_unsized = is_unsized
        self.is_linked = is_linked


class Symlink(StreamEntry):
    """A symbolic link to ``target``, which is bytes without NUL and is never followed."""

    __slots__ = ("target",)

    def __init__(self, path: bytes, meta: Meta, target: bytes) -> None:
        super().__init__(path, meta)
        self.target = target


class HardLink(StreamEntry):
    """One more name of the file ``first``, an earlier entry of the stream."""

    __slots__ = ("first", "size")

    def __init__(self, path: bytes, meta: Meta, size: int, first: bytes) -> None:
        super().__init__(path, meta)
        self.size = size
        self.first = first


class Skipped(StreamEntry):
    """Something that is not sent. No reason: its kind is not copied."""

    __slots__ = ("reason",)

    def __init__(self, path: bytes, meta: Meta, reason: str) -> None:
        super().__init__(path, meta)
        self.reason = reason


class Removal(StreamEntry):
    """What must not be there. ``meta`` is that of the sender's own entry of this path, if it has one."""

    __slots__ = ()


_KINDS: dict[type[StreamEntry], int] = {
    Directory: DIRECTORY, File: FILE, Symlink: SYMLINK, HardLink: HARD_LINK, Skipped: SKIPPED,
    Removal: REMOVAL,
}  # fmt: skip


def packed_entry(entry: StreamEntry) -> bytes:
    """Return an entry's bytes in a list, before compression."""
    size = flags = 0
    target = b""
    if isinstance(entry, File):
        size = entry.size
        flags = UNSIZED * entry.is_unsized | IS_LINKED * entry.is_linked
    elif isinstance(entry, Directory):
        flags = IS_PARTIAL * (not entry.is_whole)
    elif isinstance(entry, Symlink):
        target = entry.target
    elif isinstance(entry, HardLink):
        size, target = entry.size, entry.first
    elif isinstance(entry, Skipped):
        target = entry.reason.encode("utf-8", "backslashreplace")[: limits.TEXT_MAX_BYTES]
    meta = entry.meta
    attributes = b""
    if meta.attributes is not None:
        flags |= _HAS_ATTRIBUTES
        attributes = b"".join(
            [_ATTRIBUTE.pack(len(name), len(value)) + name + value for name, value in meta.attributes]
        )
    fixed = _ENTRY.pack(
        _KINDS[type(entry)],
        flags,
        meta.mode,
        meta.uid,
        meta.gid,
        max(-_TIME_MAX_NS, min(_TIME_MAX_NS, meta.mtime_ns)),
        size,
        meta.device,
        meta.inode,
        len(meta.owner),
        len(meta.group),
        len(entry.path),
        len(target),
        len(attributes),
    )
    return b"".join((fixed, meta.owner, meta.group, entry.path, target, attributes))


def packed_list(entries: Iterable[bytes]) -> bytes:
    """Return a list's bytes: entries from packed_entry, compressed."""
    return zlib.compress(b"".join(entries), 1)


def unpacked_list(packed: bytes) -> list[StreamEntry]:
    """Return the entries of a list.

    Raises:
        ProtocolError: they are not an encoder's, or more than ARCHIVE_LIST_MAX.
    """
    inflater = zlib.decompressobj()
    try:
        data = inflater.decompress(packed, limits.ARCHIVE_LIST_MAX_BYTES)
    except zlib.error as error:
        raise ProtocolError(f"a list in the archive stream is damaged: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise ProtocolError(f"a list in the archive stream is over {limits.ARCHIVE_LIST_MAX_BYTES} bytes")
    entries: list[StreamEntry] = []
    position = 0
    try:
        while position < len(data):
            entry, position = _entry(data, position)
            entries.append(entry)
    except StructError as error:
        raise ProtocolError(f"an entry in the archive stream is malformed: {error}") from error
    if not 0 < len(entries) <= limits.ARCHIVE_LIST_MAX:
        raise ProtocolError(f"a list of {len(entries)} entries in the archive stream is over the limit")
    return entries


def _entry(data: bytes, at: int) -> tuple[StreamEntry, int]:
    (
        kind, flags, mode, uid, gid, mtime_ns, size, device, inode,
        owner_bytes, group_bytes, path_bytes, target_bytes, attributes_bytes,
    ) = _ENTRY.unpack_from(data, at)  # fmt: skip
    at += _ENTRY.size
    owner, at = data[at : at + owner_bytes], at + owner_bytes
    group, at = data[at : at + group_bytes], at + group_bytes
    path, at = data[at : at + path_bytes], at + path_bytes
    target, at = data[at : at + target_bytes], at + target_bytes
    attributes, at = data[at : at + attributes_bytes], at + attributes_bytes
    if at > len(data) or mode & ~0o7777 or flags & ~_FLAGS_ALL or size > SIZE_MAX_BYTES:
        raise ProtocolError("an entry in the archive stream is malformed")
    meta = Meta(mode, uid, gid, mtime_ns, owner, group, device=device, inode=inode)
    if flags & _HAS_ATTRIBUTES:
        meta.attributes = _attributes(attributes)
    elif attributes:
        raise ProtocolError("an entry in the archive stream is malformed")
    if kind == FILE and not target:
        is_linked = bool(flags & IS_LINKED)
        return File(path, meta, size, is_unsized=bool(flags & UNSIZED), is_linked=is_linked), at
    if kind == DIRECTORY and not target:
        return Directory(path, meta, is_whole=not flags & IS_PARTIAL), at
    if kind == SYMLINK and 0 < len(target) <= limits.ARCHIVE_TARGET_MAX_BYTES and b"\0" not in target:
        return Symlink(path, meta, target), at
    if kind == HARD_LINK:
        check_path(target)
        return HardLink(path, meta, size, target), at
    if kind == SKIPPED and len(target) <= limits.TEXT_MAX_BYTES:
        return Skipped(path, meta, target.decode("utf-8", "replace")), at
    if kind == REMOVAL and not target:
        return Removal(path, meta), at
    raise ProtocolError("an entry in the archive stream is malformed")


def _attributes(data: bytes) -> Attributes:
    found: list[tuple[bytes, bytes]] = []
    at = 0
    last = b""
    while at < len(data):
        name_bytes, value_bytes = _ATTRIBUTE.unpack_from(data, at)
        at += _ATTRIBUTE.size
        name = data[at : at + name_bytes]
        at += name_bytes
        value = data[at : at + value_bytes]
        at += value_bytes
        if at > len(data) or name <= last or b"\0" in name or len(found) >= limits.ARCHIVE_ATTRIBUTES_MAX:
            raise ProtocolError("the extended attributes of an entry in the archive stream are malformed")
        last = name
        found.append((name, value))
    return tuple(found)


def check_path(path: bytes) -> list[bytes]:
    """Return the components of an entry's path.

    Raises:
        ProtocolError: it is absolute, empty, too long or too deep, or has an empty component, ``.``, ``..``
            or a NUL.
    """
    parts = path.split(b"/")
    if len(path) > limits.ARCHIVE_PATH_MAX_BYTES or len(parts) > limits.ARCHIVE_DEPTH_MAX:
        raise ProtocolError(f"a path of {len(path)} bytes and {len(parts)} parts is over the limit")
    for part in parts:
        if not part or part == b"." or part == b".." or len(part) > limits.ARCHIVE_NAME_MAX_BYTES:
            raise ProtocolError(f"the path {_shown(path)} has a part that is not a valid name")
    if b"\0" in path:
        raise ProtocolError(f"the path {_shown(path)} contains a NUL")
    return parts


def is_below(parts: Sequence[bytes], above: Sequence[bytes]) -> bool:
    """True if the path with these components is ``above`` or is below it."""
    return list(parts[: len(above)]) == list(above)


def _shown(path: bytes) -> str:
    return ascii(path[:200])[2:-1]
