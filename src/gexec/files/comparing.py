"""Compares the entries of a stream with existing files, and writes nothing."""

from __future__ import annotations

import os
import stat

from gexec.files.directories import Place, RefusedError, open_below
from gexec.files.options import VERIFY
from gexec.files.survey import DOUBT, OWN, RIGHT, UNKNOWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gexec.files.entries import Directory, File, HardLink, Symlink
    from gexec.files.metadata import Judge
    from gexec.files.options import CopyOptions
    from gexec.files.report import Report
    from gexec.files.survey import FileFinding

_NO_DIGEST = "its digest was not sent, because this node's answer was late or lost on the way; compare again"


class Comparer:
    """Reports the difference for each entry (VERIFY), or the action that would be done (DRY_RUN).

    Has the methods of Installer, and raises the same exceptions.

    Args:
        tell: called with (word, path, details): ``missing``, ``differs``, ``extra``; ``create``, ``update``,
            ``delete``. Details are words such as ``content, mode``; they are the same on every node with the
            same difference.
    """

    def __init__(
        self, options: CopyOptions, judge: Judge, report: Report, tell: Callable[[str, bytes, str], None]
    ) -> None:
        self._is_verification = options.task == VERIFY
        self._judge = judge
        self._report = report
        self._tell = tell
        #: Device and inode of files that have several names.
        self._linked: dict[bytes, tuple[int, int]] = {}

    def directory(self, above: Place, name: bytes, entry: Directory) -> Place:
        """Compare a directory."""
        missing = Place(entry.path, -1, above=above)
        old = _status(above, name)
        if old is None:
            self._report.directories += 1
            self._missing(entry.path)
            return missing
        if not stat.S_ISDIR(old.st_mode):
            self._differs(entry.path, ["kind"])
            return missing
        differences = self._judge.differences(above, name, entry.meta, old, is_directory=True)
        self._differs(entry.path, differences)
        place = Place(entry.path, open_below(above.descriptor, name, to_read=True), above=above)
        place.meta = entry.meta
        return place

    def leave(self, place: Place) -> None:
        """Does nothing."""

    def file(
        self, above: Place, name: bytes, entry: File, finding: FileFinding, *, has_contents: bool
    ) -> FileComparison | None:
        """Compare a file; None if its contents are not needed."""
        status = finding.status
        if finding.state == UNKNOWN:
            raise RefusedError(finding.why)
        if status is not None and entry.is_linked:
            self._linked[entry.path] = status.st_dev, status.st_ino
        if status is None:
            self._missing(entry.path)
            self._count(entry)
        elif finding.state == OWN:
            self._report.unchanged += 1
        elif not stat.S_ISREG(status.st_mode):
            if stat.S_ISDIR(status.st_mode) and not self._is_verification:
                raise RefusedError("it is a directory here: remove it first")
            self._differs(entry.path, ["kind"])
            self._count(entry)
        elif finding.state == DOUBT and has_contents:
            return FileComparison(self, entry, finding)
        elif finding.state != DOUBT:
            self.compared(entry, finding)
        elif not finding.is_unreadable:
            raise RefusedError(_NO_DIGEST)
        return None

    def compared(self, entry: File, finding: FileFinding) -> None:
        """Report a file about whose contents there is no doubt."""
        status = finding.status
        assert status is not None
        differences = finding.differences
        is_older = status.st_mtime_ns != entry.meta.mtime_ns and not self._is_verification
        if finding.state == RIGHT or not (finding.is_other or differences or is_older):
            self._report.unchanged += 1
            return
        if finding.is_other:
            differences = ["content", *differences]
        elif is_older:
            differences = ["mtime", *differences]
        self._differs(entry.path, differences)
        self._count(entry)

    def symlink(self, above: Place, name: bytes, entry: Symlink) -> None:
        """Compare a link."""
        old = _status(above, name)
        if old is None:
            self._missing(entry.path)
        elif not stat.S_ISLNK(old.st_mode):
            self._differs(entry.path, ["kind"])
        elif os.readlink(name, dir_fd=above.descriptor) != entry.target:
            self._differs(entry.path, ["target"])
        elif self._judge.owner_differs(entry.meta, old):
            self._differs(entry.path, ["owner"])
        else:
            self._report.unchanged += 1
            return
        self._report.links += 1

    def hard_link(self, above: Place, name: bytes, entry: HardLink) -> None:
        """Compare one more name of a file."""
        old = _status(above, name)
        if old is None:
            self._missing(entry.path)
        elif not stat.S_ISREG(old.st_mode):
            self._differs(entry.path, ["kind"])
        elif (old.st_dev, old.st_ino) != self._linked.get(entry.first):
            self._differs(entry.path, ["link"])
        else:
            self._report.unchanged += 1
            return
        self._report.files += 1

    def _missing(self, path: bytes) -> None:
        self._tell("missing" if self._is_verification else "create", path, "")

    def _differs(self, path: bytes, differences: list[str]) -> None:
        if differences:
            self._tell("differs" if self._is_verification else "update", path, ", ".join(differences))

    def _count(self, entry: File) -> None:
        self._report.files += 1
        self._report.bytes += entry.size


class FileComparison:
    """A file whose contents are compared: like Incoming, but nothing is written."""

    __slots__ = ("_comparer", "_entry", "_finding")

    def __init__(self, comparer: Comparer, entry: File, finding: FileFinding) -> None:
        self._comparer = comparer
        self._entry = entry
        self._finding = finding

    def write(self, offset: int, data: memoryview) -> None:
        """Nothing is written."""

    def finish(self, digest: bytes) -> None:
        """Compare with the digest of the stream's file."""
        self._finding.settle(self._entry.meta.mtime_ns, digest)
        self._comparer.compared(self._entry, self._finding)

    def abort(self) -> None:
        """Nothing to undo."""


def _status(above: Place, name: bytes) -> os.stat_result | None:
    if above.is_missing:
        return None
    try:
        return os.lstat(name, dir_fd=above.descriptor)
    except FileNotFoundError:
        return None
