"""The Python API against a scripted gexecd, in this process and its event loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

import gexec
from client_peers import Peer, daemons, hello_script
from gexec import limits
from gexec.wire.frames import (
    STDERR,
    STDOUT,
    Ack,
    Ended,
    Kill,
    Output,
    Ping,
    RanksStarted,
    Signal,
    Stdin,
    StdinTaken,
)
from gexec.wire.jobspec import NO_STDIN
from gexec.wire.outcome import exited, killed, lost, not_started

NODES = ["127.0.0.1", "127.0.0.2"]


def use(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    for name in ("GEXEC_SOCKET", "GEXEC_AUTHD_SOCKET"):
        monkeypatch.setenv(name, env[name])


def test_the_public_names() -> None:
    assert gexec.__all__ == [
        "AuthError", "DaemonError", "Exited", "GexecError", "Job", "Lost", "NodeResult", "Outcome",
        "ProtocolError", "RunResult", "Started", "Stderr", "Stdout", "UsageError", "__version__",
        "gpid", "my_vnn", "nprocs", "run", "stream",
    ]  # fmt: skip
    for name in gexec.__all__:
        assert getattr(gexec, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(gexec, "nothing".lower())


def test_import_is_lazy() -> None:
    code = "import sys, gexec; print([m for m in sys.modules if m.startswith('gexec')])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "['gexec']\n"


def test_run_returns_what_each_node_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(peer: Peer) -> None:
        job = peer.accept()
        assert job.names == [b"127.0.0.1", b"127.0.0.2"]
        assert job.env[0] == b"A=1"
        assert job.cwd == b"/tmp"
        assert job.flags == NO_STDIN
        peer.say(Output(((0, 2),), STDOUT, 0, b"out\xff"), Output(((1, 2),), STDERR, 0, b"err"))
        peer.say(Ended(((0, 1),), exited(0), 4, 0), Ended(((1, 2),), exited(3), 4, 3))
        peer.finish(0)

    with daemons(tmp_path, script) as running:
        use(monkeypatch, running.env)
        result = gexec.run(["true"], nodes=NODES, env={"A": "1"}, cwd="/tmp")
    assert result.exit_status == 3
    assert not result.ok
    assert result.results == [
        gexec.NodeResult(0, "127.0.0.1", exited(0), b"out\xff", b""),
        gexec.NodeResult(1, "127.0.0.2", exited(3), b"out\xff", b"err"),
    ]
    assert result.summary() == ["127.0.0.2: exited 3"]


def test_run_sends_stdin_within_its_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = bytearray()

    def script(peer: Peer) -> None:
        peer.accept()
        while True:
            frame = peer.until(Stdin)
            assert isinstance(frame, Stdin)
            taken.extend(frame.data)
            peer.say(StdinTaken(len(taken)))
            if frame.eof:
                break
        peer.finish(2)

    data = bytes(range(256)) * 16384
    with daemons(tmp_path, script) as running:
        use(monkeypatch, running.env)
        assert gexec.run(["cat"], nodes=NODES, stdin=data).ok
    assert bytes(taken) == data


def test_run_without_stdin_sends_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[object] = []

    def script(peer: Peer) -> None:
        peer.accept()
        for number in range(8):
            peer.say(Output(((0, 2),), STDOUT, number * 65536, bytes(65536)))
        # gexecd ends the connection of a client that sends stdin for a job without one.
        while not heard or not isinstance(heard[-1], Ack):
            heard.append(peer.next())
        peer.finish(2, lengths=(8 * 65536, 0))

    with daemons(tmp_path, script) as running:
        use(monkeypatch, running.env)
        assert gexec.run(["true"], nodes=NODES).ok
    assert [type(frame) for frame in heard] == [Ack]


def test_run_has_a_limit_on_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.say(Output(((0, 2),), STDOUT, 0, b"x" * 600))
        peer.until(Kill)

    with daemons(tmp_path, script) as running:
        use(monkeypatch, running.env)
        with pytest.raises(gexec.GexecError, match="more than 1000 bytes"):
            gexec.run(["yes"], nodes=NODES, max_output_bytes=1000)


def test_run_when_gexecd_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.say(Output(((0, 1),), STDOUT, 0, b"part"))

    with daemons(tmp_path, script) as running:
        use(monkeypatch, running.env)
        result = gexec.run(["true"], nodes=NODES)
    assert [node.outcome for node in result.results] == [lost("the local gexecd ended")] * 2
    assert result.results[0].stdout == b"part"
    assert result.exit_status == 255


@pytest.fixture
def short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(limits, "LOST_AFTER_S", 0.2)


def stopped(peer: Peer) -> None:
    """A gexecd that takes the job and is then stopped: nothing comes, and nothing is closed."""
    peer.accept()
    peer.until(Ping)
    peer.next()


@pytest.mark.usefixtures("short_silence")
def test_run_when_gexecd_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with daemons(tmp_path, stopped) as running:
        use(monkeypatch, running.env)
        result = gexec.run(["true"], nodes=NODES)
    assert ["has not answered for" in node.outcome.text for node in result.results] == [True, True]
    assert result.exit_status == 255


@pytest.mark.usefixtures("short_silence")
async def test_stream_when_gexecd_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with daemons(tmp_path, stopped) as running:
        use(monkeypatch, running.env)
        async with gexec.stream(["true"], nodes=NODES) as job:
            events = [event async for event in job]
    assert [type(event) for event in events] == [gexec.Lost, gexec.Lost]


def test_wrong_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEXEC_SVRS", raising=False)
    with pytest.raises(gexec.UsageError, match="GEXEC_SVRS is not set"):
        gexec.run(["true"])
    with pytest.raises(TypeError, match="argv: expected a list"):
        gexec.run("true")
    with pytest.raises(TypeError, match="nodes: expected a list"):
        gexec.run(["true"], nodes="a")
    with pytest.raises(ValueError, match="nodes: the list is empty"):
        gexec.run(["true"], nodes=[])
    monkeypatch.setenv("GEXEC_AUTHD_SOCKET", "/nonexistent/authd.sock")
    with pytest.raises(gexec.AuthError, match="authd does not run here"):
        gexec.run(["true"], nodes=["127.0.0.1"])


async def test_stream_gives_events_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.say(
            RanksStarted(((0, 1),)), Output(((0, 1),), STDOUT, 0, b"o"), Output(((0, 1),), STDERR, 0, b"e")
        )
        peer.say(Ended(((0, 1),), killed(9), 1, 1), Ended(((1, 2),), not_started("refused"), 0, 0))
        peer.finish(0)

    with daemons(tmp_path, script) as running:
        use(monkeypatch, running.env)
        async with gexec.stream(["true"], nodes=NODES) as job:
            assert job.nodes == NODES
            assert job.exit_status is None or job.exit_status == 255
            events = [event async for event in job]
            assert job.exit_status == 255
            assert job.outcomes == [killed(9), not_started("refused")]
    assert events == [
        gexec.Started(0, "127.0.0.1"),
        gexec.Stdout(0, "127.0.0.1", b"o"),
        gexec.Stderr(0, "127.0.0.1", b"e"),
        gexec.Exited(0, "127.0.0.1", killed(9)),
        gexec.Lost(1, "127.0.0.2", not_started("refused")),
    ]


async def test_stream_acknowledges_only_what_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(peer: Peer) -> None:
        job = peer.accept()
        chunk = b"x" * (job.window // 16)
        for part in range(16):
            peer.say(Output(((0, 1),), STDOUT, part * len(chunk), chunk))
        frame = peer.next()
        assert frame == Signal(10), "acknowledged before it was taken"
        assert peer.next() == Ack(((0, STDOUT, job.window // 2),))
        peer.finish(1, lengths=(job.window, 0))

    with daemons(tmp_path, script) as running:
        use(monkeypatch, running.env)
        async with gexec.stream(["yes"], nodes=NODES[:1]) as job:
            events = aiter(job)
            for _ in range(3):
                assert isinstance(await anext(events), gexec.Stdout)
            await job.signal(10)
            rest = [event async for event in events]
    assert len(rest) == 14
    assert rest[-1] == gexec.Exited(0, "127.0.0.1", exited(0))


async def test_stream_stdin_waits_for_the_slowest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = bytearray()

    def script(peer: Peer) -> None:
        peer.accept()
        while True:
            frame = peer.until(Stdin)
            assert isinstance(frame, Stdin)
            taken.extend(frame.data)
            if len(taken) == 1 << 20 or len(taken) == 3 << 20:
                peer.say(StdinTaken(len(taken)))
            elif len(taken) == 2 << 20:
                peer.say(StdinTaken(len(taken) - 5))
                peer.say(StdinTaken(len(taken)))
            if frame.eof:
                break
        peer.finish(1)

    data = bytes(range(256)) * (3 << 12)
    with daemons(tmp_path, script) as running:
        use(monkeypatch, running.env)
        async with gexec.stream(["cat"], nodes=NODES[:1], stdin=True) as job:
            await job.write(data)
            job.close_stdin()
            assert [type(event) async for event in job] == [gexec.Exited]
    assert bytes(taken) == data


async def test_leaving_the_block_kills_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(peer: Peer) -> None:
        peer.accept()
        peer.say(RanksStarted(((0, 2),)), Output(((0, 2),), STDOUT, 0, b"tick\n"))
        assert peer.until(Kill) == Kill(False)
        peer.finish(2, killed(1), (5, 0))

    with daemons(tmp_path, script) as running:
        use(monkeypatch, running.env)
        async with gexec.stream(["vmstat", "1"], nodes=NODES, remote_path=True) as job:
            async for event in job:
                if isinstance(event, gexec.Stdout):
                    break
        assert job.exit_status == 129


async def test_stream_when_gexecd_ends_or_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(peer: Peer) -> None:
        peer.accept()

    (tmp_path / "a").mkdir()
    with daemons(tmp_path / "a", dying) as running:
        use(monkeypatch, running.env)
        async with gexec.stream(["true"], nodes=NODES) as job:
            events = [event async for event in job]
            await asyncio.wait_for(job.write(b"nobody"), 30)
    gone = lost("the local gexecd ended")
    assert events == [gexec.Lost(0, NODES[0], gone), gexec.Lost(1, NODES[1], gone)]

    def silent(peer: Peer) -> None:
        pass

    (tmp_path / "b").mkdir()
    with daemons(tmp_path / "b", silent) as running:
        use(monkeypatch, running.env)
        with pytest.raises(gexec.DaemonError, match="closed the connection before it took the job"):
            async with gexec.stream(["true"], nodes=NODES):
                pass


def test_what_a_process_of_a_job_may_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEXEC_MY_VNN", "3")
    monkeypatch.setenv("GEXEC_NPROCS", "8")
    monkeypatch.setenv("GEXEC_GPID", "7f000001:1:2")
    assert (gexec.my_vnn(), gexec.nprocs(), gexec.gpid()) == (3, 8, "7f000001:1:2")
    monkeypatch.setenv("GEXEC_NPROCS", "x")
    with pytest.raises(gexec.UsageError, match="GEXEC_NPROCS is 'x'"):
        gexec.nprocs()
    monkeypatch.delenv("GEXEC_MY_VNN")
    with pytest.raises(gexec.UsageError, match="was not started by gexec"):
        gexec.my_vnn()


def test_run_and_stream_share_the_scripted_hello(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with daemons(tmp_path, hello_script) as running:
        use(monkeypatch, running.env)
        result = gexec.run(["true"], nodes=[*NODES, NODES[0]])
    assert [node.stdout for node in result.results] == [b"hello\n"] * 3
    assert result.ok
