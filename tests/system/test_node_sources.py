"""Sources of nodes on a real cluster: node sets, lists, schedulers' variables, groups by command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gexec import limits
from gexec.client import groups
from gexec.client.groups import run_upcall
from gexec.client.nodes import choose
from gexec.errors import UsageError
from gexec.select.sources import Selection

from .conftest import Cluster, wait_until


def nodes(cluster: Cluster, *words: str, **env: str | None) -> list[str]:
    """Return the nodes, in the order of their ranks, on which gexec with these words runs."""
    done = cluster.gexec(*words, "-p", "vnn", "sh", "-c", "echo $GEXEC_NODE", env=env)
    assert done.returncode == 0, done.stderr
    told = sorted((int(line.split()[0]), line.split()[1].decode()) for line in done.stdout.splitlines())
    return [name for _, name in told]


def test_node_sets_in_w_x_and_the_environment(cluster: Cluster) -> None:
    assert nodes(cluster, "-w", "node[003-005]!node004") == ["node003", "node005"]
    assert nodes(cluster, "-x", "node00[1-6]") == ["node007", "node008"]
    assert nodes(cluster, "-w", "node*7") == ["node007"]
    assert nodes(cluster, "-n", "2", GEXEC_SVRS="node008 node[001-004]") == ["node008", "node001"]


def test_names_from_stdin_leave_nothing_for_the_processes(cluster: Cluster) -> None:
    done = cluster.gexec("-w", "-", "-p", "none", "sh", "-c", "echo $GEXEC_NODE; cat", input=b"node002\n")
    assert (done.returncode, done.stdout) == (0, b"node002\n")


def test_inside_of_allocations(cluster: Cluster, tmp_path: Path) -> None:
    assert nodes(cluster, GEXEC_SVRS=None, SLURM_JOB_NODELIST="node[002-003,008]") == [
        "node002",
        "node003",
        "node008",
    ]
    (tmp_path / "pbs").write_text("node004\nnode004\nnode001\n")
    assert nodes(cluster, GEXEC_SVRS=None, PBS_NODEFILE=str(tmp_path / "pbs")) == [
        "node004",
        "node004",
        "node001",
    ]


def test_the_source_is_told(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("node006\n")
    env = {"GEXEC_SVRS": None, "GEXEC_NODELIST": str(tmp_path / "list")}
    done = cluster.gexec("-v", "true", env=env)
    assert f"1 nodes from node list {tmp_path / 'list'} (GEXEC_NODELIST): " in done.stderr.decode()


@pytest.fixture
def site(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "groups.conf").write_text(
        "[Main]\ndefault: site\n"
        "[site]\nmap: grep ^$GROUP: site.txt | cut -d: -f2\nall: cut -d: -f2 site.txt\n"
        "[fails]\nmap: echo half; exit 3\nall: exit 4\n"
    )
    (tmp_path / "site.txt").write_text("web:node[001-002]\ndb:@web,node007\n")
    return {"CLUSTERSHELL_CFGDIR": str(tmp_path)}


def test_groups_by_command(cluster: Cluster, site: dict[str, str]) -> None:
    assert nodes(cluster, "-w", "@db", **site) == ["node001", "node002", "node007"]
    assert nodes(cluster, "-w", "@*!@web", **site) == ["node007"]
    assert nodes(cluster, "-w", "node*2", **site) == ["node002"]
    done = cluster.gexec("-w", "@fails:x", "true", env=site)
    assert done.returncode == 2
    assert done.stderr.decode() == (
        "gexec: group @fails:x: its command ended with status 3: echo half; exit 3\n"
    )


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    "command",
    [
        "sleep 1000 & echo $! >{pid}; wait",
        "sleep 1000 & echo $! >{pid}; exec >&-; wait",  # says that it is done, and is not
        "(while echo x; do sleep 0.05; done) & echo $! >{pid}; wait",
    ],
)
def test_a_command_that_hangs_is_ended_with_all_it_started(tmp_path: Path, command: str) -> None:
    pid = tmp_path / "pid"
    with pytest.raises(UsageError, match=r"its command takes longer than 1 s: .*"):
        run_upcall(command.format(pid=pid), limit_s=1.0)
    wait_until(lambda: gone(int(pid.read_text())), "what the command started is left")


def test_a_command_that_never_stops_talking_is_ended() -> None:
    with pytest.raises(UsageError, match=f"its command wrote over {limits.NODE_LIST_MAX_BYTES} bytes"):
        run_upcall("yes node001")


def test_upcalls_of_the_library_go_through_the_bounded_one(
    site: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which of the library's methods runs a command is not its public interface.
    asked = []

    def instead(command: str, cwd: str | None) -> str:
        asked.append((command, cwd))
        return "a,b"

    monkeypatch.setattr(groups, "run_upcall", instead)
    assert groups.Groups(site, pytest.fail).group("", "web") == "a,b"
    assert asked == [("grep ^web: site.txt | cut -d: -f2", site["CLUSTERSHELL_CFGDIR"])]


@pytest.mark.parametrize(
    "name",
    ["web;touch${{IFS}}{0}", "`touch\u00a0{0}`", "$(>{0})", "a|>{0}", "a>{0}", "'>{0}", '">{0}', "-f", "\\x"],
)
def test_a_groups_name_is_no_part_of_a_command(site: dict[str, str], tmp_path: Path, name: str) -> None:
    selection = Selection()
    selection.nodes = ["@" + name.format(tmp_path / "made")]
    with pytest.raises(UsageError, match=r"^group @.*: such a name is not passed to a command"):
        choose(selection, site)
    assert not (tmp_path / "made").exists()


def test_plain_names_do_not_load_the_library(cluster: Cluster, tmp_path: Path) -> None:
    program = (
        "import sys; from gexec.client.nodes import choose; from gexec.select.sources import Selection;"
        "s = Selection(); s.nodes = sys.argv[1:]; choose(s);"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'ClusterShell', 'defusedxml', 're'}))"
    )

    def loaded(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            env=cluster.env | {"CLUSTERSHELL_CFGDIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert loaded("a,b:22", "[::1]:5") == "[]"
    assert loaded("node[1-3]!node2") == "[]"
    assert loaded("node*") == "['re']"
    assert loaded("node001,q*") == "['ClusterShell', 're']"
