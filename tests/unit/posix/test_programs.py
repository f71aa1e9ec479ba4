"""Programs of gexec that gexecd executes: isolated, and from the package that is running."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gexec.gexecd.rereading import rereading_command
from gexec.posix import programs, runner
from gexec.settings.config import GexecdSettings

#: The command that reads a key again, of a file that does not exist.
COMMAND = rereading_command(GexecdSettings(public_keys=("/no/key",)), ("node1",), {}, None, ())


def test_a_program_gets_its_arguments_and_returns_its_status() -> None:
    assert programs.command("gexec.gexecd.rereading", *COMMAND[-1:]) == COMMAND
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "/no/key" in done.stderr


def test_the_environment_and_the_directory_name_no_other_package(tmp_path: Path) -> None:
    (tmp_path / "gexec").mkdir()
    (tmp_path / "gexec" / "__init__.py").write_text("raise SystemExit('another package')\n")
    env = {"PYTHONPATH": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(COMMAND, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "/no/key" in done.stderr


def test_the_running_package_comes_before_an_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/another/place", *sys.path])
    assert runner.run("gexec.gexecd.rereading", COMMAND[-1:]) == 1
    assert sys.path[0] == str(Path(runner.__file__).parents[2])
