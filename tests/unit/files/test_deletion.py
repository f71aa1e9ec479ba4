"""Removing what a stream does not have: all below it, nothing that a link points to, nothing mounted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from descriptors import directory
from gexec import limits
from gexec.files.deletion import remove
from gexec.files.directories import RefusedError


@pytest.fixture
def above(tmp_path: Path) -> Iterator[int]:
    with directory(tmp_path) as descriptor:
        yield descriptor


def test_a_directory_goes_with_all_below_it_and_all_are_counted(above: int, tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    (tmp_path / "a/file").write_text("x")
    (tmp_path / "a/b/empty").touch(mode=0)
    os.mkfifo(tmp_path / "a/b/fifo")
    (tmp_path / "kept").write_text("kept")
    odd = os.fsencode(tmp_path / "a") + b"/\xff\n"
    os.mkdir(odd)
    assert remove(above, b"a") == 7
    assert os.listdir(tmp_path) == ["kept"]
    assert remove(above, b"kept") == 1
    assert os.listdir(tmp_path) == []


def test_a_link_goes_and_what_it_points_to_stays(above: int, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target/file").touch()
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "a").mkdir()
    (tmp_path / "a/link").symlink_to("../target")
    (tmp_path / "a/dangling").symlink_to("nowhere")
    assert remove(above, b"link") == 1
    assert remove(above, b"a") == 3
    assert os.listdir(tmp_path / "target") == ["file"]
    assert os.listdir(tmp_path) == ["target"]


def test_what_is_not_there_is_an_error(above: int) -> None:
    with pytest.raises(FileNotFoundError):
        remove(above, b"nothing")


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
    assert remove(above, b"d") == most
    deep(tmp_path, most + 1)
    with pytest.raises(RefusedError, match=r"^it is too deep to be removed: remove it by hand$"):
        remove(above, b"d")
    assert (tmp_path / "d").is_dir()
    os.rename(tmp_path / "d/d", tmp_path / "half")
    assert remove(above, b"half") == most
    assert remove(above, b"d") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may remove everything")
def test_what_may_not_be_removed_is_an_error(above: int, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").touch()
    (tmp_path / "a").chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            remove(above, b"a")
    finally:
        (tmp_path / "a").chmod(0o700)
    assert (tmp_path / "a/file").exists()


_MOUNTED = """
import os, subprocess, sys
from gexec.files.deletion import remove
from gexec.files.directories import RefusedError
place = sys.argv[1]
for name in ("a/first", "a/mounted", "outside"):
    os.makedirs(f"{place}/{name}")
open(f"{place}/outside/file", "w").close()
subprocess.run(["mount", "--bind", f"{place}/outside", f"{place}/a/mounted"], check=True)
above = os.open(place, os.O_RDONLY)
try:
    remove(above, b"a")
except RefusedError as error:
    print(error)
print(os.listdir(f"{place}/outside"), os.path.isdir(f"{place}/a/mounted"))
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
        "another file system is mounted there: it is not changed",
        "['file'] True",
    ]
