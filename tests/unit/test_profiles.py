"""Examples of property tests: the same in each run, fresh ones each night, and what fails is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_PROPERTY = """
import traceback
import tests.conftest
from hypothesis import given, strategies

seen = []

@given(strategies.integers(0, 2**64))
def test(number):
    seen.append(number)
    assert number < 900

try:
    test()
except AssertionError:
    traceback.print_exc()
print(seen)
"""


def tried(profile: str) -> tuple[list[str], str]:
    """Return the examples that a run of a property test tries, and what it prints when it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "HYPOTHESIS_PROFILE"}
    environment |= {"HYPOTHESIS_PROFILE": profile} if profile else {}
    done = subprocess.run(
        [sys.executable, "-c", _PROPERTY],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.stdout, done.stderr
    return done.stdout.split(), done.stderr


def test_a_run_tries_the_same_examples_as_the_last_one() -> None:
    assert tried("") == tried("")


def test_a_nightly_run_tries_others_and_prints_the_one_that_fails() -> None:
    first, said = tried("nightly")
    again, _ = tried("nightly")
    assert first != again
    assert re.search(r"number=900\b", said)
    assert "@reproduce_failure(" in said


@pytest.mark.parametrize("target", ["check", "test", "nightly"])
def test_make_help_has_what_runs_tests(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:.*## \S", makefile, re.MULTILINE)
    assert f"make {target} " in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
