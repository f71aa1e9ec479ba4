"""Receives one archive stream and handles its entries as the options require.

Each list is looked at when it arrives, and answered. Its entries are handled when their contents come: in
order, those without contents in between. The destination is opened by the caller's path; below it no symbolic
link is followed, whoever put it there and when. A failed entry is reported in one sentence, and the others
are written. A file is either the old one or the stream's, as a whole.
"""

from __future__ import annotations

import os

from gexec import limits
from gexec.errors import GexecError, UsageError
from gexec.files import records
from gexec.files.comparing import Comparer
from gexec.files.decoder import ArchiveDecoder
from gexec.files.directories import Place, RefusedError, Tree, open_below, reason, refused
from gexec.files.entries import Directory, File, HardLink, Removal, Skipped, Symlink
from gexec.files.extra import Extra
from gexec.files.identity import SameFile
from gexec.files.installing import Installer
from gexec.files.linking import Linker
from gexec.files.metadata import Judge
from gexec.files.notes import Notes
from gexec.files.options import VERIFY, WRITE, CopyOptions
from gexec.files.owners import FileOwners
from gexec.files.report import Report
from gexec.files.survey import LACKS, OWN, FileFinding, Survey
from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.files.answers import ListAnswer
    from gexec.files.comparing import FileComparison
    from gexec.files.entries import Meta, StreamEntry
    from gexec.files.installing import Incoming
    from gexec.files.signatures import StreamVerifier


class _List:
    """A list whose contents have not all come: its entries, and what the node has of its files."""

    __slots__ = ("entries", "findings", "next")

    def __init__(self, entries: Sequence[StreamEntry], findings: dict[int, FileFinding]) -> None:
        self.entries = entries
        self.findings = findings
        #: Index of the first entry that was not handled.
        self.next = 0


class Receiver:
    """One stream: ``feed`` its bytes as they arrive, then always ``finish``.

    Args:
        destination: absolute path of the directory below which everything is written.
        options: what to do.
        say: called with failures and warnings, one sentence each. At most
            ARCHIVE_SAID_MAX.
        tell: called with one line for each difference (VERIFY) or each action that would be done (DRY_RUN).
        answer: called with what is lacking, if the sender asks.
        new_name: what the stream's only root is called here; empty: as in the stream.
        on_step: called now and then during work that may take long. Its exceptions end the stream and pass
            through.
        verifier: nothing has an effect before this key's signature covers it, except that contents are
            written to a file without a name; None: the stream is not signed.

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
        answer: Callable[[ListAnswer], None] = lambda answer: None,
        new_name: bytes = b"",
        on_step: Callable[[], None] = lambda: None,
        verifier: StreamVerifier | None = None,
    ) -> None:
        self.report = Report()
        self._root = os.fsencode(destination.rstrip("/"))
        self._options = options
        self._say = say
        self._tell_line = tell
        self._answer = answer
        self._new_name = new_name
        self._on_step = on_step
        self._said = 0
        self._problems_told = 0
        self._lists: dict[int, _List] = {}
        self._file: Incoming | FileComparison | None = None
        self._path = b""
        self._decoder = ArchiveDecoder(self._handle, verifier)
        descriptor = _open_destination(
            destination, make_parents=options.make_parents and options.task == WRITE
        )
        self._same_file: SameFile | None = None
        judge = Judge(options, FileOwners(keep=options.keep_owner, numeric=options.numeric_ids))
        self._notes = Notes()
        self._linker = Linker(descriptor)
        self._entries: Installer | Comparer = (
            Installer(options, judge, self._linker, self.report, self._notes, on_step=on_step)
            if options.task == WRITE
            else Comparer(options, judge, self.report, self._tell)
        )
        self._survey = Survey(os.dup(descriptor), options, judge, self._is_source, on_step=on_step)
        self._tree = Tree(
            descriptor,
            make_parents=options.make_parents,
            read_only=options.task != WRITE,
            on_leave=self._leave,
        )
        self._extra = Extra(
            options,
            self._tree,
            self._is_source,
            self.report,
            note=self._note,
            fail=self._fail,
            tell=self._tell,
            on_step=on_step,
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
                self._extra.handle()
        finally:
            self._survey.close()
            self._linker.close()
            self._tree.close()
        for sentence in self._notes.sentences(self._root):
            self._say(sentence)
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
        elif isinstance(event, records.Contents):
            self._contents(event)
        elif isinstance(event, records.FileEnd):
            self._end_file(event.digest)
        elif isinstance(event, records.FileBad):
            self._problems_told += 1
            if self._file is not None:
                # Otherwise it is right here, or has failed already.
                self._fail(self._path, "")
            self._drop_file()
        elif isinstance(event, records.Listed):
            self._listed(event)
        elif isinstance(event, records.Digests):
            self._digests(event)
        elif isinstance(event, records.ListDone):
            known = self._lists.pop(event.number)
            self._handle_until(known, len(known.entries))
        elif isinstance(event, records.Device):
            self._sources().add(event)
        elif isinstance(event, records.FilterRules):
            self._extra.protect(event.lines)
        elif isinstance(event, records.End):
            # Entries whose name could not be sent either.
            self.report.failed += max(0, event.problems - self._problems_told)

    def _listed(self, event: records.Listed) -> None:
        if self._decoder.digests_only and self._options.task == WRITE:
            raise UsageError(
                "the stream has digests instead of contents: it can only be compared (--checksum)"
            )
        self._survey.may_ask = self._decoder.is_asking and self._options.asks_digests
        if self._new_name:
            self._extra.rename(event.entries[0].path.partition(b"/")[0], self._new_name)
            for entry in event.entries:
                _rename(entry, self._new_name)
        self._extra.learn(event.entries)
        findings = self._survey.look(event.entries)
        self._lists[event.number] = _List(event.entries, findings)
        if self._decoder.is_asking:
            self._answer(self._survey.answer(event.number, 0, findings))

    def _is_source(self, meta: Meta, status: os.stat_result) -> bool:
        """True if an entry of this node is the very one that was sent: it stays as it is."""
        return self._sources().is_same(meta, status)

    def _sources(self) -> SameFile:
        if self._same_file is None:
            self._same_file = SameFile(self._decoder.boot_id)
        return self._same_file

    def _digests(self, event: records.Digests) -> None:
        known = self._lists[event.number]
        self._survey.compare(known.entries, known.findings, event.digests)
        if self._decoder.is_asking:
            self._answer(self._survey.answer(event.number, 1, known.findings))

    def _contents(self, event: records.Contents) -> None:
        """Contents of a file of the oldest list begin: handle what is before it, and the file."""
        known = next(iter(self._lists.values()))
        self._handle_until(known, event.index)
        known.next = event.index + 1
        entry = known.entries[event.index]
        assert isinstance(entry, File)  # ensured by the decoder
        finding = known.findings[event.index]
        is_as_listed = (event.size, event.mtime_ns) == (entry.size, entry.meta.mtime_ns)
        if not is_as_listed and finding.state != OWN:
            # It has changed since it was listed: what the node has is not what it is now.
            finding.state = LACKS
        entry.size, entry.meta.mtime_ns = event.size, event.mtime_ns
        self._path = entry.path
        self._handle_entry(entry, finding, has_contents=True)

    def _end_file(self, digest: bytes) -> None:
        if self._file is None:
            return
        try:
            self._file.finish(digest)
            self._file = None
        except RefusedError as error:
            self._fail(self._path, str(error))
            self._drop_file()
        except OSError as error:
            self._fail(self._path, reason(error))
            self._drop_file()

    def _drop_file(self) -> None:
        if self._file is not None:
            self._file.abort()
            self._file = None

    # -- entries ----------------------------------------------------------------------------------

    def _handle_until(self, known: _List, end: int) -> None:
        for index in range(known.next, end):
            self._handle_entry(known.entries[index], known.findings.get(index), has_contents=False)
            self._on_step()
        known.next = end

    def _handle_entry(self, entry: StreamEntry, finding: FileFinding | None, *, has_contents: bool) -> None:
        above_path, _, name = entry.path.rpartition(b"/")
        if isinstance(entry, Skipped):
            self._skipped(entry, above_path, name)
            return
        why = ""
        try:
            above = self._tree.enter(above_path)
            if above.names is not None:
                above.names.add(name)
            if isinstance(entry, File):
                assert finding is not None
                self._file = self._entries.file(above, name, entry, finding, has_contents=has_contents)
            elif isinstance(entry, Directory):
                self._directory(above, name, entry)
            elif isinstance(entry, Symlink):
                self._entries.symlink(above, name, entry)
            elif isinstance(entry, HardLink):
                self._entries.hard_link(above, name, entry)
            elif isinstance(entry, Removal):
                self._extra.remove_named(above, name, entry)
            return
        except RefusedError as error:
            why = str(error)
        except OSError as error:
            why = reason(error)
        self._fail(entry.path, why)
        if isinstance(entry, Directory):
            self._tree.push(refused(entry.path, why))

    def _directory(self, above: Place, name: bytes, entry: Directory) -> None:
        if not above.is_missing:
            try:
                status = os.lstat(name, dir_fd=above.descriptor)
            except FileNotFoundError:
                pass
            else:
                if self._is_source(entry.meta, status):
                    # It is the source itself, and stays as it is, with everything in it.
                    descriptor = open_below(above.descriptor, name, to_read=False)
                    self._tree.push(Place(entry.path, descriptor, above=above))
                    return
        place = self._entries.directory(above, name, entry)
        if entry.is_whole and (self._options.delete or self._options.task == VERIFY):
            place.names = set()
        self._tree.push(place)

    def _skipped(self, entry: Skipped, above_path: bytes, name: bytes) -> None:
        """Count what the sender has but could not send, and do not delete it."""
        if entry.reason:
            self._problems_told += 1
            self._fail(entry.path, "")
        try:
            above = self._tree.enter(above_path)
        except RefusedError:
            return
        if above.names is not None:
            above.names.add(name)

    def _leave(self, place: Place) -> None:
        try:
            self._extra.note(place)
            self._entries.leave(place)
        except RefusedError as error:
            self._fail(place.path, str(error))
        except OSError as error:
            self._fail(place.path, f"its owner, mode or time cannot be set: {reason(error)}")

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


def _rename(entry: StreamEntry, name: bytes) -> None:
    """Give an entry the root's new name."""
    _, slash, below = entry.path.partition(b"/")
    entry.path = name + slash + below
    if isinstance(entry, HardLink):
        _, slash, below = entry.first.partition(b"/")
        entry.first = name + slash + below


def _open_destination(destination: str, *, make_parents: bool) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    shown_path = shown(os.fsencode(destination))
    try:
        if make_parents:
            os.makedirs(destination, mode=0o755, exist_ok=True)
        return os.open(destination, flags)
    except (FileNotFoundError, FileExistsError, NotADirectoryError) as error:
        obstacle = _obstacle(destination)
        if obstacle == os.path.normpath(destination):
            why = "is not a directory: remove what is there"
        elif obstacle:
            why = f"cannot be used: {shown(os.fsencode(obstacle))} is not a directory; remove what is there"
        else:
            why = "is missing (--parents makes it)"
        raise GexecError(f"the destination {shown_path} {why}") from error
    except OSError as error:
        raise GexecError(f"the destination {shown_path} cannot be used: {reason(error)}") from error


def _obstacle(path: str) -> str:
    """Return the first part of a path that is there and no directory; empty if only parts are missing."""
    so_far = "/"
    for part in os.path.normpath(path).split("/")[1:]:
        so_far = os.path.join(so_far, part)
        if os.path.lexists(so_far) and not os.path.isdir(so_far):
            return so_far
    return ""
