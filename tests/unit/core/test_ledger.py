"""The root's book: nothing twice, nothing lost, nothing out of order."""

from __future__ import annotations

from gexec.core.flow import LIFE_BYTES
from gexec.core.ledger import Ledger
from gexec.limits import LIVES_MAX
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
    assert ledger.end(frame) == ([frame], [])
    assert ledger.end(Ended(((0, 3),), outcomes.exited(1), 0, 0)) == (
        [Ended(((2, 3),), outcomes.exited(1), 0, 0)],
        [],
    )
    assert ledger.remaining == 0
    assert ledger.end(frame) == ([], [])
    assert ledger.output(Output(((0, 1),), STDOUT, 0, b"late")) == ([], [0], [])


def test_end_waits_for_output_that_is_missing() -> None:
    ledger = Ledger(1)
    ended = Ended(((0, 1),), outcomes.exited(0), 3, 0)
    assert ledger.end(ended) == ([], [0])
    ledger.output(Output(((0, 1),), STDOUT, 0, b"abc"))
    assert ledger.end(ended) == ([ended], [])


def test_lost_does_not_wait() -> None:
    ledger = Ledger(1)
    ledger.output(Output(((0, 1),), STDOUT, 0, b"abc"))
    ended = Ended(((0, 1),), outcomes.lost("why"), LENGTH_UNKNOWN, LENGTH_UNKNOWN)
    assert ledger.end(ended) == ([ended], [])


def test_attack_129_lengths_of_output_that_did_not_come_are_not_passed_on() -> None:
    ledger = Ledger(1)
    ledger.output(Output(((0, 1),), STDOUT, 0, b"abc"))
    passed, gaps = ledger.end(Ended(((0, 1),), outcomes.lost("forged"), 7, 0))
    assert passed == [Ended(((0, 1),), outcomes.lost("forged"), LENGTH_UNKNOWN, LENGTH_UNKNOWN)]
    assert gaps == []


def test_started_once() -> None:
    ledger = Ledger(5)
    assert ledger.start(((0, 2), (3, 4))) == ((0, 2), (3, 4))
    assert ledger.start(((0, 5),)) == ((2, 3), (4, 5))
    assert ledger.started(4)


def test_acknowledges_only_what_came() -> None:
    ledger = Ledger(1)
    ledger.output(Output(((0, 1),), STDOUT, 0, b"abc"))
    assert ledger.acknowledge(0, STDOUT, 4) is None
    assert ledger.acknowledge(0, STDOUT, 3) == 3
    assert ledger.acknowledge(0, STDOUT, 1) == 1
    assert ledger.acknowledged(0, STDOUT) == 3


def test_after_the_death_of_a_relay_the_client_s_offsets_continue() -> None:
    ledger = Ledger(2)
    ledger.output(Output(((0, 2),), STDOUT, 0, b"abc"))
    next_life = Output(((0, 1),), STDOUT, LIFE_BYTES, b"xy")
    assert ledger.output(next_life) == ([Output(((0, 1),), STDOUT, 3, b"xy")], [], [])
    assert ledger.output(next_life) == ([], [0], [])
    assert ledger.output(Output(((0, 1),), STDOUT, 3, b"d")) == ([], [0], [])  # the dead relay's: too late
    both = Output(((0, 2),), STDOUT, LIFE_BYTES + 2, b"z")
    assert ledger.output(both) == ([Output(((0, 1),), STDOUT, 5, b"z")], [], [1])  # rank 1: bytes are missing
    assert ledger.acknowledge(0, STDOUT, 7) is None
    assert ledger.acknowledge(0, STDOUT, 6) == LIFE_BYTES + 3
    assert ledger.acknowledged(0, STDOUT) == LIFE_BYTES + 3


def test_an_end_of_the_next_life_waits_for_its_output_only() -> None:
    ledger = Ledger(2)
    ledger.output(Output(((0, 2),), STDOUT, 0, b"abc"))
    ledger.output(Output(((0, 1),), STDOUT, 2 * LIFE_BYTES, b"xy"))
    cut = outcomes.output_cut(outcomes.exited(0), "why")
    early = Ended(((0, 2),), cut, 2 * LIFE_BYTES + 3, 2 * LIFE_BYTES)
    assert ledger.end(early) == ([], [0, 1])
    ended = Ended(((0, 2),), cut, 2 * LIFE_BYTES + 2, 2 * LIFE_BYTES)
    assert ledger.end(ended) == ([Ended(((0, 1),), cut, 5, 0)], [1])
    silent = Ended(((1, 2),), cut, 2 * LIFE_BYTES, 2 * LIFE_BYTES)
    assert ledger.end(silent) == ([Ended(((1, 2),), cut, 3, 0)], [])


def test_nobody_has_more_lives_than_there_are() -> None:
    ledger = Ledger(1)
    beyond = (LIVES_MAX + 1) * LIFE_BYTES
    assert ledger.output(Output(((0, 1),), STDOUT, beyond, b"x")) == ([], [], [0])
    assert ledger.end(Ended(((0, 1),), outcomes.exited(0), beyond, 0)) == ([], [0])
    assert ledger.lengths(0) == (0, 0)
