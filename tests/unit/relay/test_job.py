"""The shell around a job's machine, through its ports: what it asks of links, spawner and pipes, and when."""

from __future__ import annotations

import pytest

from gexec import limits
from gexec.core import events
from gexec.relay.job import ROOT
from gexec.wire import frames, jobspec, messages
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDOUT, Ended, Frame, Start
from gexec.wire.outcome import Outcome
from surroundings import JOB_ID, Daemon, Peer, job

TIMEOUT_S = 5.0


def of(kind: type[Frame], peer: Peer) -> list[Frame]:
    """Return the frames of this kind that a peer was sent."""
    return [frame for frame in peer.frames if type(frame) is kind]


def ended(client: Peer) -> dict[int, Outcome]:
    """Return the outcomes that a peer was told."""
    told = [frame for frame in client.frames if isinstance(frame, Ended)]
    return {rank: frame.outcome for frame in told for rank in range(*frame.ranks[0])}


# -- children -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (b"", "the name does not resolve"),
        (b"?30", "the name did not resolve within 30 s"),
        (b"nonsense", "nonsense is no address"),
    ],
)
def test_a_name_without_an_address_is_not_dialled(entry: bytes, text: str) -> None:
    daemon = Daemon(job(addresses=[entry]))
    client = daemon.submit()
    assert ended(client) == {0: outcomes.unreachable(text)}
    assert isinstance(client.frames[-1], frames.Done)
    assert daemon.dialled == []


def test_a_link_lost_while_it_is_dialled_is_a_node_that_did_not_start() -> None:
    daemon = Daemon(job())
    client = daemon.submit()
    daemon.jobs.link_closed(daemon.dialled[0], "connection refused")
    assert ended(client) == {0: outcomes.unreachable("connection refused")}
    assert daemon.dialled[0].sent == []


def test_a_link_lost_after_the_start_leaves_open_whether_it_ran() -> None:
    daemon = Daemon(job())
    client = daemon.submit()
    daemon.open(daemon.dialled[0])
    daemon.jobs.link_closed(daemon.dialled[0], "the connection was reset")
    assert ended(client) == {}
    [_, again] = daemon.dialled
    daemon.jobs.link_closed(again, "connection refused")
    assert ended(client) == {0: outcomes.lost("the connection was reset")}


def test_a_child_that_refuses_is_told_as_it_says() -> None:
    daemon = Daemon(job())
    client = daemon.submit()
    [child] = daemon.dialled
    daemon.open(child)
    [(channel, _, _)] = child.sent
    daemon.jobs.link_frame(child, channel, frames.Refused(frames.REFUSED_DENIED, "no key has signed it"))
    assert ended(client) == {0: outcomes.denied("no key has signed it")}
    daemon.jobs.link_frame(child, channel, frames.Accepted(JOB_ID))  # nobody's any more
    assert child.ended == ""


def test_what_is_for_a_child_waits_for_its_link_behind_the_start() -> None:
    daemon = Daemon(job())
    client = daemon.submit()
    daemon.jobs.link_frame(client, 1, frames.Signal(15))
    [child] = daemon.dialled
    assert child.sent == []
    daemon.open(child)
    assert [type(frame) for frame in child.frames] == [Start, frames.Signal]


def test_a_newer_start_takes_the_place_of_the_one_that_waits() -> None:
    daemon = Daemon(job(ranks=3))
    daemon.submit()
    slow = daemon.dialled[0]
    daemon.run_until(limits.HEDGE_MAX_S + 0.1)  # others see to the ranks below it
    daemon.open(slow)
    assert [(start.low, start.high) for start in slow.frames if isinstance(start, Start)] == [(0, 1)]


def lost_child_that_had_answered(daemon: Daemon) -> Peer:
    """Have a child started, heard and lost; return the link on which it is asked again."""
    [child] = daemon.dialled
    daemon.open(child)
    daemon.jobs.link_frame(child, 1, frames.RanksStarted(((0, 1),)))
    daemon.jobs.link_closed(child, "the connection was reset")
    return daemon.dialled[-1]


def test_a_lost_child_that_does_not_attach_in_time_is_lost() -> None:
    daemon = Daemon(job(connect_timeout_s=TIMEOUT_S))
    client = daemon.submit()
    again = lost_child_that_had_answered(daemon)
    daemon.jobs.link_reached(again)  # perhaps it is being upgraded
    daemon.run_until(limits.LOST_AFTER_S - 0.1)
    assert ended(client) == {}
    daemon.run_until(limits.LOST_AFTER_S + 0.1)
    assert ended(client) == {0: outcomes.lost("the connection was reset")}
    daemon.open(again)
    assert again.sent == []


def test_a_child_whose_link_is_cut_before_it_is_open_is_dialled_once_more() -> None:
    """Its gexecd may have been upgraded at that moment; its Start was not sent."""
    daemon = Daemon(job())
    client = daemon.submit()
    for number in (1, 2):
        link = daemon.dialled[-1]
        link.cut = True
        daemon.jobs.link_closed(link, "connection reset")
        assert len(daemon.dialled) == min(2, number + 1)
    assert ended(client) == {0: outcomes.unreachable("connection reset")}


@pytest.mark.parametrize(
    ("stall_s", "answered", "within_s"),
    [(30.0, True, limits.ASK_SILENT_S), (30.0, False, limits.ASK_SILENT_S), (0.0, True, TIMEOUT_S)],
)
def test_a_child_that_was_silent_is_asked_again_for_a_moment_where_stdin_waits_for_it(
    stall_s: float, answered: bool, within_s: float
) -> None:
    daemon = Daemon(job(connect_timeout_s=TIMEOUT_S, stall_s=stall_s))
    client = daemon.submit()
    [child] = daemon.dialled
    daemon.open(child)
    if answered:
        [(channel, _, _)] = child.sent
        daemon.jobs.link_frame(child, channel, frames.RanksStarted(((0, 1),)))
    daemon.run_until(limits.LOST_AFTER_S + 0.1)
    assert child.ended == "no answer for 15 s"
    daemon.jobs.link_closed(child, child.ended)
    [_, again] = daemon.dialled
    daemon.run_until(daemon.timers.time() + within_s - 0.05)
    assert ended(client) == {}
    daemon.run_until(daemon.timers.time() + 0.1)
    assert ended(client) == {0: outcomes.lost("no answer for 15 s")}
    daemon.open(again)  # too late
    assert again.sent == []


def test_a_prompt_job_gives_a_node_no_more_than_the_connect_timeout() -> None:
    daemon = Daemon(job(connect_timeout_s=TIMEOUT_S, flags=jobspec.PROMPT))
    client = daemon.submit()
    [child] = daemon.dialled
    child.reached = True
    daemon.jobs.link_reached(child)
    daemon.run_until(TIMEOUT_S - 0.1)
    assert ended(client) == {}
    daemon.run_until(TIMEOUT_S + 0.1)
    assert ended(client) == {0: outcomes.unreachable("gexecd does not answer within 5 s")}


def test_a_prompt_job_does_not_wait_for_a_node_whose_link_is_open_and_silent() -> None:
    daemon = Daemon(job(connect_timeout_s=TIMEOUT_S, flags=jobspec.PROMPT))
    daemon.near = True
    client = daemon.submit()
    [child] = daemon.dialled
    assert (0, frames.Ping(0), True) in child.sent
    daemon.run_until(TIMEOUT_S + 0.1)
    assert ended(client) == {}  # asked once more: it has the Start, perhaps
    daemon.run_until(TIMEOUT_S + limits.ASK_SILENT_S + 0.2)
    assert ended(client) == {0: outcomes.lost("gexecd does not answer within 5 s")}


def test_a_prompt_job_waits_for_a_node_that_answers_pings() -> None:
    daemon = Daemon(job(connect_timeout_s=TIMEOUT_S, flags=jobspec.PROMPT))
    daemon.near = True
    client = daemon.submit()
    [child] = daemon.dialled
    child.heard_s = 1.0
    daemon.run_until(2 * TIMEOUT_S)
    assert ended(client) == {}
    assert len(daemon.dialled) == 1


def test_a_lost_child_that_attaches_is_given_all_the_time() -> None:
    daemon = Daemon(job(connect_timeout_s=TIMEOUT_S))
    client = daemon.submit()
    again = lost_child_that_had_answered(daemon)
    daemon.open(again)
    [start] = again.frames
    assert isinstance(start, Start)
    assert start.attach_only
    daemon.jobs.link_frame(again, 1, frames.Accepted(JOB_ID))
    daemon.run_until(2 * TIMEOUT_S)
    assert ended(client) == {}
    daemon.jobs.link_frame(again, 1, Ended(((0, 1),), outcomes.exited(3), 0, 0))
    assert ended(client) == {0: outcomes.exited(3)}


@pytest.mark.parametrize("complete", [True, False])
def test_that_a_job_is_over_is_in_a_hurry_only_if_something_runs_yet(complete: bool) -> None:
    daemon = Daemon(job(ranks=2, fanout=1))
    daemon.near = True
    parent = daemon.start(0, 2)
    [child] = daemon.dialled
    if complete:
        daemon.jobs.link_frame(child, 1, Ended(((1, 2),), outcomes.exited(0), 0, 0))
    daemon.jobs.link_frame(parent, 1, frames.Close())
    assert [(type(frame), hurry) for _, frame, hurry in child.sent] == [
        (Start, True),
        (frames.Close, not complete),
    ]


# -- the process --------------------------------------------------------------------------------


def test_a_process_and_its_output_are_told_and_all_is_given_back() -> None:
    daemon = Daemon(job())
    parent = daemon.start()
    assert daemon.processes.asked == [("run", 1, 0, (10, 11, 12))]
    [pipes] = daemon.pipes
    daemon.processes.told[1](messages.ProcessStarted(1, 4711))
    pipes.pieces = [events.OutputRead(STDOUT, b"last"), events.OutputClosed(1), events.OutputClosed(2)]
    daemon.processes.told[1](messages.ProcessEnded(1, outcomes.exited(7)))
    [output] = of(frames.Output, parent)
    assert isinstance(output, frames.Output)
    assert output.data == b"last"
    assert ended(parent) == {0: outcomes.exited(7)}
    daemon.jobs.link_frame(parent, 1, frames.Close())
    assert daemon.lives == set()
    assert daemon.entry.lives == 0
    assert pipes.asked[:2] == ["close child ends", "started"]
    assert pipes.asked[-1] == "close"
    assert ("close", 1) in daemon.processes.asked


def test_a_detached_process_is_forgotten_as_soon_as_it_runs() -> None:
    daemon = Daemon(job(flags=jobspec.DETACHED))
    parent = daemon.start()
    assert ("forget", 1) not in daemon.processes.asked
    daemon.processes.told[1](messages.ProcessStarted(1, 4711))
    assert daemon.processes.asked[-1] == ("forget", 1)
    daemon.run_until(1.0)
    assert ended(parent) == {0: outcomes.exited(0)}
    daemon.jobs.link_frame(parent, 1, frames.Close())
    assert not any(asked[0] == "kill" for asked in daemon.processes.asked[:-1])


def test_a_checked_process_that_is_not_wanted_any_more_is_given_up() -> None:
    daemon = Daemon(job(flags=jobspec.STRICT | jobspec.NO_STDIN))
    parent = daemon.start()
    daemon.processes.told[1](messages.ProcessReady(1))
    assert daemon.pipes == []
    daemon.jobs.link_frame(parent, 1, frames.Close())
    assert daemon.processes.asked == [("check", 1, 0), ("close", 1), ("kill", 1, True)]


def test_who_waits_for_a_turn_is_started_in_it() -> None:
    daemon = Daemon(job(ranks=limits.LAUNCHES_UNDER_WAY_MAX + 1))
    for rank in range(limits.LAUNCHES_UNDER_WAY_MAX + 1):
        daemon.start(rank, rank + 1)
    assert len(daemon.processes.asked) == limits.LAUNCHES_UNDER_WAY_MAX
    daemon.processes.told[1](messages.ProcessStarted(1, 4711))
    last = limits.LAUNCHES_UNDER_WAY_MAX
    assert daemon.processes.asked[-1][:3] == ("run", last + 1, last)


def test_who_is_killed_while_it_waits_for_a_turn_never_starts() -> None:
    daemon = Daemon(job(ranks=limits.LAUNCHES_UNDER_WAY_MAX + 1))
    parents = [daemon.start(rank, rank + 1) for rank in range(limits.LAUNCHES_UNDER_WAY_MAX + 1)]
    daemon.jobs.link_frame(parents[-1], 1, frames.Kill(False))
    [outcome] = ended(parents[-1]).values()
    assert outcome.kind == outcomes.NOT_STARTED
    daemon.processes.told[1](messages.ProcessStarted(1, 4711))
    assert len(daemon.processes.told) == limits.LAUNCHES_UNDER_WAY_MAX


@pytest.mark.parametrize("lacks", ["descriptors", "room at the spawner"])
def test_a_process_that_cannot_be_asked_for_is_told_as_not_started(lacks: str) -> None:
    daemon = Daemon(job())
    daemon.no_descriptors = lacks == "descriptors"
    daemon.processes.full = not daemon.no_descriptors
    parent = daemon.start()
    [outcome] = ended(parent).values()
    assert outcome.kind == outcomes.NOT_STARTED
    assert ("Too many open files" if daemon.no_descriptors else "Cannot allocate memory") in outcome.text
    assert all(pipes.asked == ["close", "close child ends"] for pipes in daemon.pipes)


# -- what goes wrong ----------------------------------------------------------------------------


def test_a_parent_that_breaks_the_protocol_loses_its_link_only() -> None:
    daemon = Daemon(job())
    parent = daemon.start()
    daemon.jobs.link_frame(parent, 1, frames.Stdin(0, b"to nobody"))
    assert parent.ended == ""  # not within the call that reads from it
    daemon.run_until(0.1)
    assert parent.ended == "protocol violation: stdin for a job without stdin"
    assert daemon.lives == {0}


def test_a_defect_costs_this_job_and_no_other() -> None:
    daemon = Daemon(job(ranks=2, fanout=1))
    daemon.near = True
    parent, other = daemon.start(0, 2), daemon.start(1, 2)
    daemon.processes.defect = KeyError("a defect")
    daemon.jobs.link_frame(parent, 1, frames.Signal(2))
    daemon.processes.defect = None
    assert daemon.failed == [f"rank 0 of job {JOB_ID.hex()}: 'a defect'"]
    assert isinstance(parent.frames[-1], frames.Refused)
    assert isinstance(daemon.dialled[0].frames[-1], frames.Close)
    assert ("kill", 1, False) in daemon.processes.asked
    assert daemon.lives == {1}
    daemon.jobs.link_frame(other, 1, frames.Signal(2))
    assert daemon.processes.asked[-1] == ("signal", 2, 2)


def test_the_root_goes_with_its_client() -> None:
    daemon = Daemon(job())
    daemon.near = True
    client = daemon.submit()
    assert daemon.lives == {ROOT}
    daemon.jobs.link_closed(client, "the client is gone")
    assert any(isinstance(frame, frames.Kill | frames.Close) for frame in daemon.dialled[0].frames)


def test_an_orphan_that_hears_of_its_loss_after_a_pause_waits_no_longer_than_its_grace() -> None:
    """It has no deadline that could have been missed: the pause shows in the heartbeat alone."""
    daemon = Daemon(job())
    parent = daemon.start()
    woke_s = 60.0
    daemon.frozen_until_s = woke_s
    daemon.world.at(1.0, daemon, daemon.lose, parent)
    daemon.run_until(woke_s + limits.ORPHAN_GRACE_S - 1.0)
    assert ("kill", 1, False) not in daemon.processes.asked
    daemon.run_until(woke_s + limits.ORPHAN_GRACE_S + limits.SETTLE_S + 1.0)
    assert ("kill", 1, False) in daemon.processes.asked
