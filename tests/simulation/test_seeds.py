"""Jobs on simulated clusters of up to 200 nodes, with faults: nothing may happen that never must.

A seed that fails names the command that replays it. Many more: ``make simulate SEEDS=1-100000``
(docs/decisions/0010-simulation.md).
"""

from __future__ import annotations

import os

import pytest

from gexec.core.stall import Stall
from laboratory import faults
from laboratory.scenario import scenario
from laboratory.script import Scenario
from laboratory.seeds import run_one
from laboratory.simulator import Simulation, simulate
from laboratory.world import Violation

FIRST = 1000
EACH = 50
#: More by GEXEC_SIMULATED_SEEDS=10000, say.
SEEDS = int(os.environ.get("GEXEC_SIMULATED_SEEDS", "2000"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, EACH))
def test_seeds(first: int) -> None:
    failed = [(seed, wrong) for seed, _, wrong in map(run_one, range(first, first + EACH)) if wrong]
    lines = [
        f"{wrong}\n  replay: python -m laboratory.simulate --seed {seed} --story" for seed, wrong in failed
    ]
    assert not failed, "\n".join(lines)


def test_seeds_cover_every_kind_of_fault() -> None:
    kinds = {fault.kind for seed in range(FIRST, FIRST + 300) for fault in scenario(seed).faults}
    assert kinds == {kind.name for kind in faults.ALL if kind.strike is not None}


@pytest.mark.parametrize("seed", range(1200, 1210))
def test_same_seed_gives_the_same_trace(seed: int) -> None:
    assert simulate(seed).digest == simulate(seed).digest


def test_seeds_have_tasks_that_stop_reading_and_that_no_signal_ends() -> None:
    plans = [plan for seed in range(FIRST, FIRST + 300) for plan in scenario(seed).plans]
    stopped = [plan for plan in plans if plan.stops_at is not None]
    assert {plan.hangs for plan in stopped} == {False, True}


@pytest.mark.parametrize("still", [False, True])
def test_a_task_that_is_never_or_wrongly_given_up_is_found(
    monkeypatch: pytest.MonkeyPatch, still: bool
) -> None:
    """The checks of the result see a defect of the clock, either way."""
    kinds = (faults.BY_NAME["stopped_reader"],)
    seeds = [seed for seed in range(FIRST, FIRST + 300) if _only_stops(scenario(seed, kinds=kinds))][:20]
    for seed in seeds:
        Simulation(seed, scenario(seed, kinds=kinds)).run()
    monkeypatch.setattr(Stall, "stands_still", lambda *_, **__: still)
    found = []
    for seed in seeds:
        try:
            Simulation(seed, scenario(seed, kinds=kinds)).run()
        except Violation as violation:
            found.append(str(violation))
    # Who is given up wrongly may also be told the end of its stdin too early, which is seen first.
    wanted = ("it did not stand still", "read the end of stdin") if still else ("the job does not end",)
    assert any(text in one for one in found for text in wanted), found


def _only_stops(made: Scenario) -> bool:
    stops = [plan.stops_at is not None for plan in made.plans]
    slow = all(plan.writes for plan, stopped in zip(made.plans, stops, strict=True) if not stopped)
    return any(stops) and not all(stops) and slow and not (made.faults or made.disturbed)
