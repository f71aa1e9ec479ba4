"""A receiver of lists: contents that it has, that do not come, that are others than listed; new names, hard
links, and what is the source itself.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from file_contents import digest
from file_streams import (
    MTIME_NS,
    Copying,
    OneCopy,
    Received,
    contents_of,
    hand_made,
    meta,
    names_of_one_file,
    paths_with_contents,
)
from gexec import limits
from gexec.files.encoder import Encoder
from gexec.files.entries import Directory, File, HardLink, StreamEntry, Symlink, packed_entry
from gexec.files.identity import boot_id
from gexec.files.options import VERIFY, CopyOptions

NOT_SENT = "its contents were not sent, because this node's answer was late or lost on the way; copy again"


@pytest.fixture(params=[False, True], ids=["all", "asking"])
def copy(request: pytest.FixtureRequest) -> OneCopy:
    return OneCopy(asking=request.param)


def write(path: Path, content: bytes, mode: int = 0o644, mtime_ns: int = MTIME_NS) -> int:
    """Write a file; return its inode."""
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, ns=(1, mtime_ns))
    return path.stat().st_ino


# -- answers ------------------------------------------------------------------------------------------


def test_each_list_is_answered_and_digests_once_more(tmp_path: Path) -> None:
    write(tmp_path / "b", b"12345", mtime_ns=5)
    write(tmp_path / "c", b"other", mtime_ns=5)
    encoder = Encoder()
    entries = [File(name, meta(), 5) for name in (b"a", b"b", b"c")]
    done = Received(None, tmp_path)
    done.feed(encoder.preamble(asking=True) + encoder.list(0, map(packed_entry, entries)))
    done.feed(encoder.list(1, [packed_entry(File(b"d", meta(), 1))]))
    assert [answer.words() for answer in done.answers] == ["0.0 1 6", "1.0 1 0"]
    done.feed(encoder.digests(0, {1: digest(b"12345"), 2: digest(b"12345")}))
    # What was lacking already is lacking in the second answer, too.
    assert done.answers[-1].words() == "0.1 5 0"
    for index in (0, 2):
        done.feed(contents_of(encoder, index, b"12345"))
    done.feed(encoder.done(0) + contents_of(encoder, 0, b"x") + encoder.done(1) + encoder.end(0))
    done.finish()
    assert (done.said, done.error, done.report.files) == ([], "", 4)
    assert [(tmp_path / name).read_bytes() for name in "abcd"] == [b"12345"] * 3 + [b"x"]
    assert (tmp_path / "b").stat().st_mtime_ns == MTIME_NS


def test_a_sender_that_does_not_ask_gets_no_answers(tmp_path: Path) -> None:
    done = Received(hand_made(File(b"f", meta(), 1), contents={b"f": b"x"}), tmp_path)
    assert (done.answers, done.report.files) == ([], 1)


def test_who_does_not_ask_for_digests_asks_for_contents(tmp_path: Path) -> None:
    write(tmp_path / "f", b"x", mtime_ns=5)
    stream = hand_made(File(b"f", meta(), 1), contents={b"f": b"x"}, asking=True)
    done = Received(stream, tmp_path, CopyOptions(asks_digests=False))
    assert [answer.words() for answer in done.answers] == ["0.0 1 0"]


# -- contents -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"x" * 7, b"x" * 300_000], ids=["small", "large"])
def test_contents_that_another_node_lacked_are_not_taken(tmp_path: Path, content: bytes) -> None:
    content = content[: limits.ARCHIVE_BLOCK_BYTES]
    inode = write(tmp_path / "f", content)
    done = Received(
        hand_made(File(b"f", meta(), len(content)), contents={b"f": content}, asking=True), tmp_path
    )
    assert (done.report.files, done.report.unchanged, done.report.bytes) == (0, 1, 0)
    assert (tmp_path / "f").stat().st_ino == inode


def test_contents_that_another_node_lacked_do_not_replace_a_file_with_another_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    inode = write(tmp_path / "f", b"12345")
    stream = hand_made(File(b"f", meta(0o600), 5), contents={b"f": b"12345"}, asking=True)
    done = Received(stream, tmp_path)
    assert (done.report.files, done.report.bytes, done.report.failed) == (1, 0, 0)
    status = (tmp_path / "f").stat()
    assert (status.st_ino, status.st_mode & 0o777) == (inode, 0o600)


def test_contents_that_do_not_come_although_they_are_lacking_are_a_failure(tmp_path: Path) -> None:
    write(tmp_path / "old", b"older")
    entries = File(b"a", meta(), 1), File(b"none", meta(), 5), File(b"old", meta(), 6)
    done = Received(hand_made(*entries, contents={b"a": b"x"}, asking=True), tmp_path)
    assert done.said == [f"{tmp_path}/{name}: {NOT_SENT}" for name in ("none", "old")]
    assert (done.report.is_complete, done.report.failed, done.report.files) == (True, 2, 1)
    assert (tmp_path / "old").read_bytes() == b"older"
    assert sorted(os.listdir(tmp_path)) == ["a", "old"]


@pytest.mark.parametrize("change", ["size", "mtime", "both"])
def test_contents_are_those_of_the_moment_when_they_are_sent(tmp_path: Path, change: str) -> None:
    """The node has the file as it was listed; the source has changed since."""
    write(tmp_path / "f", b"12345")
    content = b"12345" if change == "mtime" else b"longer"
    mtime_ns = MTIME_NS if change == "size" else MTIME_NS + 5
    encoder = Encoder()
    stream = encoder.preamble(asking=True) + encoder.list(0, [packed_entry(File(b"f", meta(), 5))])
    stream += contents_of(encoder, 0, content, mtime_ns) + encoder.done(0) + encoder.end(0)
    done = Received(stream, tmp_path)
    assert [answer.lacks for answer in done.answers] == [0]
    assert (tmp_path / "f").read_bytes() == content
    assert (tmp_path / "f").stat().st_mtime_ns == mtime_ns
    assert (done.report.files, done.report.bytes) == (1, len(content))


def test_entries_without_contents_are_written_in_between_in_order(tmp_path: Path) -> None:
    entries: list[StreamEntry] = [
        Directory(b"a", meta(0o700, 5)),
        File(b"a/f", meta(), 1),
        Symlink(b"a/link", meta(), b"f"),
        Directory(b"b", meta(0o755, 6)),
        File(b"b/f", meta(), 1),
        Directory(b"c", meta(0o755, 7)),
    ]
    for number, size in enumerate((1, 2, 4, 100)):
        place = tmp_path / str(number)
        place.mkdir()
        stream = hand_made(*entries, contents={b"a/f": b"x", b"b/f": b"y"}, list_max=size)
        done = Received(stream, place)
        assert (done.said, done.report.failed) == ([], 0)
        assert [(place / name).stat().st_mtime_ns for name in "abc"] == [5, 6, 7]
        assert ((place / "a/link").read_text(), (place / "b/f").read_text()) == ("x", "y")


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_tree_over_several_lists(
    copy: OneCopy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(limits, "ARCHIVE_LIST_MAX", size)
    source = tmp_path / "s"
    for number in range(30):
        folder = source / str(number % 3) / str(number % 2)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}").write_bytes(b"%d" % number)
    to = tmp_path / "to"
    to.mkdir()
    done = copy(source, to=to)
    assert (done.said, done.report.files, done.report.failed) == ([], 30, 0)
    assert {path.name: path.read_bytes() for path in to.rglob("*") if path.is_file()} == {
        str(number): b"%d" % number for number in range(30)
    }


# -- names --------------------------------------------------------------------------------------------


def test_the_only_root_may_get_another_name(copy: OneCopy, tmp_path: Path) -> None:
    source = tmp_path / "s"
    (source / "sub").mkdir(parents=True)
    (source / "a").write_bytes(b"a")
    (source / "sub" / "b").write_bytes(b"b")
    os.link(source / "a", source / "sub" / "c")
    to = tmp_path / "to"
    to.mkdir()
    for files in (3, 0):
        done = copy(source, to=to, new_name=b"new name")
        assert (done.said, done.report.files, done.report.failed) == ([], files, 0)
    assert os.listdir(to) == ["new name"]
    assert names_of_one_file(to) == {frozenset({"new name/a", "new name/sub/c"})}
    (to / "new name" / "a").write_bytes(b"changed")
    done = copy(source, to=to, new_name=b"new name", options=CopyOptions(task=VERIFY))
    assert done.told == ["differs new name/a: content"]


# -- hard links ---------------------------------------------------------------------------------------


def test_hard_links_are_made_and_sent_once(tmp_path: Path) -> None:
    source = tmp_path / "s"
    source.mkdir()
    (source / "a").write_bytes(b"content" * 100)
    for name in ("b", "c"):
        os.link(source / "a", source / name)
    places = [tmp_path / name for name in ("none", "copies", "right")]
    for place in places:
        (place / "s").mkdir(parents=True)
    for name in ("a", "b", "c"):
        write(places[1] / "s" / name, b"content" * 100, mtime_ns=(source / "a").stat().st_mtime_ns)
    Copying([source], [places[2]]).run()
    copying = Copying([source], places).run()
    assert paths_with_contents(copying.stream) == [b"s/a"]
    for place, received in zip(places, copying.received, strict=True):
        assert received.said == []
        assert names_of_one_file(place) == {frozenset({"s/a", "s/b", "s/c"})}
        assert (place / "s/c").read_bytes() == b"content" * 100
    assert [received.report.files for received in copying.received] == [3, 2, 0]


def test_names_of_a_file_that_failed_are_failures(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    entries = File(b"a", meta(), 1, is_linked=True), HardLink(b"b", meta(), 1, b"a")
    done = Received(hand_made(*entries, contents={b"a": b"x"}), tmp_path)
    assert done.said == [
        f"{tmp_path}/a: it is a directory here: remove it first",
        f"{tmp_path}/b: its other name, a, was not written here",
    ]
    assert done.report.failed == 2


def test_a_link_to_a_file_that_no_list_has_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "secret", b"x")
    done = Received(hand_made(HardLink(b"b", meta(), 1, b"secret")), tmp_path)
    assert (done.report.failed, os.listdir(tmp_path)) == (1, ["secret"])


# -- backups ------------------------------------------------------------------------------------------


def test_a_file_that_a_backup_has_replaced_is_no_longer_right(copy: OneCopy, tmp_path: Path) -> None:
    """It was looked at before its list was handled."""
    source = tmp_path / "s"
    source.mkdir()
    (source / "f").write_bytes(b"new")
    (source / "f~").write_bytes(b"own")
    to = tmp_path / "to"
    to.mkdir()
    copy(source, to=to)
    (to / "s" / "f").write_bytes(b"older")
    done = copy(source, to=to, options=CopyOptions(backup=True))
    assert (to / "s" / "f").read_bytes() == b"new"
    assert done.said == [f"{to}/s/f~: it was changed during the copy; copy again"]
    assert done.report.failed == 1
    again = copy(source, to=to, options=CopyOptions(backup=True))
    assert (again.report.failed, again.report.files) == (0, 1)
    assert (to / "s" / "f~").read_bytes() == b"own"


# -- the source itself --------------------------------------------------------------------------------


def test_a_directory_that_is_the_source_stays_as_it_is(copy: OneCopy, tmp_path: Path) -> None:
    source = tmp_path / "s"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "f").write_bytes(b"x")
    os.link(source / "sub" / "f", source / "sub" / "g")
    (source / "sub" / "link").symlink_to("f")
    for options in (CopyOptions(), CopyOptions(backup=True, delete=True, compare_content=True)):
        before = {path: path.lstat().st_ctime_ns for path in [source, *source.rglob("*")]}
        done = copy(source, to=tmp_path, options=options)
        assert (done.said, done.report.unchanged, done.report.failed) == ([], 3, 0)
        assert (done.report.files, done.report.links, done.report.directories) == (0, 0, 0)
        assert {path: path.lstat().st_ctime_ns for path in [source, *source.rglob("*")]} == before


@pytest.mark.parametrize("size", [5, 9], ids=["as listed", "has grown"])
def test_a_file_that_is_the_source_is_not_replaced_by_its_own_contents(tmp_path: Path, size: int) -> None:
    inode = write(tmp_path / "f", b"12345")
    known = meta()
    status = (tmp_path / "f").stat()
    known.device, known.inode = status.st_dev, status.st_ino
    encoder = Encoder()
    stream = encoder.preamble(asking=True, boot_id=boot_id())
    stream += encoder.list(0, [packed_entry(File(b"f", known, 5))])
    stream += contents_of(encoder, 0, b"x" * size, MTIME_NS) + encoder.done(0) + encoder.end(0)
    done = Received(stream, tmp_path)
    assert (done.report.unchanged, done.report.files, done.said) == (1, 0, [])
    assert ((tmp_path / "f").stat().st_ino, (tmp_path / "f").read_bytes()) == (inode, b"12345")


def test_the_same_numbers_on_another_host_are_another_file(tmp_path: Path) -> None:
    write(tmp_path / "f", b"12345")
    known = meta()
    status = (tmp_path / "f").stat()
    known.device, known.inode = status.st_dev, status.st_ino
    stream = hand_made(File(b"f", known, 3), contents={b"f": b"new"}, boot_id=b"another host's..")
    assert Received(stream, tmp_path).report.files == 1
    assert (tmp_path / "f").read_bytes() == b"new"
