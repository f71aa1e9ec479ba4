"""Processes of a relay that died: announced by the spawner, asked for by parents, or ended."""

from __future__ import annotations

import os
from hashlib import sha256
from typing import Any, cast

import pytest

from gexec import native
from gexec.posix.deadline import Timers
from gexec.relay.orphans import Orphans
from gexec.wire import messages, outcome
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.upgrades import GoOn, HandoverEnds, Survivor
from surroundings import Spawner

pytestmark = pytest.mark.skipif(native.in_use(), reason="compiled code takes no stand-in for the spawner")
KEY = (b"j" * 16, 3)
CREDENTIAL = b"credential"
DIGEST = sha256(CREDENTIAL).digest()
GRACE_S = 30.0


class Time:
    """Timers, and the time, which passes only in ``until``."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.due: list[tuple[float, Any]] = []

    def time(self) -> float:
        return self.now_s

    def call_at(self, due_s: float, call: Any, *words: Any) -> Any:
        self.due.append((due_s, call))
        return self

    def cancel(self) -> None:
        self.due.clear()

    def until(self, end_s: float) -> None:
        while self.due and min(self.due)[0] <= end_s:
            self.now_s, call = self.due.pop(0)
            call()


class Announcing(Spawner):
    """A spawner that announces these."""

    def __init__(self, *said: Any) -> None:
        super().__init__()
        self.said = list(said)

    def await_upgrade(self) -> Any:
        return self.said.pop(0)


class Entry:
    """What the verifier of credentials was told."""

    def __init__(self) -> None:
        self.expected: list[bytes | None] = []

    def expect(self, digest: bytes | None) -> None:
        self.expected.append(digest)


def survivor(stderr_closed: bool = False) -> Survivor:
    fds = []
    for is_closed in (False, stderr_closed):
        if is_closed:
            fds.append(os.open(os.devnull, os.O_RDONLY))
        else:
            reading, writing = os.pipe()
            os.close(writing)
            fds.append(reading)
    return Survivor(7, 3, 1, 60, KEY[0], DIGEST, (fds[0], fds[1]))


def orphans(*said: Any) -> tuple[Orphans, Announcing, Entry, Time]:
    spawner, entry, timers = Announcing(*said), Entry(), Time()
    made = Orphans(cast(Any, spawner), cast(Any, entry), cast(Timers, timers), GRACE_S)
    return made, spawner, entry, timers


def test_a_parent_finds_the_process_and_all_that_happened_to_it() -> None:
    made, spawner, entry, timers = orphans(survivor(), GoOn())
    made.receive()
    assert entry.expected == [DIGEST]
    assert made.find((KEY[0], 4), CREDENTIAL) is None
    assert made.find(KEY, b"another") is None
    ended = messages.ProcessEnded(7, outcome.exited(3))
    spawner.told[7](ended)
    orphan = made.find(KEY, CREDENTIAL)
    assert orphan is not None
    assert (orphan.task, orphan.life, orphan.age_s, orphan.events) == (7, 1, 60, [ended])
    assert made.find(KEY, CREDENTIAL) is orphan  # nobody has it yet
    orphan.adopted()
    assert (len(made), made.find(KEY, CREDENTIAL)) == (0, None)
    timers.until(100.0 + GRACE_S)
    assert spawner.asked == []  # it is the job's now
    assert entry.expected == [DIGEST, None]
    for fd in orphan.outputs.values():
        os.close(fd)


def test_a_stream_that_the_process_has_closed_is_none() -> None:
    made, _, _, _ = orphans(survivor(stderr_closed=True), GoOn())
    made.receive()
    orphan = made.find(KEY, CREDENTIAL)
    assert orphan is not None
    assert list(orphan.outputs) == [STDOUT]
    assert STDERR not in orphan.outputs
    os.close(orphan.outputs[STDOUT])


def test_whom_nobody_wants_is_ended() -> None:
    said = survivor()
    made, spawner, _, timers = orphans(said, GoOn())
    made.receive()
    timers.until(99.0 + GRACE_S)
    assert spawner.asked == []
    timers.until(100.0 + GRACE_S)
    assert spawner.asked == [("close", 7), ("release", 7), ("kill", 7, False)]
    assert made.find(KEY, CREDENTIAL) is None
    for fd in said.fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_without_any_there_is_nothing_to_wait_for() -> None:
    made, _, _, timers = orphans(GoOn())
    made.receive()
    assert timers.due == []


def test_anything_else_ends_the_relay() -> None:
    made, _, _, _ = orphans(HandoverEnds(True))
    with pytest.raises(SystemExit):
        made.receive()
