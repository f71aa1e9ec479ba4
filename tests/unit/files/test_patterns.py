"""Patterns of files, with rsync as the judge where it is installed."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from gexec import limits
from gexec.errors import ProtocolError, UsageError
from gexec.files.patterns import Rules
from gexec.files.roots import roots_of
from gexec.files.walking import SKIPPED, walk
from rsync_judge import Judge

needs_rsync = pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")


def excludes(patterns: Sequence[bytes], path: bytes, is_directory: bool = False) -> bool:
    return Rules([(True, pattern) for pattern in patterns]).excludes(path, is_directory)


@pytest.mark.parametrize(
    ("pattern", "out", "kept"),
    [
        (b"*.o", [b"t/a.o", b"t/d/b.o", b"a.o"], [b"t/a.c", b"t/a.o/x"]),
        (b"/t/a", [b"t/a"], [b"t/t/a", b"t/d/t/a", b"x/t/a"]),
        (b"d/f", [b"t/d/f", b"d/f", b"x/y/d/f"], [b"t/ad/f", b"f", b"t/d/f/g"]),
        (b"d*/f", [b"t/d/f", b"t/dd/f"], [b"t/d/x/f"]),
        (b"d/**/f", [b"t/d/x/f", b"t/d/x/y/f"], [b"t/d/f"]),
        (b"**/f", [b"t/f", b"f", b"t/d/f"], [b"t/fx"]),
        (b"d/**", [b"t/d/x", b"t/d/x/y"], [b"t/d"]),
        (b"/t/**", [b"t/x"], [b"t", b"x/t/x"]),
        (b"*", [b"t", b"t/f"], []),
        (b"[a/]b", [], [b"ab", b"t/ab"]),  # it has a slash, so it is compared with two parts
        (b"\xff?", [b"t/\xffx", b"\xff\xfe"], [b"\xff"]),
        (b"a\\b", [b"t/a\\b"], [b"t/ab"]),  # without a wildcard a backslash is a backslash
        (b"a\\b*", [b"t/ab", b"t/abc"], [b"t/a\\b"]),
    ],
)
def test_paths_of_files(pattern: bytes, out: list[bytes], kept: list[bytes]) -> None:
    assert [path for path in out if not excludes([pattern], path)] == []
    assert [path for path in kept if excludes([pattern], path)] == []


def test_directories() -> None:
    assert excludes([b"d/"], b"t/d", is_directory=True)
    assert not excludes([b"d/"], b"t/d")
    assert excludes([b"d/***"], b"t/d", is_directory=True)
    assert excludes([b"d/***"], b"t/d/x/y")
    assert not excludes([b"d/***"], b"t/d")
    assert not excludes([b"*"], b"")


def test_the_first_that_matches_decides() -> None:
    rules = Rules([(False, b"keep.o"), (True, b"*.o"), (False, b"a.o")])
    assert not rules.excludes(b"t/keep.o", False)
    assert rules.excludes(b"t/a.o", False)
    assert not rules.excludes(b"t/a.c", False)


def test_patterns_begin_at_the_directory_that_a_file_is_in() -> None:
    rules = Rules([(True, b"/app/cache"), (True, b"/b/x")], [b"opt", b"srv/a", b""])
    assert rules.excludes(b"opt/app/cache", True)
    assert not rules.excludes(b"opt/opt/app/cache", True)
    assert rules.excludes(b"srv/a/b/x", False)
    assert rules.excludes(b"app/cache", True)
    assert not rules.excludes(b"srv/b/x", False)


def test_their_text_is_read_again() -> None:
    rules = Rules([(True, b"*.o"), (False, b"+ \n\xff"), (True, b"/ x")], [b"opt", b""])
    again = Rules.parse(rules.lines())
    assert again.lines() == rules.lines() == [b"- *.o", b"+ + \n\xff", b"- / x", b"/ opt"]
    assert again.excludes(b"opt/a.o", False)
    assert not Rules.parse([])
    for wrong in ([b""], [b"- "], [b"x y"], [b"-*.o"], [b"- a\0"], [b"- x"] * 1001):
        with pytest.raises(ProtocolError):
            Rules.parse(wrong)


def test_there_are_limits() -> None:
    Rules([(True, b"x" * limits.ARCHIVE_PATTERN_MAX_BYTES)] * 1000)
    with pytest.raises(UsageError, match="more than 1000 patterns"):
        Rules([(True, b"x")] * 1001)
    with pytest.raises(UsageError, match="longer than 4095 bytes: xxx"):
        Rules([(True, b"x" * (limits.ARCHIVE_PATTERN_MAX_BYTES + 1))])


# -- rsync ---------------------------------------------------------------------------------------

_NAMES = ("a", "b", "ab", "a.o", "b.c", "-", "]", "a]", "[", "*", "\\", "a\\b", "x y", "A", "5", "\xe4")
_PIECES = (
    *(
        "a",
        "b",
        "ab",
        ".o",
        "*",
        "*",
        "*",
        "**",
        "**",
        "***",
        "?",
        "[ab]",
        "[!a]",
        "[^b]",
        "[]a]",
        "[a-",
        "[",
    ),
    *("]", "/", "/", "/", "/", "\\", "\\*", "[[:alpha:]]", "[[:digit:]5]", "[a-b]", "-", "x y", "[\\]]"),
    *("[[:no:]]", "[--0]", "t", "u", "t/", "/t/", "\xe4"),
)


def _tree(chance: random.Random, top: Path, depth: int = 0) -> None:
    top.mkdir()
    for name in chance.sample(_NAMES, 5):
        kind = chance.random()
        if kind < 0.5 and depth < 3:
            _tree(chance, top / name, depth + 1)
        elif kind < 0.6:
            (top / name).symlink_to("a")
        else:
            (top / name).touch()


def _rules(chance: random.Random) -> list[tuple[bool, bytes]]:
    rules = []
    for _ in range(chance.randint(1, 4)):
        text = "".join(chance.choices(_PIECES, k=chance.randint(1, 5)))
        # rsync takes these as marks of another kind of rule.
        if not text.startswith(("!", "- ", "+ ")):
            rules.append((chance.random() < 0.7, os.fsencode(text)))
    return rules


def _of_rsync(judge: Judge, rules: Sequence[tuple[bool, bytes]]) -> set[bytes] | None:
    """Return the names that rsync would copy."""
    words = [(b"--exclude=" if out else b"--include=") + pattern for out, pattern in rules]
    done = judge.run([b"-a", b"-8", b"--dry-run", b"--out-format=%n%0", *words, b"t", b"u", b"to"])
    if done is None:
        return None
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.split(b"\n") if line]
    return {line.removesuffix(b"%0").rstrip(b"/") for line in lines if not line.startswith(b"created ")}


@needs_rsync
@pytest.mark.parametrize("seed", range(5))
def test_what_rsync_would_copy(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for name in ("t", "u"):
        _tree(chance, tmp_path / name)
    (tmp_path / "to").mkdir()
    judge = Judge(tmp_path)
    for _ in range(40):
        rules = _rules(chance)
        expected = _of_rsync(judge, rules)
        if expected is None:
            continue
        for naming in ("base", "full"):
            roots = roots_of([str(tmp_path / "t"), str(tmp_path / "u")], naming)
            chosen = Rules(rules, [root.top for root in roots])
            top = roots[0].top + b"/" if naming == "full" else b""
            found = list(walk(roots, chosen))
            assert all(entry.kind != SKIPPED for entry in found)
            names = {entry.name.removeprefix(top) for entry in found}
            assert names == expected, rules
