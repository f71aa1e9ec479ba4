"""The parent's side: asking, hedging, asking again, taking over."""

from __future__ import annotations

import pytest

from gexec import limits
from gexec.core import events, tree
from gexec.core.flow import Broadcast
from gexec.core.subtree import LOSSES_MAX, Subtree
from gexec.wire import frames
from gexec.wire import outcome as outcomes
from gexec.wire.frames import Ended, Output, RanksStarted, Refused, Start
from gexec.wire.jobspec import JobSpec
from gexec.wire.outcome import Outcome
from machines import validated  # noqa: F401  (a fixture that every test uses)


class Bench:
    """A subtree of a root, and what it asked for since last looked at."""

    def __init__(self, ranks: int, fanout: int, stdin: Broadcast | None = None, epoch: int = 1) -> None:
        spec = JobSpec(
            names=[b"n"] * ranks, addresses=[b""] * ranks, program=b"/x", argv=[b"x"], env=[], fanout=fanout
        )
        self.decided: dict[int, Outcome] = {}
        self.effects: list[events.Effect] = []
        self.subtree = Subtree(
            spec=spec,
            first=0,
            high=ranks,
            credential=b"c",
            blob=b"b",
            epoch=epoch,
            emit=self.effects.append,
            decide=self.decide,
            stdin=stdin,
        )
        self.subtree.spread(0.0)

    def decide(self, rank: int, outcome: Outcome) -> None:
        assert rank not in self.decided
        self.decided[rank] = outcome

    def opened(self) -> dict[int, Start]:
        """Return the Starts asked for since last looked, by child."""
        asked = {e.child: e.start for e in self.effects if isinstance(e, events.OpenChild)}
        self.effects.clear()
        return asked

    def ranges(self) -> list[tuple[int, int]]:
        return [(start.low, start.high) for start in self.opened().values()]

    def sent(self) -> list[tuple[int, frames.Frame]]:
        told = [(e.child, e.frame) for e in self.effects if isinstance(e, events.ToChild)]
        self.effects.clear()
        return told


ACCEPTED = frames.Accepted(bytes(16))


def exited(low: int, high: int) -> Ended:
    return Ended(((low, high),), outcomes.exited(0), 0, 0)


def test_asks_everybody_at_once() -> None:
    bench = Bench(7, 2)
    starts = bench.opened()
    assert [(s.low, s.high, s.epoch, s.attach_only) for s in starts.values()] == [
        (0, 4, 1, False),
        (4, 7, 1, False),
    ]


def test_complete_when_nobody_owes() -> None:
    bench = Bench(2, 2)
    assert not bench.subtree.complete
    assert bench.subtree.heard(1, exited(0, 1), 0.1) == exited(0, 1)
    assert bench.subtree.heard(2, exited(1, 2), 0.1) == exited(1, 2)
    assert bench.subtree.complete


def test_passes_on_only_what_a_child_owes() -> None:
    bench = Bench(8, 2)
    assert bench.subtree.heard(1, exited(0, 8), 0.1) == exited(0, 4)
    assert bench.subtree.heard(1, exited(0, 4), 0.1) is None
    assert bench.subtree.heard(2, RanksStarted(((3, 6),)), 0.1) == RanksStarted(((4, 6),))
    assert bench.subtree.heard(2, Output(((0, 1),), 1, 0, b"forged"), 0.1) is None
    assert bench.subtree.heard(99, exited(0, 1), 0.1) is None


def test_slow_child_does_not_hold_its_subtree() -> None:
    bench = Bench(7, 2)
    bench.opened()
    bench.subtree.heard(2, ACCEPTED, 0.01)
    at_s = bench.subtree.next_deadline_s()
    assert at_s is not None
    assert at_s <= limits.HEDGE_MAX_S
    bench.subtree.tick(at_s)
    starts = bench.opened()
    assert sorted((s.low, s.high) for s in starts.values()) == [(0, 1), (1, 3), (3, 4)]
    assert all(start.epoch > 1 for start in starts.values())
    assert starts[1].high == 1  # the slow one itself is asked as a leaf now
    assert bench.subtree.heard(1, exited(0, 4), 0.5) == exited(0, 1)


def test_leaves_are_not_hedged() -> None:
    assert Bench(4, 4).subtree.next_deadline_s() is None


def test_unreached_child_is_not_started_and_its_subtree_is_taken_over() -> None:
    bench = Bench(7, 2)
    bench.opened()
    bench.subtree.lost(1, "connection refused", False, 0.01)
    assert bench.decided == {0: outcomes.unreachable("connection refused")}
    assert bench.ranges() == [(1, 3), (3, 4)]
    # Nobody can have asked the heirs either.
    bench.subtree.lost(4, "connection refused", False, 0.02)
    assert bench.decided[3] == outcomes.unreachable("connection refused")


def test_whether_a_child_was_silent_goes_with_the_next_question() -> None:
    for silent in (False, True):
        bench = Bench(7, 2)
        bench.subtree.heard(1, ACCEPTED, 0.01)
        bench.effects.clear()
        bench.subtree.lost(1, "no answer for 15 s", True, 15.0, silent)
        assert [e.silent for e in bench.effects if isinstance(e, events.OpenChild)] == [silent]


def test_heir_of_a_slow_child_is_judged_when_the_slow_one_is() -> None:
    for reached, kind in ((False, outcomes.NOT_STARTED), (True, outcomes.LOST)):
        bench = Bench(7, 2)
        bench.subtree.heard(2, ACCEPTED, 0.01)
        bench.subtree.tick(1.0)
        heir = next(c.number for c in bench.subtree.children.values() if (c.low, c.high) == (3, 4))
        bench.subtree.lost(heir, "connection refused", False, 1.1)
        assert not bench.decided
        assert not bench.subtree.complete
        if reached:
            bench.subtree.heard(1, ACCEPTED, 2.0)
        else:
            bench.subtree.lost(1, "no answer", False, 5.0)
        assert bench.decided[3].kind == kind


def test_lost_child_is_asked_to_attach_and_then_given_up() -> None:
    bench = Bench(7, 2)
    bench.opened()
    bench.subtree.heard(1, ACCEPTED, 0.1)
    bench.subtree.lost(1, "reset", True, 1.0)
    ((number, start),) = bench.opened().items()
    assert (start.low, start.high, start.attach_only) == (0, 4, True)
    assert start.epoch > 1
    bench.subtree.lost(number, "connection refused", False, 1.1)
    assert bench.decided == {0: outcomes.lost("reset")}
    again = list(bench.opened().values())
    assert [(s.low, s.high, s.attach_only) for s in again] == [(1, 3, False), (3, 4, False)]
    assert all(s.epoch > start.epoch for s in again)


def test_child_that_never_answered_may_start_it_when_asked_again() -> None:
    bench = Bench(2, 2)
    bench.opened()
    bench.subtree.lost(1, "reset", True, 0.1)
    ((_, start),) = bench.opened().items()
    assert not start.attach_only


def test_child_that_is_lost_over_and_over_is_given_up() -> None:
    bench = Bench(1, 2)
    number = 1
    bench.opened()
    for _ in range(LOSSES_MAX):
        bench.subtree.heard(number, RanksStarted(((0, 1),)), 0.1)
        bench.subtree.lost(number, "reset", True, 0.1)
        ((number, _),) = bench.opened().items()
    bench.subtree.heard(number, ACCEPTED, 0.1)
    bench.subtree.lost(number, "reset", True, 0.1)
    assert bench.decided[0].kind == outcomes.LOST
    assert bench.subtree.complete


def test_a_child_that_is_upgraded_while_it_is_asked_again_is_asked_once_more() -> None:
    bench = Bench(1, 2)
    bench.opened()
    bench.subtree.heard(1, ACCEPTED, 0.1)
    number = 1
    for _ in range(LOSSES_MAX):
        bench.subtree.lost(number, "the connection ended", True, 0.2)
        ((number, start),) = bench.opened().items()
        assert start.attach_only
    bench.subtree.lost(number, "the connection ended", True, 0.2)
    assert bench.decided[0].kind == outcomes.LOST


def test_a_child_that_is_silent_when_it_is_asked_again_is_lost() -> None:
    bench = Bench(1, 2)
    bench.opened()
    bench.subtree.heard(1, ACCEPTED, 0.1)
    bench.subtree.lost(1, "the connection ended", True, 0.2)
    ((number, _),) = bench.opened().items()
    bench.subtree.lost(number, "no answer", True, 15.2, silent=True)
    assert bench.decided[0].kind == outcomes.LOST


def test_ranks_that_ended_are_never_started_afresh() -> None:
    bench = Bench(7, 2)
    bench.opened()
    bench.subtree.heard(1, exited(1, 2), 0.1)
    bench.subtree.lost(1, "reset", True, 0.2)
    ((number, _),) = bench.opened().items()
    bench.subtree.lost(number, "refused", False, 0.2)
    starts = {start.low: start for start in bench.opened().values()}
    assert starts[1].attach_only
    assert not starts[3].attach_only


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (frames.REFUSED_DENIED, outcomes.DENIED),
        (frames.REFUSED_BUSY, outcomes.NOT_STARTED),
        (frames.REFUSED_UNKNOWN, outcomes.LOST),
    ],
)
def test_refused(code: int, kind: int) -> None:
    bench = Bench(7, 2)
    bench.opened()
    bench.subtree.heard(1, Refused(code, "because"), 0.1)
    assert bench.decided == {0: Outcome(kind, 0, "because")}
    assert bench.ranges() == [(1, 3), (3, 4)]


def test_child_of_a_higher_epoch_is_left_to_its_parent() -> None:
    bench = Bench(7, 2)
    bench.opened()
    bench.subtree.heard(1, Refused(frames.REFUSED_STALE, "another", 9), 0.1)
    assert not bench.decided
    assert bench.ranges() == []


def test_without_a_parent_nothing_is_decided() -> None:
    bench = Bench(7, 2)
    bench.opened()
    bench.subtree.active = False
    bench.subtree.lost(1, "reset", True, 0.1)
    bench.subtree.tick(9.0)
    assert bench.subtree.next_deadline_s() is None
    assert not bench.decided
    assert bench.ranges() == []
    bench.subtree.resync(1000, 7, [], 10.0)
    starts = list(bench.opened().values())
    assert {(s.low, s.high) for s in starts} == {(0, 4), (4, 7)}
    assert all(start.epoch == 1000 for start in starts)


def test_resync_covers_what_nobody_holds_and_disturbs_nobody_else() -> None:
    bench = Bench(15, 2)
    bench.subtree.heard(2, ACCEPTED, 0.01)
    bench.subtree.tick(1.0)  # rank 0's children are taken over: [1, 5) and [5, 8)
    held = {(c.low, c.high): c.number for c in bench.subtree.children.values()}
    assert set(held) == {(0, 1), (1, 5), (5, 8), (8, 15)}
    for number in held.values():
        bench.subtree.heard(number, ACCEPTED, 1.1)
    bench.subtree.active = False
    bench.subtree.lost(held[(5, 8)], "reset", True, 2.0)
    bench.effects.clear()
    bench.subtree.resync(10**6, 15, [], 3.0)
    resynced = [e.child for e in bench.effects if isinstance(e, events.ToChild)]
    assert sorted(resynced) == sorted(number for where, number in held.items() if where != (5, 8))
    assert bench.ranges() == [(5, 8)]


def test_resync_to_a_smaller_range_releases_the_rest() -> None:
    bench = Bench(7, 2)
    bench.effects.clear()
    bench.subtree.resync(500, 0, [], 1.0)
    assert [frame for _, frame in bench.sent()] == [frames.Release(), frames.Release()]
    assert not bench.subtree.children


def test_what_a_child_says_before_it_answers_a_resync_is_of_the_time_before() -> None:
    bench = Bench(1, 2)
    bench.subtree.heard(1, RanksStarted(((0, 1),)), 0.1)
    bench.subtree.resend([0])
    bench.subtree.resend([0])
    assert [frame for _, frame in bench.sent()] == [frames.Resync(1)]
    assert bench.subtree.heard(1, exited(0, 1), 0.2) is None
    bench.subtree.heard(1, ACCEPTED, 0.3)
    assert bench.subtree.heard(1, exited(0, 1), 0.4) == exited(0, 1)


def test_after_kill_nothing_new_is_started() -> None:
    bench = Bench(7, 2)
    bench.opened()
    bench.subtree.send(frames.Kill(False))
    bench.subtree.lost(1, "connection refused", False, 0.1)
    assert all(start.attach_only for start in bench.opened().values())


def test_later_children_get_what_earlier_ones_got() -> None:
    stdin = Broadcast()
    bench = Bench(3, 1, stdin)
    stdin.append(0, b"abc", True)
    bench.subtree.send(frames.Go())
    bench.effects.clear()
    bench.subtree.lost(1, "refused", False, 0.1)
    assert [frame for _, frame in bench.sent()] == [
        frames.Stdin(0, b"abc", False),
        frames.Stdin(3, b"", True),
        frames.Go(),
    ]


def test_acknowledgements_go_to_who_holds_the_rank_in_frames_of_bounded_size() -> None:
    bench = Bench(40_000, 2)
    bench.effects.clear()
    bench.subtree.acknowledge((rank, 1, 7) for rank in range(40_000))
    told = bench.sent()
    entries = {1: [], 2: []}  # type: dict[int, list[tuple[int, int, int]]]
    for number, frame in told:
        assert isinstance(frame, frames.Ack)
        frames.encode(1, frame)
        entries[number] += frame.entries
    assert [entry[0] for entry in entries[1]] == list(range(20_000))
    assert [entry[0] for entry in entries[2]] == list(range(20_000, 40_000))


def test_when_the_turns_are_used_up_the_rest_is_lost() -> None:
    bench = Bench(100, 1)
    child = bench.subtree.children[1]
    child.turn = tree.turns(100, 100, 1)[0] - 1
    bench.subtree.lost(1, "reset", True, 0.1)
    assert sorted(bench.decided) == list(range(100))
    assert {outcome.kind for outcome in bench.decided.values()} == {outcomes.LOST}


def test_large_jobs_take_time_in_proportion() -> None:
    bench = Bench(60_000, 16)
    ranks = [child.low for child in bench.subtree.children.values()]
    for number in range(1, 17):
        bench.subtree.lost(number, "connection refused", False, 0.01)
    assert sorted(bench.decided) == ranks
    assert len(bench.subtree.children) == 256
