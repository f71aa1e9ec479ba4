"""Wildcards, one by one."""

from __future__ import annotations

import re

import pytest

from gexec.files.wildcards import expression


@pytest.mark.parametrize(
    ("pattern", "fitting", "others"),
    [
        ("a*c", ["ac", "abc", "a\nc"], ["a/c", "abcd", "bac"]),
        ("a**c", ["ac", "a/b/c"], ["a/b"]),
        ("?", ["a", "ä"], ["", "/", "ab"]),
        ("[a-c]", ["a", "c"], ["d", "-", "/"]),
        ("[!a-c]", ["d", "-"], ["a", "/", ""]),
        ("[^a]", ["b"], ["a", "/"]),
        ("[]x]", ["]", "x"], ["a"]),
        ("[!]x]", ["a"], ["]", "x"]),
        ("[a-]", ["a", "-"], ["b"]),
        ("[-a]", ["a", "-"], ["b"]),
        ("[c-a]", ["c"], ["a", "b"]),
        ("[a\\-c]", ["a", "-", "c"], ["b"]),
        ("[\\]]", ["]"], ["\\"]),
        ("[[:digit:]x]", ["5", "x"], ["a", ":"]),
        ("[![:upper:]]", ["a"], ["A", "/"]),
        ("[[:none:]]", [], ["n", "["]),
        ("[[:a]", ["[", ":", "a"], ["b"]),
        ("[,-.]", [",", "-", "."], ["/"]),
        ("[.-0]", [".", "0"], ["/"]),
        ("[a", [], ["[a", "a"]),
        ("a\\", [], ["a", "a\\"]),
        ("\\*\\?", ["*?"], ["ab"]),
        ("*.*", ["a.b", "."], ["ab"]),
        ("*a*b*", ["ab", "xaxxbx", "aab"], ["ba", "a/b"]),
        ("a.c+", ["a.c+"], ["abcc"]),
    ],
)
def test_what_fits(pattern: str, fitting: list[str], others: list[str]) -> None:
    fits = re.compile(expression(pattern), re.DOTALL).fullmatch
    assert [text for text in fitting if not fits(text)] == []
    assert [text for text in others if fits(text)] == []


def test_many_stars_need_no_long_search() -> None:
    assert not re.fullmatch(expression("*a" * 30 + "b"), "a" * 255, re.DOTALL)
    assert re.fullmatch(expression("*a" * 30 + "*"), "a" * 255, re.DOTALL)
