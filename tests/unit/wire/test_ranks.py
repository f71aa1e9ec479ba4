"""Ranges of ranks do what Python's sets do."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gexec.wire import ranks
from gexec.wire.ranks import Ranges

sets = st.sets(st.integers(0, 60))


def well_formed(ranges: Ranges) -> bool:
    """Sorted, none empty, and never two that could be one."""
    return all(low < high for low, high in ranges) and all(
        left[1] < right[0] for left, right in pairwise(ranges)
    )


@given(st.lists(st.integers(0, 60)))
def test_of_takes_any_order_and_doubles(numbers: list[int]) -> None:
    ranges = ranks.of(numbers)
    assert list(ranks.members(ranges)) == sorted(set(numbers))
    assert ranks.size(ranges) == len(set(numbers))
    assert well_formed(ranges)


@given(sets, sets)
def test_operations_are_those_of_sets(left: set[int], right: set[int]) -> None:
    one, two = ranks.of(left), ranks.of(right)
    assert ranks.union(one, two) == ranks.of(left | right)
    assert ranks.difference(one, two) == ranks.of(left - right)
    assert ranks.intersection(one, two) == ranks.of(left & right)


@given(sets, st.integers(-2, 62))
def test_contains(members: set[int], rank: int) -> None:
    assert ranks.contains(ranks.of(members), rank) == (rank in members)


def test_examples() -> None:
    assert ranks.of([7, 1, 0, 2]) == ((0, 3), (7, 8))
    assert ranks.of([]) == ()
    assert ranks.union(((0, 3),), ((3, 5),)) == ((0, 5),)
    assert ranks.difference(((0, 65536),), ((1, 2), (65535, 65536))) == ((0, 1), (2, 65535))
