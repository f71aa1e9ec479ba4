"""Laying out a tree, and the order of epochs that makes takeovers safe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec.core import tree


@pytest.mark.parametrize(
    ("low", "high", "fanout", "expected"),
    [
        (0, 0, 4, []),
        (5, 3, 4, []),
        (0, 1, 4, [(0, 1)]),
        (0, 10, 4, [(0, 3), (3, 6), (6, 8), (8, 10)]),
        (7, 10, 1, [(7, 10)]),
        (0, 3, 16, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_split(low: int, high: int, fanout: int, expected: list[tuple[int, int]]) -> None:
    assert tree.split(low, high, fanout) == expected


@given(st.integers(0, 5000), st.integers(1, 70))
def test_split_covers_everything_once_in_nearly_equal_parts(count: int, fanout: int) -> None:
    ranges = tree.split(3, 3 + count, fanout)
    assert [rank for low, high in ranges for rank in range(low, high)] == list(range(3, 3 + count))
    sizes = [high - low for low, high in ranges]
    assert len(ranges) <= fanout
    assert not sizes or max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@given(st.integers(1, 3000), st.integers(1, 40), st.integers(0, 2**32))
def test_lineage_is_the_way_down_the_splits(ranks: int, fanout: int, choice: int) -> None:
    rank = choice % ranks
    above, ranges = [], tree.split(0, ranks, fanout)
    while True:
        low, high = next((low, high) for low, high in ranges if low <= rank < high)
        above.append((low, high))
        if low == rank:
            break
        ranges = tree.children(low, high, fanout)
    assert tree.lineage(ranks, fanout, rank) == above


@given(st.integers(0, 3000), st.integers(1, 40))
def test_depth_counts_the_levels(count: int, fanout: int) -> None:
    levels = 0
    ranges = tree.split(0, count, fanout)
    while ranges:
        levels += 1
        low, high = ranges[0]
        ranges = tree.children(low, high, fanout)
    assert tree.depth(count, fanout) == levels


@given(st.integers(1, 3000), st.integers(2, 32), st.integers(0, 2**32))
def test_next_turn_is_above_all_that_was_given_below(ranks: int, fanout: int, choice: int) -> None:
    turns, stride = tree.turns(ranks, ranks, fanout)
    assert turns >= 2
    epoch, span = 1, 2**32 - 1
    low, high = 0, ranks
    while high > low:
        turns, stride = tree.turns(ranks, high - low, fanout)
        assert turns * stride <= span or turns == 1
        turn = choice % turns
        epoch, span = epoch + turn * stride, stride
        assert epoch < 2**32
        ranges = tree.split(low, high, fanout)
        low, high = ranges[choice % len(ranges)]
        low += 1


def test_turns_where_there_are_more_levels_than_epochs() -> None:
    assert tree.turns(100, 100, 1)[0] > 1
    assert tree.turns(100, 80, 1) == (1, 0)
    assert tree.turns(65_536, 65_536, 16) == (255, 255**3)


@given(
    st.integers(1, 3000), st.integers(1, 32), st.integers(1, tree.EPOCH_MAX), st.integers(1, tree.EPOCH_MAX)
)
def test_no_epoch_is_too_high_for_its_frame(ranks: int, fanout: int, given: int, again: int) -> None:
    epochs = tree.Epochs(ranks, fanout, given, ranks)
    assert epochs.of(0) == given
    assert epochs.renew(again, ranks) == (again > given)
    assert epochs.of(0) == max(given, again)
    turn = 0
    while not epochs.is_last(turn):
        turn = 2 * turn + 1
        if epochs.is_last(turn - 1):
            break
        assert epochs.given < epochs.of(turn) <= tree.EPOCH_MAX


def test_a_fresh_turn_is_above_those_that_were_used() -> None:
    epochs = tree.Epochs(7, 2, 1, 7)
    assert epochs.fresh() == 0
    for turn in (0, 3, 2):
        epochs.of(turn)
    assert epochs.fresh() == 4
    epochs.renew(1, 7)
    assert epochs.fresh() == 4
    epochs.renew(2, 7)
    assert epochs.fresh() == 0
    last = tree.Epochs(7, 2, tree.EPOCH_MAX, 7)
    last.of(0)
    assert last.fresh() == 0


def test_whoever_was_given_the_highest_epoch_has_one_turn() -> None:
    assert tree.Epochs(7, 2, tree.EPOCH_MAX, 7).is_last(0)
    assert not tree.Epochs(7, 2, 1, 7).is_last(0)
