"""Children of this process that have ended."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator


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


def kill_groups(pids: Iterable[int]) -> None:
    """Send SIGKILL to the process groups of these children, unless they were reaped."""
    for pid in pids:
        try:
            # The pid is certain only for an unreaped child of this process.
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            os.killpg(pid, signal.SIGKILL)
        except OSError:
            pass  # it has ended
