"""Simulated links: ordered channels of real encoded frames between two daemons, and their faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from gexec import limits
from gexec.core.deadlines import Countdown
from gexec.errors import ProtocolError
from gexec.wire.frames import FROM_CHILD, FROM_PARENT, Decoder, Frame, encode
from laboratory.world import World

if TYPE_CHECKING:
    from laboratory.daemons import SimDaemon, SimJob

DIALLER = 0
ACCEPTOR = 1


class SimLink:
    """One connection: ``ends[0]`` dialled ``ends[1]``.

    As with TCP, each direction keeps its order; a direction that is *silent* takes everything and
    delivers nothing; an end that closes is noticed by the other unless it is silent.
    """

    def __init__(self, world: World, number: int, dialler: SimDaemon, acceptor: SimDaemon) -> None:
        self.world = world
        self.number = number
        self.ends = (dialler, acceptor)
        self.lives = [dialler.life, -1]
        self.reached = False
        self.opened = False
        self.open = [True, False]
        self.silent = [False, False]
        #: Channels: at the dialler (job, child's number), at the acceptor (job, parent's number).
        self.children: dict[int, tuple[SimJob, int]] = {}
        self.parents: dict[int, tuple[SimJob, int]] = {}
        self.channels = 0
        self._last_s = [0.0, 0.0]
        self._decoders = (Decoder(FROM_CHILD), Decoder(FROM_PARENT))

    def __str__(self) -> str:
        return f"{self.ends[0].index}-{self.ends[1].index}#{self.number}"

    # -- opening --------------------------------------------------------------------------

    def dial(self, timeout_s: float) -> None:
        """Try to connect; the dialler hears ``link_reached`` and ``link_opened``, or ``link_closed``."""
        self.world.after(self._delay_s(), None, self._arrive)
        self._deadline(timeout_s, DIALLER, self._time_out)

    def _reached(self) -> None:
        if self.open[DIALLER] and not self.opened and not self.reached:
            self.reached = True
            self.ends[DIALLER].link_reached(self)
            self._deadline(limits.HANDSHAKE_TIMEOUT_S, DIALLER, self._no_handshake)

    def _arrive(self) -> None:
        acceptor = self.ends[ACCEPTOR]
        if acceptor.swallows:
            return
        if not acceptor.alive or acceptor.refuses:
            self.world.after(self._delay_s(), self.ends[DIALLER], self._fail, "connection refused")
            return
        # A frozen daemon's kernel still takes the connection; the handshake waits.
        self.world.after(self._delay_s(), self.ends[DIALLER], self._reached)
        self.world.after(self._delay_s(), acceptor, self._accept)

    def _accept(self) -> None:
        self.lives[ACCEPTOR] = self.ends[ACCEPTOR].life
        self.open[ACCEPTOR] = True
        self.ends[ACCEPTOR].links[self.number] = self
        self.world.after(self._delay_s(), self.ends[DIALLER], self._connected)
        # A dialler that died or gave up meanwhile is noticed like any other.
        self._deadline(limits.HANDSHAKE_TIMEOUT_S, ACCEPTOR, self._check_accepted)

    def _deadline(self, delay_s: float, side: int, call: Callable[[], None]) -> None:
        """As gexec.posix.deadline: a pause of the one who waits is not held against the other."""
        countdown = Countdown(self.world.now_s, delay_s)

        def due() -> None:
            if countdown.over(self.world.now_s):
                call()
            else:
                self.world.at(countdown.due_s, self.ends[side], due)

        self.world.at(countdown.due_s, self.ends[side], due)

    def _check_accepted(self) -> None:
        if not self.opened and self.open[ACCEPTOR]:
            self.close(ACCEPTOR, "the dialler did not go on")

    def _connected(self) -> None:
        if self.open[DIALLER] and not self.opened:
            self.reached = True
            self.opened = True
            self.world.note("opened", self)
            self.ends[DIALLER].link_opened(self)

    def _time_out(self) -> None:
        if not self.reached:
            self._fail("no answer within the connect timeout")

    def _no_handshake(self) -> None:
        self._fail("no answer within the time for a handshake")

    def _fail(self, text: str) -> None:
        if not self.opened and self.open[DIALLER]:
            self.close(DIALLER, text)

    # -- frames ---------------------------------------------------------------------------

    def _delay_s(self) -> float:
        slow = max(self.ends[0].slow, self.ends[1].slow)
        return self.world.rng.uniform(0.0001, 0.002) * slow

    def send(self, side: int, channel: int, frame: Frame) -> None:
        """Send a frame from one end."""
        if not self.open[side]:
            return
        data = encode(channel, frame)
        if not self.silent[side]:
            self._last_s[side] = max(self._last_s[side], self.world.now_s + self._delay_s())
            self.world.at(self._last_s[side], self.ends[1 - side], self._deliver, 1 - side, data)

    def _deliver(self, side: int, data: bytes) -> None:
        if not self.open[side] or self.silent[1 - side]:
            return
        cut = self.world.rng.randrange(len(data))
        for piece in (data[:cut], data[cut:]):
            try:
                for channel, frame in self._decoders[side].feed(piece):
                    self.world.note("frame", f"{self}>{self.ends[side].index}", data, frame)
                    self.ends[side].link_frame(self, side, channel, frame)
            except ProtocolError as error:
                self.close(side, f"it broke the protocol: {error}")
                return

    # -- ending ---------------------------------------------------------------------------

    def close(self, side: int, text: str) -> None:
        """One end closes (or aborts) the connection; the other notices, or hears nothing any more."""
        if not self.open[side]:
            return
        self.open[side] = False
        self.world.note("closed", f"{self}@{self.ends[side].index}", shown=text)
        daemon = self.ends[side]
        daemon.links.pop(self.number, None)
        if daemon.life == self.lives[side] and daemon.alive:
            daemon.link_closed(self, side, text)
        self.peer_ended(side)

    def peer_ended(self, side: int) -> None:
        """The end ``side`` is no more: have the other one notice."""
        if not self.open[1 - side]:
            return
        other = self.ends[1 - side]
        if self.silent[side]:
            self._watch(1 - side)
            return
        self._last_s[side] = max(self._last_s[side], self.world.now_s + self._delay_s())
        self.world.at(self._last_s[side], other, self.close, 1 - side, "the connection was reset")

    def hush(self, side: int) -> None:
        """From now on nothing that the end ``side`` sends arrives; the other gives it up in time."""
        if not self.silent[side]:
            self.silent[side] = True
            self._watch(1 - side)

    def _watch(self, side: int) -> None:
        self._deadline(self._silence_s(), side, lambda: self.close(side, "no answer for 15 s"))

    def watch_frozen(self, side: int) -> None:
        """The end ``side`` is frozen just now: if it still is in LOST_AFTER_S, the other gives it up."""
        self._deadline(self._silence_s(), 1 - side, lambda: self._give_up_frozen(side))

    def _give_up_frozen(self, side: int) -> None:
        if self.ends[side].frozen_until_s > self.world.now_s:
            self.close(1 - side, "no answer for 15 s")

    def _silence_s(self) -> float:
        return limits.LOST_AFTER_S - self.world.rng.uniform(0, limits.HEARTBEAT_S)
