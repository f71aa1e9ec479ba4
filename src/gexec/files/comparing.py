"""Compares the entries of a stream with existing files, and writes nothing."""

from __future__ import annotations

import os
import stat

from gexec import limits
from gexec.files.directories import Place, RefusedError, open_below
from gexec.files.installing import digest_below
from gexec.files.options import VERIFY
from gexec.files.owners import UNCHANGED, FileOwners

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gexec.files.options import CopyOptions
    from gexec.files.records import Directory, File, Meta, Symlink
    from gexec.files.report import Report

_SET_ID = stat.S_ISUID | stat.S_ISGID


class Comparer:
    """Reports the difference for each entry (VERIFY), or the action that would be done (DRY_RUN).

    Has the methods of Installer, and raises the same exceptions.

    Args:
        tell: called with (word, path, details): ``missing``, ``differs``, ``extra``; ``create``, ``update``,
            ``delete``. Details are words such as ``content, mode``; they are the same on every node with the
            same difference.
    """

    def __init__(self, options: CopyOptions, report: Report, tell: Callable[[str, bytes, str], None]) -> None:
        self._is_verification = options.task == VERIFY
        self._options = options
        self._report = report
        self._tell = tell
        self._owners = FileOwners(keep=options.keep_owner, numeric=options.numeric_ids)
        self._buffer = bytearray(limits.ARCHIVE_DATA_MAX_BYTES)

    def directory(self, above: Place, name: bytes, event: Directory) -> Place:
        """Compare a directory."""
        missing = Place(event.path, -1, above=above)
        old = self._status(above, name)
        if old is None:
            self._report.directories += 1
            self._missing(event.path)
            return missing
        if not stat.S_ISDIR(old.st_mode):
            self._differs(event.path, ["kind"])
            return missing
        self._differs(event.path, self._differences(old, event.meta))
        return Place(event.path, open_below(above.descriptor, name, to_read=True), above=above)

    def leave(self, place: Place) -> None:
        """Does nothing."""

    def file(self, above: Place, name: bytes, event: File) -> FileComparison | None:
        """Compare a file; None if its contents are not needed."""
        old = self._status(above, name)
        if old is None:
            self._missing(event.path)
            self._count(event.size)
            return None
        if not stat.S_ISREG(old.st_mode):
            if stat.S_ISDIR(old.st_mode) and not self._is_verification:
                raise RefusedError("it is a directory here: remove it first")
            self._differs(event.path, ["kind"])
            self._count(event.size)
            return None
        differences = self._differences(old, event.meta)
        if old.st_size != event.size:
            differences.insert(0, "content")
        elif self._is_verification or self._options.compare_content:
            digest = digest_below(above, name, event.size, self._buffer)
            return FileComparison(self, event, digest, differences)
        elif old.st_mtime_ns != event.meta.mtime_ns:
            differences.insert(0, "mtime")
        self._file_compared(event, differences)
        return None

    def symlink(self, above: Place, name: bytes, event: Symlink) -> None:
        """Compare a link."""
        old = self._status(above, name)
        if old is None:
            self._missing(event.path)
        elif not stat.S_ISLNK(old.st_mode):
            self._differs(event.path, ["kind"])
        elif os.readlink(name, dir_fd=above.descriptor) != event.target:
            self._differs(event.path, ["target"])
        elif self._owner_differs(old, event.meta):
            self._differs(event.path, ["owner"])
        else:
            self._report.unchanged += 1
            return
        self._report.links += 1

    def _file_compared(self, event: File, differences: list[str]) -> None:
        if differences:
            self._differs(event.path, differences)
            self._count(event.size)
        else:
            self._report.unchanged += 1

    def _status(self, above: Place, name: bytes) -> os.stat_result | None:
        if above.is_missing:
            return None
        try:
            return os.lstat(name, dir_fd=above.descriptor)
        except FileNotFoundError:
            return None

    def _differences(self, old: os.stat_result, meta: Meta) -> list[str]:
        compared = 0o7777 if self._options.keep_set_id else 0o7777 & ~_SET_ID
        differences = ["mode"] if (old.st_mode ^ meta.mode) & compared else []
        return differences + (["owner"] if self._owner_differs(old, meta) else [])

    def _owner_differs(self, old: os.stat_result, meta: Meta) -> bool:
        uid, gid = self._owners.wanted(meta)
        return uid != UNCHANGED and (old.st_uid, old.st_gid) != (uid, gid)

    def _missing(self, path: bytes) -> None:
        self._tell("missing" if self._is_verification else "create", path, "")

    def _differs(self, path: bytes, differences: list[str]) -> None:
        if differences:
            self._tell("differs" if self._is_verification else "update", path, ", ".join(differences))

    def _count(self, size: int) -> None:
        self._report.files += 1
        self._report.bytes += size


class FileComparison:
    """A file whose contents are compared: like Incoming, but nothing is written."""

    __slots__ = ("_comparer", "_differences", "_digest", "_event")

    def __init__(self, comparer: Comparer, event: File, digest: bytes, differences: list[str]) -> None:
        self._comparer = comparer
        self._event = event
        self._digest = digest
        self._differences = differences

    def write(self, offset: int, data: memoryview) -> None:
        """Nothing is written."""

    def finish(self, digest: bytes) -> None:
        """Compare with the digest of the stream's file."""
        differences = self._differences if digest == self._digest else ["content", *self._differences]
        self._comparer._file_compared(self._event, differences)

    def abort(self) -> None:
        """Nothing to undo."""
