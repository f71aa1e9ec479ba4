"""Sender and receiver on real files, in one process."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from file_streams import (
    MINE,
    MINE_DIRECTORY,
    OneCopy,
    Received,
    hand_made,
    meta,
    of_files,
    sent,
    snapshot,
)
from gexec import limits
from gexec.errors import GexecError, ProtocolError
from gexec.files.digest import BLOCK_BYTES
from gexec.files.entries import Directory, File, Meta, StreamEntry, Symlink
from gexec.files.options import DRY_RUN, VERIFY, CopyOptions
from gexec.files.partial import Partial
from gexec.files.receiver import Receiver
from gexec.files.temporary import temporary_name
from gexec.files.unpacker import Unpacker


@pytest.fixture(params=[False, True], ids=["all", "asking"])
def copy(request: pytest.FixtureRequest) -> OneCopy:
    """Copies in both ways: all contents are sent, or those that the receiver lacks."""
    return OneCopy(asking=request.param)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A directory for the destination."""
    place = tmp_path / "here"
    place.mkdir()
    return place


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with one of everything."""
    tree = tmp_path / "from" / "tree"
    (tree / "sub" / "empty folder").mkdir(parents=True)
    (tree / "empty").touch()
    (tree / "small").write_bytes(b"small\n")
    (tree / "large").write_bytes(b"0123456789abcdef" * 200_000)
    (tree / "zeros").write_bytes(bytes(3 * BLOCK_BYTES) + b"end")
    Path(os.fsdecode(os.fsencode(tree) + b"/line\nbreak \xff\xfe")).write_bytes(b"odd")
    (tree / "sub" / "secret").write_text("secret")
    (tree / "sub" / "secret").chmod(0o600)
    (tree / "sub" / "link").symlink_to("../nowhere")
    (tree / "sub" / "script").write_text("#!/bin/sh\n")
    (tree / "sub" / "script").chmod(0o755)
    (tree / "sub").chmod(0o750)
    for path in [*tree.rglob("*"), tree]:
        os.utime(path, ns=(1, 1_500_000_000_123_456_789), follow_symlinks=False)
    return tree


# -- round trips ----------------------------------------------------------------------------------


def test_a_tree_arrives_as_it_is(copy: OneCopy, tree: Path, here: Path) -> None:
    done = copy(tree, to=here)
    assert (done.said, done.error, done.report.failed) == ([], "", 0)
    assert snapshot(here) == snapshot(tree.parent)
    assert done.report.is_complete
    assert (done.report.files, done.report.links, done.report.directories) == (7, 1, 3)


def test_what_is_there_is_not_written_again(copy: OneCopy, tree: Path, here: Path) -> None:
    copy(tree, to=here)
    inodes = {path: path.lstat().st_ino for path in here.rglob("*")}
    done = copy(tree, to=here)
    assert (done.report.files, done.report.links, done.report.unchanged) == (0, 0, 8)
    assert {path: path.lstat().st_ino for path in here.rglob("*")} == inodes


def test_contents_decide_with_compare_content(copy: OneCopy, tree: Path, here: Path) -> None:
    copy(tree, to=here)
    large = here / "tree" / "large"
    os.utime(large, ns=(1, 1))
    inode = large.stat().st_ino
    (here / "tree" / "small").write_bytes(b"SMALL\n")
    os.utime(here / "tree" / "small", ns=(1, (tree / "small").stat().st_mtime_ns))
    done = copy(tree, to=here, options=CopyOptions(compare_content=True))
    assert (done.report.files, done.report.unchanged) == (2, 6)
    assert (here / "tree" / "small").read_bytes() == b"small\n"
    assert (large.stat().st_mtime_ns, large.stat().st_ino) == ((tree / "large").stat().st_mtime_ns, inode)


def test_a_changed_file_is_replaced_and_kept_with_backup(copy: OneCopy, tree: Path, here: Path) -> None:
    copy(tree, to=here)
    (here / "tree" / "small").write_bytes(b"my own")
    (here / "tree" / "small~").write_bytes(b"older")
    done = copy(tree, to=here, options=CopyOptions(backup=True))
    assert done.report.files == 1
    assert (here / "tree" / "small").read_bytes() == b"small\n"
    assert (here / "tree" / "small~").read_bytes() == b"my own"
    assert not list(here.rglob(".gexec*"))


def test_a_huge_sparse_file_stays_sparse(copy: OneCopy, tmp_path: Path, here: Path) -> None:
    size = 2**32 + 1
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.write(b"begin")
        file.seek(3 * 2**30)
        file.write(b"middle")
        file.truncate(size)
    stream = sent(sparse)
    assert len(stream) < 2**20
    done = Received(stream, here)
    arrived = here / "sparse"
    assert done.report.bytes == arrived.stat().st_size == size
    assert arrived.stat().st_blocks * 512 < 2**20
    with arrived.open("rb") as file:
        assert file.read(5) == b"begin"
        assert os.pread(file.fileno(), 8, 3 * 2**30 - 1) == b"\0middle\0"
    assert copy(sparse, digests_only=True, to=here, options=CopyOptions(task=VERIFY)).report.differing == 0


def test_one_digest_for_holes_and_zeros(copy: OneCopy, tmp_path: Path, here: Path) -> None:
    content = bytes(5 * BLOCK_BYTES) + b"x" * BLOCK_BYTES + bytes(BLOCK_BYTES + 7)
    (tmp_path / "f").write_bytes(b"")
    os.truncate(tmp_path / "f", len(content))
    with (tmp_path / "f").open("r+b") as file:
        os.pwrite(file.fileno(), b"x" * BLOCK_BYTES, 5 * BLOCK_BYTES)
    (here / "f").write_bytes(content)
    (here / "f").chmod((tmp_path / "f").stat().st_mode)
    assert copy(tmp_path / "f", to=here, options=CopyOptions(task=VERIFY)).report.unchanged == 1


@given(st.binary(max_size=300), st.integers(0, 3), st.integers(0, 3))
def test_any_contents(tmp_path_factory: pytest.TempPathFactory, end: bytes, zeros: int, ones: int) -> None:
    place = tmp_path_factory.mktemp("any")
    content = bytes(zeros * BLOCK_BYTES) + b"1" * (ones * BLOCK_BYTES) + bytes(zeros) + end
    (place / "f").write_bytes(content)
    for asking in (False, True):
        to = place / f"to{asking}"
        to.mkdir()
        OneCopy(asking=asking)(place / "f", to=to)
        assert (to / "f").read_bytes() == content


# -- the sender's problems --------------------------------------------------------------------------


def test_a_file_that_shrinks_while_it_is_read_is_dropped(copy: OneCopy, tree: Path, here: Path) -> None:
    (here / "tree").mkdir()
    (here / "tree" / "large").write_bytes(b"old")
    problems: list[str] = []

    def shrink(stream: bytes) -> None:
        if len(stream) > 100_000:
            os.truncate(tree / "large", 50)

    done = copy(tree, to=here, problems=problems, on_chunk=shrink)
    assert [problem for problem in problems if "changed" in problem] == problems != []
    assert done.report.is_complete
    assert done.report.failed == 1
    assert (here / "tree" / "large").read_bytes() == b"old"
    assert (here / "tree" / "small").read_bytes() == b"small\n"


def test_a_file_that_changes_while_it_is_read_is_dropped(copy: OneCopy, tree: Path, here: Path) -> None:
    problems: list[str] = []

    def change(stream: bytes) -> None:
        if len(stream) > 100_000:
            with (tree / "large").open("r+b") as file:
                file.write(b"changed")

    done = copy(tree, to=here, problems=problems, on_chunk=change)
    assert len(problems) == done.report.failed == 1
    assert not (here / "tree" / "large").exists()


@pytest.mark.parametrize("name", ["large", "small"])
def test_a_log_that_grows_while_it_is_read_arrives_as_it_was(
    copy: OneCopy, tree: Path, here: Path, name: str
) -> None:
    expected = (tree / name).read_bytes()

    def grow(stream: bytes) -> None:
        with (tree / name).open("ab") as file:
            file.write(b"one more line\n")

    done = copy(tree, to=here, on_chunk=grow)
    assert (done.report.is_complete, done.report.failed, done.error) == (True, 0, "")
    found = (here / "tree" / name).read_bytes()
    assert (tree / name).read_bytes().startswith(found)
    assert found.startswith(expected)


def test_a_file_of_proc_arrives_with_its_contents(copy: OneCopy, here: Path) -> None:
    done = copy(Path("/proc/version"), Path("/sys/class/net/lo/mtu"), to=here)
    assert (done.report.files, done.report.failed) == (2, 0)
    assert (here / "version").read_bytes() == Path("/proc/version").read_bytes()
    assert (here / "mtu").read_bytes() == Path("/sys/class/net/lo/mtu").read_bytes()


def test_special_files_are_named_and_left_out(copy: OneCopy, tree: Path, here: Path) -> None:
    os.mkfifo(tree / "pipe")
    (here / "tree").mkdir()
    (here / "tree" / "pipe").write_text("mine")
    problems: list[str] = []
    done = copy(tree, problems=problems, to=here, options=CopyOptions(delete=True))
    assert "named pipe" in problems[0]
    assert len(problems) == 1
    assert done.report.failed == 0
    assert (here / "tree" / "pipe").read_text() == "mine"


def test_what_is_missing_is_told_and_the_rest_arrives(copy: OneCopy, tree: Path, here: Path) -> None:
    problems: list[str] = []
    done = copy(tree / "nothing", tree / "small", problems=problems, to=here)
    assert problems == [f"{tree}/nothing: not sent: there is no such file"]
    assert done.report.failed == 1
    assert (here / "small").read_bytes() == b"small\n"


# -- damaged and hostile streams ----------------------------------------------------------------------


TWO = {b"a": b"first" * 20, b"b": b"second" * 20}


def test_damage_anywhere_leaves_no_wrong_file(tmp_path: Path) -> None:
    stream = of_files(TWO)
    for position in range(len(stream)):
        place = tmp_path / str(position)
        place.mkdir()
        damaged = bytearray(stream)
        damaged[position] ^= 0x20
        done = Received(bytes(damaged), place)
        assert not done.report.is_complete
        assert done.error
        for name in os.listdir(os.fsencode(place)):
            assert Path(os.fsdecode(os.path.join(os.fsencode(place), name))).read_bytes() == TWO[name]


def test_a_stream_that_ends_early_leaves_no_half_file(tmp_path: Path) -> None:
    stream = of_files(TWO)
    for length in range(0, len(stream), 3):
        place = tmp_path / str(length)
        place.mkdir()
        (place / "b").write_bytes(b"old")
        done = Received(stream[:length], place, CopyOptions(delete=True))
        assert not done.report.is_complete
        assert (place / "b").read_bytes() in (b"old", b"second" * 20)
        assert {path.name for path in place.iterdir()} <= {"a", "b"}
        if (place / "a").exists():
            assert (place / "a").read_bytes() == b"first" * 20


def test_attack_79_a_link_of_the_stream_is_not_followed(here: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    stream = hand_made(Symlink(b"a", MINE, os.fsencode(outside)))
    assert Received(stream, here).report.links == 1
    for task in (CopyOptions(make_parents=True), CopyOptions(delete=True)):
        done = Received(of_files({b"a/b/c": b"x", b"a/x": b"x"}), here, task)
        assert done.report.failed == 2
        assert done.said == [f"{here}/a/b/c: a is a symbolic link (none is followed) here, not a directory"]
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("kind", ["directory", "file", "delete"])
def test_attack_79_links_that_are_there_are_not_followed(here: Path, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    (outside / "file").write_text("precious")
    if kind == "directory":
        (here / "d").symlink_to(outside)
        files = {b"d/file": b"evil", b"d/new": b"evil"}
        stream = of_files(files, Directory(b"d", meta(0o777, 1)))
    elif kind == "file":
        (here / "f").symlink_to(outside / "file")
        stream = of_files({b"f": b"good"}, file_meta=meta(0o666, 1))
    else:
        (here / "d").mkdir()
        (here / "d" / "extra").symlink_to(outside)
        (here / "d" / "deep").mkdir()
        (here / "d" / "deep" / "extra").symlink_to(outside)
        stream = hand_made(Directory(b"d", MINE_DIRECTORY))
    done = Received(stream, here, CopyOptions(delete=True))
    assert done.report.failed == (3 if kind == "directory" else 0)
    assert [path.name for path in outside.iterdir()] == ["file"]
    assert (outside / "file").read_text() == "precious"
    assert stat.S_IMODE(outside.stat().st_mode) == 0o700
    if kind == "file":
        assert not (here / "f").is_symlink()
        assert (here / "f").read_text() == "good"
    if kind == "delete":
        assert list((here / "d").iterdir()) == []


def test_attack_79_another_name_of_the_file_keeps_its_contents(here: Path, tmp_path: Path) -> None:
    """A hard link in the place of the file: its inode must neither be written nor get a new mode."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    precious.chmod(0o600)
    os.link(precious, here / "f")
    os.link(precious, here / temporary_name(b"f").decode())
    done = Received(of_files({b"f": b"new"}, file_meta=meta(0o666, 1)), here)
    assert done.report.files == 1
    assert precious.read_text() == "precious"
    assert stat.S_IMODE(precious.stat().st_mode) == 0o600
    assert (here / "f").read_text() == "new"


def test_attack_79_set_id_bits_only_when_asked_for(here: Path) -> None:
    for keep, wanted in ((False, 0o755), (True, 0o6755)):
        stream = of_files({b"f": b"x"}, file_meta=meta(0o6755, 1))
        done = Received(stream, here, CopyOptions(keep_set_id=keep))
        assert stat.S_IMODE((here / "f").stat().st_mode) == wanted
        assert ("set-uid" in "".join(done.said)) is not keep
        assert done.report.failed == 0
    done = Received(stream, here)
    assert (done.report.unchanged, done.said) == (1, [])
    assert stat.S_IMODE((here / "f").stat().st_mode) == 0o6755


def test_no_directory_is_replaced_by_a_file_or_link(here: Path) -> None:
    (here / "f").mkdir()
    (here / "l").mkdir()
    (here / "z").write_text("file")
    others = Symlink(b"l", MINE, b"x"), Directory(b"z", MINE_DIRECTORY)
    done = Received(of_files({b"f": b"x", b"z/deep": b"x"}, *others), here)
    assert done.report.failed == 4
    assert len(done.said) == 3
    assert (here / "f").is_dir()
    assert (here / "l").is_dir()
    assert (here / "z").read_text() == "file"


def test_only_so_many_sentences(here: Path) -> None:
    files = {b"%03d" % number: b"x" for number in range(200)}
    for name in files:
        (here / name.decode()).mkdir()
    done = Received(of_files(files), here)
    assert done.report.failed == 200
    assert len(done.said) == limits.ARCHIVE_SAID_MAX + 1
    assert done.said[-1] == "and 150 sentences more"


# -- destinations and options -----------------------------------------------------------------------


def test_missing_parents(here: Path) -> None:
    stream = of_files({b"a/b/c": b"x"})
    done = Received(stream, here)
    assert done.said == [f"{here}/a/b/c: the directory a is missing (--parents makes it)"]
    assert list(here.iterdir()) == []
    assert Received(stream, here, CopyOptions(make_parents=True)).report.failed == 0
    assert (here / "a" / "b" / "c").read_text() == "x"
    with pytest.raises(GexecError, match="is missing"):
        Received(stream, here / "none")
    assert Received(stream, here / "none" / "deep", CopyOptions(make_parents=True)).report.files == 1


def test_a_destination_may_be_reached_through_a_link(
    copy: OneCopy, here: Path, tree: Path, tmp_path: Path
) -> None:
    (tmp_path / "alias").symlink_to(here)
    assert copy(tree, to=tmp_path / "alias").report.failed == 0
    assert (here / "tree" / "small").exists()


def test_delete_removes_what_the_stream_does_not_have(copy: OneCopy, tree: Path, here: Path) -> None:
    copy(tree, to=here)
    before = snapshot(here)
    (here / "tree" / "sub" / "extra" / "deep").mkdir(parents=True)
    (here / "tree" / "sub" / "extra" / "deep" / "file").touch()
    (here / "tree" / "another").touch()
    (here / "beside").touch()
    assert copy(tree, to=here).report.deleted == 0
    assert (here / "tree" / "another").exists()
    dry = copy(tree, to=here, options=CopyOptions(task=DRY_RUN, delete=True))
    assert dry.told == ["delete tree/sub/extra", "delete tree/another"]
    done = copy(tree, to=here, options=CopyOptions(delete=True))
    assert done.report.deleted == 4
    assert (here / "beside").exists()
    (here / "beside").unlink()
    assert snapshot(here) == before


def test_nothing_is_deleted_when_something_failed(copy: OneCopy, tree: Path, here: Path) -> None:
    (here / "tree" / "small").mkdir(parents=True)
    (here / "tree" / "extra").touch()
    done = copy(tree, to=here, options=CopyOptions(delete=True))
    assert (done.report.failed, done.report.deleted) == (1, 0)
    assert (here / "tree" / "extra").exists()
    assert "nothing was deleted" in done.said[-1]


def test_nothing_is_deleted_when_the_stream_was_not_whole(tree: Path, here: Path) -> None:
    (here / "tree").mkdir()
    (here / "tree" / "extra").touch()
    done = Received(sent(tree)[:-1], here, CopyOptions(delete=True))
    assert (done.report.is_complete, done.report.failed, done.report.deleted) == (False, 0, 0)
    assert (here / "tree" / "extra").exists()


def test_dry_run_writes_nothing_and_says_what_would_be_done(copy: OneCopy, tree: Path, here: Path) -> None:
    (here / "tree").mkdir()
    (here / "tree" / "small").write_bytes(b"other")
    before = snapshot(here)
    done = copy(tree, to=here, options=CopyOptions(task=DRY_RUN))
    assert snapshot(here) == before
    assert "create tree/sub/link" in done.told
    assert [line for line in done.told if "small" in line] == ["update tree/small: content"]
    assert done.report.files == 7


def test_verification_tells_what_is_different(copy: OneCopy, tree: Path, here: Path) -> None:
    copy(tree, to=here)
    assert copy(tree, to=here, options=CopyOptions(task=VERIFY)).told == []
    status = (here / "tree" / "large").stat()
    with (here / "tree" / "large").open("r+b") as file:
        file.write(b"X")
    os.utime(here / "tree" / "large", ns=(status.st_atime_ns, status.st_mtime_ns))
    (here / "tree" / "small").chmod(0o600)
    (here / "tree" / "sub" / "link").unlink()
    (here / "tree" / "sub" / "link").symlink_to("elsewhere")
    (here / "tree" / "empty").unlink()
    (here / "tree" / "new").touch()
    before = snapshot(here)
    for digests_only in (False, True):
        done = copy(tree, digests_only=digests_only, to=here, options=CopyOptions(task=VERIFY))
        assert sorted(done.told) == [
            "differs tree/large: content",
            "differs tree/small: mode",
            "differs tree/sub/link: target",
            "extra tree/new",
            "missing tree/empty",
        ]
        assert done.report.differing == 5
    assert snapshot(here) == before


def test_digests_cannot_be_written(copy: OneCopy, tree: Path, here: Path) -> None:
    done = copy(tree, digests_only=True, to=here)
    assert "--checksum" in done.error
    assert list(here.iterdir()) == []


def test_sync_writes_the_same(copy: OneCopy, tree: Path, here: Path) -> None:
    assert copy(tree, to=here, options=CopyOptions(sync=True)).report.failed == 0
    assert snapshot(here) == snapshot(tree.parent)
    assert copy(tree / "small", to=here, options=CopyOptions(sync=True)).report.files == 1


@pytest.fixture
def one_mebibyte() -> Iterator[None]:
    """No file of this process may grow over 1 MiB: what a full disk does, for any user."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tree: Path, here: Path, one_mebibyte: None) -> None:
    (here / "tree").mkdir()
    (here / "tree" / "large").write_bytes(b"old")
    stream = sent(tree)
    done = Received(stream, here)
    assert done.said == [
        f"{here}/tree/large: the file is too large for this file system or the limit (ulimit -f); raise it"
    ]
    assert (done.report.failed, done.report.files) == (1, 6)
    assert (here / "tree" / "large").read_bytes() == b"old"
    assert not list(here.rglob(".gexec*"))
    assert (here / "tree" / "zeros").stat().st_size == 3 * BLOCK_BYTES + 3


def test_a_directory_that_may_not_be_written_to(here: Path, tree: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (here / "closed").mkdir(mode=0o500)
    done = Received(of_files({b"closed/f": b"x", b"f": b"x"}), here)
    assert done.said == [f"{here}/closed/f: permission denied; copy as a user who may write there"]
    assert (here / "f").exists()


def test_a_read_only_directory_is_written_again(copy: OneCopy, tree: Path, here: Path) -> None:
    tree.chmod(0o555)
    copy(tree, to=here)
    (here / "tree" / "sub" / "secret").write_text("other")
    (tree / "small").chmod(0o600)
    done = copy(tree, to=here)
    for place in (tree, here / "tree"):
        assert stat.S_IMODE(place.stat().st_mode) == 0o555
        place.chmod(0o755)  # so that pytest can remove it
    assert done.said == []
    assert done.report.files == 2


# -- temporary names ----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_unnamed", [True, False])
def test_a_partial_file_has_no_name_until_it_is_whole(here: Path, is_unnamed: bool) -> None:
    (here / "f").write_text("old")
    above = os.open(here, os.O_PATH)
    try:
        partial = Partial(above, b"f", is_unnamed=is_unnamed)
        partial.write(0, memoryview(b"new"))
        assert (here / "f").read_text() == "old"
        again = Partial(above, b"f", is_unnamed=is_unnamed)
        again.write(0, memoryview(b"dropped"))
        again.abort()
        partial.settle(size=3, uid=-1, gid=-1, mode=0o640, mtime_ns=5, sync=False)
        partial.publish()
    finally:
        os.close(above)
    assert (here / "f").read_text() == "new"
    assert stat.S_IMODE((here / "f").stat().st_mode) == 0o640
    assert [path.name for path in here.iterdir()] == ["f"]


def test_what_a_killed_run_left_is_removed_by_the_next(here: Path) -> None:
    script = (
        "import os, sys; from gexec.files.partial import Partial\n"
        "p = Partial(os.open(sys.argv[1], os.O_PATH), b'f', is_unnamed=False)\n"
        "p.write(0, memoryview(b'half')); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, here], timeout=60, check=False)
    assert [path.name for path in here.iterdir()] == [temporary_name(b"f").decode()]
    above = os.open(here, os.O_PATH)
    partial = Partial(above, b"f", is_unnamed=False)
    partial.settle(size=0, uid=-1, gid=-1, mode=0o600, mtime_ns=5, sync=False)
    partial.publish()
    os.close(above)
    assert [path.name for path in here.iterdir()] == ["f"]


# -- owners ---------------------------------------------------------------------------------------------


@pytest.mark.root
def test_owners_are_kept_by_name_then_by_number(here: Path) -> None:
    theirs = Meta(0o600, 4444, 5555, 1, b"daemon", b"daemon")
    unknown = Meta(0o600, 54321, 54322, 1, b"no-such-user", b"no-such-group")
    mixed = Meta(0o600, 1, 54322, 1, b"no-such-user", b"")
    entries: list[StreamEntry] = [
        *[File(name, each, 1) for name, each in ((b"a", theirs), (b"b", unknown), (b"c", mixed))],
        Symlink(b"d", Meta(0o777, 54321, 54322, 1, b"", b""), b"x"),
        Directory(b"e", Meta(0o711, 54321, 54322, 1, b"", b"")),
    ]
    stream = hand_made(*entries, contents=dict.fromkeys((b"a", b"b", b"c"), b"x"))
    done = Received(stream, here)
    assert (here / "a").stat().st_uid == 1
    assert [((here / name).lstat().st_uid, (here / name).lstat().st_gid) for name in "bde"] == [
        (54321, 54322)
    ] * 3
    assert not (here / "c").exists()
    assert "owner no-such-user (1) is not known here, and 1 is daemon" in done.said[0]
    done = Received(stream, here, CopyOptions(numeric_ids=True))
    assert (here / "a").stat().st_uid == 4444
    assert (here / "c").stat().st_uid == 1
    assert Received(stream, here, CopyOptions(numeric_ids=True)).report.unchanged == 4


@pytest.mark.root
def test_attack_79_no_directory_is_given_away_where_others_may_exchange_it(tmp_path: Path) -> None:
    """Slurm's CVE-2023-41914: whoever owns the parent could move root's own directory to that name."""
    theirs = tmp_path / "theirs"
    (theirs / "d").mkdir(parents=True)
    (theirs / "d" / "secret").touch()
    os.chown(theirs, 54321, 54321)
    stream = hand_made(
        Directory(b"theirs", Meta(0o755, 54321, 54321, 1, b"", b"")),
        Directory(b"theirs/d", Meta(0o777, 54321, 54321, 1, b"", b"")),
    )
    done = Received(stream, tmp_path)
    assert "would get another owner" in done.said[0]
    assert ((theirs / "d").stat().st_uid, stat.S_IMODE((theirs / "d").stat().st_mode)) == (0, 0o755)
    os.chown(theirs, 0, 0)
    os.chmod(theirs, 0o755)
    assert Received(stream, tmp_path).report.failed == 0
    assert (theirs / "d").stat().st_uid == 54321


# -- many nodes -----------------------------------------------------------------------------------------


def test_streams_of_nodes_are_unpacked_side_by_side(tree: Path, here: Path) -> None:
    said: list[tuple[str, str]] = []
    unpacker = Unpacker(
        str(here),
        CopyOptions(make_parents=True),
        say=lambda folder, sentence: said.append((folder, sentence)),
        answer=lambda folder, answer: None,
    )
    stream = sent(tree)
    for start in range(0, len(stream), 50_000):
        for node in ("node1", "node2", "broken"):
            piece = stream[start : start + 50_000]
            unpacker.feed(node, b"\0" * len(piece) if node == "broken" and start else piece)
    reports = {node: unpacker.finish(node) for node in ("node1", "node2", "broken", "silent")}
    assert reports["silent"] is None
    complete = {node for node, report in reports.items() if report is not None and report.is_complete}
    assert complete == {"node1", "node2"}
    assert [folder for folder, _ in said] == ["broken"]
    wanted = snapshot(tree.parent)
    assert snapshot(here / "node1") == snapshot(here / "node2") == wanted
    assert not (here / "broken" / "tree" / "large").exists()


def test_a_folder_that_is_a_link_is_refused(tmp_path: Path, here: Path) -> None:
    (here / "node1").symlink_to(tmp_path)
    unpacker = Unpacker(str(here), CopyOptions(), say=lambda *_: None, answer=lambda *_: None)
    with pytest.raises(GexecError, match="symbolic link"):
        unpacker.feed("node1", b"x")


def test_a_fault_of_the_caller_is_no_protocol_error(here: Path) -> None:
    receiver = Receiver(str(here), CopyOptions(), say=lambda _: None, tell=lambda _: None)
    with pytest.raises(ProtocolError, match="not an archive stream"):
        receiver.feed(b"#!/bin/sh\n" * 3)
    assert not receiver.finish().is_complete
