"""Receives one archive stream and handles its entries as the options require.

The destination is opened by the caller's path; below it no symbolic link is followed, whoever put it there
and when. A failed entry is reported in one sentence, and the others are written. A file is either the old one
or the stream's, as a whole.
"""

from __future__ import annotations

import os

from gexec import limits
from gexec.errors import GexecError, UsageError
from gexec.files import records
from gexec.files.comparing import Comparer
from gexec.files.decoder import ArchiveDecoder
from gexec.files.deletion import remove
from gexec.files.directories import Place, RefusedError, Tree, reason, refused
from gexec.files.installing import Installer
from gexec.files.options import VERIFY, WRITE, CopyOptions
from gexec.files.report import Report
from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gexec.files.comparing import FileComparison
    from gexec.files.installing import Incoming


class Receiver:
    """One stream: ``feed`` its bytes as they arrive, then always ``finish``.

    Args:
        destination: absolute path of the directory below which everything is written.
        options: what to do.
        say: called with failures and warnings, one sentence each. At most
            ARCHIVE_SAID_MAX.
        tell: called with one line for each difference (VERIFY) or each action that would be done (DRY_RUN).

    Raises:
        GexecError: the destination does not exist, is not a directory, or may not be written to.

    Attributes:
        report: what was done so far.
    """

    def __init__(
        self,
        destination: str,
        options: CopyOptions,
        *,
        say: Callable[[str], None],
        tell: Callable[[str], None],
    ) -> None:
        self.report = Report()
        self._root = os.fsencode(destination.rstrip("/"))
        self._options = options
        self._say = say
        self._tell_line = tell
        self._said = 0
        self._problems_told = 0
        self._looks_for_extra = options.delete or options.task == VERIFY
        self._file: Incoming | FileComparison | None = None
        self._path = b""
        #: (directory, its device and inode, its entries that are not in the stream)
        self._extra: list[tuple[bytes, tuple[int, int], list[bytes]]] = []
        self._entries: Installer | Comparer = (
            Installer(options, self.report, self._note)
            if options.task == WRITE
            else Comparer(options, self.report, self._tell)
        )
        self._decoder = ArchiveDecoder(self._handle)
        self._tree = Tree(
            _open_destination(destination, make_parents=options.make_parents and options.task == WRITE),
            make_parents=options.make_parents,
            read_only=options.task != WRITE,
            on_leave=self._leave,
        )

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the stream.

        Raises:
            ProtocolError: they are not intact. Nothing is left of the current file; ``finish`` must still be
                called.
        """
        self._decoder.feed(data)

    def end(self) -> None:
        """End the stream; ProtocolError if it was not complete."""
        self._decoder.finish()

    def finish(self) -> Report:
        """End. If the stream was incomplete, the current file is dropped and nothing is deleted."""
        self._drop_file()
        try:
            self._tree.leave_all()
            self.report.is_complete = self._decoder.is_complete
            if self.report.is_complete:
                self._handle_extra()
        finally:
            self._tree.close()
        if self._said > limits.ARCHIVE_SAID_MAX:
            self._say(f"and {self._said - limits.ARCHIVE_SAID_MAX} sentences more")
        return self.report

    # -- events ---------------------------------------------------------------------------------

    def _handle(self, event: records.Event) -> None:
        if isinstance(event, records.Data):
            if self._file is not None:
                try:
                    self._file.write(event.offset, event.data)
                except OSError as error:
                    self._fail(self._path, reason(error))
                    self._drop_file()
        elif isinstance(event, records.FileEnd):
            self._end_file(event.digest)
        elif isinstance(event, records.FileBad):
            self._problems_told += 1
            self._fail(self._path, "")
            self._drop_file()
        elif isinstance(event, records.Skipped):
            if event.reason:
                self._problems_told += 1
                self._fail(event.path, "")
            self._keep(event.path)
        elif isinstance(event, records.End):
            # Entries whose name could not be sent either.
            self.report.failed += max(0, event.problems - self._problems_told)
        else:
            assert isinstance(event, records.Directory | records.File | records.Symlink)
            self._begin(event)

    def _begin(self, event: records.Directory | records.File | records.Symlink) -> None:
        if self._decoder.digests_only and self._options.task == WRITE:
            raise UsageError(
                "the stream has digests instead of contents: it can only be compared (--checksum)"
            )
        path = event.path
        above_path, _, name = path.rpartition(b"/")
        try:
            above = self._tree.enter(above_path)
            if above.names is not None:
                above.names.add(name)
            if isinstance(event, records.File):
                self._path = path
                self._file = self._entries.file(above, name, event)
            elif isinstance(event, records.Symlink):
                self._entries.symlink(above, name, event)
            else:
                place = self._entries.directory(above, name, event)
                if self._looks_for_extra:
                    place.names = set()
                self._tree.push(place)
            return
        except RefusedError as error:
            why = str(error)
        except OSError as error:
            why = reason(error)
        self._fail(path, why)
        if isinstance(event, records.Directory):
            self._tree.push(refused(path, why))

    def _end_file(self, digest: bytes) -> None:
        if self._file is None:
            return
        try:
            self._file.finish(digest)
            self._file = None
        except OSError as error:
            self._fail(self._path, reason(error))
            self._drop_file()

    def _drop_file(self) -> None:
        if self._file is not None:
            self._file.abort()
            self._file = None

    def _keep(self, path: bytes) -> None:
        """Do not delete entries that the sender has but could not send."""
        above_path, _, name = path.rpartition(b"/")
        try:
            above = self._tree.enter(above_path)
        except RefusedError:
            return
        if above.names is not None:
            above.names.add(name)

    # -- directories that are done ------------------------------------------------------------------

    def _leave(self, place: Place) -> None:
        try:
            if place.names is not None and place.descriptor >= 0:
                extra = {os.fsencode(name) for name in os.listdir(place.descriptor)} - place.names
                if extra:
                    self._extra.append((place.path, place.identity, sorted(extra)))
            self._entries.leave(place)
        except RefusedError as error:
            self._fail(place.path, str(error))
        except OSError as error:
            self._fail(place.path, f"its owner, mode or time cannot be set: {reason(error)}")

    def _handle_extra(self) -> None:
        """Remove or report entries that are not in the stream, if each directory is still the listed one."""
        if self._extra and self._options.task == WRITE and self.report.failed:
            self._note(b"", "nothing was deleted, because not everything arrived")
            return
        for path, identity, names in self._extra:
            if self._options.task != WRITE:
                word = "extra" if self._options.task == VERIFY else "delete"
                for name in names:
                    self._tell(word, path + b"/" + name, "")
                continue
            for name in names:
                self._remove(path, identity, name)

    def _remove(self, path: bytes, identity: tuple[int, int], name: bytes) -> None:
        try:
            above = self._tree.enter(path)
            if above.identity != identity or above.status is None:
                raise RefusedError("the directory was replaced during the copy")
            self.report.deleted += remove(above.descriptor, name)
            mtime_ns = above.status.st_mtime_ns
            os.utime(b".", ns=(mtime_ns, mtime_ns), dir_fd=above.descriptor)
        except RefusedError as error:
            self._fail(path + b"/" + name, f"not deleted: {error}")
        except OSError as error:
            self._fail(path + b"/" + name, f"not deleted: {reason(error)}")

    # -- messages ----------------------------------------------------------------------------------

    def _fail(self, path: bytes, why: str) -> None:
        """Count and report a failure; empty: the sender has reported it, once for all receivers."""
        self.report.failed += 1
        if why:
            self._note(path, why)

    def _note(self, path: bytes, sentence: str) -> None:
        self._said += 1
        if self._said <= limits.ARCHIVE_SAID_MAX:
            self._say(f"{shown(self._root + b'/' + path)}: {sentence}")

    def _tell(self, word: str, path: bytes, details: str) -> None:
        self.report.differing += 1
        # Paths are relative to a destination other than /, so that lines are equal on all nodes.
        line = f"{word} {shown(path if self._root else b'/' + path)}"
        self._tell_line(f"{line}: {details}" if details else line)


def _open_destination(destination: str, *, make_parents: bool) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    try:
        if make_parents:
            os.makedirs(destination, mode=0o755, exist_ok=True)
        return os.open(destination, flags)
    except FileNotFoundError as error:
        raise GexecError(
            f"the destination {shown(os.fsencode(destination))} is missing (--parents makes it)"
        ) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise GexecError(
            f"the destination {shown(os.fsencode(destination))} is not a directory: remove what is there"
        ) from error
    except OSError as error:
        raise GexecError(
            f"the destination {shown(os.fsencode(destination))} cannot be used: {reason(error)}"
        ) from error
