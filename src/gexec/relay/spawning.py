"""The relay's channel to its spawner on the event loop, and the receivers of each task's events."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from itertools import count

from gexec.errors import ProtocolError
from gexec.posix.channel import MessageLost, RelayChannel
from gexec.posix.log import Log
from gexec.relay.ports import ProcessEvent
from gexec.wire import messages


class Spawning(RelayChannel):
    """Requests to the spawner, and the receivers of its answers.

    Args:
        sock: the channel's socket.
        news: called with messages that concern no task: certificates and keys.
        stop: called with an exit status when the spawner cannot be reached any more.

    Attributes:
        draining: the spawner's end is expected now.
    """

    def __init__(
        self,
        sock: socket.socket,
        log: Log,
        news: Callable[[messages.Certificates | messages.AcceptedKeys], None],
        stop: Callable[[int], None],
    ) -> None:
        super().__init__(sock)
        self.draining = False
        self._log = log
        self._news = news
        self._stop = stop
        self._loop = asyncio.get_running_loop()
        self._told: dict[int, Callable[[ProcessEvent], None]] = {}
        self._numbers = count(1)
        self._writing = False

    def begin(self) -> None:
        """Start receiving messages."""
        self._loop.add_reader(self.fileno(), self._readable)

    def open_task(self, told: Callable[[ProcessEvent], None]) -> int:
        """Return a number for a new task, whose events are passed to ``told``."""
        task = next(self._numbers) & messages.TASK_MAX
        self._told[task] = told
        return task

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
        if isinstance(event, messages.Certificates | messages.AcceptedKeys):
            self._news(event)
        elif event is not None:
            told = self._told.get(event.task)
            if told is not None:
                told(event)
