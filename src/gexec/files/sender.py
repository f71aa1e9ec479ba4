"""Walks files and directories and encodes them as an archive stream, with little memory.

Every directory is opened through its parent's descriptor and without following links, so that other users
cannot redirect the walk. Entries that cannot be sent are reported, also to receivers, and the rest is sent.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat

from gexec import limits
from gexec.errors import ProtocolError, UsageError
from gexec.files.digest import ContentHash
from gexec.files.encoder import Encoder
from gexec.files.reading import ShrunkError, content_digest, pieces
from gexec.files.records import Meta, check_path, is_below
from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Buffer = bytes | bytearray | memoryview

#: Records are gathered to this size before they are passed on.
_GATHERED_BYTES = 128 * 1024
#: A file up to this size is read before its record is made, so that a change during the read does no harm.
_SMALL_BYTES = limits.ARCHIVE_BLOCK_BYTES - 1
#: How often a small file is read again if it changes while it is read.
_TRIES = 3
_CHANGED = "it changed while it was read; copy it when no program writes to it"
_NO_SIZE = "its size is not that of its contents, as in /proc and /sys; copy its contents into a file first"
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class SourceRoot:
    """Something to send.

    Attributes:
        path: its absolute path on this host.
        name: its path in the stream, below the receiver's destination.
    """

    __slots__ = ("name", "path")

    def __init__(self, path: bytes, name: bytes) -> None:
        self.path = path
        self.name = name


def roots_of(paths: Iterable[str], naming: str = "full") -> list[SourceRoot]:
    """Return the roots for a user's paths.

    Args:
        paths: files and directories; relative ones are taken from the working directory.
        naming: ``full``: each keeps its whole path, so that a receiver whose destination is ``/`` writes
            the same path. Links above the last part are resolved first, since a receiver follows none
            (/bin/x is sent as /usr/bin/x). ``base``: only its last part, as cp does.

    Raises:
        UsageError: two roots would get the same name, or one has no name (``/``).
    """
    roots = []
    for path in paths:
        if not path or "\0" in path:
            raise UsageError(f"{path!r} is not a file name")
        plain = os.path.abspath(os.fsencode(path))
        folder, base = os.path.split(plain)
        if not base:
            raise UsageError("/ cannot be copied as a whole: name what is in it")
        real = os.path.join(os.path.realpath(folder), base)
        roots.append(SourceRoot(real, real.lstrip(b"/") if naming == "full" else base))
    return _distinct(roots)


def _distinct(roots: list[SourceRoot]) -> list[SourceRoot]:
    """Return the roots in the order of the stream, without those that are below another one."""
    kept: list[SourceRoot] = []
    for root in sorted(roots, key=lambda root: root.name.split(b"/")):
        try:
            check_path(root.name)
        except ProtocolError as error:
            raise UsageError(
                f"{shown(root.path)}: its path is longer or deeper than can be copied; move it to a "
                "shorter path"
            ) from error
        above = kept[-1] if kept else None
        if above is not None and is_below(root.name.split(b"/"), above.name.split(b"/")):
            if root.path != above.path + root.name[len(above.name) :]:
                raise UsageError(
                    f"{shown(above.path)} and {shown(root.path)} would both become {shown(root.name)}: "
                    "copy them one after the other to different destinations"
                )
            continue
        kept.append(root)
    return kept


class Sender:
    """One archive stream of some roots.

    Args:
        roots: from roots_of, or in the same order.
        digests_only: send digests instead of contents, for receivers that only compare.
        on_problem: called with one sentence for each entry that is not sent.

    Attributes:
        files, bytes: what has been sent so far.
        problems: how many entries should have been sent but could not be.
    """

    def __init__(
        self, roots: Sequence[SourceRoot], *, digests_only: bool = False, on_problem: Callable[[str], None]
    ) -> None:
        self._roots = roots
        self._digests_only = digests_only
        self._on_problem = on_problem
        self._encoder = Encoder()
        self._buffer = bytearray(limits.ARCHIVE_DATA_MAX_BYTES)
        self._gathered = bytearray()
        self._names = _Names()
        self.files = 0
        self.bytes = 0
        self.problems = 0

    def chunks(self) -> Iterator[Buffer]:
        """Yield the stream. Each chunk is valid until the next one is requested."""
        self._gathered += self._encoder.preamble(digests_only=self._digests_only)
        for root in self._roots:
            folder, base = os.path.split(root.path)
            try:
                above = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                self._skip(root.path, root.name, _reason(error))
                continue
            try:
                yield from self._node(above, base, root.path, root.name, is_named=True)
            finally:
                os.close(above)
        self._gathered += self._encoder.end(self.problems)
        yield self._gathered

    def _node(
        self, above: int, base: bytes, path: bytes, name: bytes, is_named: bool = False
    ) -> Iterator[Buffer]:
        """Send one entry of any kind: ``base`` in the directory ``above``; ``path`` is for messages.

        ``is_named``: the user named it, so that its absence on the nodes is a failure.
        """
        try:
            kind = stat.S_IFMT(os.lstat(base, dir_fd=above).st_mode)
            if kind == stat.S_IFREG:
                yield from self._file(above, base, path, name)
            elif kind == stat.S_IFDIR:
                yield from self._directory(above, base, path, name)
            elif kind == stat.S_IFLNK:
                self._symlink(above, base, name)
            elif is_named:
                self._skip(
                    path, name, f"it is {_KINDS.get(kind, 'a special file')}; only contents are copied"
                )
            else:
                # Not a failure; receivers keep what they have there.
                self._on_problem(f"{shown(path)}: {_KINDS.get(kind, 'a special file')} is not copied")
                self._gathered += self._encoder.skipped(name, "")
        except OSError as error:
            self._skip(path, name, _reason(error))
        if len(self._gathered) >= _GATHERED_BYTES:
            yield self._flush()

    def _flush(self) -> bytearray:
        gathered, self._gathered = self._gathered, bytearray()
        return gathered

    def _directory(self, above: int, base: bytes, path: bytes, name: bytes) -> Iterator[Buffer]:
        descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            entries = sorted(map(os.fsencode, os.listdir(descriptor)))
            self._gathered += self._encoder.directory(name, self._meta(os.fstat(descriptor)))
            for entry in entries:
                below = name + b"/" + entry
                if (
                    len(below) > limits.ARCHIVE_PATH_MAX_BYTES
                    or below.count(b"/") >= limits.ARCHIVE_DEPTH_MAX
                ):
                    self._problem(path + b"/" + entry, "its path is longer or deeper than can be copied")
                    continue
                yield from self._node(descriptor, entry, path + b"/" + entry, below)
        finally:
            os.close(descriptor)

    def _symlink(self, above: int, base: bytes, name: bytes) -> None:
        target = os.readlink(base, dir_fd=above)
        status = os.lstat(base, dir_fd=above)
        self._gathered += self._encoder.symlink(name, self._meta(status), target)

    def _file(self, above: int, base: bytes, path: bytes, name: bytes) -> Iterator[Buffer]:
        # O_NONBLOCK: in case it has become a named pipe since lstat.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(base, flags, dir_fd=above)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if status.st_size <= _SMALL_BYTES:
                self._small_file(descriptor, status, path, name)
            elif self._digests_only:
                self._digest(descriptor, status, path, name)
            else:
                yield from self._large_file(descriptor, status, path, name)
        finally:
            os.close(descriptor)

    def _small_file(self, descriptor: int, status: os.stat_result, path: bytes, name: bytes) -> None:
        for _ in range(_TRIES):
            content = os.pread(descriptor, _SMALL_BYTES + 1, 0)
            before, status = status, os.fstat(descriptor)
            if _same(before, status) and len(content) == status.st_size:
                break
        else:
            # If a file was written to, its size or time has changed; for a file of /proc neither has.
            self._skip(path, name, _NO_SIZE if _same(before, status) else _CHANGED)
            return
        self._gathered += self._encoder.file(name, self._meta(status), len(content))
        hashed = ContentHash()
        if content:
            hashed.update(0, content)
            if not self._digests_only:
                self._gathered += self._encoder.data(0, len(content))
                self._gathered += content
        self._gathered += self._encoder.file_end(hashed.finish(len(content)))
        self._count(len(content))

    def _digest(self, descriptor: int, status: os.stat_result, path: bytes, name: bytes) -> None:
        try:
            digest = content_digest(descriptor, status.st_size, self._buffer)
        except ShrunkError:
            digest = b""
        if not digest or not _same(status, os.fstat(descriptor)):
            self._skip(path, name, _CHANGED)
            return
        self._gathered += self._encoder.file(name, self._meta(status), status.st_size)
        self._gathered += self._encoder.file_end(digest)
        self._count(status.st_size)

    def _large_file(
        self, descriptor: int, status: os.stat_result, path: bytes, name: bytes
    ) -> Iterator[Buffer]:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        size = status.st_size
        self._gathered += self._encoder.file(name, self._meta(status), size)
        hashed = ContentHash()
        reason = _CHANGED
        try:
            for offset, data in pieces(descriptor, size, self._buffer):
                hashed.update(offset, data)
                self._gathered += self._encoder.data(offset, len(data))
                yield self._flush()
                yield data
            if _same(status, os.fstat(descriptor)):
                reason = ""
        except ShrunkError:
            pass
        except OSError as error:
            reason = _reason(error)
        if reason:
            self._problem(path, reason)
            self._gathered += self._encoder.file_bad(reason)
            return
        self._gathered += self._encoder.file_end(hashed.finish(size))
        self._count(size)

    def _meta(self, status: os.stat_result) -> Meta:
        return Meta(
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            self._names.user(status.st_uid),
            self._names.group(status.st_gid),
        )

    def _count(self, size: int) -> None:
        self.files += 1
        self.bytes += size

    def _skip(self, path: bytes, name: bytes, reason: str) -> None:
        self._problem(path, reason)
        self._gathered += self._encoder.skipped(name, reason)

    def _problem(self, path: bytes, reason: str) -> None:
        self.problems += 1
        self._on_problem(f"{shown(path)}: not sent: {reason}")


class _Names:
    """Names of users and groups, each looked up once."""

    __slots__ = ("_groups", "_users")

    def __init__(self) -> None:
        self._users: dict[int, bytes] = {}
        self._groups: dict[int, bytes] = {}

    def user(self, uid: int) -> bytes:
        """Return the user's name, empty if there is none."""
        if uid not in self._users:
            self._users[uid] = _name(lambda: pwd.getpwuid(uid).pw_name)
        return self._users[uid]

    def group(self, gid: int) -> bytes:
        """Return the group's name, empty if there is none."""
        if gid not in self._groups:
            self._groups[gid] = _name(lambda: grp.getgrgid(gid).gr_name)
        return self._groups[gid]


def _name(look_up: Callable[[], str]) -> bytes:
    try:
        return os.fsencode(look_up())[:255]
    except KeyError:
        return b""


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    return before.st_size == after.st_size and before.st_mtime_ns == after.st_mtime_ns


#: Why something cannot be read, and what to do.
_REASONS = {
    errno.ENOENT: "there is no such file",
    errno.EACCES: "you may not read it; copy as a user who may",
    errno.EPERM: "the system does not permit reading it; copy as a user who may",
    errno.ELOOP: "it was replaced during the copy; copy again",
    errno.ENOTDIR: "it, or a directory above it, was replaced during the copy; copy again",
    errno.EIO: "the disk reports an input/output error; check the disk of this host",
    errno.ESTALE: "its file server no longer has it (stale handle); mount the file system again",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this host; close some",
    errno.ENAMETOOLONG: "its name is too long for the file system; shorten it",
}


def _reason(error: OSError) -> str:
    return _REASONS.get(error.errno or 0) or f"it cannot be read: {error.strerror}"
