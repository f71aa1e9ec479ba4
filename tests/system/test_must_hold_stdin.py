"""stdin as the list of what must hold asks for it: all of it to every node, in bounded memory."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections.abc import Callable

import pytest

from gexec import limits

from .conftest import Cluster, wait_until
from .must_hold import Peaks, daemons, end, marker, sorted_lines

MIB = 1024 * 1024


@pytest.mark.parametrize("fanout", [16, 2])
def test_two_hundred_mebibytes_reach_eight_nodes_in_bounded_memory(
    cluster_of: Callable[..., Cluster], fanout: int
) -> None:
    cluster = cluster_of(8)
    cluster.gexec("true")
    before = Peaks(daemons(cluster))
    client = cluster.popen(
        "-f", fanout, "sha256sum", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    digest = hashlib.sha256()
    block = os.urandom(MIB)
    grown = None
    for number in range(200):
        part = number.to_bytes(8, "big") + block[8:]
        digest.update(part)
        client.stdin.write(part)
        grown = grown or Peaks([client.pid])
    assert grown is not None
    # docs/protocol.md, Flow: 1 MiB is under way in the job, here once for each child's socket;
    # the rest is what an interpreter and TLS need besides.
    bound = 8 * limits.STDIN_WINDOW_BYTES + 16 * MIB
    peak = grown.growth_bytes()
    out, err = end(client)
    assert (client.returncode, err) == (0, b"")
    assert sorted_lines(out) == [f"{rank} {digest.hexdigest()}  -" for rank in range(8)]
    for pid, growth in (before.growth_bytes() | peak).items():
        assert growth < bound, f"process {pid} grew by {growth} bytes"


def test_the_slowest_reader_sets_the_pace_in_bounded_memory(cluster: Cluster) -> None:
    mark = marker()
    # Node 5 reads nothing before it is told to; the others take what they get.
    script = """
        if [ $GEXEC_MY_VNN = 5 ]; then
            trap go=1 USR1; sleep $0 & until [ "$go" ]; do wait; done; kill $!
        fi
        sha256sum
    """
    client = cluster.popen(
        "sh", "-c", script, mark, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    data = os.urandom(16 * MIB)
    sent = 0

    def feed() -> None:
        nonlocal sent
        view = memoryview(data)
        while sent < len(data):
            sent += os.write(client.stdin.fileno(), view[sent : sent + 65536])
        client.stdin.close()
        client.stdin = None

    feeder = threading.Thread(target=feed)
    feeder.start()
    wait_until(lambda: sent >= limits.STDIN_WINDOW_BYTES // 2, "nothing is taken")
    seen = -1
    while seen != sent:  # until nothing moves for half a second: everything waits for node 5
        seen = sent
        feeder.join(0.5)
    assert sent < 4 * MIB
    client.send_signal(10)
    feeder.join()
    out, _ = end(client)
    ours = [line for line in sorted_lines(out) if line.endswith("-")]
    digest = hashlib.sha256(data).hexdigest()
    assert f"5 {digest}  -" in ours


def test_a_process_that_reads_no_more_holds_nobody_up(cluster: Cluster) -> None:
    data = os.urandom(8 * MIB)
    script = "[ $GEXEC_MY_VNN = 3 ] && exec head -c 10; [ $GEXEC_MY_VNN = 4 ] && exec sleep 0; sha256sum"
    ended = cluster.gexec("-x", "node004", "-p", "host", "sh", "-c", script, input=data)
    assert ended.returncode == 0
    digest = hashlib.sha256(data).hexdigest()
    sums = [line for line in ended.stdout.splitlines() if line.endswith(f"{digest}  -".encode())]
    assert len(sums) == 5


def test_a_loop_that_reads_loses_its_lines_to_gexec_only_without_no_stdin(cluster: Cluster) -> None:
    words = " ".join(f"'{word}'" for word in cluster.command("-n1", "-p", "none"))
    loop = "while read a; do {} {} echo $a; done"

    def run(option: str) -> bytes:
        return subprocess.run(
            ["sh", "-c", loop.format(words, option)], env=cluster.env, input=b"1\n2\n3\n", capture_output=True
        ).stdout

    assert run("--no-stdin") == b"1\n2\n3\n"


@pytest.mark.parametrize("fd", [0, 1, 2])
def test_closed_standard_descriptors(cluster: Cluster, fd: int) -> None:
    words = " ".join(f"'{word}'" for word in cluster.command("-n1", "sh", "-c", "cat; echo x; echo y >&2"))
    close = "<&-" if fd == 0 else f"{fd}>&-"
    done = subprocess.run(
        ["sh", "-c", f"exec {words} {close}"], env=cluster.env, stdin=subprocess.DEVNULL, capture_output=True
    )
    assert done.stdout == (b"" if fd == 1 else b"0 x\n")
    if fd == 0:
        assert (done.returncode, done.stderr) == (0, b"0 y\n")
    else:
        assert done.returncode == 255  # what was asked for could not be written


def test_it_ends_with_its_processes_although_stdin_stays_open(cluster: Cluster) -> None:
    reading, writing = os.pipe()
    try:
        assert cluster.gexec("sh", "-c", "read line; echo $line", stdin=_with(reading, writing)).stdout
    finally:
        os.close(reading)
        os.close(writing)


def _with(reading: int, writing: int) -> int:
    os.write(writing, b"one\n")
    return reading
