"""Sends signals to commands whose ssh cannot carry them: another ssh to the node runs kill.

This applies to commands with stdin, because they use ssh's stdin.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from gexec import limits
from gexec.posix import clock
from gexec.posix.loop import PollLoop
from gexec.ssh.process import SshProcess, spawn

#: Signals that may wait for one messenger; KILL always may.
_WAITING_MAX = 8
#: A messenger that takes longer is given up.
_WITHIN_S = limits.CONNECT_TIMEOUT_S + limits.KILL_GRACE_S


class Messengers:
    """All running messengers, at most one per command, so that signals keep their order.

    Args:
        command: returns the argv for a rank, a process group and names of signals.
    """

    def __init__(
        self,
        loop: PollLoop,
        env: dict[bytes, bytes],
        command: Callable[[int, int, list[str]], list[bytes]],
    ) -> None:
        self._loop = loop
        self._env = env
        self._command = command
        #: By pid: the process it is for. By rank: signals that wait for the next one.
        self._under_way: dict[int, SshProcess] = {}
        self._waiting: dict[int, list[str]] = {}

    def __bool__(self) -> bool:
        return bool(self._under_way)

    def send(self, process: SshProcess, names: list[str]) -> None:
        """Send signals to a command on its node, after those that are under way."""
        waiting = self._waiting.setdefault(process.rank, [])
        if len(waiting) < _WAITING_MAX or "KILL" in names:
            waiting += names
        if process not in self._under_way.values():
            self._start(process)

    def reaped(self, pid: int) -> bool:
        """A child has ended: return whether it was a messenger, and start the next one."""
        process = self._under_way.pop(pid, None)
        if process is not None:
            self._start(process)
        return process is not None

    def kill_all(self) -> None:
        """End all that are under way."""
        for pid in self._under_way:
            os.kill(pid, signal.SIGKILL)

    def _start(self, process: SshProcess) -> None:
        names = self._waiting.pop(process.rank, [])
        group = process.transcript.pid
        if not names or group is None or not (process.running or process.stalled):
            return
        try:
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            try:
                pid = spawn(self._command(process.rank, group, names), self._env, null, null, null)
            finally:
                os.close(null)
        except OSError:
            return  # out of resources: the deadlines end the command
        self._under_way[pid] = process
        self._loop.call_at(clock.now_s() + _WITHIN_S, lambda: self._recall(pid))

    def _recall(self, pid: int) -> None:
        if pid in self._under_way:
            os.kill(pid, signal.SIGKILL)
