"""A file has its name when it is whole and not before; what was there stays until then."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from descriptors import directory, only
from filesystems import needs, needs_user_attributes, run
from gexec.files import partial as partial_module
from gexec.files.owners import UNCHANGED
from gexec.files.partial import (
    Partial,
    keep_old,
    make_link,
    make_symlink,
    remove_stale_below,
)
from gexec.files.temporary import temporary_name

NAME = b"file"
TEMPORARY = os.fsdecode(temporary_name(NAME))
MTIME_NS = 10**18 + 7


@pytest.fixture
def above(tmp_path: Path) -> Iterator[int]:
    with directory(tmp_path) as descriptor:
        yield descriptor


@pytest.fixture(params=[True, False], ids=["unnamed", "named"])
def is_unnamed(request: pytest.FixtureRequest) -> bool:
    """Whether a file begins without a name."""
    return bool(request.param)


def settle(partial: Partial, size: int, mode: int = 0o640) -> None:
    partial.settle(size=size, uid=UNCHANGED, gid=UNCHANGED, mode=mode, mtime_ns=MTIME_NS, sync=True)


def others(place: Path) -> list[str]:
    """Return the names in a directory but the file's."""
    return sorted(set(os.listdir(place)) - {"file", "file~"})


def test_a_name_is_given_when_it_is_whole(above: int, tmp_path: Path, is_unnamed: bool) -> None:
    partial = Partial(above, NAME, is_unnamed=is_unnamed)
    partial.write(4, memoryview(b"data"))
    assert others(tmp_path) == ([] if is_unnamed else [TEMPORARY])
    settle(partial, 10, 0o4640)
    assert not (tmp_path / "file").exists()
    partial.publish()
    assert (tmp_path / "file").read_bytes() == b"\0\0\0\0data\0\0"
    status = (tmp_path / "file").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns) == (0o4640, MTIME_NS)
    partial.abort()  # does nothing any more
    assert os.listdir(tmp_path) == ["file"]


def test_more_than_its_size_is_cut(above: int, tmp_path: Path, is_unnamed: bool) -> None:
    partial = Partial(above, NAME, is_unnamed=is_unnamed)
    partial.write(0, memoryview(b"0123456789"))
    settle(partial, 4)
    partial.publish()
    assert (tmp_path / "file").read_bytes() == b"0123"


@pytest.mark.parametrize("old", ["file", "link", "program"])
def test_what_has_the_name_is_replaced_and_its_contents_are_not_touched(
    above: int, tmp_path: Path, is_unnamed: bool, old: str
) -> None:
    (tmp_path / "kept").write_text("old")
    if old == "link":
        (tmp_path / "file").symlink_to("kept")
    else:
        os.link(tmp_path / "kept", tmp_path / "file")
    partial = Partial(above, NAME, is_unnamed=is_unnamed)
    partial.write(0, memoryview(b"new"))
    settle(partial, 3)
    assert (tmp_path / "file").read_text() == "old"
    partial.publish()
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "kept").read_text() == "old"
    assert others(tmp_path) == ["kept"]


def test_a_directory_is_not_replaced(above: int, tmp_path: Path, is_unnamed: bool) -> None:
    (tmp_path / "file").mkdir()
    partial = Partial(above, NAME, is_unnamed=is_unnamed)
    settle(partial, 0)
    with pytest.raises(OSError, match="directory"):
        partial.publish()
    partial.abort()
    assert (tmp_path / "file").is_dir()
    assert others(tmp_path) == []


def test_nothing_is_left_of_what_is_given_up(above: int, tmp_path: Path, is_unnamed: bool) -> None:
    (tmp_path / "file").write_text("old")
    partial = Partial(above, NAME, is_unnamed=is_unnamed)
    partial.write(0, memoryview(b"new"))
    partial.abort()
    partial.abort()
    assert (tmp_path / "file").read_text() == "old"
    assert others(tmp_path) == []


def test_without_descriptors_nothing_is_left(above: int, tmp_path: Path, is_unnamed: bool) -> None:
    with only(free=0), pytest.raises(OSError, match="Too many open files"):
        Partial(above, NAME, is_unnamed=is_unnamed)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_run_left_is_removed(above: int, tmp_path: Path) -> None:
    for kind in ("file", "link"):
        if kind == "file":
            (tmp_path / TEMPORARY).write_text("half")
        else:
            (tmp_path / TEMPORARY).symlink_to("nowhere")
        partial = Partial(above, NAME, is_unnamed=False)
        partial.write(0, memoryview(b"new"))
        settle(partial, 3)
        partial.publish()
        assert os.listdir(tmp_path) == ["file"]


def test_what_another_run_writes_is_left_alone(above: int, tmp_path: Path, is_unnamed: bool) -> None:
    first = Partial(above, NAME, is_unnamed=False)
    first.write(0, memoryview(b"first"))
    (tmp_path / "file").write_text("old")
    second = Partial(above, NAME, is_unnamed=is_unnamed)
    second.write(0, memoryview(b"second"))
    settle(second, 6)
    second.publish()
    assert (tmp_path / "file").read_text() == "second"
    assert others(tmp_path) == [TEMPORARY]
    settle(first, 5)
    first.publish()
    assert (tmp_path / "file").read_text() == "first"
    assert others(tmp_path) == []


def test_something_else_of_the_temporary_name_is_left_alone(
    above: int, tmp_path: Path, is_unnamed: bool
) -> None:
    (tmp_path / TEMPORARY).mkdir()
    (tmp_path / "file").write_text("old")
    partial = Partial(above, NAME, is_unnamed=is_unnamed)
    settle(partial, 0)
    partial.publish()
    assert (tmp_path / "file").read_text() == ""
    assert others(tmp_path) == [TEMPORARY]


def test_a_temporary_name_is_the_files_own(above: int) -> None:
    names = {temporary_name(b"%d" % number) for number in range(1000)} | {temporary_name(b"n" * 255)}
    assert len(names) == 1001
    assert all(name.startswith(b".gexec-") and len(name) < 64 for name in names)


def test_a_file_with_a_name_is_locked_while_it_is_written(above: int, tmp_path: Path) -> None:
    partial = Partial(above, NAME, is_unnamed=False)
    with open(tmp_path / TEMPORARY) as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        partial.abort()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("mode", [0o640, 0o400])
def test_attributes_are_set_before_the_mode(above: int, tmp_path: Path, is_unnamed: bool, mode: int) -> None:
    needs_user_attributes(tmp_path)
    partial = Partial(above, NAME, is_unnamed=is_unnamed)
    wanted = ((b"user.a", b"1"),)
    refused = partial.settle(
        size=0, uid=UNCHANGED, gid=UNCHANGED, mode=mode, mtime_ns=MTIME_NS, sync=False, attributes=wanted
    )
    assert refused == []
    identity = partial.status().st_ino
    partial.publish()
    status = (tmp_path / "file").stat()
    assert (status.st_ino, stat.S_IMODE(status.st_mode)) == (identity, mode)
    assert os.getxattr(tmp_path / "file", "user.a") == b"1"


def test_a_file_has_no_acl_of_its_directory_if_it_shall_have_none(
    above: int, tmp_path: Path, is_unnamed: bool
) -> None:
    needs("setfacl")
    run("setfacl", "-d", "-m", "u:12345:rwx", tmp_path)
    for attributes, expected in (((), []), (None, ["system.posix_acl_access"])):
        partial = Partial(above, NAME, is_unnamed=is_unnamed)
        partial.settle(
            size=0, uid=UNCHANGED, gid=UNCHANGED, mode=0o640, mtime_ns=0, sync=False, attributes=attributes
        )
        partial.publish()
        assert os.listxattr(tmp_path / "file") == expected


def test_contents_of_another_file_of_the_node(above: int, tmp_path: Path, is_unnamed: bool) -> None:
    (tmp_path / "other").write_text("contents")
    partial = Partial(above, NAME, is_unnamed=is_unnamed)
    with open(tmp_path / "other") as other:
        partial.copy_from(other.fileno(), 8)
    settle(partial, 8)
    partial.publish()
    assert (tmp_path / "file").read_text() == "contents"


# -- what killed runs left --------------------------------------------------------------------------


OLD = -1.0


@pytest.fixture
def all_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a moment ago are as those of a minute ago: the time of a file's last change cannot be set."""
    monkeypatch.setattr(partial_module, "_STALE_S", OLD)


def listed(place: Path) -> list[bytes]:
    return os.listdir(os.fsencode(place))


def test_what_killed_runs_left_in_a_directory_goes(above: int, tmp_path: Path, all_is_old: None) -> None:
    (tmp_path / TEMPORARY).write_text("half")
    (tmp_path / f"{TEMPORARY}-0123456789abcdef").touch(mode=0o400)
    (tmp_path / os.fsdecode(temporary_name(b"link"))).symlink_to("nowhere")
    (tmp_path / "file").touch()
    assert len(remove_stale_below(above, listed(tmp_path))) == 3
    assert os.listdir(tmp_path) == ["file"]


def test_what_is_young_stays_in_a_directory(above: int, tmp_path: Path) -> None:
    (tmp_path / TEMPORARY).write_text("half")
    assert remove_stale_below(above, listed(tmp_path)) == {TEMPORARY.encode()}
    assert os.listdir(tmp_path) == [TEMPORARY]


def test_what_others_write_and_what_only_looks_like_it_stays(
    above: int, tmp_path: Path, all_is_old: None
) -> None:
    others_names = {".gexec-", ".gexec-0123", TEMPORARY + "0", TEMPORARY + "-", TEMPORARY.upper()}
    others_names |= {TEMPORARY[:-1] + "x", TEMPORARY + "-0123456789abcdeg", TEMPORARY + "-0123456789abcdef-"}
    for name in others_names:
        (tmp_path / name).touch()
    fifo = os.fsdecode(temporary_name(b"fifo"))
    os.mkfifo(tmp_path / fifo)
    partial = Partial(above, NAME, is_unnamed=False)
    assert remove_stale_below(above, listed(tmp_path)) == {TEMPORARY.encode(), fifo.encode()}
    assert set(os.listdir(tmp_path)) == others_names | {TEMPORARY, fifo}
    partial.abort()
    assert remove_stale_below(above, [b"", b".gexec-gone", TEMPORARY.encode()]) == {TEMPORARY.encode()}


_KILLED = """
import os, signal, sys
from gexec.files.partial import Partial
place = os.open(sys.argv[1], os.O_RDONLY)
partial = Partial(place, b"file")
os.rename = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
partial.publish()
"""


def test_a_run_that_is_killed_while_it_replaces_leaves_a_file_that_goes(
    above: int, tmp_path: Path, all_is_old: None
) -> None:
    (tmp_path / "file").write_text("old")
    killed = subprocess.run([sys.executable, "-c", _KILLED, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert others(tmp_path) == [TEMPORARY]
    remove_stale_below(above, listed(tmp_path))
    assert others(tmp_path) == []
    assert (tmp_path / "file").read_text() == "old"


# -- links and old files ------------------------------------------------------------------------


@pytest.mark.parametrize("old", ["nothing", "file", "link"])
def test_a_link_is_made_in_the_place_of_what_has_its_name(above: int, tmp_path: Path, old: str) -> None:
    if old == "file":
        (tmp_path / "file").write_text("old")
    elif old == "link":
        (tmp_path / "file").symlink_to("elsewhere")
    make_symlink(above, NAME, b"../to \xff", uid=UNCHANGED, gid=UNCHANGED, mtime_ns=MTIME_NS)
    assert os.readlink(os.fsencode(tmp_path / "file")) == b"../to \xff"
    assert (tmp_path / "file").lstat().st_mtime_ns == MTIME_NS
    assert others(tmp_path) == []


def test_a_link_that_cannot_get_its_name_leaves_nothing(above: int, tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OSError, match="directory"):
        make_symlink(above, NAME, b"target", uid=UNCHANGED, gid=UNCHANGED, mtime_ns=0)
    assert others(tmp_path) == []
    with pytest.raises(OSError, match="too long"):
        make_symlink(above, b"other", b"t" * 5000, uid=UNCHANGED, gid=UNCHANGED, mtime_ns=0)
    assert others(tmp_path) == []


def test_the_old_file_has_its_other_name_too(above: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("one")
    keep_old(above, NAME)
    keep_old(above, NAME)  # both are the same file already
    assert (tmp_path / "file~").samefile(tmp_path / "file")
    (tmp_path / "file").unlink()
    (tmp_path / "file").symlink_to("nowhere")
    keep_old(above, NAME)
    assert (tmp_path / "file~").readlink() == Path("nowhere")
    assert others(tmp_path) == []


def test_no_old_file_is_an_error_and_leaves_nothing(above: int, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        keep_old(above, NAME)
    (tmp_path / "file").write_text("new")
    (tmp_path / "file~").mkdir()
    with pytest.raises(OSError, match="directory"):
        keep_old(above, NAME)
    assert others(tmp_path) == []


@pytest.mark.parametrize("old", ["nothing", "file", "link", "itself"])
def test_an_open_file_gets_one_more_name(above: int, tmp_path: Path, old: str) -> None:
    (tmp_path / "source").write_text("x")
    if old == "file":
        (tmp_path / "file").touch()
    elif old == "link":
        (tmp_path / "file").symlink_to("source")
    elif old == "itself":
        os.link(tmp_path / "source", tmp_path / "file")
    descriptor = os.open(tmp_path / "source", os.O_PATH)
    make_link(above, NAME, descriptor)
    os.close(descriptor)
    assert (tmp_path / "file").lstat().st_ino == (tmp_path / "source").lstat().st_ino
    assert others(tmp_path) == ["source"]
