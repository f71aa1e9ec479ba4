"""Running in the background (``-d``), and the files that then replace stderr."""

from __future__ import annotations

import os
from typing import NamedTuple

from gexec.errors import ConfigError

#: Where the logs of root's daemons go; those of other users go beside the daemon's socket.
LOG_DIRECTORY = "/var/log/gexec"


class Logs(NamedTuple):
    """The log files of a daemon in the background.

    The audit log is a file of its own, because only the privileged process can write to it: what
    takes stderr's place is shared with the relay.
    """

    log: str
    audit: str


def logs_of(daemon: str, socket: str, *, log: str = "", audit: str = "") -> Logs:
    """Return the files of a daemon in the background; what was named stays as it is.

    Args:
        daemon: ``gexecd`` or ``authd``.
        socket: the path of its socket.
        log: as named by the administrator; empty = ``DAEMON.log`` in LOG_DIRECTORY for root, else
            beside the socket. The directory is made if it is missing, but not the socket's.
        audit: as named; empty = ``DAEMON-audit.log`` beside the log.

    Raises:
        ConfigError: the directory cannot be made.
    """
    if log:
        directory = os.path.dirname(log)
    else:
        directory = LOG_DIRECTORY if os.geteuid() == 0 else os.path.dirname(os.path.abspath(socket))
    try:
        if log or os.geteuid() == 0:
            os.makedirs(directory, mode=0o750, exist_ok=True)
    except OSError as cause:
        raise ConfigError(f"cannot make {directory} for the log: {cause.strerror}") from cause
    return Logs(
        log or os.path.join(directory, f"{daemon}.log"),
        audit or os.path.join(directory, f"{daemon}-audit.log"),
    )


def open_log(path: str) -> int:
    """Return a descriptor that appends to this file, made with mode 0600 if it is missing.

    Raises:
        ConfigError: it cannot be written to, or is a link.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
    try:
        return os.open(path, flags, 0o600)
    except OSError as cause:
        raise ConfigError(f"log {path}: cannot be written: {cause.strerror}") from cause


def detach() -> int | None:
    """Fork into the background.

    In that process returns the descriptor to ``readiness.announce`` on. The process that was
    called waits until then, so that `authd -d && gexecd -d && gexec ...` is in order, and gets
    None; if the daemon ends before, it exits with 1. stdin, stdout and stderr stay open: errors
    during the start are reported to the caller.
    """
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        if os.read(reading, 1):
            return None
        os._exit(1)  # the daemon has reported the reason
    os.close(reading)
    os.setsid()
    if os.fork():
        os._exit(0)
    return writing
