"""The connections to a keeper: who waits for news, and who must have read a segment before it goes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable
from struct import Struct
from typing import Final

from gexec.jobs.control import MESSAGE_MAX_BYTES, News
from gexec.jobs.segments import Segment
from gexec.posix.loop import PollLoop

#: Connections at a time; others are closed at once.
_MAX: Final = 64
_UCRED: Final = Struct("iII")


class Followers:
    """The connections of one keeper.

    Args:
        loop: the keeper's.
        asked: returns the answer to a request, or the request for news, which is answered by ``tell``.
        moved: called when a reader that holds output has read more, or nothing is held any longer.
        holds: nothing is discarded until the first reader that holds has gone, or ``hold_is_over``.
    """

    def __init__(
        self,
        loop: PollLoop,
        asked: Callable[[bytes], str | News],
        moved: Callable[[], None],
        holds: bool,
    ) -> None:
        self._loop = loop
        self._asked = asked
        self._moved = moved
        self._by_fd: dict[int, socket.socket] = {}
        self._waiting: dict[int, News] = {}
        #: Where each reader that holds is.
        self._positions: dict[int, News] = {}
        self._holds = holds

    def take(self, connection: socket.socket) -> None:
        """Serve a connection, if it is the user's own or root's."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(raw)
        if len(self._by_fd) >= _MAX or uid not in (0, os.geteuid()):
            connection.close()
            return
        connection.setblocking(False)
        fd = connection.fileno()
        self._by_fd[fd] = connection
        self._loop.watch(fd, lambda: self._heard(fd))

    def _heard(self, fd: int) -> None:
        try:
            raw = self._by_fd[fd].recv(MESSAGE_MAX_BYTES)
        except BlockingIOError:
            return
        except OSError:
            raw = b""
        if not raw:
            self._drop(fd)
            return
        answer = self._asked(raw)
        if isinstance(answer, str):
            self._say(fd, answer)
            return
        self._waiting[fd] = answer
        if answer.hold:
            self._positions[fd] = answer
            self._moved()

    def tell(self, ends: tuple[int, int], has_ended: bool) -> None:
        """Answer those that wait, if there is news."""
        for fd, known in list(self._waiting.items()):
            if has_ended or ends[0] > known.stdout or ends[1] > known.stderr:
                del self._waiting[fd]
                self._say(fd, f"{'ended' if has_ended else 'more'} {ends[0]} {ends[1]}")

    def _say(self, fd: int, answer: str) -> None:
        try:
            self._by_fd[fd].send(answer.encode()[:MESSAGE_MAX_BYTES])
        except OSError:
            self._drop(fd)  # it reads nothing

    def _drop(self, fd: int) -> None:
        self._loop.unwatch(fd)
        self._by_fd.pop(fd).close()
        self._waiting.pop(fd, None)
        if self._positions.pop(fd, None) is not None and not self._positions:
            self._holds = False
            self._moved()

    # -- holding -----------------------------------------------------------------------------

    def holds(self, stream: int, doomed: Iterable[Segment]) -> bool:
        """Tell whether a reader must have segments that would go now; 0 = stdout, 1 = stderr."""
        if not self._holds:
            return False
        read = min([position[stream] for position in self._positions.values()], default=0)
        return any(segment.end > read for segment in doomed)

    def hold_is_over(self) -> None:
        """Discard from now on, if no reader that holds has come."""
        if self._holds and not self._positions:
            self._holds = False
            self._moved()

    def close(self) -> None:
        """Close all connections."""
        for fd in list(self._by_fd):
            self._drop(fd)
