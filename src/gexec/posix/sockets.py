"""Listens on a unix socket that no other user can replace."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import time

from gexec.errors import ConfigError
from gexec.limits import SOCKET_PATH_MAX_BYTES
from gexec.posix.trusted import check_directories

#: The only directory that is made for a socket: another missing directory is probably a typing error.
RUN_DIRECTORY = "/run/gexec"
#: How long a daemon waits for another one that is starting with the same socket.
_LOCK_WAIT_S = 5.0


def listen(path: str, *, what: str, mode: int | None = None, backlog: int = 1024) -> socket.socket:
    """Return a listening SOCK_STREAM socket at ``path``, non-blocking and close-on-exec.

    The directory must exist; only /run/gexec is made (0755), because /run is empty after each boot. It must
    belong to root or to the caller, and no other user may write to it. The socket of a daemon that has
    ended is replaced. A socket in use, another user's socket, or another kind of file is not replaced.

    Args:
        path: at most SOCKET_PATH_MAX_BYTES bytes.
        what: the daemon, for error texts: ``authd``.
        mode: of the socket; None = 0666 for root (the daemon checks SO_PEERCRED), else 0600.

    Raises:
        ConfigError: with one sentence that names the obstacle and the remedy.
    """
    path = os.path.abspath(path)
    if len(os.fsencode(path)) > SOCKET_PATH_MAX_BYTES:
        raise ConfigError(f"socket {path}: the path is over {SOCKET_PATH_MAX_BYTES} bytes: shorten it")
    if mode is None:
        mode = 0o666 if os.geteuid() == 0 else 0o600
    try:
        _prepare_directory(os.path.dirname(path))
        lock = _lock(path, what)
        try:
            _clear(path, what)
            return _bind(path, mode, backlog)
        finally:
            os.close(lock)
    except OSError as cause:
        raise ConfigError(f"cannot listen at {path}: {cause.strerror or cause}") from cause


def remove(path: str, what: str) -> None:
    """Remove the socket at ``path`` if no daemon listens there; close your own first."""
    path = os.path.abspath(path)
    try:
        lock = _lock(path, what)
        try:
            _clear(path, what)
        finally:
            os.close(lock)
    except (OSError, ConfigError):
        pass  # it is another daemon's now, or its directory was removed: leave it


def _prepare_directory(directory: str) -> None:
    if not os.path.lexists(directory):
        if directory != RUN_DIRECTORY:
            raise ConfigError(f"there is no {directory} for the socket: make it, or correct --socket")
        os.makedirs(directory, mode=0o755, exist_ok=True)
    status = os.lstat(directory)
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{directory}: expected a directory, not a link or file: remove it")
    if status.st_mode & 0o022:
        # The sticky bit does not help here: any user could have made a socket there before us.
        raise ConfigError(
            f"other users may write to {directory} and put their own socket there: "
            f"run `chmod go-w {directory}` or choose a directory of your own with --socket"
        )
    check_directories(os.path.join(directory, "socket"), "socket in", ConfigError)


def _lock(path: str, what: str) -> int:
    """Return a locked descriptor: two daemons that start at once must not replace each other's socket."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(f"{path}.lock", flags, 0o600)
    deadline_s = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                os.close(descriptor)
                raise ConfigError(f"another {what} is starting at {path}: wait for it") from None
            time.sleep(0.02)


def _clear(path: str, what: str) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ConfigError(f"{path} is in the way and is no socket: remove it, then start again")
    if status.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"the socket {path} belongs to uid {status.st_uid}: remove it, then start again")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # its queue is full, so a daemon serves it
    raise ConfigError(f"{what} already runs at {path}: stop it first, or choose another --socket")


def _bind(path: str, mode: int, backlog: int) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(path)
        listener.listen(backlog)
        os.chmod(path, mode)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener
