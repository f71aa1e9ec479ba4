"""Simulated links: ordered channels of real encoded frames between two daemons, and their faults."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from gexec.errors import ProtocolError
from gexec.posix.deadline import Deadline
from gexec.relay.link import UNHURRIED_S
from gexec.relay.pool import patience_s
from gexec.relay.turns import Turn
from gexec.wire import frames
from gexec.wire.frames import FROM_CHILD, FROM_PARENT, Decoder, Frame, encode
from laboratory import moments
from laboratory.checks import honesty
from laboratory.world import SimTimer, World

if TYPE_CHECKING:
    from laboratory.daemons import SimDaemon


#: How many of all deliveries come in two pieces.
_PIECES = 0.25


class SimLink:
    """One connection: ``dialler`` dialled it, ``acceptor`` accepts it if it gets that far.

    As with TCP, each direction keeps its order. What a *silent* end sends does not arrive; when an end
    closes, the other end detects it, unless the closed one is silent.
    """

    def __init__(self, world: World, number: int, dialler: SimDaemon, acceptor: SimDaemon) -> None:
        self.world = world
        self.number = number
        self._shown = f"{dialler.index}-{acceptor.index}#{number}"
        self.dialler = SimEnd(self, dialler, Decoder(FROM_CHILD))
        self.acceptor = SimEnd(self, acceptor, Decoder(FROM_PARENT))
        self.dialler.peer, self.acceptor.peer = self.acceptor, self.dialler

    def __str__(self) -> str:
        return self._shown

    def delay_s(self) -> float:
        """Return the delay of the next transmission."""
        slow = max(self.dialler.daemon.slow, self.acceptor.daemon.slow)
        return (0.0001 + 0.0019 * self.world.rng.random()) * slow

    def arrives_s(self, end: SimEnd) -> float:
        """Return when what an end transmits now arrives at the other one."""
        opens_s = self.dialler.daemon.cluster.clogs.opens_s(end.daemon.index, end.peer.daemon.index)
        return max(self.world.now_s, opens_s) + self.delay_s()

    # -- opening --------------------------------------------------------------------------

    def dial(self, timeout_s: float) -> None:
        """Try to connect; the dialler is notified that the link is reached and opened, or closed."""
        end = self.dialler
        end.give_up_s = end.daemon.timers.time() + timeout_s
        self.world.at(self.arrives_s(end), None, self._arrive, timeout_s)
        Deadline(end.daemon.timers, timeout_s, partial(self._overdue, False, timeout_s))

    def _arrive(self, timeout_s: float) -> None:
        acceptor = self.acceptor.daemon
        if acceptor.swallows:
            return
        if not acceptor.alive or acceptor.refuses:
            refused_s = self.arrives_s(self.acceptor)
            self.world.at(refused_s, self.dialler.daemon, self._fail, "connection refused")
            return
        # A frozen daemon's kernel still accepts the connection; the handshake waits.
        self.world.at(self.arrives_s(self.acceptor), self.dialler.daemon, self._reached, timeout_s)
        self.world.after(self.delay_s(), acceptor.outlasting, self._accept)

    def _reached(self, timeout_s: float) -> None:
        end = self.dialler
        if end.here and not end.opened and not end.reached:
            within_s = patience_s(timeout_s)
            end.give_up_s = end.daemon.timers.time() + within_s
            end.reached = True
            end.daemon.jobs.link_reached(end)
            Deadline(end.daemon.timers, within_s, partial(self._overdue, True, within_s))

    def _accept(self) -> None:
        end = self.acceptor
        end.begin()
        end.opened = True
        end.daemon.jobs.link_accepted(end, None)
        end.after_what_was_sent(self._connected)

    def _connected(self) -> None:
        end = self.dialler
        if end.here and not end.opened:
            end.reached = end.opened = True
            end.end_turn()
            end.heard_s = end.daemon.timers.time()
            self.world.note("opened", self)
            end.daemon.jobs.link_opened(end)
        elif not end.here:
            end.reset_peer()

    def _overdue(self, reached: bool, within_s: float) -> None:
        if self.dialler.reached == reached:
            self._fail(f"no {'Hello' if reached else 'answer'} within {within_s:g} s")

    def _fail(self, text: str) -> None:
        if not self.dialler.opened:
            self.dialler.close(text)


class SimEnd:
    """One daemon's end of a link: a gexec.relay.ports.LinkPort.

    Attributes:
        here: the link is open at this end.
        silent: nothing that it sends arrives.
        resets_next: the connection is reset in the middle of the next frame that it sends.
    """

    def __init__(self, link: SimLink, daemon: SimDaemon, decoder: Decoder) -> None:
        self.link = link
        self.daemon = daemon
        self.peer = self
        self.here = False
        self.silent = False
        self.resets_next = False
        self.waiting = False
        self.turn: Turn | None = None
        self.reached = False
        self.opened = False
        self.leaving = False
        self.cut = False
        self.heard_s = 0.0
        self.give_up_s = 0.0
        self.label = self.source = f"node{daemon.index}"
        self._world = link.world
        self._life = daemon.life
        self._decoder = decoder
        self._shown = f"{link}>{daemon.index}"
        self._last_s = 0.0
        self._is_cut = False
        self._unhurried = b""
        self._timer: SimTimer | None = None

    def begin(self) -> None:
        """Open this end."""
        self.here = True
        self._life = self.daemon.life
        self.heard_s = self.daemon.timers.time()
        self.daemon.ends[self.link.number] = self

    @property
    def unsent_bytes(self) -> int:
        """Nothing waits in a simulated link."""
        return 0

    def holds(self, name: str) -> bool:
        """Tell whether the peer's certificate holds this name."""
        return self.peer.daemon.holds(name)

    # -- frames ---------------------------------------------------------------------------

    def send(self, channel: int, frame: Frame, hurry: bool = True) -> None:
        """Send a frame; without ``hurry`` together with the next urgent one, or after UNHURRIED_S."""
        if not self.here or min(self.daemon.version, self.peer.daemon.version) < frame.SINCE:
            return
        data = self._unhurried + encode(channel, self._without_blob(frame))
        if hurry:
            self._flush(data)
            return
        self._unhurried = data
        if self._timer is None:
            late_s = self.daemon.timers.time() + UNHURRIED_S
            self._timer = self.daemon.timers.call_at(late_s, lambda: self._flush(self._unhurried))

    def _without_blob(self, frame: Frame) -> Frame:
        """Return a frame for the way: the job's blob, maybe megabytes, is put in at the other end."""
        if type(frame) is frames.Start and frame.blob == self.daemon.cluster.jobs[frame.credential].blob:
            return frames.Start(frame.epoch, frame.low, frame.high, frame.credential, b"", frame.attach_only)
        return frame

    def answer(self, channel: int, frame: Frame) -> None:
        """Send an answer that the peer can request at any time."""
        self.send(channel, frame)

    def _flush(self, data: bytes) -> None:
        self._unhurried = b""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.here or self.silent or self._is_cut:
            return
        if self.resets_next:
            self._is_cut = True
            data = data[: self._world.rng.randrange(len(data))]
            self._world.after(0.0, self.daemon, self.close, "the connection was reset")
        if data:
            self.after_what_was_sent(self.peer._deliver, data)

    def after_what_was_sent(self, call: object, *arguments: object) -> None:
        """Make a call at the other end, when all that was sent before has arrived there."""
        assert callable(call)
        self._last_s = max(self._last_s, self.link.arrives_s(self))
        self._world.at(self._last_s, self.peer.daemon, call, *arguments)

    def _deliver(self, data: bytes) -> None:
        if self.peer.silent:
            return
        if not self.here:
            self.reset_peer()
            return
        self.heard_s = self.daemon.timers.time()
        rng = self._world.rng
        cut = rng.randrange(len(data)) if rng.random() < _PIECES else 0
        try:
            for piece in (data[:cut], data[cut:]) if cut else (data,):
                for channel, frame in self._decoder.feed(piece):
                    self._world.note("frame", self._shown, data, frame)
                    if channel:
                        self._take(channel, frame)
                    elif type(frame) is frames.Ping:
                        self.answer(0, frames.Pong(frame.token))
        except ProtocolError as error:
            self.abort(f"protocol violation: {error}")

    def _take(self, channel: int, frame: Frame) -> None:
        reached = self.daemon.cluster.moments.reached
        if type(frame) is frames.Start and not frame.blob:
            frame.blob = self.daemon.cluster.jobs[frame.credential].blob
            self.daemon.last_asked = (frame, self.peer.daemon)
        if type(frame) is frames.Ack and reached(moments.BEFORE_ACK, self.daemon.index):
            return
        if type(frame) is frames.Start and frame.epoch > 1 and self.daemon.jobs.by_key:
            reached(moments.ADOPTION, self.daemon.index)
        self.daemon.jobs.link_frame(self, channel, frame)
        if type(frame) is frames.Ack:
            reached(moments.AFTER_ACK, self.daemon.index)

    # -- ending ---------------------------------------------------------------------------

    def abort(self, text: str) -> None:
        """End the connection at once."""
        honesty.at_abort(self, text)
        self.close(text)

    def close(self, text: str, noticed: bool = True) -> None:
        """Close this end; the other one detects it, if it is ``noticed``, or when it sends something."""
        if not self.here:
            return
        self.here = False
        self.end_turn()
        self._world.note("closed", f"{self.link}@{self.daemon.index}", shown=text)
        self.daemon.ends.pop(self.link.number, None)
        if self.daemon.life == self._life and self.daemon.alive:
            self.daemon.jobs.link_closed(self, text)
        if noticed:
            self.gone()

    def end_turn(self) -> None:
        """It is not being dialled any more."""
        if self.turn is not None:
            self.turn.end()

    def gone(self) -> None:
        """This end is gone: let the other one detect it, unless this end is silent."""
        self.here = False
        if self.peer.here and not self.silent:
            self.peer.cut = True
            self.after_what_was_sent(self.peer.close, "the connection was reset")

    def reset_peer(self) -> None:
        """The other end has sent something to this one, which is closed."""
        if self.peer.here and not self.silent and not self.peer.silent and self.daemon.alive:
            self._world.at(
                self.link.arrives_s(self), self.peer.daemon, self.peer.close, "the connection was reset"
            )
