"""A file system that can be frozen: a process that writes to it then sleeps, and not even SIGKILL ends it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .conftest import DEADLINE_S, wait_until


@contextmanager
def frozen_at(where: Path, uid: int = 0) -> Iterator[Callable[[], None]]:
    """Mount a small file system at a new directory; what this yields freezes it. Thawed at the end.

    Skips the test where this is not possible (no root, no loop devices).
    """
    disk = where.with_name(f"{where.name}.disk")
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    where.mkdir()
    mount = ["mount", "-o", "loop", disk, where]
    if shutil.which("fsfreeze") is None or _fails("mkfs.ext4", "-q", disk) or _fails(*mount):
        disk.unlink()
        pytest.skip("no file system can be made and mounted here")
    (where / "lost+found").rmdir()
    os.chown(where, uid, -1)
    frozen = False

    def freeze() -> None:
        nonlocal frozen
        assert not _fails("fsfreeze", "-f", where)
        frozen = True

    try:
        yield freeze
    finally:
        if frozen:
            assert not _fails("fsfreeze", "-u", where)
        wait_until(lambda: not _fails("umount", where), "the file system stays in use")
        disk.unlink()


def _fails(*words: object) -> bool:
    done = subprocess.run(list(map(str, words)), capture_output=True, timeout=DEADLINE_S, check=False)
    return done.returncode != 0
