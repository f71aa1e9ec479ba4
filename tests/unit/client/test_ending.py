"""What signals do to a job: real signals of this process, a gexecd that only listens."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from gexec import limits
from gexec.client.connection import Connection
from gexec.client.ending import LEAVE_AFTER_S, Ending
from gexec.client.interrupts import Interrupts
from gexec.client.session import OVER, JobSession
from gexec.wire.frames import (
    FROM_CLIENT,
    Accepted,
    Close,
    Decoder,
    Frame,
    Hello,
    Kill,
    RanksStarted,
    Signal,
    encode,
)

_TAKEN = (
    encode(0, Hello(limits.PROTOCOL_VERSION, "gexecd"))
    + encode(1, Accepted(b"j" * 16))
    + encode(1, RanksStarted(((0, 2),)))
)
_NAMES = [b"node1", b"node2"]
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH)


class Job:
    """One running job, and the signals of this process."""

    def __init__(self, last: bool = True) -> None:
        ours, self._gexecd = socket.socketpair()
        ours.setblocking(False)
        session = JobSession(2, limits.WINDOW_MIN_BYTES)
        session.submit(b"credential", b"blob")
        self.connection = Connection(ours, session)
        self.interrupts = Interrupts()
        self.said: list[str] = []
        self.ending = Ending(self.connection, self.interrupts, self.said.append, _NAMES, last)
        self._decoder = Decoder(FROM_CLIENT)
        self.sent()
        # A shell may have started this process with some of them ignored, which then are not caught.
        self._before = {signum: signal.signal(signum, signal.SIG_DFL) for signum in _SIGNALS}
        self.interrupts.catch()

    def accepted(self) -> Job:
        self._gexecd.sendall(_TAKEN)
        self.connection.receive()
        return self

    def gets(self, *signums: int) -> None:
        for signum in signums:
            os.kill(os.getpid(), signum)
        self.ending.on_signals()

    def sent(self) -> list[Frame]:
        """Return what gexecd has got since the last call."""
        if self.connection.unsent:
            self.connection.send()
        self._gexecd.setblocking(False)
        try:
            return [frame for _, frame in self._decoder.feed(self._gexecd.recv(65536))]
        except BlockingIOError:
            return []

    def close(self) -> None:
        self.interrupts.restore()
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self.connection.close()
        self._gexecd.close()


@pytest.fixture
def job() -> Iterator[Job]:
    job = Job().accepted()
    yield job
    job.close()


def test_other_signals_are_passed_on_and_end_nothing(job: Job) -> None:
    job.gets(signal.SIGUSR1, signal.SIGWINCH)
    assert job.sent() == [Signal(signal.SIGUSR1), Signal(signal.SIGWINCH)]
    assert (job.said, job.ending.asked_to_end, job.ending.due_s) == ([], False, None)


def test_an_interrupt_is_passed_on_a_second_one_kills_a_third_one_leaves(job: Job) -> None:
    ending = job.ending
    job.gets(signal.SIGINT)
    assert job.sent() == [Signal(signal.SIGINT)]
    assert (ending.asked_to_end, ending.signum, ending.status) == (True, signal.SIGINT, None)
    job.gets(signal.SIGINT)
    assert job.sent() == [Kill(True)]
    assert job.said[1:] == ["^C twice within a second: the job is being killed on all nodes"]
    assert "node1 node2" in job.said[0] or "node[1-2]" in job.said[0]
    assert not ending.left
    job.gets(signal.SIGINT)
    assert job.sent() == [Close()]
    assert (ending.left, ending.status) == (True, 130)
    assert ending.farewell == "the end of 2 of 2 processes is not confirmed"


def test_two_requests_at_once_are_one_and_the_grace_ends_with_a_kill(job: Job) -> None:
    ending = job.ending
    job.gets(signal.SIGTERM)
    job.gets(signal.SIGHUP)
    assert job.sent() == [Signal(signal.SIGTERM), Signal(signal.SIGHUP)]
    due_s = ending.due_s
    assert due_s is not None
    ending.on_time(due_s - 0.1)
    assert job.said == []
    ending.on_time(due_s)
    assert job.said == [
        f"not ended {limits.KILL_GRACE_S:g} s after SIGTERM: the job is being killed on all nodes"
    ]
    assert job.sent() == [Kill(True)]
    due_s = ending.due_s
    assert due_s is not None
    ending.on_time(due_s + 0.1)
    assert (ending.left, ending.status, ending.signum) == (True, 143, signal.SIGTERM)


def test_an_interrupt_after_a_request_kills(job: Job) -> None:
    job.gets(signal.SIGHUP)
    job.gets(signal.SIGINT)
    assert job.said == ["^C after SIGHUP: the job is being killed on all nodes"]
    assert job.sent() == [Signal(signal.SIGHUP), Kill(True)]


def test_a_status_that_is_set_stays(job: Job) -> None:
    """The reader of stdout has gone: the job has the grace twice over to end."""
    ending = job.ending
    ending.status = 141
    ending.kill()
    assert job.sent() == [Kill(False)]
    due_s = ending.due_s
    assert due_s is not None
    ending.kill(now=True)
    sooner_s = ending.due_s
    assert sooner_s is not None
    assert sooner_s < due_s <= sooner_s + LEAVE_AFTER_S
    ending.on_time(due_s + 0.1)
    assert (ending.left, ending.status, ending.farewell) == (True, 141, "")


def test_between_two_jobs_a_signal_ends_the_run_and_not_the_process() -> None:
    job = Job(last=False)
    try:
        job.gets(signal.SIGTERM)
        assert job.connection.session.state == OVER
        assert job.sent() == [Close()]
        assert (job.ending.asked_to_end, job.ending.signum) == (True, signal.SIGTERM)
    finally:
        job.close()
