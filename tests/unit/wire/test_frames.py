"""Frames: exact bytes, any cutting of the stream, and every way a peer can lie about them."""

from __future__ import annotations

import pickle
from itertools import pairwise
from struct import Struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec import limits
from gexec.errors import ProtocolError
from gexec.wire import codec, frames, orders, outcome
from gexec.wire.frames import Decoder, Frame, Output, Stdin, encode
from gexec.wire.outcome import Outcome

TABLES = {
    name: getattr(frames, name)
    for name in ("FROM_PARENT", "FROM_CLIENT", "FROM_CHILD", "FROM_ROOT", "TO_AUTHD", "FROM_AUTHD")
}
EVERY: dict[int, type[Frame]] = {}
for _table in TABLES.values():
    EVERY |= _table
JOB_ID = bytes(range(16))
ALL_64 = 2**64 - 1
#: Layouts, written down here once more.
RANGE = Struct("!II")
START = Struct("!IIIBH")
ENDED = Struct("!BiQQH")

#: (frame, channel, its bytes in hex): header length u32, type u8, channel u32; then the payload.
VECTORS: list[tuple[Frame, int, str]] = [
    (frames.Hello(1, "gexec 1"), 0, "00000009 01 00000000 0001 6765786563 2031"),
    (frames.Ping(7), 0, "00000008 02 00000000 0000000000000007"),
    (frames.Pong(ALL_64), 0, "00000008 03 00000000 ffffffffffffffff"),
    (frames.Goodbye("drain"), 0, "00000005 04 00000000 647261696e"),
    (frames.Submit(b"cr", b"blob"), 1, "00000008 10 00000001 0002 6372 626c6f62"),
    (
        frames.Start(1, 2, 9, b"cr", b"b", attach_only=True),
        258,
        "00000012 11 00000102 00000001 00000002 00000009 01 0002 6372 62",
    ),
    (frames.Resync(3), 1, "00000004 12 00000001 00000003"),
    (frames.Stdin(4, b"\xff\0", eof=True), 1, "0000000b 13 00000001 0000000000000004 01 ff00"),
    (frames.Signal(15), 1, "00000001 14 00000001 0f"),
    (frames.Ack(((6, 2, 9),)), 1, "0000000d 15 00000001 00000006 02 0000000000000009"),
    (frames.Kill(True), 1, "00000001 16 00000001 01"),
    (frames.Go(), 1, "00000000 17 00000001"),
    (frames.Close(), 1, "00000000 18 00000001"),
    (frames.Release(), 1, "00000000 19 00000001"),
    (frames.Accepted(JOB_ID), 1, "00000010 20 00000001 000102030405060708090a0b0c0d0e0f"),
    (frames.Refused(frames.REFUSED_STALE, "no", 6), 1, "00000007 21 00000001 02 00000006 6e6f"),
    (frames.RanksStarted(((0, 3),)), 1, "0000000a 22 00000001 0001 00000000 00000003"),
    (frames.Ready(()), 1, "00000002 23 00000001 0000"),
    (frames.NotResponding(((3, 4),)), 1, "0000000a 28 00000001 0001 00000003 00000004"),
    (frames.Responding(((3, 4),)), 1, "0000000a 29 00000001 0001 00000003 00000004"),
    (
        frames.Output(((1, 2), (4, 6)), frames.STDERR, 10, b"a\n"),
        1,
        "0000001d 24 00000001 02 000000000000000a 0002 00000001 00000002 00000004 00000006 610a",
    ),
    (
        frames.Ended(((0, 1),), outcome.exited(7), 3, frames.LENGTH_UNKNOWN),
        1,
        "00000021 25 00000001 00 00000007 0000000000000003 ffffffffffffffff 0000 0001 00000000 00000001",
    ),
    (
        frames.Ended(((0, 1),), outcome.output_cut(outcome.exited(7), "no"), 3, 0),
        1,
        "00000023 25 00000001 80 00000007 0000000000000003 0000000000000000 0002 6e6f 0001 00000000 00000001",
    ),
    (frames.StdinTaken(frames.OFFSET_ALL), 1, "00000008 26 00000001 ffffffffffffffff"),
    (frames.Done(), 1, "00000000 27 00000001"),
    (orders.Upgrade(True), 1, "00000001 1a 00000001 01"),
    (orders.Upgraded(False, "no"), 1, "00000003 2a 00000001 00 6e6f"),
    (frames.Sign(b"gexec", b"blob"), 0, "0000000a 40 00000000 05 6765786563 626c6f62"),
    (frames.Signed(b"cred"), 0, "00000004 41 00000000 63726564"),
    (frames.Certify(b"key", ("a", "b")), 0, "00000008 42 00000000 0003 6b6579 61 00 62"),
    (frames.Certified(b"leaf", b"ca"), 0, "00000008 43 00000000 0004 6c656166 6361"),
]


def decode(raw: bytes, allowed: dict[int, type[Frame]] = EVERY) -> list[tuple[int, Frame]]:
    return list(Decoder(allowed).feed(raw))


def header(length: int, kind: int, channel: int = 1) -> bytes:
    return frames.HEADER.pack(length, kind, channel)


@pytest.mark.parametrize(("frame", "channel", "text"), VECTORS, ids=lambda value: type(value).__name__)
def test_bytes_on_the_wire(frame: Frame, channel: int, text: str) -> None:
    raw = bytes.fromhex(text)
    assert encode(channel, frame) == raw
    assert decode(raw) == [(channel, frame)]


def test_every_type_has_a_vector_and_a_number_of_its_own() -> None:
    assert {type(frame) for frame, _, _ in VECTORS} == set(EVERY.values())
    everything = {**vars(orders), **vars(frames)}.values()
    defined = [item for item in everything if isinstance(item, type) and issubclass(item, Frame)]
    assert sorted(item.TYPE for item in defined if item.TYPE) == sorted(EVERY)


ranges_strategy = st.lists(st.integers(0, limits.RANKS_MAX), min_size=0, max_size=40, unique=True).map(
    lambda marks: tuple(zip(sorted(marks)[0::2], sorted(marks)[1::2], strict=False))
)
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, ALL_64)
stream = st.sampled_from((frames.STDOUT, frames.STDERR))
text = st.text(st.characters(codec="utf-8"), max_size=200)
low_high = st.lists(st.integers(0, limits.RANKS_MAX), min_size=2, max_size=2, unique=True).map(sorted)


@st.composite
def outcomes(draw: Any) -> Outcome:
    kind = draw(st.integers(0, len(outcome.NAMES) - 1))
    cut = kind in outcome.ENDS and draw(st.booleans())
    return Outcome(kind, draw(st.integers(*outcome.VALUES[kind])), draw(text), cut)


@st.composite
def starts(draw: Any) -> Frame:
    low, high = draw(low_high)
    small, large = draw(st.binary(max_size=80)), draw(st.binary(max_size=300))
    return frames.Start(draw(u32), low, high, small, large, draw(st.booleans()))


any_frame: st.SearchStrategy[Frame] = st.one_of(
    st.builds(frames.Hello, st.integers(0, 65535), text),
    st.builds(frames.Ping, u64),
    st.builds(frames.Goodbye, text),
    st.builds(frames.Submit, st.binary(max_size=100), st.binary(max_size=300)),
    starts(),
    st.builds(frames.Resync, u32),
    st.builds(frames.Stdin, u64, st.binary(max_size=300), st.booleans()),
    st.builds(frames.Signal, st.integers(1, 64)),
    st.builds(frames.Ack, st.lists(st.tuples(u32, stream, u64), max_size=20).map(tuple)),
    st.builds(frames.Kill, st.booleans()),
    st.just(frames.Close()),
    st.builds(frames.Accepted, st.binary(min_size=16, max_size=16)),
    st.builds(frames.Refused, st.integers(1, frames.REFUSED_LAST), text, u32),
    st.builds(frames.RanksStarted, ranges_strategy),
    st.builds(frames.Ready, ranges_strategy),
    st.builds(frames.NotResponding, ranges_strategy),
    st.builds(frames.Responding, ranges_strategy),
    st.builds(frames.Output, ranges_strategy, stream, u64, st.binary(max_size=300)),
    st.builds(frames.Ended, ranges_strategy, outcomes(), u64, u64),
    st.builds(frames.StdinTaken, u64),
    st.builds(frames.Sign, st.binary(min_size=1, max_size=64), st.binary(max_size=300)),
    st.builds(frames.Certify, st.binary(max_size=200), st.lists(st.just("node1"), min_size=1).map(tuple)),
)


@given(any_frame, u32)
def test_every_frame_comes_back_as_it_went(frame: Frame, channel: int) -> None:
    [(got_channel, got)] = decode(encode(channel, frame))
    assert (got_channel, got, hash(got), repr(got)) == (channel, frame, hash(frame), repr(frame))


@given(st.lists(st.tuples(u32, any_frame), max_size=12), st.lists(st.integers(0, 4000), max_size=30))
def test_any_cutting_of_the_stream_gives_the_same_frames(
    sent: list[tuple[int, Frame]], cuts: list[int]
) -> None:
    raw = b"".join([encode(channel, frame) for channel, frame in sent])
    marks = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    decoder = Decoder(EVERY)
    got = [item for low, high in pairwise(marks) for item in decoder.feed(raw[low:high])]
    assert got == sent
    assert decoder.buffered == 0


@given(st.lists(st.tuples(u32, any_frame), max_size=12), st.lists(st.integers(0, 4000), max_size=30))
def test_frames_stay_as_they_came_when_the_buffer_that_they_came_in_is_filled_again(
    sent: list[tuple[int, Frame]], cuts: list[int]
) -> None:
    stdin = Stdin(5, bytes(range(256)) * 400)
    output = Output(((0, 1),), frames.STDOUT, 7, b"output" * 9000)
    sent = [*sent, (1, stdin), *sent, (2, output)]
    raw = b"".join([encode(channel, frame) for channel, frame in sent])
    marks = [0, *sorted(min(cut * 50, len(raw)) for cut in cuts), len(raw)]
    decoder = Decoder(EVERY)
    buffer = bytearray(len(raw))
    got: list[tuple[int, Frame]] = []
    for low, high in pairwise(marks):
        buffer[: high - low] = raw[low:high]
        got += decoder.feed(memoryview(buffer)[: high - low])
        buffer[:] = b"#" * len(buffer)
    assert got == sent
    assert decoder.buffered == 0


def test_one_byte_at_a_time() -> None:
    raw = b"".join([encode(channel, frame) for frame, channel, _ in VECTORS])
    decoder = Decoder(EVERY)
    got = [item for index in range(len(raw)) for item in decoder.feed(raw[index : index + 1])]
    assert got == [(channel, frame) for frame, channel, _ in VECTORS]


def test_frames_before_a_bad_one_are_delivered() -> None:
    decoder = Decoder(frames.FROM_CHILD)
    stream_of_frames = decoder.feed(encode(0, frames.Ping(1)) + header(0, 250) + b"more")
    assert next(stream_of_frames) == (0, frames.Ping(1))
    with pytest.raises(ProtocolError, match="type 250"):
        next(stream_of_frames)


@given(st.binary(max_size=400), st.sampled_from(sorted(TABLES)))
def test_garbage_is_a_protocol_error_or_waits_for_more(raw: bytes, table: str) -> None:
    try:
        got = decode(raw, TABLES[table])
    except ProtocolError:
        return
    # What was let in is whole frames of that table; less than one waits.
    assert all(type(frame) in TABLES[table].values() for _, frame in got)
    assert decode(b"".join(encode(channel, frame) for channel, frame in got), TABLES[table]) == got
    if not got and len(raw) >= frames.HEADER_BYTES:
        length, *_ = frames.HEADER.unpack_from(raw)
        assert length > len(raw) - frames.HEADER_BYTES


@given(st.sampled_from(sorted(EVERY)), st.binary(max_size=120))
def test_garbage_behind_a_right_header_is_a_frame_or_a_protocol_error(kind: int, payload: bytes) -> None:
    try:
        [(_, frame)] = decode(header(len(payload), kind) + payload)
    except ProtocolError:
        return
    # What was let in can be said again, and means the same.
    assert decode(encode(1, frame)) == [(1, frame)]


@pytest.mark.parametrize(("frame", "channel", "text"), VECTORS, ids=lambda value: type(value).__name__)
def test_every_frame_cut_short_is_refused_or_another_frame(frame: Frame, channel: int, text: str) -> None:
    payload = frame.pack()
    for length in range(len(payload)):
        try:
            [(_, got)] = decode(header(length, frame.TYPE) + payload[:length])
        except ProtocolError:
            continue
        assert got != frame


@pytest.mark.parametrize("length", [2**32 - 1, 2**31, 2**31 - 1], ids=["-1", "2^31", "2^31-1"])
@pytest.mark.parametrize("kind", sorted(EVERY))
def test_attack_43_length_minus_one_and_2_to_31(kind: int, length: int) -> None:
    decoder = Decoder(EVERY)
    with pytest.raises(ProtocolError, match="over its limit"):
        list(decoder.feed(header(length, kind)))


@pytest.mark.parametrize("kind", sorted(EVERY))
def test_attack_43_length_zero(kind: int) -> None:
    may_be_empty = {
        frames.Goodbye.TYPE,
        frames.Ack.TYPE,
        frames.Go.TYPE,
        frames.Close.TYPE,
        frames.Release.TYPE,
        frames.Done.TYPE,
        frames.Signed.TYPE,
    }
    if kind in may_be_empty:
        [(_, frame)] = decode(header(0, kind))
        assert frame.pack() == b""
    else:
        with pytest.raises(ProtocolError):
            decode(header(0, kind))


def test_attack_43_inner_lengths() -> None:
    lying: list[tuple[type[Frame], bytes]] = [
        (frames.Submit, b"\xff\xff" + b"x" * 40),
        (frames.Submit, b"\x00\x29" + b"x" * 40),
        (frames.Start, START.pack(1, 0, 1, 0, 65535) + b"x"),
        (frames.RanksStarted, b"\xff\xff" + b"\0" * 8),
        (frames.Ended, ENDED.pack(0, 0, 0, 0, 65535) + b"\0\0"),
        (frames.Sign, b"\xffab"),
        (frames.Sign, b"\0ab"),
        (frames.Certify, b"\xff\xffab"),
        (frames.Certified, b"\x00\x02ab"),
    ]
    for kind, payload in lying:
        with pytest.raises(ProtocolError):
            decode(header(len(payload), kind.TYPE) + payload)


@pytest.mark.parametrize("kind", sorted(EVERY))
def test_attack_44_over_the_limit_is_refused_before_it_is_buffered(kind: int) -> None:
    decoder = Decoder(EVERY)
    with pytest.raises(ProtocolError, match="over its limit"):
        list(decoder.feed(header(EVERY[kind].MAX_BYTES + 1, kind)))
    assert decoder.buffered == frames.HEADER_BYTES


def test_attack_44_limit_before_authentication() -> None:
    decoder = Decoder(frames.FROM_PARENT, limit_bytes=limits.UNAUTHENTICATED_MAX_BYTES)
    with pytest.raises(ProtocolError, match="Start frame of 65537 bytes"):
        list(decoder.feed(header(limits.UNAUTHENTICATED_MAX_BYTES + 1, frames.Start.TYPE)))


def test_the_largest_frame_passes_in_small_pieces() -> None:
    frame = frames.Submit(b"c" * 100, bytes(limits.JOB_FRAME_MAX_BYTES - 102))
    raw = encode(1, frame)
    decoder = Decoder(frames.FROM_CLIENT)
    got = [item for low in range(0, len(raw), 1000) for item in decoder.feed(raw[low : low + 1000])]
    assert got == [(1, frame)]
    with pytest.raises(ValueError, match="Submit of"):
        encode(1, frames.Submit(b"c" * 100, bytes(limits.JOB_FRAME_MAX_BYTES - 101)))


@pytest.mark.parametrize("name", sorted(TABLES))
def test_attack_46_unknown_type(name: str) -> None:
    for kind in range(256):
        if kind not in TABLES[name]:
            with pytest.raises(ProtocolError, match=f"frame type {kind} is not expected"):
                decode(header(0, kind), TABLES[name])


def test_attack_45_a_child_gives_no_orders_and_a_parent_reports_nothing() -> None:
    orders = {frames.Submit, frames.Start, frames.Stdin, frames.Signal, frames.Kill, frames.Go, frames.Ack}
    reports = {
        frames.NotResponding,
        frames.Responding,
        frames.Output,
        frames.Ended,
        frames.RanksStarted,
        frames.Done,
        frames.Accepted,
    }
    assert not orders & set(frames.FROM_CHILD.values())
    assert not orders & set(frames.FROM_ROOT.values())
    assert not reports & set(frames.FROM_PARENT.values())
    assert not reports & set(frames.FROM_CLIENT.values())
    assert frames.Start not in frames.FROM_CLIENT.values()
    assert frames.Submit not in frames.FROM_PARENT.values()


@pytest.mark.parametrize(("low", "high"), [(0, 0), (5, 5), (6, 5), (0, limits.RANKS_MAX + 1), (2**32 - 1, 0)])
def test_attack_48_ranks_out_of_range(low: int, high: int) -> None:
    head = START.pack(1, low, high, 0, 0)
    with pytest.raises(ProtocolError, match="ranks"):
        decode(header(len(head), frames.Start.TYPE) + head)
    payload = b"\0\1" + RANGE.pack(low, high)
    with pytest.raises(ProtocolError, match="ranges of ranks"):
        decode(header(len(payload), frames.RanksStarted.TYPE) + payload)


def test_attack_51_ranges_are_flat_ascending_disjoint_and_few() -> None:
    for pairs in (((0, 2), (1, 3)), ((4, 5), (0, 1)), ((0, 1), (0, 1))):
        with pytest.raises(ProtocolError, match="ascending"):
            decode(encode(1, frames.RanksStarted(pairs)))
    count = limits.RANGES_MAX + 1
    payload = codec.U16.pack(count) + b"".join([RANGE.pack(2 * i, 2 * i + 1) for i in range(count)])
    with pytest.raises(ProtocolError, match="over"):
        decode(header(len(payload), frames.RanksStarted.TYPE) + payload)


def test_attack_52_texts_of_any_bytes_neither_raise_nor_grow() -> None:
    raw = b"\xff\0\n\x1b[2J\xc3"
    payload = b"\1\0\0\0\0" + raw
    [(_, frame)] = decode(header(len(payload), frames.Refused.TYPE) + payload)
    assert isinstance(frame, frames.Refused)
    assert frame.text == "\ufffd\0\n\x1b[2J\ufffd"
    # A file name that is no UTF-8 comes to Python as lone surrogates: still told, never raised.
    [(_, told)] = decode(encode(1, frames.Refused(1, "no such file: a\udcffb\ud800")))
    assert isinstance(told, frames.Refused)
    assert told.text == "no such file: a\\udcffb\\ud800"
    long = frames.Refused(1, "x" * 100_000)
    assert len(long.pack()) == frames.Refused.MAX_BYTES


def test_attack_53_an_internal_name_as_message() -> None:
    for raw in (b"__init__", b"Decoder\0\0", b"GET / HTTP/1.1\r\n\r\n", b"_table\0\0\0\0"):
        with pytest.raises(ProtocolError):
            decode(raw + b"\0" * 9, frames.FROM_PARENT)


def test_attack_54_pickle_as_payload_stays_bytes() -> None:
    class Boom:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("the payload was executed",))

    raw = pickle.dumps(Boom())
    [(_, frame)] = decode(encode(1, frames.Output(((0, 1),), frames.STDOUT, 0, raw)))
    assert isinstance(frame, frames.Output)
    assert frame.data == raw
    with pytest.raises(ProtocolError):
        decode(raw + b"\0" * 9)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (0, 256),
        (0, -1),
        (0, 65536),
        (1, 0),
        (1, 65),
        (3, 1),
        (4, 1),
        (5, 256),
        (6, 0),
        (0x82, 0),
        (0x84, 0),
        (255, 0),
    ],
)
def test_attack_78_a_status_that_would_wrap_around(kind: int, value: int) -> None:
    payload = ENDED.pack(kind, value, 0, 0, 0) + codec.pack_ranges(((0, 1),))
    with pytest.raises(ProtocolError, match="not known"):
        decode(header(len(payload), frames.Ended.TYPE) + payload)


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (frames.Stdin, b"\0" * 8 + b"\2"),
        (frames.Start, START.pack(1, 0, 1, 2, 0)),
        (frames.Signal, b"\0"),
        (frames.Signal, b"\x41"),
        (frames.Kill, b"\2"),
        (frames.Refused, b"\0" * 5),
        (frames.Refused, b"\1" * 4),
        (frames.Refused, bytes((frames.REFUSED_LAST + 1, 0, 0, 0, 0))),
        (frames.Output, b"\3" + b"\0" * 10),
        (frames.Ack, b"\0\0\0\0\0" + b"\0" * 8),
        (frames.Ack, b"\0" * 12),
        (frames.RanksStarted, b"\0\0x"),
        (frames.Accepted, b"\0" * 15),
        (frames.Certify, b"\0\0" + b"a\0" * 257),
    ],
)
def test_values_that_mean_nothing_are_refused(kind: type[Frame], payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(header(len(payload), kind.TYPE) + payload)


def test_readable_forms_do_not_print_megabytes() -> None:
    shown = repr(frames.Submit(b"c" * 3000, b"b" * 3000))
    assert shown == "Submit(blob=<3000 bytes>, credential=<3000 bytes>)"


def test_attack_129_output_of_more_than_one_read_is_refused() -> None:
    """Passed on for fewer ranks, and so for more ranges of them, its frame could be over the limit."""
    most = frames.Output(((0, 1),), frames.STDOUT, 0, bytes(limits.READ_CHUNK_BYTES))
    assert decode(encode(1, most)) == [(1, most)]
    with pytest.raises(ProtocolError, match="more than one read"):
        decode(encode(1, frames.Output(((0, 1),), frames.STDOUT, 0, bytes(limits.READ_CHUNK_BYTES + 1))))
    ranges = tuple((2 * rank, 2 * rank + 1) for rank in range(limits.RANGES_MAX))
    encode(1, frames.Output(ranges, frames.STDOUT, 0, most.data))
