"""Writes the entries of a stream."""

from __future__ import annotations

import os
import stat

from gexec.files import notes
from gexec.files.adjusting import NotInPlaceError, may_be_set, set_in_place
from gexec.files.attributes import apply, read
from gexec.files.directories import Place, RefusedError, kind_of, open_below
from gexec.files.entries import File, HardLink
from gexec.files.linking import LinkImpossibleError
from gexec.files.owners import UNCHANGED
from gexec.files.partial import Partial, keep_old, make_symlink
from gexec.files.reading import ShrunkError
from gexec.files.survey import ATTRIBUTES, DOUBT, LACKS, OWN, RIGHT, UNKNOWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gexec.files.entries import Directory, Symlink
    from gexec.files.linking import Linker
    from gexec.files.metadata import Judge
    from gexec.files.notes import Notes
    from gexec.files.options import CopyOptions
    from gexec.files.report import Report
    from gexec.files.survey import FileFinding

#: With --sync, a file is flushed after so much: one long flush at its end would look like a hung disk.
_FLUSHED_BYTES = 32 * 1024 * 1024
_IS_DIRECTORY = "it is a directory here: remove it first"
_CHANGED = "it was changed during the copy; copy again"
_NOT_SENT = "its contents were not sent, because this node's answer was late or lost on the way; copy again"


class Installer:
    """Writes entries. Its methods raise RefusedError or OSError, and then the entry is unchanged.

    Args:
        options: what to do.
        judge: maps owners and attributes to those of this node.
        linker: makes hard links.
        report: counts what was done.
        notes: gets warnings.
        on_step: called now and then while contents are copied on this node.
    """

    def __init__(
        self,
        options: CopyOptions,
        judge: Judge,
        linker: Linker,
        report: Report,
        notes: Notes,
        *,
        on_step: Callable[[], None],
    ) -> None:
        self._options = options
        self._judge = judge
        self._linker = linker
        self._report = report
        self._notes = notes
        self._on_step = on_step

    @property
    def is_syncing(self) -> bool:
        """True if files are flushed to the disk."""
        return self._options.sync

    # -- directories ------------------------------------------------------------------------------

    def directory(self, above: Place, name: bytes, entry: Directory) -> Place:
        """Create the directory, or use the existing one; ``leave`` sets its owner, mode and mtime."""
        self._judge.owners.wanted(entry.meta)
        try:
            os.mkdir(name, 0o700, dir_fd=above.descriptor)
            is_new = True
        except FileExistsError:
            is_new = False
        place = Place(entry.path, open_below(above.descriptor, name, to_read=True), above=above)
        assert place.status is not None
        try:
            if is_new:
                # Users who may write above it could have replaced it by a directory of theirs.
                if place.status.st_uid != os.geteuid() or os.listdir(place.descriptor):
                    raise RefusedError("the directory was replaced while it was created")
                self._report.directories += 1
            elif not above.guards(place.status) and self._judge.owner_differs(entry.meta, place.status):
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
        place.meta = entry.meta
        return place

    def leave(self, place: Place) -> None:
        """Set owner, mode and mtime of a directory from the stream; no further entries follow in it."""
        if place.meta is None:
            return
        descriptor, meta = place.descriptor, place.meta
        uid, gid = self._judge.owners.wanted(meta)
        status = os.fstat(descriptor)
        if uid != UNCHANGED and (status.st_uid, status.st_gid) != (uid, gid):
            os.fchown(descriptor, uid, gid)
        extended = self._judge.extended(meta)
        if extended is not None and read(descriptor, is_privileged=self._options.is_privileged) != extended:
            refused = apply(descriptor, extended, is_privileged=self._options.is_privileged)
            self._notes.add_refused(refused, place.path)
        # The set-id bits of a directory give no right.
        if stat.S_IMODE(os.fstat(descriptor).st_mode) != meta.mode:
            os.fchmod(descriptor, meta.mode)
        if status.st_mtime_ns != meta.mtime_ns:
            os.utime(descriptor, ns=(meta.mtime_ns, meta.mtime_ns))
        if self._options.sync:
            os.fsync(descriptor)

    # -- files --------------------------------------------------------------------------------------

    def file(
        self, above: Place, name: bytes, entry: File, finding: FileFinding, *, has_contents: bool
    ) -> Incoming | None:
        """Begin a file; None if its contents are not needed.

        Args:
            finding: what the node had when it looked.
            has_contents: the contents follow.
        """
        if finding.state == UNKNOWN:
            raise RefusedError(finding.why)
        if finding.state in (RIGHT, OWN):
            if self._options.backup:
                # An entry that was written since may have got its backup under this name.
                now = _status(above, name)
                if now is None or finding.status is None or _identity(now) != _identity(finding.status):
                    raise RefusedError(_CHANGED)
            self._right(entry, finding.status)
            return None
        if finding.state == ATTRIBUTES:
            self._set_attributes(above, name, entry, finding)
            return None
        assert finding.state in (LACKS, DOUBT)
        if not has_contents:
            raise RefusedError(_NOT_SENT)
        return Incoming(self, above, name, entry, finding)

    def settled(self, above: Place, name: bytes, entry: File, finding: FileFinding) -> None:
        """Handle a file whose contents turned out to be right."""
        if finding.state == RIGHT:
            self._right(entry, finding.status)
        else:
            self._set_attributes(above, name, entry, finding)

    def publish(self, partial: Partial, above: Place, name: bytes, entry: File | HardLink) -> None:
        """Give a file whose contents are complete everything else, and its name; raises OSError."""
        meta = entry.meta
        uid, gid = self._judge.owners.wanted(meta)
        refused = partial.settle(
            size=entry.size,
            uid=uid,
            gid=gid,
            mode=self._judge.mode(meta),
            mtime_ns=meta.mtime_ns,
            sync=self._options.sync,
            attributes=self._judge.extended(meta),
            is_privileged=self._options.is_privileged,
        )
        status = partial.status()
        old = _status(above, name)
        if old is not None and stat.S_ISDIR(old.st_mode):
            raise RefusedError(_IS_DIRECTORY)
        if self._options.backup and old is not None:
            keep_old(above.descriptor, name)
        partial.publish()
        if self._options.sync and above.meta is None:
            # A directory of the stream is flushed once, in ``leave``.
            _sync_directory(above.descriptor)
        self._note(entry, refused)
        self._remember(entry, status)
        self._report.files += 1
        self._report.bytes += entry.size

    def _right(self, entry: File, status: os.stat_result | None) -> None:
        self._report.unchanged += 1
        self._remember(entry, status)

    def _remember(self, entry: File | HardLink, status: os.stat_result | None) -> None:
        if status is not None and isinstance(entry, File) and entry.is_linked:
            self._linker.remember(entry.path, status)

    def _note(self, entry: File | HardLink, refused: Iterable[bytes]) -> None:
        if self._judge.mode(entry.meta) != entry.meta.mode:
            self._notes.add(notes.SET_ID, entry.path)
        self._notes.add_refused(refused, entry.path)

    def _set_attributes(self, above: Place, name: bytes, entry: File, finding: FileFinding) -> None:
        """Set mode, owner, attributes and mtime of a file with the right contents: in place where nobody
        else can have put another file there, else of a copy that replaces it.
        """
        known, meta = finding.status, entry.meta
        assert known is not None
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=above.descriptor)
        try:
            status = os.fstat(descriptor)
            if _identity(status) != _identity(known):
                raise RefusedError(_CHANGED)
            if may_be_set(above, status):
                uid, gid = self._judge.owners.wanted(meta)
                refused = set_in_place(
                    descriptor,
                    known,
                    uid=uid,
                    gid=gid,
                    mode=self._judge.mode(meta),
                    mtime_ns=meta.mtime_ns,
                    attributes=self._judge.extended(meta),
                    is_privileged=self._options.is_privileged,
                )
                self._note(entry, refused)
                self._remember(entry, status)
                self._report.files += 1
            else:
                self._copy_here(descriptor, above, name, entry)
        except NotInPlaceError:
            raise RefusedError(_CHANGED) from None
        finally:
            os.close(descriptor)

    def _copy_here(self, descriptor: int, above: Place, name: bytes, entry: File | HardLink) -> None:
        """Write a file with the contents of one that this node has; raises RefusedError or OSError."""
        partial = Partial(above.descriptor, name)
        try:
            partial.copy_from(descriptor, entry.size, on_step=self._on_step)
            self.publish(partial, above, name, entry)
        except ShrunkError:
            raise RefusedError(_CHANGED) from None
        finally:
            partial.abort()

    # -- links --------------------------------------------------------------------------------------

    def symlink(self, above: Place, name: bytes, entry: Symlink) -> None:
        """Create a link, unless it exists."""
        old = _status(above, name)
        uid, gid = self._judge.owners.wanted(entry.meta)
        if old is not None:
            if stat.S_ISDIR(old.st_mode):
                raise RefusedError(_IS_DIRECTORY)
            if (
                stat.S_ISLNK(old.st_mode)
                and not self._judge.owner_differs(entry.meta, old)
                and os.readlink(name, dir_fd=above.descriptor) == entry.target
            ):
                self._report.unchanged += 1
                return
            if self._options.backup:
                keep_old(above.descriptor, name)
        make_symlink(above.descriptor, name, entry.target, uid=uid, gid=gid, mtime_ns=entry.meta.mtime_ns)
        self._report.links += 1

    def hard_link(self, above: Place, name: bytes, entry: HardLink) -> None:
        """Give a file of the stream one more name, unless it has it; copy it where that is impossible."""
        try:
            if self._linker.link(above.descriptor, name, entry.first, backup=self._options.backup):
                self._report.files += 1
            else:
                self._report.unchanged += 1
            return
        except LinkImpossibleError as error:
            descriptor = error.descriptor
        try:
            old = _status(above, name)
            if old is not None and self._is_copy(above, name, entry, old):
                self._report.unchanged += 1
                return
            entry.size = os.fstat(descriptor).st_size
            self._copy_here(descriptor, above, name, entry)
            self._notes.add(notes.COPIED_LINKS, entry.path)
        finally:
            os.close(descriptor)

    def _is_copy(self, above: Place, name: bytes, entry: HardLink, old: os.stat_result) -> bool:
        return (
            stat.S_ISREG(old.st_mode)
            and (old.st_size, old.st_mtime_ns) == (entry.size, entry.meta.mtime_ns)
            and not self._judge.differences(above, name, entry.meta, old)
        )


class Incoming:
    """A file that is being written. After a RefusedError or OSError of a method: ``abort``."""

    __slots__ = ("_above", "_entry", "_finding", "_installer", "_name", "_partial", "_unflushed")

    def __init__(
        self, installer: Installer, above: Place, name: bytes, entry: File, finding: FileFinding
    ) -> None:
        old = _status(above, name)
        if old is not None and stat.S_ISDIR(old.st_mode):
            raise RefusedError(f"it is {kind_of(above.descriptor, name)} here: remove it first")
        self._installer = installer
        self._above = above
        self._name = name
        self._entry = entry
        self._finding = finding
        self._partial = Partial(above.descriptor, name)
        self._unflushed = 0

    def write(self, offset: int, data: memoryview) -> None:
        """Write data of the file."""
        self._partial.write(offset, data)
        self._unflushed += len(data)
        if self._unflushed >= _FLUSHED_BYTES and self._installer.is_syncing:
            self._partial.flush()
            self._unflushed = 0

    def finish(self, digest: bytes) -> None:
        """Publish the file, whose contents have this digest."""
        finding, entry = self._finding, self._entry
        if finding.state == DOUBT:
            finding.settle(entry.meta.mtime_ns, digest)
            if finding.state != LACKS:
                self.abort()
                self._installer.settled(self._above, self._name, entry, finding)
                return
        self._installer.publish(self._partial, self._above, self._name, entry)

    def abort(self) -> None:
        """Remove it."""
        self._partial.abort()


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


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
