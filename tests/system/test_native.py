"""Compiled daemons are daemons: the same jobs, the same traces; and interpreted ones when that is wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import gexec
from gexec import native

from .conftest import BIN, Cluster, program

SEEDS = range(1200, 1220)
#: Unit tests that start pytest or build wheels, and so need an interpreter that has what .venv has.
OF_TOOLS = ("test_native.py", "test_all_tests.py", "test_wheel_environment.py", "test_profiles.py")
_SIMULATE = """
import sys
from gexec import native
print(native.prefer())
from gexec.core import root
from laboratory.simulator import simulate
print(root.__file__.endswith(native.SUFFIX))
for seed in map(int, sys.argv[1:]):
    result = simulate(seed)
    print(seed, result.digest, result.events, result.ended_s, sorted(result.outcomes.items()))
"""


_TEST = """
import sys
from gexec import native
assert native.prefer()
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native.VARIABLE, raising=False)
    if not native.is_current(str(Path(gexec.__file__).parent)):
        pytest.skip("no compiled modules that fit the sources are here: `make native`")


def libraries(cluster: Cluster) -> dict[str, list[bool]]:
    """Tell of each node's spawner and relay, and of authd, whether it has the library mapped.

    Only root may look into a starter.
    """
    pids = {name: [process.pid for process in cluster.daemon(name)[:2]] for name in cluster.names}
    assert cluster.state.authd is not None
    pids["authd"] = [cluster.state.authd.pid]
    return {
        name: [native.LIBRARY in Path(f"/proc/{pid}/maps").read_text() for pid in family]
        for name, family in pids.items()
    }


@pytest.mark.parametrize("wanted", [True, False], ids=["compiled", "interpreted"])
def test_daemons_are_what_is_wanted_and_run_jobs(
    cluster_of: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch, wanted: bool
) -> None:
    if not wanted:
        monkeypatch.setenv(native.VARIABLE, "no")
    cluster = cluster_of(2)
    done = cluster.gexec("-p", "none", "sh", "-c", "cat; echo err >&2; exit 7", input=b"to all\n")
    assert (done.returncode, done.stdout) == (7, b"to all\n" * 2)
    assert done.stderr.count(b"err\n") == 2
    found = libraries(cluster)
    assert set(found) == {*cluster.names, "authd"}
    for name, mapped in found.items():
        assert mapped == [wanted] * len(mapped), name
        assert len(mapped) >= (1 if name == "authd" else 2)


def said(command: str, *words: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, BIN / command, *words],
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout


@pytest.mark.parametrize("command", ["gexecd", "authd"])
def test_daemons_say_what_they_are(command: str) -> None:
    assert said(command, "-V") == f"{command} {gexec.__version__} (compiled)\n"
    assert (
        said(command, "-V", env={native.VARIABLE: "no"}) == f"{command} {gexec.__version__} (interpreted)\n"
    )


def test_the_doctor_says_what_daemons_are_here() -> None:
    assert f"gexec {gexec.__version__} (compiled)" in said("gexecctl", "doctor")
    assert f"gexec {gexec.__version__} (interpreted)" in said(
        "gexecctl", "doctor", env={native.VARIABLE: "no"}
    )


def test_simulated_jobs_leave_the_same_traces() -> None:
    told = {}
    for wanted in (True, False):
        done = subprocess.run(
            [sys.executable, "-c", _SIMULATE, *map(str, SEEDS)],
            env=os.environ | ({} if wanted else {native.VARIABLE: "no"}),
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        preferred, compiled, *told[wanted] = done.stdout.splitlines()
        assert (preferred, compiled) == (str(wanted), str(wanted))
    assert len(told[True]) == len(SEEDS)
    assert told[True] == told[False]


@pytest.mark.timeout(600)
def test_unit_tests_pass_with_compiled_modules() -> None:
    units = Path(__file__).parents[1] / "unit"
    options = ["-q", "-p", "no:cacheprovider", *(f"--ignore={units / name}" for name in OF_TOOLS)]
    done = subprocess.run(
        [*program(_TEST), str(units), *options],
        cwd=units.parents[1],
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]
