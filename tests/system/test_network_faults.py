"""Faults of real daemons in network namespaces: those of laboratory.network.matrix that are quick.

`make reliability` runs all of them. GEXEC_TEST_FAULTS=all does so here.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from laboratory.network import namespaces
from laboratory.network.matrix import QUICK, SCENARIOS, missing
from laboratory.network.nodes import NetworkedNodes
from laboratory.network.router import Network
from laboratory.network.scenarios import NODES, SETTINGS, Trial

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

_ALL = os.environ.get("GEXEC_TEST_FAULTS") == "all"
_CHOSEN = [one for one in SCENARIOS.values() if one.name in QUICK or _ALL]


@pytest.fixture(scope="module")
def kernel() -> None:
    """Skip where the kernel has not what all of this needs."""
    if why := namespaces.missing():
        pytest.skip(why)


def _run(name: str, nodes: NetworkedNodes) -> None:
    if why := missing(SCENARIOS[name]):
        pytest.skip(why)
    assert SCENARIOS[name].run(Trial(nodes)) == []


@pytest.fixture(scope="module")
def shared(kernel: None) -> Iterator[NetworkedNodes]:
    """Nodes for the scenarios after which a cluster is as it was."""
    with NetworkedNodes(NODES, settings=SETTINGS) as nodes:
        yield nodes


@pytest.mark.parametrize("name", [one.name for one in _CHOSEN if not one.last])
def test_nodes_that_come_back(shared: NetworkedNodes, name: str) -> None:
    _run(name, shared)


@pytest.mark.parametrize("name", [one.name for one in _CHOSEN if one.last])
def test_nodes_that_are_harmed(kernel: None, name: str) -> None:
    with NetworkedNodes(NODES, settings=SETTINGS) as nodes:
        _run(name, nodes)


# -- the network of the tests itself --------------------------------------------------------------

_ECHO = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 9))
print(flush=True)
while True:
    data, peer = sock.recvfrom(100)
    sock.sendto(data, peer)
"""
_ASK = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(2.0)
count = 0
for number in range(int(sys.argv[2])):
    sock.sendto(b"x", (sys.argv[1], 9))
    try:
        count += len(sock.recv(100))
    except TimeoutError:
        break
print(count)
"""


def _in(network: Network, node: int, *words: str) -> subprocess.Popen[str]:
    path = network.namespace(node)
    return subprocess.Popen(
        [sys.executable, "-c", *words],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: namespaces.enter(path),
    )


def _answered(network: Network, count: int) -> int:
    with _in(network, 0, _ASK, network.addresses[1], str(count)) as asking:
        return int(asking.communicate()[0])


def test_the_network_delays_and_loses_what_it_is_asked_to_and_counts(kernel: None) -> None:
    with Network(2, seed=1) as network, _in(network, 1, _ECHO) as echo:
        assert echo.stdout is not None
        try:
            echo.stdout.readline()
            assert _answered(network, 20) == 20
            network.rule([0], [1], delay_s=0.05)
            began_s = time.monotonic()
            assert _answered(network, 10) == 10
            assert time.monotonic() - began_s >= 0.5
            network.clear()
            network.cut([1], both=False)
            assert _answered(network, 1) == 0
            network.clear()
            assert _answered(network, 5) == 5
            counts = network.counts()
            assert (counts[0, 1].passed, counts[0, 1].dropped) == (36, 0)
            assert (counts[1, 0].passed, counts[1, 0].dropped) == (35, 1)
        finally:
            echo.kill()


def test_nothing_of_a_network_is_left(kernel: None) -> None:
    before = set(os.listdir("/proc/self/ns")), socket.if_nameindex()
    with Network(3):
        assert socket.if_nameindex() == before[1]
    assert (set(os.listdir("/proc/self/ns")), socket.if_nameindex()) == before
