"""Accepting connections: listeners, TLS for daemons, SO_PEERCRED for clients, limits on unauthenticated
peers.

A connection counts against the limits from accept to its Hello. Above a limit the new connection is closed,
not the oldest, because a daemon of the cluster dials again. When descriptors run out, the daemon uses one
that it keeps in reserve to accept and close connections that it cannot serve; otherwise its loop would spin.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import Counter
from collections.abc import Awaitable
from typing import Any, Protocol

from gexec import limits
from gexec.posix.unix import peer_of
from gexec.relay import tls
from gexec.relay.arriving import OVER_SHARE, Arriving, NodeFrames
from gexec.relay.context import RelayContext
from gexec.relay.link import Link, LinkOwner
from gexec.relay.peerlog import PeerErrors
from gexec.relay.quotas import Quotas
from gexec.relay.tls import LinkContexts
from gexec.relay.transports import ClientSocket
from gexec.version import VERSION
from gexec.wire import frames

#: Connections accepted in one turn, so that a flood does not delay the jobs.
_BATCH = 32
#: The channel of a client's job.
CLIENT_CHANNEL = 1
#: What accept raises if nobody waits, or nobody any more.
_NOBODY = (BlockingIOError, InterruptedError, ConnectionAbortedError)


class AcceptOwner(LinkOwner, Protocol):
    """The owner of the accepted links."""

    def link_accepted(self, link: Link, uid: int | None) -> None:
        """A daemon, or a client of this uid, has connected; its Hello follows."""


class Acceptor:
    """The listening sockets of one relay."""

    def __init__(
        self,
        owner: AcceptOwner,
        context: RelayContext,
        contexts: LinkContexts,
        complaints: PeerErrors,
        quotas: Quotas,
        arriving: NodeFrames,
    ) -> None:
        self.contexts = contexts
        self._shares = quotas.clients
        self._peers = quotas.accepted
        self._submissions = quotas.submissions
        self._incomplete = Arriving(quotas.submissions)
        self._arriving = arriving
        self._owner = owner
        self._complaints = complaints
        self._hello_s = context.settings.unauthenticated_max_s
        self._loop = asyncio.get_running_loop()
        self._listeners = list(context.listeners)
        self._client_listeners = list(context.client_listeners)
        self._reserve: int | None = None
        self._keep_reserve()
        self._unknown: dict[Link, str] = {}
        self._sources: Counter[str] = Counter()
        self._clients: dict[Link, int] = {}
        #: Authenticated daemons, by what their links are counted under.
        self._known: dict[Link, str] = {}
        self._handshakes: dict[Link, asyncio.Task[None]] = {}

    def begin(self) -> None:
        """Start accepting."""
        for listener in (*self._listeners, *self._client_listeners):
            listener.setblocking(False)
            is_client = listener in self._client_listeners
            self._loop.add_reader(listener.fileno(), self._readable, listener, is_client)

    def listeners(self) -> list[tuple[str, list[socket.socket]]]:
        """Return the listening sockets, as they are named in ``RelayContext``."""
        return [("listeners", self._listeners), ("client_listeners", self._client_listeners)]

    def stop(self) -> None:
        """Accept no more connections; existing ones stay."""
        for listener in (*self._listeners, *self._client_listeners):
            if listener.fileno() >= 0:
                self._loop.remove_reader(listener.fileno())
                listener.close()

    def _readable(self, listener: socket.socket, is_client: bool) -> None:
        for _ in range(_BATCH):
            try:
                sock, address = listener.accept()
            except _NOBODY:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._shed(listener)
                else:
                    self._complain("accept", f"accept: {error.strerror}")
                return
            if is_client:
                self._accept_client(sock)
            else:
                self._accept_daemon(sock, str(address[0]), _shown(address))

    def _shed(self, listener: socket.socket) -> None:
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None
        who = "a connection"
        try:
            sock, address = listener.accept()
            who = _shown(address) if listener not in self._client_listeners else "a client"
            sock.close()
        except _NOBODY:
            who = ""  # the kernel takes a descriptor first, and looks then whether anybody waits
        except OSError:
            pass
        self._keep_reserve()
        if who:
            self._complain("accept", f"{who} was refused: no file descriptors are left: raise LimitNOFILE")

    def _keep_reserve(self) -> None:
        try:
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._reserve = None  # the whole system has none left: try again next time

    def _complain(self, source: str, text: str) -> None:
        self._complaints.tell(source, text, self._loop.time())

    def _accept_client(self, sock: socket.socket) -> None:
        pid, uid = peer_of(sock)
        label = f"client (pid {pid}, uid {uid})"
        if not self._shares.take(uid):
            self._refuse_client(sock, self._shares.refusal(uid, "clients"))
            self._complain(
                f"uid {uid}", f"{label} was refused: {self._shares.used(uid)} clients of this user"
            )
            return
        sock.setblocking(False)
        link = self._client_link(label, uid)
        link.connected(ClientSocket(sock, link))

    def resume_client(self, sock: socket.socket, uid: int, saved: dict[str, Any]) -> Link:
        """Return the link of a client that the relay before this one had accepted."""
        sock.setblocking(False)
        self._shares.charge(uid, 1)
        link = self._client_link(saved["label"], uid)
        link.continue_with(sock, saved)
        return link

    def _client_link(self, label: str, uid: int) -> Link:
        link = Link(
            self._owner,
            frames.FROM_CLIENT,
            label,
            source=f"uid {uid}",
            accepted=True,
            hello_s=self._hello_s,
            unfinished=self._unfinished,
        )
        self._clients[link] = uid
        self._owner.link_accepted(link, uid)
        return link

    def _unfinished(self, link: Link, size: int) -> None:
        """A client's submission needs ``size`` bytes until it is complete; 0: nothing is incomplete."""
        uid = self._clients[link]
        if self._incomplete.changed(link, uid, size):
            return
        why = self._submissions.refusal(uid, "bytes of submissions that are not complete")
        link.send(CLIENT_CHANNEL, frames.Refused(frames.REFUSED_BUSY, why))
        link.close(why)
        self._complain(f"uid {uid}", f"{link.label}: {why}")

    def _refuse_client(self, sock: socket.socket, why: str) -> None:
        """Answer before the client has said anything: it reads this whenever it looks."""
        hello = frames.Hello(limits.PROTOCOL_OLDEST, f"gexec {VERSION}")
        refused = frames.Refused(frames.REFUSED_BUSY, why)
        try:
            sock.setblocking(False)
            sock.send(frames.encode(0, hello) + frames.encode(CLIENT_CHANNEL, refused))
        except OSError:
            pass  # it is already gone
        sock.close()

    def _accept_daemon(self, sock: socket.socket, source: str, label: str) -> None:
        crowded = len(self._unknown) >= limits.LINKS_UNAUTHENTICATED_MAX
        if crowded or self._sources[source] >= limits.LINKS_UNAUTHENTICATED_PER_SOURCE_MAX:
            sock.close()
            text = f"{label} was refused: {self._sources[source]} connections from this address and "
            text += f"{len(self._unknown)} in all are not yet authenticated"
            self._complain(source, text)
            return
        sock.setblocking(False)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            pass  # it is already gone: the handshake fails
        link = Link(
            self._owner,
            frames.FROM_PARENT,
            label,
            source=source,
            accepted=True,
            hello_s=self._hello_s,
            unfinished=self._arriving.unfinished,
        )
        self._unknown[link] = source
        self._sources[source] += 1
        self._owner.link_accepted(link, None)
        self._start(
            self._loop.connect_accepted_socket(
                lambda: link.protocol,
                sock,
                ssl=self.contexts.accept,
                # The link's own deadline comes first: it reports what was missing, and detects pauses.
                ssl_handshake_timeout=self._hello_s + tls.HANDSHAKE_BACKSTOP_S,
            ),
            link,
        )

    def _start(self, connecting: Awaitable[object], link: Link) -> None:
        self._handshakes[link] = self._loop.create_task(self._connect(connecting, link))

    async def _connect(self, connecting: Awaitable[object], link: Link) -> None:
        try:
            await connecting
        except (OSError, ValueError) as error:
            link.abort(tls.failure(error))
        finally:
            self._handshakes.pop(link, None)

    def known(self, link: Link) -> None:
        """The peer is authenticated, and no longer counts against the limits of those that are not.

        If its node has too many links here, this one ends.
        """
        if not self._is_known(link):
            return
        who = link.peer.identity
        if self._peers.take(who):
            self._known[link] = who
        else:
            link.abort(f"{OVER_SHARE}: {self._peers.refusal(who, 'links')}")

    def _is_known(self, link: Link) -> bool:
        source = self._unknown.pop(link, None)
        if source is None:
            return False
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]
        return True

    def forget(self, link: Link) -> None:
        """A link has ended."""
        handshake = self._handshakes.pop(link, None)
        if handshake is not None:
            handshake.cancel()  # closes the socket
        self._is_known(link)
        self._incomplete.ended(link)
        who = self._known.pop(link, None)
        if who is not None:
            self._peers.give(who)
        uid = self._clients.pop(link, None)
        if uid is not None:
            self._shares.give(uid)


def _shown(address: tuple[Any, ...]) -> str:
    host, port = str(address[0]), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
