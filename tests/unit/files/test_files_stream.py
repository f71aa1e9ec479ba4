"""The archive stream: what an encoder makes a decoder reads, and nothing else."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from gexec import limits
from gexec.errors import ProtocolError, UsageError
from gexec.files import compression, records, report
from gexec.files.compression import compressed
from gexec.files.decoder import ArchiveDecoder
from gexec.files.digest import BLOCK_BYTES, ContentHash
from gexec.files.encoder import Encoder
from gexec.files.options import destination
from gexec.files.records import Meta
from gexec.files.report import Report
from gexec.files.unpacker import folders_of

META = Meta(0o644, 1000, 100, 1_700_000_000_123_456_789, b"alice", b"users")


def digest(*parts: tuple[int, bytes], size: int) -> bytes:
    content = ContentHash()
    for offset, data in parts:
        content.update(offset, data)
    return content.finish(size)


def small_stream() -> bytes:
    """Return a stream with one of everything."""
    encoder = Encoder()
    return b"".join(
        [
            encoder.preamble(),
            encoder.directory(b"d", META),
            encoder.file(b"d/a b\n\xff", META, 5),
            encoder.data(0, 5),
            b"hello",
            encoder.file_end(digest((0, b"hello"), size=5)),
            encoder.file(b"d/bad", META, 9),
            encoder.file_bad("it changed"),
            encoder.symlink(b"d/l", META, b"../x"),
            encoder.skipped(b"e", "no"),
            encoder.end(2),
        ]
    )


def read(stream: bytes, cuts: list[int] | None = None) -> list[str]:
    """Return the events of a stream that comes in pieces, contents joined; raises as the decoder does."""
    events: list[str] = []
    content = bytearray()

    def take(event: records.Event) -> None:
        if isinstance(event, records.Data):
            content.extend(event.data)
            return
        events.append(f"{bytes(content)!r} {type(event).__name__} {getattr(event, 'path', b'')!r}")
        content.clear()

    decoder = ArchiveDecoder(take)
    edges = [0, *sorted(cuts or []), len(stream)]
    for low, high in pairwise(edges):
        decoder.feed(stream[low:high])
    decoder.finish()
    return events


WHOLE = read(small_stream())


def test_one_of_everything() -> None:
    assert [event.split(" ", 1)[1] for event in WHOLE] == [
        "Directory b'd'",
        "File b'd/a b\\n\\xff'",
        "FileEnd b''",
        "File b'd/bad'",
        "FileBad b''",
        "Symlink b'd/l'",
        "Skipped b'e'",
        "End b''",
    ]
    assert WHOLE[2].startswith("b'hello'")


def test_metadata_arrive_as_they_were() -> None:
    events: list[records.Event] = []
    ArchiveDecoder(events.append).feed(small_stream())
    assert isinstance(events[0], records.Directory)
    for name in Meta.__slots__:
        assert getattr(events[0].meta, name) == getattr(META, name)
    links = [event for event in events if isinstance(event, records.Symlink)]
    assert [link.target for link in links] == [b"../x"]


@given(st.lists(st.integers(0, len(small_stream())), max_size=12))
def test_any_cutting_gives_the_same_events(cuts: list[int]) -> None:
    assert read(small_stream(), cuts) == WHOLE


def test_a_byte_at_a_time() -> None:
    assert read(small_stream(), list(range(len(small_stream())))) == WHOLE


def test_every_byte_is_guarded() -> None:
    stream = small_stream()
    for position in range(len(stream)):
        for flip in (0x01, 0x80):
            damaged = bytearray(stream)
            damaged[position] ^= flip
            with pytest.raises((ProtocolError, UsageError)):
                read(bytes(damaged))


def test_every_truncation_is_seen() -> None:
    stream = small_stream()
    for length in range(len(stream)):
        with pytest.raises(ProtocolError, match="ended too early"):
            read(stream[:length])


def test_nothing_may_follow_the_end() -> None:
    for more in (b"\0", small_stream()):
        with pytest.raises(ProtocolError):
            read(small_stream() + more.ljust(5, b"\0"))


@given(st.binary(max_size=400))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises((ProtocolError, UsageError)):
        read(garbage)
    with pytest.raises((ProtocolError, UsageError)):
        read(Encoder().preamble() + garbage)


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"/etc/passwd",
        b"..",
        b"../x",
        b"a/../b",
        b"a/..",
        b".",
        b"a/./b",
        b"a//b",
        b"a/",
        b"a\0b",
        b"x" * 256,
        b"/".join([b"x"] * (limits.ARCHIVE_DEPTH_MAX + 1)),
        b"/".join([b"x" * 250] * 70),
    ],
    ids=lambda path: repr(path[:20]),
)
def test_attack_79_paths_that_no_sender_makes(path: bytes) -> None:
    makers: list[Callable[[Encoder], bytes]] = [
        lambda encoder: encoder.directory(path, META),
        lambda encoder: encoder.file(path, META, 0),
        lambda encoder: encoder.symlink(path, META, b"x"),
        lambda encoder: encoder.skipped(path, "no"),
    ]
    for make in makers:
        encoder = Encoder()
        with pytest.raises(ProtocolError):
            read(encoder.preamble() + make(encoder) + encoder.end(0))


HOSTILE: dict[str, Callable[[Encoder], bytes]] = {
    "the same path twice": lambda e: e.directory(b"a", META) + e.directory(b"a", META),
    "a file below a link": lambda e: e.symlink(b"a", META, b"/etc") + e.file(b"a/passwd", META, 0),
    "a link below a file": lambda e: (
        e.file(b"a", META, 0) + e.file_end(digest(size=0)) + e.symlink(b"a/b", META, b"x")
    ),
    "out of order": lambda e: e.directory(b"b", META) + e.directory(b"a", META),
    "back into a directory": lambda e: (
        e.directory(b"a", META) + e.directory(b"a.b", META) + e.directory(b"a/c", META)
    ),
    "a link to nothing": lambda e: e.symlink(b"a", META, b""),
    "a link with a NUL": lambda e: e.symlink(b"a", META, b"x\0y"),
    "a link that is too long": lambda e: e.symlink(b"a", META, b"x" * 4096),
    "an entry within a file": lambda e: e.file(b"a", META, 4) + e.directory(b"b", META),
    "data of no file": lambda e: e.data(0, 4) + b"abcd",
    "data outside": lambda e: e.file(b"a", META, 4) + e.data(0, 8) + b"abcdefgh",
    "data far outside": lambda e: e.file(b"a", META, 4) + e.data(2**63, 4) + b"abcd",
    "data twice": lambda e: (
        e.file(b"a", META, 2 * BLOCK_BYTES)
        + e.data(BLOCK_BYTES, BLOCK_BYTES)
        + bytes(BLOCK_BYTES)
        + e.data(0, BLOCK_BYTES)
        + bytes(BLOCK_BYTES)
    ),
    "data at an odd place": lambda e: e.file(b"a", META, 9) + e.data(5, 4) + b"abcd",
    "too much data in a record": lambda e: (
        e.file(b"a", META, 2**40) + e.data(0, limits.ARCHIVE_DATA_MAX_BYTES + 1) + bytes(64)
    ),
    "no data in a record": lambda e: e.file(b"a", META, 4) + e.data(0, 0),
    "missing data": lambda e: e.file(b"a", META, 4) + e.file_end(digest((0, b"abcd"), size=4)),
    "a wrong digest": lambda e: e.file(b"a", META, 4) + e.data(0, 4) + b"abcd" + e.file_end(bytes(32)),
    "a short digest": lambda e: e.file(b"a", META, 0) + e.file_end(b"x"),
    "a huge file": lambda e: e.file(b"a", META, 2**64 - 1),
    "a mode of its own": lambda e: e.file(b"a", Meta(0o100644, 0, 0, 0, b"", b""), 0),
    "a huge record": lambda e: records.HEAD.pack(records.DIRECTORY, 2**32 - 1),
    "an empty record": lambda e: records.HEAD.pack(records.DIRECTORY, 0),
    "an unknown record": lambda e: records.HEAD.pack(77, 100) + bytes(100),
    "an end without its number": lambda e: e._record(records.END, b""),
    "an entry that is cut": lambda e: e._record(records.FILE, b"abc"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_attack_79_streams_that_no_sender_makes(what: str) -> None:
    encoder = Encoder()
    with pytest.raises(ProtocolError):
        read(encoder.preamble() + HOSTILE[what](encoder) + encoder.end(0))


def test_another_version_is_named() -> None:
    with pytest.raises(ProtocolError, match="version 9"):
        read(records.PREAMBLE.pack(records.MAGIC, 9, 0))


# -- digests ------------------------------------------------------------------------------------


def test_a_digest_without_holes_is_sha256() -> None:
    content = b"x" * (3 * BLOCK_BYTES + 5)
    assert digest((0, content), size=len(content)) == hashlib.sha256(content).digest()
    assert digest(size=0) == hashlib.sha256(b"").digest()


def test_where_the_holes_are_counts() -> None:
    block = b"x" * BLOCK_BYTES
    size = 3 * BLOCK_BYTES
    found = {digest((at * BLOCK_BYTES, block), size=size) for at in range(3)}
    found.add(digest((0, block), size=size + BLOCK_BYTES))
    found.add(digest((0, block), size=BLOCK_BYTES))
    assert len(found) == 5


# -- compression --------------------------------------------------------------------------------


def test_compression_round_trip_and_choice() -> None:
    encoder = Encoder()
    content = b"all work and no play\n" * 40_000
    content = content[: limits.ARCHIVE_DATA_MAX_BYTES]
    stream = b"".join(
        [
            encoder.preamble(),
            encoder.file(b"f", META, len(content)),
            encoder.data(0, len(content)),
            content,
            encoder.file_end(digest((0, content), size=len(content))),
            encoder.end(0),
        ]
    )
    pieces = [stream[at : at + 1000] for at in range(0, len(stream), 1000)]
    plain = b"".join(compressed(pieces, "never"))
    assert plain == stream
    for when in ("auto", "always"):
        packed = b"".join(compressed(pieces, when))
        assert len(packed) < len(stream) / 10
        assert read(packed, [1, 9, 10, 50]) == read(stream)
        with pytest.raises(ProtocolError):
            read(packed[:-20])


def test_what_does_not_shrink_is_left_as_it_is() -> None:
    encoder = Encoder()
    noise = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(20_000))
    stream = encoder.preamble() + noise
    assert b"".join(compressed([stream], "auto")) == stream
    small = encoder.preamble() + bytes(compression.WORTHWHILE_BYTES - 100)
    assert b"".join(compressed([small], "auto")) == small


def test_a_bomb_comes_in_small_pieces_and_is_refused() -> None:
    encoder = Encoder()
    begin = encoder.preamble() + encoder.file(b"f", META, 2**62)
    bomb = zstandard.ZstdCompressor().compress(begin[records.PREAMBLE.size :] + bytes(2**28))
    sizes: list[int] = []
    decoder = ArchiveDecoder(lambda event: sizes.append(1))
    head = records.PREAMBLE.pack(records.MAGIC, records.VERSION, records.COMPRESSED)
    with pytest.raises(ProtocolError, match="record 0"):
        decoder.feed(head + bomb)
    assert sizes == [1]

    parts: list[int] = []
    inflater = compression.Inflater(lambda data: parts.append(len(data)))
    inflater.feed(memoryview(bomb))
    assert sum(parts) > 2**28
    assert max(parts) <= 128 * 1024


def test_a_window_over_the_limit_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=27)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj().compress(bytes(2**26))
    head = records.PREAMBLE.pack(records.MAGIC, records.VERSION, records.COMPRESSED)
    with pytest.raises(ProtocolError, match="memory"):
        read(head + packed)


# -- words --------------------------------------------------------------------------------------


def test_report_round_trip() -> None:
    told = Report()
    told.is_complete = True
    for number, name in enumerate(report.COUNTS):
        setattr(told, name, number)
    found = report.parse(told.line() + "\n")
    assert found is not None
    assert found.line() == told.line()


@pytest.mark.parametrize(
    "line",
    ["", "gexec-files", "gexec-files 2 complete", "gexec-files 1 perhaps", "gexec-files 1 complete files=x"],
)
def test_what_is_no_report(line: str) -> None:
    assert report.parse(line) is None


def test_a_report_may_grow() -> None:
    found = report.parse("gexec-files 1 incomplete files=3 cats=4")
    assert found is not None
    assert (found.files, found.is_complete) == (3, False)


def test_destination_per_node() -> None:
    env = {"GEXEC_NODE": "node001", "GEXEC_MY_VNN": "7"}
    assert destination("/srv/%h/%n/100%%", env) == "/srv/node001/7/100%"


@pytest.mark.parametrize(
    ("text", "env"),
    [
        ("srv/x", {}),
        ("/srv/%x", {}),
        ("/srv/%", {}),
        ("/srv/%h", {}),
        ("/srv/%h", {"GEXEC_NODE": "../../etc"}),
        ("/srv/%h", {"GEXEC_NODE": ".."}),
        ("/srv/a\0b", {}),
    ],
)
def test_destinations_that_are_refused(text: str, env: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        destination(text, env)


def test_folders_of_nodes() -> None:
    assert folders_of(["a", "b", "a"]) == ["a@0", "b", "a@2"]
    for name in ("..", "a/b", "", "a\0"):
        with pytest.raises(UsageError):
            folders_of([name])


# -- the document -----------------------------------------------------------------------------------

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "files.md").read_text(encoding="utf-8")


def test_the_document_has_every_record() -> None:
    told = {int(kind): name for kind, name in re.findall(r"^\| (\d) \| ([A-Z_]+) \|", DOCUMENT, re.MULTILINE)}
    names = ("DIRECTORY", "FILE", "SYMLINK", "DATA", "FILE_END", "FILE_BAD", "SKIPPED", "END")
    assert told == {getattr(records, name): name for name in names}
