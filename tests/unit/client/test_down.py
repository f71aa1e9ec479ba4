"""The memory of nodes that could not be reached: what is kept, how long, and whose file it is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gexec import limits
from gexec.client.down import lately_down, remember


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gexec" / "down"


def test_a_node_is_remembered_until_it_is_reached(cache: Path) -> None:
    remember(["Node1", "node2", "node3"], ["node4"])
    assert lately_down() == {"node1", "node2", "node3"}
    remember(["node5"], ["node1", "node9"])
    assert lately_down() == {"node2", "node3", "node5"}
    remember([], ["NODE2", "node3", "node5"])
    assert lately_down() == set()
    assert os.listdir(cache.parent) == []


def test_a_success_touches_nothing(cache: Path) -> None:
    remember([], ["node1"])
    assert not cache.parent.exists()
    remember(["node1"], [])
    before = cache.stat()
    remember([], ["node2"])
    assert cache.stat() == before


def test_what_is_old_or_from_the_future_is_forgotten(cache: Path) -> None:
    cache.parent.mkdir(parents=True, mode=0o700)
    now = int(time.time())
    cache.write_text(
        f"{now - 100} recent\n{now - int(limits.DOWN_FORGET_S) - 1} old\n{now + 3600} ahead\n"
        f"nonsense\n{now}\n{now} \n-1 x\n{'9' * 30} y\n"
    )
    assert lately_down() == {"recent"}
    remember(["new"], [])
    assert [line.split()[1] for line in cache.read_text().splitlines()] == ["recent", "new"]


def test_it_stays_small(cache: Path) -> None:
    remember(["first"], [])
    text = cache.read_text()
    cache.write_text(text.replace(text.split()[0], str(int(text.split()[0]) - 5)))
    remember([f"node{number}" for number in range(limits.DOWN_NODES_MAX)], [])
    assert len(lately_down()) == limits.DOWN_NODES_MAX
    assert "first" not in lately_down()


def test_only_this_users_own_folder_is_used(cache: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    cache.parent.parent.mkdir(mode=0o700)
    cache.parent.symlink_to(target)
    remember(["node1"], [])
    assert list(target.iterdir()) == []
    assert lately_down() == set()
    cache.parent.unlink()
    cache.parent.mkdir()
    cache.parent.chmod(0o777)
    remember(["node1"], [])
    assert not cache.exists()


def test_a_link_in_its_place_is_replaced_not_followed(cache: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text(f"{int(time.time())} planted\n")
    cache.parent.mkdir(parents=True, mode=0o700)
    cache.symlink_to(victim)
    assert lately_down() == set()
    remember(["node1"], [])
    assert victim.read_text().endswith(" planted\n")
    assert lately_down() == {"node1"}
    (cache.parent / f"down.{os.getpid()}").symlink_to(victim)  # a draft's name is not followed either
    remember(["node2"], [])
    assert victim.read_text().endswith(" planted\n")


def test_a_fifo_or_a_folder_in_its_place_is_no_reason_to_wait_or_fail(cache: Path) -> None:
    cache.parent.mkdir(parents=True, mode=0o700)
    os.mkfifo(cache)
    assert lately_down() == set()
    remember(["node1"], [])
    assert lately_down() == {"node1"}
    cache.unlink()
    cache.mkdir()
    assert lately_down() == set()
    remember(["node1"], [])


@pytest.mark.parametrize("home", ["relative", "./.", "~"])
def test_a_home_that_is_no_path_is_no_home(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/too")
    monkeypatch.setenv("HOME", home)
    monkeypatch.chdir(tmp_path)
    remember(["node1"], [])
    assert lately_down() == set()
    assert list(tmp_path.iterdir()) == []


def test_a_draft_that_cannot_be_written_is_not_left(cache: Path) -> None:
    remember(["node1"], [])
    program = (
        "import resource, signal; from gexec.client.down import remember\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30))\n"
        "remember(['node2', 'node3'], [])"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert os.listdir(cache.parent) == ["down"]
    assert lately_down() == {"node1"}


@pytest.mark.root
def test_root_writes_into_nobody_elses_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(home))
    remember(["node1"], [])
    assert list(home.iterdir()) == []
