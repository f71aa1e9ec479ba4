"""A process that makes a network namespace for each node, and passes packets between them as it is asked.

``python -m laboratory.network.router FD COUNT MTU SEED``: FD is a socket of requests (:class:`Network`).
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from laboratory.network import namespaces
from laboratory.network.routing import CLEAR, Counts, PacketRule, Routing, address_of

ROOT = Path(__file__).resolve().parents[2]
#: Packets of one node in a row; then the next one's.
_BATCH = 64
_PACKET_MAX_BYTES = 65536
_REQUEST_MAX_BYTES = 65536
_ANSWER_S = 30.0


class Network:
    """A network of ``count`` nodes, and the process that is its router; use it inside ``with``.

    A node is an index from 0. ``None`` stands for all nodes.

    Args:
        mtu: largest packet, in bytes.
        seed: of the packets that are lost.
    """

    def __init__(self, count: int, *, mtu: int = 1500, seed: int = 0) -> None:
        self.count = count
        self.addresses = [address_of(node) for node in range(count)]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_S)
        words = [sys.executable, "-m", __name__, str(theirs.fileno()), str(count), str(mtu), str(seed)]
        self._process = subprocess.Popen(words, cwd=ROOT, pass_fds=[theirs.fileno()])
        theirs.close()
        self._socket = ours
        self._fds: list[int] = self._answer()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        """End the router. Namespaces without processes are gone then."""
        self._socket.close()
        self._process.wait(_ANSWER_S)

    def namespace(self, node: int) -> str:
        """Return a path that stands for the node's namespace."""
        return f"/proc/{self._process.pid}/fd/{self._fds[node]}"

    def rule(
        self,
        sources: Iterable[int] | None = None,
        targets: Iterable[int] | None = None,
        *,
        loss: float = 0.0,
        delay_s: float = 0.0,
        both: bool = False,
    ) -> None:
        """Set what happens to packets from ``sources`` to ``targets``, and with ``both`` also back."""
        first, second = self._nodes(sources), self._nodes(targets)
        self._ask(["rule", first, second, loss, delay_s])
        if both:
            self._ask(["rule", second, first, loss, delay_s])

    def cut(self, sources: Iterable[int], targets: Iterable[int] | None = None, *, both: bool = True) -> None:
        """Drop all packets between them, or only those from ``sources``; nobody is told."""
        self.rule(sources, targets, loss=1.0, both=both)

    def clear(self) -> None:
        """Let all packets pass again."""
        self.rule()

    def counts(self) -> dict[tuple[int, int], Counts]:
        """Return the numbers of packets of each direction that had any, since the start."""
        self._socket.send(json.dumps(["counts"]).encode())
        found: dict[tuple[int, int], Counts] = {}
        while part := self._answer():
            found |= {(one[0], one[1]): Counts(one[2], one[3]) for one in part}
        return found

    def _nodes(self, nodes: Iterable[int] | None) -> list[int]:
        return list(range(self.count)) if nodes is None else list(nodes)

    def _ask(self, request: Sequence[Any]) -> None:
        self._socket.send(json.dumps(request).encode())
        self._answer()

    def _answer(self) -> Any:
        answer = self._socket.recv(_REQUEST_MAX_BYTES)
        if not answer:
            raise RuntimeError(f"the router ended with status {self._process.wait(_ANSWER_S)}")
        return json.loads(answer)


class _Router:
    def __init__(self, requests: socket.socket, count: int, mtu: int, seed: int) -> None:
        self._requests = requests
        self._routing = Routing(seed)
        nodes = [namespaces.make(address_of(node), mtu) for node in range(count)]
        self._packets = [node.packets for node in nodes]
        self._selector = selectors.EpollSelector()
        self._selector.register(requests, selectors.EVENT_READ, None)
        for node, fd in enumerate(self._packets):
            self._selector.register(fd, selectors.EVENT_READ, node)
        self._tell([node.fd for node in nodes])

    def run(self) -> None:
        """Pass packets until nobody can ask any more."""
        while True:
            due_s = self._routing.next_due_s()
            wait_s = None if due_s is None else max(0.0, due_s - time.monotonic())
            for key, _ in self._selector.select(wait_s):
                if key.data is not None:
                    self._forward(key.data)
                elif not self._take():
                    return
            for target, data in self._routing.due(time.monotonic()):
                self._deliver(target, data)

    def _forward(self, source: int) -> None:
        fd, now_s = self._packets[source], time.monotonic()
        for _ in range(_BATCH):
            try:
                data = os.read(fd, _PACKET_MAX_BYTES)
            except BlockingIOError:
                return
            target = self._routing.packet(source, data, now_s)
            if target is not None:
                self._deliver(target, data)

    def _deliver(self, target: int, data: bytes) -> None:
        if 0 <= target < len(self._packets):
            try:
                os.write(self._packets[target], data)
            except OSError:
                pass  # its queue is full, or its interface is down: as in a network

    def _take(self) -> bool:
        request = self._requests.recv(_REQUEST_MAX_BYTES)
        if not request:
            return False
        words = json.loads(request)
        if words[0] == "rule":
            _, sources, targets, loss, delay_s = words
            rule = PacketRule(loss, delay_s)
            self._routing.set(sources, targets, CLEAR if rule == CLEAR else rule)
        else:
            found = [[*direction, one.passed, one.dropped] for direction, one in self._routing.counts.items()]
            for start in range(0, len(found), 1000):
                self._tell(found[start : start + 1000])
        self._tell([])
        return True

    def _tell(self, answer: list[Any]) -> None:
        self._requests.send(json.dumps(answer).encode())


def main(words: list[str]) -> int:
    """Be the router; return the exit status."""
    fd, count, mtu, seed = map(int, words)
    _Router(socket.socket(fileno=fd), count, mtu, seed).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
