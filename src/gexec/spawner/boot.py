"""The spawner's program. gexecd's start-up executes it and passes the descriptor of a ``Handover``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from gexec.spawner.forking import fork_starter

if TYPE_CHECKING:
    from gexec.spawner.program import SpawnerProcess


def main(argv: list[str]) -> int:
    """Fork the starter, then run the spawner; return gexecd's exit status.

    Args:
        argv: the handover's descriptor, the directory of the control group that gexecd may divide ("" =
            none), then gexecd's own arguments, which only ps shows.
    """
    starter = fork_starter(group=argv[1])  # first: its memory must not hold what is loaded and read below

    from gexec.posix import channel, identity
    from gexec.posix.readiness import announce
    from gexec.spawner.handover import Handover
    from gexec.spawner.program import SpawnerProcess

    fd = int(argv[0])
    handed = Handover.decode(channel.unsealed(fd))
    os.close(fd)
    kept = [starter[1].fileno(), *handed.descriptors]
    identity.close_inherited(kept)
    identity.keep_from_programs()
    process = SpawnerProcess(
        handed, lambda: starter, lambda: announce(*handed.ready_fds), is_clean=True, execute=_execute
    )
    process.spawner.begin_starter()
    return process.run()


def _execute(process: SpawnerProcess, told: str) -> None:
    """Execute the spawner's installed code, in an upgrade; loaded only then."""
    from gexec.spawner.again import execute

    execute(process, told)
