"""What the spawner has other programs do: certificates and keys come in time, whatever goes wrong."""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gexec.errors import ProtocolError
from gexec.posix import channel
from gexec.posix.log import Log
from gexec.relay.spawning import RelayChannel
from gexec.security.keys import VerifyKey
from gexec.security.policy import Limit, Policy, Rule, Terms
from gexec.security.signers import Trust
from gexec.spawner.handover import Handover, policy_fields, policy_from
from gexec.spawner.program import SpawnerProcess
from gexec.wire.messages import AcceptedSigners, Certificates

#: Writes what the real renewal writes, without an authd.
RENEWAL = """
import os, sys
from gexec.posix import channel
from gexec.wire.messages import FROM_SPAWNER, Certificates, encode
os.write(3, encode(Certificates(b"key", b"c" * 5000, b"authority"), FROM_SPAWNER).payload)
channel.seal(3)
sys.stdout.write(sys.argv[1])
"""


def some_trust() -> str:
    return Trust.unlimited([VerifyKey(Ed25519PrivateKey.generate().public_key())]).encode()


def answer(trust: str, **more: Any) -> dict[str, Any]:
    """Return what the program answers that reads signers and policy again."""
    told = {"trust": trust, "policy": policy_fields(Policy()), "renewal": ["/bin/false"]}
    return told | {"version": "1", "code": "0123456789"} | more


class Place:
    """A spawner's process, the relay's end of its channel, and the log that it writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        ours, theirs = channel.pair()
        self._starter = channel.pair()
        ready, self._ready = os.pipe()
        self.relay = RelayChannel(ours)
        self.handed = Handover(
            realm="test",
            names=["node1"],
            trust=some_trust(),
            policy=policy_fields(Policy()),
            started_s=0.0,
            clock_skew_s=5.0,
            credential_ttl_max_s=60.0,
            audit={
                "log": [str(path.with_name("audit"))],
                "failure": "continue",
                "max_bytes": 0,
                "keep": 1,
                "common": {"daemon": "gexecd", "node": "node1", "realm": "test"},
            },
            drain_s=60.0,
            spool=[],
            tasks_max=8,
            relay_pid=0,
            channel_fd=theirs.detach(),
            relay_ready_fd=ready,
            listener_fds=[],
            client_fds=[],
            ready_fds=[],
            parent_fd=-1,
            log_fd=-1,
            socket="",
            socket_inode=0,
            expires_s=time.time() + 86400,
            renewal=["/bin/false"],
            rereading=["/bin/false"],
            succession=["/bin/false"],
            relay="{}",
            again=["/bin/false"],
            version="1",
            code="0123456789",
            argv=[],
        )
        self.process = SpawnerProcess(
            self.handed, lambda: (0, self._starter[1]), lambda: None, Log("gexecd", self._fd)
        )

    def timers(self) -> int:
        return len(self.process.spawner.loop._timers)

    def said(self) -> str:
        return self.path.read_text()

    def turn(self) -> None:
        """Let the spawner's loop wait for something and handle it."""
        self.process.spawner.loop.turn(None)

    def close(self) -> None:
        spawner = self.process.spawner
        for pid in spawner._others:
            os.waitpid(pid, 0)
        spawner.port.endpoint.close()
        self.relay.close()
        for end in self._starter:
            end.close()
        for fd in (self._fd, self._ready):
            os.close(fd)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "log")
    yield made
    made.close()


def test_the_handover_arrives_as_it_was(place: Place) -> None:
    place.handed.names.append("n\udcff")  # a name with a byte that is not UTF-8
    assert Handover.decode(place.handed.encode()) == place.handed
    terms = Terms(("/b", "/a"), ("/c",), (Limit("nofile", 10, 20), Limit("core", 0, -1)), 5, 0o27, 3, "gexec")
    rule = Rule(frozenset({"ann"}), frozenset({"b", "a"}), (), ("/z", "/y"), (Limit("cpu", 60, 60),))
    policy = Policy(
        allow_users=frozenset({"ann", "bob"}),
        uid_min=1000,
        allow_root=False,
        terms=terms,
        rules=(rule, Rule()),
    )
    assert policy_from(json.loads(json.dumps(policy_fields(policy)))) == policy


def test_without_a_descriptor_a_certificate_is_asked_for_again(place: Place) -> None:
    lowest = os.dup(0)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
    try:
        place.process.renew()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert place.timers() == 1
    assert "certificate not renewed: Too many open files; trying again" in place.said()


@pytest.mark.parametrize("program", [["/bin/false"], ["/bin/echo", "soon"], ["/no/such/program"]])
def test_a_program_that_gets_no_certificate_is_run_again(place: Place, program: list[str]) -> None:
    place.handed.renewal[:] = program
    before = os.listdir("/proc/self/fd")
    place.process.renew()
    while place.timers() == 0:
        place.turn()
    assert place.timers() == 1
    assert os.listdir("/proc/self/fd") == before
    assert place.relay.receive() is None


def test_a_renewed_certificate_goes_to_the_relay(place: Place) -> None:
    place.handed.renewal[:] = [sys.executable, "-c", RENEWAL, str(time.time() + 3600)]
    place.process.renew()
    while place.timers() == 0:
        place.turn()
    assert place.relay.receive() == Certificates(b"key", b"c" * 5000, b"authority")


def test_a_certificate_that_was_not_sealed_is_never_used(place: Place) -> None:
    unsealed = RENEWAL.replace("channel.seal(3)", "")
    place.handed.renewal[:] = [sys.executable, "-c", unsealed, str(time.time() + 3600)]
    place.process.renew()
    while place.timers() == 0:
        place.turn()
    with pytest.raises(ProtocolError, match="not sealed"):
        place.relay.receive()


@pytest.mark.parametrize("answer", ["", "{}", "[]", '{"trust": "none", "policy": {}, "renewal": []}'])
def test_keys_that_cannot_be_read_leave_the_old_ones_in_force(place: Place, answer: str) -> None:
    place.handed.rereading[:] = ["/bin/echo", "-n", answer]
    place.process._reload()
    while "the old settings stay in force" not in place.said():
        place.turn()
    assert place.relay.receive() is None


def test_keys_that_were_read_again_go_to_the_relay(place: Place) -> None:
    trust = some_trust()
    told = json.dumps(answer(trust))
    place.handed.rereading[:] = ["/bin/echo", "-n", told]
    place.process._reload()
    while "reloaded: 1 public keys accepted" not in place.said():
        place.turn()
    assert place.relay.receive() == AcceptedSigners(trust.encode())


def test_a_second_sighup_counts_although_the_first_is_under_way(place: Place, tmp_path: Path) -> None:
    """What the first one has read may be older than what the second one was sent for."""
    first, second = some_trust(), some_trust()
    file, gate = tmp_path / "told", tmp_path / "gate"
    os.mkfifo(gate)
    file.write_text(json.dumps(answer(first)))
    script = f"cat {file}; [ -e {gate} ] && cat {gate}; true"
    place.handed.rereading[:] = ["/bin/sh", "-c", script]
    place.process._reload()
    with gate.open("w"):  # it has read the file and waits
        file.write_text(json.dumps(answer(second)))
        place.process._reload()
        gate.unlink()
    while "reloaded" not in place.said():
        place.turn()
    assert place.relay.receive() == AcceptedSigners(second.encode())
    assert place.relay.receive() is None


def test_only_its_own_socket_is_removed(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
        place.handed.socket, place.handed.socket_inode = str(path), path.stat().st_ino + 1
        place.process._remove_socket()
        assert path.exists()  # another gexecd's by now
        place.handed.socket_inode = path.stat().st_ino
        place.process._remove_socket()
        assert not path.exists()
