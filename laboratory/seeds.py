"""Seeds in this process: ``run_one`` for each; ``prepare`` first, for the fastest."""

from __future__ import annotations

import gc

from laboratory.scenario import scenario
from laboratory.simulator import Simulation
from laboratory.world import Violation

#: A seed leaves cycles of objects; more of them than this at a time are collected.
_GARBAGE_OBJECTS = 400_000


def prepare() -> None:
    """Collect garbage rarely, and look only at objects that seeds have made: a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_OBJECTS, 5, 5)


def run_one(seed: int) -> tuple[int, int, str]:
    """Run one seed; return it with its number of events and the violation, if any."""
    simulation = Simulation(seed, scenario(seed))
    try:
        return seed, simulation.run().events, ""
    except Violation as error:
        return seed, simulation.world.events, told(error)
    except Exception as error:  # a machine must not fail at all
        return seed, simulation.world.events, f"{type(error).__name__}: {error}"


def told(error: Violation) -> str:
    """Return the violation, with what the machines know about it."""
    return "\n".join([str(error), *getattr(error, "__notes__", [])])
