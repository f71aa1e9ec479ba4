"""Sockets that inetd (``wait``) or systemd has opened for gexecd."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from gexec.errors import ConfigError
from gexec.posix.identity import null_stdio

_FIRST_FD = 3
_FDS_MAX = 64


def inetd_listener() -> socket.socket:
    """Return the listening socket that inetd put on descriptor 0, and put /dev/null on 0, 1 and 2.

    Raises:
        ConfigError: descriptor 0 is not a socket, or is one connection.
    """
    try:
        sock = socket.socket(fileno=os.dup(0))
    except OSError as error:
        raise ConfigError("-i: expected inetd's listening socket on stdin, and it is no socket") from error
    if not _listens(sock):
        sock.close()
        raise ConfigError(
            "-i: stdin is one connection (inetd's `nowait`): use `wait`, because one daemon must see all "
            "credentials of this node to refuse those that are used twice"
        )
    null_stdio()
    sock.set_inheritable(False)
    return sock


def systemd_listeners(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """Return the listening sockets of systemd's socket activation, [] if there is none.

    Removes LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES from the environment (sd_listen_fds(3)).

    Raises:
        ConfigError: a descriptor is not a listening stream socket.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    sockets: list[socket.socket] = []
    for fd in range(_FIRST_FD, _FIRST_FD + min(int(count), _FDS_MAX)):
        try:
            sock = socket.socket(fileno=fd)
        except OSError as error:
            raise ConfigError(f"LISTEN_FDS: descriptor {fd} is no socket") from error
        sock.set_inheritable(False)
        if not _listens(sock):
            raise ConfigError(
                f"LISTEN_FDS: descriptor {fd} does not listen: use Accept=no in the socket unit"
            )
        sockets.append(sock)
    return sockets


def _listens(sock: socket.socket) -> bool:
    try:
        accepts = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        return False
    return bool(accepts) and sock.type == socket.SOCK_STREAM
