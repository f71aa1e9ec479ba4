"""The root's machine: every rank one outcome, every byte once, and an end."""

from __future__ import annotations

import pytest

from gexec import limits
from gexec.core import events
from gexec.core.root import Root
from gexec.errors import ProtocolError
from gexec.wire import frames, jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDOUT, Ended, Output, RanksStarted, Ready
from gexec.wire.jobspec import JobSpec
from machines import validated  # noqa: F401  (a fixture that every test uses)

JOB_ID = bytes(16)
ACCEPTED = frames.Accepted(JOB_ID)


def root_of(ranks: int, flags: int = jobspec.NO_STDIN, fanout: int = 16) -> Root:
    spec = JobSpec(
        names=[b"n"] * ranks,
        addresses=[b""] * ranks,
        program=b"/x",
        argv=[b"x"],
        env=[],
        fanout=fanout,
        flags=flags,
    )
    root = Root(job_id=JOB_ID, spec=spec, credential=b"c", blob=b"b", client=9)
    effects = root.begin(0.0)
    assert told(effects) == [ACCEPTED]
    return root


def told(effects: list[events.Effect]) -> list[frames.Frame]:
    return [effect.frame for effect in effects if isinstance(effect, events.ToParent)]


def sent(effects: list[events.Effect]) -> list[frames.Frame]:
    return [effect.frame for effect in effects if isinstance(effect, events.ToChild)]


def hear(root: Root, child: int, frame: frames.Frame) -> list[events.Effect]:
    return root.handle(events.ChildFrame(child, frame), 0.1)


def client(root: Root, frame: frames.Frame) -> list[events.Effect]:
    return root.handle(events.ParentFrame(9, frame), 0.1)


def exited(low: int, high: int, length: int = 0) -> Ended:
    return Ended(((low, high),), outcomes.exited(0), length, 0)


def test_job_from_start_to_done() -> None:
    root = root_of(2)
    assert told(hear(root, 1, RanksStarted(((0, 1),)))) == [RanksStarted(((0, 1),))]
    assert told(hear(root, 1, RanksStarted(((0, 1),)))) == []
    frame = Output(((0, 1),), STDOUT, 0, b"hi")
    assert told(hear(root, 1, frame)) == [frame]
    assert told(hear(root, 1, exited(0, 1, 2))) == [exited(0, 1, 2)]
    effects = hear(root, 2, exited(1, 2))
    assert told(effects) == [exited(1, 2), frames.Done()]
    assert sent(effects) == [frames.Close(), frames.Close()]
    assert root.finished
    assert effects[-1] == events.Finish()


def test_what_comes_again_is_acknowledged_again() -> None:
    root = root_of(1)
    frame = Output(((0, 1),), STDOUT, 0, b"abcd")
    hear(root, 1, frame)
    assert sent(client(root, frames.Ack(((0, STDOUT, 3),)))) == [frames.Ack(((0, STDOUT, 3),))]
    effects = hear(root, 1, frame)
    assert told(effects) == []
    assert sent(effects) == [frames.Ack(((0, STDOUT, 3),))]


def test_gap_is_asked_for_once() -> None:
    root = root_of(1)
    assert sent(hear(root, 1, Output(((0, 1),), STDOUT, 5, b"x"))) == [frames.Resync(1)]
    assert sent(hear(root, 1, Output(((0, 1),), STDOUT, 6, b"y"))) == []
    hear(root, 1, ACCEPTED)
    whole = Output(((0, 1),), STDOUT, 0, b"12345xy")
    assert told(hear(root, 1, whole)) == [whole]


def test_unreachable_rank_ends_and_the_others_go_on() -> None:
    root = root_of(2)
    effects = root.handle(events.ChildLost(1, "connection refused", False), 0.1)
    (frame,) = told(effects)
    assert isinstance(frame, Ended)
    assert frame.outcome == outcomes.unreachable("connection refused")
    assert frames.Done() in told(hear(root, 2, exited(1, 2)))


@pytest.mark.parametrize("event", [events.ParentLost(9, "gone"), events.ParentFrame(9, frames.Close())])
def test_client_gone_ends_the_job(event: events.Event) -> None:
    root = root_of(3)
    effects = root.handle(event, 0.1)
    assert told(effects) == []
    assert sent(effects) == [frames.Close()] * 3
    assert root.finished


def test_signals_and_kill_go_down() -> None:
    root = root_of(2)
    assert sent(client(root, frames.Signal(2))) == [frames.Signal(2)] * 2
    assert sent(client(root, frames.Kill(True))) == [frames.Kill(True)] * 2


@pytest.mark.parametrize(
    "frame",
    [
        frames.Ack(((0, STDOUT, 1),)),
        frames.Ack(((5, STDOUT, 0),)),
        frames.Stdin(0, b"x"),
        frames.Resync(3),
    ],
)
def test_nonsense_of_a_client_is_refused(frame: frames.Frame) -> None:
    with pytest.raises(ProtocolError):
        client(root_of(2), frame)


def test_client_that_sends_more_stdin_than_it_may_is_refused() -> None:
    root = root_of(1, flags=0)
    most = 2 * limits.STDIN_WINDOW_BYTES
    client(root, frames.Stdin(0, bytes(most)))
    with pytest.raises(ProtocolError, match="are not taken"):
        client(root, frames.Stdin(most, b"x"))


def test_attack_129_nobody_takes_more_stdin_than_the_client_has_sent() -> None:
    root = root_of(2, flags=0)
    client(root, frames.Stdin(0, b"abc"))
    assert told(hear(root, 1, frames.StdinTaken(frames.OFFSET_ALL))) == []
    assert told(hear(root, 2, frames.StdinTaken(2**63))) == [frames.StdinTaken(3)]
    assert told(client(root, frames.Stdin(3, b"de", True))) == [frames.StdinTaken(5)]


def test_stdin_goes_down_and_what_all_have_taken_comes_back() -> None:
    root = root_of(2, flags=0)
    assert sent(client(root, frames.Stdin(0, b"abc", True))) == [frames.Stdin(0, b"abc", True)] * 2
    assert told(hear(root, 1, frames.StdinTaken(3))) == []
    assert told(hear(root, 2, frames.StdinTaken(2))) == [frames.StdinTaken(2)]
    assert frames.StdinTaken(3) in told(hear(root, 2, exited(1, 2)))
    effects = hear(root, 1, exited(0, 1))
    assert frames.StdinTaken(frames.OFFSET_ALL) in told(effects)


STRICT = jobspec.STRICT | jobspec.NO_STDIN


def test_strict_job_goes_when_all_are_ready() -> None:
    root = root_of(3, STRICT)
    assert sent(hear(root, 1, Ready(((0, 1),)))) == []
    assert sent(hear(root, 1, Ready(((0, 1),)))) == []
    assert sent(hear(root, 2, Ready(((1, 2),)))) == []
    assert sent(hear(root, 3, Ready(((2, 3),)))) == [frames.Go()] * 3


def test_strict_job_starts_nowhere_if_one_cannot() -> None:
    root = root_of(3, STRICT)
    hear(root, 1, Ready(((0, 1),)))
    failed = Ended(((1, 2),), outcomes.not_started("no such file", 2), 0, 0)
    assert told(hear(root, 2, failed)) == [failed]
    effects = hear(root, 3, Ready(((2, 3),)))
    assert frames.Go() not in sent(effects)
    ended, done = told(effects)
    assert isinstance(ended, Ended)
    assert ended.ranks == ((0, 1), (2, 3))
    assert ended.outcome.kind == outcomes.NOT_STARTED
    assert done == frames.Done()


def test_strict_rank_that_was_ready_and_then_lost_is_counted_once() -> None:
    root = root_of(3, STRICT)
    hear(root, 1, Ready(((0, 1),)))
    hear(root, 2, Ready(((1, 2),)))
    root.handle(events.ChildLost(2, "reset", True), 0.2)
    root.handle(events.ChildLost(4, "refused", False), 0.2)
    assert not root.finished
    assert told(hear(root, 3, Ready(((2, 3),))))[-1] == frames.Done()


def test_killed_strict_job_ends_by_what_the_nodes_say() -> None:
    root = root_of(1, STRICT)
    client(root, frames.Kill(False))
    stopped = Ended(((0, 1),), outcomes.not_started("the job was ended"), 0, 0)
    assert told(hear(root, 1, stopped)) == [stopped, frames.Done()]


def test_a_large_job_with_merged_reports_takes_few_frames() -> None:
    ranks = 10_000
    root = root_of(ranks)
    ranges = [(child.low, child.high) for child in root._subtree.children.values()]
    count = 0
    for number, (low, high) in enumerate(ranges, start=1):
        for frame in (RanksStarted(((low, high),)), Output(((low, high),), STDOUT, 0, b"same\n")):
            count += len(told(hear(root, number, frame)))
        count += len(told(hear(root, number, exited(low, high, 5))))
    assert root.finished
    assert count == 3 * len(ranges) + 1
