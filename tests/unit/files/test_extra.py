"""What a node must not have: extra entries that are deleted, and those that stay; removal by name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from file_streams import OneCopy, Received, hand_made, meta
from gexec.files.directories import Tree
from gexec.files.entries import Directory, Removal, Skipped, Symlink
from gexec.files.extra import Extra
from gexec.files.identity import boot_id
from gexec.files.options import DRY_RUN, CopyOptions
from gexec.files.patterns import Rules
from gexec.files.report import Report

DELETE = CopyOptions(delete=True)
NOT_ALL = "nothing was deleted, because not everything arrived"


@pytest.fixture(params=[False, True], ids=["all", "asking"])
def copy(request: pytest.FixtureRequest) -> OneCopy:
    return OneCopy(asking=request.param)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "from" / "d" / "sub").mkdir(parents=True)
    (tmp_path / "from" / "d" / "f").write_text("f")
    (tmp_path / "from" / "d" / "sub" / "g").write_text("g")
    return tmp_path / "from" / "d"


@pytest.fixture
def to(tmp_path: Path, source: Path) -> Path:
    """A copy, with extra entries."""
    to = tmp_path / "to"
    to.mkdir()
    OneCopy(asking=False)(source, to=to)
    (to / "d" / "sub" / "extra").write_text("old")
    (to / "d" / "gone" / "deep").mkdir(parents=True)
    (to / "d" / "gone" / "deep" / "x").touch()
    (to / "beside").touch()
    return to


def names_in(top: Path) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*"))


EXTRA = ["d/gone", "d/gone/deep", "d/gone/deep/x", "d/sub/extra"]
WHOLE = ["beside", "d", "d/f", "d/sub", "d/sub/g"]


def test_extra_entries_go_and_directories_keep_their_times(copy: OneCopy, source: Path, to: Path) -> None:
    for path in (source / "sub", source):
        os.utime(path, ns=(1, 12345))
    done = copy(source, to=to, options=DELETE)
    assert (done.said, done.report.deleted, done.report.failed) == ([], 4, 0)
    assert names_in(to) == WHOLE
    assert (to / "d").stat().st_mtime_ns == (to / "d" / "sub").stat().st_mtime_ns == 12345


def test_backups_stay_and_are_made(copy: OneCopy, source: Path, to: Path) -> None:
    (to / "d" / "f~").write_text("earlier")
    done = copy(source, to=to, options=CopyOptions(delete=True, backup=True))
    assert (to / "d" / "sub" / "extra~").read_text() == "old"
    assert (to / "d" / "f~").read_text() == "earlier"
    assert (to / "d" / "gone" / "deep" / "x~").exists()
    assert done.report.failed == 0


@pytest.mark.parametrize(("most", "deleted"), [(3, 0), (4, 4), (0, 0), (-1, 4)])
def test_not_more_than_the_user_permits(
    copy: OneCopy, source: Path, to: Path, most: int, deleted: int
) -> None:
    done = copy(source, to=to, options=CopyOptions(delete=True, delete_max=most))
    assert done.report.deleted == deleted
    assert names_in(to) == (WHOLE if deleted else sorted(WHOLE + EXTRA))
    said = [f"{to}/: nothing was deleted: more than {most} would go (--max-delete)"]
    assert done.said == ([] if deleted else said)
    assert done.report.failed == (0 if deleted else 1)


def test_what_rules_leave_out_stays(copy: OneCopy, source: Path, to: Path) -> None:
    (to / "d" / "keep.o").touch()
    (to / "d" / "gone" / "keep.o").touch()
    (source / "new.o").touch()
    rules = Rules([(True, b"*.o"), (True, b"/d/sub/extra")])
    done = copy(source, to=to, options=DELETE, rules=rules)
    assert names_in(to) == sorted([*WHOLE, "d/gone", "d/gone/keep.o", "d/keep.o", "d/sub/extra"])
    assert (done.report.deleted, done.report.failed) == (2, 0)


def test_rules_name_entries_as_the_source_does_whatever_they_are_called_here(
    copy: OneCopy, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "to" / "new").mkdir(parents=True)
    for name in ("kept", "extra"):
        (tmp_path / "to" / "new" / name).touch()
    rules = Rules([(True, b"/d/kept")])
    copy(source, to=tmp_path / "to", options=DELETE, rules=rules, new_name=b"new")
    assert names_in(tmp_path / "to") == ["new", "new/f", "new/kept", "new/sub", "new/sub/g"]


def test_after_a_failure_nothing_goes(copy: OneCopy, source: Path, to: Path) -> None:
    (to / "d" / "f").unlink()
    (to / "d" / "f").mkdir()
    done = copy(source, to=to, options=DELETE)
    assert (done.report.failed, done.report.deleted) == (1, 0)
    assert done.said == [f"{to}/d/f: it is a directory here: remove it first", f"{to}/: {NOT_ALL}"]
    assert set(EXTRA) <= set(names_in(to))


def test_without_extra_entries_a_failure_has_no_second_sentence(tmp_path: Path) -> None:
    (tmp_path / "d" / "f").mkdir(parents=True)
    stream = hand_made(Directory(b"d", meta(0o755)), Skipped(b"d/f", meta(), "it cannot be read"), problems=1)
    done = Received(stream, tmp_path, DELETE)
    assert (done.said, done.report.failed) == ([], 1)


def test_what_the_sender_could_not_send_is_no_extra(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "pipe").touch()
    stream = hand_made(Directory(b"d", meta(0o755)), Skipped(b"d/pipe", meta(), ""))
    done = Received(stream, tmp_path, DELETE)
    assert (done.report.failed, done.report.deleted) == (0, 0)
    assert (tmp_path / "d" / "pipe").exists()


def test_in_a_directory_of_which_only_some_entries_are_sent_nothing_goes(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "other").touch()
    done = Received(hand_made(Directory(b"d", meta(0o755), is_whole=False)), tmp_path, DELETE)
    assert done.report.deleted == 0
    assert (tmp_path / "d" / "other").exists()


def test_a_dry_run_names_what_would_go(copy: OneCopy, source: Path, to: Path) -> None:
    done = copy(source, to=to, options=CopyOptions(task=DRY_RUN, delete=True))
    assert sorted(done.told) == ["delete d/gone", "delete d/sub/extra"]
    assert set(EXTRA) <= set(names_in(to))


def test_the_source_below_an_extra_directory_stays(copy: OneCopy, tmp_path: Path) -> None:
    """ensync --delete --dest=/to /to/d/mirror/d: /to/d/mirror is not in the source, and has it."""
    to = tmp_path / "to"
    source = to / "d" / "mirror" / "d"
    source.mkdir(parents=True)
    (source / "f").write_text("f")
    (to / "d" / "mirror" / "other").touch()
    (to / "d" / "extra").touch()
    done = copy(source, to=to, options=DELETE)
    assert (source / "f").read_text() == "f"
    assert names_in(to) == ["d", "d/f", "d/mirror", "d/mirror/d", "d/mirror/d/f"]
    assert (done.report.deleted, done.report.failed) == (2, 0)
    assert done.said == [f"{to}/: what is the source itself was not deleted"]


def test_in_a_directory_that_is_the_source_nothing_goes(copy: OneCopy, source: Path) -> None:
    before = names_in(source)
    done = copy(source, to=source.parent, options=DELETE)
    assert (done.report.deleted, done.report.unchanged, done.said) == (0, 2, [])
    assert names_in(source) == before


def test_a_directory_that_was_replaced_keeps_its_entries(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "extra").touch()
    done = Received(None, tmp_path, DELETE)
    # The link is written after the directory was left.
    done.feed(hand_made(Directory(b"d", meta(0o755)), Symlink(b"e", meta(), b"x")))
    (tmp_path / "d").rename(tmp_path / "moved")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "extra").touch()
    done.finish()
    assert done.said == [
        f"{tmp_path}/d: nothing was deleted in it: the directory was replaced during the copy"
    ]
    assert (done.report.deleted, done.report.failed) == (0, 1)
    assert names_in(tmp_path) == ["d", "d/extra", "e", "moved", "moved/extra"]


def test_a_directory_that_is_only_passed_through_has_no_extra_entries(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").touch()
    said: list[tuple[object, ...]] = []
    tree = Tree(
        os.open(tmp_path, os.O_PATH), make_parents=False, read_only=False, on_leave=lambda place: None
    )
    extra = Extra(
        DELETE,
        tree,
        lambda meta, status: False,
        Report(),
        note=lambda *words: said.append(words),
        fail=lambda *words: said.append(words),
        tell=lambda *words: said.append(words),
        on_step=lambda: None,
    )
    extra.note(tree.enter(b"d"))
    tree.leave_all()
    extra.handle()
    tree.close()
    assert (said, names_in(tmp_path)) == ([], ["d", "d/f"])


# -- removal by name ----------------------------------------------------------------------------------


def removal(path: bytes, status: os.stat_result | None = None, **options: bool) -> tuple[bytes, CopyOptions]:
    known = meta()
    if status is not None:
        known.device, known.inode = status.st_dev, status.st_ino
    return hand_made(Removal(path, known), boot_id=boot_id()), CopyOptions(**options)


@pytest.mark.parametrize("backup", [False, True])
def test_a_file_is_removed_by_its_name(tmp_path: Path, backup: bool) -> None:
    (tmp_path / "f").write_text("x")
    stream, options = removal(b"f", backup=backup)
    done = Received(stream, tmp_path, options)
    assert (done.report.deleted, done.report.failed, done.said) == (1, 0, [])
    assert names_in(tmp_path) == (["f~"] if backup else [])
    again = Received(stream, tmp_path, options)
    assert (again.report.deleted, again.report.unchanged) == (0, 1)


def test_links_are_removed_and_directories_are_not(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to("d")
    done = Received(hand_made(Removal(b"d", meta()), Removal(b"link", meta())), tmp_path)
    assert done.said == [f"{tmp_path}/d: it is a directory; only files and links are removed"]
    assert names_in(tmp_path) == ["d"]


def test_this_hosts_own_file_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    stream, options = removal(b"f", (tmp_path / "f").stat())
    done = Received(stream, tmp_path, options)
    assert (done.report.deleted, done.report.unchanged, done.report.failed) == (0, 1, 0)
    assert done.said == [
        f"{tmp_path}/f: left alone, because it is this host's own file; remove it here by rm"
    ]
    assert (tmp_path / "f").exists()


def test_a_dry_run_of_a_removal(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    done = Received(hand_made(Removal(b"f", meta())), tmp_path, CopyOptions(task=DRY_RUN))
    assert done.told == ["delete f"]
    assert (tmp_path / "f").exists()


def test_below_a_directory_that_is_not_there_nothing_is_removed(tmp_path: Path) -> None:
    done = Received(hand_made(Removal(b"none/f", meta())), tmp_path, CopyOptions(task=DRY_RUN))
    assert (done.told, done.report.failed) == ([], 0)
