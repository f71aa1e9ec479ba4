"""How tasks become their user: groups, limits and keys of real accounts, in a real spawner."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gexec.security.policy import Policy
from gexec.wire.outcome import EXITED, Outcome

from .etc import Etc
from .test_spawner import Rig, gone

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: tasks of other users")


@pytest.fixture
def etc(tmp_path: Path) -> Etc:
    directory = tmp_path / "etc"
    directory.mkdir()
    return Etc(directory)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def made(**options: Any) -> Rig:
        directory = tmp_path / str(len(rigs))
        directory.mkdir()
        # Account facts are read for each job, so that changes count at once.
        rigs.append(Rig(directory, **{"account_s": 0.0, "policy": Policy(), **options}))
        return rigs[-1]

    yield made
    assert [rig.close() for rig in rigs] == [0] * len(rigs)


@needs_root
@pytest.mark.root
def test_attack_28_groups_of_an_earlier_job_are_not_left_over(make: Callable[..., Rig], etc: Etc) -> None:
    """The user leaves a group between two jobs, in the account database itself."""
    ann = etc.add_user("ann", groups=("crew", "oldcrew"))
    rig = make(etc=etc)
    long = rig.sh("echo up; read line; id -Gn", user=ann)
    assert long.line() == b"up"
    assert set(rig.sh("id -Gn", user=ann).output().split()) == {b"ann", b"crew", b"oldcrew"}
    etc.set_groups("ann", ("crew", "newcrew"))
    assert set(rig.sh("id -Gn; id -Gn ann", user=ann).output().split()) == {b"ann", b"crew", b"newcrew"}
    parents = {rig.sh("echo $PPID", user=ann).output() for _ in range(3)}
    assert len(parents) == 1
    os.write(long.stdin, b"go\n")  # what runs has kept what it was started with, and is not ended
    assert set(long.output().split()) == {b"ann", b"crew", b"oldcrew"}
    assert long.outcome() == Outcome(EXITED, 0)


@needs_root
@pytest.mark.root
def test_a_helper_with_old_groups_ends_with_its_last_task(make: Callable[..., Rig], etc: Etc) -> None:
    ann = etc.add_user("ann", groups=("oldcrew",))
    rig = make(etc=etc)
    long = rig.sh("echo $PPID; read line", user=ann)
    helper = int(long.line())
    etc.set_groups("ann", ())
    assert int(rig.sh("echo $PPID", user=ann).output()) != helper
    os.write(long.stdin, b"go\n")
    assert long.outcome() == Outcome(EXITED, 0)
    assert gone(helper)
