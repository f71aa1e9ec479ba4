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
from gexec.files.compression import Compressor
from gexec.files.decoder import ArchiveDecoder
from gexec.files.digest import BLOCK_BYTES, ContentHash
from gexec.files.encoder import Encoder, packed
from gexec.files.entries import (
    Directory,
    File,
    HardLink,
    Meta,
    Removal,
    Skipped,
    StreamEntry,
    Symlink,
    packed_entry,
    packed_list,
    unpacked_list,
)
from gexec.files.options import destination
from gexec.files.report import Report
from gexec.files.unpacker import folders_of

META = Meta(
    0o644,
    1000,
    100,
    1_700_000_000_123_456_789,
    b"alice",
    b"users",
    attributes=((b"user.a", b"1"), (b"user.b", b"")),
    device=5,
    inode=2**63,
)
FILES = (
    Directory(b"d", META),
    File(b"d/a b\n\xff", META, 5, is_linked=True),
    File(b"d/bad", META, 9, is_unsized=True),
    Symlink(b"d/l", META, b"../x"),
    HardLink(b"d/n", META, 5, b"d/a b\n\xff"),
    Skipped(b"e", META, "no"),
    Removal(b"f", META),
)


def digest(*parts: tuple[int, bytes], size: int) -> bytes:
    content = ContentHash()
    for offset, data in parts:
        content.update(offset, data)
    return content.finish(size)


def listed(encoder: Encoder, *entries: StreamEntry, number: int = 0) -> bytes:
    return encoder.list(number, [packed_entry(entry) for entry in entries])


def small_stream() -> bytes:
    """Return a stream with one of everything."""
    encoder = Encoder()
    return b"".join(
        [
            encoder.preamble(asking=True, boot_id=b"b" * 16),
            encoder.device(5, b"nfs4", b"server:/x"),
            encoder.rules([b"- *.o", b"+ a"]),
            listed(encoder, *FILES),
            listed(encoder, File(b"g", META, 5), number=1),
            encoder.digests(1, {0: bytes(32)}),
            encoder.wait(),
            encoder.contents(1, 5, 17),
            encoder.data(0, 5),
            b"hello",
            encoder.file_end(digest((0, b"hello"), size=5)),
            encoder.contents(2, 9, 17),
            encoder.file_bad("it changed"),
            encoder.done(0),
            encoder.done(1),
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
        events.append(f"{bytes(content)!r} {event!r}")
        content.clear()

    decoder = ArchiveDecoder(take)
    edges = [0, *sorted(cuts or []), len(stream)]
    for low, high in pairwise(edges):
        decoder.feed(stream[low:high])
    decoder.finish()
    return events


WHOLE = read(small_stream())


def test_one_of_everything() -> None:
    kinds = [event.split(" ", 1)[1].partition("(")[0] for event in WHOLE]
    assert kinds == [
        "Device",
        "FilterRules",
        "Listed",
        "Listed",
        "Digests",
        "Contents",
        "FileEnd",
        "Contents",
        "FileBad",
        "ListDone",
        "ListDone",
        "End",
    ]
    assert WHOLE[6].startswith("b'hello'")


def test_entries_arrive_as_they_were() -> None:
    events: list[records.Event] = []
    decoder = ArchiveDecoder(events.append)
    decoder.feed(small_stream())
    assert (decoder.is_asking, decoder.digests_only, decoder.boot_id) == (True, False, b"b" * 16)
    assert isinstance(events[2], records.Listed)
    for found, sent in zip(events[2].entries, FILES, strict=True):
        assert type(found) is type(sent)
        for name in {name for kind in type(sent).__mro__ for name in getattr(kind, "__slots__", ())} - {
            "meta"
        }:
            assert getattr(found, name) == getattr(sent, name)
        for name in Meta.__slots__:
            assert getattr(found.meta, name) == getattr(META, name)


def test_attributes_that_were_not_read_are_not_the_same_as_none() -> None:
    bare, unknown = (Meta(0, 0, 0, 0, b"", b"", attributes=each) for each in ((), None))
    found = unpacked_list(
        packed_list([packed_entry(Directory(b"a", bare)), packed_entry(Directory(b"b", unknown))])
    )
    assert [entry.meta.attributes for entry in found] == [(), None]


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
    for entry in (
        Directory(path, META),
        File(path, META, 0),
        Symlink(path, META, b"x"),
        Skipped(path, META, "no"),
        Removal(path, META),
        HardLink(b"z", META, 0, path),
        HardLink(path, META, 0, b"a"),
    ):
        encoder = Encoder()
        with pytest.raises(ProtocolError):
            read(encoder.preamble() + listed(encoder, entry) + encoder.done(0) + encoder.end(0))


def one_file(encoder: Encoder, size: int = 4) -> bytes:
    return listed(encoder, File(b"a", META, size)) + encoder.contents(0, size, 0)


HOSTILE: dict[str, Callable[[Encoder], bytes]] = {
    "the same path twice": lambda e: listed(e, Directory(b"a", META), Directory(b"a", META)),
    "the same path in two lists": lambda e: (
        listed(e, Directory(b"a", META)) + listed(e, Directory(b"a", META), number=1)
    ),
    "a file below a link": lambda e: listed(e, Symlink(b"a", META, b"/etc"), File(b"a/passwd", META, 0)),
    "a link below a file": lambda e: listed(e, File(b"a", META, 0), Symlink(b"a/b", META, b"x")),
    "an entry below what is removed": lambda e: listed(e, Removal(b"a", META), File(b"a/b", META, 0)),
    "out of order": lambda e: listed(e, Directory(b"b", META), Directory(b"a", META)),
    "back into a directory": lambda e: listed(
        e, Directory(b"a", META), Directory(b"a.b", META), Directory(b"a/c", META)
    ),
    "a link to nothing": lambda e: listed(e, Symlink(b"a", META, b"")),
    "a link with a NUL": lambda e: listed(e, Symlink(b"a", META, b"x\0y")),
    "a link that is too long": lambda e: listed(e, Symlink(b"a", META, b"x" * 4096)),
    "an empty list": lambda e: e.list(0, []),
    "a list of another number": lambda e: listed(e, File(b"a", META, 0), number=1),
    "a list that is no zlib": lambda e: e._record(records.LIST, bytes(20)),
    "a list with something behind": lambda e: e._record(
        records.LIST, bytes(4) + packed_list([packed_entry(FILES[0])]) + b"x"
    ),
    "a list that is cut": lambda e: e.list(0, [packed_entry(FILES[0])[:-1]]),
    "a bomb of a list": lambda e: e.list(0, [bytes(limits.ARCHIVE_LIST_MAX_BYTES + 1)]),
    "too many entries": lambda e: listed(
        e, *[File(b"%06d" % number, META, 0) for number in range(limits.ARCHIVE_LIST_MAX + 1)]
    ),
    "too many lists": lambda e: b"".join(
        [
            listed(e, File(b"%06d" % number, META, 0), number=number)
            for number in range(limits.ARCHIVE_LISTS_MAX + 1)
        ]
    ),
    "a list that is not done": lambda e: listed(e, File(b"a", META, 0)),
    "a list that is done twice": lambda e: listed(e, File(b"a", META, 0)) + e.done(0) + e.done(0),
    "digests of no list": lambda e: e.digests(0, {0: bytes(32)}),
    "digests of a directory": lambda e: listed(e, Directory(b"a", META)) + e.digests(0, {0: bytes(32)}),
    "digests that are cut": lambda e: (
        listed(e, File(b"a", META, 0)) + e._record(records.DIGESTS, bytes(4) + bytes(33))
    ),
    "contents of no list": lambda e: e.contents(0, 0, 0),
    "contents of a directory": lambda e: listed(e, Directory(b"a", META)) + e.contents(0, 0, 0),
    "contents beyond the list": lambda e: listed(e, File(b"a", META, 0)) + e.contents(1, 0, 0),
    "contents twice": lambda e: (
        one_file(e, 0) + e.file_end(digest(size=0)) + e.contents(0, 0, 0) + e.file_end(digest(size=0))
    ),
    "an entry within a file": lambda e: one_file(e) + listed(e, Directory(b"b", META), number=1),
    "data of no file": lambda e: e.data(0, 4) + b"abcd",
    "data outside": lambda e: one_file(e) + e.data(0, 8) + b"abcdefgh",
    "data far outside": lambda e: one_file(e) + e.data(2**63, 4) + b"abcd",
    "data twice": lambda e: (
        one_file(e, 2 * BLOCK_BYTES)
        + e.data(BLOCK_BYTES, BLOCK_BYTES)
        + bytes(BLOCK_BYTES)
        + e.data(0, BLOCK_BYTES)
        + bytes(BLOCK_BYTES)
    ),
    "data at an odd place": lambda e: one_file(e, 9) + e.data(5, 4) + b"abcd",
    "too much data in a record": lambda e: (
        one_file(e, 2**40) + e.data(0, limits.ARCHIVE_DATA_MAX_BYTES + 1) + bytes(64)
    ),
    "no data in a record": lambda e: one_file(e) + e.data(0, 0),
    "missing data": lambda e: one_file(e) + e.file_end(digest((0, b"abcd"), size=4)),
    "a wrong digest": lambda e: one_file(e) + e.data(0, 4) + b"abcd" + e.file_end(bytes(32)),
    "a short digest": lambda e: one_file(e, 0) + e.file_end(b"x"),
    "a huge file": lambda e: listed(e, File(b"a", META, 2**64 - 1)),
    "huge contents": lambda e: listed(e, File(b"a", META, 4)) + e.contents(0, 2**64 - 1, 0),
    "a mode of its own": lambda e: listed(e, File(b"a", Meta(0o100644, 0, 0, 0, b"", b""), 0)),
    "attributes out of order": lambda e: listed(
        e, File(b"a", Meta(0, 0, 0, 0, b"", b"", attributes=((b"b", b""), (b"a", b""))), 0)
    ),
    "a huge record": lambda e: records.HEAD.pack(records.LIST, 2**32 - 1),
    "an empty record": lambda e: records.HEAD.pack(records.LIST, 0),
    "an unknown record": lambda e: records.HEAD.pack(77, 100) + bytes(100),
    "an end without its number": lambda e: e._record(records.END, b""),
    "a list without its number": lambda e: e._record(records.LIST, b"abc"),
    "packed records in packed ones": lambda e: compressed_records(
        compressed_records(listed(e, File(b"a", META, 0)))
    ),
    "packed records that are cut": lambda e: compressed_records(listed(e, File(b"a", META, 0))[:-1]),
    "packed records that are none": lambda e: packed(bytes(40)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_attack_79_streams_that_no_sender_makes(what: str) -> None:
    encoder = Encoder()
    with pytest.raises(ProtocolError):
        read(encoder.preamble() + HOSTILE[what](encoder) + encoder.end(0))


def test_another_version_is_named() -> None:
    with pytest.raises(ProtocolError, match="version 9"):
        read(records.PREAMBLE.pack(records.MAGIC, 9, 0, bytes(16)))


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


def compressed_records(stream: bytes) -> bytes:
    return packed(zstandard.ZstdCompressor().compress(stream))


def test_compressed_records_are_the_same_ones() -> None:
    encoder = Encoder()
    content = (b"all work and no play\n" * 60_000)[: limits.ARCHIVE_DATA_MAX_BYTES]
    begin = encoder.preamble() + listed(encoder, File(b"f", META, len(content)))
    body = b"".join(
        [
            encoder.contents(0, len(content), 0),
            encoder.data(0, len(content)),
            content,
            encoder.file_end(digest((0, content), size=len(content))),
            encoder.done(0),
        ]
    )
    end = encoder.end(0)
    for when in ("auto", "always"):
        small = b"".join(Compressor(when).chunks([body[:100], body[100:]]))
        assert len(small) < len(body) / 10
        assert read(begin + small + end, [1, 9, 10, 50, 300]) == read(begin + body + end)
        with pytest.raises(ProtocolError):
            read(begin + small[:-20] + end)
    assert b"".join(Compressor("never").chunks([body])) == body


def test_what_does_not_shrink_is_left_as_it_is_and_tried_again_later() -> None:
    noise = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(20_000))
    zeros = bytes(compression.WORTHWHILE_BYTES)
    compressor = Compressor("auto")
    assert list(compressor.chunks([noise])) == [noise]
    for _ in range(compression.SKIPPED_AFTER):
        assert list(compressor.chunks([zeros])) == [zeros]
    assert len(b"".join(compressor.chunks([zeros]))) < 1000
    assert list(Compressor("auto").chunks([zeros[1:]])) == [zeros[1:]]


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(2**28))
    with pytest.raises(ProtocolError, match="limit"):
        read(Encoder().preamble() + packed(bomb))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(2**28))
    with pytest.raises(ProtocolError, match="limit"):
        read(Encoder().preamble() + packed(unsized))


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


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", range(records.DEVICES, records.SIGNATURE + 1))
@pytest.mark.parametrize("step", [1, 100])
def test_a_record_of_nothing_is_refused_however_it_is_cut(kind: int, step: int) -> None:
    # The head of an empty record that came in two pieces was looked at again and again.
    decoder = ArchiveDecoder(lambda event: None)
    decoder.feed(records.PREAMBLE.pack(records.MAGIC, records.VERSION, 0, bytes(16)))
    head = records.HEAD.pack(kind, 0)
    pieces = [head[begin : begin + step] for begin in range(0, len(head), step)]
    with pytest.raises(ProtocolError):
        list(map(decoder.feed, pieces))


# -- the document -----------------------------------------------------------------------------------

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "files.md").read_text(encoding="utf-8")


def test_the_document_has_every_record() -> None:
    told = {
        int(kind): name for kind, name in re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", DOCUMENT, re.MULTILINE)
    }
    names = (
        "DEVICES", "RULES", "LIST", "DIGESTS", "CONTENTS", "DATA", "FILE_END", "FILE_BAD", "DONE", "WAIT",
        "PACKED", "END", "SIGNATURE",
    )  # fmt: skip
    assert told == {getattr(records, name): name for name in names}
