"""The client's session, with real frames and no socket."""

from __future__ import annotations

import pytest

from gexec import limits
from gexec.client.session import ACCEPTED, OVER, JobSession
from gexec.errors import DaemonError, ProtocolError
from gexec.wire.frames import (
    FROM_CLIENT,
    LENGTH_UNKNOWN,
    OFFSET_ALL,
    STDERR,
    STDOUT,
    Accepted,
    Ack,
    Close,
    Decoder,
    Done,
    Ended,
    Frame,
    Goodbye,
    Hello,
    Kill,
    NotResponding,
    Output,
    Ping,
    Pong,
    RanksStarted,
    Refused,
    Responding,
    Signal,
    Stdin,
    StdinTaken,
    Submit,
    encode,
)
from gexec.wire.outcome import exited, lost

WINDOW = limits.WINDOW_MIN_BYTES
HELLO = Hello(limits.PROTOCOL_VERSION, "gexecd")


def sent(session: JobSession) -> list[tuple[int, Frame]]:
    return list(Decoder(FROM_CLIENT).feed(session.outgoing()))


def accepted(ranks: int = 3) -> JobSession:
    session = JobSession(ranks, WINDOW)
    session.submit(b"credential", b"blob")
    session.feed(encode(0, HELLO) + encode(1, Accepted(b"j" * 16)))
    session.outgoing()
    return session


def say(session: JobSession, *frames: Frame) -> list[Frame]:
    return session.feed(b"".join(encode(1, frame) for frame in frames))


def test_a_job_from_submit_to_done() -> None:
    session = JobSession(2, WINDOW)
    session.submit(b"credential", b"blob")
    (zero, hello), (one, submit) = sent(session)
    assert (zero, one) == (0, 1)
    assert isinstance(hello, Hello)
    assert submit == Submit(b"credential", b"blob")
    wire = encode(0, HELLO) + b"".join(
        encode(1, frame)
        for frame in (
            Accepted(b"j" * 16),
            RanksStarted(((0, 2),)),
            Output(((0, 2),), STDOUT, 0, b"x\n"),
            Output(((1, 2),), STDERR, 0, b"e"),
            Ended(((0, 1),), exited(0), 2, 0),
            Ended(((1, 2),), exited(7), 2, 1),
            Done(),
        )
    )
    frames = [frame for byte in wire for frame in session.feed(bytes((byte,)))]
    assert [type(frame).__name__ for frame in frames] == [
        "Accepted", "RanksStarted", "Output", "Output", "Ended", "Ended", "Done",
    ]  # fmt: skip
    assert session.state == OVER
    assert session.started == ((0, 2),)
    assert session.ended_outcomes() == [exited(0), exited(7)]


def test_refused_is_a_sentence() -> None:
    session = JobSession(1, WINDOW)
    session.submit(b"c", b"b")
    session.feed(encode(0, HELLO))
    with pytest.raises(DaemonError, match="gexecd refused the job: user x is not allowed"):
        say(session, Refused(1, "user x is not allowed"))


def test_another_version_is_told() -> None:
    session = JobSession(1, WINDOW)
    session.submit(b"c", b"b")
    with pytest.raises(DaemonError, match="protocol version 99"):
        session.feed(encode(0, Hello(99, "x")))


def test_a_gexecd_of_an_older_version_is_good_enough() -> None:
    session = JobSession(1, WINDOW)
    session.submit(b"c", b"b")
    session.feed(encode(0, Hello(limits.PROTOCOL_OLDEST, "x")))
    say(session, Accepted(b"j" * 16))
    assert session.state == ACCEPTED


def test_who_does_not_respond_is_known_until_it_does_or_ends() -> None:
    session = accepted()
    say(session, NotResponding(((0, 2),)))
    assert session.quiet == {0, 1}
    say(session, Responding(((0, 1),)))
    assert session.quiet == {1}
    say(session, Ended(((1, 2),), lost("no answer"), LENGTH_UNKNOWN, LENGTH_UNKNOWN))
    assert session.quiet == set()
    with pytest.raises(ProtocolError, match="rank 69 of a job"):
        say(session, NotResponding(((0, 70),)))


def test_pings_are_answered_and_goodbye_is_no_end() -> None:
    session = accepted()
    session.feed(encode(0, Ping(42)) + encode(0, Goodbye("drain")) + encode(0, Pong(1)))
    assert sent(session) == [(0, Pong(42))]
    assert session.state == ACCEPTED


@pytest.mark.parametrize(
    "frames",
    [
        [Output(((0, 1),), STDOUT, 1, b"x")],
        [Output(((0, 1),), STDOUT, 0, b"xy"), Output(((0, 1),), STDOUT, 1, b"y")],
        [Output(((0, 2),), STDOUT, 0, b"x"), Output(((1, 3),), STDOUT, 1, b"y")],
        [Output(((2, 4),), STDOUT, 0, b"x")],
        [RanksStarted(((0, 4),))],
        [Ended(((0, 1),), exited(0), 0, 0), Ended(((0, 1),), exited(0), 0, 0)],
        [Ended(((0, 1),), exited(0), 0, 0), Output(((0, 1),), STDOUT, 0, b"x")],
        [Ended(((0, 1),), exited(0), 5, 0)],
        [Ended(((0, 4),), exited(0), 0, 0)],
        [Done()],
        [Accepted(b"j" * 16)],
        [Refused(1, "late")],
        [StdinTaken(1)],
    ],
)
def test_attack_45_messages_in_the_wrong_state_or_order_are_refused(frames: list[Frame]) -> None:
    session = accepted()
    with pytest.raises(ProtocolError):
        say(session, *frames)


def test_attack_45_a_job_frame_before_hello_or_on_another_channel_is_refused() -> None:
    session = JobSession(1, WINDOW)
    session.submit(b"c", b"b")
    with pytest.raises(ProtocolError, match="out of turn"):
        say(session, Accepted(b"j" * 16))
    with pytest.raises(ProtocolError, match="channel 2"):
        accepted().feed(encode(2, Done()))
    with pytest.raises(ProtocolError, match="channel 0"):
        accepted().feed(encode(0, Done()))


def test_a_lost_rank_may_have_any_length() -> None:
    session = accepted(1)
    ended = Ended(((0, 1),), lost("gone"), LENGTH_UNKNOWN, LENGTH_UNKNOWN)
    say(session, Output(((0, 1),), STDOUT, 0, b"part"), ended, Done())
    assert session.state == OVER


def test_acks_are_lazy_and_cumulative() -> None:
    session = accepted()
    half = WINDOW // 2
    say(session, Output(((0, 3),), STDOUT, 0, b"x" * WINDOW))
    session.taken(((0, 3),), STDOUT, half - 1)
    assert session.outgoing() == b""
    session.taken(((1, 2),), STDOUT, 1)
    assert sent(session) == [(1, Ack(((1, STDOUT, half),)))]
    session.taken(((0, 3),), STDOUT, WINDOW - half)
    ends = ((0, STDOUT, WINDOW - 1), (1, STDOUT, WINDOW), (2, STDOUT, WINDOW - 1))
    assert sent(session) == [(1, Ack(ends))]


def test_acks_of_very_many_ranks_fit_their_frames() -> None:
    session = accepted(limits.RANKS_MAX)
    session.taken(((0, limits.RANKS_MAX),), STDERR, WINDOW)
    entries = [entry for _, frame in sent(session) if isinstance(frame, Ack) for entry in frame.entries]
    assert len(entries) == limits.RANKS_MAX


def test_nothing_is_acknowledged_for_a_rank_that_ended() -> None:
    session = accepted(1)
    say(session, Output(((0, 1),), STDOUT, 0, b"x" * WINDOW), Ended(((0, 1),), exited(0), WINDOW, 0))
    session.taken(((0, 1),), STDOUT, WINDOW)
    assert session.outgoing() == b""


def test_stdin_has_a_window_and_chunks() -> None:
    session = accepted()
    assert session.stdin_room == limits.STDIN_WINDOW_BYTES
    session.stdin(b"s" * limits.STDIN_WINDOW_BYTES)
    assert session.stdin_room == 0
    frames = [frame for _, frame in sent(session)]
    assert all(isinstance(frame, Stdin) and len(frame.data) <= limits.FRAME_MAX_BYTES for frame in frames)
    assert sum(len(frame.data) for frame in frames if isinstance(frame, Stdin)) == limits.STDIN_WINDOW_BYTES
    with pytest.raises(ValueError, match="room for 0"):
        session.stdin(b"s")
    say(session, StdinTaken(1000))
    assert session.stdin_room == 1000
    session.stdin(b"t" * 10, eof=True)
    offset = limits.STDIN_WINDOW_BYTES
    assert sent(session) == [(1, Stdin(offset, b"t" * 10)), (1, Stdin(offset + 10, b"", True))]
    assert session.stdin_over
    session.stdin(b"never sent")
    assert session.outgoing() == b""


def test_nobody_wants_stdin() -> None:
    session = accepted()
    say(session, StdinTaken(OFFSET_ALL))
    assert session.stdin_over
    assert session.stdin_room == 0


def test_signals_kill_and_close() -> None:
    session = accepted()
    session.signal(15)
    session.kill(now=True)
    session.close()
    assert sent(session) == [(1, Signal(15)), (1, Kill(True)), (1, Close())]
    session.signal(15)
    assert session.outgoing() == b""


def test_the_end_of_the_connection_loses_what_has_no_outcome() -> None:
    session = accepted(3)
    say(session, Ended(((1, 2),), exited(0), 0, 0))
    assert session.connection_ended("the local gexecd ended") == ((0, 1), (2, 3))
    assert session.ended_outcomes() == [
        lost("the local gexecd ended"),
        exited(0),
        lost("the local gexecd ended"),
    ]
    assert session.state == OVER


def test_a_pause_of_its_own_is_not_held_against_gexecd() -> None:
    session = accepted()
    session.heard(100.0)
    session.silence(100.0 + limits.HEARTBEAT_S)
    assert sent(session) == [(0, Ping(0))]
    assert session.silence(500.0) == ""
    assert sent(session) == [(0, Ping(0))]
    due_s = session.silence_due_s
    assert due_s == 500.0 - limits.HEARTBEAT_S + limits.LOST_AFTER_S
    assert session.silence(due_s)


def test_a_silent_gexecd_is_asked_and_then_given_up() -> None:
    session = accepted()
    session.heard(100.0)
    assert session.silence_due_s == 100.0 + limits.HEARTBEAT_S
    assert session.silence(100.0 + limits.HEARTBEAT_S - 0.1) == ""
    assert sent(session) == []
    assert session.silence(100.0 + limits.HEARTBEAT_S) == ""
    assert session.silence(101.0 + limits.HEARTBEAT_S) == ""
    assert sent(session) == [(0, Ping(0))]  # once
    assert session.silence_due_s == 100.0 + limits.LOST_AFTER_S
    assert "has not answered for 15 s" in session.silence(100.0 + limits.LOST_AFTER_S)
    session.heard(200.0)
    assert session.silence(200.0) == ""
    session.connection_ended("it is over")
    assert session.silence(999.0) == ""
    due_s: float | None = session.silence_due_s
    assert due_s is None
