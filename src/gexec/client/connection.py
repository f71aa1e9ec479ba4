"""One job's connection to gexecd, which the terminal, ``gexec.run`` and ``gexec.stream`` drive alike.

Owns the socket and the session: bytes in and out, deadlines, keepalives and the loss of gexecd. It
never waits: its driver waits for the socket until ``due_s``, in a poll or an event loop. Terminal,
signals and views are the driver's. Part of the thin client.
"""

from __future__ import annotations

import time

from gexec.client.session import ACCEPTED, SUBMITTED
from gexec.errors import DaemonError, ProtocolError
from gexec.wire.frames import LENGTH_UNKNOWN, Ended
from gexec.wire.outcome import lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from gexec.client.session import JobSession
    from gexec.wire.frames import Frame

#: The local gexecd greets and accepts within this time or counts as stuck.
ACCEPT_TIMEOUT_S = 30.0
_RECEIVE_BYTES = 256 * 1024


class Connection:
    """The connection of one submitted job. Its owner closes it.

    Args:
        sock: connected, non-blocking.
        session: submitted.

    Attributes:
        session: of the one job.
        gone: gexecd has closed the connection or counts as lost; nothing more comes.
    """

    __slots__ = ("_accept_by_s", "_accept_s", "_sock", "_unsent", "gone", "session")

    def __init__(self, sock: _socket.socket, session: JobSession) -> None:
        now_s = time.monotonic()
        session.heard(now_s)
        self.session = session
        self.gone = False
        self._sock = sock
        self._accept_s = ACCEPT_TIMEOUT_S
        self._accept_by_s = now_s + ACCEPT_TIMEOUT_S
        self._unsent = memoryview(b"")

    def accept_within(self, accept_s: float) -> None:
        """Give gexecd so many seconds from now to take the job; without this ACCEPT_TIMEOUT_S."""
        self._accept_s = accept_s
        self._accept_by_s = time.monotonic() + accept_s

    def fileno(self) -> int:
        """Return the descriptor to wait for, -1 once it is closed."""
        return self._sock.fileno()

    def close(self) -> None:
        """Close the socket; gexecd ends what still runs."""
        self._sock.close()

    @property
    def unsent(self) -> bool:
        """True while there is something to ``send``."""
        if not self._unsent:
            self._unsent = memoryview(self.session.outgoing())
        return bool(self._unsent)

    def send(self) -> None:
        """Send as much as the socket takes now."""
        while self.unsent:
            try:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                self._unsent = memoryview(b"")
                return  # what gexecd sent before it closed is still to be read

    def receive(self) -> list[Frame]:
        """Read once; return the job's frames, those of ``JobSession.feed``.

        After gexecd's end this is Ended for the ranks without an outcome: they are lost.

        Raises:
            DaemonError: gexecd refused the job, or closed the connection before it took it.
            ProtocolError: what came is not the protocol.
        """
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            data = b""
        session = self.session
        if data:
            session.heard(time.monotonic())
            try:
                return session.feed(data)
            except ProtocolError as error:
                raise ProtocolError(f"what gexecd sent is not the protocol: {error}") from error
        if session.state == SUBMITTED:
            raise DaemonError("gexecd closed the connection before it took the job: see its log")
        return self._lost("the local gexecd ended")

    @property
    def due_s(self) -> float | None:
        """When to call ``on_time`` at the latest, on the monotonic clock; None once the job is over."""
        return self._accept_by_s if self.session.state == SUBMITTED else self.session.silence_due_s

    def on_time(self, now_s: float) -> list[Frame]:
        """Ping a silent gexecd; return Ended for the ranks that are lost with one that does not answer.

        Call it after what can be read was read.

        Raises:
            DaemonError: it has not taken the job in time.
        """
        if self.session.state == SUBMITTED and now_s > self._accept_by_s:
            raise DaemonError(f"gexecd did not take the job within {self._accept_s:g} s")
        reason = self.session.silence(now_s)
        return self._lost(reason) if reason else []

    def _lost(self, reason: str) -> list[Frame]:
        self.gone = True
        ranks = self.session.connection_ended(reason) if self.session.state == ACCEPTED else ()
        return [Ended(ranks, lost(reason), LENGTH_UNKNOWN, LENGTH_UNKNOWN)] if ranks else []
