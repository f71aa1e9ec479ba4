"""What `gexecctl doctor` says about the host: units, files, the relay's user and running relays."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gexec.cluster import inspection
from gexec.cluster.findings import OK, PROBLEM, WARNING, Finding
from gexec.posix import cgroups, identity

UNITS = Path(__file__).parents[3] / "packaging/systemd"


def texts(findings: Iterator[Finding], level: str) -> list[str]:
    return [str(finding) for finding in findings if finding.level == level]


def test_our_units_are_as_expected() -> None:
    found = list(inspection.units([str(UNITS)]))
    assert [finding.level for finding in found] == [OK, OK]


def test_no_units_are_no_finding(tmp_path: Path) -> None:
    assert list(inspection.units([str(tmp_path)])) == []
    assert not inspection.is_installed([str(tmp_path)]) or Path("/etc/gexec").is_dir()


def test_units_that_were_changed(tmp_path: Path) -> None:
    first, second = tmp_path / "etc", tmp_path / "lib"
    for place in (first, second):
        place.mkdir()
        for unit in UNITS.glob("*.service"):
            (place / unit.name).write_text(unit.read_text())
    drop_in = first / "gexecd.service.d"
    drop_in.mkdir()
    (drop_in / "own.conf").write_text(
        "[Service]\nKillMode=mixed\n# ProtectHome=yes\nNoNewPrivileges=yes\nDelegate=no\n"
    )
    text = (first / "authd.service").read_text()
    (first / "authd.service").write_text(
        text.replace("PrivateNetwork=yes\n", "").replace("CapabilityBoundingSet=\n", "")
    )
    (second / "authd.service").write_text("")  # not in force
    found = texts(inspection.units([str(first), str(second)]), WARNING)
    assert len(found) == 3
    assert "gexecd.service lacks KillMode=process, Delegate=pids: copy packaging/systemd/" in found[0]
    assert "gexecd.service sets NoNewPrivileges, which all jobs inherit" in found[1]
    assert "authd.service lacks CapabilityBoundingSet=, PrivateNetwork=yes: copy" in found[2]


@pytest.mark.parametrize(
    ("setting", "is_divided", "level", "text"),
    [
        ("auto", True, OK, "each command is in a control group of its own"),
        ("none", False, OK, "commands have no control groups of their own (control_group = none)"),
        ("auto", False, WARNING, "set Delegate=pids in gexecd.service"),
    ],
)
def test_commands_have_control_groups_or_not(
    monkeypatch: pytest.MonkeyPatch, setting: str, is_divided: bool, level: str, text: str
) -> None:
    uids = {"5": "0\t0\t0\t0", "7": "0\t0\t0\t0", "9": "1000\t1000\t1000\t1000"}
    starters = [{"Pid": pid, "PPid": "4", "Uid": uid} for pid, uid in uids.items()]
    monkeypatch.setattr(inspection, "_processes", lambda: iter([("gexecd-starter", one) for one in starters]))
    monkeypatch.setattr(inspection, "_is_executed", lambda pid: pid != 7)  # a local cluster's
    monkeypatch.setattr(cgroups, "is_divided", lambda pid: is_divided)
    [finding] = inspection.cells(setting)
    assert finding.level == level
    assert text in str(finding)


@pytest.mark.root
def test_files_that_others_could_change(tmp_path: Path) -> None:
    for name in ("fine", "open", "theirs"):
        (tmp_path / name).touch()
    assert [finding.level for finding in inspection.files([str(tmp_path / "fine"), "/no/such"])] == [OK]
    (tmp_path / "open").chmod(0o666)
    os.chown(tmp_path / "theirs", 54321, 54321)
    found = texts(inspection.files([str(tmp_path / name) for name in ("fine", "open", "theirs")]), PROBLEM)
    assert found == [
        f"problem  other users may write to {tmp_path}/open: run `chmod go-w {tmp_path}/open`",
        f"problem  {tmp_path}/theirs belongs to uid 54321, not to root: run `chown root {tmp_path}/theirs`",
    ]
    tmp_path.chmod(0o777)
    assert len(texts(inspection.files([str(tmp_path / "fine")]), PROBLEM)) == 1


def test_a_relays_user_that_is_missing_or_unfit() -> None:
    for name, said in (("no-such-user", "create it with `useradd"), ("root", "is root")):
        [finding] = inspection.relay_user(name)
        assert finding.level == PROBLEM
        assert said in finding.text


@pytest.mark.root
def test_a_relays_user_that_has_more() -> None:
    daemon = pwd.getpwnam("daemon")
    with _child(daemon.pw_uid):
        found = texts(inspection.relay_user("daemon"), WARNING)
    assert any("the relay's user daemon also runs " in text for text in found), found
    assert any("waiting" in text for text in found)


def test_a_running_process_that_is_no_confined_relay() -> None:
    with _child(None, title=inspection.RELAY):
        [finding] = inspection.relays({os.getpid()})
    assert finding.level == PROBLEM
    assert "may gain privileges (no_new_privs is not set)" in finding.text
    assert ("runs as root" in finding.text) == (os.geteuid() == 0)
    assert list(inspection.relays({os.getpid()})) == []


def test_the_clock_has_one_finding() -> None:
    assert len(list(inspection.clock())) <= 1


@contextmanager
def _child(uid: int | None, title: str = "waiting") -> Iterator[int]:
    reading, writing = os.pipe()
    told, tells = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(writing)
            identity.set_title(title)
            if uid is not None:
                os.setresuid(uid, uid, uid)
            os.write(tells, b"1")
            os.read(reading, 1)
        finally:
            os._exit(0)
    try:
        assert os.read(told, 1) == b"1"
        yield pid
    finally:
        for fd in (reading, writing, told, tells):
            os.close(fd)
        os.waitpid(pid, 0)
