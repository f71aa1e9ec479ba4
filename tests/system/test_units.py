"""The files for systemd, checked by its own tools."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import BIN, DEADLINE_S

PACKAGING = Path(__file__).parents[2] / "packaging"
#: As `systemd-analyze security` gave them with systemd 252, with room for the new checks of a later one.
EXPOSURE_MAX = {"authd.service": 1.5, "gexecd.service": 10.0}


def run(*words: object) -> str:
    if shutil.which(str(words[0])) is None:
        pytest.skip(f"needs {words[0]}")
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=DEADLINE_S)
    if "Failed to " in done.stderr and done.returncode:  # a container without what the tool needs
        pytest.skip(f"{words[0]} does not work here: {done.stderr.strip()[:200]}")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """Return the units, with commands that exist here."""
    made = []
    for unit in sorted((PACKAGING / "systemd").iterdir()):
        made.append(tmp_path / unit.name)
        made[-1].write_text(unit.read_text().replace("/usr/local/bin/", f"{BIN}/"))
    return made


def test_systemd_understands_every_line_of_the_units(units: list[Path]) -> None:
    said = run("systemd-analyze", "verify", "--man=no", *units)
    assert [line for line in said.splitlines() if any(unit.name in line for unit in units)] == []


@pytest.mark.parametrize("name", EXPOSURE_MAX)
def test_the_sandbox_is_as_tight_as_the_manual_says(units: list[Path], name: str) -> None:
    [unit] = [unit for unit in units if unit.name == name]
    said = run("systemd-analyze", "security", "--offline=yes", "--no-pager", unit)
    [exposure] = re.findall(rf"Overall exposure level for {name}: ([\d.]+)", said)
    assert float(exposure) <= EXPOSURE_MAX[name]
    assert float(exposure) <= 2.0 or name == "gexecd.service"


def test_sysusers_makes_a_user_that_cannot_log_in(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    for name in ("passwd", "group"):
        (etc / name).write_text("root:x:0:0::/root:/bin/sh\n" if name == "passwd" else "root:x:0:\n")
    file = PACKAGING / "sysusers.d" / "gexec.conf"
    run("systemd-sysusers", f"--root={tmp_path}", file)
    [line] = [line for line in (etc / "passwd").read_text().splitlines() if line.startswith("gexec:")]
    name, _, uid, gid, _, home, shell = line.split(":")
    assert 0 < int(uid) < 1000
    assert 0 < int(gid) < 1000
    assert (name, home, shell) == ("gexec", "/", "/usr/sbin/nologin")


def test_modes_of_all_files_of_the_package() -> None:
    for path in (*PACKAGING.rglob("*"), *(PACKAGING.parent / "scripts").iterdir()):
        mode = path.stat().st_mode & 0o7777
        assert mode & 0o7000 == 0, path  # no set-id, no sticky bit
        is_program = path.parent.name == "scripts"
        assert path.is_dir() or bool(mode & 0o111) == is_program, path
