"""Batches and further attempts: which ranks come next, and when no more do."""

from __future__ import annotations

import pytest

from gexec.errors import UsageError
from gexec.select.rounds import Rounds, is_down, share, unreached
from gexec.wire.outcome import (
    Outcome,
    denied,
    exited,
    killed,
    lost,
    no_room,
    not_started,
    timed_out,
    unreachable,
)

REFUSED = not_started("connection refused")


def test_without_options_all_ranks_are_one_round() -> None:
    rounds = Rounds(3)
    assert rounds.next() == [0, 1, 2]
    rounds.ended([exited(1), REFUSED, lost("x")])
    assert rounds.next() == []
    assert not rounds.stopped


def test_batches_follow_each_other_and_the_last_is_what_is_left() -> None:
    rounds = Rounds(5, batch=2)
    seen = []
    while ranks := rounds.next():
        seen.append(ranks)
        rounds.ended([exited(0)] * len(ranks))
    assert seen == [[0, 1], [2, 3], [4]]
    assert rounds.finished("-") == [exited(0)] * 5


def test_only_what_was_not_reached_is_tried_again_and_before_the_next_batch() -> None:
    rounds = Rounds(6, batch=4, retries=2)
    assert (rounds.next(), rounds.again, rounds.may_come_again) == ([0, 1, 2, 3], False, True)
    rounds.ended([REFUSED, exited(1), REFUSED, lost("gone")])
    assert (rounds.next(), rounds.again, rounds.may_come_again) == ([0, 2], True, True)
    rounds.ended([exited(0), REFUSED])
    assert (rounds.next(), rounds.again, rounds.may_come_again) == ([2], True, False)
    rounds.ended([REFUSED])
    # Each batch has its own attempts.
    assert (rounds.next(), rounds.again, rounds.may_come_again) == ([4, 5], False, True)
    rounds.ended([exited(0), exited(0)])
    assert rounds.next() == []
    assert rounds.outcomes == [exited(0), exited(1), REFUSED, lost("gone"), exited(0), exited(0)]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (REFUSED, True),
        (unreachable("no answer"), True),
        (not_started("no such file", 2), False),  # the node was reached and would say the same again
        (exited(1), False),
        (exited(255), False),
        (killed(9), False),
        (lost("x"), False),
        (denied("x"), False),
        (timed_out(9), False),
    ],
)
def test_what_counts_as_not_reached(outcome: Outcome, expected: bool) -> None:
    assert unreached(outcome) is expected


def test_only_a_node_of_which_nothing_answers_is_down() -> None:
    assert is_down(unreachable("no answer"))
    for outcome in (no_room("no memory"), not_started("gexecd is shutting down"), lost("x"), exited(1)):
        assert not is_down(outcome)


@pytest.mark.parametrize(("most", "batches"), [(0, 1), (1, 2), (2, 3), (None, 3)])
def test_more_failures_than_allowed_stop_before_the_next_batch(most: int | None, batches: int) -> None:
    rounds = Rounds(6, batch=2, failures_max=most)
    for number in range(batches):
        assert rounds.next() == [2 * number, 2 * number + 1]
        rounds.ended([exited(0), exited(1)])
    assert rounds.next() == []
    assert rounds.stopped is (batches < 3)
    tried = [exited(0), exited(1)] * batches
    assert rounds.finished("why") == tried + [not_started("why")] * (6 - len(tried))


def test_what_is_reached_at_last_is_no_failure() -> None:
    rounds = Rounds(4, batch=2, retries=1, failures_max=0)
    rounds.next()
    rounds.ended([exited(0), REFUSED])
    assert rounds.next() == [1]
    rounds.ended([exited(0)])
    assert rounds.next() == [2, 3]


@pytest.mark.parametrize(
    ("text", "total", "least", "count"),
    [
        ("3", 8, 1, 3),
        ("100", 8, 1, 100),
        ("0", 8, 0, 0),
        ("25%", 8, 1, 2),
        ("26%", 8, 1, 3),
        ("1%", 8, 1, 1),
        ("100%", 8, 1, 8),
        ("0%", 8, 0, 0),
        ("10%", 16384, 1, 1639),
    ],
)
def test_shares_in_numbers_and_percents(text: str, total: int, least: int, count: int) -> None:
    assert share("--batch", text, total, least) == count


@pytest.mark.parametrize("text", ["", "%", "-1", "x", "1.5", "101%", "10 %", "٣", "9" * 10, "5%%"])
def test_what_is_no_share_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="option --batch: expected a number of nodes or a percentage, not "):
        share("--batch", text, 8, 1)


@pytest.mark.parametrize("text", ["0", "0%"])
def test_a_batch_is_one_node_at_least(text: str) -> None:
    with pytest.raises(UsageError, match="option --batch: expected at least 1, not '0"):
        share("--batch", text, 8, 1)


def test_ranks_that_run_together_are_tried_again_together() -> None:
    rounds = Rounds(2, retries=2, together=True)
    assert rounds.next() == [0, 1]
    rounds.ended([REFUSED, not_started("--strict: 1 of 2 nodes cannot start it")])
    assert rounds.next() == [0, 1]
    # The first was reached now and cannot start it: the second alone would break the promise.
    rounds.ended([not_started("no such file", 2), not_started("--strict: 1 of 2 nodes cannot start it")])
    assert rounds.next() == []
