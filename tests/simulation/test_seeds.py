"""Jobs on simulated clusters of up to 200 nodes, with faults: nothing may happen that never must.

A seed that fails names the command that replays it. Many more: ``make simulate SEEDS=1-100000``
(docs/decisions/0010-simulation.md).
"""

from __future__ import annotations

import os

import pytest

from laboratory.scenario import scenario
from laboratory.simulate import run_one
from laboratory.simulator import simulate

FIRST = 1000
EACH = 50
#: More by GEXEC_SIMULATED_SEEDS=10000, say.
SEEDS = int(os.environ.get("GEXEC_SIMULATED_SEEDS", "2000"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(FIRST, FIRST + SEEDS, EACH))
def test_seeds(first: int) -> None:
    failed = [(seed, wrong) for seed, _, wrong in map(run_one, range(first, first + EACH)) if wrong]
    lines = [
        f"{wrong}\n  replay: python -m laboratory.simulate --seed {seed} --trace" for seed, wrong in failed
    ]
    assert not failed, "\n".join(lines)


@pytest.mark.parametrize("seed", [5094, 5811, 6531, 12432, 817_882, 700_891, 7_050_234])
def test_seed_that_once_failed(seed: int) -> None:
    simulate(seed)


def test_seeds_cover_every_kind_of_fault() -> None:
    kinds = {fault.kind for seed in range(FIRST, FIRST + 300) for fault in scenario(seed).faults}
    assert kinds == {
        "dead",
        "kill",
        "drop",
        "silence",
        "vanish",
        "freeze",
        "stop",
        "suspend",
        "slow",
        "restart",
    }


@pytest.mark.parametrize("seed", range(1200, 1210))
def test_same_seed_gives_the_same_trace(seed: int) -> None:
    assert simulate(seed).digest == simulate(seed).digest
