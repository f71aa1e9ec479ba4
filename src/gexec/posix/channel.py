"""The channel between relay and spawner, and between spawner and helper: AF_UNIX SOCK_SEQPACKET.

Non-blocking on both sides: what the socket does not take is queued in memory and goes out with
``flush`` when the socket is writable (``wants_write``). Received descriptors are close-on-exec
from the first moment. A peer that is gone raises ConnectionError, one that says something
malformed ProtocolError; in both cases the caller closes the channel and gives it up.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
from collections import deque
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
# Plain integers: arithmetic of the enum's members makes new members at each call.
_SEND_FLAGS: Final = int(socket.MSG_NOSIGNAL)
_RECEIVE_FLAGS: Final = int(socket.MSG_CMSG_CLOEXEC)
_TRUNCATED: Final = int(socket.MSG_TRUNC)
_DESCRIPTORS_CUT: Final = int(socket.MSG_CTRUNC)
_MEMFD_FLAGS: Final = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
#: Messages taken in one go, so that a peer that never pauses does not keep the caller from the rest.
_BUFFER_BYTES: Final = 1024 * 1024
#: What a helper may leave unread in the spawner, beside its socket's buffer. All launches that may be under
#: way find room, however small that buffer is: a helper that is slow costs nobody a rank. And some
#: signals to each task of a node, which bring neither payload nor descriptors.
_UNREAD_MAX: Final = 4 * limits.JOBS_MAX
_UNREAD_FDS_MAX: Final = _FDS_MAX * limits.LAUNCHES_UNDER_WAY_MAX
_UNREAD_BYTES_MAX: Final = _DATAGRAM_BYTES * limits.LAUNCHES_UNDER_WAY_MAX
#: What a full socket or a short-lived shortage says: try again when it is writable.
_PASSING: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS})


class MessageLost(Exception):
    """A message came, but not all of it could be taken: this process is out of descriptors or memory.

    It is the receiver's own shortage, so the peer is not to blame; the message is gone.

    Attributes:
        kind, task, value: of its head.
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
        queued_max: messages that may wait for a peer that does not read; one more raises
            ProtocolError, since such a peer is not a gexec process any more.
        queued_fds_max: descriptors that may wait with them; one more raises OSError.
        queued_bytes_max: bytes that messages with a payload may make the queue hold; None = any number.
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
        """True while messages wait for the socket to be writable: call ``flush`` then."""
        return bool(self._queue)

    @property
    def queued(self) -> int:
        """How many messages wait."""
        return len(self._queue)

    def send(self, message: Message) -> None:
        """Send a message now or queue it; never blocks. The caller keeps its own fds.

        A peer that is gone is not told here but by ``receive``.

        Raises:
            ProtocolError: the peer leaves too much unread.
            OSError: no descriptor or memory for this message, or too many wait already: it was not sent.
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
        """Send a message whose payload is in a sealed memfd, unread. The caller keeps its own memfd.

        Raises: as ``send``.
        """
        self._send(messages.HEAD.pack(kind, messages.FLAG_MEMFD, 0, 0), (memfd,), 0)

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it.

        Raises:
            OSError: a message cannot be sent at all, and is given up.
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
        """Return the next message; None when there is none.

        One at a time, and the poller asks again: to look whether another one is there costs more than
        that, and mostly none is.

        Raises:
            ConnectionError: the peer closed the channel (after all that it said was returned).
            ProtocolError: it said something that is not a message.
            MessageLost: it said something that this process has no room for.
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

    def _send(self, data: bytes, fds: tuple[int, ...], size: int) -> None:
        if self._queue or not self._sent(data, fds):
            if len(self._queue) >= self._queued_max:
                raise ProtocolError(f"the peer has left {len(self._queue)} messages unread")
            if self._is_over(len(fds), size):
                raise OSError(errno.EAGAIN, "it has not taken up what it was sent before")
            # The caller closes its own after the call, so the queue keeps copies.
            self._queue.append((data, _copies(fds)))
            self._queued_fds += len(fds)
            self._queued_bytes += len(data)

    def _is_over(self, fds: int, size: int) -> bool:
        """Tell whether so much more, with a payload or descriptors, is too much for the queue."""
        if fds and self._queued_fds + fds > self._queued_fds_max:
            return True
        most = self._queued_bytes_max
        return most is not None and size > 0 and self._queued_bytes + size > most

    def _sent(self, data: bytes, fds: tuple[int, ...]) -> bool:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._sock.sendmsg([data], ancillary, _SEND_FLAGS)
        except ConnectionError:
            return True  # a dead peer shows in receive; what was meant for it is void
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
    """One end of a channel, in the objects that both sides may say.

    Args:
        sock: see :class:`Endpoint`, which is at ``endpoint``.
        hears, says: the tables of the peer and of this side.
        bounded: the peer is a helper, which its user may stop: the queue is bounded.
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
    """Seal a memfd, so that its content never changes again.

    Raises:
        OSError: it is no memfd that can be sealed.
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
    """Return the content of a sealed memfd. ProtocolError: it is none; OSError: it cannot be read."""
    # Only a memfd has seals: a FIFO or a file of a file system that never answers is refused here,
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
