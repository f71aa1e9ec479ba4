"""Turns: each user in order, the users beside each other, and every place is given back."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from gexec.relay.turns import Turn, Turns
from gexec.security.quota import Shares


class Place:
    """Notes who began, in order."""

    def __init__(self, places: int) -> None:
        self.shares = Shares(places)
        self.turns = Turns(self.shares)
        self.begun: list[str] = []

    def ask(self, uid: int, name: str, amount: int = 1) -> Turn:
        return self.turns.ask(uid, amount, lambda: self.begun.append(name))


def test_one_user_waits_for_itself_and_nobody_else_does() -> None:
    place = Place(4)
    mine = [place.ask(1, f"mine {number}") for number in range(5)]
    assert place.begun == ["mine 0", "mine 1"]
    place.ask(2, "another's")
    place.ask(0, "root's")
    assert place.begun[2:] == ["another's", "root's"]
    mine[1].end()
    assert place.begun[4:] == ["mine 2"]
    assert place.turns.waits(1) == 2


def test_who_waits_no_more_is_passed_over_and_gives_nothing_back() -> None:
    place = Place(2)
    first, second, third = [place.ask(1, str(number)) for number in range(3)]
    second.end()
    second.end()
    assert place.shares.used(1) == 1
    first.end()
    assert place.begun == ["0", "2"]
    third.end()
    assert place.shares.used_by_all == 0
    assert place.turns.waits(1) == 0


def test_what_is_urgent_waits_for_no_turn() -> None:
    place = Place(2)
    first = place.ask(1, "first")
    waiting = place.ask(1, "waits")
    urgent = place.turns.ask(1, 1, lambda: place.begun.append("urgent"), urgent=True)
    assert place.begun == ["first", "urgent"]
    place.turns.hurry(waiting)
    place.turns.hurry(waiting)
    assert place.begun == ["first", "urgent", "waits"]
    assert place.shares.used(1) == 3
    place.ask(1, "last")
    for turn in (first, urgent, waiting):
        turn.end()
    assert place.begun[3:] == ["last"]
    assert place.shares.used(1) == 1
    place.turns.hurry(waiting)
    assert place.shares.used(1) == 1


def test_many_that_end_as_they_begin_need_no_stack() -> None:
    turns = Turns(Shares(2))
    blocker = turns.ask(1, 1, lambda: None)
    done: list[int] = []
    asked: list[Turn] = []

    def begin() -> None:
        number = len(done)
        done.append(number)
        asked[number].end()

    for _ in range(5000):
        asked.append(turns.ask(1, 1, begin))
    blocker.end()
    assert len(done) == 5000


def test_large_ones_are_not_overtaken_for_ever() -> None:
    place = Place(16)
    small = [place.ask(1, "small") for _ in range(5)]
    place.ask(1, "large", 8)
    late = place.ask(1, "late")
    for turn in small:
        turn.end()
    assert place.begun == ["small"] * 5 + ["large"]
    late.end()


@given(
    st.integers(1, 12),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 30)), max_size=60),
)
def test_order_bounds_and_nothing_is_left(places: int, done: list[tuple[int, int, int]]) -> None:
    shares = Shares(places + 6)
    turns = Turns(shares)
    order: dict[int, list[int]] = {uid: [] for uid in range(4)}
    asked: list[Turn] = []
    for uid, amount, ends in done:
        number = len(asked)
        asked.append(turns.ask(uid, amount, partial(order[uid].append, number)))
        if ends < len(asked):
            asked[ends].end()
        assert shares.used_by_all <= shares.total
    for turn in asked:
        turn.end()
    assert all(numbers == sorted(numbers) for numbers in order.values())
    assert shares.used_by_all == 0
    assert not turns._waiting
