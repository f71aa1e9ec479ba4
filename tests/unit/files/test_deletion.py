"""Removing what a node must not have: all below it, nothing that a link points to, nothing mounted."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from descriptors import directory
from filesystems import KINDS, empty_place, needs, run
from gexec import limits
from gexec.files.deletion import RemovalRules, Removed, count, remove


@pytest.fixture
def above(tmp_path: Path) -> Iterator[int]:
    with directory(tmp_path) as descriptor:
        yield descriptor


class Failures(list[tuple[str, str]]):
    """What could not be removed."""

    def rules(self, **more: Any) -> RemovalRules:
        return RemovalRules(on_failure=lambda path, why: self.append((os.fsdecode(path), why)), **more)


def gone(above: int, name: bytes, **rules: Any) -> int:
    """Remove an entry without a failure; return how many entries are gone. As many were counted before."""
    failures = Failures()
    most = count(above, name, b"at/" + name, failures.rules(**rules), at_most=10_000)
    removed = remove(above, name, b"at/" + name, failures.rules(**rules))
    assert failures == []
    assert removed.failed == 0
    assert removed.removed == most
    return removed.removed


def test_a_directory_goes_with_all_below_it_and_all_are_counted(above: int, tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/file").write_text("x")
    (tmp_path / "a/b/empty").touch(mode=0)
    os.mkfifo(tmp_path / "a/b/fifo")
    (tmp_path / "kept").write_text("kept")
    odd = os.fsencode(tmp_path / "a") + b"/\xff\n"
    os.mkdir(odd)
    assert gone(above, b"a") == 7
    assert os.listdir(tmp_path) == ["kept"]
    assert gone(above, b"kept") == 1
    assert os.listdir(tmp_path) == []


def test_a_link_goes_and_what_it_points_to_stays(above: int, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/file").touch()
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/link").symlink_to("../target")
    (tmp_path / "a/dangling").symlink_to("nowhere")
    assert gone(above, b"link") == 1
    assert gone(above, b"a") == 3
    assert os.listdir(tmp_path / "target") == ["file"]
    assert os.listdir(tmp_path) == ["target"]


def test_what_is_not_there_is_gone(above: int) -> None:
    assert gone(above, b"nothing") == 0


def deep(place: Path, depth: int) -> None:
    """Make directories d/d/d..., so many."""
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)


def test_as_deep_as_a_stream_may_be_and_no_deeper(above: int, tmp_path: Path) -> None:
    most = limits.ARCHIVE_DEPTH_MAX
    deep(tmp_path, most)
    assert gone(above, b"d") == most
    deep(tmp_path, most + 1)
    failures = Failures()
    assert remove(above, b"d", b"d", failures.rules()).removed == 0
    assert [why for _, why in failures] == ["it is too deep to be removed: remove it by hand"]
    assert (tmp_path / "d").is_dir()
    os.rename(tmp_path / "d/d", tmp_path / "half")
    assert gone(above, b"half") == most
    assert gone(above, b"d") == 1


needs_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may remove everything")


@needs_user
def test_what_may_not_be_removed_is_reported_and_the_rest_goes(above: int, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/closed").mkdir()
    (tmp_path / "a/closed/file").touch()
    (tmp_path / "a/file").touch()
    (tmp_path / "a/closed").chmod(0)
    failures = Failures()
    removed = remove(above, b"a", b"a", failures.rules())
    assert (removed.removed, removed.failed) == (1, 1)
    assert failures == [("a/closed", "permission denied; copy as a user who may write there")]
    assert os.listdir(tmp_path / "a") == ["closed"]
    (tmp_path / "a/closed").chmod(0o700)


@needs_user
def test_our_own_read_only_directories_go_or_stay_as_they_were(above: int, tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/file").touch()
    (tmp_path / "a/kept").touch()
    (tmp_path / "a/b").chmod(0o500)
    (tmp_path / "a").chmod(0o555)
    removed = remove(above, b"a", b"a", Failures().rules(is_protected=lambda path, _: path == b"a/kept"))
    assert removed.removed == 2
    assert os.listdir(tmp_path / "a") == ["kept"]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o555
    assert gone(above, b"a") == 2


_MOUNTED = """
import os, subprocess, sys
from gexec.files.deletion import RemovalRules, remove
place = sys.argv[1]
for name in ("a/first", "a/mounted", "outside"):
    os.makedirs(f"{place}/{name}")
open(f"{place}/outside/file", "w").close()
subprocess.run(["mount", "--bind", f"{place}/outside", f"{place}/a/mounted"], check=True)
open(f"{place}/a/mounted-file", "w").close()
subprocess.run(["mount", "--bind", f"{place}/outside/file", f"{place}/a/mounted-file"], check=True)
above = os.open(place, os.O_RDONLY)
rules = RemovalRules(on_failure=lambda path, why: print(path.decode(), why))
removed = remove(above, b"a", b"a", rules).removed
print(removed, sorted(os.listdir(f"{place}/a")), os.listdir(f"{place}/outside"))
"""


@pytest.mark.root
def test_what_is_mounted_below_is_left_alone(tmp_path: Path) -> None:
    """A mount of the same file system, too: it has the same device."""
    unshare = ["unshare", "--mount", "--propagation", "private"]
    if os.geteuid() or subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounts need root, and a container that permits them")
    done = subprocess.run(
        [*unshare, sys.executable, "-c", _MOUNTED, tmp_path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "a/mounted another file system is mounted there: it is not changed",
        "a/mounted-file it is in use, as a mount point or by the system; unmount it first (see findmnt)",
        "1 ['mounted', 'mounted-file'] ['file']",
    ]


# -- what stays ----------------------------------------------------------------------------------


def test_protected_entries_stay_with_the_directories_above_them(above: int, tmp_path: Path) -> None:
    for name in ("a/logs", "a/b/c", "a/other"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a/logs/one", "a/b/c/keep.me", "a/b/file", "a/other/file"):
        (tmp_path / name).touch()
    asked: list[tuple[bytes, bool]] = []

    def is_protected(path: bytes, is_directory: bool) -> bool:
        asked.append((path, is_directory))
        return path == b"at/a/logs" or path.endswith(b".me")

    failures = Failures()
    rules = failures.rules(is_protected=is_protected)
    assert count(above, b"a", b"at/a", rules, at_most=100) == 3
    asked.clear()
    removed = remove(above, b"a", b"at/a", rules)
    assert (removed.removed, removed.protected, removed.failed, failures) == (3, 2, 0, [])
    assert sorted(os.listdir(tmp_path / "a")) == ["b", "logs"]
    assert os.listdir(tmp_path / "a/b/c") == ["keep.me"]
    assert (b"at/a", True) in asked
    assert (b"at/a/b/file", False) in asked
    assert not any(path.startswith(b"at/a/logs/") for path, _ in asked)


def test_the_source_itself_stays(above: int, tmp_path: Path) -> None:
    (tmp_path / "a/source").mkdir(parents=True)
    (tmp_path / "a/source/file").touch()
    (tmp_path / "a/file").touch()
    source = (tmp_path / "a/source").stat()
    rules = Failures().rules(is_own=lambda status: os.path.samestat(status, source))
    removed = remove(above, b"a", b"a", rules)
    assert (removed.removed, removed.own) == (1, 1)
    assert os.listdir(tmp_path / "a/source") == ["file"]


# -- backups -------------------------------------------------------------------------------------


def test_with_backup_files_and_links_are_renamed_and_empty_directories_go(above: int, tmp_path: Path) -> None:
    (tmp_path / "a/empty").mkdir(parents=True)
    (tmp_path / "a/file").write_text("new")
    (tmp_path / "a/file~").write_text("old")
    (tmp_path / "a/link").symlink_to("nowhere")
    (tmp_path / "a/earlier~").touch()
    failures = Failures()
    rules = failures.rules(backup=True)
    assert count(above, b"a", b"a", rules, at_most=100) == 3
    removed = remove(above, b"a", b"a", rules)
    assert failures == []
    assert (removed.removed, removed.backed_up, removed.earlier_backups) == (3, 2, 2)
    assert sorted(os.listdir(tmp_path / "a")) == ["earlier~", "file~", "link~"]
    assert (tmp_path / "a/file~").read_text() == "new"
    assert (tmp_path / "a/link~").is_symlink()
    again = remove(above, b"a", b"a", rules)
    assert (again.removed, again.earlier_backups, again.protected) == (0, 3, 0)


def test_a_backup_that_is_the_same_file_remains_alone(above: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.link(tmp_path / "file", tmp_path / "file~")
    assert gone(above, b"file", backup=True) == 1
    assert os.listdir(tmp_path) == ["file~"]


def test_a_backup_that_is_impossible_is_reported_and_nothing_is_lost(above: int, tmp_path: Path) -> None:
    (tmp_path / "directory").touch()
    (tmp_path / "directory~").mkdir()
    (tmp_path / ("n" * 255)).touch()
    (tmp_path / "copied").touch()
    (tmp_path / "source").touch()
    (tmp_path / "source~").write_text("the source")
    source = (tmp_path / "source~").stat()
    failures = Failures()
    rules = failures.rules(backup=True, is_own=lambda status: os.path.samestat(status, source))
    removed = Removed()
    for name in (b"directory", b"n" * 255, b"copied", b"source"):
        removed.add(remove(above, name, name, rules, copied={b"copied~"}))
    assert (removed.removed, removed.failed) == (0, 4)
    assert [why for _, why in failures] == [
        "its backup directory~ is a directory here: remove that first",
        "its name is too long for a backup, NAME~: rename or remove it",
        "its backup would replace copied~, which was copied: rename one",
        "its backup would replace source~, the source: rename one",
    ]
    assert len(os.listdir(tmp_path)) == 6
    assert (tmp_path / "source~").read_text() == "the source"


# -- bounds, stopping, flags -----------------------------------------------------------------------


def test_counting_ends_at_the_bound_and_changes_nothing(above: int, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for number in range(9):
        (tmp_path / f"a/{number}").touch()
    steps: list[int] = []
    rules = Failures().rules(on_step=lambda: steps.append(1))
    assert count(above, b"a", b"a", rules, at_most=10) == 10
    assert count(above, b"a", b"a", rules, at_most=9) == 10
    steps.clear()
    assert count(above, b"a", b"a", rules, at_most=4) == 5
    assert len(steps) == 6
    assert count(above, b"nothing", b"nothing", rules, at_most=0) == 0
    assert len(os.listdir(tmp_path / "a")) == 9


@pytest.mark.parametrize("error", [KeyboardInterrupt, BrokenPipeError])
def test_a_step_may_end_the_removal(above: int, tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for number in range(9):
        (tmp_path / f"a/b/{number}").touch()
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise error

    failures = Failures()
    with pytest.raises(error):
        remove(above, b"a", b"a", failures.rules(on_step=step))
    assert failures == []
    assert len(os.listdir(tmp_path / "a/b")) == 7


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS)
def test_flags_of_chattr_are_named_and_the_rest_goes(tmp_path: Path, kind: str) -> None:
    if os.geteuid():
        pytest.skip("chattr +i needs root")
    needs("chattr")
    with empty_place(kind, tmp_path) as place, directory(place) as above:
        (place / "a/closed").mkdir(parents=True)
        for name in ("a/fixed", "a/log", "a/plain", "a/closed/file"):
            (place / name).touch()
        flagged = {"a/fixed": "i", "a/log": "a", "a/closed": "a"}
        try:
            for name, flag in flagged.items():
                if subprocess.run(
                    ["chattr", f"+{flag}", place / name], capture_output=True, check=False
                ).returncode:
                    pytest.skip(f"no flags on {kind}")
            failures = Failures()
            removed = remove(above, b"a", b"a", failures.rules())
        finally:
            for name, flag in flagged.items():
                run("chattr", f"-{flag}", place / name)
        assert failures == [
            ("a/closed/file", "its directory is append-only: run chattr -a on that first"),
            ("a/fixed", "it is immutable: run chattr -i on it first"),
            ("a/log", "it is append-only: run chattr -a on it first"),
        ]
        assert (removed.removed, removed.failed) == (1, 3)
