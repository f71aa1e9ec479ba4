"""Relays that die in simulations: what is checked then, and that the checks find what is wrong."""

from __future__ import annotations

import pytest

from gexec import native
from gexec.core import task
from gexec.wire import outcome as outcomes
from gexec.wire.outcome import Outcome
from laboratory.checks.output import is_of
from laboratory.faults import relay_dies
from laboratory.scenario import scenario
from laboratory.simulator import Simulation
from laboratory.world import Violation

WRITTEN = bytes(range(200))


@pytest.mark.parametrize(
    ("got", "holes", "is_right"),
    [
        (WRITTEN, 0, True),
        (WRITTEN[:50], 0, True),
        (b"", 0, True),
        (WRITTEN[:50] + WRITTEN[60:], 0, False),
        (WRITTEN[:50] + WRITTEN[60:], 1, True),
        (WRITTEN[60:], 1, True),
        (WRITTEN[:50] + WRITTEN[60:90] + WRITTEN[150:], 1, False),
        (WRITTEN[:50] + WRITTEN[60:90] + WRITTEN[150:], 2, True),
        (WRITTEN[:50] + WRITTEN[40:], 1, False),
        (WRITTEN + b"more", 1, False),
        (WRITTEN[:50] + b"\xff" + WRITTEN[50:], 1, False),
    ],
)
def test_parts_may_be_missing_but_nothing_else_may_come(got: bytes, holes: int, is_right: bool) -> None:
    assert is_of(got, WRITTEN, holes) == is_right


def _found_at(seeds: range) -> int:
    """Return the first of these seeds that is a violation, with this fault alone."""
    for seed in seeds:
        try:
            Simulation(seed, scenario(seed, kinds=(relay_dies.KIND,))).run()
        except Violation:
            return seed
    raise AssertionError(f"no violation in {seeds}")


@pytest.mark.skipif(native.in_use(), reason="compiled code is not changed by a test")
def test_an_end_that_hides_the_death_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def uncut(outcome: Outcome, text: str) -> Outcome:
        return outcome

    monkeypatch.setattr(outcomes, "output_cut", uncut)
    assert _found_at(range(1, 100))


@pytest.mark.skipif(native.in_use(), reason="compiled code is not changed by a test")
def test_offsets_that_do_not_tell_one_relay_from_the_next_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "LIFE_BYTES", 0)
    assert _found_at(range(1, 100))
