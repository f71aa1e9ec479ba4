"""gexecctl doctor accepts every environment variable that the manuals document."""

from __future__ import annotations

import re
from pathlib import Path

from gexec.cluster.doctor import KNOWN_VARIABLES

ROOT = Path(__file__).resolve().parents[3]
#: Names of fields in the journal, which are no variables.
FIELDS = {"GEXEC_EVENT"}


def named_in(paths: list[Path]) -> set[str]:
    return {name for path in paths for name in re.findall(r"\bGEXEC_[A-Z_]*[A-Z]\b", path.read_text())}


def test_every_documented_variable_is_known() -> None:
    documented = named_in([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    assert {"GEXEC_SSH", "GEXEC_TRACEBACK"} <= documented
    assert documented - set(KNOWN_VARIABLES) - FIELDS == set()


def test_every_known_variable_is_used() -> None:
    used = named_in([path for path in (ROOT / "src/gexec").rglob("*.py") if path.name != "doctor.py"])
    assert set(KNOWN_VARIABLES) - used == set()
