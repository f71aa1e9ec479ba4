"""Jobs on a large simulated cluster, here on a small one."""

from __future__ import annotations

import pytest

from gexec import limits
from laboratory import large
from laboratory.daemons import Cluster
from laboratory.jobs import SimJob
from laboratory.simulator import Simulation
from laboratory.world import World


def test_job_with_faults_ends(capsys: pytest.CaptureFixture[str]) -> None:
    assert large.main(["--nodes", "300", "--hit", "10"]) == 0
    assert capsys.readouterr().out.startswith("300 nodes, ranks of jobs: 300; 60 faults, ")


def test_more_nodes_than_ranks_of_a_job_have_two_jobs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(limits, "RANKS_MAX", 200)
    assert large.main(["--nodes", "300", "--hit", "10"]) == 0
    assert capsys.readouterr().out.startswith("300 nodes, ranks of jobs: 200 and 200; ")
    first, second = large.large(1, 300, 16, 0).all
    assert (first.first, second.first) == (0, 100)
    assert second.spec.names[0] == b"node100"


def test_both_jobs_run_on_the_nodes_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RANKS_MAX", 20)
    simulation = Simulation(1, large.large(1, 30, 4, 0))
    simulation.run()
    for run in simulation.runs:
        assert [record.starts for record in run.job.records] == [1] * 20
        assert len(run.client.outcomes) == 20
    for node in range(10, 20):
        machines = [machine for index, machine in simulation.cluster.machines if index == node]
        assert {machine.job_id for machine in machines} == {run.job.id for run in simulation.runs}


@pytest.mark.parametrize("seed", range(10))
def test_two_jobs_with_faults(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "RANKS_MAX", 80)
    Simulation(seed, large.large(seed, 100, 4, 3)).run()


def test_number_of_nodes_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        large.main(["--nodes", "200000"])
    assert "--nodes 200000: expected 1 to 131072" in capsys.readouterr().err


def test_a_daemon_is_made_when_it_is_first_reached() -> None:
    made = large.large(1, 1000, 16, 0)
    cluster = Cluster(World(1), [SimJob(0, made)], made.dials)
    assert len(cluster.nodes) == 0
    assert cluster.daemon(7).index == 7
    assert len(cluster.nodes) == 1
    assert len(cluster.daemons) == 1001
