"""A client's connection with a gexecd that the test writes by hand, at the other end of a socket pair."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from gexec import limits
from gexec.client.connection import ACCEPT_TIMEOUT_S, Connection
from gexec.client.session import ACCEPTED, OVER, JobSession
from gexec.errors import DaemonError, ProtocolError
from gexec.wire.frames import (
    FROM_CLIENT,
    STDOUT,
    Accepted,
    Decoder,
    Ended,
    Frame,
    Hello,
    Output,
    Ping,
    encode,
)
from gexec.wire.outcome import exited, lost

_TAKEN = encode(0, Hello(limits.PROTOCOL_VERSION, "gexecd")) + encode(1, Accepted(b"j" * 16))


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    session = JobSession(3, limits.WINDOW_MIN_BYTES)
    session.submit(b"credential", b"blob")
    connection = Connection(ours, session)
    with theirs:
        yield connection, theirs
    connection.close()


def accepted(pair: tuple[Connection, socket.socket]) -> tuple[Connection, socket.socket]:
    connection, theirs = pair
    theirs.sendall(_TAKEN)
    assert [type(frame) for frame in connection.receive()] == [Accepted]
    assert connection.session.state == ACCEPTED
    return connection, theirs


def frames_at(theirs: socket.socket) -> list[Frame]:
    return [frame for _, frame in Decoder(FROM_CLIENT).feed(theirs.recv(65536))]


def test_a_job_that_is_not_taken_is_an_error(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    assert connection.receive() == []  # nothing yet
    due_s = connection.due_s
    assert due_s is not None
    assert connection.on_time(due_s) == []
    with pytest.raises(DaemonError, match=f"did not take the job within {ACCEPT_TIMEOUT_S:g} s"):
        connection.on_time(due_s + 0.1)
    theirs.close()
    with pytest.raises(DaemonError, match="closed the connection before it took the job"):
        connection.receive()


def test_ranks_without_an_outcome_are_lost_with_gexecd(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = accepted(pair)
    theirs.sendall(encode(1, Ended(((1, 2),), exited(0), 0, 0)))
    theirs.close()
    assert len(connection.receive()) == 1
    assert not connection.gone
    [frame] = connection.receive()
    assert isinstance(frame, Ended)
    assert (frame.ranks, frame.outcome) == (((0, 1), (2, 3)), lost("the local gexecd ended"))
    assert connection.gone
    assert connection.session.state == OVER
    assert connection.due_s is None
    assert connection.receive() == []


def test_a_silent_gexecd_is_pinged_and_then_lost(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = accepted(pair)
    connection.send()
    frames_at(theirs)
    due_s = connection.due_s
    assert due_s is not None
    assert connection.on_time(due_s) == []
    connection.send()
    assert frames_at(theirs) == [Ping(0)]
    due_s = connection.due_s
    assert due_s is not None
    [frame] = connection.on_time(due_s)
    assert isinstance(frame, Ended)
    assert "has not answered" in frame.outcome.text
    assert connection.gone


def test_what_the_socket_does_not_take_is_kept(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = accepted(pair)
    connection.session.stdin(bytes(limits.STDIN_WINDOW_BYTES), eof=True)
    came = bytearray()
    theirs.setblocking(False)
    connection.send()
    while connection.unsent:
        came += theirs.recv(1 << 20)
        connection.send()
    theirs.close()
    assert len(came) > limits.STDIN_WINDOW_BYTES / 2


def test_what_gexecd_wrote_before_it_closed_is_read(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = accepted(pair)
    theirs.sendall(encode(1, Output(((0, 1),), STDOUT, 0, b"last")))
    theirs.close()
    connection.session.signal(15)
    connection.send()
    assert not connection.unsent
    assert [type(frame) for frame in connection.receive()] == [Output]


def test_nonsense_is_named_as_such(pair: tuple[Connection, socket.socket]) -> None:
    connection, theirs = pair
    theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ProtocolError, match="what gexecd sent is not the protocol"):
        connection.receive()
