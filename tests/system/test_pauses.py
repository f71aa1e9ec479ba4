"""Daemons that stand still for a while (suspended, or stopped): no deadline decides before they have read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from gexec.cluster.processes import Process

from .conftest import DEADLINE_S, Cluster, wait_until

#: More than LATE_S after every deadline of these jobs.
PAUSE_S = 4.0


@contextmanager
def stopped(stopping: Sequence[Process]) -> Iterator[None]:
    """Stop processes; let them go on afterwards, all at once."""
    try:
        for process in stopping:
            os.kill(process.pid, signal.SIGSTOP)
        yield
    finally:
        for process in stopping:
            os.kill(process.pid, signal.SIGCONT)


def _pause() -> None:
    """Let the pause last, so that deadlines of the stopped processes pass."""
    until_s = time.monotonic() + PAUSE_S
    while time.monotonic() < until_s:
        time.sleep(0.1)


def _start(cluster: Cluster, *words: object) -> subprocess.Popen[bytes]:
    client: subprocess.Popen[bytes] = cluster.popen(
        *words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    return client


def test_a_command_that_ended_while_its_relay_was_stopped_is_whole_and_not_timed_out(
    cluster_of: Callable[..., Cluster],
) -> None:
    cluster = cluster_of(2)
    node = cluster.names[1]
    script = "echo $$; read line <$0; head -c 60000 /dev/zero; exit 3"
    fifo = cluster.dir / "go"
    os.mkfifo(fifo, 0o666)
    os.chmod(fifo, 0o666)
    client = _start(cluster, "-w", node, "-p", "none", "--timeout", 2, "sh", "-c", script, fifo)
    assert client.stdout is not None
    pid = int(client.stdout.readline())
    _, relay, _ = cluster.daemon(node)
    with stopped([relay]):
        fifo.write_text("go\n")
        wait_until(lambda: not os.path.exists(f"/proc/{pid}/cwd"), "the command does not end")
        _pause()
    output, errors = client.communicate(timeout=DEADLINE_S)
    assert client.returncode == 3, errors
    assert len(output) == 60_000
    assert b"timed out" not in errors


def test_a_cluster_that_was_suspended_goes_on(cluster_of: Callable[..., Cluster]) -> None:
    """All wake up with their peers overdue at once, and nobody has said anything meanwhile."""
    cluster = cluster_of(4, heartbeat_s=0.4, lost_after_s=1.2, orphan_grace_s=1.0)
    fifo = cluster.dir / "go"
    fifo.mkdir(mode=0o777)
    script = "mkfifo $0/$GEXEC_MY_VNN && echo ready && read line <$0/$GEXEC_MY_VNN && echo $line"
    client = _start(cluster, "-f", 1, "-p", "none", "sh", "-c", script, fifo)
    assert client.stdout is not None
    for _ in cluster.names:
        assert client.stdout.readline() == b"ready\n"
    everyone = [process for name in cluster.names for process in cluster.daemon(name)]
    with stopped(everyone):
        _pause()
    for rank in range(len(cluster.names)):
        (fifo / str(rank)).write_text("on\n")
    output, errors = client.communicate(timeout=DEADLINE_S)
    assert client.returncode == 0, errors
    assert output == b"on\n" * len(cluster.names)


def test_a_node_that_stands_still_does_not_respond_and_then_does(cluster_of: Callable[..., Cluster]) -> None:
    """An inner node of a chain: what it says about itself comes from its parent, through two other nodes."""
    cluster = cluster_of(5, heartbeat_s=0.4, lost_after_s=30.0)
    fifo = cluster.dir / "go"
    fifo.mkdir(mode=0o777)
    script = "mkfifo $0/$GEXEC_MY_VNN && echo ready && read line <$0/$GEXEC_MY_VNN && echo $line"
    with _start(cluster, "-f", 1, "--json", "sh", "-c", script, fifo) as client:
        assert client.stdout is not None
        events = (json.loads(line) for line in client.stdout)
        ready = 0
        while ready < 5:
            ready += next(events).get("text") == "ready"
        with stopped([cluster.daemon(cluster.names[3])[1]]):
            event = next(events)
            assert (event["event"], event["rank"]) == ("not_responding", 3)
        event = next(events)
        assert (event["event"], event["rank"]) == ("responding", 3)
        for rank in range(5):
            (fifo / str(rank)).write_text("go\n")
        ended = [event["event"] for event in events]
        assert ended.count("exited") == 5
        assert client.wait(DEADLINE_S) == 0
