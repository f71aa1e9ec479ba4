"""Reports that a daemon listens: to systemd, and on given descriptors."""

from __future__ import annotations

import os
import socket


def announce(*ready_fds: int) -> None:
    """Write one byte to each of ``ready_fds`` and close it; send READY=1 to systemd if NOTIFY_SOCKET is set.

    Never raises: a daemon runs even if nothing waits for the report.
    """
    for ready_fd in ready_fds:
        try:
            os.write(ready_fd, b"1")
            os.close(ready_fd)
        except OSError:
            pass
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.connect("\0" + address[1:] if address[0] == "@" else address)
            notify.send(b"READY=1")
    except OSError:
        pass
