"""The environment that system tests run in follows the sources; a small gexec is installed here, for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LOOK = "import gexec, sys; print(gexec.__file__, gexec.WHAT, sys.prefix)"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project of one module, which needs no packages."""
    for name in ("packaging/wheel_environment.py", "packaging/wheel_hook.py", "pyproject.toml", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "LICENSE", tmp_path)
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements/runtime.txt").write_text("# nothing\n")
    (tmp_path / "src/gexec").mkdir(parents=True)
    for name in ("native.py", "version.py"):
        shutil.copy(ROOT / "src/gexec" / name, tmp_path / "src/gexec")
    (tmp_path / "src/gexec/__init__.py").write_text("WHAT = 1\n")
    return tmp_path


def make(tree: Path) -> subprocess.CompletedProcess[str]:
    outer = getattr(sys, "_base_executable", sys.executable)
    return subprocess.run(
        [sys.executable, tree / "packaging/wheel_environment.py", outer],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def look(tree: Path) -> list[str]:
    """Return where the environment's gexec is, what it says, and the interpreter's prefix."""
    python = tree / "build/wheel-env/bin/python"
    done = subprocess.run([python, "-I", "-c", _LOOK], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.split()


def packages(tree: Path) -> Path:
    [found] = (tree / "build/wheel-env/lib").glob("python*/site-packages")
    return found


def test_it_follows_the_sources(tree: Path) -> None:
    done = make(tree)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    prefix = str(tree / "build/wheel-env")
    installed = packages(tree) / "gexec"
    assert look(tree) == [str(installed / "__init__.py"), "1", prefix]
    assert list((installed / "__pycache__").glob("version.*.pyc"))
    assert not (packages(tree) / "pip").exists()
    script = tree / "build/wheel-env/bin/gexecd"
    assert script.read_bytes() == (tree / "scripts/gexecd").read_bytes()  # it finds the Python beside it
    assert os.access(script, os.X_OK)

    before = (installed / "__init__.py").stat().st_ino
    packages(tree).joinpath("package_of_requirements").mkdir()
    assert make(tree).returncode == 0
    assert (installed / "__init__.py").stat().st_ino == before  # nothing changed, nothing was installed

    (tree / "src/gexec/__init__.py").write_text("WHAT = 2\n")
    (tree / "src/gexec/version.py").unlink()
    (tree / "src/gexec/added.py").write_text("")
    assert make(tree).returncode == 0
    assert look(tree)[1] == "2"
    assert not (installed / "version.py").exists()
    assert (installed / "added.py").exists()
    assert (packages(tree) / "package_of_requirements").exists()

    (tree / "requirements/runtime.txt").write_text("# still nothing\n")
    assert make(tree).returncode == 0
    assert not (packages(tree) / "package_of_requirements").exists()
    assert look(tree)[1] == "2"

    (tree / "README.md").unlink()
    done = make(tree)
    assert done.returncode == 1
    assert "README.md" in done.stderr
    assert look(tree)[1] == "2"  # sources that make no wheel leave the old one


def test_what_cannot_be_installed_is_reported_and_tried_again(tree: Path) -> None:
    (tree / "requirements/runtime.txt").write_text("./nothing-here\n")
    for _ in range(2):
        done = make(tree)
        assert done.returncode == 1
        assert "nothing-here" in done.stderr
        assert f"cannot make {tree}/build/wheel-env" in done.stderr
