"""Options about which files are sent."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from gexec.cli.ensync import ENSYNC, CopyTask
from gexec.cli.filters import Filters
from gexec.cli.options import Parsed, parse
from gexec.cli.table import options_of
from gexec.errors import UsageError
from gexec.files.walking import walk


@pytest.fixture
def top(tmp_path: Path) -> Path:
    top = tmp_path / "top"
    for name in ("a.o", "a.c", "d/b.o", "d/b.c", "d/keep.o"):
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return top


def parsed(*words: object) -> Parsed:
    return parse("ensync", [str(word) for word in words], ENSYNC.options, anywhere=True)


def names(filters: Filters, *paths: object, naming: str = "base") -> list[str]:
    roots, rules = filters.source([str(path) for path in paths], naming)
    return [os.fsdecode(found.name) for found in walk(roots, rules)]


def test_patterns_of_all_options_in_their_order(top: Path, tmp_path: Path) -> None:
    (tmp_path / "patterns").write_bytes(b"# comment\n\n; comment\n+ a.c\r\n- *.c\nb.*\n")
    words = ["--include-files=keep.o", "--exclude-files=*.o", f"--exclude-files-from={tmp_path}/patterns"]
    filters = Filters(parsed(*words, "--exclude-files", "-x=\udcff"))
    assert names(filters, top) == ["top", "top/a.c", "top/d", "top/d/keep.o"]
    again = parse("gexec-send", filters.words(), options_of("gexec-send"))
    assert names(Filters(again), top) == names(filters, top)
    assert filters.words() == [
        *("--include-files=keep.o", "--exclude-files=*.o", "--include-files=a.c", "--exclude-files=*.c"),
        *("--exclude-files=b.*", "--exclude-files=-x=\udcff"),
    ]


def source_of(task: CopyTask) -> object:
    return task.filters.source(task.paths, task.names)


@pytest.mark.parametrize("naming", ["base", "full"])
def test_patterns_begin_where_a_file_is(top: Path, naming: str) -> None:
    filters = Filters(parsed("--exclude-files=/top/d", "--exclude-files=/a.c"))
    found = names(filters, top, top / "a.c", naming="full") if naming == "full" else names(filters, top)
    assert [name.rpartition("top")[2] for name in found] == ["", "/a.c", "/a.o"]
    assert names(filters, top / "a.c", top / "a.o", naming=naming)[-1].endswith("a.o")
    assert len(names(filters, top / "a.c", top / "a.o", naming=naming)) == 1


@pytest.mark.parametrize("naming", ["full", "asked"])
def test_what_is_named_but_in_a_directory_that_is_left_out_is_reported(top: Path, naming: str) -> None:
    filters = Filters(parsed("--exclude-files=d/"))
    roots, rules = filters.source([str(path) for path in (top, top / "d/b.c", top / "a.c")], naming)
    found = list(walk(roots, rules))
    assert [os.path.basename(entry.name) for entry in found if entry.fits] == [b"top", b"a.c", b"a.o"]
    assert [entry.problem for entry in found if not entry.fits] == [
        f"{top}/d/b.c: not sent: a pattern leaves out {top}/d, in which it is; copy it on its own"
    ]
    # On its own nothing above it is looked at.
    assert names(filters, top / "d/b.c") == ["b.c"]


def test_patterns_of_a_file_may_end_with_nul(top: Path, tmp_path: Path) -> None:
    (tmp_path / "patterns").write_bytes(b"*.o\0a.c\0")
    (tmp_path / "list").write_bytes(b"a.c\0d/\0")
    words = (f"--exclude-files-from={tmp_path}/patterns", f"--files-from={tmp_path}/list", "--from0")
    assert names(Filters(parsed(*words)), top) == ["d", "d/b.c"]


def test_a_list_is_read_once_also_from_a_pipe(top: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"d/b.c\0a.o")
    os.close(writing)
    filters = Filters(parsed(f"--files-from=/dev/fd/{reading}", "--from0"))
    filters.keep_list()
    os.close(reading)
    expected = ["a.o", "d", "d/b.c"]
    for _ in range(2):
        assert names(filters, top) == expected
    again = parse("gexec-send", filters.words(), options_of("gexec-send"))
    assert names(Filters(again), top) == expected


def test_a_list_without_a_directory_is_below_the_root_directory(top: Path, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(f"{top}/a.o\n")
    filters = Filters(parsed(f"--files-from={tmp_path}/list"))
    assert filters.has_list
    assert names(filters, naming="full")[-1] == f"{top}/a.o"[1:]
    assert names(filters, naming="full") == names(filters, "/", naming="full")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--files-from=LIST", "/usr", "/etc"], "expected one directory"),
        (["--files-from=LIST", "LIST"], "expected the directory"),
        (["--files-from=/none/x"], "--files-from /none/x: it cannot be read: No such file"),
        (["--exclude-files-from=/none/x", "f"], "--exclude-files-from /none/x: it cannot be read"),
        (["--exclude-files-from=MARK", "f"], "a line with only ! has no meaning"),
        (["--exclude-files-from=NUL", "f"], "a pattern of files is empty, has a NUL"),
        (["-n", "-", "--files-from=-"], "--nodes - and --files-from -: stdin can be only one of them"),
        (["--files-from=-", "--exclude-files-from=-"], "stdin can be only one"),
        (["-n", "a", "-n", "-", "--exclude-files-from=-", "f"], "stdin can be only one"),
        ([], "no file: give what to copy"),
        (["--exclude=*.o", "f"], "it excludes nodes, not files; for files give --exclude-files"),
    ],
)
def test_what_makes_no_sense_is_said(tmp_path: Path, words: list[str], sentence: str) -> None:
    for name, text in (("LIST", b"a\n"), ("MARK", b"a\n!\n"), ("NUL", b"a\0b\n")):
        (tmp_path / name).write_bytes(text)
        words = [word.replace(name, f"{tmp_path}/{name}") for word in words]
    with pytest.raises(UsageError, match=re.escape(sentence)):
        source_of(CopyTask(parsed(*words)))


def test_the_sender_gets_the_options(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("x\n")
    task = CopyTask(parsed("--exclude-files=*.o", f"--files-from={tmp_path}/list", "/usr"))
    *_, excluded, listed, end, path = task.sender(by_ssh=False)
    assert (excluded, end, path) == ("--exclude-files=*.o", "--", "/usr")
    assert Path(listed.removeprefix("--files-from=")).read_bytes() == b"x\n"
