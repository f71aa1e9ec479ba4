"""Which ranks are reported as not responding, and when they are not any more."""

from __future__ import annotations

from gexec.core import events
from gexec.core.child import Child
from gexec.core.quiet import QuietRanks
from gexec.core.root import Root
from gexec.wire import frames, jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDOUT, Ended, Frame, NotResponding, Output, RanksStarted, Responding
from gexec.wire.jobspec import JobSpec
from machines import validated  # noqa: F401  (a fixture that every test uses)


class Above:
    """Takes what is reported."""

    def __init__(self) -> None:
        self.said: list[Frame] = []
        self.quiet = QuietRanks(self.said.append)
        #: Of rank 4 and the ranks 5 to 7 below it.
        self.child = Child(1, 4, 8, {4, 5, 6, 7}, 0, 0.0)

    def new(self) -> list[Frame]:
        said, self.said[:] = list(self.said), []
        return said


def test_a_silent_child_is_reported_once_until_it_is_heard() -> None:
    above = Above()
    above.quiet.child(above.child, True, 6.0)
    above.quiet.child(above.child, True, 7.0)
    assert above.new() == [NotResponding(((4, 5),))]
    above.quiet.child(above.child, False, 8.0)
    above.quiet.child(above.child, False, 9.0)
    assert above.new() == [Responding(((4, 5),))]


def test_what_comes_from_a_rank_shows_that_it_responds() -> None:
    above = Above()
    said = (RanksStarted(((5, 7),)), Output(((5, 7),), STDOUT, 0, b"x"), Responding(((5, 7),)))
    for at_s, frame in zip((6.0, 16.0, 26.0), said, strict=True):
        above.quiet.passed(NotResponding(((6, 7),)), at_s)
        above.quiet.passed(frame, at_s)
        assert above.new() == [NotResponding(((6, 7),)), Responding(((6, 7),))]


def test_an_outcome_is_report_enough() -> None:
    above = Above()
    above.quiet.passed(NotResponding(((4, 7),)), 6.0)
    above.quiet.passed(Ended(((4, 5),), outcomes.exited(0), 0, 0), 7.0)
    above.quiet.decided(5)
    assert above.new() == [NotResponding(((4, 7),))]
    assert above.quiet.ranks == {6}


def test_a_child_that_is_lost_after_its_rank_has_ended_leaves_nothing_behind() -> None:
    above = Above()
    above.quiet.child(above.child, True, 6.0)
    above.quiet.lost(above.child, 15.0)  # its own rank is asked again, or gets an outcome
    above.child.owes.discard(4)
    assert above.new() == [NotResponding(((4, 5),))]
    above.quiet.lost(above.child, 15.0)
    assert above.new() == [Responding(((4, 5),))]


def test_a_new_parent_is_told_everything_again() -> None:
    above = Above()
    above.quiet.passed(NotResponding(((4, 5), (6, 8))), 6.0)
    above.new()
    above.quiet.again()
    assert above.new() == [NotResponding(((4, 5), (6, 8)))]


def test_a_child_cannot_flood_its_ancestors() -> None:
    above = Above()
    for step in range(1000):
        above.quiet.passed(NotResponding(((4, 5),)), 6.0 + step / 1000)
        above.quiet.passed(Responding(((4, 5),)), 6.0 + step / 1000)
    assert len(above.new()) == 2


def test_a_child_speaks_only_of_ranks_below_it_and_also_of_those_that_have_ended() -> None:
    child = Above().child
    child.owes = {7}
    assert child.reported(NotResponding(((0, 6),))) == NotResponding(((4, 6),))
    assert child.reported(Responding(((9, 12),))) is None
    assert child.reported(RanksStarted(((4, 8),))) == RanksStarted(((7, 8),))


def test_the_root_tells_its_client() -> None:
    spec = JobSpec(
        names=[b"n"] * 2,
        addresses=[b""] * 2,
        program=b"/x",
        argv=[b"x"],
        env=[],
        flags=jobspec.NO_STDIN,
    )
    root = Root(job_id=bytes(16), spec=spec, credential=b"c", blob=b"b", client=9)
    root.begin(0.0)
    assert root.handle(events.ChildQuiet(1, True), 6.0) == [events.ToParent(9, NotResponding(((0, 1),)))]
    heard = root.handle(events.ChildFrame(1, RanksStarted(((0, 1),))), 7.0)
    assert heard == [
        events.ToParent(9, Responding(((0, 1),))),
        events.ToParent(9, RanksStarted(((0, 1),))),
    ]
    assert root.handle(events.ChildFrame(1, frames.NotResponding(((1, 2),))), 8.0) == []
