"""--output-dir: one file for each node and stream."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gexec.client.outdir import OPEN_MAX, OutputDir, file_names
from gexec.errors import UsageError
from gexec.render.prefix import prefixes
from gexec.render.tee import Tee
from gexec.render.view import Prefixed
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import exited, lost, not_started
from views import Loop, one

NAMES = [b"a", b"b", b"c"]
FULL = Path("/dev/full")


def test_a_file_for_each_node_and_stream(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "er"
    old_umask = os.umask(0o027)
    try:
        loop = Loop(OutputDir(str(directory), NAMES))
        loop.out(((0, 2),), b"both\n")
        loop.err(1, b"\0\xff")
        loop.out(0, b"half")
        loop.ended(((0, 2),), exited(3))
        loop.ended(one(2), not_started("refused"))
        loop.finish()
    finally:
        os.umask(old_umask)
    content = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert content == {"a.out": b"both\nhalf", "b.out": b"both\n", "b.err": b"\0\xff"}
    assert (directory / "a.out").stat().st_mode & 0o777 == 0o640
    assert loop.text == {1: b"", 2: b""}
    assert loop.taken == {(STDOUT, 0): 9, (STDOUT, 1): 5, (STDERR, 1): 2}


def test_silent_nodes_have_an_empty_file_if_the_program_may_have_run(tmp_path: Path) -> None:
    loop = Loop(OutputDir(str(tmp_path), NAMES))
    loop.ended(one(0), exited(0))
    loop.ended(one(1), lost("gone"))
    loop.ended(one(2), not_started("no"))
    loop.finish()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.out": b"", "b.out": b""}


def test_an_earlier_runs_files_go_and_others_stay(tmp_path: Path) -> None:
    for name in ("a.out", "a.err", "c.out", "d.out", "notes"):
        (tmp_path / name).write_text("old")
    loop = Loop(OutputDir(str(tmp_path), NAMES))
    loop.out(0, b"new")
    loop.ended(one(0), exited(0))
    loop.finish()
    content = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert content == {"a.out": "new", "d.out": "old", "notes": "old"}


def test_links_are_replaced_and_never_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    directory = tmp_path / "out"
    directory.mkdir()
    (directory / "a.out").symlink_to(precious)
    os.link(precious, directory / "b.out")
    loop = Loop(OutputDir(str(directory), NAMES))
    (directory / "c.out").symlink_to(precious)  # put there after the job has begun
    loop.out(((0, 2),), b"x")
    loop.out(2, b"x")
    assert precious.read_text() == "precious"
    assert (directory / "a.out").read_bytes() == b"x"
    assert loop.view.error == f"cannot write {directory}/c.out: File exists"


@pytest.mark.parametrize(
    ("names", "files"),
    [
        ([b"n1", b"n2"], ["n1", "n2"]),
        ([b"n1", b"n2", b"n1"], ["n1#0", "n2", "n1#2"]),
        (
            [b"../../etc/passwd", b".hidden", b".."],
            ["%2E./../etc/passwd".replace("/", "%2F"), "%2Ehidden", "%2E."],
        ),
        ([b"a b", b"a%20b", b"a#0", b"a", b"a"], ["a%20b", "a%2520b", "a%230", "a#3", "a#4"]),
        ([b"\xff\xc3\xa9", b"::1"], ["%FF%C3%A9", "::1"]),
        ([b"x" * 255, b"x" * 254 + b"y"], ["x" * 200 + "#0", "x" * 200 + "#1"]),
    ],
)
def test_names_of_files(names: list[bytes], files: list[str]) -> None:
    assert file_names(names) == files


def test_few_files_are_open_at_a_time(tmp_path: Path) -> None:
    count = OPEN_MAX + 50
    loop = Loop(OutputDir(str(tmp_path), [b"n%d" % rank for rank in range(count)]))
    before = len(os.listdir("/proc/self/fd"))
    for text in (b"one\n", b"two\n"):
        for rank in range(count):
            loop.out(rank, text)
    assert len(os.listdir("/proc/self/fd")) <= before + OPEN_MAX
    loop.ended(((0, count),), exited(0))
    assert len(os.listdir("/proc/self/fd")) <= before
    loop.finish()
    assert all((tmp_path / f"n{rank}.out").read_bytes() == b"one\ntwo\n" for rank in range(count))


def test_a_file_that_became_a_link_is_not_written_again(tmp_path: Path) -> None:
    names = [b"n%d" % rank for rank in range(OPEN_MAX + 1)]
    (tmp_path / "out").mkdir()
    loop = Loop(OutputDir(str(tmp_path / "out"), names))
    for rank in range(len(names)):
        loop.out(rank, b"x")  # the first file is closed for the last one
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "out" / "n0.out").unlink()
    (tmp_path / "out" / "n0.out").symlink_to(precious)
    loop.out(0, b"y")
    assert precious.read_text() == "precious"
    assert loop.view.error.startswith(f"cannot write {tmp_path}/out/n0.out: ")


@pytest.mark.parametrize("kind", ["file", "below a file", "empty", "nul", "old directory"])
def test_a_directory_that_cannot_be_is_one_sentence(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "file"
    file.write_text("")
    (tmp_path / "a.out").mkdir()
    path = {
        "file": str(file),
        "below a file": str(file / "x"),
        "empty": "",
        "nul": "a\0b",
        "old directory": str(tmp_path),
    }[kind]
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UsageError, match=r"^--output-dir: .*; give a directory") as caught:
        OutputDir(path, NAMES)
    assert str(caught.value).isprintable()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_is_told_and_the_rest_thrown_away(tmp_path: Path) -> None:
    view = OutputDir(str(tmp_path), NAMES)
    fd = os.open(FULL, os.O_WRONLY)
    view._open[0, STDOUT] = fd  # the view's file, as it were, on a full disk
    loop = Loop(view)
    loop.out(((0, 3),), b"x\n")
    assert view.error == f"cannot write {tmp_path}/a.out: No space left on device"
    loop.out(((0, 3),), b"y\n")
    loop.ended(((0, 3),), exited(0))
    loop.finish()
    assert loop.taken == {(STDOUT, rank): 4 for rank in range(3)}
    assert list(tmp_path.iterdir()) == []


def test_together_with_lines_bytes_count_once_when_both_have_them(tmp_path: Path) -> None:
    directory = OutputDir(str(tmp_path), NAMES)
    loop = Loop(Tee(Prefixed(prefixes("host", NAMES, ()), 3), directory))
    loop.started(((0, 3),))
    loop.out(((0, 3),), b"line\n")
    loop.out(1, b"part")
    loop.ended(((0, 3),), exited(0))
    loop.finish()
    assert loop.text[1] == b"a line\nb line\nc line\nb part"
    assert (tmp_path / "b.out").read_bytes() == b"line\npart"
    assert loop.taken == {(STDOUT, 0): 5, (STDOUT, 1): 9, (STDOUT, 2): 5}


def test_what_keeps_the_files_from_being_written_is_the_whole_views_error(tmp_path: Path) -> None:
    (tmp_path / "late").mkdir()
    directory = OutputDir(str(tmp_path / "late"), NAMES)
    view = Tee(Prefixed(None, 3), directory)
    (tmp_path / "late" / "a.out").mkdir()
    loop = Loop(view)
    loop.out(0, b"x\n")
    assert view.error.endswith("a.out: File exists")
    assert loop.text[1] == b"x\n"
