"""Encodes files and directories as an archive stream, with little memory.

Entries are listed first. Receivers may answer what they lack; then only that is read and sent. Entries that
cannot be sent are reported, also to receivers, and the rest is sent.
"""

from __future__ import annotations

import os
from collections import deque

from gexec import limits
from gexec.files.digest import ContentHash
from gexec.files.encoder import Encoder
from gexec.files.entries import File, packed_entry
from gexec.files.identity import boot_id
from gexec.files.reading import (
    CHANGED,
    ShrunkError,
    changed,
    content_digest,
    is_unsized,
    parts,
    pieces,
    read_small,
    read_unsized,
    unreadable,
)
from gexec.files.records import UNREADABLE
from gexec.files.walking import Opener
from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gexec.files.answers import ListAnswer
    from gexec.files.compression import Compressor
    from gexec.files.lister import Lister
    from gexec.files.signatures import StreamSigner
    from gexec.files.walking import Found

    Buffer = bytes | bytearray | memoryview

#: Records are gathered to this size before they are passed on.
_GATHERED_BYTES = 128 * 1024
#: A file up to this size is read before its record is made, so that a change during the read does no harm.
_SMALL_BYTES = limits.ARCHIVE_BLOCK_BYTES - 1
#: A list ends when its entries have so many bytes; with one entry more it is still below the limit.
_LIST_BYTES = limits.ARCHIVE_LIST_MAX_BYTES // 2


class _List:
    """A list that was sent, and whose contents were not."""

    __slots__ = ("awaits_digests", "found", "lacks", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        #: The files in it, by their indexes.
        self.found: dict[int, Found] = {}
        #: What is sent of them; None until it was answered.
        self.lacks: int | None = None
        self.awaits_digests = 0


class Sender:
    """One archive stream.

    Args:
        found: what is sent, from gexec.files.walking.
        lister: makes entries of it.
        on_problem: called with one sentence for each file that turns out to be unreadable.
        answers: called to wait for the next answer of the receivers; None in between means to say that we
            still wait. Without it, all contents are sent.
        digests_only: send digests instead of contents, for receivers that only compare.
        compressor: of the contents.
        rules: by which files were left out, for the receivers.
        on_lacking: called with the bytes of the files of each list that will be sent.
        signer: signs the stream; None: it is not signed.

    Attributes:
        files, bytes: whose contents have been sent so far.
        problems: how many entries should have been sent but could not be.
    """

    def __init__(
        self,
        found: Iterable[Found],
        lister: Lister,
        *,
        on_problem: Callable[[str], None],
        compressor: Compressor,
        answers: Callable[[], ListAnswer | None] | None = None,
        digests_only: bool = False,
        rules: Sequence[bytes] = (),
        on_lacking: Callable[[int], None] = lambda size: None,
        signer: StreamSigner | None = None,
    ) -> None:
        self._found = iter(found)
        self._on_problem = on_problem
        self._compressor = compressor
        self._answers = answers
        self._digests_only = digests_only
        self._rules = rules
        self._on_lacking = on_lacking
        self._lister = lister
        self._encoder = Encoder(signer)
        self._opener = Opener()
        self._buffer = bytearray(limits.ARCHIVE_DATA_MAX_BYTES)
        self._gathered = bytearray()
        self._lists: deque[_List] = deque()
        self._next_number = 0
        self.files = 0
        self.bytes = 0
        self._problems = 0

    @property
    def problems(self) -> int:
        """See above."""
        return self._problems + self._lister.problems

    def chunks(self) -> Iterator[Buffer]:
        """Yield the stream. Each chunk is valid until the next one is requested."""
        encoder = self._encoder
        # Not gathered: it is never compressed.
        yield encoder.preamble(
            asking=self._answers is not None, digests_only=self._digests_only, boot_id=boot_id()
        )
        if self._rules:
            self._gathered += encoder.rules(self._rules)
        try:
            while True:
                while len(self._lists) < limits.ARCHIVE_LISTS_MAX and (entries := self._list()):
                    for device, kind, source in self._lister.new_network_devices():
                        self._gathered += encoder.device(device, kind, source)
                        if len(self._gathered) >= _GATHERED_BYTES:
                            yield from self._flush()
                    self._gathered += encoder.list(self._lists[-1].number, entries)
                    if self._answers is not None or len(self._gathered) >= _GATHERED_BYTES:
                        yield from self._flush()
                if not self._lists:
                    break
                oldest = self._lists[0]
                yield from self._answered(oldest)
                yield from self._contents(oldest)
                self._gathered += encoder.done(oldest.number)
                self._lists.popleft()
            self._gathered += encoder.end(self.problems)
            yield from self._flush()
        finally:
            self._opener.close()

    # -- lists ------------------------------------------------------------------------------------

    def _list(self) -> list[bytes]:
        """Begin the next list; return its entries, none at the end."""
        new = _List(self._next_number)
        entries: list[bytes] = []
        size = 0
        for found in self._found:
            entry = self._lister.entry(found)
            if entry is None:
                continue
            if isinstance(entry, File):
                new.found[len(entries)] = found
            packed = packed_entry(entry)
            entries.append(packed)
            size += len(packed)
            if len(entries) >= limits.ARCHIVE_LIST_MAX or size >= _LIST_BYTES:
                break
        if entries:
            self._next_number += 1
            self._lists.append(new)
            if self._answers is None and not self._digests_only:
                new.lacks = -1
        return entries

    def _answered(self, oldest: _List) -> Iterator[Buffer]:
        """Wait until all receivers have answered to the oldest list; send the digests that they ask for."""
        if self._answers is None:
            if self._digests_only:
                self._digests(oldest, -1)
                oldest.lacks = 0
            return
        while oldest.lacks is None or oldest.awaits_digests:
            yield from self._flush()
            answer = self._answers()
            if answer is None:
                self._gathered += self._encoder.wait()
                continue
            for known in self._lists:
                if known.number == answer.number:
                    if answer.phase:
                        known.awaits_digests = 0
                    elif answer.doubts:
                        known.awaits_digests = 1
                        self._digests(known, answer.doubts)
                    known.lacks = (known.lacks or 0) | answer.lacks

    def _digests(self, known: _List, wanted: int) -> None:
        digests = {}
        for index, found in known.found.items():
            if wanted >> index & 1:
                digests[index] = self._digest(found) or UNREADABLE
        self._gathered += self._encoder.digests(known.number, digests)

    def _digest(self, found: Found) -> bytes:
        """Return a file's digest, empty if it cannot be read as it was listed."""
        try:
            descriptor = self._opener.open(found)
            try:
                before = os.fstat(descriptor)
                digest = content_digest(descriptor, before.st_size, self._buffer)
                after = os.fstat(descriptor)
            finally:
                os.close(descriptor)
        except (OSError, ShrunkError) as error:
            if self._digests_only:
                self._problem(found.path, unreadable(error) if isinstance(error, OSError) else CHANGED)
            return b""
        assert found.status is not None
        as_listed = found.status.st_size, found.status.st_mtime_ns
        is_same = as_listed == (before.st_size, before.st_mtime_ns) and not changed(before, after)
        if not is_same and self._digests_only:
            self._problem(found.path, CHANGED)
        return digest if is_same else b""

    # -- contents ---------------------------------------------------------------------------------

    def _contents(self, oldest: _List) -> Iterator[Buffer]:
        lacks = oldest.lacks
        assert lacks is not None
        if not lacks:
            return
        lacking = [(index, found) for index, found in oldest.found.items() if lacks >> index & 1]
        self._on_lacking(sum([found.status.st_size for _, found in lacking if found.status is not None]))
        for index, found in lacking:
            yield from self._file(index, found)
            if len(self._gathered) >= _GATHERED_BYTES:
                yield from self._flush()

    def _file(self, index: int, found: Found) -> Iterator[Buffer]:
        try:
            descriptor = self._opener.open(found)
        except OSError as error:
            self._bad(index, found, unreadable(error))
            return
        try:
            status = os.fstat(descriptor)
            if is_unsized(status, descriptor):
                yield from self._whole(index, read_unsized(descriptor), status)
            elif status.st_size <= _SMALL_BYTES:
                yield from self._whole(index, *read_small(descriptor, status, _SMALL_BYTES))
            else:
                yield from self._large(index, found, descriptor, status)
        except OSError as error:
            self._bad(index, found, unreadable(error))
        finally:
            os.close(descriptor)

    def _whole(self, index: int, content: bytes, status: os.stat_result) -> Iterator[Buffer]:
        """Send a file that was read as a whole."""
        size = len(content)
        self._gathered += self._encoder.contents(index, size, status.st_mtime_ns)
        hashed = ContentHash()
        for offset, data in parts(content):
            hashed.update(offset, data)
            self._gathered += self._encoder.data(offset, len(data))
            self._gathered += data
            if len(self._gathered) >= _GATHERED_BYTES:
                yield from self._flush()
        self._gathered += self._encoder.file_end(hashed.finish(size))
        self._count(size)

    def _large(self, index: int, found: Found, descriptor: int, status: os.stat_result) -> Iterator[Buffer]:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        size = status.st_size
        self._gathered += self._encoder.contents(index, size, status.st_mtime_ns)
        self._gathered += self._encoder.signature()  # receivers do not keep what follows in memory
        hashed = ContentHash()
        try:
            for offset, data in pieces(descriptor, size, self._buffer):
                hashed.update(offset, data)
                self._gathered += self._encoder.data(offset, len(data))
                yield from self._flush(data)
            why = changed(status, os.fstat(descriptor))
        except ShrunkError:
            why = CHANGED
        except OSError as error:
            why = unreadable(error)
        if why:
            self._problem(found.path, why)
            self._gathered += self._encoder.file_bad(why)
            return
        self._gathered += self._encoder.file_end(hashed.finish(size))
        self._count(size)

    def _bad(self, index: int, found: Found, why: str) -> None:
        """Report a file that turned out to be unreadable when its contents were wanted."""
        self._problem(found.path, why)
        self._gathered += self._encoder.contents(index, 0, 0)
        self._gathered += self._encoder.file_bad(why)

    def _flush(self, data: Buffer = b"") -> Iterator[Buffer]:
        """Pass on what was gathered, signed, or with data of a file whose beginning is signed."""
        if not data:
            self._gathered += self._encoder.signature()
        gathered, self._gathered = self._gathered, bytearray()
        parts = [gathered, data] if data else [gathered] if gathered else []
        yield from self._compressor.chunks(parts)

    def _count(self, size: int) -> None:
        self.files += 1
        self.bytes += size

    def _problem(self, path: bytes, why: str) -> None:
        self._problems += 1
        self._on_problem(f"{shown(path)}: not sent: {why}")
