"""Which job a frame is for, which jobs are taken, and what becomes of silent links."""

from __future__ import annotations

import pytest

from gexec import limits
from gexec.errors import ProtocolError
from gexec.relay.job import ROOT
from gexec.relay.jobs import NOT_NEEDED
from gexec.settings.config import GexecdSettings
from gexec.wire import frames, jobspec, messages
from gexec.wire import outcome as outcomes
from gexec.wire.frames import Frame, Refused, Start, Submit
from surroundings import CREDENTIAL, UID, Daemon, Peer, job


def refusal(peer: Peer) -> str:
    """Return why the last that a peer asked for was refused."""
    refused = peer.frames[-1]
    assert isinstance(refused, Refused)
    return refused.text


def test_a_start_for_a_job_that_lives_here_is_a_new_parent() -> None:
    daemon = Daemon(job())
    first = daemon.start(epoch=1)
    second = daemon.start(epoch=2)
    assert len(daemon.jobs.by_key) == 1
    assert len(daemon.processes.told) == 1
    assert refusal(first) == "another parent has this node"
    assert isinstance(second.frames[-1], frames.Accepted)


def test_who_may_only_attach_starts_nothing() -> None:
    daemon = Daemon(job())
    parent = daemon.parent()
    daemon.jobs.link_frame(parent, 1, Start(1, 0, 1, CREDENTIAL, daemon.blob, True))
    assert refusal(parent) == "the job is not known here"
    assert not daemon.jobs.by_key


@pytest.mark.parametrize("kind", [Start, Submit])
def test_a_credential_that_is_no_good_is_refused_and_the_link_stays(kind: type[Frame]) -> None:
    daemon = Daemon(job())
    peer = Peer(True)
    daemon.jobs.link_accepted(peer, UID if kind is Submit else None)
    asked = Submit(b"forged", b"") if kind is Submit else Start(1, 0, 1, b"forged", b"", False)
    daemon.jobs.link_frame(peer, 1, asked)
    assert refusal(peer) == "no key of this cluster has signed it"
    assert peer.ended == ""
    assert daemon.denials == [("credential", "no key of this cluster has signed it")]


def test_a_client_may_submit_only_its_own_job() -> None:
    daemon = Daemon(job())
    client = Peer(True)
    daemon.jobs.link_accepted(client, UID + 1)
    daemon.jobs.link_frame(client, 1, Submit(CREDENTIAL, daemon.blob))
    assert refusal(client) == f"the credential is of uid {UID}, but uid {UID + 1} submits it"
    assert daemon.denials == [("client", refusal(client))]


def test_a_job_is_submitted_once() -> None:
    daemon = Daemon(job())
    daemon.submit()
    assert refusal(daemon.submit()) == "this job was submitted before"


def test_ranks_of_jobs_have_a_limit_and_roots_are_not_among_them() -> None:
    daemon = Daemon(job(ranks=3), GexecdSettings(jobs_max=1))
    daemon.submit()
    daemon.start(0, 1)
    refused = refusal(daemon.start(1, 2))
    assert refused is not None
    assert refused.startswith(f"uid {UID} has 1 ranks of jobs on this node and gets no more now")
    assert refused.endswith("or raise jobs_max in gexecd.toml")
    assert [code for code, _ in daemon.denials] == ["busy"]
    assert daemon.lives == {ROOT, 0}


def test_who_is_shutting_down_says_so_and_takes_no_job() -> None:
    daemon = Daemon(job())
    parent = daemon.parent()
    daemon.jobs.drain()
    assert parent.sent == [(0, frames.Goodbye("gexecd is shutting down"), True)]
    assert refusal(daemon.start()) == "gexecd is shutting down"
    assert daemon.denials == []


@pytest.mark.parametrize(
    ("uid", "asked", "text"),
    [
        (UID, Start(1, 0, 1, CREDENTIAL, b"", False), "Start from a client"),
        (None, Submit(CREDENTIAL, b""), "Submit from a daemon"),
        (None, Start(1, 0, 2, CREDENTIAL, b"", False), r"ranks \[0, 2\) of a job of 1"),
    ],
)
def test_who_asks_for_what_is_not_its_own_breaks_the_protocol(
    uid: int | None, asked: Frame, text: str
) -> None:
    daemon = Daemon(job())
    peer = Peer(True)
    daemon.jobs.link_accepted(peer, uid)
    with pytest.raises(ProtocolError, match=text):
        daemon.jobs.link_frame(peer, 1, asked)


def test_a_channel_keeps_its_job() -> None:
    daemon = Daemon(job(ranks=2))
    parent = daemon.start(0, 1)
    with pytest.raises(ProtocolError, match="a second Start on one channel, for something else"):
        daemon.jobs.link_frame(parent, 1, Start(2, 1, 2, CREDENTIAL, daemon.blob, False))
    with pytest.raises(ProtocolError, match="a second Submit on one channel"):
        daemon.jobs.link_frame(parent, 1, Submit(CREDENTIAL, daemon.blob))


def test_a_silent_peer_of_a_job_is_asked_and_then_given_up() -> None:
    daemon = Daemon(job())
    parent = daemon.start()
    daemon.run_until(2 * limits.HEARTBEAT_S + 0.1)
    assert any(isinstance(frame, frames.Ping) for _, frame, _ in parent.sent)
    assert parent.ended == ""
    daemon.run_until(limits.LOST_AFTER_S + limits.HEARTBEAT_S)
    assert parent.ended.startswith("no answer for ")


def test_silence_is_noticed_when_it_is_complete_and_not_at_the_next_beat() -> None:
    daemon = Daemon(job())
    parent = daemon.start()
    parent.heard_s = 1.0
    daemon.run_until(1.0 + limits.LOST_AFTER_S - 0.1)
    assert parent.ended == ""
    daemon.run_until(1.0 + limits.LOST_AFTER_S + 0.1)
    assert parent.ended == "no answer for 15 s"


def test_jobs_are_told_of_a_child_that_does_not_respond_and_of_its_return() -> None:
    daemon = Daemon(job(ranks=2))
    daemon.near = True
    client = daemon.submit()
    silent, other = daemon.dialled
    other.heard_s = limits.NOT_RESPONDING_S
    daemon.run_until(limits.NOT_RESPONDING_S - 0.1)
    assert not any(isinstance(frame, frames.NotResponding) for frame in client.frames)
    daemon.run_until(limits.NOT_RESPONDING_S + 0.1)
    assert client.frames[-1] == frames.NotResponding(((0, 1),))
    silent.heard_s = other.heard_s = 7.0
    daemon.run_until(7.0 + limits.HEARTBEAT_S)
    assert client.frames[-1] == frames.Responding(((0, 1),))


def test_two_heartbeats_pass_before_a_child_counts_as_not_responding() -> None:
    daemon = Daemon(job(), GexecdSettings(heartbeat_s=1.0, lost_after_s=1.5))
    daemon.near = True
    client = daemon.submit()
    daemon.run_until(3.0)
    assert daemon.dialled[0].ended == "no answer for 2 s"
    assert not any(isinstance(frame, frames.NotResponding) for frame in client.frames)


def test_a_link_that_was_idle_has_the_whole_time_to_answer() -> None:
    daemon = Daemon(job(ranks=2))
    daemon.near = True
    daemon.run_until(100.0)
    daemon.submit()
    [child, _] = daemon.dialled
    assert child.heard_s == 100.0
    daemon.run_until(100.0 + limits.LOST_AFTER_S - 0.1)
    assert child.ended == ""
    daemon.run_until(100.0 + limits.LOST_AFTER_S + 0.1)
    assert child.ended == "no answer for 15 s"


def test_a_pause_of_this_daemon_is_not_a_silence_of_its_peers() -> None:
    daemon = Daemon(job())
    parent = daemon.start()
    daemon.frozen_until_s = 100.0
    daemon.run_until(100.0 + 3 * limits.HEARTBEAT_S)
    assert parent.ended == ""
    assert any(isinstance(frame, frames.Ping) for _, frame, _ in parent.sent)


def test_a_link_without_jobs_is_closed_when_it_was_idle_long_enough() -> None:
    daemon = Daemon(job())
    idle = daemon.parent()
    daemon.run_until(limits.LINK_IDLE_S - 1.0)
    assert idle.ended == ""
    daemon.run_until(2 * limits.LINK_IDLE_S + 1.0)
    assert idle.ended == "idle"


def after(daemon: Daemon, seconds: float) -> None:
    """Let time pass."""
    daemon.run_until(daemon.world.now_s + seconds)


def test_attack_58_a_client_has_so_long_for_its_job_after_hello() -> None:
    daemon = Daemon(job(), GexecdSettings(unauthenticated_max_s=2.0))
    silent, good = Peer(True), Peer(True)
    for client in (silent, good):
        daemon.jobs.link_accepted(client, UID)
        daemon.jobs.link_opened(client)
    daemon.jobs.link_frame(good, 1, Submit(CREDENTIAL, daemon.blob))
    after(daemon, 3.0)
    assert silent.ended == "protocol violation: no Submit within 2 s"
    assert good.ended == ""


def test_ranks_are_charged_for_the_output_that_they_may_leave_here() -> None:
    spec = job(ranks=3, window=1024 * 1024)
    daemon = Daemon(spec, GexecdSettings(output_max_mib=8))
    parents = [daemon.start(rank, rank + 1) for rank in range(3)]
    assert [len(parent.frames) for parent in parents] == [0, 0, 1]
    assert "output_max_mib in gexecd.toml" in refusal(parents[2])
    assert daemon.quotas.output.used(UID) == 4 * 1024 * 1024
    for parent in parents[:2]:
        daemon.jobs.link_frame(parent, 1, frames.Close())
    for told in list(daemon.processes.told.values()):
        told(messages.ProcessEnded(1, outcomes.killed(9), True))
    after(daemon, 1.0)
    assert daemon.lives == set()
    assert daemon.quotas.output.used_by_all == daemon.quotas.ranks.used_by_all == 0


def test_attack_60_clients_that_leave_more_unread_than_their_users_share_are_ended() -> None:
    daemon = Daemon(job(ranks=2))
    daemon.near = True
    client = daemon.submit()
    other = Peer(True)
    daemon.jobs.link_accepted(other, UID + 1)
    client.unsent_bytes = limits.UNREAD_MAX_BYTES // 2
    after(daemon, 4.0)
    assert client.ended == ""
    client.unsent_bytes += 2
    after(daemon, 4.0)
    assert client.ended == (
        f"uid {UID} leaves 1073741826 bytes of output unread, and this client 1073741826 of them"
    )
    assert other.ended == ""


def test_a_link_that_is_dialled_for_a_job_that_has_ended_is_dialled_no_more() -> None:
    daemon = Daemon(job(ranks=2))
    client = daemon.submit()
    assert daemon.dialled
    assert all(not peer.ended for peer in daemon.dialled)
    daemon.jobs.link_frame(client, 1, frames.Close())
    after(daemon, 20.0)
    assert all(peer.ended == NOT_NEEDED for peer in daemon.dialled)


def test_the_time_for_an_answer_begins_with_the_dial() -> None:
    """In a prompt job a child that waits for its turn is not given up meanwhile."""
    daemon = Daemon(job(ranks=1, flags=jobspec.NO_STDIN | jobspec.PROMPT, connect_timeout_s=2.0))
    daemon.waits = True
    client = daemon.submit()
    after(daemon, 10.0)
    (peer,) = daemon.dialled
    assert not [frame for frame in client.frames if isinstance(frame, frames.Ended)]
    peer.waiting = False
    daemon.jobs.link_begun(peer)
    after(daemon, 2.5)
    (ended,) = [frame for frame in client.frames if isinstance(frame, frames.Ended)]
    assert ended.outcome.text.endswith("gexecd does not answer within 2 s")
