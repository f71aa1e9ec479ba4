"""Carrying jobs over: what the next relay asks for, and what it does not do again."""

from __future__ import annotations

from gexec import limits
from gexec.core.events import OutputClosed, OutputRead
from gexec.relay import carrying
from gexec.wire import frames, jobspec, messages, values
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDOUT, Ack, Ended, Output, Start, Stdin, Submit
from surroundings import CREDENTIAL, JOB_ID, UID, Daemon, Peer, job


def carried(old: Daemon, *clients: Peer) -> Daemon:
    """Return another daemon, with the same spawner, that continues with the jobs of this one."""
    fds: list[int] = []
    raw = b"".join(values.encode(carrying.save(old.jobs, fds)))
    new = Daemon(old.entry.spec)
    new.world = old.world
    new.processes.told = dict(old.processes.told)
    for client in clients:
        new.jobs.link_accepted(client, UID)
    made = carrying.restore(new.jobs, values.decode(raw), list(clients))
    assert not new.processes.asked
    assert not new.dialled
    for each in made:
        each.go_on()
    return new


def started(flags: int = jobspec.NO_STDIN, **more: object) -> tuple[Daemon, Peer]:
    """Return a daemon with a rank that runs, and the link to its parent; ``more``: as for ``job``."""
    daemon = Daemon(job(3, flags, **more))
    parent = Peer(True, "head")
    daemon.jobs.link_accepted(parent, None)
    daemon.jobs.link_frame(parent, 1, Start(1, 0, 1, CREDENTIAL, daemon.blob))
    daemon.processes.told[1](messages.ProcessStarted(1, 77))
    return daemon, parent


def test_a_rank_waits_for_its_parent_and_sends_what_is_not_acknowledged() -> None:
    old, parent = started()
    old.jobs.by_key[(JOB_ID, 0)].tell(OutputRead(STDOUT, b"first"))
    old.jobs.link_frame(parent, 1, Ack(((0, STDOUT, 5),)))
    old.jobs.by_key[(JOB_ID, 0)].tell(OutputRead(STDOUT, b"second"))
    new = carried(old)
    assert new.quotas.ranks.used(UID) == 1
    again = Peer(True, "head")
    new.jobs.link_accepted(again, None)
    new.jobs.link_frame(again, 1, Start(2, 0, 1, CREDENTIAL, new.blob, True))
    new.processes.told[1](messages.ProcessEnded(1, outcomes.exited(3)))
    for stream in (1, 2):
        new.jobs.by_key[(JOB_ID, 0)].tell(OutputClosed(stream))
    output = [frame for frame in again.frames if isinstance(frame, Output)]
    assert [(frame.offset, frame.data) for frame in output] == [(5, b"second")]
    (end,) = (frame for frame in again.frames if isinstance(frame, Ended))
    assert (end.outcome, end.stdout_length) == (outcomes.exited(3), 11)
    assert [what for what in new.processes.asked if what[0] == "run"] == []


def test_a_pause_before_it_goes_on_does_not_delay_the_end_of_a_job_without_parent() -> None:
    """Seed 238590219: a relay was replaced, and its machine suspended before it went on."""
    old, _ = started(0, stall_s=5.0)  # its progress is measured every second: that shows the pause, too late
    raw = b"".join(values.encode(carrying.save(old.jobs, [])))
    new = Daemon(old.entry.spec)
    (made,) = carrying.restore(new.jobs, values.decode(raw), [])
    new.frozen_until_s = 100.0
    new.world.at(1.0, new, made.go_on)
    new.run_until(100.0 + limits.ORPHAN_GRACE_S - 1.0)
    assert not [what for what in new.processes.asked if what[0] == "kill"]
    new.run_until(100.0 + limits.ORPHAN_GRACE_S + 1.0)
    assert [what for what in new.processes.asked if what[0] == "kill"] == [("kill", 1, False)]


def test_a_submitted_job_keeps_its_client_and_dials_again() -> None:
    old = Daemon(job(2, 0))
    client = Peer(True)
    old.jobs.link_accepted(client, UID)
    old.jobs.link_frame(client, 1, Submit(CREDENTIAL, old.blob))
    old.jobs.link_frame(client, 1, Stdin(0, b"input"))
    assert len(old.dialled) == 2
    new = carried(old, client)
    assert len(new.dialled) == 2
    for link in new.dialled:
        link.opened = link.reached = True
        new.jobs.link_opened(link)
        start, stdin = link.frames[:2]
        assert isinstance(start, Start)
        assert (start.epoch, start.attach_only) == (1, False)  # nothing was sent before
        assert stdin == Stdin(0, b"input")


def test_a_child_that_had_its_start_is_asked_to_attach_with_a_higher_epoch() -> None:
    old = Daemon(job(1))
    old.near = True
    client = Peer(True)
    old.jobs.link_accepted(client, UID)
    old.jobs.link_frame(client, 1, Submit(CREDENTIAL, old.blob))
    child = old.dialled[0]
    old.jobs.link_frame(child, 1, frames.RanksStarted(((0, 1),)))
    new = carried(old, client)
    new.dialled[0].opened = new.dialled[0].reached = True
    new.jobs.link_opened(new.dialled[0])
    (start,) = new.dialled[0].frames
    assert isinstance(start, Start)
    assert start.attach_only
    assert start.epoch > 1


def test_a_client_without_a_job_still_has_to_send_one() -> None:
    old = Daemon(job(1))
    client, idle = Peer(True), Peer(True)
    for each in (client, idle):
        old.jobs.link_accepted(each, UID)
        old.jobs.link_opened(each)
    old.jobs.link_frame(client, 1, Submit(CREDENTIAL, old.blob))
    new = carried(old, client, idle)
    assert new.jobs.parties[client].deadline is None
    assert new.jobs.parties[idle].deadline is not None
