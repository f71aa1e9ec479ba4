"""A job on a large simulated cluster, here on a small one."""

from __future__ import annotations

import pytest

from laboratory import large
from laboratory.daemons import Cluster
from laboratory.world import World


def test_job_with_faults_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert large.main(["--nodes", "300", "--hit", "10"]) == 0
    assert capsys.readouterr().out.startswith("300 nodes, ")


def test_a_daemon_is_made_when_it_is_first_reached() -> None:
    made = large.large(1, 1000, 16, 0)
    cluster = Cluster(World(1), made.spec, made.plans, made.dials)
    assert len(cluster.nodes) == 0
    assert cluster.daemon(7).index == 7
    assert len(cluster.nodes) == 1
    assert len(cluster.daemons) == 1001
