"""How `make test` runs everything (tests/all.py), shown with a project of a few tests."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_TESTS = """
import os
import sys

import pytest


def test_surroundings():
    wheel, bin = os.environ.get("GEXEC_TEST_WHEEL", ""), os.path.dirname(sys.executable)
    assert (wheel, bin) == {expected}
    assert os.environ["PATH"].split(":").count({other}) == 0


@pytest.mark.skip(reason="always")
def test_skipped():
    pass


def test_wrong():
    assert "{part}" == ""


@pytest.fixture
def fault():
    raise OSError


def test_error(fault):
    pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Four tests in each part; the wheel's environment has another interpreter, which has no pytest."""
    bin = tmp_path / "build/wheel-env/bin"
    wheel = tmp_path / "build/wheel/gexec-1.whl"
    ours = str(Path(sys.executable).parent)
    for part, expected, other in (
        ("unit", ("", ours), str(bin)),
        ("simulation", ("", ours), str(bin)),
        ("system", (str(wheel), str(bin)), ours),
    ):
        (tmp_path / "tests" / part).mkdir(parents=True)
        text = _TESTS.format(expected=expected, other=repr(other), part=part)
        (tmp_path / f"tests/{part}/test_{part}.py").write_text(text)
    shutil.copy(ROOT / "tests/all.py", tmp_path / "tests")
    bin.mkdir(parents=True)
    (bin / "python").symlink_to(os.path.realpath(sys.executable))
    wheel.parent.mkdir()
    wheel.touch()
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    return tmp_path


def run(project: Path, *arguments: str) -> tuple[int, str]:
    """Run the project's tests; return the exit status and the last line, without its time."""
    done = subprocess.run(
        [sys.executable, project / "tests/all.py", *arguments],
        env=os.environ
        | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # it starts in half the time
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    last = (done.stdout.splitlines() or [""])[-1]
    return done.returncode, re.sub(r" in [\d.]+s =+$", "", last).lstrip("= ")


def test_system_tests_have_the_wheels_interpreter_and_the_others_ours(project: Path) -> None:
    assert run(project, "-k", "surroundings or skipped") == (0, "3 passed, 3 skipped")


def test_the_last_line_and_the_status_are_about_both_runs(project: Path) -> None:
    assert run(project) == (1, "3 failed, 3 passed, 3 skipped, 3 errors")
    assert run(project, "-k", "(test_wrong and unit) or test_skipped") == (1, "1 failed, 3 skipped")


def test_one_part_may_have_nothing_selected_but_not_both(project: Path) -> None:
    assert run(project, "-k", "test_system.py and surroundings") == (0, "1 passed")
    assert run(project, "-k", "nothing") == (5, "no tests ran")


def test_wrong_arguments_are_reported_once(project: Path) -> None:
    assert run(project, "--no-such-option") == (4, "")
