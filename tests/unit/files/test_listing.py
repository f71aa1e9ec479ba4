"""Lists of files, with rsync as the judge where it is installed."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import pytest

from gexec import limits
from gexec.errors import UsageError
from gexec.files.listing import listed_roots, read_list
from gexec.files.patterns import NO_RULES, Rules
from gexec.files.walking import DIRECTORY, SYMLINK, walk
from rsync_judge import Judge

needs_rsync = pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    for name in ("a/b/f", "a/b/g", "a/c", "d/x", "d/sub/y", "d/sub/deep/z", "real/z", "#hash", " sp ", "e"):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (top / "link").symlink_to("real")
    (top / "flink").symlink_to("a/b/f")
    (top / "dangling").symlink_to("nowhere")
    (top / "outer").symlink_to(top / "d")
    return top


def sent(
    top: Path, text: bytes, naming: str = "base", rules: Rules = NO_RULES, nul: bool = False
) -> tuple[set[bytes], list[str]]:
    """Return the names that are sent, with a slash for directories and an @ for links, and the problems."""
    roots, chosen = listed_roots(text, str(top), naming, rules=rules, ends_with_nul=nul)
    names: list[bytes] = []
    problems = []
    for found in walk(roots, chosen):
        if not found.fits:
            problems.append(found.problem.removeprefix(f"{top}/"))
            continue
        names.append(found.name)
    marks = {DIRECTORY: b"/", SYMLINK: b"@"}
    assert [name.split(b"/") for name in names] == sorted(name.split(b"/") for name in names)
    assert len(names) == len(set(names))
    return {found.name + marks.get(found.kind, b"") for found in walk(roots, chosen) if found.fits}, problems


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (b"a/b/f\n", {b"a/", b"a/b/", b"a/b/f"}),
        (b"/a/b/f", {b"a/", b"a/b/", b"a/b/f"}),
        (b"../../a/b/../c\r\n", {b"a/", b"a/c"}),
        (b"d\n", {b"d/"}),
        (b"d/\nd\n", {b"d/", b"d/x", b"d/sub/"}),
        (b"d/.\nd/sub/y\n", {b"d/", b"d/x", b"d/sub/", b"d/sub/y"}),
        (b"d/x/\n", {b"d/", b"d/x"}),
        (b"link\n", {b"link@"}),
        (b"link/\n", {b"link/", b"link/z"}),
        (b"link/z\nlink\n", {b"link/", b"link/z"}),
        (b"link\nlink/z\n", {b"link/", b"link/z"}),
        (b"outer/sub/y\n", {b"outer/", b"outer/sub/", b"outer/sub/y"}),
        (b"flink\ndangling/\n", {b"flink@", b"dangling@"}),
        (b"#hash\n; x\n\n sp \n", {b" sp "}),
        (b"./#hash\n", {b"#hash"}),
        (b"a/./b/f\n", {b"b/", b"b/f"}),
        (b"a/./\n", {b"b/", b"c"}),
        (b"a/b/./f\na/./b\n", {b"b/", b"f"}),
    ],
)
def test_names(top: Path, text: bytes, names: set[bytes]) -> None:
    assert sent(top, text) == (names, [])
    prefix = os.fsencode(top)[1:] + b"/"
    assert sent(top, text, "full") == ({prefix + name for name in names}, [])


def test_names_that_end_with_nul(top: Path) -> None:
    (top / "new\nline").touch()
    assert sent(top, b"new\nline\0#hash\0\0e", nul=True) == ({b"new\nline", b"e"}, [])


def test_the_directory_itself_is_its_contents(top: Path) -> None:
    expected = {b"a/", b"d/", b"real/", b"link@", b"flink@", b"dangling@", b"outer@", b"e", b" sp ", b"#hash"}
    for text in (b".", b"./", b"/", b"..", b"a/.."):
        assert sent(top, text) == (expected, [])


def test_what_is_missing_is_told_once_and_the_rest_is_sent(top: Path) -> None:
    text = b"none\nd/x\nnone\ne/x\ndangling/x\n" + b"x/" * 300 + b"\nnu\0l\n"
    names, problems = sent(top, text)
    assert names == {b"d/", b"d/x"}
    deep = b"x/" * 300
    assert problems == [
        "none: not sent: there is no such file",
        "e/x: not sent: a part of its path is a file, not a directory",
        "dangling/x: not sent: there is no such file",
        f"{deep.decode()[:-1]}: not sent: its path is longer or deeper than can be copied",
        "nu\\x00l: not sent: it has a NUL in its name",
    ]


def test_rules_leave_out_names_but_not_the_directories_above_others(top: Path) -> None:
    rules = Rules([(True, b"/a"), (True, b"f"), (True, b"sub")])
    assert sent(top, b"a/b/f\na/c\na\nd/\n", rules=rules) == ({b"a/", b"a/c", b"d/", b"d/x"}, [])


def test_directories_know_whether_all_of_them_is_sent(top: Path) -> None:
    roots, rules = listed_roots(b"d/\na/c", str(top))
    whole = {os.path.basename(found.name): found.is_whole for found in walk(roots, rules)}
    assert whole == {b"a": False, b"c": False, b"d": True, b"sub": False, b"x": False}


def test_wrong_lists(top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="expected the directory"):
        listed_roots(b"x", str(top / "e"))
    monkeypatch.setattr(limits, "FILES_FROM_MAX", 2)
    listed_roots(b"e\n\n#\na\n", str(top))
    with pytest.raises(UsageError, match="more than 2 names"):
        listed_roots(b"e\na\nd\n", str(top))
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_list(str(top / "none"))
    assert read_list(str(top / "e")) == b"e"
    monkeypatch.setattr(limits, "FILES_FROM_MAX_BYTES", 4)
    with pytest.raises(UsageError, match="split it"):
        read_list(str(top / "a/b/f"))


# -- rsync ---------------------------------------------------------------------------------------

_PARTS = ("a", "b", "c", "f", "d", "sub", "x", "y", "deep", "link", "real", "z", "flink", "outer", "dangling")
_ENDS = ("", "", "", "/", "/.", "//")


def _line(chance: random.Random, top: Path) -> str:
    known = [str(path.relative_to(top)) for path in top.rglob("*")] + [
        "link/z",
        "outer/sub/y",
        "outer/x",
        ".",
    ]
    name = chance.choice(known) if chance.random() < 0.8 else "/".join(chance.choices(_PARTS, k=3))
    if chance.random() < 0.2:
        name = name.replace("/", chance.choice(("//", "/./", "/../", "/b/../")), 1)
    return chance.choice(("", "", "", "/", "./", "../")) + name + chance.choice(_ENDS)


@needs_rsync
@pytest.mark.parametrize("seed", range(3))
def test_what_rsync_would_copy(top: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    (tmp_path / "to").mkdir()
    judge = Judge(tmp_path)
    for _ in range(40):
        lines = [_line(chance, top) for _ in range(chance.randint(1, 5))]
        names_out = chance.sample(("f", "sub", "/a", "d/x", "z"), chance.choice((0, 0, 1)))
        (tmp_path / "list").write_text("\n".join(lines))
        words = [f"--exclude={name}" for name in names_out]
        done = judge.run(["-a8n", "--files-from=list", "--out-format=%n", *words, "top", "to"])
        if done is None:
            continue
        rules = Rules([(True, os.fsencode(name)) for name in names_out])
        names, problems = sent(top, (tmp_path / "list").read_bytes(), rules=rules)
        expected = {line for line in done.stdout.split(b"\n") if line and line != b"./"}
        assert {name.rstrip(b"@") for name in names} == expected, (lines, names_out)
        assert done.returncode == (23 if problems else 0), (lines, done.stderr)
