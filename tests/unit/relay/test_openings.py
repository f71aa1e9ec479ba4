"""Links of a job's children are requested in steps, and not long before they are dialled."""

from __future__ import annotations

from collections.abc import Callable

from gexec.relay.openings import WAITING_MAX, Openings


class Timers:
    """Timers that a test runs."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], object]] = []

    def time(self) -> float:
        return 0.0

    def call_at(self, when: float, callback: Callable[[], object]) -> Timers:
        assert when == 0.0
        self.calls.append(callback)
        return self

    def cancel(self) -> None:
        self.calls.clear()

    def turn(self) -> None:
        """Run what is due; nothing that it schedules."""
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def test_few_children_are_opened_at_once_and_many_in_steps() -> None:
    opened: list[int] = []
    timers = Timers()
    openings = Openings(timers, opened.append, step_max=3)
    for child in range(8):
        openings.add(child)
    seen = [len(opened)]
    while timers.calls:
        timers.turn()
        seen.append(len(opened))
    assert seen == [3, 6, 8]
    assert opened == list(range(8))


def test_no_more_are_opened_while_enough_wait_to_be_dialled() -> None:
    opened: list[int] = []
    timers = Timers()

    def open_(child: int) -> None:
        opened.append(child)
        openings.waiting.add(child)

    openings = Openings(timers, open_, step_max=1000)
    for child in range(WAITING_MAX + 2):
        openings.add(child)
    assert opened == list(range(WAITING_MAX))
    assert timers.calls == []  # nothing to do until a dial begins
    openings.begun(WAITING_MAX + 1)  # one that was not opened is dropped: that makes no room
    assert timers.calls == []
    openings.begun(0)
    timers.turn()
    assert opened == list(range(WAITING_MAX + 1))
    openings.begun(1)
    openings.end()
    assert timers.calls == []
    timers.turn()
    assert len(opened) == WAITING_MAX + 1
