"""The daemons' log: one line for each entry, on stderr, without control characters (attack 80)."""

from __future__ import annotations

import os
import select
import sys
import time
from typing import Final

#: Maximum of characters in an entry: peers and users supply some of them.
LINE_MAX: Final = 4096


def printable(text: str) -> str:
    """Return ``text`` with every control character, line break and escape shown as ``\\xNN``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Log:
    """Writes ``time name[pid] level: text`` to one file descriptor, each line in one write.

    Args:
        name: the process's name in each line, e.g. ``gexecd-relay``.
        fd: where to write; default: stderr. A full disk, a closed terminal or a pipe that nobody reads loses
            lines without an exception.
        verbose: also write the entries of ``debug``.
    """

    __slots__ = ("_fd", "_verbose", "name")

    def __init__(self, name: str, fd: int = 2, verbose: bool = False) -> None:
        self.name = name
        self._fd = fd
        self._verbose = verbose

    def named(self, name: str) -> Log:
        """Return the same log under another process's name."""
        return Log(name, self._fd, self._verbose)

    def debug(self, text: str) -> None:
        """Log details for debugging."""
        if self._verbose:
            self._write("debug", text)

    def info(self, text: str) -> None:
        """Log an event."""
        self._write("info", text)

    def warning(self, text: str) -> None:
        """Log an event that an administrator should check."""
        self._write("warning", text)

    def error(self, text: str) -> None:
        """Log an error."""
        self._write("error", text)

    def _write(self, level: str, text: str) -> None:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        if len(text) > LINE_MAX:
            text = f"{text[:LINE_MAX]}... ({len(text)} characters)"
        line = f"{moment} {self.name}[{os.getpid()}] {level}: {printable(text)}\n"
        try:
            # A pipe that nobody reads must not stop a daemon.
            if _is_writable(self._fd):
                os.write(self._fd, line.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # it cannot be logged


def _is_writable(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(0))


def stderr_log(name: str, verbose: bool = False) -> Log:
    """Return a log on this process's stderr."""
    try:
        return Log(name, sys.stderr.fileno(), verbose)
    except (AttributeError, OSError, ValueError):
        return Log(name, 2, verbose)
