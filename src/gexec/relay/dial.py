"""Dialling a node: its addresses are tried in turn, and the first that connects is used.

As in RFC 8305 (Happy Eyeballs): in the order given, the next one when the previous one has failed or has not
answered within ``limits.NEXT_ADDRESS_S``, all within one timeout. The client determines the order
(client/resolve.py). Written by hand, because uvloop's own function starts four threads to look up what
already is an address.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque

from gexec import limits
from gexec.posix.deadline import Deadline
from gexec.relay import tls


class Attempts:
    """The attempts to dial one node's addresses, and their failures.

    Args:
        addresses: from ``parse_addresses``.
        timeout_s: for all of them together, from now on.

    Attributes:
        address: of the last connection.
    """

    def __init__(self, addresses: list[str], timeout_s: float) -> None:
        self.address = ""
        self._timeout_s = timeout_s
        self._several = len(addresses) > 1
        self._failures: list[tuple[str, str]] = []
        self._todo = deque(addresses)
        self._under_way: dict[str, socket.socket] = {}
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._over = False
        #: The next address may be tried, although the previous one has not failed.
        self._next_due = False
        self._next: asyncio.TimerHandle | None = None
        self._deadline = Deadline(self._loop, timeout_s, self._time_over)

    async def connect(self) -> socket.socket | None:
        """Return the next connection, non-blocking, to ``address``; None if all addresses have failed."""
        self._begin_next()
        while self._under_way:
            await self._woken.wait()
            self._woken.clear()
            before = len(self._failures)
            for address in list(self._under_way):
                sock = self._answered(address)
                if sock is not None:
                    self.address = address
                    self._todo.extend(self._stop_others())
                    return sock
            if self._next_due or len(self._failures) > before:
                self._begin_next()
        for address in self._todo:
            self._failures.append((address, f"not tried within {self._timeout_s:g} s"))
        self._todo.clear()
        return None

    def failed(self, text: str) -> None:
        """The last connection was not to the wanted node."""
        self._failures.append((self.address, text))

    def told(self) -> str:
        """Return why the node was not reached; if it has several addresses, each with its cause."""
        if not self._several:
            return self._failures[0][1]
        by_cause: dict[str, list[str]] = {}
        for address, text in self._failures:
            by_cause.setdefault(text, []).append(address)
        return "; ".join([f"{', '.join(addresses)}: {text}" for text, addresses in by_cause.items()])

    def close(self) -> None:
        """Try nothing more."""
        self._deadline.cancel()
        self._todo.clear()
        self._stop_others()

    def _begin_next(self) -> None:
        self._next_due = False
        if self._next is not None:
            self._next.cancel()
            self._next = None
        while self._todo and not self._over:
            address = self._todo.popleft()
            try:
                self._begin(address)
            except (OSError, ValueError) as error:
                self._failures.append((address, tls.failure(error)))
                continue
            if self._todo:
                self._next = self._loop.call_later(limits.NEXT_ADDRESS_S, self._next_is_due)
            return

    def _begin(self, address: str) -> None:
        host, port = parse_address(address)
        place = _place(host, port)
        sock = socket.socket(_family(host), socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        error = sock.connect_ex(place)
        if error not in (0, errno.EINPROGRESS):
            sock.close()
            raise OSError(error, os.strerror(error))
        self._under_way[address] = sock
        if error:
            self._loop.add_writer(sock, self._woken.set)
        else:
            self._woken.set()

    def _answered(self, address: str) -> socket.socket | None:
        """Return an attempt's socket if it is connected; note if it has failed."""
        sock = self._under_way[address]
        error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        connected = not error and _is_connected(sock)
        if not (error or connected or self._over):
            return None
        del self._under_way[address]
        self._loop.remove_writer(sock)
        if connected:  # even after the deadline: answer and deadline may have arrived together
            return sock
        sock.close()
        text = tls.failure(OSError(error, os.strerror(error))) if error else ""
        self._failures.append((address, text or f"no answer within {self._timeout_s:g} s"))
        return None

    def _stop_others(self) -> list[str]:
        """Close all attempts under way, and return their addresses."""
        stopped = list(self._under_way)
        for sock in self._under_way.values():
            self._loop.remove_writer(sock)
            sock.close()
        self._under_way.clear()
        if self._next is not None:
            self._next.cancel()
            self._next = None
        return stopped

    def _next_is_due(self) -> None:
        self._next_due = True
        self._woken.set()

    def _time_over(self) -> None:
        self._over = True
        self._woken.set()


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def parse_addresses(text: str) -> list[str]:
    """Return the addresses of a job's rank; ValueError if one is not an address, or there are too many."""
    addresses = text.split(",", limits.ADDRESSES_MAX)
    if len(addresses) > limits.ADDRESSES_MAX:
        raise ValueError(f"addresses {text[:80]!r}: more than {limits.ADDRESSES_MAX}")
    for address in addresses:
        parse_address(address)
    return list(dict.fromkeys(addresses))


def parse_address(address: str) -> tuple[str, int]:
    """Return host and port of ``ip:port`` or ``[ip6%interface]:port``; ValueError if it is neither."""
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if not (host and colon and digits and 0 < int(port) < 65536 and len(address) <= limits.ADDRESS_MAX_BYTES):
        raise ValueError(f"address {address[:80]!r}: expected ip:port or [ip6]:port")
    try:
        # Connecting to a name would look it up, and block everything else in that time.
        socket.inet_pton(_family(host), host.partition("%")[0] if ":" in host else host)
    except (OSError, ValueError):
        raise ValueError(f"address {address[:80]!r}: {host[:80]!r} is not an IP address") from None
    return host, int(port)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _place(host: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return the address for connect(). A zone is the name of an interface of this host, which dials."""
    address, percent, zone = host.partition("%")
    if not percent:
        return host, port
    try:
        index = socket.if_nametoindex(zone)
    except (OSError, ValueError):
        here = os.uname().nodename
        raise ValueError(
            f"{here}, which dials it, has no network interface {zone[:20]!r}: use an address without a zone"
        ) from None
    return address, port, 0, index
