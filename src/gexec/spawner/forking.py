"""Forks the starter. A separate module, because the spawner runs it before it loads any other."""

from __future__ import annotations

import os
import resource
import socket


def fork_starter(descriptors: int | None = None, group: str = "") -> tuple[int, socket.socket]:
    """Fork the starter; return its pid and the spawner's end of the channel to it.

    The calling process must have one thread. The child closes every descriptor that it inherits.

    Args:
        descriptors: the soft limit of descriptors that tasks get; None = this process's own.
        group: the directory of the control group that it may divide for the tasks; "" = there is none.

    Raises:
        OSError: no process, memory or descriptor is available.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        pid = os.fork()
        if pid == 0:
            # Imported in the child only: the spawner, which checks jobs, never loads what starts tasks.
            from gexec.spawner.starter import be_starter

            if descriptors is not None:
                _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
            be_starter(theirs.detach(), group)
    return pid, ours
