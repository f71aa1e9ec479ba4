"""A control group of a test's own, where this machine has cgroup v2 and lets root make one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import pytest

from gexec.posix import cgroups
from system.conftest import wait_until

_numbers = count()


@contextmanager
def own_group() -> Iterator[str]:
    """Yield the directory of a new group; at the end everything in it is ended, and it is removed."""
    try:
        mount, _ = cgroups._mount()
        group = Path(mount, f"gexec-test-{os.getpid()}-{next(_numbers)}")
        group.mkdir()
    except (OSError, ValueError) as error:
        pytest.skip(f"needs a cgroup v2 in which groups can be made: {error}")
    try:
        yield str(group)
    finally:
        (group / "cgroup.kill").write_text("1")
        wait_until(lambda: _is_removed(group), f"{group} is not removed")


def _is_removed(group: Path) -> bool:
    for directory, _, _ in os.walk(group, topdown=False):
        with suppress(OSError):
            os.rmdir(directory)
    return not group.exists()


def cells_of(group: str) -> dict[str, list[int]]:
    """Return the cells below a group: names, and the threads in each."""
    found = {}
    for cell in Path(group, cgroups.JOBS).iterdir():
        with suppress(OSError):
            if cell.is_dir():
                found[cell.name] = [int(word) for word in (cell / "cgroup.threads").read_text().split()]
    return found
