"""The connections to a keeper, with real sockets and without a keeper."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from gexec.jobs import control
from gexec.jobs.control import News
from gexec.jobs.followers import Followers
from gexec.jobs.segments import Segment
from gexec.posix.loop import PollLoop


class Served:
    def __init__(self, holds: bool) -> None:
        self.loop = PollLoop(lambda signum: None)
        self.moved = 0
        self.followers = Followers(self.loop, self._asked, self._note, holds)
        self.ours: list[socket.socket] = []

    def _asked(self, raw: bytes) -> str | News:
        request = control.parsed(raw)
        return request if isinstance(request, News) else "no"

    def _note(self) -> None:
        self.moved += 1

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(30)
        self.followers.take(theirs)
        self.ours.append(ours)
        return ours

    def ask(self, sock: socket.socket, request: bytes) -> None:
        sock.send(request)
        self.loop.turn(None)


@pytest.fixture(params=[True])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    one = Served(request.param)
    yield one
    one.followers.close()
    for sock in one.ours:
        sock.close()


def test_news_wait_until_there_are_some(served: Served) -> None:
    sock = served.connect()
    served.ask(sock, b"news 5 5")
    served.followers.tell((5, 5), False)
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(9)
    served.followers.tell((5, 6), False)
    assert sock.recv(99) == b"more 5 6"
    served.ask(sock, b"news 5 6")
    served.followers.tell((5, 6), True)
    assert sock.recv(99) == b"ended 5 6"


def test_what_no_reader_has_is_held_until_the_last_one_has_gone(served: Served) -> None:
    doomed = [Segment(10, 10)]
    assert served.followers.holds(0, doomed)
    fast, slow = served.connect(), served.connect()
    served.ask(fast, b"news 50 0 hold")
    assert not served.followers.holds(0, doomed)
    assert served.followers.holds(1, doomed)
    served.ask(slow, b"news 15 0 hold")
    assert served.followers.holds(0, doomed)
    served.followers.hold_is_over()  # the time for the first reader only
    assert served.followers.holds(0, doomed)
    slow.close()
    served.loop.turn(None)
    assert not served.followers.holds(0, doomed)
    fast.close()
    served.loop.turn(None)
    assert not served.followers.holds(1, doomed)
    assert served.moved == 3


def test_without_a_reader_it_holds_for_a_time_only(served: Served) -> None:
    served.followers.hold_is_over()
    assert not served.followers.holds(0, [Segment(0, 1)])
    assert served.moved == 1


@pytest.mark.parametrize("served", [False], indirect=True)
def test_a_job_that_does_not_hold_discards_always(served: Served) -> None:
    sock = served.connect()
    served.ask(sock, b"news 0 0 hold")
    assert not served.followers.holds(0, [Segment(0, 1)])


def test_a_reader_that_is_gone_is_forgotten(served: Served) -> None:
    sock = served.connect()
    served.ask(sock, b"news 0 0")
    sock.close()
    served.loop.turn(None)
    served.followers.tell((1, 1), True)
