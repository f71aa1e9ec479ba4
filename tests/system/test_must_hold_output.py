"""Output as the list of what must hold asks for it: all bytes, apart, whole lines, bounded memory."""

from __future__ import annotations

import asyncio
import hashlib
import os
import select
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import gexec
from gexec import limits

from .conftest import DEADLINE_S, Cluster, wait_until
from .must_hold import Peaks, daemons, end, marked, marker, sorted_lines

MIB = 1024 * 1024


def test_the_command_of_the_manual_on_eight_nodes(cluster: Cluster) -> None:
    script = "echo out; echo err >&2; exit $GEXEC_MY_VNN"
    ended = cluster.gexec("-n", "0", "-p", "host", "sh", "-c", script)
    assert ended.returncode == 7
    assert sorted_lines(ended.stdout) == [f"{name} out" for name in cluster.names]
    said = ended.stderr.decode().splitlines()
    assert sorted(said[:8]) == [f"{name} err" for name in cluster.names]
    assert said[8:] == [f"gexec: {cluster.names[rank]}: exited {rank}" for rank in range(1, 8)]


def test_sixty_four_mebibytes_from_each_of_four_nodes_to_consumers_of_their_own(
    cluster: Cluster, tmp_path: Path
) -> None:
    os.chmod(tmp_path, 0o777)
    # What each node wrote is summed there, by the far end of a fifo that holds what tee got rid of.
    script = (
        "f=$0.$GEXEC_NODE; mkfifo $f; sha256sum <$f >$f.sum & head -c 67108864 /dev/urandom | tee $f; wait"
    )
    came: dict[str, str] = {}

    def consume(name: str) -> None:
        client = cluster.popen(
            "-w", name, "-p", "none", "sh", "-c", script, tmp_path / "f",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        digest, size = hashlib.sha256(), 0
        while data := client.stdout.read(MIB):
            digest.update(data)
            size += len(data)
        client.stdout.close()
        if client.wait(DEADLINE_S) == 0 and size == 64 * MIB:
            came[name] = digest.hexdigest()

    threads = [threading.Thread(target=consume, args=(name,)) for name in cluster.names[:4]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert came == {name: (tmp_path / f"f.{name}.sum").read_text().split()[0] for name in cluster.names[:4]}


async def test_sixty_four_mebibytes_from_each_of_four_ranks_of_one_job_in_python(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cluster.env.items():
        if name.startswith("GEXEC_"):
            monkeypatch.setenv(name, value)
    os.chmod(tmp_path, 0o777)
    script = (
        "f=$0.$GEXEC_MY_VNN; mkfifo $f; sha256sum <$f >$f.sum & head -c 67108864 /dev/urandom | tee $f; wait"
    )
    queues: list[asyncio.Queue[bytes]] = [asyncio.Queue(4) for _ in range(4)]

    async def consume(rank: int) -> str:
        digest = hashlib.sha256()
        while data := await queues[rank].get():
            digest.update(data)
        return digest.hexdigest()

    consumers = [asyncio.create_task(consume(rank)) for rank in range(4)]
    argv = ["sh", "-c", script, str(tmp_path / "f")]
    async with gexec.stream(argv, nodes=cluster.names[:4]) as job:
        async for event in job:
            if isinstance(event, gexec.Stdout):
                await queues[event.rank].put(event.data)
    for queue in queues:
        await queue.put(b"")
    sums = await asyncio.gather(*consumers)
    assert job.exit_status == 0
    assert sums == [(tmp_path / f"f.{rank}.sum").read_text().split()[0] for rank in range(4)]


@pytest.mark.parametrize("kind", ["none", "vnn", "host", "ip"])
def test_one_line_of_eight_mebibytes(cluster: Cluster, tmp_path: Path, kind: str) -> None:
    line = os.urandom(8 * MIB).replace(b"\n", b"\r")
    path = tmp_path / "line"
    path.write_bytes(line)
    os.chmod(tmp_path, 0o755)
    ended = cluster.gexec("-n1", "-p", kind, "cat", path)
    prefix = {"none": b"", "vnn": b"0 ", "host": b"node001 ", "ip": b"127.0.1.1 "}[kind]
    assert len(ended.stdout) == len(prefix) + len(line)
    assert ended.stdout == prefix + line


def test_lines_of_eight_mebibytes_from_all_nodes_do_not_run_into_each_other(
    cluster: Cluster, tmp_path: Path
) -> None:
    # Without a last newline each line still stands alone, behind its prefix.
    script = "i=$GEXEC_MY_VNN; head -c 8388608 /dev/zero | tr '\\0' $i"
    ended = cluster.gexec("sh", "-c", script)
    expected = {b"%d " % rank + b"%d" % rank * (8 * MIB) for rank in range(8)}
    assert set(ended.stdout.split(b"\n")) == expected
    assert ended.returncode == 0


@pytest.mark.parametrize("format_", [r"\377", r"a\0b\0\0", "", "no newline", r"\n\n", r"\377\376\n\r\n\0"])
def test_odd_bytes_are_unchanged_on_both_streams(cluster: Cluster, format_: str) -> None:
    expected = subprocess.run(["printf", format_], capture_output=True, check=True).stdout
    ended = cluster.gexec("-n1", "-p", "none", "sh", "-c", 'printf "$0"; printf "$0" >&2', format_)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, expected, expected)


def test_output_without_a_last_newline_from_all_nodes(cluster: Cluster) -> None:
    ended = cluster.gexec("-p", "host", "sh", "-c", "printf a; printf b >&2")
    assert sorted_lines(ended.stdout) == [f"{name} a" for name in cluster.names]
    assert sorted_lines(ended.stderr) == [f"{name} b" for name in cluster.names]
    together = cluster.gexec("-p", "none", "printf", "a")
    assert together.stdout == b"a" * 8


def test_a_consumer_that_does_not_read_stops_the_processes_and_grows_no_memory(
    cluster_of: Callable[..., Cluster],
) -> None:
    cluster = cluster_of(8)
    cluster.gexec("true")
    mark = marker()
    before = Peaks(daemons(cluster))
    client = cluster.popen(
        "sh", "-c", f"yes {mark}", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        grown = Peaks([client.pid])
        wait_until(lambda: len(_yes(mark)) == 8, "yes does not run on 8 nodes")
        # Nobody reads: each `yes` comes to wait in its write, as its pipe and its window are full.
        wait_until(lambda: _all_still(mark), "the processes write on although nobody reads")
        window = limits.window_bytes(8)
        bound = 8 * window * 2  # docs/protocol.md, Flow: a root below 64 ranks; the client has no more
        slack = 24 * MIB  # what an interpreter needs besides, copies on their way into sockets
        for pid, growth in (before.growth_bytes() | grown.growth_bytes()).items():
            assert growth < bound + slack, f"process {pid} grew by {growth} bytes"
        assert client.stdout.readline().endswith(f" {mark}\n".encode())
        client.stdout.close()
        client.stdout = None
        assert end(client) == (b"", b"")
        assert client.returncode == 141
        wait_until(lambda: not _yes(mark), "yes lives on after its reader has gone")
    finally:
        client.kill()
        client.wait()


def _yes(mark: str) -> list[int]:
    return [pid for pid in marked(mark) if Path(f"/proc/{pid}/comm").read_text() == "yes\n"]


def _all_still(mark: str) -> bool:
    """Tell whether every `yes` has filled its window and wrote nothing within half a second."""
    before = {pid: _written(pid) for pid in _yes(mark)}
    select.select([], [], [], 0.5)
    full = all(count >= limits.WINDOW_MAX_BYTES for count in before.values())
    return bool(before) and full and before == {pid: _written(pid) for pid in _yes(mark)}


def _written(pid: int) -> int:
    return int(Path(f"/proc/{pid}/io").read_text().split()[3])


def test_yes_into_head_after_a_pause_ends_everywhere(cluster: Cluster) -> None:
    mark = marker()
    words = " ".join(f"'{word}'" for word in cluster.command("-n", "0", "yes", mark))
    done = subprocess.run(
        ["bash", "-c", f"{words} | (sleep 2; head -1); echo ${{PIPESTATUS[0]}}"],
        env=cluster.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S,
    )  # fmt: skip
    first, status = done.stdout.decode().splitlines()
    assert first in [f"{rank} {mark}" for rank in range(8)]
    assert (status, done.stderr) == ("141", b"")
    wait_until(lambda: not marked(mark), "yes lives on after head has ended")
