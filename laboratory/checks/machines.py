"""The invariants of the machines (``validate``), after steps of them."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from gexec.core.states import BrokenInvariantError

if TYPE_CHECKING:
    from gexec.relay.job import RelayJob
    from laboratory.world import World

#: Checking a machine costs as much as a step of it, so only one seed of eight checks at every step.
_EVERY = (1, *(16,) * 7)
#: And only large machines at every so many of their ranks' worth of steps.
_RANKS = 256


class MachineChecks:
    """Checks every step in some seeds, every 16th in the others."""

    def __init__(self, world: World, ranks: int) -> None:
        self._world = world
        self._every = Random(f"checks of {world.seed}").choice(_EVERY) * (1 + ranks // _RANKS)
        self._steps = 0

    def stepped(self, job: RelayJob) -> None:
        """Check a job's machine after a step, if it is its turn."""
        self._steps += 1
        if self._steps % self._every:
            return
        try:
            job.machine.validate()
        except BrokenInvariantError:
            self._world.suspects = [job.key] if job.key[1] >= 0 else []
            raise
