"""A link: one connection that carries frames, either a TLS stream between daemons or a client's unix socket.

Frames sent within one turn of the event loop go out in one write. Senders are never paused: the windows of
the jobs bound what may be under way (docs/protocol.md, Flow), so that a slow job never delays another one on
the same link. Bytes that a peer does not take yet are kept here.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Final, Protocol

from gexec import limits
from gexec.errors import ProtocolError
from gexec.posix.deadline import Deadline
from gexec.relay import tls
from gexec.relay.linkstates import CLOSED, DIALLING, GREETING, LEAVING, OPENED, REACHED, STATES
from gexec.relay.peer import Peer
from gexec.relay.pieces import PIECE_BYTES, cut, write
from gexec.relay.transports import ClientSocket, LinkProtocol
from gexec.version import VERSION
from gexec.wire import frames
from gexec.wire.frames import Frame

#: How long a frame that is not urgent may be delayed for the next one.
UNHURRIED_S: Final = 1.0
#: Answers (Pong, Refused) that a peer may leave unread, because no job's window bounds them.
ANSWERS_MAX_BYTES: Final = 1024 * 1024


class LinkOwner(Protocol):
    """Gets the events of a link."""

    def link_reached(self, link: Link) -> None:
        """A dialled link has its TCP connection; TLS and Hello follow."""

    def link_opened(self, link: Link) -> None:
        """The peer's Hello has arrived: frames may be sent."""

    def link_frame(self, link: Link, channel: int, frame: Frame) -> None:
        """A frame of a job has arrived. A ProtocolError that this raises ends the link."""

    def link_closed(self, link: Link, text: str) -> None:
        """The link has ended; called once, whether it was ever open or not."""

    def peer_refusal(self, peer: Peer) -> str:
        """Return why a peer with a valid certificate is not trusted, "" if it is."""


class Link:
    """One connection.

    Args:
        owner: gets the frames and the end.
        allowed: the frames that the peer may send (a FROM_* table).
        label: the peer in a message, e.g. ``node003 (10.0.0.3:2875)``.
        source: an address, or ``uid N``, by which log lines about the link are limited.
        accepted: the peer dialled; the time for TLS and Hello runs from now, and its name precedes the label.
        hello_s: that time; for a dialled link it runs from the end of the TLS handshake.
        wanted: the name that a dialled peer's certificate must contain; "" = any.
        unfinished: called after each read with the bytes of the frame that has begun and is not complete.

    Attributes:
        state: one of STATES; changed by ``become`` only.
        version: of the protocol that both sides speak.
        heard_s, give_up_s: event loop times of the peer's last bytes, and when dialling it is given up.
        address: the ``ip:port`` that was dialled.
        refused: why the last dialled peer is not the wanted one, "" if it is.
        waiting: it waits for its turn to be dialled.
        cut: the peer has ended it.
    """

    def __init__(
        self,
        owner: LinkOwner,
        allowed: dict[int, type[Frame]],
        label: str,
        *,
        source: str = "",
        accepted: bool = False,
        hello_s: float = limits.UNAUTHENTICATED_MAX_S,
        wanted: str = "",
        unfinished: Callable[[Link, int], None] | None = None,
    ) -> None:
        self.label = label
        self.source = source
        self.wanted = wanted
        self.address = ""
        self.refused = ""
        self.waiting = self.cut = False
        self.state = DIALLING
        self.version = limits.PROTOCOL_VERSION
        self.heard_s = 0.0
        self.give_up_s = 0.0
        self.transport: asyncio.Transport | ClientSocket | None = None
        self._unfinished = unfinished
        self._greeted = False
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._decoder = frames.Decoder(allowed, limits.UNAUTHENTICATED_MAX_BYTES)
        self.peer = Peer()
        self._pending: list[bytes] = []
        #: The transport takes no more now.
        self._paused = False
        self._flushing = False
        self._unhurried: asyncio.TimerHandle | None = None
        self._reason = ""
        self._unread_bytes = 0
        self._accepted = accepted
        self._hello_s = hello_s
        self._deadline: Deadline | None = None
        if accepted:
            self._deadline = Deadline(self._loop, hello_s, self._no_hello)

    # -- the connection -------------------------------------------------------------------

    def become(self, cause: str) -> None:
        """Change the state according to STATES."""
        self.state = STATES.after(self.state, cause)

    @property
    def reached(self) -> bool:
        """The peer's machine has answered, and the link has not ended."""
        return REACHED <= self.state <= LEAVING

    @property
    def opened(self) -> bool:
        """The peer's Hello has arrived, whether or not the link has ended since."""
        return OPENED <= self.state <= CLOSED

    @property
    def leaving(self) -> bool:
        """The peer takes no new jobs."""
        return self.state == LEAVING

    def holds(self, name: str) -> bool:
        """Tell whether the peer's certificate holds a name or address; a client has no certificate."""
        return self.peer.holds(name)

    @property
    def _closed(self) -> bool:
        return self.state >= CLOSED

    @property
    def protocol(self) -> LinkProtocol:
        """A protocol object for the event loop, for one connection."""
        return LinkProtocol(self)

    def expect_hello(self, within_s: float) -> None:
        """Give a dialled peer, whose machine has answered, ``within_s`` for TLS and its Hello."""
        self.expect_nothing()
        self._hello_s = within_s
        self._deadline = Deadline(self._loop, within_s, self._no_hello)

    def expect_nothing(self) -> None:
        """The dialled peer was not the wanted one: the time of the next address has not begun."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def connected(self, transport: asyncio.Transport | ClientSocket) -> bool:
        """The connection is made, with TLS. Return whether it is used: it may lead to another node."""
        if self._closed:  # given up while it was dialling
            transport.abort()
            return False
        self.peer = Peer(tls.certificate_of(transport))
        self.refused = self.peer.refusal(self.wanted, self.address) or self._owner.peer_refusal(self.peer)
        if self.refused:
            transport.abort()
            if self._accepted:
                self.abort(self.refused)
            return False
        self.become("connected")
        self.transport = transport
        transport.set_write_buffer_limits(high=PIECE_BYTES)
        self.heard_s = self._loop.time()
        if self._accepted and self.peer.names:
            self.label = f"{self.peer.names[0][1]} ({self.label})"
        elif self._deadline is None:
            self.expect_hello(self._hello_s)
        version = tls.version_of(transport)
        if version is not None or not self._accepted:
            self._greet(version or limits.PROTOCOL_VERSION)
        return True

    def _greet(self, version: int) -> None:
        self.version = version
        self._greeted = True
        self.send(0, frames.Hello(version, f"gexec {VERSION}"))

    def fileno(self) -> int:
        """Return the descriptor of a client's socket."""
        return self.transport.fileno() if isinstance(self.transport, ClientSocket) else -1

    def save(self) -> dict[str, Any]:
        """Return the state of a client's link, with what was half read and what was not sent."""
        sock = self.transport
        unsent = sock.unsent if isinstance(sock, ClientSocket) else b""
        return {
            "state": self.state,
            "label": self.label,
            "version": self.version,
            "greeted": self._greeted,
            "held": self._decoder.held,
            "unsent": [unsent, *self._pending],
            "unread_bytes": self._unread_bytes,
        }

    def continue_with(self, sock: socket.socket, saved: dict[str, Any]) -> None:
        """Continue with a client's socket and a state that ``save`` returned."""
        self.state = saved["state"]
        self.label, self.version, self._greeted = saved["label"], saved["version"], saved["greeted"]
        if self.opened:
            self._decoder.limit_bytes = limits.JOB_FRAME_MAX_BYTES
            self.expect_nothing()
        for _ in self._decoder.feed(saved["held"]):
            raise ValueError("a client's unfinished frame is a whole one")
        if self._unfinished is not None:
            self._unfinished(self, self._decoder.unfinished)
        self._unread_bytes = saved["unread_bytes"]
        self.heard_s = self._loop.time()
        self.transport = ClientSocket(sock, self, saved["unsent"][0])
        self.transport.set_write_buffer_limits(high=PIECE_BYTES)
        self._paused = self.transport.is_paused
        self._pending = saved["unsent"][1:]
        self._flushing = True
        self._loop.call_soon(self._flush)

    def received(self, data: memoryview) -> None:
        """Bytes from the peer have arrived; ``data`` is valid until this returns."""
        self.heard_s = self._loop.time()
        try:
            for channel, frame in self._decoder.feed(data):
                if not self.opened and not isinstance(frame, frames.Hello):
                    raise ProtocolError(f"{type(frame).__name__} before Hello")
                if channel:
                    self._owner.link_frame(self, channel, frame)
                else:
                    self._connection_frame(frame)
                if self._closed:
                    return
            if self._unfinished is not None:
                self._unfinished(self, self._decoder.unfinished)
        except ProtocolError as error:
            self.abort(f"protocol violation: {error}")

    def disconnected(self, error: Exception | None) -> None:
        """The connection has ended, from either side."""
        if error is not None and not self._reason:
            self._reason = tls.failure(error)
        self.cut = error is None or tls.is_cut(error)
        self._end()

    # -- frames ---------------------------------------------------------------------------

    def send(self, channel: int, frame: Frame, hurry: bool = True) -> None:
        """Send a frame in this turn of the loop; without ``hurry`` with the next one, within UNHURRIED_S.

        What the peer's protocol version does not have is not sent: it only adds to what older peers know.
        """
        if self.version < frame.SINCE:
            return
        self._pending += frames.encode_parts(channel, frame)
        if not hurry:
            if not self._flushing and self._unhurried is None:
                self._unhurried = self._loop.call_later(UNHURRIED_S, self._flush)
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def hasten(self) -> None:
        """Send frames now that were not urgent."""
        if self._unhurried is not None:
            self._flush()

    def answer(self, channel: int, frame: Frame) -> None:
        """Send an answer that the peer can request at any time; end the link if it never reads answers."""
        if self.transport is None or not self.transport.get_write_buffer_size():
            self._unread_bytes = 0
        self._unread_bytes += frames.HEADER_BYTES + len(frame.pack())
        if self._unread_bytes > ANSWERS_MAX_BYTES:
            raise ProtocolError(f"it has left {ANSWERS_MAX_BYTES} bytes of answers unread")
        self.send(channel, frame)

    def _flush(self) -> None:
        self._flushing = False
        if self._unhurried is not None:
            self._unhurried.cancel()
            self._unhurried = None
        if self.transport is None or self._closed:
            self._pending.clear()
        elif self._pending and not self._paused:
            parts = self._pending
            self._pending = []
            written = 0
            while written < len(parts) and not self._paused:
                end = written
                size = 0
                while end < len(parts) and size + len(parts[end]) <= PIECE_BYTES:
                    size += len(parts[end])
                    end += 1
                if end == written:  # one part is larger: a job's frame
                    end += 1
                    parts[written:end] = cut(parts[written])
                else:
                    write(self.transport, parts[written:end], size)
                    written = end
            self._pending = parts[written:] + self._pending

    @property
    def unsent_bytes(self) -> int:
        """Bytes that the peer has not taken yet."""
        held = 0 if self.transport is None else self.transport.get_write_buffer_size()
        return held + sum(map(len, self._pending))

    def pause(self) -> None:
        """The peer does not take what was written: write no more until ``resume``."""
        self._paused = True

    def resume(self) -> None:
        """It takes more again."""
        self._paused = False
        self._flush()

    def _connection_frame(self, frame: Frame) -> None:
        if isinstance(frame, frames.Hello):
            self._hello(frame)
        elif isinstance(frame, frames.Ping) and type(frame) is frames.Ping:
            self.answer(0, frames.Pong(frame.token))
        elif isinstance(frame, frames.Goodbye):
            self.become("Goodbye")
        elif not isinstance(frame, frames.Pong):
            raise ProtocolError(f"{type(frame).__name__} on channel 0")

    def _hello(self, frame: frames.Hello) -> None:
        if self.opened:
            raise ProtocolError("a second Hello")
        if not self._greeted and frame.version >= limits.PROTOCOL_OLDEST:
            self._greet(min(frame.version, limits.PROTOCOL_VERSION))  # a client, which does not wait for it
        elif frame.version != self.version:
            raise ProtocolError(
                f"it uses protocol {frame.version} ({frame.software}), "
                f"this side uses protocol {self.version} (gexec {VERSION})"
            )
        self.become("Hello")
        self._decoder.limit_bytes = limits.JOB_FRAME_MAX_BYTES
        if self._deadline is not None:
            self._deadline.cancel()
        self._owner.link_opened(self)

    def _no_hello(self) -> None:
        if not self.opened:
            self.abort(f"no Hello within {self._hello_s:g} s")

    # -- end ------------------------------------------------------------------------------

    def close(self, text: str) -> None:
        """Send what is pending, then end the link. The owner gets ``text`` as the reason."""
        if self._closed:
            return
        self._reason = self._reason or text
        self._paused = False
        self._flush()
        if self.transport is not None:
            if self._pending:
                self.transport.write(b"".join(self._pending))
            self.transport.close()
        self._end()

    def abort(self, text: str) -> None:
        """End the link at once."""
        self._reason = self._reason or text
        if self.transport is not None:
            self.transport.abort()
        self._end()

    def _end(self) -> None:
        if self._closed:
            return
        if not self._reason:
            self._reason = "the connection was closed"
            if self.state == GREETING and not self._accepted:  # after a refusal, no reason may come
                self._reason += " before Hello: the log of its gexecd has the reason"
        self.become("end")
        if self._deadline is not None:
            self._deadline.cancel()
        self._owner.link_closed(self, self._reason)
