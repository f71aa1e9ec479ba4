"""What the spawner process passes to the relay that it forks."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from gexec.posix.log import Log
from gexec.security.signers import Trust
from gexec.settings.config import GexecdSettings


class RelayContext:
    """Everything that a relay needs and may have; the relay itself cannot open any of this.

    Attributes:
        listeners: listening TCP sockets for links, non-blocking.
        client_listeners: listening unix sockets for clients of this host, if it takes jobs, non-blocking.
        channel_socket: for ``posix.channel.RelayChannel``.
        certificates: (key, certificate, authority), PEM; renewed ones arrive as a message.
        names: this node's names and addresses.
        settings: as read.
        superuser: whose share has a reserve: root, or the user of a daemon that serves only that user.
        trust: the accepted signers, and the revoked nodes.
        ready: call it once, when both listeners are served.
        log: the relay's own.
        predecessor: the state of the relay before this one comes on this socket; None = there was none.
            Then also the listeners come with it.
        expires_s: of a successor: until when its certificate is valid, UNIX time.
        last_task: the last number of a task of a relay that died and that this one replaces; None = there
            was none.
    """

    __slots__ = (
        "certificates", "channel_socket", "client_listeners", "expires_s", "last_task", "listeners", "log",
        "names", "predecessor", "ready", "settings", "superuser", "trust",
    )  # fmt: skip

    def __init__(
        self,
        *,
        listeners: Sequence[socket.socket],
        client_listeners: Sequence[socket.socket],
        channel_socket: socket.socket,
        certificates: tuple[bytes, bytes, bytes],
        names: tuple[str, ...],
        settings: GexecdSettings,
        superuser: int,
        trust: Trust,
        ready: Callable[[], None],
        log: Log,
        predecessor: socket.socket | None = None,
        expires_s: int = 0,
        last_task: int | None = None,
    ) -> None:
        self.listeners = tuple(listeners)
        self.client_listeners = tuple(client_listeners)
        self.channel_socket = channel_socket
        self.certificates = certificates
        self.names = names
        self.settings = settings
        self.superuser = superuser
        self.trust = trust
        self.ready = ready
        self.log = log
        self.predecessor = predecessor
        self.expires_s = expires_s
        self.last_task = last_task
