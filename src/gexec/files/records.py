"""The records of an archive stream: their layouts, and a decoder's events. Pure.

A stream is a preamble and records; docs/files.md has the tables. Everything except the files' contents is
covered by a chain of sha256 at the end of each record; each file's contents are covered by a separate digest
in FILE_END.
"""

from __future__ import annotations

from struct import Struct

from gexec import limits
from gexec.errors import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = b"gexfiles"
VERSION = 1
#: magic, version, flags
PREAMBLE = Struct("!8sBB")
COMPRESSED = 1
DIGESTS_ONLY = 2

#: kind, bytes that follow (for DATA: after the offset)
HEAD = Struct("!BI")
OFFSET = Struct("!Q")
#: mode, uid, gid, mtime in ns, bytes of owner, group and path, size of a file
ENTRY = Struct("!HIIqBBHQ")
PATH_LENGTH = Struct("!H")
PROBLEMS = Struct("!Q")
#: A sha256: the chain at the end of each record except DATA, and the contents' digest in FILE_END.
DIGEST_BYTES = 32

DIRECTORY = 1
FILE = 2
SYMLINK = 3
DATA = 4
FILE_END = 5
FILE_BAD = 6
SKIPPED = 7
END = 8

#: The longest record that is not DATA: an entry with the longest names, path and target.
CONTROL_MAX_BYTES = (
    ENTRY.size + 2 * 255 + limits.ARCHIVE_PATH_MAX_BYTES + limits.ARCHIVE_TARGET_MAX_BYTES + DIGEST_BYTES
)
MTIME_MAX_NS = 2**63 - 1
FILE_SIZE_MAX_BYTES = 2**63 - 1


class Meta:
    """Permission bits (07777) of an entry, its owner and group as ids and names, its mtime in ns."""

    __slots__ = ("gid", "group", "mode", "mtime_ns", "owner", "uid")

    def __init__(self, mode: int, uid: int, gid: int, mtime_ns: int, owner: bytes, group: bytes) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime_ns = mtime_ns
        self.owner = owner
        self.group = group


class Event:
    """An event of a decoder. ``path`` is relative, its components joined by ``/`` (checked by check_path).

    Not a wire.record.Record: only this package is sent to a node without gexec.
    """

    __slots__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


class Directory(Event):
    """A directory; the entries below it follow."""

    __slots__ = ("meta", "path")

    def __init__(self, path: bytes, meta: Meta) -> None:
        self.path = path
        self.meta = meta


class File(Event):
    """A regular file of ``size`` bytes begins; Data events and FileEnd or FileBad follow."""

    __slots__ = ("meta", "path", "size")

    def __init__(self, path: bytes, meta: Meta, size: int) -> None:
        self.path = path
        self.meta = meta
        self.size = size


class Symlink(Event):
    """A symbolic link to ``target``, which is bytes without NUL and is never followed."""

    __slots__ = ("meta", "path", "target")

    def __init__(self, path: bytes, meta: Meta, target: bytes) -> None:
        self.path = path
        self.meta = meta
        self.target = target


class Data(Event):
    """Bytes of the current file at ``offset``, ascending; bytes between them are zeros.

    ``data`` is valid until the handler returns.
    """

    __slots__ = ("data", "offset")

    def __init__(self, offset: int, data: memoryview) -> None:
        self.offset = offset
        self.data = data


class FileEnd(Event):
    """The current file is complete and its digest verified (in a stream of digests: this is its digest)."""

    __slots__ = ("digest",)

    def __init__(self, digest: bytes) -> None:
        self.digest = digest


class FileBad(Event):
    """The sender could not read the current file to its end: drop it."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Skipped(Event):
    """The sender did not send this. No reason: its kind is not copied."""

    __slots__ = ("path", "reason")

    def __init__(self, path: bytes, reason: str) -> None:
        self.path = path
        self.reason = reason


class End(Event):
    """The stream is complete. ``problems``: entries that could not be sent, including FileBad and Skipped."""

    __slots__ = ("problems",)

    def __init__(self, problems: int) -> None:
        self.problems = problems


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
