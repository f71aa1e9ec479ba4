"""A node's children: who holds a rank, who holds a subtree too long, and what is still owed."""

from __future__ import annotations

from gexec import limits
from gexec.core.child import Child
from gexec.core.children import ACKS_MAX, STEP_RANKS, Siblings
from gexec.wire.frames import STDOUT


def child(number: int, low: int, high: int, asked_s: float = 0.0) -> Child:
    return Child(number, low, high, set(range(low, high)), 1, asked_s)


def siblings(*children: Child) -> Siblings:
    made = Siblings()
    for one in children:
        made.add(one)
    made.validate()
    return made


def test_acknowledgements_go_to_the_children_that_hold_the_ranks() -> None:
    made = siblings(child(1, 10, 20), child(2, 0, 5), child(3, 20, 21))
    entries = [(rank, STDOUT, 100 + rank) for rank in (0, 4, 5, 10, 19, 20, 21)]
    routed = {number: [entry[0] for entry in ack.entries] for number, ack in made.routed(entries)}
    assert routed == {2: [0, 4], 1: [10, 19], 3: [20]}  # nobody has 5 and 21
    made.remove(made.all[1])
    made.validate()
    assert [number for number, _ in made.routed(entries)] == [2, 3]
    made.add(child(4, 10, 20))
    assert [number for number, _ in made.routed(entries)] == [2, 4, 3]


def test_acknowledgements_are_cut_into_frames() -> None:
    made = siblings(child(1, 0, 10))
    frames = made.routed([(0, STDOUT, number) for number in range(ACKS_MAX + 1)])
    assert [(number, len(ack.entries)) for number, ack in frames] == [(1, ACKS_MAX), (1, 1)]


def test_a_child_that_is_narrowed_has_its_own_rank_only() -> None:
    wide = child(1, 0, 10)
    made = siblings(wide)
    assert made.routed([(5, STDOUT, 1)])
    assert made.take_overdue(limits.HEDGE_MAX_S) == [wide]  # what it was to pass on is taken over
    made.narrow(wide)
    made.validate()
    assert made.open_ranks() == {0}
    assert made.routed([(5, STDOUT, 1)]) == []


def test_ranks_are_open_while_a_child_owes_them_or_a_verdict_waits() -> None:
    one, other = child(1, 0, 3), child(2, 5, 6)
    made = siblings(one, other)
    one.owes = {2}
    other.unreached = [(9, "refused")]
    other.owes = set()
    assert made.open_ranks() == {2, 9}


def test_nobody_is_waited_for_but_inner_children() -> None:
    made = siblings(child(1, 0, 1), child(2, 1, 2))
    assert made.next_deadline_s() is None
    assert made.take_overdue(1e9) == []


def test_an_inner_child_holds_its_subtree_so_long() -> None:
    made = siblings(child(1, 0, 10, asked_s=5.0), child(2, 10, 20, asked_s=6.0))
    assert made.next_deadline_s() == 5.0 + limits.HEDGE_MAX_S
    assert made.take_overdue(4.9 + limits.HEDGE_MAX_S) == []
    assert [one.number for one in made.take_overdue(5.0 + limits.HEDGE_MAX_S)] == [1]
    made.validate()
    assert made.next_deadline_s() == 6.0 + limits.HEDGE_MAX_S  # it is waited for no more
    assert made.take_overdue(5.0 + limits.HEDGE_MAX_S) == []


def test_a_child_whose_machine_answers_may_take_longer() -> None:
    made = siblings(child(1, 0, 10))
    made.reached(1)
    made.reached(1)
    made.reached(99)
    made.validate()
    assert made.next_deadline_s() == limits.HEDGE_REACHED_S
    assert made.take_overdue(limits.HEDGE_MAX_S) == []
    assert [one.number for one in made.take_overdue(limits.HEDGE_REACHED_S)] == [1]
    assert made.next_deadline_s() is None


def test_a_child_that_was_silent_gets_no_more_time_because_its_machine_answers() -> None:
    silent = child(1, 0, 10)
    silent.silent = True
    made = siblings(silent)
    made.reached(1)
    made.validate()
    assert [one.number for one in made.take_overdue(limits.HEDGE_MAX_S)] == [1]


def test_what_half_of_the_siblings_took_is_the_measure() -> None:
    children = [child(number, 10 * number, 10 * number + 10) for number in range(4)]
    made = siblings(*children)
    made.answered(children[0], 0.5)
    assert made.next_deadline_s() == limits.HEDGE_MAX_S  # one of four
    made.answered(children[1], 1.0)
    made.validate()
    expected = min(limits.HEDGE_MAX_S, max(limits.HEDGE_MIN_S, 4 * 1.0))
    assert made.next_deadline_s() == expected
    assert {one.number for one in made.take_overdue(expected)} == {2, 3}


def test_fast_siblings_do_not_make_anybody_overdue_at_once() -> None:
    children = [child(number, 10 * number, 10 * number + 10) for number in range(2)]
    made = siblings(*children)
    made.answered(children[0], 0.0)
    assert made.next_deadline_s() == limits.HEDGE_MIN_S


def test_a_child_that_is_gone_is_waited_for_no_more() -> None:
    one = child(1, 0, 10)
    made = siblings(one)
    made.remove(one)
    made.validate()
    assert made.next_deadline_s() is None
    assert made.all == {}
    assert made.open_ranks() == set()


def test_the_story_of_a_rank_is_that_of_its_child() -> None:
    one, other = child(1, 0, 10), child(2, 10, 20)
    other.unreached = [(3, "refused")]
    made = siblings(one, other)
    assert made.story(3) == [one.story(3), other.story(3)]
    assert made.story(15) == [other.story(15)]
    assert made.story(99) == []


def test_many_overdue_children_are_taken_over_in_steps() -> None:
    size = STEP_RANKS // 2
    made = siblings(*[child(number, number * size, (number + 1) * size) for number in range(5)])
    now_s = limits.HEDGE_MAX_S
    steps = []
    while made.next_deadline_s() is not None:
        steps.append([one.number for one in made.take_overdue(now_s)])
        assert made.next_deadline_s() in (None, now_s)
        made.validate()
    assert steps == [[0, 1], [2, 3], [4]]
