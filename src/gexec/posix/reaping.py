"""Children of this process that have ended."""

from __future__ import annotations

import os
from collections.abc import Iterator


def reaped() -> Iterator[tuple[int, int]]:
    """Reap children that have ended, each before it is yielded: (pid, wait status). Never waits."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, status
