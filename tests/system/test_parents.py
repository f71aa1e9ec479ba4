"""Who may be a parent: a captured relay takes no rank that is not below it, and a takeover goes on.

The captured relay has its own certificate, and the job's credential and blob, as every rank has.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gexec.wire import frames
from gexec.wire import outcome as outcomes

from . import rogue
from .conftest import DEADLINE_S, Cluster, wait_until
from .daemons import NODE, Host, command
from .rogue import Wire

#: Fan-out 2: node002 has ranks [0, 4), node006 [4, 7). Below node002 are node003, with node004, and node005.
NODES = [f"node00{number}" for number in range(2, 9)]


@pytest.fixture(autouse=True)
def still_serves(cluster: Cluster) -> Iterator[None]:
    yield
    rogue.healthy(cluster)


def _attack(cluster: Cluster, job: rogue.Job, thief: str, rank: int, high: int) -> None:
    """Take a rank with the highest epoch, as ``thief``, and do all that a parent can; it is refused."""
    with rogue.dial(cluster, NODES[rank], rogue.certified(cluster, thief)) as wire:
        for attach_only in (True, False):
            wire.send(1, job.start(rank, high, epoch=2**32 - 1, attach_only=attach_only))
            refused = wire.expect(frames.Refused)
            assert refused.code == frames.REFUSED_DENIED
            assert refused.text.startswith(f"no parent of rank {rank}: ")
            wire.send(1, frames.Stdin(0, b"injected\n", True), frames.Resync(2**32 - 1))
            wire.send(1, frames.Signal(9), frames.Kill(True), frames.Release(), frames.Close())
        wire.send(0, frames.Ping(1))
        wire.expect(frames.Pong)
    _recorded(cluster, job, NODES[rank], f"{thief} (127.", f"no parent of rank {rank}: ")


def _recorded(cluster: Cluster, job: rogue.Job, node: str, peer: str, reason: str) -> None:
    """Wait for the line of the node's audit log that says who was refused, and why."""
    job_id = rogue.credential_of(cluster, job.credential).job_id.hex()

    def found() -> bool:
        text = cluster.place.audit(node).read_text()
        lines = [json.loads(line) for line in text.splitlines() if job_id in line]
        return any(
            (line["event"], line.get("by"), line.get("code")) == ("deny", "relay", "parent")
            and line["peer"].startswith(peer)
            and line["reason"].startswith(reason)
            for line in lines
        )

    wait_until(found, f"the audit log of {node} has no line about {peer}")


def _all_ends(owner: Wire, ranks: int) -> dict[int, tuple[outcomes.Outcome, bytes]]:
    """Return the outcome of each rank, and its stdout."""
    ends: dict[int, outcomes.Outcome] = {}
    written = dict.fromkeys(range(ranks), b"")
    while len(ends) < ranks:
        frame = owner.expect(frames.Ended, frames.Output)
        for low, high in frame.ranks:
            for rank in range(low, high):
                if isinstance(frame, frames.Output):
                    written[rank] += frame.data
                else:
                    ends[rank] = frame.outcome
    return {rank: (ends[rank], written[rank]) for rank in range(ranks)}


@pytest.mark.parametrize(
    ("thief", "rank", "high"),
    [
        pytest.param("node008", 1, 3, id="a leaf of another subtree"),
        pytest.param("node005", 1, 3, id="a sibling"),
        pytest.param("node004", 1, 2, id="a deeper rank"),
        pytest.param("node006", 1, 3, id="an ancestor of another subtree"),
        pytest.param("node006", 0, 4, id="a sibling at the top"),
        pytest.param("node003", 0, 1, id="its own child"),
        pytest.param("node003", 3, 4, id="a sibling that has ranks below it"),
        pytest.param("localhost", 2, 3, id="a name that all have"),
        pytest.param("rogue", 6, 7, id="a node outside the job"),
    ],
)
def test_attack_86_a_captured_relay_takes_a_rank(cluster: Cluster, thief: str, rank: int, high: int) -> None:
    """Before parents were checked, each of these was accepted and its stdin reached the process."""
    job = rogue.job(cluster, NODES, "cat", fanout=2)
    with rogue.client(cluster) as owner:
        owner.send(1, frames.Submit(job.credential, job.blob))
        started = 0
        while started < len(NODES):
            started += sum(high - low for low, high in owner.expect(frames.RanksStarted).ranks)
        _attack(cluster, job, thief, rank, high)
        owner.send(1, frames.Stdin(0, b"mine\n", True))
        ends = _all_ends(owner, len(NODES))
    assert ends == dict.fromkeys(range(len(NODES)), (outcomes.exited(0), b"mine\n"))


def test_attack_86_an_ancestor_still_may(cluster: Cluster) -> None:
    """What remains: a captured inner node has the ranks below it."""
    job = rogue.job(cluster, NODES, "cat", fanout=2)
    with rogue.client(cluster) as owner:
        owner.send(1, frames.Submit(job.credential, job.blob))
        started = 0
        while started < len(NODES):
            started += sum(high - low for low, high in owner.expect(frames.RanksStarted).ranks)
        with rogue.dial(cluster, "node004", rogue.certified(cluster, "node002")) as wire:
            wire.send(1, job.start(2, 3, epoch=2**32 - 1, attach_only=True))
            wire.expect(frames.Accepted)
            wire.send(1, frames.Stdin(0, b"injected\n", True))
            assert wire.expect(frames.Output).data == b"injected\n"
            wire.expect(frames.Ended)
            wire.send(1, frames.Close())
        owner.send(1, frames.Kill(True))


def test_attack_86_a_job_that_is_not_there_yet(cluster: Cluster, tmp_path: Path) -> None:
    """A captured relay is faster than the job's tree: nothing is started for it."""
    witness = tmp_path / "ran"
    job = rogue.job(cluster, NODES, f"echo x >>{witness}", fanout=2)
    _attack(cluster, job, "node006", 1, 3)
    assert not witness.exists()


@pytest.mark.parametrize(("rank", "high"), [(0, 7), (1, 4), (1, 7), (5, 7)])
def test_attack_87_a_range_that_the_split_does_not_give(cluster: Cluster, rank: int, high: int) -> None:
    job = rogue.job(cluster, NODES, "cat", fanout=2)
    with rogue.dial(cluster, NODES[rank]) as wire:
        wire.send(1, job.start(rank, high))
        refused = wire.expect(frames.Refused)
    assert refused.code == frames.REFUSED_DENIED
    assert f"ranks [{rank}, {high}) are not a part of this job's tree" in refused.text
    _recorded(cluster, job, NODES[rank], "rogue (127.", f"ranks [{rank}, {high}) are not a part of this job")


def test_attack_88_a_job_of_another_host(cluster: Cluster) -> None:
    """Only the gexecd of the host that signed the job can be its root: the others say so."""
    done = cluster.gexec(
        "-n", 1, "true", text=True, env={"GEXEC_SOCKET": str(cluster.place.socket("node003"))}
    )
    assert done.returncode == 255
    assert "the job was signed on the host node001, which is none of the names of this gexecd" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_takeover_goes_on(cluster_of: Callable[..., Cluster]) -> None:
    """kill -9 of an inner node while stdin streams through it: the ranks below it go on, with every byte."""
    cluster = cluster_of(8)
    job = rogue.job(cluster, NODES, "cat", fanout=2)
    line = b"x" * 999 + b"\n"
    with rogue.client(cluster) as owner:
        owner.send(1, frames.Submit(job.credential, job.blob))
        owner.send(1, frames.Stdin(0, line))
        seen: set[int] = set()
        while len(seen) < len(NODES):
            for low, high in owner.expect(frames.Output).ranks:
                seen.update(range(low, high))
        for process in cluster.daemon("node002"):
            os.kill(process.pid, signal.SIGKILL)
        owner.send(1, frames.Stdin(len(line), line, True))
        ends: dict[int, outcomes.Outcome] = {}
        while len(ends) < len(NODES):
            frame = owner.expect(frames.Ended)
            ends.update((rank, frame.outcome) for low, high in frame.ranks for rank in range(low, high))
            lengths = {(frame.stdout_length) for rank in ends if rank}
            assert lengths <= {2 * len(line), frames.LENGTH_UNKNOWN}
    assert ends.pop(0).kind == outcomes.LOST
    assert ends == dict.fromkeys(range(1, 7), outcomes.exited(0))


# -- names of the submitting host -------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    try:
        yield host
    finally:
        host.close()


def test_a_gexecd_without_the_hosts_name_says_what_to_do(host: Host) -> None:
    """With find_names = false, gexecd's certificate does not hold the host name that authd signs with."""
    host.start_authd()
    gexecd = host.gexecd("--config", host.config(f'find_names = false\nnames = ["{NODE}"]\n'))
    done = host.gexec("true")
    name = os.uname().nodename
    assert (done.returncode, done.stdout) == (255, "")
    assert f"the job was signed on the host {name}, which is none of the names of this gexecd" in done.stderr
    assert "set `host` in authd.toml" in done.stderr
    gexecd.stop()
    host.gexecd("--config", host.config(f'find_names = false\nnames = ["{NODE}"]\n'), "--name", name)
    done = host.gexec("true")
    assert (done.returncode, done.stderr) == (0, "")


def test_authd_signs_with_the_name_that_it_is_told(host: Host) -> None:
    config = host.dir / "authd.toml"
    config.write_text(f'host = "{NODE}"\n')
    config.chmod(0o644)
    host.start_authd("--config", config)
    host.gexecd("--config", host.config(f'find_names = false\nnames = ["{NODE}"]\n'))
    done = host.gexec("true")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "ip6-localhost", "a b"])
def test_authd_takes_no_name_that_identifies_nobody(host: Host, name: str) -> None:
    config = host.dir / "authd.toml"
    config.write_text(f'host = "{name}"\n')
    config.chmod(0o644)
    words = command("authd", *host.authd_words("--config", config))
    done = subprocess.run(words, env=host.env, capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 1
    assert "expected a name or an address that only this host has" in done.stderr


def test_localhost_in_a_job_is_the_submitting_host(host: Host) -> None:
    host.start_authd()
    host.gexecd("--bind", "127.0.0.1")
    done = host.gexec("-f", 1, "-w", f"localhost,{NODE},localhost", "sh", "-c", "echo $GEXEC_NODE")
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.split()) == ["0", "1", "2", "localhost", "localhost", NODE]
