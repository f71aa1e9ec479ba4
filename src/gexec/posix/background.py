"""Running in the background (``-d``), and the files that then replace stderr."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from gexec.errors import ConfigError

#: Where the logs of root's daemons go; those of other users go beside the daemon's socket.
LOG_DIRECTORY = "/var/log/gexec"


class Logs(NamedTuple):
    """The log files of a daemon in the background.

    The audit log is a separate file that only the privileged process can write to: the relay also writes
    to the file that replaces stderr.
    """

    log: str
    audit: tuple[str, ...]


def logs_of(daemon: str, socket: str, *, log: str = "", audit: tuple[str, ...] = ()) -> Logs:
    """Return the log files of a daemon in the background; paths that were given are not changed.

    Args:
        daemon: ``gexecd`` or ``authd``.
        socket: the path of its socket.
        log: the administrator's path; empty = ``DAEMON.log`` in LOG_DIRECTORY for root, else in the
            socket's directory. A missing directory is made, except the socket's.
        audit: the administrator's destinations; empty = ``DAEMON-audit.log`` in the log's directory.

    Raises:
        ConfigError: the directory cannot be made, or stderr is a destination.
    """
    if "stderr" in audit:
        raise ConfigError("audit_log: with -d there is no stderr: name a file, or journal")
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
        audit or (os.path.join(directory, f"{daemon}-audit.log"),),
    )


def open_log(path: str) -> int:
    """Return a descriptor that appends to this file; make a missing file with mode 0600.

    Raises:
        ConfigError: the file cannot be written, is no regular file, or is another user's.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY
    try:
        # Non-blocking, so that a FIFO is an error and holds nobody; regular files do not block anyway.
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o600)
    except OSError as cause:
        raise ConfigError(f"log {path}: cannot be written: {cause.strerror}") from cause
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.geteuid()):
        os.close(descriptor)
        raise ConfigError(
            f"log {path}: is no regular file of root or of your own (uid {status.st_uid}): choose another"
        )
    return descriptor


def detach() -> int | None:
    """Fork into the background.

    In the background process, return the descriptor for ``readiness.announce``. The original process
    waits for that byte, so that `authd -d && gexecd -d && gexec ...` works, and then returns None; if
    the daemon ends before, it exits with 1. stdin, stdout and stderr stay open, so that the caller
    gets errors of the start.
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
