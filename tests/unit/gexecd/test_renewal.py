"""A certificate that could not be renewed is asked for again: a node without one is lost in a day."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from gexec.gexecd.renewal import Renewal
from gexec.posix import channel
from gexec.posix.audit import AuditLog
from gexec.posix.channel import SpawnerPort
from gexec.posix.log import Log
from gexec.security.policy import Policy
from gexec.spawner.admission import Admission
from gexec.spawner.spawner import Spawner


class Place:
    """A renewal, the loop that it is in, and the log that it complains to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        log = Log("gexecd", self._fd)
        ours, self._theirs = channel.pair()
        self._port = SpawnerPort(ours)
        admission = Admission(
            keys={}, realm="test", names=(), policy=Policy(), started_s=0.0, account_of=lambda uid: None
        )
        self.spawner = Spawner(
            port=self._port, relay_pid=0, admission=admission, audit=AuditLog(None, log), log=log
        )
        self.renewal = Renewal(self.spawner, "/no/authd.sock", ("node1",), log)

    def timers(self) -> int:
        return len(self.spawner.loop._timers)

    def close(self) -> None:
        self._port.endpoint.close()
        self._theirs.close()
        os.close(self._fd)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "log")
    yield made
    made.close()


def test_without_a_descriptor_it_is_tried_again(place: Place) -> None:
    lowest = os.dup(0)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
    try:
        place.renewal._renew()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert place.timers() == 1
    assert "certificate not renewed: Too many open files; trying again" in place.path.read_text()


@pytest.mark.parametrize(
    "answer", [b"", b"key\0certificate", b"key\0certificate\0authority\0", b"a\0b\0c\0soon"]
)
def test_an_answer_that_is_cut_short_is_asked_for_again(place: Place, answer: bytes) -> None:
    reading, writing = os.pipe()
    os.write(writing, answer)
    os.close(writing)
    place.renewal._answered(reading)
    assert place.timers() == 1
