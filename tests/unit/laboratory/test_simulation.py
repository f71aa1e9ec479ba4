"""A few simulated jobs in every check; the many are in tests/simulation."""

from __future__ import annotations

import pytest

from gexec.wire.outcome import Outcome
from laboratory import script
from laboratory.checks import at_end
from laboratory.clients import Habits
from laboratory.evidence import Evidence
from laboratory.jobs import TTL_S
from laboratory.processes import Plan
from laboratory.script import ROOT, Fault, Scenario
from laboratory.simulator import Simulation, simulate
from laboratory.world import Violation


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


def test_a_violation_shows_what_machines_of_its_job_know(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Scenario(script.job(3, 2), [Plan([], 0)] * 3, Habits())
    made.beside = [Scenario(script.job(2, 2, 1), [Plan([], 0), Plan([], 5)], Habits(), first=1)]
    simulation = Simulation(1, made.share())

    def broken(evidence: Evidence, rank: int, outcome: Outcome) -> None:
        if evidence.made is not made and rank == 1:
            raise Violation("something is wrong")

    monkeypatch.setattr(at_end, "ALL", (broken,))
    with pytest.raises(Violation, match="something is wrong") as caught:
        simulation.run()
    [note] = caught.value.__notes__
    assert note.startswith("rank 1:\n")
    assert "exited 5" in note
    assert "gexecd 1" not in note.replace("gexecd 2", "")


def test_a_job_is_refused_whose_credential_expired_before_its_daemon_went_on() -> None:
    """Seed 18006387."""
    made = Scenario(script.job(2, 2), [Plan([], 0)] * 2, Habits(), ttl_s=0.01, disturbed=True)
    made.faults = [Fault(0.0, "suspend", ROOT, lasts_s=20.0)]
    simulation = Simulation(1, made)
    simulation.run()
    assert simulation.client.done
    assert not simulation.client.outcomes
    made.ttl_s = TTL_S
    simulation = Simulation(1, made)
    simulation.run()
    assert len(simulation.client.outcomes) == 2
