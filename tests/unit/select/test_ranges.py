"""Ranges in brackets: what they stand for, in order, counted before it is written out."""

from __future__ import annotations

import pytest

from gexec import limits
from gexec.errors import UsageError
from gexec.select.ranges import expand


def names(text: str, room: int = 1000) -> list[str]:
    """Expand a text whose brackets are well formed."""
    return expand(text.replace("]", "[").split("["), room, "--nodes")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("node[1-3]", ["node1", "node2", "node3"]),
        ("node[001-003,7]", ["node001", "node002", "node003", "node7"]),
        ("node[9-11]", ["node9", "node10", "node11"]),
        ("node[09-11]", ["node09", "node10", "node11"]),
        ("n[1-9/4]x", ["n1x", "n5x", "n9x"]),
        ("n[ 1 - 3 / 2 ]", ["n1", "n3"]),
        ("r[1-2]n[3-4]", ["r1n3", "r1n4", "r2n3", "r2n4"]),
        ("n[2,1,2]", ["n2", "n1", "n2"]),  # as it was written, duplicates too
        ("n[0]", ["n0"]),
        ("n[00-01]", ["n00", "n01"]),
        ("node1[9-10]", ["node19", "node110"]),  # ClusterShell makes 92 of it
        ("n[5-5/7]", ["n5"]),
        ("n[999999999999999998-999999999999999999]", ["n999999999999999998", "n999999999999999999"]),
    ],
)
def test_what_a_pattern_stands_for(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("n[]", "expected numbers such as 7, 1-9 or 1-9/2, commas between them"),
        ("n[1,]", "expected numbers such as"),
        ("n[a-b]", "'a-b': expected numbers such as"),
        ("n[-1]", "expected numbers such as"),
        ("n[1-]", "expected numbers such as"),
        ("n[1-2-3]", "expected numbers such as"),
        ("n[1-9/]", "expected numbers such as"),
        ("n[+1]", "expected numbers such as"),
        ("n[\u0663]", "expected numbers such as"),  # a digit, and no ASCII one
        ("n[1234567890123456789]", "expected numbers such as"),
        ("n[3-1]", "'3-1': a range runs upward, in steps of at least 1"),
        ("n[1-3/0]", "a range runs upward, in steps of at least 1"),
        ("n[01-100]", "both ends of a padded range have the same number of digits"),
        ("n[1-010]", "both ends of a padded range have the same number of digits"),
    ],
)
def test_what_is_malformed_is_named(text: str, error: str) -> None:
    with pytest.raises(UsageError) as refused:
        names(text)
    assert str(refused.value).startswith(f"--nodes: {text!r}: ")
    assert error in str(refused.value)


def test_names_are_counted_before_they_are_made() -> None:
    assert len(names("n[1-10]m[1-10]", room=100)) == 100
    for text, count in (("n[1-10]m[1-10],", 100), ("n[0-99999]m[0-99999]r[0-99999]", 10**15)):
        with pytest.raises(
            UsageError, match=f"{count} names, more than fit: a job has at most {limits.RANKS_MAX}"
        ):
            names(text.rstrip(","), room=99)
