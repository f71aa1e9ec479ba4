"""Outcomes: what each says and what it makes of gexec's exit status."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec import limits
from gexec.wire import outcome
from gexec.wire.outcome import Outcome


@pytest.mark.parametrize(
    ("one", "status", "words"),
    [
        (outcome.exited(0), 0, "exited 0"),
        (outcome.exited(7), 7, "exited 7"),
        (outcome.exited(255), 255, "exited 255"),
        (outcome.killed(9), 137, "killed by signal 9"),
        (outcome.killed(64), 192, "killed by signal 64"),
        (outcome.not_started("denied", errno.EACCES), 126, "not started: denied"),
        (outcome.not_started("no program", errno.ENOEXEC), 126, "not started: no program"),
        (outcome.not_started("too long", errno.E2BIG), 126, "not started: too long"),
        (outcome.not_started("no process", errno.EAGAIN), 255, "not started: no process"),
        (outcome.not_started("connection refused"), 255, "not started: connection refused"),
        (outcome.not_started("no such file", errno.ENOENT), 127, "not started: no such file"),
        (outcome.denied("credential expired"), 255, "denied: credential expired"),
        (outcome.lost("no answer for 15 s"), 255, "lost: no answer for 15 s"),
        (outcome.lost(""), 255, "lost"),
        (outcome.timed_out(15), 124, "timed out"),
        (outcome.output_cut(outcome.exited(0), "why"), 255, "exited 0, output cut: why"),
        (outcome.output_cut(outcome.killed(9), "why"), 255, "killed by signal 9, output cut: why"),
        (outcome.output_cut(outcome.timed_out(9, "late"), "why"), 255, "timed out, output cut: late; why"),
    ],
)
def test_status_and_words(one: Outcome, status: int, words: str) -> None:
    assert (one.exit_status, one.describe()) == (status, words)
    assert one.ok == (status == 0)
    assert repr(one) == f"Outcome({words})"


def test_every_value_that_may_come_gives_a_status_of_one_byte() -> None:
    for kind, (low, high) in enumerate(outcome.VALUES):
        for value in (low, high):
            status = Outcome(kind, value).exit_status
            assert 0 <= status <= 255
            assert (status == 0) == Outcome(kind, value).ok
    assert len(outcome.VALUES) == len(outcome.NAMES)


def test_equal_outcomes_are_one() -> None:
    assert len({outcome.exited(1), outcome.exited(1), outcome.killed(1), outcome.lost("a")}) == 3
    assert outcome.exited(0) != 0
    assert outcome.lost("a") != outcome.lost("b")
    assert outcome.output_cut(outcome.exited(0), "") != outcome.exited(0)


def test_how_many_hold_the_output() -> None:
    assert outcome.held_by(0) == "another process still holds the output; not waited for"
    assert outcome.held_by(1) == "1 process still holds the output; not waited for"
    assert outcome.held_by(12) == "12 processes still hold the output; not waited for"


@given(st.text(max_size=6000))
def test_clipped_texts_are_one_line_within_the_limit(text: str) -> None:
    clipped = outcome.clipped(text)
    assert len(clipped.encode()) <= limits.TEXT_MAX_BYTES
    assert len(clipped.splitlines()) <= 1
    assert outcome.clipped(clipped) == clipped


def test_a_clipped_text_says_so_and_never_splits_a_character() -> None:
    clipped = outcome.clipped("é" * limits.TEXT_MAX_BYTES)
    assert clipped.endswith("é ...")
    assert outcome.clipped("bad \udcff name\n twice") == "bad \\udcff name twice"
    after_a_word = outcome.clipped("x" * (limits.TEXT_MAX_BYTES - 5) + " " + "y" * 9)
    assert after_a_word == outcome.clipped(after_a_word) == "x" * (limits.TEXT_MAX_BYTES - 5) + " ..."
