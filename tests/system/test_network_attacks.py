"""Attacks over the network: each is refused, said in one sentence of the log, and harms nobody.

The numbers are those of the list of attacks in docs/security.md. After each test the cluster still
runs a command on all nodes.
"""

from __future__ import annotations

import os
import pickle
import pwd
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gexec import limits
from gexec.security.signing import issue
from gexec.wire import frames
from gexec.wire import outcome as outcomes
from gexec.wire.jobspec import JobSpec

from . import rogue
from .conftest import DEADLINE_S, Cluster, wait_until
from .rogue import Told, Wire


@pytest.fixture(autouse=True)
def still_serves(cluster: Cluster) -> Iterator[None]:
    yield
    rogue.healthy(cluster)


@pytest.fixture
def witness(tmp_path: Path) -> Path:
    """A file into which every process of an attack writes a line."""
    return tmp_path / "ran"


Submit = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def submit(cluster: Cluster) -> Iterator[Submit]:
    """Start gexec on these nodes, of which one is the listener; the tree is a chain by default."""
    started = []

    def start(
        listener: rogue.Listener, names: list[str], script: str, fanout: int = 1, **options: Any
    ) -> subprocess.Popen[str]:
        nodes = ",".join(f"{name}:{listener.port}" if name == listener.name else name for name in names)
        settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process: subprocess.Popen[str] = cluster.popen(
            "-f", fanout, "-p", "host", "-w", nodes, "sh", "-c", script, text=True, cwd="/",
            env={"GEXEC_HOSTS": _hosts(cluster, **{listener.name: listener.ip})}, **(settings | options),
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


# -- before anybody is known ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "cause"),
    [
        (b"GET / HTTP/1.1\r\nHost: node001\r\n\r\n", "plain HTTP"),
        (b"ls -l\n" * 20, "not TLS"),
        (frames.encode(0, frames.Hello(1, "gexec without TLS")) + bytes(64), "TLS failed"),
        (bytes(range(256)) * 16, "TLS failed"),
        (b"", "closed"),
    ],
)
def test_attack_35_no_tls(cluster: Cluster, sent: bytes, cause: str) -> None:
    told, source = Told(cluster, "node002"), rogue.fresh_source()
    with rogue.tcp(cluster, "node002", source) as sock:
        sock.sendall(sent)
        if not sent:
            sock.shutdown(socket.SHUT_WR)
        answer = _rest(sock)
    assert len(answer) < 64  # a TLS alert at the most
    line = told.line(source)
    assert cause in line or (cause == "closed" and "connection" in line), line


def test_attack_36_tls_12_client(cluster: Cluster) -> None:
    told, source = Told(cluster, "node002"), rogue.fresh_source()
    identity = rogue.certified(cluster, "node003")
    context = identity.dialling(
        minimum_version=ssl.TLSVersion.TLSv1_2, maximum_version=ssl.TLSVersion.TLSv1_2
    )
    with rogue.tcp(cluster, "node002", source) as sock, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(sock)
    assert "not support TLS 1.3" in told.line(source)


def _refused(cluster: Cluster, context: ssl.SSLContext) -> str:
    """Dial with this context, say Hello and Start; return what the log says when it is refused."""
    told, source = Told(cluster, "node002"), rogue.fresh_source()
    sock = context.wrap_socket(rogue.tcp(cluster, "node002", source))
    with Wire(sock, frames.FROM_CHILD) as wire:
        wire.send(0, frames.Hello(1, "rogue"))
        assert wire.until_end() == []
    return told.line(source)


def test_attack_37_wrong_ca(cluster: Cluster) -> None:
    identity = rogue.made(rogue.foreign_key(), "node003")
    assert "its certificate was refused" in _refused(cluster, identity.dialling())


def test_attack_37_daemon_with_wrong_ca_is_dialled(cluster: Cluster) -> None:
    """A node of another cluster stands where ours should be: nothing is sent there."""
    foreign = rogue.made(rogue.foreign_key(), "node002")
    with rogue.Listener(cluster, "node002") as listener:
        listener.be(foreign)
        process = cluster.popen(
            "-w", f"node002:{listener.port}", "true",
            env={"GEXEC_HOSTS": _hosts(cluster, node002=listener.ip)},
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            listener.accept()
        _, stderr = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 255
    assert "node002" in stderr, stderr
    assert "not started" in stderr, stderr
    assert "certificate was refused" in stderr, stderr


def test_attack_38_expired_certificate(cluster: Cluster) -> None:
    # Certificates are valid from a day before they are made.
    identity = rogue.made(rogue.cluster_key(cluster), "node003", now_s=time.time() - 10 * 86400, ttl_s=86400)
    line = _refused(cluster, identity.dialling())
    assert "its certificate was refused" in line, line
    assert "expired" in line, line


def test_attack_38_certificate_of_tomorrow(cluster: Cluster) -> None:
    identity = rogue.made(rogue.cluster_key(cluster), "node003", now_s=time.time() + 10 * 86400)
    line = _refused(cluster, identity.dialling())
    assert "its certificate was refused" in line, line
    assert "not yet valid" in line, line


def test_attack_39_wrong_host_name(cluster: Cluster, witness: Path) -> None:
    """A name leads to another node: that rank is refused, the others run."""
    hosts = _hosts(cluster, node003=cluster.state.node("node004").address)
    done = cluster.gexec(
        "-w", "node002,node003,node004", "sh", "-c", f"echo $GEXEC_NODE >>{witness}",
        env={"GEXEC_HOSTS": hosts}, text=True,
    )  # fmt: skip
    assert done.returncode == 255
    assert "not started" in done.stderr, done.stderr
    assert "node003" in done.stderr, done.stderr
    assert "its certificate was refused" in done.stderr, done.stderr
    assert sorted(rogue.lines_of(witness)) == ["node002", "node004"]


def test_attack_40_node_certificate_used_to_submit(cluster: Cluster, witness: Path) -> None:
    job = rogue.job(cluster, ["node002"], f"echo x >>{witness}")
    told = Told(cluster, "node002")
    with rogue.dial(cluster, "node002") as wire:
        wire.send(1, frames.Submit(job.credential, job.blob))
        assert wire.until_end() == []
    line = told.line("rogue (127.", "protocol violation")
    assert "frame type 16 is not expected" in line, line
    assert not witness.exists()


def test_attack_40_start_from_a_client(cluster_of: Callable[..., Cluster], witness: Path) -> None:
    cluster = cluster_of(1)  # whose log no other client of this user has used up
    job = rogue.job(cluster, ["node001"], f"echo x >>{witness}")
    told = Told(cluster, "node001")
    with rogue.client(cluster) as wire:
        wire.send(1, job.start())
        assert wire.until_end() == []
    assert "frame type 17 is not expected" in told.line(f"client (pid {os.getpid()}, uid {os.geteuid()})")
    assert not witness.exists()


def test_attack_41_no_certificate(cluster: Cluster) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    assert "it sent no certificate" in _refused(cluster, context)


# -- on the way -------------------------------------------------------------------------------

_NUMBERS = "".join(f"{number}\n" for number in range(1, 60001)).encode()


def _altering(which: Callable[[int], bool]) -> Callable[[int, bool, int, bytes], bytes]:
    def alter(number: int, down: bool, passed: int, data: bytes) -> bytes:
        at = 20_000 - passed
        if down or not which(number) or not 0 <= at < len(data):
            return data
        return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]

    return alter


def test_attack_42_bit_flipped_once(cluster: Cluster) -> None:
    """One flipped bit: the connection ends, another one goes on, and every byte is right."""
    told = Told(cluster, "node001")
    with rogue.Proxy(cluster, "node002", _altering(lambda number: number == 0)) as proxy:
        done = cluster.gexec(
            "-p", "none", "-w", f"node002:{proxy.port}", "seq", "60000",
            env={"GEXEC_HOSTS": _hosts(cluster, node002=proxy.ip)},
        )  # fmt: skip
        assert proxy.connections == 2
    assert "altered on the way" in told.line(f"node002 ({proxy.ip}:")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == _NUMBERS


def test_attack_42_bit_flipped_always(cluster: Cluster) -> None:
    """A link that always alters something: the node is lost, and what came of it is right."""
    with rogue.Proxy(cluster, "node002", _altering(lambda number: True)) as proxy:
        done = cluster.gexec(
            "-p", "none", "-w", f"node002:{proxy.port},node003", "seq", "60000",
            env={"GEXEC_HOSTS": _hosts(cluster, node002=proxy.ip)},
        )  # fmt: skip
    assert done.returncode == 255
    assert b"node002" in done.stderr, done.stderr
    assert b"lost" in done.stderr, done.stderr
    lines = done.stdout.splitlines(keepends=True)
    assert set(lines) <= set(_NUMBERS.splitlines(keepends=True))
    assert len(lines) >= 60000  # all of node003's


# -- the parser -------------------------------------------------------------------------------


def _ended_by(cluster: Cluster, *sent: bytes, hello: bool = True) -> str:
    """Send bytes on a link of its own; return what the log says when that ends it."""
    told, source = Told(cluster, "node002"), rogue.fresh_source()
    if hello:
        wire = rogue.dial(cluster, "node002", source=source)
    else:
        identity = rogue.certified(cluster, "rogue")
        sock = identity.dialling().wrap_socket(rogue.tcp(cluster, "node002", source))
        wire = Wire(sock, frames.FROM_CHILD)
    with wire:
        for data in sent:
            wire.send_raw(data)
        for frame in wire.until_end():
            assert isinstance(frame, frames.Hello | frames.Refused), frame
    line = told.line(source, "protocol violation")
    assert f"rogue ({source}:" in line, line
    return line


@pytest.mark.parametrize("length", [0xFFFFFFFF, 2**31, limits.JOB_FRAME_MAX_BYTES + 1])
def test_attack_43_lengths_of_a_start(cluster: Cluster, length: int) -> None:
    line = _ended_by(cluster, frames.HEADER.pack(length, frames.Start.TYPE, 1))
    assert f"Start frame of {length} bytes is over its limit" in line


def test_attack_43_length_0(cluster: Cluster) -> None:
    assert "malformed" in _ended_by(cluster, frames.HEADER.pack(0, frames.Start.TYPE, 1))


def test_attack_43_length_of_the_credential(cluster: Cluster) -> None:
    payload = struct.pack("!IIIBH", 1, 0, 1, 0, 0xFFFF) + b"x" * 10
    line = _ended_by(cluster, frames.HEADER.pack(len(payload), frames.Start.TYPE, 1) + payload)
    assert "credential of 65535 bytes" in line


def test_attack_44_over_the_limit(cluster: Cluster) -> None:
    line = _ended_by(cluster, frames.HEADER.pack(limits.FRAME_MAX_BYTES + 1, frames.Stdin.TYPE, 1))
    assert "Stdin frame of 262145 bytes is over its limit" in line


def test_attack_44_a_job_before_hello(cluster: Cluster) -> None:
    job = rogue.job(cluster, ["node002"], "true")
    line = _ended_by(cluster, frames.encode(1, job.start()), hello=False)
    assert "Start before Hello" in line


@pytest.mark.parametrize(
    ("channel", "frame", "cause"),
    [
        (0, frames.Hello(1, "again"), "a second Hello"),
        (0, frames.Close(), "Close on channel 0"),
        (0, frames.Stdin(0, b"x"), "Stdin on channel 0"),
        (1, frames.RanksStarted(((0, 1),)), "frame type 34 is not expected"),
        (1, frames.Accepted(bytes(16)), "frame type 32 is not expected"),
        (1, frames.Certify(b"key", ("node002",)), "frame type 66 is not expected"),
        (1, frames.Sign(b"gexec", b"job"), "frame type 64 is not expected"),
    ],
)
def test_attack_45_wrong_state(cluster: Cluster, channel: int, frame: frames.Frame, cause: str) -> None:
    assert cause in _ended_by(cluster, frames.encode(channel, frame))


def test_attack_45_ping_before_hello(cluster: Cluster) -> None:
    assert "Ping before Hello" in _ended_by(cluster, frames.encode(0, frames.Ping(1)), hello=False)


def test_attack_45_another_version(cluster: Cluster) -> None:
    line = _ended_by(cluster, frames.encode(0, frames.Hello(99, "gexec 9")), hello=False)
    assert "protocol 99" in line
    assert f"protocol {limits.PROTOCOL_VERSION} " in line


def test_attack_45_frames_of_no_job(cluster: Cluster) -> None:
    """What speaks of a job that is not there may come late, so it is let be."""
    with rogue.dial(cluster, "node002") as wire:
        wire.send(7, frames.Stdin(0, b"x", True), frames.Signal(9), frames.Kill(True), frames.Close())
        wire.send(7, frames.Go(), frames.Release(), frames.Resync(2**32 - 1), frames.Ack(((0, 1, 99),)))
        wire.send(0, frames.Ping(5))
        assert wire.expect(frames.Pong) == frames.Pong(5)


@pytest.mark.parametrize("kind", [0, 5, 15, 40, 99, 255])
def test_attack_46_unknown_type(cluster: Cluster, kind: int) -> None:
    line = _ended_by(cluster, frames.HEADER.pack(4, kind, 1) + b"abcd")
    assert f"frame type {kind} is not expected" in line


def test_attack_47_second_start(cluster: Cluster, witness: Path) -> None:
    """The same Start on another link: stale, and no second process."""
    job = rogue.job(cluster, ["node002"], f"echo $$ >>{witness}; exec sleep 100")
    with rogue.dial(cluster, "node002") as first, rogue.dial(cluster, "node002") as second:
        first.send(1, job.start(epoch=5))
        first.expect(frames.RanksStarted)
        for epoch in (5, 1):
            second.send(epoch, job.start(epoch=epoch))
            refused = second.expect(frames.Refused)
            assert (refused.code, refused.epoch) == (frames.REFUSED_STALE, 5)
        # A higher epoch takes it over, still without a second process.
        second.send(9, job.start(epoch=6))
        assert second.expect(frames.Accepted, frames.RanksStarted)
        assert first.expect(frames.Refused).code == frames.REFUSED_STALE
        second.send(9, frames.Kill(True))
        ended = second.expect(frames.Ended)
        assert ended.outcome == outcomes.killed(9)
        second.send(9, frames.Close())
    assert len(rogue.lines_of(witness)) == 1


def test_attack_47_start_of_something_else_on_the_same_channel(cluster: Cluster, witness: Path) -> None:
    other = rogue.job(cluster, ["node002"], f"echo other >>{witness}")
    for change in ({}, {"high": 60000}, {"low": 1, "high": 2}):
        job = rogue.job(cluster, ["node002"] * 3, "exec sleep 100")
        second = job.start(epoch=9, **change) if change else other.start(epoch=9)
        told, source = Told(cluster, "node002"), rogue.fresh_source()
        with rogue.dial(cluster, "node002", source=source) as wire:
            wire.send(1, job.start())
            wire.expect(frames.RanksStarted)
            wire.send(1, second)
            wire.until_end()
        told.line(source, "a second Start on one channel")
        # Another parent may take over what the link has left behind.
        with rogue.dial(cluster, "node002") as wire:
            wire.send(1, job.start(epoch=9, attach_only=True))
            wire.expect(frames.Accepted)
            wire.send(1, frames.Kill(True))
            assert wire.expect(frames.Ended).outcome == outcomes.killed(9)
            wire.send(1, frames.Close())
    assert not witness.exists()


def test_attack_48_rank_out_of_range(cluster: Cluster, witness: Path) -> None:
    job = rogue.job(cluster, ["node002"] * 3, f"echo x >>{witness}")
    for low, high in ((0, 4), (3, 4), (65535, 65536)):
        assert f"ranks [{low}, {high}) of a job of 3" in _ended_by(
            cluster, frames.encode(1, job.start(low, high))
        )
    for low, high in ((0, 0), (2, 1), (0, 65537), (2**32 - 1, 2**32 - 1)):
        payload = struct.pack("!IIIBH", 1, low, high, 0, len(job.credential)) + job.credential + job.blob
        line = _ended_by(cluster, frames.HEADER.pack(len(payload), frames.Start.TYPE, 1) + payload)
        assert f"ranks [{low}, {high}) are not a range" in line
    assert not witness.exists()


# -- the tree ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fanout", [1, 2, 16])
def test_attack_49_one_node_many_times(cluster: Cluster, fanout: int) -> None:
    """A node that is its own child, grandchild and cousin: each rank runs once."""
    nodes = [
        "node001",
        "node002",
        "node002",
        "node001",
        "node001",
        "node002",
        "node001",
        "node003",
        "node001",
    ]
    done = cluster.gexec(
        "-f", fanout, "-p", "none", "-w", ",".join(nodes), "sh", "-c",
        "echo $GEXEC_MY_VNN $GEXEC_NODE", text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == [f"{rank} {name}" for rank, name in enumerate(nodes)]


def test_attack_49_ranks_of_which_a_child_is_its_own_parent(cluster: Cluster, witness: Path) -> None:
    """Two parents give one node overlapping ranges: every rank runs once at the most."""
    names = ["node002", "node003", "node002", "node003"]
    job = rogue.job(cluster, names, f"echo $GEXEC_MY_VNN >>{witness}", fanout=1)
    with rogue.dial(cluster, "node002") as one, rogue.dial(cluster, "node003") as other:
        one.send(1, job.start(0, 4))
        other.send(1, job.start(1, 4, epoch=1))
        other.send(2, job.start(3, 4, epoch=1))
        _await_ends(one, (1, 0))
        _await_ends(other, (1, 1), (2, 3))
        one.send(1, frames.Close())
        other.send(1, frames.Close())
        other.send(2, frames.Close())
    ran = rogue.lines_of(witness)
    assert len(ran) == len(set(ran))
    assert "0" in ran


@pytest.mark.parametrize("fanout", [0, 0xFFFF, limits.FANOUT_MAX + 1])
def test_attack_50_fanout_in_the_blob(cluster: Cluster, witness: Path, fanout: int) -> None:
    good = rogue.spec_of(cluster, ["node002"], f"echo x >>{witness}").encode()
    # magic 4, length 4, flags 4: then the fan-out
    blob = good[:12] + struct.pack("!H", fanout) + good[14:]
    credential = rogue.signed(cluster, blob)
    with rogue.dial(cluster, "node002") as wire:
        wire.send(1, frames.Start(1, 0, 1, credential, blob))
        refused = wire.expect(frames.Refused)
        assert refused.code == frames.REFUSED_DENIED
        assert f"fan-out {fanout}" in refused.text
    with rogue.client(cluster) as local:
        local.send(1, frames.Submit(credential, blob))
        assert f"fan-out {fanout}" in local.expect(frames.Refused).text
    assert not witness.exists()


@pytest.mark.parametrize("fanout", ["0", "-1", "1000000000", "x", ""])
def test_attack_50_fanout_on_the_command_line(cluster: Cluster, witness: Path, fanout: str) -> None:
    done = cluster.gexec(f"--fanout={fanout}", "-n", 0, "touch", witness, text=True)
    assert done.returncode == 2, done.stderr
    assert "fan" in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert not witness.exists()


@pytest.mark.parametrize("name", [b"Submit", b"_start", b"__init__", b"job_finished", b"drain", b"exec"])
def test_attack_53_an_internal_name_as_message(cluster: Cluster, name: bytes) -> None:
    _ended_by(cluster, name + b"\0" * 16)
    _ended_by(cluster, frames.HEADER.pack(len(name), frames.Start.TYPE, 1) + name)


class _Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"echo x >>{self.path}",)


def test_attack_54_pickle_as_payload(cluster: Cluster, witness: Path) -> None:
    harm = pickle.dumps(_Harm(witness))
    credential = rogue.signed(cluster, harm)
    with rogue.dial(cluster, "node002") as wire:
        wire.send(1, frames.Start(1, 0, 1, credential, harm))
        assert wire.expect(frames.Refused).code == frames.REFUSED_DENIED
        wire.send(2, frames.Start(1, 0, 1, harm, harm))
        assert wire.expect(frames.Refused).code == frames.REFUSED_DENIED
    with rogue.client(cluster) as local:
        local.send(1, frames.Submit(credential, harm))
        assert local.expect(frames.Refused).code == frames.REFUSED_DENIED
    _ended_by(cluster, harm)
    assert not witness.exists()


# -- jobs that were altered, or seen before ---------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"argv": [b"sh", b"-c", b"echo altered >>WITNESS"]}, id="15-argv"),
        pytest.param({"program": b"/bin/echo"}, id="15-program"),
        pytest.param({"env": [b"PATH=/usr/bin:/bin", b"LD_PRELOAD=/tmp/evil.so"]}, id="16-env"),
        pytest.param({"cwd": b"/tmp"}, id="17-cwd"),
        pytest.param({"names": [b"node002", b"node004"]}, id="18-names"),
        pytest.param({"addresses": [b"127.0.0.1:1", b"127.0.0.1:2"]}, id="18-addresses"),
        pytest.param({"flags": 1}, id="19-detached"),
        pytest.param({"umask": 0}, id="19-umask"),
        pytest.param({"timeout_s": 1.0}, id="19-timeout"),
        pytest.param({"salt": 1}, id="19-salt"),
    ],
)
def test_attack_15_to_19_altered_by_an_inner_node(
    cluster: Cluster, submit: Submit, witness: Path, change: dict[str, Any]
) -> None:
    """A rogue inner node passes on something else than it was given: nothing runs."""
    if "argv" in change:
        change = {"argv": [b"sh", b"-c", f"echo altered >>{witness}".encode()]}
    with rogue.Listener(cluster, "rogue") as listener:
        process = submit(listener, ["rogue", "node002"], f"echo ran >>{witness}")
        with listener.accept() as up:
            start = up.expect(frames.Start)
            assert (start.low, start.high) == (0, 2)
            spec = JobSpec.decode(start.blob)
            altered = rogue.with_changes(spec, **change)
            with rogue.dial(cluster, "node002") as down:
                down.send(1, rogue.replace_start(start, low=1, high=2, blob=altered))
                refused = down.expect(frames.Refused)
            assert refused.code == frames.REFUSED_DENIED
            assert "not the one that the credential was signed for" in refused.text
            assert not witness.exists()
        # The root takes over what the rogue had below it.
        stdout, stderr = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 255, (stdout, stderr)
    assert "rogue" in stderr, (stdout, stderr)
    assert rogue.lines_of(witness) in ([], ["ran"])


def test_attack_20_replay(cluster: Cluster, witness: Path) -> None:
    """A captured Start, again and again, on all ways: the job ran once, and that was it."""
    job = rogue.job(cluster, ["node002"], f"set -C; echo x >{witness} && echo new")
    for attempt in range(3):
        with rogue.dial(cluster, "node002") as wire:
            wire.send(1, job.start())
            ended = wire.expect(frames.Ended)
            wire.send(1, frames.Close())
        if attempt == 0:
            assert ended.outcome == outcomes.exited(0)
            witness.unlink()
        else:
            assert ended.outcome.kind == outcomes.DENIED
            assert "already" in ended.outcome.text or "before" in ended.outcome.text, ended.outcome.text
    with rogue.dial(cluster, "node002") as wire:
        wire.send(1, job.start(epoch=7))
        assert wire.expect(frames.Ended).outcome.kind in (outcomes.DENIED, outcomes.LOST)
        wire.send(1, frames.Close())
    with rogue.client(cluster) as local:
        local.send(1, frames.Submit(job.credential, job.blob))
        assert local.expect(frames.Ended).outcome.kind == outcomes.DENIED
    assert not witness.exists()


def test_attack_20_submitted_twice(cluster: Cluster, witness: Path) -> None:
    job = rogue.job(cluster, ["node002"], f"echo x >>{witness}; exec sleep 100")
    with rogue.client(cluster) as first, rogue.client(cluster) as second:
        first.send(1, frames.Submit(job.credential, job.blob))
        first.expect(frames.RanksStarted)
        second.send(1, frames.Submit(job.credential, job.blob))
        assert "before" in second.expect(frames.Refused).text
        first.send(1, frames.Kill(True))
        assert first.expect(frames.Ended).outcome == outcomes.killed(9)
    assert rogue.lines_of(witness) == ["x"]


def test_attack_23_on_a_host_that_is_no_target(cluster: Cluster, witness: Path) -> None:
    job = rogue.job(cluster, ["node002", "node003"], f"echo x >>{witness}")
    for rank, wrong in ((0, "node004"), (0, "node003"), (1, "node002"), (1, "node001")):
        with rogue.dial(cluster, wrong) as wire:
            wire.send(1, job.start(rank))
            ended = wire.expect(frames.Ended)
            wire.send(1, frames.Close())
        assert ended.outcome.kind == outcomes.DENIED
        assert f"the job is for node00{rank + 2}, which is none of this node's names" in ended.outcome.text
    assert not witness.exists()


def test_attack_24_hosts_and_links_race_for_one_rank(cluster: Cluster, witness: Path) -> None:
    job = rogue.job(cluster, ["node002"], f"echo $GEXEC_NODE >>{witness}")
    where = ["node002", "node003", "node002", "node004", "node002"]
    wires = [rogue.dial(cluster, name) for name in where]
    try:
        for wire in wires:
            wire.send(1, job.start())
        came = [wire.expect(frames.Ended, frames.Refused) for wire in wires]
    finally:
        for wire in wires:
            wire.send(1, frames.Close())
            wire.sock.close()
    right = [one for one in came if isinstance(one, frames.Ended) and one.outcome == outcomes.exited(0)]
    assert len(right) == 1, came
    assert rogue.lines_of(witness) == ["node002"]


# -- who asks ---------------------------------------------------------------------------------


def test_attack_29_credential_of_another_user(cluster: Cluster, witness: Path) -> None:
    """A credential that says another uid, even with a right signature, is not taken from this one."""
    spec = rogue.spec_of(cluster, ["node002"], f"echo x >>{witness}")
    blob = spec.encode()
    other = pwd.getpwuid(1 if os.geteuid() != 1 else 2)
    credential = issue(
        rogue.cluster_key(cluster),
        realm="gexec", audience="gexec", host="node001", uid=other.pw_uid, gid=other.pw_gid,
        user=other.pw_name, now_s=time.time(), ttl_s=60, job_id=os.urandom(16),
        digest=sha256(blob).digest(),
    )  # fmt: skip
    with rogue.client(cluster) as wire:
        wire.send(1, frames.Submit(credential, blob))
        refused = wire.expect(frames.Refused)
    assert refused.code == frames.REFUSED_DENIED
    assert refused.text == f"the credential is of uid {other.pw_uid}, but uid {os.geteuid()} submits it"
    assert not witness.exists()


@pytest.mark.root
def test_attack_29_stolen_credential_of_root(cluster: Cluster, witness: Path) -> None:
    """Another user got hold of root's credential and job: he may not submit them."""
    job = rogue.job(cluster, ["node002"], f"echo x >>{witness}")
    nobody = pwd.getpwnam("nobody")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(nobody.pw_gid, nobody.pw_gid, nobody.pw_gid)
            os.setresuid(nobody.pw_uid, nobody.pw_uid, nobody.pw_uid)
            with rogue.client(cluster) as wire:
                wire.send(1, frames.Submit(job.credential, job.blob))
                os.write(writing, wire.expect(frames.Refused).text.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    assert text == f"the credential is of uid 0, but uid {nobody.pw_uid} submits it"
    assert not witness.exists()


def test_attack_73_signal_to_another_job(cluster: Cluster, witness: Path) -> None:
    """Signals and kills from whoever is not the job's parent reach nothing."""
    job = rogue.job(
        cluster,
        ["node002"],
        f"trap 'echo signal >>{witness}' USR1 TERM HUP; echo up; while :; do sleep 0.05; done",
    )
    with (
        rogue.client(cluster) as owner,
        rogue.client(cluster) as other,
        rogue.dial(cluster, "node002") as link,
    ):
        owner.send(1, frames.Submit(job.credential, job.blob))
        owner.expect(frames.Output)
        for channel in (1, 2, 2**32 - 1):
            for wire in (other, link):
                wire.send(channel, frames.Signal(10), frames.Kill(False), frames.Kill(True), frames.Close())
        for wire in (other, link):
            wire.send(0, frames.Ping(1))
            wire.expect(frames.Pong)
        owner.send(1, frames.Signal(10))
        wait_until(witness.exists, "the owner's own signal did not come")
        assert rogue.lines_of(witness) == ["signal"]
        owner.send(1, frames.Kill(True))
        assert owner.expect(frames.Ended).outcome == outcomes.killed(9)


def test_attack_74_attach_to_another_job(cluster: Cluster, witness: Path) -> None:
    """Without the job's own credential there is no way to its streams."""
    job = rogue.job(cluster, ["node002"], "echo secret; exec sleep 100")
    mine = rogue.job(cluster, ["node002"], f"echo x >>{witness}")
    with rogue.client(cluster) as owner, rogue.dial(cluster, "node002") as link:
        owner.send(1, frames.Submit(job.credential, job.blob))
        owner.expect(frames.Output)
        link.send(1, mine.start(epoch=2**32 - 1, attach_only=True))
        assert link.expect(frames.Refused, channel=1).code == frames.REFUSED_UNKNOWN
        link.send(2, job.start(epoch=2**31, attach_only=True, credential=mine.credential))
        assert link.expect(frames.Refused, channel=2).code == frames.REFUSED_DENIED
        flipped = job.credential[:-1] + bytes((job.credential[-1] ^ 1,))
        link.send(3, job.start(epoch=2**31, attach_only=True, credential=flipped))
        assert link.expect(frames.Refused, channel=3).code == frames.REFUSED_DENIED
        owner.send(1, frames.Kill(True))
        assert owner.expect(frames.Ended).outcome == outcomes.killed(9)
    assert not witness.exists()


# -- rogue inner nodes ------------------------------------------------------------------------


def test_attack_75_stdin_injected_by_an_inner_node(cluster: Cluster, submit: Submit, tmp_path: Path) -> None:
    """What it may do: disturb the I/O of the job that passes it. Other jobs do not notice."""
    other = rogue.job(cluster, ["node003"], "cat")
    with (
        rogue.Listener(cluster, "rogue") as listener,
        rogue.dial(cluster, "node003") as honest,
    ):
        honest.send(1, other.start())
        honest.expect(frames.RanksStarted)
        process = submit(listener, ["rogue", "node003"], "cat", stdin=subprocess.PIPE)
        with listener.accept() as up:
            start = up.expect(frames.Start)
            with rogue.dial(cluster, "node003") as down:
                down.send(1, rogue.replace_start(start, low=1, high=2))
                down.send(1, frames.Stdin(0, b"injected\n", True))
                assert down.expect(frames.Output).data == b"injected\n"
                down.expect(frames.Ended)
        honest.send(1, frames.Stdin(0, b"mine\n", True))
        assert honest.expect(frames.Output).data == b"mine\n"
        assert honest.expect(frames.Ended).outcome == outcomes.exited(0)
        honest.send(1, frames.Close())
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 255


def test_attack_77_inner_child_that_forges_ranks_beside_and_above_it(
    cluster: Cluster, submit: Submit
) -> None:
    """A rogue with an honest parent: siblings, their deeper ranks, and ranks above are not its own."""
    # Fan-out 2: node002 has [0, 4), of which the rogue is rank 1, with rank 2 below it; 3 is its sibling.
    names = ["node002", "rogue", "node004", "node005", "node006", "node007", "node008"]
    unknown = frames.LENGTH_UNKNOWN
    with rogue.Listener(cluster, "rogue") as listener:
        process = submit(listener, names, "read line; echo right", fanout=2, stdin=subprocess.PIPE)
        with listener.accept() as up:
            start = up.expect(frames.Start)
            assert (start.low, start.high) == (1, 3)
            up.send(1, frames.Accepted(bytes(16)))
            for ranks in (((0, 1),), ((3, 4),), ((4, 7),), ((5, 6),), ((0, 1), (3, 65536)), ((7, 8),)):
                up.send(1, frames.RanksStarted(ranks), frames.Ready(ranks))
                up.send(1, frames.Output(ranks, 1, 0, b"forged\n"))
                up.send(1, frames.Ended(ranks, outcomes.exited(0), 7, 0))
                up.send(1, frames.Ended(ranks, outcomes.lost("forged"), unknown, unknown))
            # Its own rank, and the one below it, are its own.
            up.send(1, frames.Output(((0, 65536),), 1, 0, b"mine\n"))
            up.send(1, frames.Ended(((0, 65536),), outcomes.exited(3), 5, 0))
            stdout, stderr = process.communicate("go\n", timeout=DEADLINE_S)
    assert process.returncode == 3, stderr
    honest = [f"{name} right" for name in names if name not in ("rogue", "node004")]
    assert sorted(stdout.splitlines()) == sorted([*honest, "rogue mine", "node004 mine"])


def test_attack_75_stdin_injected_beside_and_above(cluster: Cluster, submit: Submit) -> None:
    """A rogue inner node has the ranks below it, and no others: siblings, deeper ranks, ranks above."""
    names = ["node002", "rogue", "node004", "node005", "node006", "node007", "node008"]
    with rogue.Listener(cluster, "rogue") as listener:
        process = submit(listener, names, "cat", fanout=2, stdin=subprocess.PIPE)
        with listener.accept() as up:
            start = up.expect(frames.Start)
            me = rogue.certified(cluster, "rogue")
            for rank, name in enumerate(names):
                if rank in (1, 2):
                    continue
                with rogue.dial(cluster, name, me) as down:
                    for high in {rank + 1, {0: 4, 4: 7}.get(rank, rank + 1)}:
                        low = rogue.replace_start(start, low=rank, high=high, epoch=2**32 - 1)
                        down.send(1, low, frames.Stdin(0, b"injected\n", True))
                        assert down.expect(frames.Refused).code == frames.REFUSED_DENIED
            with rogue.dial(cluster, "node004", me) as down:
                down.send(1, rogue.replace_start(start, low=2, high=3, epoch=2**32 - 1))
                down.send(1, frames.Stdin(0, b"injected\n", True))
                assert down.expect(frames.Output).data == b"injected\n"
                down.expect(frames.Ended)
                down.send(1, frames.Close())
            up.send(1, frames.StdinTaken(frames.OFFSET_ALL))
            up.send(1, frames.Ended(((1, 3),), outcomes.exited(0), 0, 0))
            stdout, stderr = process.communicate("mine\n", timeout=DEADLINE_S)
    assert process.returncode == 0, stderr
    honest = [f"{name} mine" for name in names if name not in ("rogue", "node004")]
    assert sorted(stdout.splitlines()) == sorted(honest)


def test_attack_77_child_that_says_stale(cluster_of: Callable[..., Cluster]) -> None:
    """It has no other parent, and its parent is not the root: its ranks are lost, the job ends."""
    cluster = cluster_of(8)
    names = ["node002", "rogue", "node004", "node005", "node006", "node007", "node008"]
    with rogue.Listener(cluster, "rogue") as listener:
        nodes = [f"{name}:{listener.port}" if name == "rogue" else name for name in names]
        process = cluster.popen(
            "-f", 2, "-p", "host", "-w", ",".join(nodes), "echo", "right", text=True, cwd="/",
            env={"GEXEC_HOSTS": _hosts(cluster, rogue=listener.ip)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        with listener.accept() as up:
            up.expect(frames.Start)
            up.send(1, frames.Refused(frames.REFUSED_STALE, "another parent has this node", 2**32 - 1))
            stdout, stderr = process.communicate(timeout=limits.TAKEN_S + DEADLINE_S)
    assert process.returncode == 255
    assert sorted(stdout.splitlines()) == [
        f"{name} right" for name in names if name not in ("rogue", "node004")
    ]
    assert "rogue: lost: it says that it has another parent, but none took over within 35 s" in stderr
    assert "node004: lost: rank 1, on the way to it, says that it has another parent" in stderr


def test_attack_76_child_outside_the_job(cluster: Cluster, submit: Submit, witness: Path) -> None:
    """A rogue inner node sends the job to nodes that are not in it: they refuse."""
    with rogue.Listener(cluster, "rogue") as listener:
        process = submit(listener, ["rogue", "node002"], f"echo $GEXEC_NODE >>{witness}")
        with listener.accept() as up:
            start = up.expect(frames.Start)
            for name in ("node003", "node004", "node001"):
                for low in (0, 1):
                    with rogue.dial(cluster, name) as down:
                        down.send(1, rogue.replace_start(start, low=low, high=low + 1))
                        assert down.expect(frames.Ended).outcome.kind == outcomes.DENIED
                        down.send(1, frames.Close())
            assert not witness.exists()
        process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 255
    assert rogue.lines_of(witness) == ["node002"]


def test_attack_77_child_that_forges_ranks(cluster: Cluster, submit: Submit) -> None:
    """What a child says about ranks that are not below it is as if it had not been said."""
    names = ["node002", "rogue", "node003"]
    unknown = frames.LENGTH_UNKNOWN
    with rogue.Listener(cluster, "rogue") as listener:
        process = submit(listener, names, "read line; echo right", fanout=16, stdin=subprocess.PIPE)
        with listener.accept() as up:
            start = up.expect(frames.Start)
            assert (start.low, start.high) == (1, 2)
            up.send(1, frames.RanksStarted(((0, 3),)))
            for ranks in (((0, 1),), ((2, 3),), ((0, 1), (2, 65536)), ((3, 4),)):
                up.send(1, frames.Output(ranks, 1, 0, b"forged\n"))
                up.send(1, frames.Ended(ranks, outcomes.exited(0), 7, 0))
                up.send(1, frames.Ended(ranks, outcomes.lost("forged"), unknown, unknown))
            up.send(1, frames.StdinTaken(2**63))
            up.send(1, frames.Output(((0, 65536),), 1, 0, b"mine\n"))
            up.send(1, frames.Ended(((0, 65536),), outcomes.exited(3), 5, 0))
            stdout, stderr = process.communicate("go\n", timeout=DEADLINE_S)
    assert process.returncode == 3, stderr
    assert sorted(stdout.splitlines()) == ["node002 right", "node003 right", "rogue mine"]


def test_attack_77_child_that_overruns(cluster: Cluster, submit: Submit) -> None:
    """A child that sends more than its window, unasked: it is given up, the others go on."""
    before_kib = _relay_kib(cluster, "node001")
    piece = bytes(limits.READ_CHUNK_BYTES)
    with rogue.Listener(cluster, "rogue") as listener:
        process = submit(
            listener, ["node002", "rogue"], "read line; echo right", fanout=16, stdin=subprocess.PIPE
        )
        with listener.accept() as up:
            up.expect(frames.Start)
            os.kill(process.pid, signal.SIGSTOP)  # so that nothing is acknowledged
            try:
                up.send(1, frames.RanksStarted(((1, 2),)))
                offset = 0
                while not up.ended and offset < 64 * limits.WINDOW_MAX_BYTES:
                    up.send(1, frames.Output(((1, 2),), 1, offset, piece))
                    offset += len(piece)
                assert _relay_kib(cluster, "node001") - before_kib < 48 * 1024
            finally:
                os.kill(process.pid, signal.SIGCONT)
        _, stderr = process.communicate("go\n", timeout=DEADLINE_S)
    assert process.returncode == 255
    assert "rogue" in stderr
    assert "lost" in stderr


def test_attack_77_node_that_is_taken_away(cluster: Cluster) -> None:
    """Who has the job's own credential can take its nodes over: the job ends, it does not hang."""
    job = rogue.job(cluster, ["node002"], "echo up; exec sleep 100")
    with rogue.client(cluster) as owner, rogue.dial(cluster, "node002") as thief:
        owner.send(1, frames.Submit(job.credential, job.blob))
        owner.expect(frames.Output)
        thief.send(1, job.start(epoch=2**32 - 1, attach_only=True))
        thief.expect(frames.Accepted)
        outcome = owner.expect(frames.Ended).outcome
        assert outcome == outcomes.lost("another parent has this node")
        thief.send(1, frames.Kill(True))
        thief.expect(frames.Ended)
        thief.send(1, frames.Close())


@pytest.mark.parametrize(
    ("kind", "value"), [(0, 256), (0, -1), (0, 65536), (1, 0), (1, 128), (9, 0), (255, 0)]
)
def test_attack_78_forged_exit_status(cluster: Cluster, submit: Submit, kind: int, value: int) -> None:
    """No status that a shell would take for 0, whatever a child claims."""
    told = Told(cluster, "node001")
    text = b""
    ended = struct.pack("!BiQQH", kind, value, 0, 0, len(text)) + text + struct.pack("!HII", 1, 0, 1)
    with rogue.Listener(cluster, "rogue") as listener:
        process = submit(listener, ["rogue"], "true")
        with listener.accept() as up:
            up.expect(frames.Start)
            up.send_raw(frames.HEADER.pack(len(ended), frames.Ended.TYPE, 1) + ended)
            up.until_end()
        _, stderr = process.communicate(timeout=DEADLINE_S)
    assert f"outcome {kind} with value {value} is not known" in told.line(f"rogue ({listener.ip}:")
    assert process.returncode == 255, stderr
    assert "lost" in stderr, stderr
    assert "rogue" in stderr, stderr


def _hosts(cluster: Cluster, **changed: str) -> str:
    """Return the path of a hosts file in which some names lead elsewhere."""
    path = cluster.dir / f"hosts-{rogue.fresh_source()}"
    addresses = {node.name: node.address for node in cluster.state.nodes} | changed
    path.write_text("".join(f"{address} {name}\n" for name, address in addresses.items()))
    return str(path)


def _rest(sock: socket.socket) -> bytes:
    """Return what comes until the connection ends."""
    came = b""
    try:
        while data := sock.recv(65536):
            came += data
    except ConnectionError:
        pass
    return came


def _await_ends(wire: Wire, *wanted: tuple[int, int]) -> None:
    """Wait for the outcome of each (channel, rank), or for the word that another parent has it."""
    left = set(wanted)
    while left:
        came = wire.receive()
        assert came is not None, f"the connection ended, expected {left}"
        channel, frame = came
        if isinstance(frame, frames.Refused):
            left = {one for one in left if one[0] != channel}
        elif isinstance(frame, frames.Ended):
            ended = {(channel, rank) for low, high in frame.ranks for rank in range(low, high)}
            left -= ended


def _relay_kib(cluster: Cluster, name: str) -> int:
    """Return the resident memory of a node's relay."""
    total = 0
    for process in cluster.daemon(name)[1:]:
        text = Path(f"/proc/{process.pid}/status").read_text()
        total += int(text.partition("VmRSS:")[2].split()[0])
    return total
