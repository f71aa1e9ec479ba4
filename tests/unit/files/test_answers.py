"""What receivers answer, and what all of them together lack."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec import limits
from gexec.files import answers
from gexec.files.answers import ListAnswer, Union, answer_for, parse

SETS = st.integers(0, 2**limits.ARCHIVE_LIST_MAX - 1)


@given(st.integers(0, 10**9 - 1), st.integers(0, 1), SETS, SETS)
def test_an_answer_arrives_as_it_was(number: int, phase: int, lacks: int, doubts: int) -> None:
    sent = ListAnswer(number, phase, lacks, doubts)
    for found in (parse(sent.line()), answer_for("", f"* {sent.words()}")):
        assert found is not None
        assert (found.number, found.phase, found.lacks, found.doubts) == (number, phase, lacks, doubts)


@pytest.mark.parametrize(
    "line",
    [
        "",
        answers.MARK,
        answers.ALIVE,
        f"{answers.MARK} 1.0 0",
        f"{answers.MARK} 1.2 0 0",
        f"{answers.MARK} 1 0 0",
        f"{answers.MARK} -1.0 0 0",
        f"{answers.MARK} 1.0 0x1 0",
        f"{answers.MARK} 1.0 -1 0",
        f"{answers.MARK} 1.0  0 0",
        f"{answers.MARK} 1.0 {'f' * (limits.ARCHIVE_LIST_MAX // 4 + 1)} 0",
        "gexec-answer 1 1.0 0 0",
    ],
)
def test_what_is_no_answer(line: str) -> None:
    assert parse(line) is None


@pytest.mark.parametrize(
    ("ranks", "rank", "is_meant"),
    [("0-7,9-9", "9", True), ("0-7,9-9", "8", False), ("*", "3", True), ("*", "", True), ("0-7", "", False)],
)
def test_a_sender_hears_only_what_is_for_it(ranks: str, rank: str, is_meant: bool) -> None:
    assert (answer_for(rank, f"{ranks} 1.0 3 0") is not None) is is_meant


def test_an_answer_is_complete_with_the_last_receiver() -> None:
    union = Union((0, 1, 2))
    assert union.answered(0, ListAnswer(0, 0, 0b001, 0)) is None
    assert union.answered(0, ListAnswer(1, 0, 0b1, 0)) is None
    assert union.answered(1, ListAnswer(0, 0, 0b100, 0b10)) is None
    assert union.answered(1, ListAnswer(0, 0, 0b100, 0b10)) is None
    found = union.answered(2, ListAnswer(0, 0, 0, 0))
    assert found is not None
    assert (found.number, found.lacks, found.doubts) == (0, 0b101, 0b10)


def test_nobody_waits_for_a_receiver_that_is_gone() -> None:
    union = Union((0, 1, 2))
    assert union.answered(0, ListAnswer(0, 0, 1, 0)) is None
    assert union.gone([1]) == []
    [found] = union.gone([2])
    assert found.lacks == 1
    later = union.answered(0, ListAnswer(1, 0, 2, 0))
    assert later is not None
    assert later.lacks == 2


def test_who_is_gone_or_late_changes_nothing() -> None:
    union = Union((0, 1))
    union.gone([1])
    assert union.answered(1, ListAnswer(0, 0, 7, 0)) is None
    assert union.answered(0, ListAnswer(0, 0, 1, 0)) is not None
    assert union.answered(0, ListAnswer(0, 0, 1, 0)) is None


def test_answers_that_nobody_asked_for_are_not_kept() -> None:
    union = Union((0, 1))
    for number in range(100):
        union.answered(0, ListAnswer(number, 0, 1, 0))
    assert union.answered(1, ListAnswer(99, 0, 1, 0)) is None
    assert union.answered(1, ListAnswer(0, 0, 1, 0)) is not None
