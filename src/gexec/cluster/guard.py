"""The guard: the parent of a local cluster's supervisor, which ends what is left if that is killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable

from gexec.cluster import processes
from gexec.cluster.daemon import STOP_SIGNALS
from gexec.cluster.supervisor import STOP_AGAIN_S, STOP_GRACE_S
from gexec.posix import descendants, identity


def guarded(supervise: Callable[[], int]) -> int:
    """Run ``supervise`` in a child; return its status when no descendant of it is left.

    The calling process must be single-threaded; it becomes a child subreaper.
    """
    identity.become_subreaper()
    guard = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            identity.die_with_parent(signal.SIGTERM)
            status = supervise() if os.getppid() == guard else 1
        except BaseException:
            import traceback

            traceback.print_exc()  # a defect: to the supervisor's log
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    supervisor = processes.seen(pid)

    def forward(signum: int, frame: object) -> None:
        if supervisor is not None:
            processes.send_signal(supervisor, signal.SIGTERM)

    for signum in STOP_SIGNALS:
        signal.signal(signum, forward)
    _, wait_status = os.waitpid(pid, 0)
    _end_descendants()
    return os.waitstatus_to_exitcode(wait_status)


def _end_descendants() -> None:
    """End the processes of a dead supervisor: the kernel has sent SIGTERM; send it again, then SIGKILL."""
    now_s = time.monotonic()
    again_s, deadline_s = now_s + STOP_AGAIN_S, now_s + STOP_GRACE_S
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid:
            continue
        now_s = time.monotonic()
        if now_s > min(again_s, deadline_s):
            again_s = deadline_s + STOP_GRACE_S  # once; SIGKILL is repeated for late children
            for child in descendants.children_of(os.getpid()):
                process = processes.seen(child)
                if process is not None:
                    signum = signal.SIGKILL if now_s > deadline_s else signal.SIGTERM
                    processes.send_signal(process, signum)
        time.sleep(0.02)
