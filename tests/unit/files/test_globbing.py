"""Paths with wildcards, expanded as a shell does it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gexec import limits
from gexec.files.globbing import TooManyError, expand, has_magic


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    for name in ("log/a.log", "log/b.log", "log/.hidden.log", "log/a.txt", "log/sub/c.log", "other/a.log"):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (top / "log/ä.log").touch()
    (top / "log/new\nline").touch()
    (top / "log/a b").touch()
    (top / ".git").mkdir()
    (top / ".git/config").touch()
    (top / "link").symlink_to("log")
    (top / "circle").symlink_to("circle")
    os.mkfifo(top / "log/pipe")
    return top


PATTERNS = (
    "*",
    "log/*",
    "log/*.log",
    "log/.*",
    "log/?.log",
    "*/a.log",
    "*/*.log",
    "*/",
    "log/*/",
    "[!l]*/*",
    "[.]git",
    ".g*/*",
    "log/[[:alpha:]].log",
    "link/*.txt",
    "log/a\\ *",
    "lo[g]/s\\ub",
    "none/*",
    "log/a.log/*",
    "*/none",
    "log/../log/*.txt",
    "./*",
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_is_what_a_shell_makes_of_it(top: Path, pattern: str) -> None:
    script = f"cd {top} && for f in {pattern}; do printf '%s\\0' \"$f\"; done"
    done = subprocess.run(
        ["sh", "-c", script], stdout=subprocess.PIPE, check=True, timeout=60, env={"LC_ALL": "C.UTF-8"}
    )
    names = [name for name in done.stdout.split(b"\0") if name]
    expected = [name for name in names if os.path.lexists(os.path.join(os.fsencode(top), name))]
    if pattern == "log/.*":
        expected = [name for name in expected if not name.endswith((b"/.", b"/.."))]
    if pattern == "log/?.log":
        # A character, also where the shell takes it for two bytes.
        expected = sorted({*expected, "log/ä.log".encode()})
    found, problems = expand(os.fsencode(f"{top}/{pattern}"))
    prefix = os.fsencode(f"{top}/")
    assert [path.removeprefix(prefix).removeprefix(b"./") for path in found] == sorted(
        name.removeprefix(b"./") for name in expected
    )
    assert problems == []


def test_what_is_a_pattern() -> None:
    assert has_magic(b"/a*b")
    assert has_magic(b"/[a]")
    assert not has_magic(b"/a\\b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read_is_a_problem(top: Path) -> None:
    (top / "other").chmod(0)
    try:
        found, problems = expand(os.fsencode(f"{top}/*/a.log"))
    finally:
        (top / "other").chmod(0o755)
    assert found == [os.fsencode(f"{top}/{name}/a.log") for name in ("link", "log")]
    assert problems == [(os.fsencode(top / "other"), "you may not read it; copy as a user who may")]


def test_too_many_are_refused(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ARCHIVE_MATCHES_MAX", 2)
    assert len(expand(os.fsencode(f"{top}/log/[ab].log"))[0]) == 2
    with pytest.raises(TooManyError):
        expand(os.fsencode(f"{top}/log/*.log"))
