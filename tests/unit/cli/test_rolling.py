"""The real gexec with --batch and --retries against a scripted gexecd: which jobs come, and what is told."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from pathlib import Path

from client_peers import DEADLINE_S, Peer, command, daemons, gexec, sign_all
from gexec.wire.frames import STDOUT, Ended, Output, RanksStarted
from gexec.wire.outcome import UNREACHABLE, Outcome, exited, not_started

_DOWN = not_started("connection refused", UNREACHABLE)


class Jobs:
    """Ends the ranks of one job after the other as it is told; ``names`` has the nodes of each."""

    def __init__(self, *endings: list[Outcome]) -> None:
        self._endings = list(endings)
        self.names: list[list[str]] = []

    def __call__(self, peer: Peer) -> None:
        job = peer.accept()
        self.names.append([name.decode() for name in job.names])
        peer.say(RanksStarted(((0, job.ranks),)))
        for rank, outcome in enumerate(self._endings.pop(0)):
            own = ((rank, rank + 1),)
            peer.say(Output(own, STDOUT, 0, b"out\n"), Ended(own, outcome, 4, 0))
        peer.finish(0)


def ends(out: bytes) -> list[tuple[str, str]]:
    """Return (event, node) of each end of a node in what --json writes."""
    events = [json.loads(line) for line in out.splitlines()]
    return [
        (event["event"], event["node"])
        for event in events
        if "node" in event and event["event"] not in ("started", "stdout", "stderr")
    ]


def test_an_unreached_node_is_tried_again_and_told_once(tmp_path: Path) -> None:
    jobs = Jobs([_DOWN, exited(0)], [_DOWN], [exited(0)])
    with daemons(tmp_path, jobs) as running:
        ended = gexec(running.env, "--batch=2", "--retries=1", "--json", "true")
    assert jobs.names == [["127.0.0.1", "127.0.0.2"], ["127.0.0.1"], ["127.0.0.3"]]
    assert ended.returncode == 255
    told = ends(ended.stdout)
    assert sorted(node for _, node in told) == ["127.0.0.1", "127.0.0.2", "127.0.0.3"], told
    assert b"gexec: 127.0.0.1: not started: connection refused\n" in ended.stderr


def test_what_is_never_tried_is_told_at_the_end(tmp_path: Path) -> None:
    jobs = Jobs([exited(3)])
    failed = tmp_path / "failed"
    with daemons(tmp_path, jobs) as running:
        ended = gexec(running.env, "--batch=1", "--max-failures=0", f"--failed-to={failed}", "--json", "true")
    assert len(jobs.names) == 1
    assert [node for _, node in ends(ended.stdout)] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert b"2 of 3 nodes not started: not tried: too many nodes have failed before" in ended.stderr
    assert b"gexec: 127.0.0.1: exited 3\n" in ended.stderr
    assert ended.returncode == 255
    assert len(failed.read_text().splitlines()) >= 3


def test_a_gexecd_that_ends_stops_the_run(tmp_path: Path) -> None:
    def script(peer: Peer) -> None:
        peer.accept()

    with daemons(tmp_path, script) as running:
        ended = gexec(running.env, "--batch=1", "--json", "true")
    outcomes = {node: event for event, node in ends(ended.stdout)}
    assert set(outcomes) == {"127.0.0.1", "127.0.0.2", "127.0.0.3"}
    assert ended.returncode == 255
    assert b"3 of 3 nodes lost: the local gexecd ended" in ended.stderr


def test_a_first_job_that_is_refused_is_the_runs_own_failure(tmp_path: Path) -> None:
    def silent(peer: Peer) -> None:
        peer.next()

    with daemons(tmp_path, silent, sign=silent) as running:
        ended = gexec(running.env, "--batch=1", "true")
    assert ended.returncode == 255
    assert ended.stderr.count(b"\n") == 1, ended.stderr


def test_a_signal_between_batches_ends_the_run_with_a_summary(tmp_path: Path) -> None:
    """It comes when gexec asks authd to sign the second job."""
    client: list[subprocess.Popen[bytes]] = []
    first = Jobs([exited(0)])

    def script(peer: Peer) -> None:
        if first.names:
            while peer.next() is not None:
                pass
        else:
            first(peer)

    def sign(peer: Peer) -> None:
        if first.names:
            client[0].send_signal(signal.SIGTERM)
        sign_all(peer)

    with daemons(tmp_path, script, sign) as running:
        client.append(
            subprocess.Popen(
                command("--batch=1", "true"),
                env=running.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        out, err = client[0].communicate(timeout=DEADLINE_S)
    assert out == b"0 out\n"
    assert client[0].returncode == 255
    assert b"gexec: 127.0.0.2: lost: gexec left before it ended\n" in err
    assert b"gexec: 127.0.0.3: not started: the run was ended before it came to this node\n" in err


def test_a_reader_that_goes_away_ends_the_run_quietly(tmp_path: Path) -> None:
    jobs = Jobs([exited(0)])
    closed = threading.Event()

    def script(peer: Peer) -> None:
        assert closed.wait(DEADLINE_S)
        jobs(peer)

    with daemons(tmp_path, script) as running:
        client = subprocess.Popen(
            command("--batch=1", "true"),
            env=running.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert client.stdout is not None
        client.stdout.close()
        client.stdout = None
        closed.set()
        _, err = client.communicate(timeout=DEADLINE_S)
    assert (client.returncode, err, len(jobs.names)) == (141, b"", 1)
