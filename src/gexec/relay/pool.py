"""The pool of links that this daemon dialled: one per (name, address), shared by all its jobs.

``get`` answers at once with a link that may still be dialling: the caller waits for
``link_opened`` or ``link_closed``. Idle links are kept for minutes, so that the next job finds them
warm; links with jobs are kept alive by pings and given up when the peer is silent.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket

from gexec import limits
from gexec.posix.deadline import Deadline
from gexec.relay import tls
from gexec.relay.link import Link, LinkOwner
from gexec.relay.tls import LinkContexts
from gexec.wire import frames


class Pool:
    """Links to other daemons, by the name and address they were dialled under."""

    def __init__(self, owner: LinkOwner, contexts: LinkContexts) -> None:
        self.contexts = contexts
        self._owner = owner
        self._links: dict[tuple[str, str], Link] = {}
        self._dials: dict[Link, asyncio.Task[None]] = {}

    def get(self, name: str, address: str, timeout_s: float) -> Link:
        """Return the link to a node, dialling it if there is none.

        Args:
            name: what its certificate must be for.
            address: ``ip:port`` or ``[ip6]:port``.
            timeout_s: for the TCP connection, when it has to be dialled.

        Raises:
            ValueError: the address is not of that form.
        """
        key = (name, address)
        link = self._links.get(key)
        now_s = asyncio.get_running_loop().time()
        if link is not None and not link.leaving:
            patience_s = _patience_s(timeout_s) if link.reached else timeout_s
            left_s = link.give_up_s - now_s
            # Another job's time-out must not become this one's, neither a longer nor a much shorter one.
            enough = link.reached or left_s >= timeout_s / 2
            if link.opened or (enough and left_s <= patience_s):
                return link
        host, port = parse_address(address)
        label = f"{name} ({address})"
        link = Link(self._owner, frames.FROM_CHILD, label, source=label)
        link.give_up_s = now_s + timeout_s
        self._links[key] = link
        dial = self._dial(link, name, host, port, timeout_s)
        self._dials[link] = asyncio.get_running_loop().create_task(dial)
        return link

    async def _dial(self, link: Link, name: str, host: str, port: int, timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        sock = None
        try:
            sock = socket.socket(
                _family(host), socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            )
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                await _connect(sock, (host, port), timeout_s)
            except TimeoutError:
                link.abort(f"no answer within {timeout_s:g} s")
                return
            link.give_up_s = loop.time() + _patience_s(timeout_s)
            link.expect_hello(_patience_s(timeout_s))
            # The machine is there, and somebody listens: from here on it may be slow, but not dead.
            self._owner.link_reached(link)
            await loop.create_connection(
                lambda: link.protocol,
                sock=sock,
                ssl=self.contexts.dial,
                server_hostname=name,
                # The link's own deadline comes first: it sees pauses of this process.
                ssl_handshake_timeout=_patience_s(timeout_s) + tls.HANDSHAKE_BACKSTOP_S,
            )
        except (OSError, ValueError) as error:
            link.abort(tls.failure(error))
        finally:
            self._dials.pop(link, None)
            if link.transport is None and sock is not None:
                sock.close()

    def forget(self, link: Link) -> None:
        """Drop a link that has ended, and stop dialling it."""
        dial = self._dials.pop(link, None)
        if dial is not None and dial is not asyncio.current_task():
            dial.cancel()
        for key, known in list(self._links.items()):
            if known is link:
                del self._links[key]

    def links(self) -> list[Link]:
        """Return the links there are, opened or not."""
        return list(self._links.values())


async def _connect(sock: socket.socket, address: tuple[str, int], timeout_s: float) -> None:
    """Connect a non-blocking socket. TimeoutError: no answer; any other OSError says why not.

    By hand: uvloop's own starts four threads to look up what is an address already.
    """
    error = sock.connect_ex(address)
    if error == errno.EINPROGRESS:
        loop = asyncio.get_running_loop()
        answered = asyncio.Event()
        loop.add_writer(sock, answered.set)
        deadline = Deadline(loop, timeout_s, answered.set)
        try:
            await answered.wait()
        finally:
            deadline.cancel()
            loop.remove_writer(sock)
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        # The answer may have come after all, if both were there at once.
        if not error and not _is_connected(sock):
            raise TimeoutError
    if error:
        raise OSError(error, os.strerror(error))


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _patience_s(timeout_s: float) -> float:
    """Return how long TLS and Hello may take on a machine that was reached."""
    return max(timeout_s, limits.HANDSHAKE_TIMEOUT_S)


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of ``ip:port`` or ``[ip6]:port``; ValueError if it is neither."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"address {address[:80]!r}: expected ip:port or [ip6]:port")
    try:
        # A name would be looked up by whoever connects, and hold everything else up meanwhile.
        socket.inet_pton(_family(host), host.partition("%")[0] if ":" in host else host)
    except OSError:
        raise ValueError(f"address {address[:80]!r}: {host[:80]!r} is not an IP address") from None
    return host, int(port)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
