"""A process that stands still is given up; one of which nothing is expected is not."""

from __future__ import annotations

import pytest

from gexec import limits
from gexec.core import events
from gexec.core.node import Node
from gexec.core.stall import LOOK_S, Stall
from gexec.wire import frames, jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDOUT, Ended, Start, Stdin
from gexec.wire.jobspec import JobSpec
from machines import validated  # noqa: F401  (a fixture that every test uses)

STALL_S = 30.0


# -- the clock ------------------------------------------------------------------------------------


def test_the_clock_runs_while_something_is_expected_and_nothing_is_done() -> None:
    stall = Stall(STALL_S, 0.0)
    assert not stall.stands_still(0, expected=False, now_s=100.0)
    assert not stall.stands_still(0, expected=True, now_s=129.0)
    assert not stall.stands_still(1, expected=True, now_s=140.0)
    assert not stall.stands_still(1, expected=True, now_s=169.0)
    assert stall.stands_still(1, expected=True, now_s=170.0)
    assert stall.told(ended=False) == "took none of its input for 30 s: given up"
    assert stall.told(ended=True) == "did nothing for 30 s after the end of its input: given up"


def test_it_is_measured_once_a_second() -> None:
    stall = Stall(STALL_S, 5.0)
    assert not stall.look(5.9)
    assert stall.look(6.0)
    assert not stall.look(6.9)
    assert stall.look_s == 7.0


@pytest.mark.parametrize("signum", [19, 20, 21, 22])
def test_whom_the_user_has_stopped_is_not_expected_to_do_anything(signum: int) -> None:
    stall = Stall(STALL_S, 0.0)
    stall.signalled(signum)
    assert not stall.stands_still(0, expected=True, now_s=100.0)
    stall.signalled(18)
    assert not stall.stands_still(0, expected=True, now_s=129.0)
    assert stall.stands_still(0, expected=True, now_s=130.0)


def test_whoever_is_ended_must_end_within_the_grace_at_least() -> None:
    stall = Stall(2.0, 0.0)
    stall.end_requested(5.0)
    assert not stall.stands_still(0, expected=False, now_s=5.9)
    assert stall.stands_still(0, expected=False, now_s=6.0)
    assert stall.told(ended=False) == "did not end within 6 s: given up"


# -- in a node ------------------------------------------------------------------------------------


class Bench:
    """A node with one process whose pipe takes everything, and whose reading is up to the test."""

    def __init__(self, ranks: int = 1, flags: int = 0, stall_s: float = STALL_S) -> None:
        spec = JobSpec(
            names=[b"n"] * ranks,
            addresses=[b""] * ranks,
            program=b"/x",
            argv=[b"x"],
            env=[],
            flags=flags,
            fanout=1,
            stall_s=stall_s,
            window=limits.WINDOW_MIN_BYTES,
        )
        start = Start(1, 0, ranks, b"c", b"b")
        self.node = Node(job_id=bytes(16), spec=spec, start=start, parent=1)
        self.now_s = 0.0
        self.effects = self.node.begin(0.0)
        #: Bytes in the pipe that the process has not read.
        self.unread = 0
        #: Bytes that the pipe took.
        self.in_pipe = 0

    def happens(self, *happened: events.Event) -> None:
        for event in happened:
            self.effects += self.node.handle(event, self.now_s)

    def comes(self, data: bytes, eof: bool = False) -> None:
        """stdin comes, and the pipe takes it."""
        self.happens(events.ParentFrame(1, Stdin(self.in_pipe, data, eof)))
        if data:
            self.in_pipe += len(data)
            self.unread += len(data)
            self.happens(events.StdinWritten(len(data)))

    def passes(self, seconds: int) -> None:
        """Let so many seconds pass; every question is answered."""
        for _ in range(seconds):
            self.now_s += LOOK_S
            before = len(self.effects)
            self.happens(events.Tick())
            asked = [e for e in self.effects[before:] if isinstance(e, events.MeasureStdin)]
            assert len(asked) <= 1
            for _ in asked:
                self.happens(events.StdinMeasured(self.unread))

    @property
    def outcome(self) -> outcomes.Outcome | None:
        for effect in self.effects:
            if isinstance(effect, events.ToParent) and isinstance(effect.frame, Ended):
                return effect.frame.outcome
        return None


def test_whoever_takes_none_of_its_input_is_lost_at_once_and_killed() -> None:
    bench = Bench()
    bench.happens(events.TaskStarted())
    bench.comes(b"x" * 1000)
    bench.passes(29)
    assert bench.outcome is None
    bench.passes(2)
    assert bench.outcome == outcomes.lost("took none of its input for 30 s: given up")
    assert bench.effects.count(events.KillTask(True)) == 1
    assert events.CloseOutput() in bench.effects
    assert events.DropStdin() in bench.effects
    taken = [e.frame for e in bench.effects if isinstance(e, events.ToParent)][-1]
    assert taken == frames.StdinTaken(frames.OFFSET_ALL) or isinstance(taken, Ended)
    # The end of the process, whenever it comes, is nobody's business any more.
    told = len(bench.effects)
    bench.happens(events.OutputRead(STDOUT, b"late"), events.TaskEnded(outcomes.killed(9), True))
    assert len(bench.effects) == told
    # And nothing waits for it: the job can end here.
    bench.happens(events.ParentFrame(1, frames.Close()))
    assert bench.node.finished


def test_it_goes_on_passing_stdin_to_its_children() -> None:
    bench = Bench(ranks=2)
    bench.happens(events.TaskStarted(), events.ChildFrame(1, frames.Accepted(bytes(16))))
    bench.comes(b"x" * 1000)
    bench.passes(31)
    bench.happens(events.ChildFrame(1, frames.StdinTaken(1000)))
    told = [e.frame for e in bench.effects if isinstance(e, events.ToParent)]
    assert frames.StdinTaken(1000) in told
    before = len(bench.effects)
    bench.happens(events.ParentFrame(1, Stdin(1000, b"y" * 10, True)))
    assert bench.effects[before:] == [events.ToChild(1, Stdin(1000, b"y" * 10, True))]


def test_one_byte_taken_is_progress() -> None:
    bench = Bench()
    bench.happens(events.TaskStarted())
    bench.comes(b"x" * 1000)
    for _ in range(5):
        bench.passes(29)
        bench.unread -= 1
    assert bench.outcome is None


def test_output_is_progress() -> None:
    bench = Bench()
    bench.happens(events.TaskStarted())
    bench.comes(b"x" * 1000, eof=True)
    for _ in range(5):
        bench.passes(29)
        bench.happens(events.OutputRead(STDOUT, b"still here\n"))
    assert bench.outcome is None
    bench.passes(31)
    assert bench.outcome is not None


def test_whoever_gets_nothing_may_wait_for_ever() -> None:
    bench = Bench()
    bench.happens(events.TaskStarted())
    bench.passes(500)
    bench.comes(b"x")
    bench.unread = 0
    bench.passes(500)
    assert bench.outcome is None


def test_whoever_does_nothing_after_the_end_of_its_input_is_given_up() -> None:
    bench = Bench()
    bench.happens(events.TaskStarted())
    bench.comes(b"x", eof=True)
    bench.unread = 0
    bench.passes(32)
    assert bench.outcome == outcomes.lost("did nothing for 30 s after the end of its input: given up")


def test_whoever_reads_no_more_is_not_expected_to() -> None:
    bench = Bench()
    bench.happens(events.TaskStarted())
    bench.comes(b"x" * 1000)
    bench.happens(events.StdinBroken())
    bench.passes(500)
    assert bench.outcome is None


def test_a_client_that_does_not_read_is_not_the_fault_of_the_process() -> None:
    bench = Bench()
    bench.happens(events.TaskStarted(), events.OutputRead(STDOUT, b"x" * limits.WINDOW_MIN_BYTES))
    bench.comes(b"x" * 1000)
    bench.passes(500)
    assert bench.outcome is None
    bench.happens(events.ParentFrame(1, frames.Ack(((0, STDOUT, 1000),))))
    bench.passes(31)
    assert bench.outcome is not None


def test_a_start_that_hangs_is_given_up_too() -> None:
    bench = Bench()
    bench.comes(b"x" * 1000)
    bench.passes(31)
    assert bench.outcome == outcomes.lost("took none of its input for 30 s: given up")
    bench.happens(events.TaskStarted())
    bench.happens(events.ParentFrame(1, frames.Close()))
    assert bench.node.finished


def test_a_process_that_cannot_be_killed_does_not_hold_a_job_that_is_closed() -> None:
    bench = Bench()
    bench.happens(events.TaskStarted(), events.ParentFrame(1, frames.Close()))
    assert not bench.node.finished
    bench.passes(32)
    assert bench.node.finished


@pytest.mark.parametrize(("flags", "stall_s"), [(0, 0.0), (jobspec.NO_STDIN, STALL_S)])
def test_other_jobs_have_no_such_clock(flags: int, stall_s: float) -> None:
    bench = Bench(flags=flags, stall_s=stall_s)
    bench.happens(events.TaskStarted())
    if not flags:
        bench.comes(b"x", eof=True)
    bench.now_s = 1.0
    bench.happens(events.Tick())
    assert bench.node.next_deadline_s() is None
