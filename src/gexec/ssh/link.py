"""The engine's connection to its client: frames in, frames out, and the size of the backlog."""

from __future__ import annotations

import socket
from collections.abc import Callable

from gexec.errors import GexecError
from gexec.posix.loop import PollLoop
from gexec.wire.frames import FROM_CLIENT, Decoder, Frame, encode

#: The channel of the one job; 0 is for the connection.
JOB_CHANNEL = 1
#: No ssh's output is read while the client has not taken this much.
BACKLOG_MAX_BYTES = 1024 * 1024
_RECEIVE_BYTES = 256 * 1024


class ClientLink:
    """A connected socket on the loop.

    Args:
        on_frame: called with (channel, frame); a GexecError from it ends the connection.
        on_error: called with that error before the end.
        on_end: called once, when the connection has ended.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: PollLoop,
        on_frame: Callable[[int, Frame], None],
        on_error: Callable[[GexecError], None],
        on_end: Callable[[], None],
    ) -> None:
        self._sock = sock
        self._loop = loop
        self._on_frame = on_frame
        self._on_end = on_end
        self._on_error = on_error
        self._decoder = Decoder(FROM_CLIENT)
        self._unsent = bytearray()
        self.open = True
        sock.setblocking(False)
        loop.watch(sock.fileno(), self._ready)

    @property
    def backlog_bytes(self) -> int:
        """Bytes that the client has not taken yet."""
        return len(self._unsent)

    def say(self, frame: Frame, channel: int = JOB_CHANNEL) -> None:
        """Queue a frame; ``flush`` sends it."""
        if self.open:
            self._unsent += encode(channel, frame)

    def flush(self) -> None:
        """Send as much as the client takes now."""
        while self._unsent and self.open:
            try:
                sent = self._sock.send(self._unsent)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                self.close()
                return
            del self._unsent[:sent]
        if self.open:
            self._loop.want_write(self._sock.fileno(), bool(self._unsent))

    def close(self) -> None:
        """End the connection; ``on_end`` is called unless it has already ended."""
        if self.open:
            self.open = False
            self._unsent.clear()
            self._loop.unwatch(self._sock.fileno())
            self._sock.close()
            self._on_end()

    def _ready(self) -> None:
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        try:
            for channel, frame in self._decoder.feed(data):
                self._on_frame(channel, frame)
        except GexecError as error:
            self._on_error(error)
            self.close()
