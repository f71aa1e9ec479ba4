"""What a relay can make of a signed stream that passes it: anything but a signature.

It reads the stream's records, puts others together, and computes all digests and chains anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from gexec.files import records
from gexec.files.compression import Inflater
from gexec.files.entries import StreamEntry, packed_entry, packed_list, unpacked_list
from gexec.files.records import DIGEST_BYTES, HEAD, NUMBER, OFFSET, PREAMBLE

#: Kind and what follows the head, without the chain; of DATA the offset and the contents.
RawRecord = tuple[int, bytes]


class StreamForger:
    """Alters a stream while it passes: ``feed`` returns what goes on instead.

    Args:
        alter: called with each whole record of the stream, signatures too; returns what comes in its place.
    """

    def __init__(self, alter: Callable[[RawRecord], Iterable[RawRecord]]) -> None:
        self._alter = alter
        self._held = b""
        self._chain = sha256()
        self._is_open = False

    def feed(self, data: bytes) -> bytes:
        """Take bytes."""
        self._held += data
        made = b""
        if not self._is_open:
            if len(self._held) < PREAMBLE.size:
                return b""
            made, self._held = self._held[: PREAMBLE.size], self._held[PREAMBLE.size :]
            self._chain.update(made)
            self._is_open = True
        while (record := self._next()) is not None:
            for other in self._alter(record):
                made += self._packed(*other)
        return made

    def _next(self) -> RawRecord | None:
        while len(self._held) >= HEAD.size:
            kind, length = HEAD.unpack_from(self._held)
            end = HEAD.size + length + OFFSET.size * (kind == records.DATA)
            if len(self._held) < end:
                return None
            payload, self._held = self._held[HEAD.size : end], self._held[end:]
            if kind != records.PACKED:
                return kind, payload if kind == records.DATA else payload[:-DIGEST_BYTES]
            self._held = Inflater().inflate(payload) + self._held
        return None

    def _packed(self, kind: int, payload: bytes) -> bytes:
        if kind == records.DATA:
            return HEAD.pack(kind, len(payload) - OFFSET.size) + payload
        body = HEAD.pack(kind, len(payload) + DIGEST_BYTES) + payload
        self._chain.update(body)
        return body + self._chain.digest()


def taken_apart(stream: bytes) -> tuple[bytes, list[RawRecord]]:
    """Return the preamble and the records of a stream, signatures too; compressed ones are inflated."""
    found: list[RawRecord] = []

    def take(record: RawRecord) -> Iterable[RawRecord]:
        found.append(record)
        return ()

    return StreamForger(take).feed(stream), found


def put_together(preamble: bytes, raw: Iterable[RawRecord]) -> bytes:
    """Return a stream of records, with chains that fit."""
    empty = HEAD.pack(records.WAIT, DIGEST_BYTES) + bytes(DIGEST_BYTES)
    return StreamForger(lambda record: raw).feed(preamble + empty)


def with_contents(raw: Sequence[RawRecord], contents: dict[bytes, bytes]) -> list[RawRecord]:
    """Return the records with other contents of small files (old -> new), and digests that fit."""
    digests = {sha256(old).digest(): sha256(new).digest() for old, new in contents.items()}
    made = []
    for kind, payload in raw:
        if kind == records.DATA:
            content = payload[OFFSET.size :]
            payload = payload[: OFFSET.size] + contents.get(content, content)
        elif kind == records.FILE_END:
            payload = digests.get(payload, payload)
        made.append((kind, payload))
    return made


def with_entries(record: RawRecord, change: Callable[[list[StreamEntry]], None]) -> RawRecord:
    """Return a list with changed entries."""
    kind, payload = record
    assert kind == records.LIST
    entries = list(unpacked_list(payload[NUMBER.size :]))
    change(entries)
    return kind, payload[: NUMBER.size] + packed_list([packed_entry(entry) for entry in entries])
