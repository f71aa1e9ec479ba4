"""The relay's channel to its spawner on the event loop, and the receivers of each task's events."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable

from gexec.errors import ProtocolError
from gexec.posix.channel import MessageLost, Port
from gexec.posix.log import Log
from gexec.relay.ports import ProcessEvent
from gexec.wire import messages
from gexec.wire.denials import PeerDenied
from gexec.wire.messages import U32_MAX, Request
from gexec.wire.upgrades import FROM_RELAY, FROM_SPAWNER, OfRelay, ToRelay

#: Messages that concern no task.
News = messages.Certificates | messages.AcceptedSigners | ToRelay


class RelayChannel:
    """The relay's end of the channel: asks for processes, gets events. Never blocks.

    The relay calls ``receive`` when ``fileno`` is readable, ``flush`` when it is writable and
    ``wants_write``, and in ``asked`` looks at ``wants_write`` again.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._port = Port(sock, hears=FROM_SPAWNER, says=FROM_RELAY)
        self._unreported = 0

    def fileno(self) -> int:
        """Return the descriptor for the event loop."""
        return self._port.endpoint.fileno()

    @property
    def wants_write(self) -> bool:
        """True while something waits to be sent."""
        return self._port.endpoint.wants_write

    def flush(self) -> None:
        """Send what waits, as far as it goes."""
        self._port.endpoint.flush()

    def run(self, task: int, rank: int, credential: bytes, blob: bytes, fds: tuple[int, int, int]) -> None:
        """Ask for a rank to be started; answered by ProcessStarted or ProcessRefused, then ProcessEnded.

        Args:
            task: the relay's own number, 0 to 2**32-1, not in use.
            fds: the child's ends of stdin, stdout and stderr: pipes or /dev/null. The caller
                closes its copies after the call.
        """
        self._ask(messages.RunProcess(task, rank, credential, blob, fds))

    def check(self, task: int, rank: int, credential: bytes, blob: bytes) -> None:
        """Ask whether a rank could be started; answered by ProcessReady or ProcessRefused.

        After ProcessReady, ``run`` with the same task and rank starts it; ``kill`` gives it up.
        """
        self._ask(messages.Check(task, rank, credential, blob))

    def signal(self, task: int, signum: int) -> None:
        """Send a signal (1..64) to the task's process group; nothing if it has ended."""
        self._ask(messages.SignalProcess(task, signum))

    def kill(self, task: int, now: bool) -> None:
        """End the task and everything under it: HUP, TERM and after the job's grace KILL; or at once."""
        self._ask(messages.KillProcess(task, now))

    def forget(self, task: int) -> None:
        """Leave the task running and hear no more of it (a detached job)."""
        self._ask(messages.ForgetProcess(task))

    def keep(self, task: int, fds: tuple[int, int]) -> None:
        """Let the spawner keep the task's stdout and stderr for the next relay, if this one dies."""
        self._ask(messages.KeepOutput(task, fds))

    def release(self, task: int) -> None:
        """Let the spawner keep them no longer."""
        self._ask(messages.ReleaseOutput(task))

    def receive(self) -> messages.Event | ToRelay | None:
        """Return the next event, None if there is none now.

        ConnectionError or ProtocolError: the spawner is gone.
        """
        event: messages.Event | ToRelay | None = self._port.receive()
        return event

    def await_upgrade(self) -> ToRelay:
        """Block until the spawner has sent a message about an upgrade, and return it.

        Raises:
            ConnectionError, ProtocolError: the spawner is gone, or has sent another message.
        """
        poller = select.poll()
        poller.register(self.fileno(), select.POLLIN)
        while True:
            poller.poll()
            event = self.receive()
            if isinstance(event, ToRelay):
                return event
            if event is not None:
                raise ProtocolError(f"{type(event).__name__} during an upgrade")

    def close(self) -> None:
        """Close the channel; the spawner then ends all attached tasks and itself."""
        self._port.endpoint.close()

    def asked(self) -> None:
        """Something was sent; whoever has this on an event loop looks at ``wants_write`` here."""

    def report(self, denied: PeerDenied) -> None:
        """Report a refusal for the audit log; while the spawner does not read, only count it."""
        if self.wants_write:
            self._unreported += denied.count
            return
        denied.count += self._unreported
        self._unreported = 0
        self._ask(denied)

    def tell(self, said: OfRelay) -> None:
        """Send a message about an upgrade."""
        self._ask(said)

    def _ask(self, request: Request | PeerDenied | OfRelay) -> None:
        self._port.say(request)
        self.asked()


class Spawning(RelayChannel):
    """Requests to the spawner, and the receivers of its answers.

    Args:
        sock: the channel's socket.
        news: called with messages that concern no task: certificates, keys and upgrades.
        stop: called with an exit status when the spawner cannot be reached any more.

    Attributes:
        draining: the spawner's end is expected now.
        last_task: the number of the last task.
    """

    def __init__(
        self,
        sock: socket.socket,
        log: Log,
        news: Callable[[News], None],
        stop: Callable[[int], None],
    ) -> None:
        super().__init__(sock)
        self.draining = False
        self._log = log
        self._news = news
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._told: dict[int, Callable[[ProcessEvent], None]] = {}
        self.last_task = 0
        self._writing = False

    def begin(self) -> None:
        """Start receiving messages."""
        self._loop.add_reader(self.fileno(), self._readable)

    def open_task(self, told: Callable[[ProcessEvent], None]) -> int:
        """Return a number for a new task, whose events are passed to ``told``."""
        self.last_task = task = (self.last_task + 1) & U32_MAX
        self._told[task] = told
        return task

    def hear_task(self, task: int, told: Callable[[ProcessEvent], None]) -> None:
        """Pass the events of a task of an earlier relay to ``told``; new tasks get higher numbers."""
        self._told[task] = told
        self.last_task = max(self.last_task, task)

    def close_task(self, task: int) -> None:
        """Pass on no more events of a task."""
        self._told.pop(task, None)

    def asked(self) -> None:
        """Something was sent: watch the socket while the spawner has not taken all of it."""
        if self.wants_write != self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self.fileno(), self._writable)
            else:
                self._loop.remove_writer(self.fileno())

    def _writable(self) -> None:
        try:
            self.flush()
        except OSError as error:
            # A request is lost, and would never be answered.
            self._log.error(f"cannot send to the spawner ({error.strerror}): ending")
            self._stop(1)
        self.asked()

    def _readable(self) -> None:
        try:
            event = self.receive()
        except MessageLost as lost:
            self._log.error(f"a message from the spawner is lost: {lost}")
            return
        except (ConnectionError, ProtocolError) as error:
            if not self.draining:
                self._log.error(f"the spawner is gone ({error}): ending")
            self._loop.remove_reader(self.fileno())
            self._stop(0 if self.draining else 1)
            return
        if isinstance(event, News):
            self._news(event)
        elif event is not None:
            told = self._told.get(event.task)
            if told is not None:
                told(event)
