"""A few simulated jobs in every check; the many are in tests/simulation."""

from __future__ import annotations

import pytest

from laboratory.simulator import simulate


@pytest.mark.parametrize("seed", range(20))
def test_seed(seed: int) -> None:
    simulate(seed)


def test_same_seed_gives_the_same_trace() -> None:
    first, second = simulate(7, tracing=True), simulate(7)
    assert first.digest == second.digest
    assert first.events == second.events
    assert first.digest != simulate(8).digest
    assert first.lines
    assert not second.lines
