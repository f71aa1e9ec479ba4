"""Moments at which a fault can strike: what happens at one rank's node, instead of a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from laboratory.world import World

#: Its process is about to be started: a fault strikes before that, and there is no start.
BEFORE_SPAWN = "before spawn"
AFTER_SPAWN = "after spawn"
#: An acknowledgement of output has arrived: a fault strikes before its relay reads it.
BEFORE_ACK = "before ack"
AFTER_ACK = "after ack"
#: A parent asks again for a rank that has begun: it is to be adopted.
ADOPTION = "adoption"
#: Its process has ended, and its daemon does not know it yet.
EXIT = "exit"
#: The end of stdin has arrived at its process.
STDIN_EOF = "stdin eof"


class Moments:
    """What waits for a moment at a rank. Nothing waits in most seeds."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._waiting: dict[tuple[str, int], list[Callable[[], None]]] = {}

    def wait(self, moment: str, rank: int, call: Callable[[], None]) -> None:
        """Call this once, right after the moment at this rank."""
        self._waiting.setdefault((moment, rank), []).append(call)

    def reached(self, moment: str, rank: int) -> bool:
        """It is this moment at this rank: tell whether something waited for it."""
        if not self._waiting:
            return False
        calls = self._waiting.pop((moment, rank), [])
        for call in calls:
            self._world.after(0.0, None, call)
        return bool(calls)

    def clear(self) -> None:
        """Nothing strikes any more."""
        self._waiting.clear()
