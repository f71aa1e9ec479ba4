"""A child that says that another parent has it: the parent waits for that one, but not for ever."""

from __future__ import annotations

import pytest

from gexec import limits
from gexec.core import events
from gexec.core.child import Child
from gexec.core.node import Node
from gexec.core.root import Root
from gexec.core.taken import WHY, Taken
from gexec.wire import frames, jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.frames import LENGTH_UNKNOWN, Ended, Refused, Start
from gexec.wire.jobspec import JobSpec
from machines import validated  # noqa: F401  (a fixture that every test uses)

STALE = Refused(frames.REFUSED_STALE, "another parent has this node", 2**32 - 1)
NEVER_S = 10 * limits.TAKEN_S


def spec_of(ranks: int) -> JobSpec:
    return JobSpec(
        names=[b"n"] * ranks,
        addresses=[b""] * ranks,
        program=b"/x",
        argv=[b"x"],
        env=[],
        flags=jobspec.NO_STDIN,
        fanout=2,
        window=limits.WINDOW_MIN_BYTES,
    )


def lost(*ranges: tuple[int, int], who: str = "it") -> Ended:
    text = f"{who} {WHY} within {limits.TAKEN_S:g} s"
    return Ended(ranges, outcomes.lost(text), LENGTH_UNKNOWN, LENGTH_UNKNOWN)


class Inner:
    """The node of rank 0 of a job of seven; its children have [1, 4) and [4, 7), by number."""

    def __init__(self) -> None:
        spec = spec_of(7)
        self.node = Node(job_id=bytes(16), spec=spec, start=Start(1, 0, 7, b"c", b"b"), parent=1)
        self.effects = self.node.begin(0.0)
        self.handle(0.01, *(events.ChildFrame(number, frames.Accepted(bytes(16))) for number in (1, 2)))

    def handle(self, now_s: float, *happened: events.Event) -> list[frames.Frame]:
        """Return what the parent is told."""
        self.effects = [effect for event in happened for effect in self.node.handle(event, now_s)]
        return [effect.frame for effect in self.effects if isinstance(effect, events.ToParent)]

    def asked(self) -> list[tuple[int, int]]:
        """Return the ranges of the children that were opened in the last step."""
        starts = [effect.start for effect in self.effects if isinstance(effect, events.OpenChild)]
        return [(start.low, start.high) for start in starts]

    def pass_time(self, until_s: float) -> list[frames.Frame]:
        """Send Tick whenever it is due; return what the parent is told."""
        told: list[frames.Frame] = []
        while (due_s := self.node.next_deadline_s()) is not None and due_s <= until_s:
            told += self.handle(due_s, events.Tick())
        return told


def test_a_child_that_lies_costs_its_ranks_and_no_more() -> None:
    """Before, the parent waited for ever for the other parent's report, and so did the root."""
    inner = Inner()
    assert inner.handle(1.0, events.ChildFrame(1, STALE)) == []
    assert inner.asked() == []
    assert inner.pass_time(1.0 + limits.TAKEN_S - 0.1) == []
    assert inner.pass_time(1.1 + limits.TAKEN_S) == [
        lost((1, 2)),
        lost((2, 4), who="rank 1, on the way to it,"),
    ]
    assert inner.asked() == []
    assert inner.pass_time(NEVER_S) == []
    # The other child's ranks are not touched.
    end = Ended(((4, 7),), outcomes.exited(0), 0, 0)
    inner.handle(NEVER_S, events.ChildFrame(2, end))
    assert inner.pass_time(2 * NEVER_S) == [end]


def test_what_had_ended_before_is_not_lost() -> None:
    inner = Inner()
    inner.handle(0.5, events.ChildFrame(1, Ended(((2, 4),), outcomes.exited(3), 0, 0)))
    inner.pass_time(0.9)
    inner.handle(1.0, events.ChildFrame(1, STALE))
    assert inner.pass_time(NEVER_S) == [lost((1, 2))]
    all_ended = Inner()
    all_ended.handle(0.5, events.ChildFrame(1, Ended(((1, 4),), outcomes.exited(3), 0, 0)))
    all_ended.pass_time(0.9)
    all_ended.handle(1.0, events.ChildFrame(1, STALE))
    assert all_ended.pass_time(NEVER_S) == []


@pytest.mark.parametrize("late", [False, True])
def test_whoever_gets_a_higher_epoch_asks_again(late: bool) -> None:
    """Also what was reported as lost is asked again: that report may have reached nobody."""
    inner = Inner()
    inner.handle(1.0, events.ChildFrame(1, STALE))
    now_s = 2.0 + late * limits.TAKEN_S
    inner.pass_time(now_s)
    inner.handle(now_s, events.ParentFrame(1, frames.Resync(5)))
    assert inner.asked() == [(1, 4)]
    [opened] = [effect for effect in inner.effects if isinstance(effect, events.OpenChild)]
    assert opened.start.attach_only == late
    assert not any(isinstance(frame, Ended) for frame in inner.pass_time(now_s + limits.TAKEN_S - 1))


def test_whoever_sends_all_again_reports_it_again() -> None:
    inner = Inner()
    inner.handle(1.0, events.ChildFrame(1, STALE))
    inner.pass_time(2.0 + limits.TAKEN_S)
    now_s = 3.0 + limits.TAKEN_S
    assert inner.handle(now_s, events.ParentFrame(1, frames.Resync(1))) == [frames.Accepted(bytes(16))]
    assert inner.pass_time(now_s + 1) == [lost((1, 2)), lost((2, 4), who="rank 1, on the way to it,")]
    # Not sooner than in time.
    early = Inner()
    early.handle(1.0, events.ChildFrame(1, STALE))
    early.handle(2.0, events.ParentFrame(1, frames.Resync(1)))
    assert early.pass_time(limits.TAKEN_S) == []
    assert len(early.pass_time(NEVER_S)) == 2


def test_what_had_ended_before_is_owed_when_all_is_sent_again() -> None:
    """Seed 13400726: a forged end, which the root cannot take, and then *stale*."""
    inner = Inner()
    inner.handle(0.5, events.ChildFrame(1, Ended(((1, 4),), outcomes.exited(3), 99, 0)))
    inner.pass_time(0.9)
    inner.handle(1.0, events.ChildFrame(1, STALE))
    inner.handle(2.0, events.ParentFrame(1, frames.Resync(1)))
    assert inner.asked() == []
    assert len(inner.pass_time(NEVER_S)) == 2


def test_what_had_ended_before_its_node_was_lost_is_asked_for_when_all_is_sent_again() -> None:
    """Its report may be lost on the way up; before, nobody had it then, and the root waited for ever."""
    inner = Inner()
    inner.handle(0.5, events.ChildFrame(1, Ended(((1, 4),), outcomes.exited(3), 0, 0)))
    inner.handle(0.6, events.ChildLost(1, "the connection was reset", True))
    assert inner.asked() == [(1, 4)]
    [epoch] = [effect.start.epoch for effect in inner.effects if isinstance(effect, events.OpenChild)]
    inner.handle(0.7, events.ChildLost(3, "connection refused", False))
    assert inner.asked() == []
    inner.pass_time(0.9)
    inner.handle(2.0, events.ParentFrame(1, frames.Resync(1)))
    assert inner.asked() == [(1, 4)]
    [opened] = [effect for effect in inner.effects if isinstance(effect, events.OpenChild)]
    assert opened.start.attach_only
    assert opened.start.epoch > epoch
    inner.handle(2.1, events.ChildLost(opened.child, "connection refused", False))
    ended = [frame for frame in inner.pass_time(NEVER_S) if isinstance(frame, Ended)]
    assert {rank for frame in ended for low, high in frame.ranks for rank in range(low, high)} >= {1}


def test_whoever_has_no_parent_decides_nothing() -> None:
    inner = Inner()
    inner.handle(1.0, events.ChildFrame(1, STALE))
    inner.handle(limits.TAKEN_S, events.ParentLost(1, "the connection was reset"))
    assert not any(isinstance(frame, Ended) for frame in inner.pass_time(limits.TAKEN_S + 10))
    start = Start(9, 0, 7, b"c", b"b")
    inner.handle(limits.TAKEN_S + 11, events.ParentFrame(2, start))
    assert (1, 4) in inner.asked()


def test_whoever_is_closed_or_has_a_smaller_range_reports_nothing() -> None:
    closed = Inner()
    closed.handle(1.0, events.ChildFrame(1, STALE))
    closed.handle(2.0, events.ParentFrame(1, frames.Close()))
    assert closed.pass_time(NEVER_S) == []
    smaller = Inner()
    smaller.handle(1.0, events.ChildFrame(1, STALE))
    smaller.handle(2.0, events.ParentFrame(1, Start(9, 0, 1, b"c", b"b")))
    assert smaller.asked() == []
    assert not any(isinstance(frame, Ended) for frame in smaller.pass_time(NEVER_S))


def test_the_root_has_nobody_to_wait_for() -> None:
    root = Root(job_id=bytes(16), spec=spec_of(7), credential=b"c", blob=b"b", client=1)
    root.begin(0.0)
    root.handle(events.ChildFrame(1, frames.Accepted(bytes(16))), 0.1)
    effects = root.handle(events.ChildFrame(1, STALE), 0.2)
    ends = [e.frame for e in effects if isinstance(e, events.ToParent) and isinstance(e.frame, Ended)]
    assert [(frame.ranks, frame.outcome.kind) for frame in ends] == [(((0, 1),), outcomes.LOST)]
    starts = [effect.start for effect in effects if isinstance(effect, events.OpenChild)]
    assert [(start.low, start.high) for start in starts] == [(1, 3), (3, 4)]


def test_they_are_overdue_in_the_order_in_which_they_came() -> None:
    taken = Taken()
    assert taken.next_deadline_s() is None
    for number in (1, 2):
        taken.add(Child(number, number, number + 1, {number}, 0, 0.0), float(number))
    taken.add(Child(3, 3, 5, set(), 0, 0.0), 3.0)  # owes nothing
    assert taken.next_deadline_s() == 1.0 + limits.TAKEN_S
    assert taken.take_overdue(1.0 + limits.TAKEN_S) == [lost((1, 2))]
    assert taken.take_overdue(NEVER_S) == [lost((2, 3))]
    assert taken.resync(False) == {1, 2, 3, 4}
    told = [lost((1, 2)), lost((2, 3)), lost((3, 4)), lost((4, 5), who="rank 3, on the way to it,")]
    assert taken.take_overdue(NEVER_S) == told
    assert taken.resync(True) == set()
    assert taken.next_deadline_s() is None
