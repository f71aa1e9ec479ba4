"""What this node already has of a list of entries: decides whose contents or digests are needed."""

from __future__ import annotations

import os
import stat

from gexec import limits
from gexec.files.answers import ListAnswer
from gexec.files.directories import Place, RefusedError, Tree, open_below, reason, refused
from gexec.files.entries import Directory, File
from gexec.files.options import VERIFY, WRITE
from gexec.files.reading import ShrunkError, content_digest
from gexec.files.records import UNREADABLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gexec.files.entries import Meta, StreamEntry
    from gexec.files.metadata import Judge
    from gexec.files.options import CopyOptions

#: The node's file is as it must be; it is the source itself; only its attributes are wrong; its contents are
#: needed; its digest must be compared first; it cannot be looked at.
RIGHT, OWN, ATTRIBUTES, LACKS, DOUBT, UNKNOWN = range(6)


class FileFinding:
    """What the node has of one file.

    Attributes:
        state: see above.
        status: of the node's file, None if it has none.
        digest: of its contents, where it was needed.
        is_other: its contents are known to be different.
        is_unreadable: the sender cannot read it, and has reported that.
        differences: what differs besides the contents, in words of Judge.
        why: UNKNOWN: a sentence; empty: reported already.
    """

    __slots__ = ("differences", "digest", "is_other", "is_unreadable", "state", "status", "why")

    def __init__(self, state: int, status: os.stat_result | None = None, why: str = "") -> None:
        self.state = state
        self.status = status
        self.digest = b""
        self.is_other = False
        self.is_unreadable = False
        self.why = why
        self.differences: list[str] = []

    def settle(self, mtime_ns: int, digest: bytes) -> None:
        """Settle the doubt about a file with the source's mtime and digest."""
        assert self.status is not None
        self.is_other = digest != self.digest
        is_right = not self.differences and self.status.st_mtime_ns == mtime_ns
        self.state = LACKS if self.is_other else RIGHT if is_right else ATTRIBUTES


class Survey:
    """Looks at the entries of one stream, list by list, and changes nothing.

    Args:
        destination: an open directory; this object closes it.
        options, judge: as for writing.
        is_source: recognizes the source itself.
        on_step: called now and then, also while one large file is read.

    Attributes:
        may_ask: the sender answers doubts with digests.
    """

    def __init__(
        self,
        destination: int,
        options: CopyOptions,
        judge: Judge,
        is_source: Callable[[Meta, os.stat_result], bool],
        *,
        on_step: Callable[[], None],
    ) -> None:
        self._options = options
        self._judge = judge
        self._is_source = is_source
        self._buffer = bytearray()
        self.may_ask = False
        self._on_step = on_step
        self._tree = Tree(destination, make_parents=True, read_only=True, on_leave=lambda place: None)

    def close(self) -> None:
        """Close the directories."""
        self._tree.close()

    def look(self, entries: Sequence[StreamEntry]) -> dict[int, FileFinding]:
        """Return what the node has of the files in a list, by index."""
        findings = {}
        for index, entry in enumerate(entries):
            if isinstance(entry, Directory):
                self._enter(entry)
            elif isinstance(entry, File):
                findings[index] = self._file(entry)
            self._on_step()
        return findings

    def compare(
        self,
        entries: Sequence[StreamEntry],
        findings: Mapping[int, FileFinding],
        digests: Mapping[int, bytes],
    ) -> None:
        """Settle the doubts about a list's files. The sender has no digest of a file that it cannot read."""
        for index, finding in findings.items():
            digest = digests.get(index, b"")
            if finding.state != DOUBT:
                continue
            if digest and digest != UNREADABLE:
                finding.settle(entries[index].meta.mtime_ns, digest)
            elif self._options.task == WRITE:
                finding.state = LACKS
            else:
                finding.is_unreadable = bool(digest)

    def answer(self, number: int, phase: int, findings: Mapping[int, FileFinding]) -> ListAnswer:
        """Return the answer to a list or to its digests; nothing is needed where nothing is written."""
        answer = ListAnswer(number, phase, 0, 0)
        for index, finding in findings.items():
            if finding.state == LACKS and self._options.task == WRITE:
                answer.lacks |= 1 << index
            elif finding.state == DOUBT and not phase:
                answer.doubts |= 1 << index
        return answer

    def _enter(self, entry: Directory) -> None:
        try:
            above, name = self._place(entry.path)
            descriptor = -1 if above.is_missing else open_below(above.descriptor, name, to_read=False)
        except FileNotFoundError:
            descriptor = -1
        except (RefusedError, OSError) as error:
            if self._options.task == WRITE:
                # Told when its turn comes; nothing below it is needed.
                self._tree.push(refused(entry.path, str(error)))
                return
            descriptor = -1
        self._tree.push(Place(entry.path, descriptor, above=None))

    def _place(self, path: bytes) -> tuple[Place, bytes]:
        above_path, _, name = path.rpartition(b"/")
        return self._tree.enter(above_path), name

    def _file(self, entry: File) -> FileFinding:
        try:
            above, name = self._place(entry.path)
            if above.is_missing:
                return self._absent(entry)
            try:
                status = os.lstat(name, dir_fd=above.descriptor)
            except FileNotFoundError:
                return self._absent(entry)
            return self._finding(above, name, entry, status)
        except RefusedError as error:
            return FileFinding(UNKNOWN, why=str(error))
        except OSError as error:
            return FileFinding(UNKNOWN, why=reason(error))

    def _absent(self, entry: File) -> FileFinding:
        if self._options.task == WRITE:
            # An owner who is refused is refused before the contents are sent.
            self._judge.owners.wanted(entry.meta)
            self._judge.extended(entry.meta)
        return FileFinding(LACKS)

    def _finding(self, above: Place, name: bytes, entry: File, status: os.stat_result) -> FileFinding:
        task = self._options.task
        if self._is_source(entry.meta, status):
            return FileFinding(OWN, status)
        if stat.S_ISDIR(status.st_mode) and task == WRITE:
            raise RefusedError("it is a directory here: remove it first")
        found = FileFinding(RIGHT, status)
        found.differences = self._judge.differences(above, name, entry.meta, status)
        is_older = status.st_mtime_ns != entry.meta.mtime_ns
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size or entry.is_unsized:
            found.state, found.is_other = LACKS, True
        elif task == VERIFY or self._options.compare_content or (is_older and self.may_ask and task == WRITE):
            try:
                found.digest = self._digest(above, name, entry.size)
            except OSError:
                if task != WRITE:
                    raise
                # What cannot be read is replaced.
            found.state, found.is_other = (DOUBT, False) if found.digest else (LACKS, True)
        elif is_older:
            found.state = LACKS
        elif found.differences:
            # Its contents must be readable here to be kept.
            is_readable = os.access(name, os.R_OK, dir_fd=above.descriptor, effective_ids=True)
            found.state = ATTRIBUTES if is_readable else LACKS
        return found

    def _digest(self, above: Place, name: bytes, size: int) -> bytes:
        """Return the digest of a file, empty if it is no longer a file of that size."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=above.descriptor)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                return b""
            if not self._buffer:
                self._buffer = bytearray(limits.ARCHIVE_DATA_MAX_BYTES)
            return content_digest(descriptor, size, self._buffer, on_piece=self._on_step)
        except ShrunkError:
            return b""
        finally:
            os.close(descriptor)
