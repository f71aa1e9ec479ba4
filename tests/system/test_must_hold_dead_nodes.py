"""64 nodes of which 6 do not answer: nobody else is held up, and each of them is named with its reason."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import gexec
from gexec.wire.outcome import NOT_STARTED

from .conftest import Cluster, _start, _stop
from .must_hold import end, sorted_lines

REAL = 58
#: Addresses that no local cluster uses.
REFUSING = {f"refuses{number}": f"127.250.9.{number}" for number in (1, 2, 3)}
SILENT = {f"silent{number}": f"127.250.9.{number}" for number in (4, 5, 6)}


class Swallower:
    """A port that takes no more connections: its queue is full, so the kernel drops what comes."""

    def __init__(self, address: str, port: int) -> None:
        self._sockets = [socket.socket()]
        self._sockets[0].bind((address, port))
        self._sockets[0].listen(0)
        for _ in range(8):
            one = socket.socket()
            one.setblocking(False)
            self._sockets.append(one)
            one.connect_ex((address, port))
            if not select.select([], [one], [], 0.3)[1]:
                return
        pytest.skip("this kernel takes connections beyond a listener's queue: no port can be made silent")

    def close(self) -> None:
        for one in self._sockets:
            one.close()


@dataclass
class Sick:
    """A cluster, its dead neighbours, and an environment that knows them all."""

    cluster: Cluster
    env: dict[str, str]
    places: dict[str, list[str]]


@pytest.fixture(scope="module")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sick]:
    cluster = _start(REAL)
    swallowers: list[Swallower] = []
    try:
        for address in SILENT.values():
            swallowers.append(Swallower(address, cluster.state.port))
        hosts = tmp_path_factory.mktemp("hosts") / "hosts"
        lines = [f"{address} {name}\n" for name, address in (REFUSING | SILENT).items()]
        hosts.write_text(Path(cluster.env["GEXEC_HOSTS"]).read_text() + "".join(lines))
        dead = [name for pair in zip(REFUSING, SILENT, strict=True) for name in pair]
        names = cluster.names
        # With fan-out 16 every fourth rank is an inner node, beginning with rank 0.
        inner = list(names)
        for number, name in enumerate(dead):
            inner.insert(4 * number, name)
        places = {"last": names + dead, "first": dead + names, "inner": inner}
        yield Sick(cluster, {"GEXEC_HOSTS": str(hosts)}, places)
    finally:
        for one in swallowers:
            one.close()
        _stop(cluster)


@pytest.mark.parametrize("fanout", [16, 2])
@pytest.mark.parametrize("place", ["first", "inner", "last"])
def test_six_of_64_nodes_do_not_answer(sick: Sick, place: str, fanout: int) -> None:
    names = sick.places[place]
    assert len(names) == 64
    client = sick.cluster.popen(
        "-n", "0", "-p", "host", "-f", fanout, "--connect-timeout", "4", "echo", "here",
        env=sick.env | {"GEXEC_SVRS": " ".join(names)},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = end(client)
    assert client.returncode == 255
    assert sorted_lines(out) == [f"{name} here" for name in sick.cluster.names]
    said = err.decode().splitlines()
    told = "\n".join(said)
    for name in [*REFUSING, *SILENT]:
        line = next((line for line in said if _names(line, name)), "")
        reason = "refused" if name in REFUSING else "no answer within 4 s"
        # A busy node may have been given up as an inner one meanwhile; then nobody knows for certain whether
        # it asked this one before, and the outcome is lost.
        assert "not started: " in line or "lost: " in line, f"{name}: {told}"
        assert reason in line, f"{name}: {told}"
    assert len(said) <= 6, told


def _names(line: str, name: str) -> bool:
    """Tell whether a summary line is about this node, folded (refuses[1-3]) or not."""
    return name in line or f"{name[:-1]}[1-3]" in line or f"{name[:-1]}[4-6]" in line


@pytest.mark.parametrize("place", ["first", "inner"])
async def test_all_others_have_ended_before_a_silent_node_is_given_up(
    sick: Sick, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (sick.cluster.env | sick.env).items():
        if name.startswith("GEXEC_"):
            monkeypatch.setenv(name, value)
    ended: list[str] = []
    given_up: dict[str, gexec.Lost] = {}
    argv = ["echo", "here"]
    async with gexec.stream(argv, nodes=sick.places[place], connect_timeout_s=60) as job:
        async for event in job:
            if isinstance(event, gexec.Exited):
                ended.append(event.node)
            elif isinstance(event, gexec.Lost):
                given_up[event.node] = event
            if len(ended) == REAL and given_up.keys() >= REFUSING.keys():
                break
    # None of the silent ones was waited for; leaving the job ends the waiting for them.
    assert sorted(ended) == sick.cluster.names
    assert given_up.keys() == REFUSING.keys()
    assert {event.outcome.kind for event in given_up.values()} == {NOT_STARTED}


def test_a_job_of_dead_nodes_only(sick: Sick) -> None:
    names = [*REFUSING, *SILENT]
    ended = sick.cluster.gexec("--connect-timeout=1", "true", env=sick.env | {"GEXEC_SVRS": " ".join(names)})
    assert ended.returncode == 255
    assert all(any(_names(line, name) for line in ended.stderr.decode().splitlines()) for name in names)


def test_strict_starts_nothing_when_one_does_not_answer(sick: Sick, tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    names = " ".join(sick.places["inner"])
    ended = sick.cluster.gexec(
        "--strict", "--connect-timeout=2", "sh", "-c", "touch $0/$GEXEC_MY_VNN", tmp_path,
        env=sick.env | {"GEXEC_SVRS": names},
    )  # fmt: skip
    assert ended.returncode == 255
    assert list(tmp_path.iterdir()) == []
    assert b"--strict: 6 of 64 nodes cannot start it" in ended.stderr
    said = ended.stderr.decode().splitlines()
    for name in [*REFUSING, *SILENT]:
        assert any(_names(line, name) and "--strict" not in line for line in said), (name, said)
