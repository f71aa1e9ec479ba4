"""After a job nothing of it stays in the daemons but what once-only needs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Cluster, _start, _stop

#: Jobs of each kind, each with this much environment: before, both processes kept all of them.
JOBS = 30
LARGE = {f"LARGE{number}": "x" * 120_000 for number in range(6)}
#: Less than half of what the jobs bring, and several times what a daemon needs for one.
GROWTH_MAX_KB = 10_000


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = _start(3)
    yield cluster
    _stop(cluster)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def resident_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def daemons(cluster: Cluster) -> dict[str, int]:
    """Return the spawner and the relay of each node, by name."""
    found = {}
    for node in cluster.state.nodes:
        assert node.process is not None
        spawner = node.process.pid
        found[f"spawner of {node.name}"] = spawner
        found[f"relay of {node.name}"] = children(spawner)[0]  # its first child
    return found


def test_large_jobs_leave_the_daemons_as_small_as_they_were(cluster: Cluster) -> None:
    dead = ("-w", ",".join([*cluster.names, "127.250.9.9"]))
    kinds = (
        ("--strict", *dead, "true"),
        (*dead, "true"),
        ("--strict", "-n", "0", "true"),
        ("-n", "0", "-d", "true"),
    )
    for words in kinds * 2:
        cluster.gexec(*words, env=LARGE)
    before = {name: resident_kb(pid) for name, pid in daemons(cluster).items()}
    for words in kinds:
        for _ in range(JOBS):
            cluster.gexec(*words, env=LARGE)
    grown = {name: resident_kb(pid) - before[name] for name, pid in daemons(cluster).items()}
    assert {name: kb for name, kb in grown.items() if kb > GROWTH_MAX_KB} == {}
