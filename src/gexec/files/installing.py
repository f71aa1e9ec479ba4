"""Writes the entries of a stream."""

from __future__ import annotations

import os
import stat

from gexec import limits
from gexec.files.directories import Place, RefusedError, kind_of, open_below
from gexec.files.owners import UNCHANGED, FileOwners
from gexec.files.partial import Partial, keep_old, make_symlink
from gexec.files.reading import ShrunkError, content_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gexec.files.options import CopyOptions
    from gexec.files.records import Directory, File, Meta, Symlink
    from gexec.files.report import Report

_SET_ID = stat.S_ISUID | stat.S_ISGID
_LEFT_OUT = "set-uid and set-gid bits are left out (--setuid keeps them)"


class Installer:
    """Writes entries. Its methods raise RefusedError or OSError, and then the entry is unchanged.

    Args:
        options: what to do.
        report: counts what was done.
        note: called with (path, sentence) for warnings.
    """

    def __init__(self, options: CopyOptions, report: Report, note: Callable[[bytes, str], None]) -> None:
        self._options = options
        self._report = report
        self._note = note
        self._owners = FileOwners(keep=options.keep_owner, numeric=options.numeric_ids)
        self._buffer = bytearray()

    def directory(self, above: Place, name: bytes, event: Directory) -> Place:
        """Create the directory, or use the existing one; ``leave`` sets its owner, mode and mtime."""
        self._owners.wanted(event.meta)
        try:
            os.mkdir(name, 0o700, dir_fd=above.descriptor)
            is_new = True
        except FileExistsError:
            is_new = False
        place = Place(event.path, open_below(above.descriptor, name, to_read=True), above=above)
        assert place.status is not None
        try:
            if is_new:
                # Users who may write above it could have replaced it by a directory of theirs.
                if place.status.st_uid != os.geteuid() or os.listdir(place.descriptor):
                    raise RefusedError("the directory was replaced while it was created")
                self._report.directories += 1
            elif not above.guards(place.status) and self._is_given_away(place.status, event.meta):
                raise RefusedError(
                    f"it belongs to uid {place.status.st_uid} here and would get another owner, where others "
                    "could replace it by another directory: change the owner by hand, or remove it first"
                )
            elif os.geteuid() and ~place.status.st_mode & stat.S_IRWXU:
                # Our own directory is read-only, perhaps from the stream: make it writable until ``leave``.
                os.fchmod(place.descriptor, stat.S_IMODE(place.status.st_mode) | stat.S_IRWXU)
        except BaseException:
            os.close(place.descriptor)
            raise
        place.meta = event.meta
        return place

    def leave(self, place: Place) -> None:
        """Set owner, mode and mtime of a directory from the stream; no further entries follow in it."""
        if place.meta is None:
            return
        descriptor = place.descriptor
        uid, gid = self._owners.wanted(place.meta)
        status = os.fstat(descriptor)
        # Set-id bits that a directory already has are kept.
        mode = self._mode(place.meta) | status.st_mode & place.meta.mode & _SET_ID
        if mode != place.meta.mode:
            self._note(place.path, _LEFT_OUT)
        if uid != UNCHANGED and (status.st_uid, status.st_gid) != (uid, gid):
            os.fchown(descriptor, uid, gid)
        if stat.S_IMODE(status.st_mode) != mode:
            os.fchmod(descriptor, mode)
        if status.st_mtime_ns != place.meta.mtime_ns:
            os.utime(descriptor, ns=(place.meta.mtime_ns, place.meta.mtime_ns))
        if self._options.sync:
            os.fsync(descriptor)

    def file(self, above: Place, name: bytes, event: File) -> Incoming | None:
        """Begin a file; None if the existing one is equal."""
        uid, gid = self._owners.wanted(event.meta)
        mode = self._mode(event.meta)
        old = _status(above, name)
        same_digest = b""
        if old is not None:
            if stat.S_ISDIR(old.st_mode):
                raise RefusedError(f"it is {kind_of(above.descriptor, name)} here: remove it first")
            if (
                stat.S_ISREG(old.st_mode)
                and old.st_size == event.size
                # A file that already has its set-id bits keeps them.
                and stat.S_IMODE(old.st_mode) in (mode, event.meta.mode)
                and uid in (UNCHANGED, old.st_uid)
                and gid in (UNCHANGED, old.st_gid)
            ):
                if self._options.compare_content:
                    same_digest = self.digest(above, name, event.size)
                elif old.st_mtime_ns == event.meta.mtime_ns:
                    self._report.unchanged += 1
                    return None
        if mode != event.meta.mode:
            self._note(event.path, _LEFT_OUT)
        settings = _Settings(above, name, uid, gid, mode, event.meta.mtime_ns, event.size, same_digest)
        return Incoming(settings, self._options, self._report, is_replacing=old is not None)

    def symlink(self, above: Place, name: bytes, event: Symlink) -> None:
        """Create a link, unless it exists."""
        uid, gid = self._owners.wanted(event.meta)
        old = _status(above, name)
        if old is not None:
            if stat.S_ISDIR(old.st_mode):
                raise RefusedError("it is a directory here: remove it first")
            if (
                stat.S_ISLNK(old.st_mode)
                and uid in (UNCHANGED, old.st_uid)
                and gid in (UNCHANGED, old.st_gid)
                and os.readlink(name, dir_fd=above.descriptor) == event.target
            ):
                self._report.unchanged += 1
                return
            if self._options.backup:
                keep_old(above.descriptor, name)
        make_symlink(above.descriptor, name, event.target, uid=uid, gid=gid, mtime_ns=event.meta.mtime_ns)
        self._report.links += 1

    def digest(self, above: Place, name: bytes, size: int) -> bytes:
        """Return the digest of an existing file, empty if it is no longer a file of that size."""
        if not self._buffer:
            self._buffer = bytearray(limits.ARCHIVE_DATA_MAX_BYTES)
        return digest_below(above, name, size, self._buffer)

    def _mode(self, meta: Meta) -> int:
        return meta.mode if self._options.keep_set_id else meta.mode & ~_SET_ID

    def _is_given_away(self, status: os.stat_result, meta: Meta) -> bool:
        uid, gid = self._owners.wanted(meta)
        return uid != UNCHANGED and (status.st_uid, status.st_gid) != (uid, gid)


class _Settings:
    __slots__ = ("above", "gid", "mode", "mtime_ns", "name", "same_digest", "size", "uid")

    def __init__(
        self, above: Place, name: bytes, uid: int, gid: int, mode: int, mtime_ns: int, size: int, same: bytes
    ) -> None:
        self.above = above
        self.name = name
        self.uid = uid
        self.gid = gid
        self.mode = mode
        self.mtime_ns = mtime_ns
        self.size = size
        self.same_digest = same


class Incoming:
    """A file that is being written. ``write`` and ``finish`` raise OSError; then ``abort``."""

    __slots__ = ("_is_replacing", "_options", "_partial", "_report", "_settings")

    def __init__(
        self, settings: _Settings, options: CopyOptions, report: Report, *, is_replacing: bool
    ) -> None:
        self._settings = settings
        self._options = options
        self._report = report
        self._is_replacing = is_replacing
        self._partial = Partial(settings.above.descriptor, settings.name)

    def write(self, offset: int, data: memoryview) -> None:
        """Write data of the file."""
        self._partial.write(offset, data)

    def finish(self, digest: bytes) -> None:
        """Publish the file, whose contents have this digest."""
        wanted = self._settings
        if wanted.same_digest == digest:
            self._report.unchanged += 1
            self.abort()
            return
        self._partial.settle(
            size=wanted.size,
            uid=wanted.uid,
            gid=wanted.gid,
            mode=wanted.mode,
            mtime_ns=wanted.mtime_ns,
            sync=self._options.sync,
        )
        if self._options.backup and self._is_replacing:
            keep_old(wanted.above.descriptor, wanted.name)
        self._partial.publish()
        if self._options.sync and wanted.above.meta is None:
            # A directory of the stream is flushed once, in ``leave``.
            _sync_directory(wanted.above.descriptor)
        self._report.files += 1
        self._report.bytes += wanted.size

    def abort(self) -> None:
        """Remove it."""
        self._partial.abort()


def digest_below(above: Place, name: bytes, size: int, buffer: bytearray) -> bytes:
    """Return the digest of the file ``name``, empty if it is not a file of ``size`` bytes; raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(name, flags, dir_fd=above.descriptor)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            return b""
        return content_digest(descriptor, size, buffer)
    except ShrunkError:
        return b""
    finally:
        os.close(descriptor)


def _status(above: Place, name: bytes) -> os.stat_result | None:
    try:
        return os.lstat(name, dir_fd=above.descriptor)
    except FileNotFoundError:
        return None


def _sync_directory(descriptor: int) -> None:
    opened = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
