"""The relay's limits: whoever takes time, connections, descriptors or memory takes them from nobody else."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gexec import limits
from gexec.security.quota import Shares
from gexec.security.signing import issue
from gexec.wire import frames
from gexec.wire import outcome as outcomes

from . import rogue
from .conftest import DEADLINE_S, Cluster, wait_until
from .rogue import Told, Wire

ClusterOf = Callable[..., Cluster]


@contextmanager
def running_job(cluster: Cluster, name: str = "node002") -> Iterator[Callable[[], None]]:
    """A job on a node; call what this gives to see that it still goes on, back and forth."""
    process = cluster.popen("-p", "none", "-w", name, "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def go_on() -> None:
        process.stdin.write(b"still here\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"still here\n"

    try:
        go_on()
        yield go_on
        go_on()
        assert process.communicate(timeout=DEADLINE_S)[0] == b""
        assert process.returncode == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _relay(cluster: Cluster, name: str) -> int:
    return cluster.daemon(name)[1].pid


def _memory_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])


def _is_closed(sock: socket.socket) -> bool:
    """Tell whether the other side has closed a connection on which nothing is said."""
    sock.settimeout(DEADLINE_S)
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


# -- time -------------------------------------------------------------------------------------


def test_attack_56_57_58_slow_bytes(cluster_of: ClusterOf) -> None:
    """Before TLS, during it, after it: who does not get to a Hello in time is told off and closed."""
    cluster = cluster_of(2, unauthenticated_max_s=1.0)
    told = Told(cluster, "node002")
    identity = rogue.certified(cluster, "rogue")
    with running_job(cluster), ExitStack() as stack:
        silent = stack.enter_context(rogue.tcp(cluster, "node002", source := rogue.fresh_source()))
        during = stack.enter_context(rogue.tcp(cluster, "node002", source_during := rogue.fresh_source()))
        during.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")  # a ClientHello's first bytes
        source_after = rogue.fresh_source()
        sock = identity.dialling().wrap_socket(rogue.tcp(cluster, "node002", source_after))
        after = stack.enter_context(Wire(sock, frames.FROM_CHILD))
        after.send_raw(frames.encode(0, frames.Hello(1, "rogue"))[:5])
        local = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        local.connect(str(cluster.place.socket("node002")))
        assert _is_closed(silent)
        assert _is_closed(during)
        assert [type(frame) for frame in after.until_end()] == [frames.Hello]
        for one in (source, source_during, source_after, f"client (pid {os.getpid()}"):
            told.line(one, "no Hello within 1 s")
    rogue.healthy(cluster)


def test_dialling_has_each_jobs_own_time_out(cluster: Cluster) -> None:
    """Somebody's --connect-timeout for a dead node, long or short, is not everybody's."""
    with ExitStack() as stack:
        hole = stack.enter_context(socket.socket())
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        port = hole.getsockname()[1]
        for _ in range(4):  # now the queue is full, and the kernel lets further packets fall
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        fillers = _dialling(port)

        started: list[Any] = []

        def dialler(timeout_s: float) -> Any:
            words = ("--connect-timeout", timeout_s, "-w", f"127.0.0.1:{port}", "true")
            process = cluster.popen(*words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.kill)
            started.append(process)
            # Each has a dial of its own, for as long as it runs.
            wait_until(
                lambda: _dialling(port) >= fillers + sum(one.poll() is None for one in started),
                "the job does not dial",
            )
            return process

        patient = dialler(3600)
        done = cluster.gexec("--connect-timeout", 0.5, "-w", f"127.0.0.1:{port}", "true", text=True)
        assert done.returncode == 255
        assert "no answer within 0.5 s" in done.stderr
        assert patient.poll() is None
        short = dialler(3)
        late = dialler(3600)
        assert short.wait(DEADLINE_S) == 255
        assert late.poll() is None
        assert patient.poll() is None
    rogue.healthy(cluster)


def _dialling(port: int) -> int:
    """Return how many TCP connections to this port wait for an answer (SYN_SENT is state 2)."""
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(words[2].endswith(f":{port:04X}") and words[3] == "02" for words in table)


# -- connections ------------------------------------------------------------------------------


def test_attack_59_connections_past_the_limit_of_one_source(cluster: Cluster) -> None:
    told, source = Told(cluster, "node002"), rogue.fresh_source()
    most = limits.LINKS_UNAUTHENTICATED_PER_SOURCE_MAX
    with running_job(cluster) as go_on, ExitStack() as stack:
        held = [stack.enter_context(rogue.tcp(cluster, "node002", source)) for _ in range(most)]
        one_more = stack.enter_context(rogue.tcp(cluster, "node002", source))
        assert _is_closed(one_more)
        told.line(source, f"was refused: {most} connections from this address")
        go_on()
        rogue.healthy(cluster)  # others are served
        for sock in held:
            sock.close()
        wait_until(lambda: _serves(cluster, source), "it does not serve that source again")


def _serves(cluster: Cluster, source: str) -> bool:
    try:
        with rogue.dial(cluster, "node002", source=source):
            return True
    except (OSError, AssertionError):
        return False


def test_attack_59_clients_past_the_limit_of_one_user(cluster: Cluster) -> None:
    with running_job(cluster) as go_on, ExitStack() as stack:
        refused = 0
        for _ in range(Shares(limits.CLIENTS_MAX).total + 1):  # the only user of this cluster, or root
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.settimeout(DEADLINE_S)
            sock.connect(str(cluster.place.socket("node001")))
            with suppress(BrokenPipeError):  # a refused one may be closed already, with the reason to read
                sock.sendall(frames.encode(0, frames.Hello(limits.PROTOCOL_VERSION, "test")))
            refused += b"clients, and no room for more than" in sock.recv(4096)
        assert refused >= 1
        go_on()
    wait_until(lambda: cluster.gexec("-n", 0, "true").returncode == 0, "no clients are taken again")


def test_attack_59_past_emfile(cluster_of: ClusterOf) -> None:
    """A relay without a descriptor left: its jobs go on, others are refused, then it serves again."""
    cluster = cluster_of(3, descriptors=80)
    told = Told(cluster, "node001")
    with running_job(cluster) as go_on:
        with ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(rogue.tcp(cluster, "node001"))
            told.line("no file descriptors are left")
            done = cluster.gexec("-w", "node003", "true", text=True)
            assert done.returncode == 255
            assert len(done.stderr.splitlines()) <= 2
            go_on()
        wait_until(lambda: cluster.gexec("-n", 0, "true").returncode == 0, "it serves no more")
        # All but a few are taken: enough for a client, too few for links and pipes, at some point.
        for left in range(1, 9):
            with ExitStack() as stack:
                _leave_free(cluster, left, stack)
                done = cluster.gexec("-w", "node001,node001", "true", text=True)
                assert done.returncode in (0, 255)
                go_on()
    wait_until(lambda: cluster.gexec("-n", 0, "true").returncode == 0, "it serves no more")


def _leave_free(cluster: Cluster, left: int, stack: ExitStack) -> None:
    """Open connections until node001's relay has at most so many descriptors left."""

    def one_more() -> bool:
        if 80 - _descriptors(cluster, "node001") <= left:
            return True
        stack.enter_context(rogue.tcp(cluster, "node001"))
        return False

    wait_until(one_more, "too many are free")


def _descriptors(cluster: Cluster, name: str) -> int:
    return len(os.listdir(f"/proc/{_relay(cluster, name)}/fd"))


def test_one_job_for_each_client_connection(cluster_of: ClusterOf) -> None:
    cluster = cluster_of(2)  # whose log no other client of this user has used up
    first = rogue.job(cluster, ["node002"], "exec sleep 100")
    second = rogue.job(cluster, ["node002"], "true")
    told = Told(cluster, "node001")
    with rogue.client(cluster) as wire:
        wire.send(1, frames.Submit(first.credential, first.blob))
        wire.expect(frames.RanksStarted)
        wire.send(2, frames.Submit(second.credential, second.blob))
        wire.until_end()
    told.line(f"client (pid {os.getpid()}", "a second job on one connection")


# -- memory -----------------------------------------------------------------------------------


def test_attack_60_a_client_that_never_reads(cluster: Cluster) -> None:
    """What is under way to it is bounded by the job's window; other jobs go on."""
    job = rogue.job(cluster, ["node002", "node003"], "yes 0123456789")
    relays = [_relay(cluster, name) for name in ("node001", "node002", "node003")]
    before = [_memory_kib(pid) for pid in relays]
    with running_job(cluster) as go_on, rogue.client(cluster) as wire:
        wire.send(1, frames.Submit(job.credential, job.blob))
        wire.expect(frames.Output)
        # Every window is full when the processes wait for their pipes.
        wait_until(lambda: _all_wait(cluster), "the processes do not wait")
        for pid, kib in zip(relays, before, strict=True):
            assert _memory_kib(pid) - kib < 24 * 1024
        go_on()
        rogue.healthy(cluster)


def _all_wait(cluster: Cluster) -> bool:
    """Tell whether every `yes` of the cluster stands still while all relays do something else."""

    def progress() -> list[str]:
        found = []
        for pid in cluster.tasks():
            try:
                if Path(f"/proc/{pid}/comm").read_text() == "yes\n":
                    found.append(Path(f"/proc/{pid}/io").read_text().partition("wchar:")[2].split()[0])
            except OSError:
                pass
        return found

    earlier = progress()
    rogue.healthy(cluster)  # a relay that would take more has had its turn when this is over
    return len(earlier) == 2 and earlier == progress()


def test_attack_60_answers_that_are_never_read(cluster: Cluster) -> None:
    """Pings without end by one who does not read the Pongs."""
    told, source = Told(cluster, "node002"), rogue.fresh_source()
    pings = b"".join(frames.encode(0, frames.Ping(number)) for number in range(4096))
    with rogue.dial(cluster, "node002", source=source) as wire:
        for _ in range(4096):
            try:
                wire.sock.sendall(pings)
            except OSError:
                break
        else:
            pytest.fail("it goes on answering")
    told.line(source, "of answers unread")
    rogue.healthy(cluster)


def test_attack_127_half_sent_starts_on_many_links_of_one_node(cluster: Cluster) -> None:
    """384 of them, of 5 MiB, would be 1.9 GiB in the relay; what another node sends is not affected."""
    relay = _relay(cluster, "node001")
    before = _memory_kib(relay)
    told, captured = Told(cluster, "node001"), rogue.certified(cluster, "captured")
    size = limits.JOB_FRAME_MAX_BYTES
    begun = struct.pack("!IBI", size, frames.Start.TYPE, 1) + bytes(size - 1000)
    with running_job(cluster) as go_on, ExitStack() as stack:
        for _ in range(60):
            wire = stack.enter_context(rogue.dial(cluster, "node001", captured))
            wire.send_raw(begun)
        told.line("captured", "over its share", "bytes of frames that are not complete", "gets no more now")
        assert _memory_kib(relay) - before < 1.5 * limits.ARRIVING_MAX_BYTES / 1024
        go_on()
        rogue.healthy(cluster)


# -- the log ----------------------------------------------------------------------------------


def test_refused_connections_do_not_flood_the_log(cluster: Cluster) -> None:
    told, source = Told(cluster, "node003"), rogue.fresh_source()
    for _ in range(100):
        with rogue.tcp(cluster, "node003", source) as sock:
            sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
            _is_closed(sock)
    rogue.healthy(cluster)
    lines = [line for line in told.text().splitlines() if source in line]
    assert 1 <= len(lines) <= 60, lines[-3:]
    assert "plain HTTP" in lines[0]


# -- keys -------------------------------------------------------------------------------------


def test_sighup_brings_new_keys_to_the_relay_too(cluster_of: ClusterOf, tmp_path: Path) -> None:
    """A second public key, SIGHUP: what the new key signed runs, and no running job is lost."""
    cluster = cluster_of(2)
    new = rogue.foreign_key()
    witness = tmp_path / "ran"

    def by_new_key() -> rogue.Job:
        job = rogue.job(cluster, ["node002"], f"echo x >>{witness}")
        old = rogue.credential_of(cluster, job.credential)
        credential = issue(
            new,
            realm=old.realm, audience=old.audience, host=old.host, uid=old.uid, gid=old.gid,
            user=old.user, now_s=time.time(), ttl_s=60, job_id=os.urandom(16), digest=old.digest,
        )  # fmt: skip
        return rogue.Job(job.spec, job.blob, credential)

    def submitted() -> frames.Frame:
        job = by_new_key()
        with rogue.client(cluster) as wire:
            wire.send(1, frames.Submit(job.credential, job.blob))
            frame: frames.Frame = wire.expect(frames.Refused, frames.Ended)
            return frame

    with running_job(cluster) as go_on:
        refused = submitted()
        assert isinstance(refused, frames.Refused)
        assert new.key_id.hex() in refused.text
        pem = new.public.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        with open(cluster.place.public_key, "ab") as file:
            file.write(pem)
        for name in cluster.names:
            told = Told(cluster, name)
            os.kill(cluster.daemon(name)[0].pid, signal.SIGHUP)
            told.line("reloaded: 2 public keys accepted")
        wait_until(lambda: isinstance(submitted(), frames.Ended), "the relay does not know the new key")
        go_on()
    ended = submitted()
    assert isinstance(ended, frames.Ended)
    assert ended.outcome == outcomes.exited(0)
    assert witness.exists()
    rogue.healthy(cluster)
