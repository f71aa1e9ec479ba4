"""The channel between relay and spawner, and between spawner and helper: AF_UNIX SOCK_SEQPACKET.

Non-blocking on both sides: messages that the socket does not take are queued in memory, and ``flush``
sends them when the socket is writable (``wants_write``). Received descriptors are close-on-exec when
recvmsg returns. If the peer has closed the channel, ConnectionError is raised; if it sends a malformed
message, ProtocolError. In both cases the caller closes the channel.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
from collections import deque
from collections.abc import Iterable
from typing import Any, Final

from gexec import limits
from gexec.errors import ProtocolError
from gexec.wire import messages
from gexec.wire.messages import Message, Table

_FDS_MAX: Final = 4
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_FDS_MAX * 4)
_HEAD_BYTES: Final = messages.HEAD.size
#: The largest datagram: a head and a payload that is not in a memfd.
_DATAGRAM_BYTES: Final = _HEAD_BYTES + messages.INLINE_MAX_BYTES
# Plain integers: an operation on the enum's members makes a new member at each call.
_SEND_FLAGS: Final = int(socket.MSG_NOSIGNAL)
_RECEIVE_FLAGS: Final = int(socket.MSG_CMSG_CLOEXEC)
_TRUNCATED: Final = int(socket.MSG_TRUNC)
_DESCRIPTORS_CUT: Final = int(socket.MSG_CTRUNC)
_MEMFD_FLAGS: Final = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
#: The send buffer that is requested for the socket; the kernel may give less.
_BUFFER_BYTES: Final = 1024 * 1024
#: Limits of the spawner's queue for one helper, beside the socket's buffer. The queue has room for all
#: launches that may be under way, however small that buffer is, so that a slow helper makes no rank fail. It
#: also has room for some signals to each task of a node, which carry neither payload nor descriptors.
_UNREAD_MAX: Final = 4 * limits.JOBS_MAX
_UNREAD_FDS_MAX: Final = _FDS_MAX * limits.LAUNCHES_UNDER_WAY_MAX
_UNREAD_BYTES_MAX: Final = _DATAGRAM_BYTES * limits.LAUNCHES_UNDER_WAY_MAX
#: Errors of a full socket or a short shortage: try again when the socket is writable.
_PASSING: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})


class MessageLost(Exception):
    """A message arrived, but this process has no descriptor or memory for all of it.

    The cause is in this process, not in the peer; the message is lost.

    Attributes:
        kind, task, value: the fields of its head.
    """

    def __init__(self, kind: int, task: int, value: int, why: str) -> None:
        super().__init__(why)
        self.kind = kind
        self.task = task
        self.value = value


def pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected channel sockets, close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Endpoint:
    """One end of a channel, in messages.

    Args:
        sock: a connected SOCK_SEQPACKET socket; the endpoint owns it from now on.
        queued_max: maximum of queued messages; one more raises ProtocolError, since a gexec process
            never leaves so many unread.
        queued_fds_max: maximum of descriptors in the queue; one more raises OSError.
        queued_bytes_max: maximum of bytes in the queue after a message with a payload; None = no limit.
    """

    def __init__(
        self,
        sock: socket.socket,
        queued_max: int = 65_536,
        queued_fds_max: int = 65_536,
        queued_bytes_max: int | None = None,
    ) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        self._sock = sock
        self._queue: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._queued_max = queued_max
        self._queued_fds_max = queued_fds_max
        self._queued_fds = 0
        self._queued_bytes_max = queued_bytes_max
        self._queued_bytes = 0

    def fileno(self) -> int:
        """Return the socket's descriptor, for a poller."""
        return self._sock.fileno()

    @property
    def wants_write(self) -> bool:
        """True while messages are queued: call ``flush`` when the socket is writable."""
        return bool(self._queue)

    @property
    def queued(self) -> int:
        """Number of queued messages."""
        return len(self._queue)

    def send(self, message: Message) -> None:
        """Send a message now or queue it; never blocks. The caller keeps its own fds.

        If the peer has closed the channel, ``receive`` reports it, not this method.

        Raises:
            ProtocolError: the peer has left too many messages unread.
            OSError: the message was not sent: no descriptor or memory for it, or the queue is full.
        """
        payload, flags, fds, memfd = message.payload, 0, message.fds, -1
        if len(payload) > messages.INLINE_MAX_BYTES:
            memfd = sealed(payload)
            payload, flags, fds = b"", messages.FLAG_MEMFD, (*fds, memfd)
        data = messages.HEAD.pack(message.kind, flags, message.task, message.value) + payload
        try:
            self._send(data, fds, len(data) if payload else 0)
        finally:
            if memfd >= 0:
                os.close(memfd)

    def pass_on(self, kind: int, memfd: int) -> None:
        """Send a message whose payload is in a sealed memfd, without reading it. The caller keeps its memfd.

        Raises: as ``send``.
        """
        self._send(messages.HEAD.pack(kind, messages.FLAG_MEMFD, 0, 0), (memfd,), 0)

    def flush(self) -> None:
        """Send the queued messages, as far as the socket takes them.

        Raises:
            OSError: a message cannot be sent; it is removed from the queue.
        """
        while self._queue:
            data, fds = self._queue[0]
            sent = True
            try:
                sent = self._sent(data, fds)
            finally:
                if sent:
                    self._queue.popleft()
                    self._queued_fds -= len(fds)
                    self._queued_bytes -= len(data)
                    _close_all(fds)
            if not sent:
                return

    def receive(self) -> Message | None:
        """Return the next message; None if there is none.

        It reads one message, and the poller reports further ones: a second read costs more than that, and
        usually finds none.

        Raises:
            ConnectionError: the peer closed the channel (after all its messages were returned).
            ProtocolError: the peer sent something that is not a message.
            MessageLost: this process has no descriptor or memory for the message.
        """
        try:
            return self._received()
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Close the socket and everything queued."""
        for _, fds in self._queue:
            _close_all(fds)
        self._queue.clear()
        self._sock.close()

    def save(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the queued messages: their bytes in hexadecimal digits, and their descriptors."""
        return [(data.hex(), fds) for data, fds in self._queue]

    def restore(self, saved: Iterable[Any]) -> None:
        """Queue the messages that ``save`` returned; this endpoint owns their descriptors."""
        for text, fds in saved:
            data = bytes.fromhex(text)
            self._queue.append((data, tuple(fds)))
            self._queued_fds += len(fds)
            self._queued_bytes += len(data)

    def _send(self, data: bytes, fds: tuple[int, ...], size: int) -> None:
        if self._queue or not self._sent(data, fds):
            if len(self._queue) >= self._queued_max:
                raise ProtocolError(f"the peer has left {len(self._queue)} messages unread")
            if self._is_over(len(fds), size):
                raise OSError(errno.EAGAIN, "it has not taken up what it was sent before")
            # The caller closes its descriptors after the call, so the queue keeps copies.
            self._queue.append((data, _copies(fds)))
            self._queued_fds += len(fds)
            self._queued_bytes += len(data)

    def _is_over(self, fds: int, size: int) -> bool:
        """Return whether so many more descriptors, or bytes with a payload, are over the queue's limits."""
        if fds and self._queued_fds + fds > self._queued_fds_max:
            return True
        most = self._queued_bytes_max
        return most is not None and size > 0 and self._queued_bytes + size > most

    def _sent(self, data: bytes, fds: tuple[int, ...]) -> bool:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([data], ancillary, _SEND_FLAGS)
        except ConnectionError:
            return True  # receive reports the closed channel; the message is dropped
        except OSError as error:
            if error.errno in _PASSING:
                return False
            raise
        return True

    def _received(self) -> Message:
        data, ancillary, flags, _ = self._sock.recvmsg(_DATAGRAM_BYTES, _ANCILLARY_BYTES, _RECEIVE_FLAGS)
        fds: list[int] = []
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                whole = len(raw) - len(raw) % numbers.itemsize
                numbers.frombytes(raw[:whole])
                fds.extend(numbers)
        try:
            if not data:
                raise ConnectionResetError("the peer closed the channel")
            if flags & _TRUNCATED or len(data) < _HEAD_BYTES:
                raise ProtocolError(f"a message of {len(data)} bytes was cut")
            kind_, flags_, task, value = messages.HEAD.unpack_from(data)
            if flags & _DESCRIPTORS_CUT:
                if len(fds) >= _FDS_MAX:
                    raise ProtocolError(f"message {kind_} brings more than {_FDS_MAX} file descriptors")
                raise MessageLost(kind_, task, value, os.strerror(errno.EMFILE))
            payload = data[_HEAD_BYTES:]
            if flags_ == messages.FLAG_MEMFD and fds and not payload:
                memfd = fds.pop()
                try:
                    payload = unsealed(memfd)
                except (OSError, MemoryError) as error:
                    why = error.strerror if isinstance(error, OSError) else None
                    raise MessageLost(kind_, task, value, why or os.strerror(errno.ENOMEM)) from error
                finally:
                    os.close(memfd)
            elif flags_:
                raise ProtocolError(f"message flags {flags_:#x} are not known or do not fit the message")
            return Message(kind_, task, value, payload, tuple(fds))
        except BaseException:
            _close_all(tuple(fds))
            raise


class Port:
    """One end of a channel that sends and receives objects instead of messages.

    Args:
        sock: as for :class:`Endpoint`; the attribute ``endpoint`` is that object.
        hears, says: the tables of the peer and of this side.
        bounded: limit the queue, because the peer is a helper, which its user may stop.
    """

    def __init__(self, sock: socket.socket, hears: Table, says: Table, bounded: bool = False) -> None:
        if bounded:
            self.endpoint = Endpoint(sock, _UNREAD_MAX, _UNREAD_FDS_MAX, _UNREAD_BYTES_MAX)
        else:
            self.endpoint = Endpoint(sock)
        self._hears = hears
        self._says = says

    def receive(self) -> Any:
        """Return the next object, None if there is none now; its fds belong to the caller.

        Raises: as ``Endpoint.receive``.
        """
        message = self.endpoint.receive()
        if message is None:
            return None
        try:
            return messages.decode(message, self._hears)
        except BaseException:
            _close_all(message.fds)
            raise

    def say(self, said: Any) -> None:
        """Send an object, now or when the peer reads again. Raises: as ``Endpoint.send``."""
        self.endpoint.send(messages.encode(said, self._says))


def seal(memfd: int) -> None:
    """Seal a memfd, so that its content cannot change.

    Raises:
        OSError: the descriptor is not a memfd that can be sealed.
    """
    fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)


def sealed(payload: bytes) -> int:
    """Return a sealed memfd with this content, close-on-exec."""
    if len(payload) > messages.PAYLOAD_MAX_BYTES:
        raise ValueError(f"message of {len(payload)} bytes is over {messages.PAYLOAD_MAX_BYTES}")
    memfd = os.memfd_create("gexec", _MEMFD_FLAGS)
    try:
        view = memoryview(payload)
        while view:
            written = os.write(memfd, view)
            view = view[written:]
        seal(memfd)
    except BaseException:
        os.close(memfd)
        raise
    return memfd


def unsealed(memfd: int) -> bytes:
    """Return the content of a sealed memfd. ProtocolError: it is not one; OSError: it cannot be read."""
    # Only a memfd has seals: a FIFO, or a file of a file system that does not answer, is refused here,
    # before it is read.
    try:
        seals = fcntl.fcntl(memfd, fcntl.F_GET_SEALS)
    except OSError as error:
        raise ProtocolError("the payload's descriptor is not a memfd") from error
    size = os.fstat(memfd).st_size
    if seals & _SEALS != _SEALS or size > messages.PAYLOAD_MAX_BYTES:
        raise ProtocolError(f"the payload's memfd of {size} bytes is not sealed or over the limit")
    chunks = []
    position = 0
    while position < size:
        chunk = os.pread(memfd, size - position, position)
        if not chunk:
            raise ProtocolError("the payload's memfd is cut short")
        chunks.append(chunk)
        position += len(chunk)
    return b"".join(chunks)


def _copies(fds: tuple[int, ...]) -> tuple[int, ...]:
    copies: list[int] = []
    try:
        for fd in fds:
            copies.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3))
    except OSError:
        _close_all(tuple(copies))
        raise
    return tuple(copies)


def _close_all(fds: tuple[int, ...]) -> None:
    for fd in fds:
        try:
            os.close(fd)
        except OSError:
            pass
