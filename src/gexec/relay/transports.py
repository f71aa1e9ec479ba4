"""The connections under a link: asyncio's protocol for TLS, and a client's socket.

A client's socket is no transport of the event loop, because those do not give back what they have not sent
yet: a relay hands its clients over to its successor (relay.handing).
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from gexec.relay.link import Link

#: All links of a process read into one buffer: the event loop fills and delivers it in one step.
_BUFFER: Final = memoryview(bytearray(256 * 1024))
#: Parts that are written with one call.
_PARTS_MAX: Final = 64
#: Reads in one turn of the loop: more than fit in a socket.
_READS_MAX: Final = 64
#: Bytes that may wait without limits from the link.
_HIGH_BYTES: Final = 64 * 1024


class LinkProtocol(asyncio.BufferedProtocol):
    """The event loop's side of a link; a separate class, because subclasses of asyncio's compile badly."""

    def __init__(self, link: Link) -> None:
        self._link = link
        #: False for a connection that leads to another node: the link gets none of its events.
        self._taken = False

    @property
    def label(self) -> str:
        """The peer, for reports of the event loop (``relay.peerlog``)."""
        return self._link.label

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not subclasses of asyncio's.
        self._taken = self._link.connected(cast(asyncio.Transport, transport))

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        if self._taken:
            self._link.received(_BUFFER[:nbytes])

    def pause_writing(self) -> None:
        if self._taken:
            self._link.pause()

    def resume_writing(self) -> None:
        if self._taken:
            self._link.resume()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._taken:
            self._link.disconnected(exc)


class ClientSocket:
    """A client's connected unix socket, with the methods of a transport that a link uses.

    Args:
        sock: non-blocking; this object owns it from now on.
        link: gets its bytes and its end.
        unsent: bytes that wait to be written.

    Attributes:
        is_paused: the link writes no more until it is resumed.
    """

    def __init__(self, sock: socket.socket, link: Link, unsent: bytes = b"") -> None:
        self._sock = sock
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._parts: deque[bytes] = deque([unsent] if unsent else [])
        self._size = len(unsent)
        self._high_bytes = _HIGH_BYTES
        self._is_writing = self._is_closing = False
        self.is_paused = len(unsent) > _HIGH_BYTES
        self._loop.add_reader(sock.fileno(), self._readable)
        if unsent:
            self._await_room()

    @property
    def unsent(self) -> bytes:
        """The bytes that the client has not taken yet."""
        return b"".join(self._parts)

    def fileno(self) -> int:
        """Return the socket's descriptor; -1 after its end."""
        return self._sock.fileno()

    def get_extra_info(self, name: str) -> Any:
        """Return None: there is no certificate."""
        return None

    def set_write_buffer_limits(self, high: int) -> None:
        """Pause the link when more than this waits to be written, and resume it at a quarter."""
        self._high_bytes = high

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait to be written."""
        return self._size

    def write(self, data: bytes) -> None:
        """Write bytes, now or when the client reads."""
        self.writelines([data])

    def writelines(self, parts: list[bytes]) -> None:
        """Write several parts, now or when the client reads."""
        if self._is_closing or self.fileno() < 0:
            return
        waits = bool(self._parts)
        self._parts += [part for part in parts if part]
        self._size += sum(map(len, parts))
        if not waits:
            self._send()
        if self._size > self._high_bytes and not self.is_paused:
            self.is_paused = True
            self._link.pause()

    def close(self) -> None:
        """End the connection when all is written."""
        if self._is_closing or self.fileno() < 0:
            return
        self._is_closing = True
        self._loop.remove_reader(self.fileno())
        if not self._parts:
            self._end(None)

    def abort(self) -> None:
        """End the connection at once."""
        self._end(None)

    def _readable(self) -> None:
        # libuv reports an error of the socket only once, so what came before it must be read now.
        for _ in range(_READS_MAX):
            if self._is_closing or self.fileno() < 0:
                return
            try:
                count = self._sock.recv_into(_BUFFER)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._end(error)
                return
            if not count:
                self.close()
                return
            self._link.received(_BUFFER[:count])

    def _send(self) -> None:
        try:
            while self._parts:
                sent = self._sock.sendmsg(list(islice(self._parts, _PARTS_MAX)))
                self._size -= sent
                while sent:
                    first = self._parts.popleft()
                    if sent < len(first):
                        self._parts.appendleft(first[sent:])
                    sent = max(0, sent - len(first))
        except (BlockingIOError, InterruptedError):
            self._await_room()
        except OSError as error:
            self._end(error)

    def _await_room(self) -> None:
        if not self._is_writing:
            self._is_writing = True
            self._loop.add_writer(self.fileno(), self._writable)

    def _writable(self) -> None:
        self._send()
        if self.fileno() < 0:
            return
        if not self._parts:
            self._is_writing = False
            self._loop.remove_writer(self.fileno())
            if self._is_closing:
                self._end(None)
                return
        if self.is_paused and 4 * self._size <= self._high_bytes:
            self.is_paused = False
            self._link.resume()

    def _end(self, error: OSError | None) -> None:
        """Close the socket; the link gets its end in the next turn of the loop."""
        if self.fileno() < 0:
            return
        self._loop.remove_reader(self.fileno())
        self._loop.remove_writer(self.fileno())
        self._parts.clear()
        self._size = 0
        self._sock.close()
        self._loop.call_soon(self._link.disconnected, error)
