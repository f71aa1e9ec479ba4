"""The node's spool, at gexecd's start."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gexec.gexecd.spooling import prepared, spool_path
from gexec.posix.log import Log
from gexec.settings.config import SPOOL, GexecdSettings


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log("gexecd", os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY))


def test_it_is_made_for_its_owner(tmp_path: Path, log: Log) -> None:
    path = tmp_path / "a" / "spool"
    spool = prepared(GexecdSettings(spool=str(path), spool_jobs_max=5, spool_max_mib=2), log)
    assert spool == (str(path), 5, 2 * 1024 * 1024, "")
    assert path.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
    assert prepared(GexecdSettings(spool=str(path)), log).directory == str(path)


def test_none_is_none(log: Log) -> None:
    assert prepared(GexecdSettings(spool=""), log).directory == ""


def test_an_ordinary_user_has_it_beside_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert spool_path(GexecdSettings(socket="/x/gexecd.sock")) == "/x/spool"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert spool_path(GexecdSettings(socket="/x/gexecd.sock")) == SPOOL


@pytest.mark.parametrize("kind", ["writable", "link", "file"])
def test_attack_134_a_spool_that_others_can_change_is_not_used(tmp_path: Path, log: Log, kind: str) -> None:
    path = tmp_path / "spool"
    if kind == "writable":
        path.mkdir()
        path.chmod(0o777)
    elif kind == "link":
        path.symlink_to(tmp_path)
    else:
        path.touch()
    spool = prepared(GexecdSettings(spool=str(path)), log)
    assert spool.directory == ""
    assert "in which nobody else may write" in spool.why
    assert "no background jobs are kept here" in (tmp_path / "log").read_text()


def test_attack_134_a_directory_above_it_that_others_can_change(tmp_path: Path, log: Log) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    spool = prepared(GexecdSettings(spool=str(tmp_path / "open" / "spool")), log)
    assert spool.directory == ""
    assert "chmod go-w" in spool.why
