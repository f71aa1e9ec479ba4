"""Real copies in which nodes, receivers and clients are killed: a few seeds of laboratory.copying."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: Six seeds take about 20 s; each has its own deadlines.
DEADLINE_S = 600.0


def copying(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "laboratory.copying", *words]
    return subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )


@pytest.mark.timeout(DEADLINE_S)
def test_whatever_ends_in_the_middle_files_are_old_or_new() -> None:
    before = set(Path("/tmp").glob("gxcopy*"))
    done = copying("--seeds", "0-5")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "6 seeds, " in done.stdout
    assert done.stdout.endswith(": 0 with findings\n")
    assert set(Path("/tmp").glob("gxcopy*")) <= before


def test_what_cannot_be_asked_for_is_a_usage_error() -> None:
    for words in (["--seeds", "a-b"], ["--faults", "fire"]):
        done = copying(*words)
        assert (done.returncode, done.stdout) == (2, "")
