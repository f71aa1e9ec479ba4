"""A single-threaded poll loop: descriptors, signals and timers. For processes without asyncio."""

from __future__ import annotations

import heapq
import os
import select
import signal
from collections.abc import Callable, Sequence
from typing import Final

from gexec.core.deadlines import earlier, wake_s
from gexec.posix import clock

_CHILD: Final = int(signal.SIGCHLD)
_READ: Final = select.POLLIN
_READ_WRITE: Final = select.POLLIN | select.POLLOUT


class PollLoop:
    """Descriptors, signals and timers, one turn at a time.

    Args:
        on_signal: called in a turn of the loop with each received signal of ``take_signals``, SIGCHLD
            first. A signal that arrived twice between two turns is reported once.
        on_fault: called with an exception of a handler, ``on_signal`` or a timer; the turn then continues
            with the others. None = the exception is raised, and ends the turn.
    """

    def __init__(
        self, on_signal: Callable[[int], None], on_fault: Callable[[Exception], None] | None = None
    ) -> None:
        self._on_signal = on_signal
        self._on_fault = on_fault
        self._poller = select.poll()
        self._handlers: dict[int, Callable[[], object]] = {}
        self._writing: set[int] = set()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timers_made = 0
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.watch(self._wake_read, self._woken)

    def take_signals(self, signums: Sequence[int]) -> None:
        """Handle these signals from now on, each in the next turn."""
        for signum in signums:
            signal.signal(signum, _noted)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)

    @property
    def has_signals(self) -> bool:
        """True if a signal has arrived that the next turn will report."""
        poller = select.poll()
        poller.register(self._wake_read, _READ)
        return bool(poller.poll(0))

    def watch(self, fd: int, handler: Callable[[], object]) -> None:
        """Call ``handler`` whenever the descriptor is readable or at end of file, and, after
        ``want_write``, when it is writable."""
        self._handlers[fd] = handler
        self._writing.discard(fd)
        self._poller.register(fd, _READ)

    def want_write(self, fd: int, wanted: bool) -> None:
        """Set whether to wake up when a watched descriptor is writable."""
        if fd not in self._handlers or wanted == (fd in self._writing):
            return
        if wanted:
            self._writing.add(fd)
        else:
            self._writing.remove(fd)
        self._poller.modify(fd, _READ_WRITE if wanted else _READ)

    def unwatch(self, fd: int) -> None:
        """Stop watching the descriptor; call this before closing it."""
        if self._handlers.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def watches(self, fd: int) -> bool:
        """True if the descriptor is watched."""
        return fd in self._handlers

    def call_at(self, when_s: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` once, at this time of ``posix.clock``."""
        self._timers_made += 1
        heapq.heappush(self._timers, (when_s, self._timers_made, callback))

    def turn(self, due_s: float | None) -> None:
        """Wait for events, at most until ``due_s`` (of ``posix.clock``), and handle them.

        The caller's duty: check its own deadlines afterwards.
        """
        if self._timers:
            due_s = earlier(due_s, self._timers[0][0])
        if due_s is not None:
            due_s = wake_s(clock.now_s(), due_s)
        ready = self._poller.poll(_timeout_ms(due_s))
        clock.awake(due_s)
        for fd, _ in ready:
            handler = self._handlers.get(fd)
            if handler is not None:
                try:
                    handler()
                except Exception as error:
                    self._fault(error)
        if self._timers:
            now_s = clock.now_s()
            while self._timers and self._timers[0][0] <= now_s:
                try:
                    heapq.heappop(self._timers)[2]()
                except Exception as error:
                    self._fault(error)

    def _fault(self, error: Exception) -> None:
        if self._on_fault is None:
            raise error
        self._on_fault(error)

    def _woken(self) -> None:
        raw = os.read(self._wake_read, 4096)
        if _CHILD in raw:
            self._tell_signal(_CHILD)
        if len(raw) > 1 or raw[0] != _CHILD:
            for signum in set(raw) - {_CHILD}:
                self._tell_signal(signum)

    def _tell_signal(self, signum: int) -> None:
        try:
            self._on_signal(signum)
        except Exception as error:
            self._fault(error)


def _timeout_ms(due_s: float | None) -> int:
    if due_s is None:
        return -1
    wait_s = due_s - clock.now_s()
    return int(wait_s * 1000) + 1 if wait_s > 0 else 0


def _noted(signum: int, frame: object) -> None:
    """Does nothing: the wake-up descriptor reports the signal."""
