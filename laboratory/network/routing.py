"""What happens to the packets between nodes: rules of loss and delay, and their counts. Pure.

Every direction of every pair of nodes has random numbers of its own, from the seed: which of its packets are
lost does not depend on what others send.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

#: Of a packet: from node, to node.
Direction = tuple[int, int]
#: A version 4 packet without options has at least these bytes; the addresses are the last ones.
_HEADER_BYTES = 20


@dataclass(frozen=True, slots=True)
class PacketRule:
    """What happens to packets of one direction.

    Attributes:
        loss: probability that a packet is dropped, 0 to 1. With 1 the link is cut, and nobody is told.
        delay_s: how long each packet is held.
    """

    loss: float = 0.0
    delay_s: float = 0.0


CLEAR = PacketRule()


@dataclass(slots=True)
class Counts:
    """Packets of one direction."""

    passed: int = 0
    dropped: int = 0


class Routing:
    """Decides about packets, and holds the delayed ones.

    Args:
        seed: of all random numbers.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rules: dict[Direction, PacketRule] = {}
        self._random: dict[Direction, Random] = {}
        self._held: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()
        self.counts: dict[Direction, Counts] = {}

    def set(self, sources: Iterable[int], targets: Iterable[int], rule: PacketRule) -> None:
        """Give all directions from one of ``sources`` to one of ``targets`` a rule."""
        for direction in itertools.product(sources, list(targets)):
            if rule == CLEAR:
                self._rules.pop(direction, None)
            else:
                self._rules[direction] = rule

    def packet(self, source: int, data: bytes, now_s: float) -> int | None:
        """Return the node that gets this packet now; None: dropped, or held."""
        if len(data) < _HEADER_BYTES or data[0] >> 4 != 4:
            return None
        target = node_of(data[16:20])
        direction = source, target
        counts = self.counts.get(direction)
        if counts is None:
            counts = self.counts[direction] = Counts()
        rule = self._rules.get(direction, CLEAR)
        if rule.loss and self._draw(direction) < rule.loss:
            counts.dropped += 1
            return None
        counts.passed += 1
        if rule.delay_s:
            heapq.heappush(self._held, (now_s + rule.delay_s, next(self._numbers), target, data))
            return None
        return target

    def due(self, now_s: float) -> list[tuple[int, bytes]]:
        """Return the held packets whose time has come: node, packet."""
        found = []
        while self._held and self._held[0][0] <= now_s:
            _, _, target, data = heapq.heappop(self._held)
            found.append((target, data))
        return found

    def next_due_s(self) -> float | None:
        """Return when the next held packet is due."""
        return self._held[0][0] if self._held else None

    def _draw(self, direction: Direction) -> float:
        if direction not in self._random:
            self._random[direction] = Random(f"{self._seed}/{direction[0]}/{direction[1]}")
        return self._random[direction].random()


def address_of(node: int) -> str:
    """Return the address of a node (from 0): 10.87.1.1 and up."""
    return f"10.87.{1 + node // 254}.{1 + node % 254}"


def node_of(address: bytes) -> int:
    """Return the node that has this packed address; one that no node has gives another number."""
    return (address[2] - 1) * 254 + address[3] - 1
