"""Writes audit lines to systemd's journal, in its native protocol: a datagram of fields for each line.

The socket is in a directory of root. If journald restarts, the next datagram finds the new socket.
"""

from __future__ import annotations

import array
import errno
import os
import socket
from typing import Final

from gexec.posix import channel
from gexec.posix.outlets import Outlet

SOCKET: Final = "/run/systemd/journal/socket"
#: syslog's priorities: 6 = info, 5 = notice, 4 = warning.
_PRIORITIES: Final = {"deny": 5, "suppressed": 5, "lost": 4}
_FLAGS: Final = int(socket.MSG_DONTWAIT) | int(socket.MSG_NOSIGNAL)


class JournalOutlet(Outlet):
    """The journal: MESSAGE is the line; GEXEC_EVENT and GEXEC_JOB can be searched for.

    Args:
        identifier: SYSLOG_IDENTIFIER.
    """

    def __init__(self, identifier: str, path: str = SOCKET) -> None:
        super().__init__("journal")
        self._path = path
        self._identifier = identifier
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def put(self, raw: bytes, event: str, job: str) -> bool:
        """Send a line; see :class:`Outlet`."""
        fields = [
            f"PRIORITY={_PRIORITIES.get(event, 6)}",
            f"SYSLOG_IDENTIFIER={self._identifier}",
            f"GEXEC_EVENT={event}",
        ]
        if job:
            fields.append(f"GEXEC_JOB={job}")
        data = b"MESSAGE=" + raw + "\n".join(fields).encode("ascii") + b"\n"
        try:
            self._sock.sendto(data, _FLAGS, self._path)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:
                raise
            self._send_in_memfd(data)
        return True

    def _send_in_memfd(self, data: bytes) -> None:
        memfd = channel.sealed(data)
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [memfd]))]
            self._sock.sendmsg([], rights, _FLAGS, self._path)
        finally:
            os.close(memfd)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
