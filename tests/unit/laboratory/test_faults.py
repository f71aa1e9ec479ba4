"""The modules of faults and checks, and the page that lists them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from laboratory import faults
from laboratory.faults.kind import FaultKind
from laboratory.scenario import scenario
from laboratory.simulator import Simulation

ROOT = Path(__file__).resolve().parents[3]
#: What is no fault or invariant itself.
FRAMES = {"__init__", "kind", "at_end"}


def _modules(folder: str) -> list[Path]:
    paths = (ROOT / "laboratory" / folder).glob("*.py")
    return sorted(path for path in paths if path.stem not in FRAMES)


@pytest.mark.parametrize("folder", ["faults", "checks"])
def test_page_has_every_module(folder: str) -> None:
    page = " ".join((ROOT / "docs" / "reliability.md").read_text().split())
    for path in _modules(folder):
        told = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0]
        assert f"- `{path.stem}`: {' '.join(told.split())}" in page


def test_every_fault_is_registered_under_its_name() -> None:
    assert [kind.name for kind in faults.ALL] == [path.stem for path in _modules("faults")]
    assert all(kind.weight or kind.chance for kind in faults.ALL)


@pytest.mark.parametrize("kind", faults.ALL, ids=lambda kind: kind.name)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_job_with_only_this_fault(kind: FaultKind, seed: int) -> None:
    made = scenario(seed, kinds=(kind,))
    assert {fault.kind for fault in made.faults} <= set(faults.BY_NAME)
    Simulation(seed, made).run()
