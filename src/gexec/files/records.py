"""The records of an archive stream: their layouts, and a decoder's events. Pure.

A stream is a preamble and records; docs/files.md has the tables. Everything except the files' contents is
covered by a chain of sha256 at the end of each record; each file's contents are covered by a separate digest
in FILE_END. In a signed stream, SIGNATURE covers the chain, and so everything before it.
"""

from __future__ import annotations

from struct import Struct

from gexec import limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gexec.files.entries import StreamEntry

MAGIC = b"gexfiles"
VERSION = 3
#: magic, version, flags, the sender's boot id
PREAMBLE = Struct("!8sBB16s")
#: Receivers answer each list, and only the contents that one of them lacks are sent.
ASKING = 1
#: Digests come instead of contents: for receivers that compare.
DIGESTS_ONLY = 2
#: Nothing counts before a signature covers it.
SIGNED = 4

#: kind, bytes that follow (for DATA: after the offset)
HEAD = Struct("!BI")
OFFSET = Struct("!Q")
#: number of a list
NUMBER = Struct("!I")
#: index of a file in its list, its digest
DIGEST_OF = Struct("!H32s")
#: index of a file in its list, its size and mtime in ns now
CONTENTS_OF = Struct("!HQq")
#: device, bytes of the kind; then kind and source
DEVICE = Struct("!QB")
PROBLEMS = Struct("!Q")
#: A sha256: the chain at the end of each record except DATA, and the contents' digest in FILE_END.
DIGEST_BYTES = 32
#: Instead of a file's digest in DIGESTS.
UNREADABLE = bytes(DIGEST_BYTES)

DEVICES = 1
RULES = 2
LIST = 3
DIGESTS = 4
CONTENTS = 5
DATA = 6
FILE_END = 7
FILE_BAD = 8
DONE = 9
WAIT = 10
PACKED = 11
END = 12
SIGNATURE = 13

#: The longest record that is not DATA or PACKED: a list (whose entries are compressed), or the rules.
CONTROL_MAX_BYTES = limits.ARCHIVE_LIST_MAX_BYTES + 4096
#: A PACKED record holds this much: records and one full DATA.
PACKED_MAX_BYTES = limits.ARCHIVE_DATA_MAX_BYTES + 256 * 1024


class Event:
    """An event of a decoder.

    Not a wire.record.Record: only this package is sent to a node without gexec.
    """

    __slots__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


class Device(Event):
    """A device of the entries is a network file system: its kind (``nfs4``) and what is mounted."""

    __slots__ = ("device", "kind", "source")

    def __init__(self, device: int, kind: bytes, source: bytes) -> None:
        self.device = device
        self.kind = kind
        self.source = source


class FilterRules(Event):
    """The rules by which the sender left out files, as lines (gexec.files.patterns)."""

    __slots__ = ("lines",)

    def __init__(self, lines: Sequence[bytes]) -> None:
        self.lines = lines


class Listed(Event):
    """A list of entries, in order. Lists are numbered from 0; some may come ahead of their contents."""

    __slots__ = ("entries", "number")

    def __init__(self, number: int, entries: Sequence[StreamEntry]) -> None:
        self.number = number
        self.entries = entries


class Digests(Event):
    """Digests of some files of a list, by their indexes; UNREADABLE where the sender cannot read the file."""

    __slots__ = ("digests", "number")

    def __init__(self, number: int, digests: Mapping[int, bytes]) -> None:
        self.number = number
        self.digests = digests


class Contents(Event):
    """A file's contents begin: the file with this index in the oldest list that is not done.

    ``size`` and ``mtime_ns`` are those now, when it is sent. Data events and FileEnd or FileBad follow.
    """

    __slots__ = ("index", "mtime_ns", "size")

    def __init__(self, index: int, size: int, mtime_ns: int) -> None:
        self.index = index
        self.size = size
        self.mtime_ns = mtime_ns


class Data(Event):
    """Bytes of the current file at ``offset``, ascending; bytes between them are zeros.

    ``data`` is valid until the handler returns.
    """

    __slots__ = ("data", "offset")

    def __init__(self, offset: int, data: memoryview) -> None:
        self.offset = offset
        self.data = data


class FileEnd(Event):
    """The current file is complete and its digest verified."""

    __slots__ = ("digest",)

    def __init__(self, digest: bytes) -> None:
        self.digest = digest


class FileBad(Event):
    """The sender could not read the current file to its end: drop it."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class ListDone(Event):
    """All contents of the oldest list have come."""

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


class End(Event):
    """The stream is complete. ``problems``: entries that could not be sent, including FileBad and Skipped."""

    __slots__ = ("problems",)

    def __init__(self, problems: int) -> None:
        self.problems = problems
