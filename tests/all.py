"""Run all tests, as `make test` does: those of the system with the wheel, all others with the sources.

Usage: python tests/all.py [ARGUMENTS OF PYTEST]

Two runs of pytest, with the same arguments. The second has the interpreter, the packages and the
commands of build/wheel-env (packaging/wheel_environment.py): what it starts has what a node has.
pytest itself is not in there: the test process, and only it, takes it from this interpreter's packages.

Ends with a line of both runs' totals, in pytest's form. Exit status: pytest's; 5, no test was
selected, only if that is so of both.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
WHEEL_BIN = ROOT / "build" / "wheel-env" / "bin"
#: Of the second run's environment: the wheel that it tests. tests/system/test_wheel.py skips without.
VARIABLE = "GEXEC_TEST_WHEEL"
RESULTS = ROOT / "build" / "test-results"
#: The argument is a directory with more packages; after those of the interpreter, so these are preferred.
_PYTEST = "import sys; sys.path.append(sys.argv.pop(1)); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
#: Exit statuses of pytest: tests failed; nothing was selected. Others than these and 0 end all at once.
FAILED, NOTHING = 1, 5


class Totals(NamedTuple):
    """What a run of pytest counted. An error is one of a fixture, say."""

    failed: int = 0
    passed: int = 0
    skipped: int = 0
    errors: int = 0
    elapsed_s: float = 0.0


def main(arguments: Sequence[str]) -> int:
    """Run both parts; return the exit status."""
    shutil.rmtree(RESULTS, ignore_errors=True)
    RESULTS.mkdir(parents=True)
    [wheel] = (ROOT / "build" / "wheel").glob("gexec-*.whl")
    path = os.environ["PATH"].split(":")
    installed = os.environ | {
        VARIABLE: str(wheel),
        "PATH": ":".join([str(WHEEL_BIN), *(one for one in path if one != str(Path(sys.executable).parent))]),
    }
    parts = (
        ([sys.executable, "-m", "pytest", "tests/unit", "tests/simulation"], dict(os.environ)),
        (
            [str(WHEEL_BIN / "python"), "-c", _PYTEST, sysconfig.get_path("purelib"), "tests/system"],
            installed,
        ),
    )
    statuses, totals = [], []
    for number, (command, environment) in enumerate(parts):
        results = RESULTS / f"{number}.xml"
        command += ["--junitxml", str(results), *arguments]
        statuses.append(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)
        totals.append(totals_of(results))
        if statuses[-1] not in (0, FAILED, NOTHING):
            return statuses[-1]
    print(closing_line(totals), flush=True)
    return status_of(statuses)


def totals_of(results: Path) -> Totals:
    """Return what a run counted, from the file that it wrote; nothing if it wrote none."""
    try:
        suites = ElementTree.parse(results).getroot().iter("testsuite")
    except FileNotFoundError:
        return Totals()
    [suite] = suites
    failed, skipped, errors = (int(suite.get(name, 0)) for name in ("failures", "skipped", "errors"))
    passed = int(suite.get("tests", 0)) - failed - skipped - errors
    return Totals(failed, passed, skipped, errors, float(suite.get("time", 0)))


def closing_line(totals: Sequence[Totals]) -> str:
    """Return one line as pytest ends with, of all runs together."""
    both = Totals(*map(sum, zip(*totals, strict=True)))
    counts = [f"{value} {name}" for name, value in zip(Totals._fields[:4], both, strict=False) if value]
    return f" {', '.join(counts) or 'no tests ran'} in {both.elapsed_s:.2f}s ".center(80, "=")


def status_of(statuses: Sequence[int]) -> int:
    """Return the exit status for those of the runs."""
    selected = [status for status in statuses if status != NOTHING]
    return max(selected, default=NOTHING)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
