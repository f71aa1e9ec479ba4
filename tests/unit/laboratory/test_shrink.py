"""The smallest scenario that fails, and the story of a seed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gexec.wire import outcome as outcomes
from gexec.wire.outcome import Outcome
from laboratory import cut as cuts
from laboratory import faults, simulate
from laboratory.checks import at_end
from laboratory.cut import Cut
from laboratory.evidence import Evidence
from laboratory.scenario import scenario
from laboratory.shrink import shrink, violation
from laboratory.story import tell
from laboratory.world import Violation


def _no_rank_may_be_lost(evidence: Evidence, rank: int, outcome: Outcome) -> None:
    if outcome.kind == outcomes.LOST:
        raise Violation(f"rank {rank} is lost")


@pytest.fixture(scope="module")
def failing_seed() -> Iterator[int]:
    """A seed of several ranks and faults that violates a rule that no cluster can keep."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(at_end, "ALL", (_no_rank_may_be_lost,))
    for seed in range(1, 200):
        made = scenario(seed)
        harmless = cuts.apply(Cut(faults=()), scenario(seed))
        is_small = 2 < made.spec.ranks < 9 and len(made.faults) > 2
        if is_small and violation(seed, made) and not violation(seed, harmless):
            yield seed
            break
    monkeypatch.undo()


def test_smallest_scenario_needs_all_of_its_faults_and_is_run_again(
    failing_seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    smallest = shrink(failing_seed)
    assert smallest is not None
    assert smallest.faults
    for fault in smallest.faults:
        fewer = smallest._replace(faults=tuple([other for other in smallest.faults if other != fault]))
        assert not violation(failing_seed, cuts.apply(fewer, scenario(failing_seed)))
    assert simulate.main(["--seed", str(failing_seed), "--shrink"]) == 1
    told = capsys.readouterr().out
    again = f"python -m laboratory.simulate --seed {failing_seed} --cut {smallest} --story"
    assert told.endswith(f"\nagain: {again}\n")
    assert simulate.main(again.split()[3:]) == 1
    assert "violation: rank" in capsys.readouterr().out


def test_a_seed_that_does_not_fail_is_not_shrunk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(at_end, "ALL", ())
    assert shrink(1) is None
    assert simulate.main(["--seed", "1", "--shrink"]) == 0
    assert "nothing to shrink" in capsys.readouterr().out


def test_tried_cuts_are_reported(failing_seed: int) -> None:
    tried: list[tuple[Cut, bool]] = []
    smallest = shrink(failing_seed, lambda cut, fails: tried.append((cut, fails)))
    assert [cut for cut, fails in tried if fails][-1] == smallest


def test_story_names_faults_and_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_end, "ALL", ())
    made = scenario(2, kinds=(faults.BY_NAME["dead"], faults.BY_NAME["kill"]))
    lines, right = tell(2, made)
    assert right
    told = "\n".join(lines)
    assert lines[0].startswith(f"seed 2: {made.spec.ranks} ranks, fan-out")
    assert "fault 0: dead" in told
    assert "fault dead" in told
    assert "... " in told
    assert "ranks: lost: " in told


def test_trace_has_every_event_and_the_story_fewer() -> None:
    everything, _ = tell(2, scenario(2), everything=True)
    story, _ = tell(2, scenario(2))
    assert len(story) < len(everything)


def test_command_refuses_what_it_cannot_do(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--seeds", "1-2", "--story"], ["--seed", "1", "--cut", "x"], ["--seeds", "a-b"]):
        with pytest.raises(SystemExit):
            simulate.main(wrong)
    assert "--cut x: 'x' is none of" in capsys.readouterr().err
