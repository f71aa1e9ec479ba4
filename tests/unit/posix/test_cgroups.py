"""Control groups: where they may be made, and whose processes are in them."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import pytest

from gexec import native
from gexec.errors import ConfigError
from gexec.posix import cgroups, descendants
from gexec.posix.cgroups import CellTree


@pytest.mark.skipif(native.in_use(), reason="compiled code takes no stand-in for its paths")
def test_settings_decide_where_groups_may_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cgroups.divisible("none") == ("", "the settings forbid it")
    with pytest.raises(ConfigError, match="control_group = '/tmp': it is no group of cgroup v2"):
        cgroups.divisible("/tmp")
    for name in ("cgroup.procs", "cgroup.type"):
        (tmp_path / name).touch()
    assert cgroups.divisible(str(tmp_path)) == (str(tmp_path), "")
    own = tmp_path / "unit" / "daemons"
    own.mkdir(parents=True)
    monkeypatch.setattr(cgroups, "_mount", lambda: (str(tmp_path), "/"))
    monkeypatch.setattr(cgroups, "_path_of", lambda pid: "/unit/daemons")
    marked: list[str] = []
    monkeypatch.setattr(cgroups, "_is_delegated", lambda directory: directory in marked)
    assert cgroups.divisible("auto")[1].startswith("systemd has delegated none to gexecd")
    marked.append(str(own.parent))  # DelegateSubgroup=daemons
    assert cgroups.divisible("auto") == (str(own.parent), "")
    marked.append(str(own))
    assert cgroups.divisible("auto") == (str(own), "")
    # In a container the mount shows a part of the hierarchy.
    monkeypatch.setattr(cgroups, "_mount", lambda: (str(tmp_path), "/box"))
    monkeypatch.setattr(cgroups, "_path_of", lambda pid: "/box/unit/daemons")
    assert cgroups.divisible("auto") == (str(own), "")
    monkeypatch.setattr(cgroups, "_mount", lambda: int("none"))
    assert cgroups.divisible("auto") == ("", "cgroup v2 is not mounted")


@pytest.mark.skipif(native.in_use(), reason="compiled code takes no stand-in for its paths")
def test_the_cell_of_a_process_is_in_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cgroups.cell_of(os.getpid()) == ""
    for path, cell in (
        ("/system.slice/gexecd.service/jobs/12.34.5", "12.34.5"),
        ("/jobs/12.34.5/of-its-own", "12.34.5"),
        ("/system.slice/gexecd.service/jobs", ""),
        ("/", ""),
    ):
        monkeypatch.setattr(cgroups, "_path_of", lambda pid, path=path: path)
        assert cgroups.cell_of(1) == cell
    monkeypatch.setattr(cgroups, "_path_of", lambda pid: int("gone"))
    assert cgroups.cell_of(1) == ""


def test_a_thread_belongs_to_its_process() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(descendants.process_of(threading.get_native_id())))
    thread.start()
    thread.join()
    assert found == [os.getpid()]
    with subprocess.Popen(["true"]) as process:
        pass
    with pytest.raises(OSError, match=str(process.pid)):
        descendants.process_of(process.pid)


@pytest.mark.root
def test_what_is_in_a_cell_is_found_and_ended() -> None:
    try:
        group = Path(cgroups._mount()[0], f"gexec-test-unit-{os.getpid()}")
        group.mkdir()
    except (OSError, ValueError) as error:
        pytest.skip(f"needs a cgroup v2 in which groups can be made: {error}")
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _use(str(group))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert list(group.glob("*/")) == [group / "jobs"]
    (group / "jobs").rmdir()
    group.rmdir()


def _use(group: str) -> None:
    tree = CellTree(group)
    home, fd = tree.home(), tree.make("1.2.3")
    assert cgroups.members(fd) == b""
    os.write(fd, b"0")
    # Its first thread has ended, and another one runs: it is a process all the same.
    program = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(99,)).start()"
    sleepers = [
        subprocess.Popen(["/bin/sleep", "99"]),
        subprocess.Popen(["/usr/bin/env", "python3", "-c", f"{program}; ctypes.CDLL(None).syscall(60, 0)"]),
    ]
    os.write(home, b"0")
    assert [cgroups.cell_of(process.pid) for process in sleepers] == ["1.2.3", "1.2.3"]
    assert cgroups.members(fd)
    assert tree.names() == ["1.2.3"]
    assert not tree.remove("1.2.3")
    assert not tree.is_left("1.2.3")
    tree.leave("1.2.3")
    assert tree.is_left("1.2.3")
    assert not tree.end("1.2.3")
    assert [process.wait() for process in sleepers] == [-9, -9]
    assert tree.end("1.2.3")
    assert tree.names() == []
    assert tree.remove("1.2.3")
    assert not tree.is_left("1.2.3")
    Path(f"{os.path.dirname(group)}/cgroup.procs").write_text("0")
