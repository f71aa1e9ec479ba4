"""One node's machine: parents come and go, the process runs once, nothing is forgotten."""

from __future__ import annotations

from typing import TypeVar

import pytest

from gexec import limits
from gexec.core import events
from gexec.core.flow import LIFE_BYTES
from gexec.core.node import Node
from gexec.errors import ProtocolError
from gexec.wire import frames, jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDERR, STDOUT, Ended, Output, RanksStarted, Start
from gexec.wire.jobspec import JobSpec
from machines import validated  # noqa: F401  (a fixture that every test uses)

JOB_ID = bytes(16)
E = TypeVar("E")


def spec_of(ranks: int = 1, flags: int = jobspec.NO_STDIN, timeout_s: float = 0.0) -> JobSpec:
    return JobSpec(
        names=[b"n"] * ranks,
        addresses=[b""] * ranks,
        program=b"/x",
        argv=[b"x"],
        env=[],
        fanout=2,
        flags=flags,
        timeout_s=timeout_s,
        window=limits.WINDOW_MIN_BYTES,
    )


def start(epoch: int, low: int = 0, high: int = 1) -> Start:
    return Start(epoch, low, high, b"c", b"b")


def node_of(spec: JobSpec, epoch: int = 1) -> tuple[Node, list[events.Effect]]:
    node = Node(job_id=JOB_ID, spec=spec, start=start(epoch, 0, spec.ranks), parent=1)
    return node, node.begin(0.0)


def of(kind: type[E], effects: list[events.Effect]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def told(effects: list[events.Effect], parent: int = 1) -> list[frames.Frame]:
    return [e.frame for e in effects if isinstance(e, events.ToParent) and e.parent == parent]


def run(node: Node, *happened: events.Event, now_s: float = 0.1) -> list[events.Effect]:
    effects: list[events.Effect] = []
    for event in happened:
        effects += node.handle(event, now_s)
    return effects


def ended(node: Node, status: int = 0) -> list[events.Effect]:
    return run(
        node,
        events.TaskEnded(outcomes.exited(status)),
        events.OutputClosed(STDOUT),
        events.OutputClosed(STDERR),
    )


def test_leaf_reports_everything_at_once_when_it_is_over() -> None:
    node, effects = node_of(spec_of())
    assert effects == [events.RunTask()]
    assert run(node, events.TaskStarted(), events.OutputRead(STDOUT, b"hello\n")) == []
    assert told(ended(node, 7)) == [
        RanksStarted(((0, 1),)),
        Output(((0, 1),), STDOUT, 0, b"hello\n"),
        Ended(((0, 1),), outcomes.exited(7), 6, 0),
    ]
    effects = run(node, events.ParentFrame(1, frames.Close()))
    assert of(events.Finish, effects)
    assert node.finished


def test_what_is_held_goes_up_after_a_moment() -> None:
    node, _ = node_of(spec_of())
    run(node, events.TaskStarted(), now_s=1.0)
    assert node.next_deadline_s() == 1.0 + limits.GATHER_MAX_S  # that it runs is nobody's hurry
    run(node, events.OutputRead(STDOUT, b"a"), now_s=1.0)
    at_s = node.next_deadline_s()
    assert at_s is not None
    assert at_s < 1.0 + 2 * limits.GATHER_S
    frames_told = told(node.handle(events.Tick(), at_s))
    assert frames_told == [RanksStarted(((0, 1),)), Output(((0, 1),), STDOUT, 0, b"a")]
    assert node.next_deadline_s() is None


def test_inner_node_accepts_at_once() -> None:
    _, effects = node_of(spec_of(5))
    assert told(effects) == [frames.Accepted(JOB_ID)]
    assert [(e.start.low, e.start.high) for e in of(events.OpenChild, effects)] == [(1, 3), (3, 5)]


def test_full_window_stops_reading_until_acknowledged() -> None:
    node, _ = node_of(spec_of())
    effects = run(node, events.TaskStarted(), events.OutputRead(STDOUT, b"x" * limits.WINDOW_MIN_BYTES))
    assert of(events.ReadOutput, effects) == [events.ReadOutput(STDOUT, False)]
    acknowledged = frames.Ack(((0, STDOUT, 100),))
    assert of(events.ReadOutput, run(node, events.ParentFrame(1, acknowledged))) == [
        events.ReadOutput(STDOUT, True)
    ]
    assert node.retained_bytes == limits.WINDOW_MIN_BYTES - 100


def test_new_parent_gets_all_that_was_not_acknowledged() -> None:
    node, _ = node_of(spec_of())
    run(node, events.TaskStarted(), events.OutputRead(STDOUT, b"abc"), events.OutputRead(STDOUT, b"def"))
    run(node, events.ParentFrame(1, frames.Ack(((0, STDOUT, 3),))))
    ended(node)
    run(node, events.ParentLost(1, "gone"))
    assert told(run(node, events.ParentFrame(2, start(5))), 2) == [
        frames.Accepted(JOB_ID),
        RanksStarted(((0, 1),)),
        Output(((0, 1),), STDOUT, 3, b"def"),
        Ended(((0, 1),), outcomes.exited(0), 6, 0),
    ]


def test_parent_with_a_higher_epoch_takes_the_node_and_the_old_one_is_told() -> None:
    node, _ = node_of(spec_of())
    effects = run(node, events.ParentFrame(2, start(2)))
    (refused,) = told(effects, 1)
    assert isinstance(refused, frames.Refused)
    assert refused.code == frames.REFUSED_STALE
    assert told(effects, 2) == [frames.Accepted(JOB_ID)]
    assert not of(events.RunTask, effects)
    assert run(node, events.ParentFrame(1, frames.Kill(True))) == []
    assert run(node, events.ParentLost(1, "gone")) == []
    assert node.parent == 2


@pytest.mark.parametrize("epoch", [1, 3])
def test_parent_with_no_higher_epoch_is_refused(epoch: int) -> None:
    node, _ = node_of(spec_of(), epoch=3)
    (refused,) = told(run(node, events.ParentFrame(2, start(epoch))), 2)
    assert isinstance(refused, frames.Refused)
    assert (refused.code, refused.epoch) == (frames.REFUSED_STALE, 3)
    assert node.parent == 1


def test_orphan_waits_and_then_ends_its_process() -> None:
    node, _ = node_of(spec_of())
    run(node, events.TaskStarted())
    assert run(node, events.ParentLost(1, "gone"), now_s=5.0) == []
    assert node.next_deadline_s() == 5.0 + limits.ORPHAN_GRACE_S
    effects = run(node, events.Tick(), now_s=5.0 + limits.ORPHAN_GRACE_S)
    assert effects == [events.KillTask(False)]
    (refused,) = told(run(node, events.ParentFrame(2, start(9))), 2)
    assert isinstance(refused, frames.Refused)
    assert refused.code == frames.REFUSED_UNKNOWN
    assert of(events.Finish, run(node, events.TaskEnded(outcomes.killed(15))))


def test_released_node_waits_for_another_parent() -> None:
    node, _ = node_of(spec_of())
    run(node, events.ParentFrame(1, frames.Release()), now_s=1.0)
    assert node.parent is None
    assert node.next_deadline_s() == 1.0 + limits.ORPHAN_GRACE_S
    run(node, events.ParentFrame(2, start(2)))
    assert node.next_deadline_s() is None


def test_close_ends_the_process_and_then_the_node() -> None:
    node, _ = node_of(spec_of(3))
    effects = run(node, events.TaskStarted(), events.ParentFrame(1, frames.Close()))
    assert [e.frame for e in of(events.ToChild, effects)] == [frames.Close(), frames.Close()]
    assert of(events.KillTask, effects) == [events.KillTask(False)]
    assert not node.finished
    assert of(events.Finish, run(node, events.TaskEnded(outcomes.killed(15))))


def test_denied_may_mean_that_it_ran_if_others_may_have_asked() -> None:
    for epoch, kind in ((1, outcomes.DENIED), (2, outcomes.LOST)):
        node, _ = node_of(spec_of(), epoch=epoch)
        (frame,) = told(run(node, events.TaskEnded(outcomes.denied("replayed"))))
        assert isinstance(frame, Ended)
        assert (frame.outcome.kind, frame.outcome.text) == (kind, "replayed")


def test_strict_job_waits_for_go_and_says_again_that_it_is_ready() -> None:
    node, effects = node_of(spec_of(flags=jobspec.STRICT | jobspec.NO_STDIN))
    assert effects == [events.CheckTask()]
    run(node, events.TaskReady())
    run(node, events.ParentLost(1, "gone"))
    effects = run(node, events.ParentFrame(2, start(2)), now_s=9.0)
    effects += run(node, events.Tick(), now_s=9.0 + limits.GATHER_MAX_S)
    assert frames.Ready(((0, 1),)) in told(effects, 2)
    assert of(events.RunTask, run(node, events.ParentFrame(2, frames.Go()))) == [events.RunTask()]
    assert of(events.RunTask, run(node, events.ParentFrame(2, frames.Go()))) == []


def test_strict_job_that_is_killed_first_never_starts() -> None:
    node, _ = node_of(spec_of(flags=jobspec.STRICT | jobspec.NO_STDIN))
    (frame,) = told(run(node, events.ParentFrame(1, frames.Kill(False))))
    assert isinstance(frame, Ended)
    assert frame.outcome.kind == outcomes.NOT_STARTED
    assert run(node, events.TaskReady(), events.ParentFrame(1, frames.Go())) == []


def test_detached_process_is_let_go() -> None:
    node, _ = node_of(spec_of(flags=jobspec.DETACHED))
    effects = run(node, events.TaskStarted())
    assert of(events.ForgetTask, effects)
    assert Ended(((0, 1),), outcomes.exited(0), 0, 0) in told(effects)
    assert not of(events.KillTask, run(node, events.ParentFrame(1, frames.Close())))


def test_time_out() -> None:
    node, _ = node_of(spec_of(timeout_s=2.0))
    run(node, events.TaskStarted(), now_s=1.0)
    node.handle(events.Tick(), 1.1)
    assert node.next_deadline_s() == 3.0
    assert of(events.KillTask, run(node, events.Tick(), now_s=3.0)) == [events.KillTask(False)]
    effects = run(
        node,
        events.TaskEnded(outcomes.killed(15), asked=True),
        events.OutputClosed(STDOUT),
        events.OutputClosed(STDERR),
        now_s=3.1,
    )
    (frame,) = [f for f in told(effects) if isinstance(f, Ended)]
    assert (frame.outcome.kind, frame.outcome.value) == (outcomes.TIMED_OUT, 15)


def test_a_process_that_had_ended_by_itself_is_not_timed_out() -> None:
    """The kill was on its way when the news of the end was."""
    node, _ = node_of(spec_of(timeout_s=2.0))
    run(node, events.TaskStarted(), now_s=1.0)
    assert of(events.KillTask, run(node, events.Tick(), now_s=3.0))
    assert Ended(((0, 1),), outcomes.exited(0), 0, 0) in told(ended(node))


def test_an_acknowledgement_of_a_former_life_breaks_no_protocol() -> None:
    """Its gexecd was started again: the rank is lost here, and what it wrote before is acknowledged now."""
    node, _ = node_of(spec_of(), epoch=9)
    run(node, events.TaskEnded(outcomes.denied("issued before this gexecd started")))
    assert run(node, events.ParentFrame(1, frames.Ack(((0, STDOUT, 65_536),)))) == []


def draining(unread: tuple[int, int] = (0, 0)) -> tuple[Node, float]:
    """Return a node whose process has ended, but whose stdout is held, and when that has its deadline."""
    node, _ = node_of(spec_of())
    run(
        node,
        events.TaskStarted(),
        events.TaskEnded(outcomes.exited(0), unread=unread),
        events.OutputClosed(STDERR),
        now_s=1.0,
    )
    node.handle(events.Tick(), 1.1)
    at_s = node.next_deadline_s()
    assert at_s is not None
    return node, at_s


def test_output_that_others_hold_is_read_and_then_cut_and_that_is_no_success() -> None:
    node, at_s = draining()
    effects = run(node, events.Tick(), now_s=at_s)
    assert of(events.DrainOutput, effects)
    assert not of(events.CloseOutput, effects)
    effects = run(node, events.OutputRead(STDOUT, b"late"), events.OutputDrained(), now_s=at_s)
    assert of(events.CloseOutput, effects)
    (frame,) = [frame for frame in told(effects) if isinstance(frame, Ended)]
    assert (frame.outcome.kind, frame.outcome.value, frame.outcome.cut) == (outcomes.EXITED, 0, True)
    assert frame.stdout_length == 4
    assert not frame.outcome.ok
    assert frame.outcome.exit_status == 255


def test_what_the_deadline_finds_unread_is_read_first_and_is_whole() -> None:
    """The pipe was not read before (a pause); an acknowledgement has just made room."""
    node, at_s = draining()
    run(node, events.Tick(), now_s=at_s)
    effects = run(
        node,
        events.OutputRead(STDOUT, b"rest"),
        events.OutputClosed(STDOUT),
        events.OutputDrained(),
        now_s=at_s,
    )
    assert Ended(((0, 1),), outcomes.exited(0), 4, 0) in told(effects)


def test_what_the_process_wrote_waits_for_a_slow_reader_however_long() -> None:
    node, at_s = draining(unread=(5, 0))
    for _ in range(3):
        run(node, events.Tick(), events.OutputDrained(), now_s=at_s)
        later_s = node.next_deadline_s()
        assert later_s is not None
        assert later_s >= at_s
        at_s = later_s


@pytest.mark.parametrize("frame", [frames.Signal(2), frames.Kill(True), frames.Close()])
def test_whoever_ends_the_job_ends_what_a_command_left_behind_too(frame: frames.Frame) -> None:
    node, _ = draining()
    effects = run(node, events.ParentFrame(1, frame))
    assert any(isinstance(effect, (events.SignalTask, events.KillTask)) for effect in effects)


def test_how_many_hold_the_output_is_told() -> None:
    node, at_s = draining()
    effects = run(node, events.TaskLeft(2), now_s=at_s - 1)
    assert of(events.DrainOutput, effects)
    effects = run(node, events.OutputDrained(), now_s=at_s - 1)
    (frame,) = [frame for frame in told(effects) if isinstance(frame, Ended)]
    assert (
        frame.outcome.describe() == "exited 0, output cut: 2 processes still hold the output; not waited for"
    )


def test_whoever_writes_without_end_does_not_hold_the_job_up() -> None:
    """All of the process itself was read: what is left in a full window is of others."""
    node, at_s = draining()
    run(node, events.OutputRead(STDOUT, bytes(limits.WINDOW_MIN_BYTES)), now_s=at_s)
    effects = run(node, events.Tick(), events.OutputDrained(), now_s=at_s)
    (frame,) = [frame for frame in told(effects) if isinstance(frame, Ended)]
    assert frame.outcome.cut


def test_stdin_is_fed_once_whatever_comes_again() -> None:
    node, _ = node_of(spec_of(flags=0))
    run(node, events.TaskStarted())
    effects = run(node, events.ParentFrame(1, frames.Stdin(0, b"abcdef")))
    assert of(events.WriteStdin, effects) == [events.WriteStdin(b"abcdef")]
    run(node, events.ParentFrame(2, start(2)))
    effects = run(
        node,
        events.ParentFrame(2, frames.Stdin(0, b"abcdefgh")),
        events.ParentFrame(2, frames.Stdin(8, b"", True)),
        events.ParentFrame(2, frames.Stdin(8, b"", True)),
    )
    assert of(events.WriteStdin, effects) == [events.WriteStdin(b"gh")]
    assert of(events.CloseStdin, effects) == [events.CloseStdin()]


def test_stdin_is_told_in_steps_and_as_done_when_nobody_reads() -> None:
    node, _ = node_of(spec_of(flags=0))
    run(node, events.TaskStarted(), events.ParentFrame(1, frames.Stdin(0, b"x" * 140_000)))
    assert told(run(node, events.StdinWritten(1000))) == []
    assert frames.StdinTaken(140_000) in told(run(node, events.StdinWritten(139_000)))
    assert frames.StdinTaken(frames.OFFSET_ALL) in told(run(node, events.StdinBroken()))


def test_stdin_beyond_all_windows_ends_this_job_only() -> None:
    node, _ = node_of(spec_of(3, flags=0))
    most = 2 * limits.STDIN_WINDOW_BYTES
    run(node, events.TaskStarted(), events.ParentFrame(1, frames.Stdin(0, bytes(most))))
    effects = run(node, events.ParentFrame(1, frames.Stdin(most, b"x")))
    (refused,) = [frame for frame in told(effects) if isinstance(frame, frames.Refused)]
    assert "are not taken" in refused.text
    assert refused.code == frames.REFUSED_UNKNOWN  # no outcome that another node could have
    assert of(events.KillTask, effects) == [events.KillTask(False)]
    assert [e.frame for e in of(events.ToChild, effects)] == [frames.Close()] * 2
    assert of(events.Finish, run(node, events.TaskEnded(outcomes.killed(15))))


def lost(effects: list[events.Effect], parent: int = 1) -> list[str]:
    """Return why this node's process is reported as lost."""
    return [
        frame.outcome.text
        for frame in told(effects, parent)
        if isinstance(frame, Ended) and frame.outcome.kind == outcomes.LOST
    ]


# What a captured ancestor has sent, and what its next, honest parent sends from which offset.
CONTRADICTIONS = {
    "bytes": (frames.Stdin(0, b"evil bytes"), frames.Stdin(0, b"good bytes of the client")),
    "too much": (frames.Stdin(0, b"good bytes, and more"), frames.Stdin(10, b"", True)),
    "an end": (frames.Stdin(0, b"good bytes", True), frames.Stdin(0, b"good bytes, and more")),
    "too little": (frames.Stdin(0, b"good"), frames.Stdin(10, b" of the client")),
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_attack_125_stdin_that_contradicts_another_parents_loses_the_rank_only(kind: str) -> None:
    evil, good = CONTRADICTIONS[kind]
    node, _ = node_of(spec_of(flags=0))
    run(node, events.TaskStarted(), events.ParentFrame(1, evil), events.ParentFrame(2, start(2)))
    effects = run(node, events.ParentFrame(2, good))
    assert lost(effects, 2) == ["its stdin does not fit together"]
    assert of(events.KillTask, effects) == [events.KillTask(True)]
    assert of(events.DropStdin, effects)
    assert of(events.WriteStdin, effects) == []
    assert told(ended(node), 2) == []  # it is reported once


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_attack_125_ranks_below_find_out_by_themselves(kind: str) -> None:
    evil, good = CONTRADICTIONS[kind]
    node, _ = node_of(spec_of(2, flags=0))
    run(node, events.TaskStarted(), events.ParentFrame(1, evil), events.ParentFrame(2, start(2, 0, 2)))
    effects = run(node, events.ParentFrame(2, good))
    passed = [e.frame for e in of(events.ToChild, effects) if isinstance(e.frame, frames.Stdin)]
    assert passed == [good]  # unchanged, with the gap that it may have


def test_attack_125_a_parent_whose_own_parent_changed_unseen_leaves_a_gap() -> None:
    node, _ = node_of(spec_of(flags=0))
    run(node, events.TaskStarted(), events.ParentFrame(1, frames.Stdin(0, b"abc")))
    effects = run(node, events.ParentFrame(1, frames.Stdin(9, b"d")))
    assert lost(effects) == ["its stdin does not fit together"]


def test_a_process_that_reads_no_more_may_miss_stdin() -> None:
    node, _ = node_of(spec_of(flags=0))
    run(node, events.TaskStarted(), events.ParentFrame(1, frames.Stdin(0, b"abc")), events.StdinBroken())
    effects = run(node, events.ParentFrame(2, start(2)), events.ParentFrame(2, frames.Stdin(9, b"x", True)))
    assert lost(effects, 2) == []
    assert of(events.WriteStdin, effects) == []


def test_the_same_stdin_again_is_no_contradiction_however_it_is_cut() -> None:
    node, _ = node_of(spec_of(flags=0))
    run(node, events.TaskStarted())
    for offset, data in ((0, b"abc"), (3, b"defg"), (7, b"h")):
        run(node, events.ParentFrame(1, frames.Stdin(offset, data)))
    effects = run(node, events.ParentFrame(2, start(2)), events.ParentFrame(2, frames.Stdin(2, b"cd")))
    # Another parent again, before the second one has sent all that the first one had.
    effects += run(node, events.ParentFrame(3, start(3)), events.ParentFrame(3, frames.Stdin(1, b"bcdefghi")))
    assert of(events.WriteStdin, effects) == [events.WriteStdin(b"i")]
    assert of(events.KillTask, effects) == []
    effects = run(node, events.ParentFrame(4, start(4)), events.ParentFrame(4, frames.Stdin(0, b"abcdefgX")))
    assert lost(effects, 4) == ["its stdin does not fit together"]


def test_attack_129_output_that_an_ancestor_forged_loses_the_rank_only() -> None:
    node, _ = node_of(spec_of())
    run(node, events.TaskStarted(), events.OutputRead(STDOUT, b"abc"))
    effects = run(node, events.ParentFrame(1, frames.Ack(((0, STDOUT, 4),))))
    assert lost(effects) == ["the client acknowledges output that it did not write"]
    assert of(events.KillTask, effects) == [events.KillTask(True)]
    assert told(run(node, events.ParentFrame(1, frames.Ack(((0, STDOUT, 4),))))) == []


def test_frame_that_no_parent_sends_is_refused() -> None:
    node, _ = node_of(spec_of())
    with pytest.raises(ProtocolError, match="Done"):
        run(node, events.ParentFrame(1, frames.Done()))
    with pytest.raises(ProtocolError, match="without stdin"):
        run(node, events.ParentFrame(1, frames.Stdin(0, b"x")))


def test_attack_89_whoever_is_closed_asks_nobody_again() -> None:
    node, _ = node_of(spec_of(4))
    run(node, events.TaskStarted(), events.ParentFrame(1, frames.Close()))
    effects = run(node, events.ParentFrame(1, frames.Resync(2**32 - 1)))
    assert effects == []


def test_what_was_not_started_is_lost_once_another_parent_comes() -> None:
    """The former parent may have asked the rank itself, when it heard nothing of this node."""
    node, effects = node_of(spec_of(3))
    [child, *_] = of(events.OpenChild, effects)
    run(node, events.ChildLost(child.child, "no answer within 5 s", False))
    effects = run(node, events.ParentLost(1, "reset"), events.ParentFrame(2, start(9, 0, 3)))
    effects += node.handle(events.Tick(), 60.0)
    ends = [frame for frame in told(effects, 2) if isinstance(frame, Ended) and frame.ranks[0][0] == 1]
    assert [end.outcome for end in ends] == [outcomes.lost("no answer within 5 s")]
    assert "decided: lost: no answer within 5 s" in node.story(1)


def test_what_was_not_started_stays_so_for_the_same_parent() -> None:
    node, effects = node_of(spec_of(3))
    [child, *_] = of(events.OpenChild, effects)
    run(node, events.ChildLost(child.child, "no answer within 5 s", False))
    run(node, events.ParentFrame(1, start(9, 0, 3)))
    assert "decided: not started: no answer within 5 s" in node.story(1)


# -- a process that has outlived its relay ------------------------------------------------------


def resumed(spec: JobSpec, life: int = 1, age_s: float = 60.0) -> tuple[Node, list[events.Effect]]:
    node = Node(job_id=JOB_ID, spec=spec, start=start(2), parent=1)
    return node, node.begin(100.0, life, age_s)


def test_its_output_continues_in_the_next_life_and_is_cut() -> None:
    node, effects = resumed(spec_of(flags=0))
    assert not of(events.RunTask, effects)
    effects = run(node, events.OutputRead(STDOUT, b"on"), now_s=100.1)
    ended = events.TaskEnded(outcomes.exited(0))
    closed = (events.OutputClosed(STDOUT), events.OutputClosed(STDERR))
    effects += run(node, ended, *closed, now_s=100.2)
    [output] = [frame for frame in told(effects) if isinstance(frame, Output)]
    assert (output.offset, output.data) == (LIFE_BYTES, b"on")
    [end] = [frame for frame in told(effects) if isinstance(frame, Ended)]
    assert (end.outcome.kind, end.outcome.value, end.outcome.cut) == (outcomes.EXITED, 0, True)
    assert "relay" in end.outcome.text
    assert (end.stdout_length, end.stderr_length) == (LIFE_BYTES + 2, LIFE_BYTES)


def test_it_is_given_no_stdin_a_second_time() -> None:
    node, effects = resumed(spec_of(flags=0))
    effects += run(node, events.ParentFrame(1, frames.Stdin(0, b"again", True)), now_s=100.1)
    assert not of(events.WriteStdin, effects)
    assert not of(events.CloseStdin, effects)
    assert not of(events.KillTask, effects)


def test_its_time_goes_on() -> None:
    node, _ = resumed(spec_of(timeout_s=90.0), age_s=60.0)
    assert node.next_deadline_s() == 130.0 or not of(events.KillTask, run(node, events.Tick(), now_s=129.0))
    assert of(events.KillTask, run(node, events.Tick(), now_s=130.0))


def test_acknowledgements_of_its_former_life_change_nothing() -> None:
    node, _ = resumed(spec_of())
    run(node, events.OutputRead(STDOUT, b"on"), now_s=100.1)
    effects = run(node, events.ParentFrame(1, frames.Ack(((0, STDOUT, 17),))), now_s=100.2)
    assert not of(events.KillTask, effects)
    assert node.retained_bytes == 2
