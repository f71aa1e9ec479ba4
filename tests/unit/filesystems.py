"""File systems for tests: some are mounted for them, where root may; and programs that a test needs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Kinds for ``empty_place``: that of the tests' directory, and two that are mounted.
KINDS = ("here", "tmpfs", "ext4")
IMAGE_BYTES = 16 * 1024 * 1024


def needs(*programs: str) -> None:
    """Skip if a program is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")


def run(*words: str | Path) -> str:
    """Run a command that must succeed, and return its output."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def needs_user_attributes(place: Path) -> None:
    """Skip if the file system of a directory takes no attributes of users (tmpfs before Linux 6.6)."""
    try:
        os.setxattr(place, "user.gexec-test", b"")
        os.removexattr(place, "user.gexec-test")
    except OSError as error:
        pytest.skip(f"no user attributes in {place}: {error.strerror}")


@contextmanager
def mounted(place: Path, kind: str) -> Iterator[Path]:
    """Mount a new file system: ``ext4`` in an image, ``tmpfs`` or ``ramfs`` (which has no attributes)."""
    if os.geteuid():
        pytest.skip("mounts need root")
    needs("mount", "umount")
    point = place / f"on-{kind}"
    point.mkdir()
    command = ["mount", "-t", kind, kind, str(point)]
    if kind == "ext4":
        needs("mkfs.ext4", "losetup")
        image = place / "image"
        with open(image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        run("mkfs.ext4", "-q", "-F", image)
        command = ["mount", "-o", "loop", str(image), str(point)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{kind} cannot be mounted here: {done.stderr.strip()}")
    try:
        yield point
    finally:
        run("umount", "--lazy", point)


@contextmanager
def empty_place(kind: str, below: Path) -> Iterator[Path]:
    """Make an empty directory on a file system of one of KINDS."""
    if kind == "here":
        (below / "here").mkdir()
        yield below / "here"
        return
    with mounted(below, kind) as point:
        (point / "place").mkdir()
        yield point / "place"
