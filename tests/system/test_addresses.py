"""Nodes with several addresses, zones, names in other spellings, and addresses that lead to somebody else."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Cluster
from .daemons import Service
from .must_hold import sorted_lines


@pytest.fixture
def hosts(cluster: Cluster, tmp_path: Path) -> dict[str, str]:
    """An environment whose GEXEC_HOSTS has more lines: an old address of node003 before its own, for one."""
    path = tmp_path / "hosts"
    old = cluster.state.node("node004").address
    extra = [
        "127.250.9.9 node002",  # nobody listens there
        f"{old} node003",  # somebody else has it now
        f"{old} alias",
        f"127.250.9.9 gone\n127.250.9.8 gone\n{old} gone",
    ]
    path.write_text("\n".join([*extra, Path(cluster.env["GEXEC_HOSTS"]).read_text()]))
    return {"GEXEC_HOSTS": str(path)}


@pytest.mark.parametrize("fanout", [1, 16])
def test_a_node_is_reached_under_whichever_address_is_its_own(
    cluster: Cluster, hosts: dict[str, str], fanout: int
) -> None:
    # With fan-out 1 it is node001 that dials node002, and node002 that dials node003.
    done = cluster.gexec("-f", fanout, "-p", "host", "sh", "-c", "echo $GEXEC_NODE", env=hosts)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted_lines(done.stdout) == [f"{name} {name}" for name in cluster.names]


def test_all_addresses_that_failed_are_named_with_their_causes(
    cluster: Cluster, hosts: dict[str, str]
) -> None:
    done = cluster.gexec("-w", "node001,gone", "true", env=hosts, text=True)
    old, port = cluster.state.node("node004").address, cluster.state.port
    assert done.returncode == 255
    assert done.stderr.splitlines() == [
        f"gexec: gone: not started: 127.250.9.9:{port}, 127.250.9.8:{port}: connection refused (gexecd does "
        f"not run there); {old}:{port}: its certificate was refused: {old}:{port} is node004, {old}, "
        "not gone: correct the address of gone, or start the gexecd there with `--name gone`"
    ]


def test_a_node_that_is_known_by_another_name_says_both(cluster: Cluster, hosts: dict[str, str]) -> None:
    done = cluster.gexec("-w", "node001,alias", "true", env=hosts, text=True)
    (line,) = done.stderr.splitlines()
    place = f"{cluster.state.node('node004').address}:{cluster.state.port}"
    assert line.startswith(f"gexec: alias: not started: its certificate was refused: {place} is node004, ")
    assert line.endswith(
        "not alias: correct the address of alias, or start the gexecd there with `--name alias`"
    )


def test_dry_run_and_json_show_all_addresses(cluster: Cluster, hosts: dict[str, str]) -> None:
    old, port = cluster.state.node("node004").address, cluster.state.port
    own = cluster.state.node("node003").address
    done = cluster.gexec("-w", "node003", "--dry-run", "true", env=hosts, text=True)
    assert f"node003  # {old}:{port},{own}:{port}" in done.stdout.splitlines()
    done = cluster.gexec("-w", "node003,node004,no..such", "--json", "true", env=hosts, text=True)
    assert json.loads(done.stdout.splitlines()[0])["nodes"] == [
        {"rank": 0, "node": "node003", "address": f"{old}:{port}",
         "addresses": [f"{old}:{port}", f"{own}:{port}"]},
        {"rank": 1, "node": "node004", "address": f"{old}:{port}"},
        {"rank": 2, "node": "no..such", "address": ""},
    ]  # fmt: skip


def test_case_and_a_trailing_dot_make_no_other_node(cluster: Cluster) -> None:
    done = cluster.gexec("-w", "node001.,NODE002,Node003.", "-p", "host", "sh", "-c", "echo $GEXEC_NODE")
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted_lines(done.stdout) == ["NODE002 NODE002", "Node003. Node003.", "node001. node001."]


@pytest.fixture
def six(cluster: Cluster, tmp_path: Path) -> Iterator[int]:
    """A gexecd of the cluster that listens on ::1; its port. It is of the host that signs the jobs."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
            port = int(free.getsockname()[1])
    except OSError:
        pytest.skip("no IPv6 here")
    (tmp_path / "s").mkdir(mode=0o755)
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o755)
    service = Service(
        "gexecd",
        ["-P", port, "--bind", "::1", "--socket", tmp_path / "s" / "g.sock",
         "--audit-log", tmp_path / "audit", "--authd-socket", cluster.place.authd_socket,
         "--public-key", cluster.place.public_key, "--name", "six", "--name", "node001"],
        tmp_path,
    ).ready()  # fmt: skip
    yield port
    service.stop()


def test_a_zone_goes_along_to_whoever_dials(cluster: Cluster, six: int, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text(Path(cluster.env["GEXEC_HOSTS"]).read_text() + "::1%lo six\n::1%no-such far\n")
    env = {"GEXEC_HOSTS": str(path)}
    for names in (f"[::1%lo]:{six}", f"node001,six:{six}"):
        done = cluster.gexec("-f", "1", "-w", names, "sh", "-c", "echo $GEXEC_NODE", env=env)
        assert (done.returncode, done.stderr) == (0, b"")
        assert {b"::1%lo", b"six"} & set(done.stdout.split())
    done = cluster.gexec("-w", f"far:{six}", "true", env=env, text=True)
    assert done.returncode == 255
    assert "has no network interface 'no-such': use an address without a zone" in done.stderr
