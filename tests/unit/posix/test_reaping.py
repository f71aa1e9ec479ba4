"""Children that have ended are reaped, each once; one that runs is not waited for."""

from __future__ import annotations

import os
import signal

from gexec.posix.reaping import reaped


def child(status: int | None) -> int:
    """Fork a child that ends with this status, or waits for a signal."""
    pid = os.fork()
    if pid == 0:
        if status is None:
            signal.pause()
        os._exit(status or 0)
    return pid


def test_children_that_have_ended_are_reaped_and_no_others() -> None:
    runs, ended = child(None), child(3)
    try:
        os.waitid(os.P_PID, ended, os.WEXITED | os.WNOWAIT)
        found = {pid: os.waitstatus_to_exitcode(status) for pid, status in reaped()}
        assert found[ended] == 3
        assert runs not in found
    finally:
        os.kill(runs, signal.SIGKILL)
    os.waitid(os.P_PID, runs, os.WEXITED | os.WNOWAIT)
    assert runs in dict(reaped())
