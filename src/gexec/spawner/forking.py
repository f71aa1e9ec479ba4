"""Forking the starter. A module of its own: the spawner calls it before it has loaded anything else."""

from __future__ import annotations

import os
import resource
import socket


def fork_starter(descriptors: int | None = None) -> tuple[int, socket.socket]:
    """Fork the starter; return its pid and the spawner's end of the channel to it.

    The calling process must have one thread. The child closes every descriptor that it inherits.

    Args:
        descriptors: the soft limit of descriptors that tasks get; None = this process's own.

    Raises:
        OSError: there is no process, memory or descriptor for it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        pid = os.fork()
        if pid == 0:
            # Only here: what starts tasks is never loaded into the process that checks who may.
            from gexec.spawner.starter import be_starter

            if descriptors is not None:
                _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
                resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
            be_starter(theirs.detach())
    return pid, ours
