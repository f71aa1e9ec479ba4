"""Bounded streams: what is kept, and for how long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec.core.flow import Broadcast, RetainedStream
from gexec.errors import ProtocolError


def test_retained_until_acknowledged() -> None:
    stream = RetainedStream(10)
    assert stream.append(b"hello") == 0
    assert not stream.full
    assert stream.append(b"world") == 5
    assert stream.full
    stream.acknowledge(5)
    assert not stream.full
    assert stream.unacknowledged() == [(5, b"world")]
    stream.acknowledge(3)  # late: nothing changes
    assert stream.base == 5
    assert not stream.acknowledge(11)
    assert stream.base == 5


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=20), st.integers(0, 200))
def test_what_is_retained_and_acknowledged_is_all_there_was(pieces: list[bytes], taken: int) -> None:
    stream = RetainedStream(1000)
    for piece in pieces:
        stream.append(piece)
    whole = b"".join(pieces)
    taken = min(taken, len(whole))
    stream.acknowledge(taken)
    for offset, data in stream.unacknowledged():
        assert whole[offset : offset + len(data)] == data
    kept = stream.unacknowledged()
    assert (kept[0][0] if kept else len(whole)) <= taken
    assert sum(len(data) for offset, data in kept if offset >= taken) <= len(whole) - taken


def broadcast(*takers: int) -> Broadcast:
    stdin = Broadcast()
    for taker in takers:
        stdin.add(taker)
    return stdin


def test_broadcast_keeps_for_the_slowest() -> None:
    stdin = broadcast(0, 1)
    assert stdin.append(0, b"abcdef", False) == (0, b"abcdef", False)
    stdin.took(0, 6)
    assert stdin.taken() == 0
    stdin.took(1, 3)
    assert stdin.taken() == 3
    assert stdin.kept() == [(0, b"abcdef", False)]
    stdin.took(1, 6)
    assert stdin.taken() == 6
    assert stdin.kept() == []
    stdin.took(1, 2)  # late
    assert stdin.taken() == 6


def test_broadcast_passes_on_only_what_is_new() -> None:
    stdin = broadcast(0)
    stdin.append(0, b"abc", False)
    assert stdin.append(0, b"abcd", False) == (3, b"d", False)
    assert stdin.append(1, b"bcd", False) is None
    assert stdin.append(4, b"", True) == (4, b"", True)
    assert stdin.append(4, b"", True) is None
    assert stdin.kept() == [(0, b"abc", False), (3, b"d", False), (4, b"", True)]
    with pytest.raises(ProtocolError, match="after its end"):
        stdin.append(4, b"e", False)


def test_broadcast_refuses_a_gap() -> None:
    stdin = broadcast(0)
    stdin.append(0, b"abc", False)
    with pytest.raises(ProtocolError, match="continues at 5, expected 3"):
        stdin.append(5, b"x", False)


def test_broadcast_of_a_parent_that_contradicts_another_begins_anew() -> None:
    stdin = broadcast(0)
    stdin.resume(0, b"abc", True)
    assert stdin.resume(5, b"x", False) == (5, b"x", False)
    assert (stdin.base, stdin.end, stdin.eof) == (5, 6, False)
    stdin.resume(6, b"yz", False)
    stdin.restart()
    assert stdin.resume(4, b"wxyz", False) == (4, b"wxyz", False)
    assert stdin.differs_at == Broadcast.ALL
    stdin.restart()
    assert stdin.resume(5, b"x!", False) == (5, b"x!", False)
    assert stdin.differs_at == 5
    assert stdin.resume(7, b"z", False) == (7, b"z", False)
    assert stdin.differs_at == Broadcast.ALL


def test_broadcast_without_takers_wants_nothing() -> None:
    stdin = broadcast(0, 1)
    stdin.append(0, b"abc", False)
    stdin.took(0, Broadcast.ALL)
    stdin.remove(1)
    assert stdin.taken() == Broadcast.ALL
    assert stdin.kept() == []
    stdin.append(3, b"def", False)
    assert stdin.taken() == Broadcast.ALL
    assert stdin.base == 6


def test_broadcast_begins_where_its_first_bytes_begin() -> None:
    stdin = broadcast(0)
    assert stdin.append(100, b"abc", False) == (100, b"abc", False)
    assert stdin.base == 100


def test_broadcast_restarts_with_older_bytes_for_new_takers() -> None:
    stdin = broadcast(0)
    stdin.append(0, b"abcdef", True)
    stdin.took(0, 6)
    assert stdin.taken() == 6
    stdin.restart()
    stdin.add(1)
    assert stdin.taken() == 0
    assert stdin.kept() == []
    assert stdin.append(2, b"cdef", False) == (2, b"cdef", False)
    assert stdin.append(6, b"", True) == (6, b"", True)
    assert stdin.kept() == [(2, b"cdef", False), (6, b"", True)]
    stdin.took(1, 4)
    assert stdin.taken() == 4
