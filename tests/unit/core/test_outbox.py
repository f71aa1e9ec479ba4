"""What a node holds for its parent: merged, in order, within the limits of frames."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gexec import limits
from gexec.core.outbox import Outbox
from gexec.wire import outcome as outcomes
from gexec.wire import ranks as ranksets
from gexec.wire.frames import STDERR, STDOUT, Ended, Output, RanksStarted, Ready, encode


def one(rank: int) -> ranksets.Ranges:
    return ((rank, rank + 1),)


def test_equal_things_become_one_frame() -> None:
    outbox = Outbox()
    for rank in (3, 1, 2):
        outbox.started(one(rank))
        outbox.output(Output(one(rank), STDOUT, 0, b"same"))
        outbox.ended(Ended(one(rank), outcomes.exited(0), 4, 0))
    assert outbox.size_bytes == 4
    assert outbox.take() == [
        RanksStarted(((1, 4),)),
        Output(((1, 4),), STDOUT, 0, b"same"),
        Ended(((1, 4),), outcomes.exited(0), 4, 0),
    ]
    assert not outbox
    assert outbox.take() == []


def test_different_things_stay_apart() -> None:
    outbox = Outbox()
    outbox.output(Output(one(1), STDOUT, 0, b"a"))
    outbox.output(Output(one(2), STDERR, 0, b"a"))
    outbox.output(Output(one(3), STDOUT, 1, b"a"))
    outbox.ended(Ended(one(1), outcomes.exited(0), 1, 0))
    outbox.ended(Ended(one(2), outcomes.exited(0), 0, 1))
    assert len(outbox.take()) == 5


def test_doubled_output_of_a_rank_is_not_joined() -> None:
    outbox = Outbox()
    frame = Output(one(1), STDOUT, 0, b"a")
    outbox.output(frame)
    outbox.output(frame)
    assert outbox.take() == [frame, frame]


WRITES = st.lists(
    st.tuples(st.integers(0, 4), st.sampled_from((STDOUT, STDERR)), st.sampled_from((b"a", b"bb")))
)


@given(WRITES)
def test_each_stream_keeps_its_order(writes: list[tuple[int, int, bytes]]) -> None:
    outbox = Outbox()
    written: dict[tuple[int, int], bytes] = {}
    for rank, stream, data in writes:
        before = written.get((rank, stream), b"")
        outbox.output(Output(one(rank), stream, len(before), data))
        written[(rank, stream)] = before + data
    came: dict[tuple[int, int], bytes] = {}
    for frame in outbox.take():
        assert isinstance(frame, Output)
        for rank in ranksets.members(frame.ranks):
            before = came.get((rank, frame.stream), b"")
            assert frame.offset == len(before)
            came[(rank, frame.stream)] = before + frame.data
    assert came == written


def test_frames_of_scattered_ranks_keep_to_their_limits() -> None:
    outbox = Outbox()
    for rank in range(0, limits.RANKS_MAX, 2):
        outbox.ready(one(rank))
        outbox.started(one(rank))
        outbox.output(Output(one(rank), STDOUT, 0, b"x" * limits.READ_CHUNK_BYTES))
        outbox.ended(Ended(one(rank), outcomes.lost("why " * 500), 0, 0))
    frames = outbox.take()
    assert {type(frame) for frame in frames} == {Ready, RanksStarted, Output, Ended}
    for kind in (Ready, RanksStarted, Output, Ended):
        told = [rank for f in frames if isinstance(f, kind) for rank in ranksets.members(f.ranks)]
        if kind is not RanksStarted:
            assert told == list(range(0, limits.RANKS_MAX, 2))
    for frame in frames:
        encode(1, frame)
