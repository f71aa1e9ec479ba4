"""The simulated world's clock: events in order of time, one random generator, one trace.

Everything random comes from ``World.rng`` and everything happens through ``World.after``, so a seed
always gives the same events in the same order; ``World.digest`` is the proof (docs/decisions/0010).
"""

from __future__ import annotations

import hashlib
import heapq
import random
import struct
from collections.abc import Callable
from typing import Any, Protocol

_TIME = struct.Struct("!d")


class Violation(AssertionError):
    """Something that must never happen has happened; the sentence says what."""


class Host(Protocol):
    """Whoever an event happens to: it may be gone, or frozen, when the time has come."""

    life: int
    frozen_until_s: float


class World:
    """Clock, randomness and trace of one simulation. ``lines`` collects the trace if asked for."""

    def __init__(self, seed: int, tracing: bool = False) -> None:
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.lines: list[str] = []
        self.events = 0
        #: Ranks that a violation is about: what the machines know of them is told with it.
        self.suspects: list[int] = []
        self._tracing = tracing
        self._hash = hashlib.sha256()
        #: When it happens, when it was to happen, a number, to whom, in which life, what.
        self._heap: list[
            tuple[float, float, int, Host | None, int, Callable[..., None], tuple[Any, ...]]
        ] = []
        self._numbers = 0

    def after(self, delay_s: float, host: Host | None, call: Callable[..., None], *arguments: Any) -> None:
        """Have ``call(*arguments)`` happen to ``host``: not if it died meanwhile, later if it is frozen."""
        self.at(self.now_s + delay_s, host, call, *arguments)

    def at(self, at_s: float, host: Host | None, call: Callable[..., None], *arguments: Any) -> None:
        """As ``after``, at this time: sums are not exact, and what is to keep an order needs the same one."""
        life = host.life if host is not None else 0
        self._numbers += 1
        heapq.heappush(self._heap, (at_s, at_s, self._numbers, host, life, call, arguments))

    def step(self) -> bool:
        """Let the next thing happen; False if there is none."""
        if not self._heap:
            return False
        self.now_s, due_s, number, host, life, call, arguments = heapq.heappop(self._heap)
        if host is not None:
            if host.life != life:
                return True
            if host.frozen_until_s > self.now_s:
                # Then in the order in which it was to happen.
                heapq.heappush(self._heap, (host.frozen_until_s, due_s, number, host, life, call, arguments))
                return True
        self.events += 1
        call(*arguments)
        return True

    def note(self, kind: str, where: object, data: bytes = b"", shown: object = "") -> None:
        """Enter something into the trace."""
        self._hash.update(_TIME.pack(self.now_s))
        self._hash.update(f"{kind} {where}".encode())
        self._hash.update(data)
        if self._tracing:
            self.lines.append(f"{self.now_s:12.6f} {where!s:>12} {kind} {shown}")

    @property
    def digest(self) -> str:
        """A hash of everything that was noted so far."""
        return self._hash.hexdigest()


class SimTimer:
    """One call to come at a simulated host."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], object]) -> None:
        self._call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Do not call any more."""
        self._call = None

    def fire(self) -> None:
        """Its time has come."""
        if self._call is not None:
            self._call()


class SimTimers:
    """What gexec.posix.deadline.Timers asks for: the world's time, and calls that happen to one host."""

    def __init__(self, world: World, host: Host) -> None:
        self._world = world
        self._host = host

    def time(self) -> float:
        """Return the world's time."""
        return self._world.now_s

    def call_at(self, when: float, callback: Callable[[], object]) -> SimTimer:
        """Have this called at this time, if the host lives then."""
        timer = SimTimer(callback)
        self._world.at(max(when, self._world.now_s), self._host, timer.fire)
        return timer
