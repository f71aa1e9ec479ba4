"""Runs a program as a child, for work whose modules the spawner does not load."""

from __future__ import annotations

import os
from collections.abc import Callable

from gexec.posix.loop import PollLoop


def ask(loop: PollLoop, argv: list[str], answered: Callable[[bytes], None], fd: int = -1) -> int:
    """Start a program and return its pid. The caller reaps it.

    Args:
        answered: called with the whole stdout when the program closes it: b"" if the program has failed.
        fd: the program's descriptor 3; -1 = none. It also inherits stdin and stderr of this process.

    Raises:
        OSError: the program cannot be started.
    """
    read, write = os.pipe()
    try:
        actions = [(os.POSIX_SPAWN_DUP2, write, 1)]
        if fd >= 0:
            actions.append((os.POSIX_SPAWN_DUP2, fd, 3))
        pid = os.posix_spawn(argv[0], argv, os.environ, file_actions=actions, setsigmask=())
    except OSError:
        os.close(read)
        raise
    finally:
        os.close(write)
    pieces: list[bytes] = []

    def readable() -> None:
        piece = os.read(read, 65536)
        if piece:
            pieces.append(piece)
            return
        loop.unwatch(read)
        os.close(read)
        answered(b"".join(pieces))

    loop.watch(read, readable)
    return pid
