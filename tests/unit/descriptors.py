"""Running out of descriptors for real, and counting those that are open."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def open_now() -> set[int]:
    """Return the descriptors that this process has open."""
    found = {int(name) for name in os.listdir("/proc/self/fd")}
    # The one of the directory itself is in the list and closed by now.
    return {fd for fd in found if os.path.exists(f"/proc/self/fd/{fd}")}


@contextmanager
def only(free: int) -> Iterator[list[int]]:
    """Leave this process so many descriptors. Close some of the list, from its end, for more."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A low limit, so that few have to be opened until there are no more.
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(open_now()) + free + 2, limits[1]))
    taken: list[int] = []
    try:
        while True:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                break
        for _ in range(free):
            os.close(taken.pop())
        yield taken
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@contextmanager
def directory(path: Path) -> Iterator[int]:
    """Open a directory; afterwards no other descriptor is open than before."""
    before = open_now()
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)
    assert open_now() == before


@contextmanager
def new_pipe() -> Iterator[tuple[int, int]]:
    """Make a pipe; its ends may be closed inside."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        with suppress(OSError):
            os.close(fd)
