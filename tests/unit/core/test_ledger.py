"""The root's book: nothing twice, nothing lost, nothing out of order."""

from __future__ import annotations

from gexec.core.ledger import Ledger
from gexec.wire import outcome as outcomes
from gexec.wire.frames import LENGTH_UNKNOWN, STDERR, STDOUT, Ended, Output


def test_output_passes_once() -> None:
    ledger = Ledger(4)
    frame = Output(((0, 2),), STDOUT, 0, b"abcd")
    assert ledger.output(frame) == ([frame], [], [])
    assert ledger.output(frame) == ([], [0, 1], [])
    longer = Output(((0, 3),), STDOUT, 0, b"abcdef")
    passed, doubled, gaps = ledger.output(longer)
    assert passed == [Output(((0, 2),), STDOUT, 4, b"ef"), Output(((2, 3),), STDOUT, 0, b"abcdef")]
    assert doubled == [0, 1]
    assert gaps == []


def test_output_after_a_gap_waits() -> None:
    ledger = Ledger(1)
    assert ledger.output(Output(((0, 1),), STDERR, 5, b"x")) == ([], [], [0])
    assert ledger.lengths(0) == (0, 0)


def test_streams_are_apart() -> None:
    ledger = Ledger(1)
    ledger.output(Output(((0, 1),), STDOUT, 0, b"ab"))
    ledger.output(Output(((0, 1),), STDERR, 0, b"c"))
    assert ledger.lengths(0) == (2, 1)


def test_ends_once() -> None:
    ledger = Ledger(3)
    frame = Ended(((0, 2),), outcomes.exited(0), 0, 0)
    assert ledger.end(frame) == (frame, [])
    assert ledger.end(Ended(((0, 3),), outcomes.exited(1), 0, 0)) == (
        Ended(((2, 3),), outcomes.exited(1), 0, 0),
        [],
    )
    assert ledger.remaining == 0
    assert ledger.end(frame) == (None, [])
    assert ledger.output(Output(((0, 1),), STDOUT, 0, b"late")) == ([], [0], [])


def test_end_waits_for_output_that_is_missing() -> None:
    ledger = Ledger(1)
    ended = Ended(((0, 1),), outcomes.exited(0), 3, 0)
    assert ledger.end(ended) == (None, [0])
    ledger.output(Output(((0, 1),), STDOUT, 0, b"abc"))
    assert ledger.end(ended) == (ended, [])


def test_lost_does_not_wait() -> None:
    ledger = Ledger(1)
    ledger.output(Output(((0, 1),), STDOUT, 0, b"abc"))
    ended = Ended(((0, 1),), outcomes.lost("why"), LENGTH_UNKNOWN, LENGTH_UNKNOWN)
    assert ledger.end(ended) == (ended, [])


def test_attack_129_lengths_of_output_that_did_not_come_are_not_passed_on() -> None:
    ledger = Ledger(1)
    ledger.output(Output(((0, 1),), STDOUT, 0, b"abc"))
    passed, gaps = ledger.end(Ended(((0, 1),), outcomes.lost("forged"), 7, 0))
    assert passed == Ended(((0, 1),), outcomes.lost("forged"), LENGTH_UNKNOWN, LENGTH_UNKNOWN)
    assert gaps == []


def test_started_once() -> None:
    ledger = Ledger(5)
    assert ledger.start(((0, 2), (3, 4))) == ((0, 2), (3, 4))
    assert ledger.start(((0, 5),)) == ((2, 3), (4, 5))
    assert ledger.started(4)


def test_acknowledges_only_what_came() -> None:
    ledger = Ledger(1)
    ledger.output(Output(((0, 1),), STDOUT, 0, b"abc"))
    assert not ledger.acknowledge(0, STDOUT, 4)
    assert ledger.acknowledge(0, STDOUT, 3)
    assert ledger.acknowledge(0, STDOUT, 1)
    assert ledger.acknowledged(0, STDOUT) == 3
