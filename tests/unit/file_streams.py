"""What tests of files share: streams of real files and streams written by hand, and what receivers make of
them. A stream is sent to receivers that do not answer, or to some whose answers go back to the sender.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gexec import limits
from gexec.errors import GexecError
from gexec.files.answers import ListAnswer, Union
from gexec.files.compression import Compressor
from gexec.files.decoder import ArchiveDecoder
from gexec.files.digest import ContentHash
from gexec.files.encoder import Encoder
from gexec.files.entries import File, Meta, StreamEntry, packed_entry
from gexec.files.lister import Lister
from gexec.files.options import CopyOptions
from gexec.files.patterns import NO_RULES, Rules
from gexec.files.receiver import Receiver
from gexec.files.records import SIGNED, Contents, Event, ListDone, Listed
from gexec.files.report import Report
from gexec.files.roots import roots_of
from gexec.files.sender import Sender
from gexec.files.signatures import StreamSigner, StreamVerifier
from gexec.files.walking import Found, removals, walk

MTIME_NS = 10**18
#: Of signed streams.
SIGNER = StreamSigner(bytes(range(32)))
VERIFIER = StreamVerifier(SIGNER.public)
#: The byte of a preamble that has its flags.
_FLAGS_AT = 9
#: Turns of a sender without an answer after which a test gives up.
_WAITS_MAX = 50


def meta(mode: int = 0o644, mtime_ns: int = MTIME_NS, uid: int | None = None) -> Meta:
    """Return the metadata of an entry of this user; nothing of it is the source itself."""
    return Meta(mode, os.geteuid() if uid is None else uid, os.getegid(), mtime_ns, b"", b"")


MINE = meta()
MINE_DIRECTORY = meta(0o755)


class Received:
    """A receiver below a directory, and what became of its stream.

    Attributes:
        said, told: sentences, and lines about differences.
        answers: what was answered.
        error: why the stream ended early, or empty.
        report: after ``finish``.
    """

    def __init__(
        self,
        stream: bytes | None,
        place: Path,
        options: CopyOptions | None = None,
        *,
        new_name: bytes = b"",
        answer: Callable[[ListAnswer], None] = lambda answer: None,
        verifier: StreamVerifier | None = None,
    ) -> None:
        self.said: list[str] = []
        self.told: list[str] = []
        self.answers: list[ListAnswer] = []
        self.error = ""
        self.report = Report()
        self._on_answer = answer
        self.receiver = Receiver(
            str(place),
            options or CopyOptions(),
            say=self.said.append,
            tell=self.told.append,
            answer=self._answer,
            new_name=new_name,
            verifier=verifier,
        )
        if stream is not None:
            self.feed(stream)
            self.finish()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes, unless the stream has ended early."""
        if self.error:
            return
        try:
            self.receiver.feed(data)
        except GexecError as error:
            self.error = str(error)

    def finish(self) -> None:
        """End."""
        try:
            if not self.error:
                self.receiver.end()
        except GexecError as error:
            self.error = str(error)
        finally:
            self.report = self.receiver.finish()

    def _answer(self, answer: ListAnswer) -> None:
        self.answers.append(answer)
        self._on_answer(answer)


class Sent:
    """A sender of real files.

    Args:
        paths: what is sent; each by its last name.
        answers: as for Sender.
        remove: they are to be removed.
        on_found: called with each entry, before it is listed.

    Attributes:
        problems: what could not be sent.
    """

    def __init__(
        self,
        paths: Iterable[Path],
        *,
        answers: Callable[[], ListAnswer | None] | None = None,
        digests_only: bool = False,
        rules: Rules = NO_RULES,
        remove: bool = False,
        names: str = "base",
        on_found: Callable[[Found], None] = lambda found: None,
        signer: StreamSigner | None = None,
    ) -> None:
        self.problems: list[str] = []
        self.lister = Lister(keeps_attributes=True, on_problem=self.problems.append)
        roots = roots_of([os.fspath(path) for path in paths], names)
        self._on_found = on_found
        found = removals(roots) if remove else walk(roots, rules, inspect=self.lister.inspect)
        self.sender = Sender(
            self._each(found),
            self.lister,
            on_problem=self.problems.append,
            compressor=Compressor("never"),
            answers=answers,
            digests_only=digests_only,
            rules=rules.lines(),
            signer=signer,
        )

    def _each(self, found: Iterable[Found]) -> Iterable[Found]:
        for one in found:
            self._on_found(one)
            yield one


def sent(*paths: Path, problems: list[str] | None = None, digests_only: bool = False) -> bytes:
    """Return the stream of some paths for receivers that do not answer.

    Args:
        problems: gets what cannot be sent; without it, that is an error.
    """
    sending = Sent(paths, digests_only=digests_only)
    stream = b"".join(map(bytes, sending.sender.chunks()))
    assert problems is not None or not sending.problems
    if problems is not None:
        problems += sending.problems
    return stream


class Copying:
    """A sender and receivers in this process; their answers are joined as ensync does, and then the stream
    is signed, too.

    Attributes:
        stream: the bytes that all receivers got.
        received: one for each place.
        problems: what could not be sent.
        waits: records that the sender wrote while there was no answer.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        places: Sequence[Path],
        options: CopyOptions | None = None,
        *,
        asking: bool = True,
        digests_only: bool = False,
        rules: Rules = NO_RULES,
        remove: bool = False,
        new_name: bytes = b"",
        on_found: Callable[[Found], None] = lambda found: None,
    ) -> None:
        self.stream = bytearray()
        self.waits = 0
        self._pending: deque[ListAnswer] = deque()
        self._union = Union(range(len(places)))
        self.sent = Sent(
            paths,
            answers=self._next if asking else None,
            digests_only=digests_only,
            rules=rules,
            remove=remove,
            on_found=on_found,
            signer=SIGNER if asking else None,
        )
        self.problems = self.sent.problems
        self.received = [
            Received(
                None,
                place,
                options,
                new_name=new_name,
                answer=self._answering(rank),
                verifier=VERIFIER if asking else None,
            )
            for rank, place in enumerate(places)
        ]

    def run(self, on_chunk: Callable[[bytes], None] = lambda chunk: None) -> Copying:
        """Send everything. ``on_chunk`` is called with all bytes so far, after the receivers got them."""
        for chunk in self.sent.sender.chunks():
            self.stream += chunk
            for rank, received in enumerate(self.received):
                received.feed(chunk)
                if received.error:
                    self._pending += self._union.gone([rank])
            on_chunk(bytes(self.stream))
            if all(received.error for received in self.received):
                break  # the job has ended, and so does its sender
        for received in self.received:
            received.finish()
        return self

    def _answering(self, rank: int) -> Callable[[ListAnswer], None]:
        def answer(answer: ListAnswer) -> None:
            union = self._union.answered(rank, answer)
            if union is not None:
                self._pending.append(union)

        return answer

    def _next(self) -> ListAnswer | None:
        if self._pending:
            return self._pending.popleft()
        self.waits += 1
        assert self.waits < _WAITS_MAX, "the sender waits for an answer that does not come"
        return None


class OneCopy:
    """Copies to one place, in one of both ways: ``copy(path, ..., to=place)``.

    Attributes:
        asking: the sender waits for answers.
    """

    def __init__(self, *, asking: bool) -> None:
        self.asking = asking

    def __call__(
        self,
        *paths: Path,
        to: Path,
        options: CopyOptions | None = None,
        problems: list[str] | None = None,
        digests_only: bool = False,
        rules: Rules = NO_RULES,
        remove: bool = False,
        new_name: bytes = b"",
        on_chunk: Callable[[bytes], None] = lambda chunk: None,
    ) -> Received:
        copying = Copying(
            paths, [to], options, asking=self.asking, digests_only=digests_only, rules=rules, remove=remove,
            new_name=new_name,
        )  # fmt: skip
        copying.run(on_chunk)
        if problems is None:
            assert copying.problems == []
        else:
            problems += copying.problems
        return copying.received[0]


# -- streams written by hand --------------------------------------------------------------------------


def hand_made(
    *entries: StreamEntry,
    contents: dict[bytes, bytes] | None = None,
    asking: bool = False,
    boot_id: bytes = b"",
    end: bool = True,
    problems: int = 0,
    list_max: int = limits.ARCHIVE_LIST_MAX,
) -> bytes:
    """Return a stream of these entries, with the contents of some files.

    Args:
        contents: by path; the files without are those that nobody lacks.
        list_max: entries of a list.
    """
    encoder = Encoder()
    made = encoder.preamble(asking=asking, boot_id=boot_id)
    known = contents or {}
    for number, start in enumerate(range(0, len(entries), list_max)):
        batch = entries[start : start + list_max]
        made += encoder.list(number, [packed_entry(entry) for entry in batch])
        for index, entry in enumerate(batch):
            if isinstance(entry, File) and entry.path in known:
                made += contents_of(encoder, index, known[entry.path], entry.meta.mtime_ns)
        made += encoder.done(number)
    return made + encoder.end(problems) if end else made


def contents_of(encoder: Encoder, index: int, content: bytes, mtime_ns: int = MTIME_NS) -> bytes:
    """Return the records of a small file's contents."""
    hashed = ContentHash()
    data = b""
    if content:
        hashed.update(0, content)
        data = encoder.data(0, len(content)) + content
    end = hashed.finish(len(content))
    return encoder.contents(index, len(content), mtime_ns) + data + encoder.file_end(end)


def of_files(files: dict[bytes, bytes], *others: StreamEntry, file_meta: Meta | None = None) -> bytes:
    """Return a stream of files with these contents, and other entries, in order."""
    entries = [File(path, _copy(file_meta or MINE), len(content)) for path, content in files.items()]
    ordered = sorted([*entries, *others], key=lambda entry: entry.path.split(b"/"))
    return hand_made(*ordered, contents=files)


def _copy(known: Meta) -> Meta:
    return Meta(known.mode, known.uid, known.gid, known.mtime_ns, known.owner, known.group)


def events_of(stream: bytes | bytearray) -> list[Event]:
    """Return the events of a whole stream; pieces of contents without their bytes."""
    events: list[Event] = []
    decoder = ArchiveDecoder(events.append, VERIFIER if stream[_FLAGS_AT] & SIGNED else None)
    decoder.feed(bytes(stream))
    decoder.finish()
    return events


def paths_with_contents(stream: bytes | bytearray) -> list[bytes]:
    """Return the paths of files whose contents are in a whole stream."""
    lists: dict[int, Sequence[StreamEntry]] = {}
    found = []
    for event in events_of(stream):
        if isinstance(event, Listed):
            lists[event.number] = event.entries
        elif isinstance(event, ListDone):
            del lists[event.number]
        elif isinstance(event, Contents):
            found.append(next(iter(lists.values()))[event.index].path)
    return found


# -- what is there --------------------------------------------------------------------------------------


def snapshot(place: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, mtime and contents of everything below a directory."""
    found = {}
    for folder, folders, files in os.walk(os.fsencode(place)):
        for name in sorted(folders + files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            else:
                content = b"" if os.path.isdir(path) else Path(os.fsdecode(path)).read_bytes()
            found[ascii(os.path.relpath(path, os.fsencode(place)))] = (
                status.st_mode,
                status.st_mtime_ns,
                content,
            )
    return found


def names_of_one_file(top: Path) -> set[frozenset[str]]:
    """Return the sets of paths that are one file."""
    names: dict[int, set[str]] = {}
    for folder, _, files in os.walk(top):
        for name in files:
            path = Path(folder, name)
            names.setdefault(path.lstat().st_ino, set()).add(str(path.relative_to(top)))
    return {frozenset(each) for each in names.values() if len(each) > 1}
