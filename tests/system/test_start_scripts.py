"""No command reads Python code that another user, or the environment, could have put in its way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import BIN, DEADLINE_S

COMMANDS = sorted(path.name for path in (Path(__file__).parents[2] / "scripts").iterdir())
_EVIL = """
import os
os.close(os.open(os.path.join({place!r}, "ran-" + {name!r}), os.O_CREAT | os.O_WRONLY))
"""


@pytest.fixture
def place() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="gxp", dir="/tmp"))
    yield place
    shutil.rmtree(place)


def traps(place: Path) -> dict[str, str]:
    """Put code everywhere where Python looks if it may; return the environment that leads there."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    home = place / "home/.local/lib" / version / "site-packages"
    for folder, names in (
        (place / "path", ["sitecustomize", "usercustomize", "argparse", "json", "gexec/__init__"]),
        (place / "cwd", ["argparse", "json", "sitecustomize", "gexec/__init__"]),
        (home, ["usercustomize", "gexec/__init__"]),
        (place / "start", ["startup"]),
    ):
        for name in names:
            path = folder / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(_EVIL.format(place=str(place), name=f"{folder.name}-{name.replace('/', '-')}"))
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(place / "home"),
        "PYTHONPATH": f"{place}/path:",
        "PYTHONSTARTUP": str(place / "start/startup.py"),
        "PYTHONHOME": str(place / "nothing"),
        "PYTHONUSERBASE": str(place / "home/.local"),
        "PYTHONINSPECT": "1",
        "PYTHONPLATLIBDIR": "nothing",
        "BASH_ENV": str(place / "shell"),
        "ENV": str(place / "shell"),
    }


def ran(place: Path) -> list[str]:
    return sorted(path.name for path in place.glob("ran-*"))


@pytest.mark.parametrize("is_linked", [False, True], ids=["itself", "by a link"])
@pytest.mark.parametrize("name", COMMANDS)
def test_attack_107_code_from_the_environment_or_the_directory(
    place: Path, name: str, is_linked: bool
) -> None:
    env = traps(place)
    (place / "shell").write_text(f"touch {place}/ran-shell\n")
    program = BIN / name
    if "-I" not in program.read_text():
        pytest.skip(f"{program} is of older sources: run `make compiled`")
    if is_linked:
        (place / name).symlink_to(program)
        program = place / name
    done = subprocess.run(
        [program, "--help"],
        env=env, cwd=place / "cwd", capture_output=True, text=True, timeout=DEADLINE_S,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage" in done.stdout.lower()
    assert ran(place) == []


def test_attack_107_traps_work_where_python_may_look(place: Path) -> None:
    """Else the test above would show nothing."""
    env = traps(place)
    del env["PYTHONHOME"], env["PYTHONINSPECT"], env["PYTHONPLATLIBDIR"]
    code = "import argparse, gexec"
    words = [sys.executable, "-c", code]
    subprocess.run(words, env=env, cwd=place / "cwd", check=True, timeout=DEADLINE_S)
    assert {"ran-path-sitecustomize", "ran-cwd-gexec-__init__", "ran-cwd-argparse"} <= set(ran(place))


def test_a_command_without_a_python_beside_it_has_a_reason(place: Path) -> None:
    shutil.copy(Path(__file__).parents[2] / "scripts/gexec", place / "gexec")
    done = subprocess.run([place / "gexec"], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == 127
    assert done.stderr == (
        f"gexec: there is no Python beside {place}/gexec: install gexec into a virtual environment\n"
    )
