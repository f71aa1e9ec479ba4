"""The job blob: everything that determines what runs where, in the bytes that authd signs.

The client writes it once; every relay and spawner gets exactly these bytes (docs/protocol.md, Job blob), so
any change on the way makes the credential's digest wrong. Part of the thin client: imports only struct and
the leaf modules.
"""

from __future__ import annotations

from struct import Struct

from gexec import limits
from gexec.errors import ProtocolError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Final

MAGIC: Final = b"GXJ1"
#: Of a job with ``stall_s``. Any other job stays in the first form, which every gexecd reads.
MAGIC_STALL: Final = b"GXJ2"
#: Of a job with ``background``.
MAGIC_BACKGROUND: Final = b"GXJ3"
_LENGTH: Final = Struct("!I")
_OPTIONS: Final = Struct("!IHHIIIIQ")
_STALL: Final = Struct("!I")

DETACHED: Final = 1  #: the client exits when all have started; output is kept on the nodes, or discarded
STRICT: Final = 2  #: no process starts unless every node can start one
NO_STDIN: Final = 4  #: processes get /dev/null
REMOTE_PATH: Final = 8  #: the program is looked up in PATH on each node
PROMPT: Final = 16  #: a node gets no more than the connect timeout to answer, TLS and Hello included
#: Control bytes and the space; UTF-8 is allowed.
_NOT_IN_NAMES: Final = bytes(range(0x21)) + b"\x7f"
_NOT_IN_PACKED: Final = _NOT_IN_NAMES[1:]
_FLAGS_ALL: Final = DETACHED | STRICT | NO_STDIN | REMOTE_PATH | PROMPT
#: Entries that are searched one by one: a root of 65,536 nodes that do not answer needs each of them.
_SEARCHES_MAX: Final = 64


class PackedList:
    """Entries that stay one byte string until all of them are needed.

    A node needs one name of a thousand, not a thousand objects. ``==`` compares with any list of entries.
    """

    __slots__ = ("_count", "_entries", "_entry", "_index", "_searches", "packed")

    def __init__(self, packed: bytes) -> None:
        self.packed = packed
        self._count = packed.count(b"\0") + 1
        self._entries: list[bytes] | None = None
        self._index, self._entry, self._searches = -1, b"", 0

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < self._count:
            raise IndexError(index)
        if self._entries is not None:
            return self._entries[index]
        if index == self._index:
            return self._entry
        self._searches += 1
        if self._searches > _SEARCHES_MAX:
            return list(self)[index]
        behind = self._count - 1 - index
        if index <= behind:
            entry = self.packed.split(b"\0", index + 1)[index]
        else:
            entry = self.packed.rsplit(b"\0", behind + 1)[-1 - behind]
        self._index, self._entry = index, entry
        return entry

    def __iter__(self) -> Iterator[bytes]:
        if self._entries is None:
            self._entries = self.packed.split(b"\0")
        return iter(self._entries)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, PackedList | list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


class JobSpec:
    """What runs where. Immutable by convention; ``encode`` and ``decode`` are inverse.

    Attributes:
        names: node names in rank order, unchanged, duplicate names allowed (bytes).
        addresses: ``ip:port`` or ``[ip6%interface]:port`` for each rank, several separated by commas, in the
            order in which they are tried; none: see ``outcome.why_unresolved``.
        program: absolute path, or with REMOTE_PATH a name to look up in the job's PATH.
        argv: at least one element.
        env: ``NAME=value`` entries as the processes get them (the node adds its own GEXEC_*); not checked
            while packed.
        cwd: absolute working directory.
        flags: DETACHED | STRICT | NO_STDIN | REMOTE_PATH | PROMPT.
        fanout: children per node, 1..FANOUT_MAX.
        umask: 0..0o777.
        connect_timeout_s, timeout_s, kill_grace_s: seconds; timeout_s 0 = none.
        stall_s: seconds after which a process that makes no progress with its stdin is given up
            (core/stall.py); 0 = never, else STALL_MIN_S to STALL_MAX_S.
        window: bytes of unacknowledged output for each (rank, stream); None = the largest allowed.
        salt: 64 bits from the client that make two equal jobs differ.
        background: of a detached job whose output the nodes keep (``wire.background``); b"" = none.
    """

    __slots__ = (
        "addresses", "argv", "background", "connect_timeout_s", "cwd", "env", "fanout", "flags",
        "kill_grace_s", "names", "program", "salt", "stall_s", "timeout_s", "umask", "window",
    )  # fmt: skip

    def __init__(
        self,
        *,
        names: list[bytes] | PackedList,
        addresses: list[bytes] | PackedList,
        program: bytes,
        argv: list[bytes],
        env: list[bytes] | PackedList,
        cwd: bytes = b"/",
        flags: int = 0,
        fanout: int = limits.FANOUT_DEFAULT,
        umask: int = 0o022,
        connect_timeout_s: float = limits.CONNECT_TIMEOUT_S,
        timeout_s: float = 0.0,
        kill_grace_s: float = limits.KILL_GRACE_S,
        stall_s: float = 0.0,
        window: int | None = None,
        salt: int = 0,
        background: bytes = b"",
    ) -> None:
        self.names = names
        self.addresses = addresses
        self.program = program
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.flags = flags
        self.fanout = fanout
        self.umask = umask
        self.connect_timeout_s = connect_timeout_s
        self.timeout_s = timeout_s
        self.kill_grace_s = kill_grace_s
        self.stall_s = stall_s
        self.window = limits.window_bytes(len(names)) if window is None else window
        self.salt = salt
        self.background = background

    @property
    def ranks(self) -> int:
        """The number of processes of the job."""
        return len(self.names)

    def names_joined(self, separator: bytes) -> bytes:
        """Return all names in one string; a space or NUL is a safe separator, as no name contains one."""
        if isinstance(self.names, PackedList):
            return self.names.packed.replace(b"\0", separator)
        return separator.join(self.names)

    def check(self) -> None:
        """Raise UsageError, which names the value and its limit, if the job is not valid."""
        if not 1 <= len(self.names) <= limits.RANKS_MAX:
            raise UsageError(f"{len(self.names)} nodes: a job has 1 to {limits.RANKS_MAX}")
        if len(self.addresses) != len(self.names):
            raise UsageError(f"{len(self.addresses)} addresses for {len(self.names)} nodes")
        self._check_names()
        self._check_addresses()
        if not self.program or b"\0" in self.program:
            raise UsageError("the program's path is empty or contains a NUL byte")
        if not self.program.startswith(b"/") and not self.flags & REMOTE_PATH:
            raise UsageError(f"program {self.program[:200]!r}: expected an absolute path")
        if not self.argv or not self.argv[0]:
            raise UsageError(
                "the argument list is empty, or its first argument, the program's name, is empty"
            )
        for what, path in (("program", self.program), ("working directory", self.cwd)):
            if len(path) > limits.PATH_MAX_BYTES:
                most = f"a path has at most {limits.PATH_MAX_BYTES} bytes"
                raise UsageError(f"{what} {path[:80]!r}... has {len(path)} bytes: {most}")
        if not self.cwd.startswith(b"/") or b"\0" in self.cwd:
            raise UsageError(f"working directory {self.cwd[:200]!r}: expected an absolute path without NUL")
        self._check_words()
        if not limits.FANOUT_MIN <= self.fanout <= limits.FANOUT_MAX:
            raise UsageError(f"fan-out {self.fanout}: expected {limits.FANOUT_MIN} to {limits.FANOUT_MAX}")
        if self.flags & ~_FLAGS_ALL:
            raise UsageError(f"job flags {self.flags:#x} are not known here")
        if not 0 <= self.umask <= 0o777:
            raise UsageError(f"umask {self.umask:o}: expected 0 to 777")
        for name_, seconds, most_s in (
            ("connect timeout", self.connect_timeout_s, 4_000_000),
            ("timeout", self.timeout_s, 4_000_000),
            ("kill grace", self.kill_grace_s, limits.KILL_GRACE_MAX_S),
        ):
            if not 0 <= seconds <= most_s:
                raise UsageError(f"{name_} {seconds}: expected 0 to {most_s:.0f} seconds")
        if self.stall_s and not limits.STALL_MIN_S <= self.stall_s <= limits.STALL_MAX_S:
            raise UsageError(
                f"stall time {self.stall_s:g}: expected 0, or {limits.STALL_MIN_S:g} to "
                f"{limits.STALL_MAX_S:g} seconds"
            )
        widest = limits.window_bytes(len(self.names))
        if not limits.WINDOW_MIN_BYTES <= self.window <= widest:
            raise UsageError(f"window {self.window}: expected {limits.WINDOW_MIN_BYTES} to {widest}")
        if not 0 <= self.salt < 2**64:
            raise UsageError(f"salt {self.salt}: expected 64 bits")
        if self.background and (self.stall_s or not self.flags & DETACHED):
            raise UsageError("only a detached job without a stall time is kept in the background")
        if len(self.background) > limits.BACKGROUND_MAX_BYTES:
            raise UsageError(f"{len(self.background)} bytes about the background are over the limit")

    def _check_words(self) -> None:
        """Check arguments and environment; first as whole lists, because every node does this."""
        total = 0
        for kind, entries in (("argument", self.argv), ("environment variable", self.env)):
            if isinstance(entries, PackedList):
                total += len(entries.packed) + 1
                continue
            if not entries:
                continue
            packed = b"\0".join(entries)
            total += len(packed) + 1
            if packed.count(b"\0") >= len(entries):
                bad = next(entry for entry in entries if b"\0" in entry)
                raise UsageError(f"{kind} {bad[:40]!r} contains a NUL byte: remove it")
            if len(packed) > limits.ARG_MAX_BYTES and max(map(len, entries)) > limits.ARG_MAX_BYTES:
                bad = max(entries, key=len)
                raise UsageError(
                    f"{kind} {bad[:40]!r}... has {len(bad)} bytes: the kernel takes at most "
                    f"{limits.ARG_MAX_BYTES}"
                )
        if total > limits.ARGV_ENV_MAX_BYTES:
            raise UsageError(
                f"arguments and environment have {total} bytes: at most {limits.ARGV_ENV_MAX_BYTES} "
                "can be sent; put large data into a file or into stdin"
            )
        if isinstance(self.env, PackedList):
            return
        for entry in [entry for entry in self.env if entry.find(b"=", 1) < 0]:
            raise UsageError(f"environment entry {entry[:40]!r}: expected NAME=value")

    def _check_names(self) -> None:
        if _plain(self.names, 1, limits.NAME_MAX_BYTES):
            return
        for name in self.names:
            if not _plain([name], 1, limits.NAME_MAX_BYTES):
                raise UsageError(
                    f"node name {name[:80].decode('utf-8', 'backslashreplace')!r}: expected 1 to "
                    f"{limits.NAME_MAX_BYTES} printable characters without spaces"
                )

    def _check_addresses(self) -> None:
        """Check only the form: the node that dials an address finds out whether it is valid."""
        if _plain(self.addresses, 0, limits.ADDRESS_MAX_BYTES) and (
            isinstance(self.addresses, PackedList) or b"," not in b"".join(self.addresses)
        ):
            return
        for entry in self.addresses:
            addresses = entry.split(b",")
            if len(addresses) > limits.ADDRESSES_MAX:
                raise UsageError(f"{len(addresses)} addresses of a node: at most {limits.ADDRESSES_MAX}")
            if not _plain(addresses, 0 if len(addresses) == 1 else 1, limits.ADDRESS_MAX_BYTES):
                raise UsageError(f"address {entry[:80]!r}: expected ip:port or [ip6]:port")

    def encode(self) -> bytes:
        """Return the blob; times in it are in milliseconds.

        Raises UsageError if the job is over a limit.
        """
        self.check()
        options = _OPTIONS.pack(
            self.flags,
            self.fanout,
            self.umask,
            round(self.connect_timeout_s * 1000),
            round(self.timeout_s * 1000),
            round(self.kill_grace_s * 1000),
            self.window,
            self.salt,
        )
        parts = [MAGIC]
        if self.stall_s:
            parts = [MAGIC_STALL]
            options += _STALL.pack(round(self.stall_s * 1000))
        elif self.background:
            parts = [MAGIC_BACKGROUND]
            options += self.background
        for field in (
            options,
            b"\0".join(self.names),
            b"\0".join(self.addresses),
            self.program,
            b"\0".join(self.argv),
            b"\0".join(self.env),
            self.cwd,
        ):
            parts += (_LENGTH.pack(len(field)), field)
        blob = b"".join(parts)
        if len(blob) > limits.JOB_BLOB_MAX_BYTES:
            raise UsageError(
                f"the job has {len(blob)} bytes: at most {limits.JOB_BLOB_MAX_BYTES} can be sent"
            )
        return blob

    @classmethod
    def decode(cls, blob: bytes, words: bool = True) -> JobSpec:
        """Return the job of a blob. Raises ProtocolError for anything that encode does not write.

        Without ``words`` the environment stays packed and unchecked: for a relay, which passes the blob on to
        a spawner that checks it.
        """
        if len(blob) > limits.JOB_BLOB_MAX_BYTES:
            raise ProtocolError(f"job blob of {len(blob)} bytes is over the limit")
        stalls, lasts = blob[:4] == MAGIC_STALL, blob[:4] == MAGIC_BACKGROUND
        if not (stalls or lasts or blob[:4] == MAGIC):
            raise ProtocolError(_unknown_form(blob))
        fields = []
        position = 4
        for _ in range(7):
            if position + 4 > len(blob):
                raise ProtocolError("job blob is cut short")
            (length,) = _LENGTH.unpack_from(blob, position)
            position += 4
            if position + length > len(blob):
                raise ProtocolError("job blob is cut short")
            fields.append(blob[position : position + length])
            position += length
        if position != len(blob):
            raise ProtocolError("job blob has bytes after its end")
        options, stall_ms = fields[0], 0
        more = len(options) - _OPTIONS.size
        if more < 1 if lasts else more != (_STALL.size if stalls else 0):
            raise ProtocolError("job blob has options of the wrong size")
        if stalls:
            (stall_ms,) = _STALL.unpack_from(options, _OPTIONS.size)
            if not stall_ms:
                raise ProtocolError("job blob: a job without a stall time has the first form")
        flags, fanout, umask, connect_ms, timeout_ms, grace_ms, window, salt = _OPTIONS.unpack_from(options)
        job = cls(
            names=PackedList(fields[1]),
            addresses=PackedList(fields[2]),
            program=fields[3],
            argv=fields[4].split(b"\0"),
            env=_env(fields[5]) if words else PackedList(fields[5]),
            cwd=fields[6],
            flags=flags,
            fanout=fanout,
            umask=umask,
            connect_timeout_s=connect_ms / 1000,
            timeout_s=timeout_ms / 1000,
            kill_grace_s=grace_ms / 1000,
            stall_s=stall_ms / 1000,
            window=window,
            salt=salt,
            background=options[_OPTIONS.size :] if lasts else b"",
        )
        try:
            job.check()
        except UsageError as error:
            raise ProtocolError(f"job blob: {error}") from error
        return job


def _unknown_form(blob: bytes) -> str:
    """Return why a blob that begins with no known magic is refused."""
    if blob[:3] != MAGIC[:3]:
        return "job blob does not start with its magic"
    return (
        f"job blob of form {blob[3:4].decode('ascii', 'replace')}: this gexecd reads the forms 1 to 3; "
        "install the client's version of gexec on this node"
    )


def _env(packed: bytes) -> list[bytes]:
    return packed.split(b"\0") if packed else []


def _plain(entries: list[bytes] | PackedList, least: int, most: int) -> bool:
    """Tell whether all entries have ``least`` to ``most`` bytes, no control byte and no space.

    In few passes over the whole list, because every node of a large job does this for every name. The longest
    entry of a packed list is not searched: code that uses an entry compares it with something, or fails to
    dial it.
    """
    if isinstance(entries, PackedList):
        packed = entries.packed
        if least and (not packed or packed[0] == 0 or packed[-1] == 0 or b"\0\0" in packed):
            return False
        return len(packed.translate(None, _NOT_IN_PACKED)) == len(packed)
    joined = b"".join(entries)
    lengths = list(map(len, entries))
    return (
        min(lengths) >= least
        and max(lengths) <= most
        and len(joined.translate(None, _NOT_IN_NAMES)) == len(joined)
    )
