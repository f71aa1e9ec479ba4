"""The clock of a simulation: events in order of time, one random generator, one trace.

Everything random comes from ``World.rng`` and everything happens through ``World.after``, so a seed always
gives the same events in the same order; ``World.digest`` proves it (docs/decisions/0010).
"""

from __future__ import annotations

import heapq
import math
import random
import struct
from collections.abc import Callable
from typing import Any, Protocol
from zlib import crc32

#: More than the sums of clocks' times are inexact.
_ROUNDING_S = 1e-6
_TIME = struct.Struct("!d")
#: More than any simulation lasts.
_BEFORE_ALL_S = 1e9


class Violation(AssertionError):
    """A rule of the simulation was violated; the text says which."""


class Host(Protocol):
    """The host of an event: it may be gone, or frozen, when the event is due."""

    life: int

    @property
    def frozen_until_s(self) -> float:
        """Until when it does nothing."""


class World:
    """Clock, randomness and trace of one simulation. ``lines`` collects the trace if requested."""

    def __init__(self, seed: int, tracing: bool = False) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.lines: list[str] = []
        self.events = 0
        #: Set when a job, a process, a daemon or the client has ended: whoever waits for that looks again.
        self.news = True
        #: Ranks of jobs that a violation is about; it includes what the machines know about them.
        self.suspects: list[tuple[bytes, int]] = []
        #: Where, after a freeze, all timers that are due come first, and then what came from others.
        self.timers_first: set[Host] = set()
        self._tracing = tracing
        self._digest = 0
        #: When it happens, when it was due, a number, the host, the host's life, the call.
        self._heap: list[
            tuple[float, float, int, Host | None, int, Callable[..., None], tuple[Any, ...]]
        ] = []
        self._numbers = 0

    def after(self, delay_s: float, host: Host | None, call: Callable[..., None], *arguments: Any) -> None:
        """Schedule ``call(*arguments)`` at ``host``: dropped if it dies, delayed while it is frozen."""
        self.at(self.now_s + delay_s, host, call, *arguments)

    def at(self, at_s: float, host: Host | None, call: Callable[..., None], *arguments: Any) -> None:
        """Like ``after``, at this time: sums are not exact, and ordered events need exactly the same time."""
        life = host.life if host is not None else 0
        self._numbers += 1
        heapq.heappush(self._heap, (at_s, at_s, self._numbers, host, life, call, arguments))

    def run(self, until_s: float, events_max: float = math.inf) -> bool:
        """Run events until there is news; False if there is none by then, or after so many events in all."""
        heap = self._heap
        while not self.news:
            if not heap or heap[0][0] > until_s or self.events > events_max:
                return False
            self.now_s, due_s, number, host, life, call, arguments = heapq.heappop(heap)
            if host is not None:
                if host.life != life:
                    continue
                if host.frozen_until_s > self.now_s:
                    # After the freeze in the order in which the events were due.
                    if host in self.timers_first and due_s >= 0 and isinstance(call, SimTimer):
                        due_s -= _BEFORE_ALL_S
                    heapq.heappush(heap, (host.frozen_until_s, due_s, number, host, life, call, arguments))
                    continue
            self.events += 1
            call(*arguments)
        return True

    def note(self, kind: str, where: object, data: bytes = b"", shown: object = "") -> None:
        """Add something to the trace."""
        head = b"%b%b" % (_TIME.pack(self.now_s), f"{kind} {where} ".encode())
        self._digest = crc32(data, crc32(head, self._digest))
        if self._tracing:
            self.lines.append(f"{self.now_s:12.6f} {where!s:>12} {kind} {shown}")

    @property
    def digest(self) -> str:
        """A hash of everything that was noted so far."""
        return f"{self._digest:08x}"


class SimTimer:
    """One scheduled call at a simulated host; the event that makes it is the timer itself."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[[], object]) -> None:
        self._call: Callable[[], object] | None = call

    def cancel(self) -> None:
        """Cancel the call."""
        self._call = None

    def __call__(self) -> None:
        """Call it now."""
        if self._call is not None:
            self._call()


class SimTimers:
    """Implements gexec.posix.deadline.Timers: a clock (the world's unless it is set), and calls at a host."""

    def __init__(self, world: World, host: Host) -> None:
        self._world = world
        self._host = host
        self._begun_s = 0.0
        self._rate = 1.0

    def set(self, begun_s: float, rate: float) -> None:
        """Let the clock begin at a time of its own, and run at a rate of its own."""
        self._begun_s = begun_s
        self._rate = rate

    def time(self) -> float:
        """Return the clock's time."""
        return self._begun_s + self._world.now_s * self._rate

    def call_at(self, when: float, callback: Callable[[], object]) -> SimTimer:
        """Call this at this time of the clock, if the host is alive then."""
        timer = SimTimer(callback)
        at_s = (when - self._begun_s) / self._rate
        if self._rate != 1.0:
            at_s += _ROUNDING_S  # never before the clock shows that time
        self._world.at(max(at_s, self._world.now_s), self._host, timer)
        return timer
