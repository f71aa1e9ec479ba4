"""A captured relay of an inner node: it passes on what it gets, but for what a test wants to be altered."""

from __future__ import annotations

import select
from collections.abc import Callable

from gexec.wire import frames, outcome
from gexec.wire.frames import OFFSET_ALL, Frame

from . import rogue
from .conftest import DEADLINE_S, Cluster
from .rogue import Wire

#: Of stdin in one frame.
_PIECE_BYTES = 128 * 1024


class InnerRelay:
    """Rank 0 of a chain, with all other ranks below it. Its own process is said to have ended well.

    It has what a captured relay has: its certificate, and each job that passes it with its credential.

    Args:
        listener: where it is dialled.
        below: the node of rank 1.
        down: called with bytes of stdin; returns those that go down, or None: stdin ends for those below.
        up: called with each frame of the job from below; returns what goes up.
    """

    def __init__(
        self,
        cluster: Cluster,
        listener: rogue.Listener,
        below: str,
        down: Callable[[bytes], bytes | None] = lambda data: data,
        up: Callable[[Frame], Frame] = lambda frame: frame,
    ) -> None:
        self._cluster = cluster
        self._listener = listener
        self._below = below
        self._alter_down = down
        self._alter_up = up
        self._channel = 0
        self._sent_down = 0
        self._is_ended = False

    def serve(self) -> None:
        """Be the relay of one job, until it is closed."""
        identity = rogue.certified(self._cluster, self._listener.name)
        with self._listener.accept() as up:
            start = self._start(up)
            with rogue.dial(self._cluster, self._below, identity) as down:
                down.send(1, rogue.replace_start(start, low=1))
                while self._pass_one(up, down):
                    pass

    def _start(self, up: Wire) -> frames.Start:
        while (came := up.receive()) is not None:
            self._channel, start = came
            if isinstance(start, frames.Start):
                assert start.low == 0
                return start
        raise AssertionError("the connection ended, expected Start")

    def _pass_one(self, up: Wire, down: Wire) -> bool:
        """Pass one frame; False at the end."""
        wire = self._ready(up, down)
        came = wire.receive()
        if came is None:
            return False
        channel, frame = came
        if channel == 0:
            if isinstance(frame, frames.Ping) and not isinstance(frame, frames.Pong):
                wire.send(0, frames.Pong(frame.token))
            return True
        if wire is down:
            self._from_below(up, frame)
            return True
        self._from_above(up, down, frame)
        return not isinstance(frame, frames.Close)

    def _ready(self, *wires: Wire) -> Wire:
        for wire in wires:
            if wire.has_more():
                return wire
        readable, _, _ = select.select([wire.sock for wire in wires], [], [], DEADLINE_S)
        assert readable, "nothing comes"
        return next(wire for wire in wires if wire.sock in readable)

    def _from_above(self, up: Wire, down: Wire, frame: Frame) -> None:
        if isinstance(frame, frames.Stdin):
            data = None if self._is_ended else self._alter_down(frame.data)
            for at in range(0, len(data or b""), _PIECE_BYTES):
                piece = (data or b"")[at : at + _PIECE_BYTES]
                down.send(1, frames.Stdin(self._sent_down, piece))
                self._sent_down += len(piece)
            if (frame.eof or data is None) and not self._is_ended:
                self._is_ended = True
                down.send(1, frames.Stdin(self._sent_down, b"", True))
            up.send(self._channel, frames.StdinTaken(frame.offset + len(frame.data)))
        elif isinstance(frame, frames.Ack):
            entries = tuple(entry for entry in frame.entries if entry[0])
            if entries:
                down.send(1, frames.Ack(entries))
        else:
            down.send(1, frame)

    def _from_below(self, up: Wire, frame: Frame) -> None:
        if isinstance(frame, frames.StdinTaken) and frame.offset != OFFSET_ALL:
            return
        up.send(self._channel, self._alter_up(frame))
        if isinstance(frame, frames.Accepted):
            own = ((0, 1),)
            up.send(self._channel, frames.RanksStarted(own), frames.Ended(own, outcome.exited(0), 0, 0))
