"""Which tasks outlive their relay: those whose output the spawner keeps for the next one.

The relay sends the ends that it reads of a task that lasts and has all of its stdin. So the task notices
nothing when the relay dies, and the next relay reads on; what the dead one had read and not delivered is
lost. Source: docs/decisions/0032-killed-relays.md.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from typing import Final

from gexec.limits import LIVES_MAX
from gexec.posix import clock
from gexec.spawner.launching import LaunchedTask
from gexec.spawner.stdio import close_all, wrong_fd
from gexec.wire.messages import KeepOutput, ReleaseOutput
from gexec.wire.upgrades import Survivor

#: Part of this process's descriptors that may be such ends.
_SHARE: Final = 4


class Surviving:
    """The kept output of running tasks, by the relay's numbers.

    Attributes:
        is_possible: there can be another relay.
    """

    def __init__(self, running: Mapping[int, LaunchedTask]) -> None:
        self.is_possible = False
        self._running = running

    def handle(self, request: KeepOutput | ReleaseOutput) -> None:
        """Keep a task's output, or do so no longer."""
        task = self._running.get(request.task)
        if isinstance(request, ReleaseOutput):
            if task is not None:
                task.keep(())
        elif task is None or task.kept or wrong_fd(request.fds) or not self._has_room():
            close_all(request.fds)
        else:
            task.keep(request.fds)

    def _has_room(self) -> bool:
        kept = sum(len(task.kept) for task in self._running.values())
        return self.is_possible and kept < resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE

    def split(self) -> tuple[list[Survivor], list[int]]:
        """The relay has died: return the tasks that outlive it, and the numbers of those that must end.

        The descriptors of a survivor are the caller's.
        """
        survivors, others = [], []
        for number, task in self._running.items():
            task.life += 1
            if not task.kept or task.life > LIVES_MAX:
                others.append(number)
                continue
            launch, age_s = task.launch, int(clock.now_s() - task.started_s)
            fds = tuple([os.dup(fd) for fd in task.kept])
            survivors.append(Survivor(number, launch.rank, task.life, age_s, launch.job_id, task.digest, fds))
        return survivors, others
