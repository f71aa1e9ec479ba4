"""Signals as bytes of a pipe, so that one poll waits for them too. Part of the thin client."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any
else:
    import _signal

_FORWARDED = (
    _signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2,
    _signal.SIGWINCH, _signal.SIGTSTP, _signal.SIGCONT,
)  # fmt: skip
#: What ends a process that does not catch it.
DEADLY = frozenset(_FORWARDED[:6])


class Interrupts:
    """The forwarded signals of this process, caught; ``fd`` becomes readable when one came."""

    __slots__ = ("_before", "_wakeup_before", "_write_fd", "fd")

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1

    def catch(self) -> None:
        """Catch them from now on; one that was ignored at start (nohup, a shell's &) stays ignored."""
        self._wakeup_before = _signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for signum in _FORWARDED:
            before = _signal.getsignal(signum)
            if before != _signal.SIG_IGN:
                self._before[signum] = before
                _signal.signal(signum, _noted)

    def received(self) -> bytes:
        """Return the numbers of the signals that came, in order."""
        try:
            return os.read(self.fd, 512)
        except BlockingIOError:
            return b""

    def restore(self) -> None:
        """Put everything back as it was."""
        for signum, before in self._before.items():
            _signal.signal(signum, before)
        _signal.set_wakeup_fd(self._wakeup_before)
        os.close(self.fd)
        os.close(self._write_fd)

    @staticmethod
    def die(signum: int) -> None:
        """End this process by the signal itself, so that a shell sees how it ended."""
        _signal.signal(signum, _signal.SIG_DFL)
        os.kill(os.getpid(), signum)


def _noted(signum: int, frame: object) -> None:
    """The wake-up descriptor has the number already."""
