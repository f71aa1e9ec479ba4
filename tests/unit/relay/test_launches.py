"""A user's launches come in turns."""

from __future__ import annotations

from gexec.limits import LAUNCHES_UNDER_WAY_MAX
from gexec.relay.launches import Launches


def test_so_many_are_under_way_and_the_next_when_one_is_answered() -> None:
    launches, begun = Launches(), list[int]()

    def begin(number: int) -> bool:
        begun.append(number)
        return True

    for number in range(LAUNCHES_UNDER_WAY_MAX + 3):
        launches.ask(1, lambda number=number: begin(number))  # type: ignore[misc]
    assert begun == list(range(LAUNCHES_UNDER_WAY_MAX))
    launches.done(1)
    assert begun == list(range(LAUNCHES_UNDER_WAY_MAX + 1))
    launches.ask(2, lambda: begin(-1))
    assert begun[-1] == -1  # another user waits for nobody
    for _ in range(LAUNCHES_UNDER_WAY_MAX + 2):
        launches.done(1)
    assert begun[-2:] == [LAUNCHES_UNDER_WAY_MAX + 1, LAUNCHES_UNDER_WAY_MAX + 2]
    launches.done(2)
    assert not launches._under_way
    assert not launches._waiting


def test_what_was_given_up_while_it_waited_takes_no_turn() -> None:
    launches, begun = Launches(), list[str]()

    def begin() -> bool:
        begun.append("next")
        return True

    for _ in range(LAUNCHES_UNDER_WAY_MAX):
        launches.ask(1, lambda: True)
    launches.ask(1, lambda: False)
    launches.ask(1, begin)
    launches.done(1)
    assert begun == ["next"]
    for _ in range(LAUNCHES_UNDER_WAY_MAX):
        launches.done(1)
    assert not launches._under_way


def test_one_that_cannot_begin_leaves_its_place() -> None:
    launches = Launches()
    launches.ask(1, lambda: False)
    assert not launches._under_way
