"""A cluster's directory in which another user has put something."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from gexec.cluster import keypair
from gexec.cluster.layout import ClusterError, Layout, LocalNode, State
from gexec.cluster.ownership import read_own, refuse_foreign
from gexec.cluster.processes import Process
from gexec.errors import KeyFileError

SOMEBODY = 54321


@pytest.fixture
def place(tmp_path: Path) -> Layout:
    place = Layout(tmp_path / "cluster")
    place.create()
    for path in (place.hosts, place.lock, place.log("node001"), place.audit("node001"), place.private_key):
        path.write_text("x\n")
    State(1, Process(1, 1), Process(1, 1), [LocalNode("node001", "127.0.1.1")]).write(place)
    return place


def refused(place: Layout, *parts: str) -> None:
    with pytest.raises(ClusterError) as error:
        refuse_foreign(place.dir, ClusterError)
    for part in parts:
        assert part in str(error.value), error.value


def test_an_own_directory_is_fine_and_one_that_is_missing_too(place: Layout, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    refuse_foreign(place.dir, ClusterError)
    refuse_foreign(tmp_path / "not" / "yet", ClusterError)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["hosts", "lock", "logs/node001.log", "audit/node001.log", "run/n.sock"])
@pytest.mark.parametrize("kind", ["symbolic link", "fifo", "hard link"])
def test_attack_109_what_is_no_file_of_the_cluster(
    place: Layout, tmp_path: Path, name: str, kind: str
) -> None:
    victim, path = tmp_path / "victim", place.dir / name
    victim.write_text("precious")
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "hard link":
        path.hardlink_to(victim)
    else:
        path.symlink_to(victim)
    refused(place, str(path), "remove it, or choose another --dir")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["keys", "run", "logs", "audit"])
def test_attack_109_directory_that_is_a_link(place: Layout, tmp_path: Path, name: str) -> None:
    (place.dir / name).rename(tmp_path / "elsewhere")
    (place.dir / name).symlink_to(tmp_path / "elsewhere")
    refused(place, f"{place.dir / name}: expected a directory, not a link or file")


@pytest.mark.parametrize("name", [".", "keys", "run", "logs", "audit", ".."])
def test_attack_109_directory_that_others_may_write_to(place: Layout, name: str) -> None:
    path = place.dir / name
    path.chmod(0o777)
    refused(place, f"run `chmod go-w {path.resolve()}`")


@pytest.mark.root
@pytest.mark.parametrize(
    ("name", "what"),
    [("..", "directory"), (".", "directory"), ("keys", "directory"), ("hosts", ""), ("logs/node001.log", "")],
)
def test_attack_109_what_another_user_owns(place: Layout, name: str, what: str) -> None:
    path = place.dir / name
    os.chown(path, SOMEBODY, SOMEBODY)
    refused(place, what, str(path.resolve()), f"belongs to uid {SOMEBODY}")


@pytest.mark.root
def test_attack_109_directory_that_another_user_would_make_way_for(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, SOMEBODY, SOMEBODY)
    refused(Layout(theirs / "not" / "yet"), f"the directory {theirs} belongs to uid {SOMEBODY}")


def _theirs(place: Layout) -> None:
    os.chown(place.state, SOMEBODY, SOMEBODY)


def _fifo(place: Layout) -> None:
    place.state.unlink()
    os.mkfifo(place.state)


def _link(place: Layout) -> None:
    place.state.rename(place.dir / "other.json")
    place.state.symlink_to(place.dir / "other.json")


def _shared(place: Layout) -> None:
    place.dir.chmod(0o777)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param(_theirs, f"belongs to uid {SOMEBODY}", marks=pytest.mark.root),
        (_fifo, "is no regular file"),
        (_link, "cannot be read"),
        (_shared, "other users may write to the directory"),
    ],
)
def test_attack_109_state_that_another_user_could_have_written(
    place: Layout, change: Callable[[Layout], None], why: str
) -> None:
    """It names the processes that `cluster down` signals."""
    assert State.read(place) is not None
    change(place)
    with pytest.raises(ClusterError, match=why):
        State.read(place)


def test_a_missing_file_is_no_error(tmp_path: Path) -> None:
    assert read_own(tmp_path / "a" / "b", 10, ClusterError) is None
    (tmp_path / "a").write_text("0123456789")
    assert read_own(tmp_path / "a", 3, ClusterError) == b"0123"


@pytest.mark.root
def test_attack_109_key_pair_of_root_in_another_users_directory(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, SOMEBODY, SOMEBODY)
    with pytest.raises(KeyFileError, match=f"the directory {theirs} belongs to uid {SOMEBODY}"):
        keypair.create(theirs / "a", theirs / "b", "ed25519")
    assert os.listdir(theirs) == []
