"""The loop of the command line with views that hold back, and with one that cannot go on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from client_peers import DEADLINE_S, Peer, daemons
from gexec.wire.frames import STDOUT, Ended, Kill, Output
from gexec.wire.outcome import exited

_CLIENT = """
import os, sys
from gexec.client.console import Console
from gexec.client.interrupts import Interrupts
from gexec.client.job import Request, build, submit
from gexec.client.stdio import standard_sinks
from gexec.render.summary import exit_status
from gexec.render.gather import Gathered
from gexec.client.outdir import OutputDir

job, _ = build(Request(["true"]))
names = list(job.names)
view = {view}
connection = submit(job)
console = Console(connection, view, standard_sinks(), Interrupts())
console.run()
status = console.ending.status
sys.exit(exit_status(connection.session.ended_outcomes()) if status is None else status)
"""


def client(env: dict[str, str], view: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _CLIENT.replace("{view}", view)],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def script(peer: Peer) -> None:
    """Each of three ranks says 4 MiB, and its rank at the end."""
    peer.accept()
    for offset in range(0, 4 << 20, 1 << 16):
        peer.say(Output(((0, 3),), STDOUT, offset, b"x" * 65535 + b"\n"))
    for rank in range(3):
        peer.say(Output(((rank, rank + 1),), STDOUT, 4 << 20, b"%d\n" % rank))
    peer.say(Ended(((0, 3),), exited(0), (4 << 20) + 2, 0))
    peer.finish(0)


def test_all_that_a_view_holds_is_written_in_order(tmp_path: Path) -> None:
    common = (b"x" * 65535 + b"\n") * 64
    with daemons(tmp_path, script) as running:
        out, err = client(running.env, "Gathered(names)").communicate(timeout=DEADLINE_S)
    assert err == b""
    expected = b"".join(b"--- 127.0.0.%d (1)\n" % (rank + 1) + common + b"%d\n" % rank for rank in range(3))
    assert out == expected


def test_over_the_limit_the_job_goes_on_line_by_line(tmp_path: Path) -> None:
    with daemons(tmp_path, script) as running:
        out, err = client(running.env, "Gathered(names, limit_bytes=1 << 20)").communicate(timeout=DEADLINE_S)
    lines = out.splitlines()
    assert lines[0] == b"--- 127.0.0.[1-3] (3) so far"
    plain = [line for line in lines[1:] if not line.startswith(b"127.0.0.")]
    assert plain == [b"x" * 65535] * len(plain)
    for rank in range(3):
        own = [line for line in lines if line.startswith(b"127.0.0.%d " % (rank + 1))]
        assert len(plain) + len(own) == 65
        assert own[-1] == b"127.0.0.%d %d" % (rank + 1, rank)
    assert err.startswith(b"gexec: over 1 MiB of different output")


def test_who_reads_no_further_ends_what_is_held(tmp_path: Path) -> None:
    with daemons(tmp_path, script) as running:
        process = client(running.env, "Gathered(names, limit_bytes=1 << 20)")
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(DEADLINE_S) == 141
        assert process.stderr is not None
        process.stderr.close()


def test_a_view_that_cannot_go_on_ends_the_job(tmp_path: Path) -> None:
    asked: list[Kill] = []

    def failing(peer: Peer) -> None:
        peer.accept()
        peer.say(Output(((0, 1),), STDOUT, 0, b"x\n"))
        kill = peer.until(Kill)
        assert isinstance(kill, Kill)
        asked.append(kill)
        peer.say(Ended(((0, 1),), exited(0), 2, 0), Ended(((1, 3),), exited(0), 0, 0))
        peer.finish(0)

    directory = tmp_path / "out"
    view = f"OutputDir({str(directory)!r}, names); os.mkdir({str(directory / '127.0.0.1.out')!r})"
    with daemons(tmp_path, failing) as running:
        process = client(running.env, view)
        out, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 255
    assert [kill.now for kill in asked] == [False]
    assert (out, err.decode()) == (
        b"",
        f"gexec: cannot write {directory}/127.0.0.1.out: File exists; the job is ended\n",
    )
