"""The pool of links that this daemon has dialled: one per (name, addresses), shared by all its jobs.

``get`` returns at once; the link may still be dialling, and the caller waits for ``link_opened`` or
``link_closed``. Idle links are kept for minutes, so that the next job can use them without a handshake. Links
with jobs are pinged, and given up when the peer is silent.

A link takes a place of its user's share as soon as its peer's machine has answered, and keeps it until it
ends (attack 126): idle links of the user make room, the oldest first.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import Protocol

from gexec import limits
from gexec.relay import tls
from gexec.relay.arriving import NodeFrames
from gexec.relay.dial import Attempts, parse_addresses
from gexec.relay.link import Link, LinkOwner
from gexec.relay.ports import LinkPort
from gexec.relay.quotas import Quotas
from gexec.relay.tls import LinkContexts
from gexec.relay.turns import Turn
from gexec.wire import frames


class PoolOwner(LinkOwner, Protocol):
    """The owner of the dialled links."""

    def link_begun(self, link: Link) -> None:
        """A link that waited, or not, is dialled now."""

    def link_is_idle(self, link: Link) -> bool:
        """Tell whether no job uses a link."""


class Pool:
    """Links to other daemons, by the name and addresses that were dialled."""

    def __init__(
        self, owner: PoolOwner, contexts: LinkContexts, quotas: Quotas, arriving: NodeFrames
    ) -> None:
        self.contexts = contexts
        self._owner = owner
        self._turns = quotas.dials
        self._shares = quotas.links
        self._arriving = arriving
        self._turn_of: dict[Link, Turn] = {}
        #: The users of the links that have a place.
        self._placed: dict[Link, int] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._key_of: dict[Link, tuple[str, str]] = {}
        self._dials: dict[Link, asyncio.Task[None]] = {}

    def get(self, name: str, addresses: str, timeout_s: float, uid: int, urgent: bool = False) -> Link:
        """Return the link to a node, dialling it if there is none, when it is this user's turn.

        Args:
            name: the name that its certificate must contain.
            addresses: ``ip:port`` or ``[ip6%interface]:port``, several with commas between: tried in turn.
            timeout_s: for the TCP connection to any of the addresses, if there is no link yet; from the
                time when it is dialled.
            uid: the user for whom it is dialled.
            urgent: dial it now, whoever's turn it is.

        Raises:
            ValueError: an address does not have that form, or there are too many.
        """
        key = (name, addresses)
        link = self._links.get(key)
        now_s = asyncio.get_running_loop().time()
        if link is not None:
            turn = self._turn_of.get(link)
            if link.waiting and turn is not None:  # another user has a queue of its own
                if turn.uid == uid and link.give_up_s == timeout_s:
                    if urgent:
                        self._turns.hurry(turn)
                    return link
            elif may_carry(link, now_s, timeout_s):
                return link
        each = parse_addresses(addresses)
        label = f"{name} ({', '.join(each)})"
        link = Link(
            self._owner,
            frames.FROM_CHILD,
            label,
            source=label,
            wanted=name,
            unfinished=self._arriving.unfinished,
        )
        link.give_up_s = timeout_s
        self._links[key] = link
        self._key_of[link] = key
        link.waiting = True
        turn = self._turns.ask(uid, len(each), partial(self._begin, link, each, timeout_s), urgent)
        if link.waiting or link in self._dials:
            self._turn_of[link] = turn
        return link

    def _begin(self, link: Link, addresses: list[str], timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        link.waiting = False
        link.give_up_s = loop.time() + timeout_s
        self._dials[link] = loop.create_task(self._dial(link, addresses, timeout_s))
        self._owner.link_begun(link)

    def _end_turn(self, link: Link) -> None:
        turn = self._turn_of.pop(link, None)
        if turn is not None:
            turn.end()

    async def _dial(self, link: Link, addresses: list[str], timeout_s: float) -> None:
        attempts = Attempts(addresses, timeout_s)
        try:
            while True:
                sock = await attempts.connect()
                if sock is None:
                    break
                full = self._take_place(link)
                if full:
                    sock.close()
                    link.abort(full)
                    return
                text = await self._shake_hands(link, attempts.address, sock, timeout_s)
                if not text:
                    return
                # Another node has this address now, or the listener is not a gexecd.
                link.expect_nothing()
                attempts.failed(text)
            link.abort(attempts.told())
        finally:
            attempts.close()
            self._dials.pop(link, None)
            self._end_turn(link)

    def _take_place(self, link: Link) -> str:
        """Take a place for a link whose peer's machine has answered; return why it gets none, or ""."""
        turn = self._turn_of.get(link)
        if turn is None or link in self._placed:  # it had its place with another address
            return ""
        uid = turn.uid
        while not self._shares.left(uid) and self._close_idle(uid):
            pass
        if turn.urgent:  # it replaces a link that was lost
            self._shares.charge(uid, 1)
        elif not self._shares.take(uid):
            return self._shares.refusal(uid, "links to other nodes")
        self._placed[link] = uid
        return ""

    def _close_idle(self, uid: int) -> bool:
        """Close the oldest link of a user that no job uses; False if there is none."""
        for link, owner in self._placed.items():
            if owner == uid and link.opened and self._owner.link_is_idle(link):
                link.close("idle, and its user needs its place")
                return True
        return False

    async def _shake_hands(self, link: Link, address: str, sock: socket.socket, timeout_s: float) -> str:
        """Use a connection for a link; return why that failed, "" if it did not."""
        loop = asyncio.get_running_loop()
        within_s = patience_s(timeout_s)
        link.cut = False
        link.address = address
        link.label = f"{link.wanted} ({address})"
        link.give_up_s = loop.time() + within_s
        link.expect_hello(within_s)
        try:
            if not link.reached:
                # The machine is up and its port is open: from now on it may be slow, but not dead.
                self._owner.link_reached(link)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.create_connection(
                lambda: link.protocol,
                sock=sock,
                ssl=self.contexts.dial,
                server_hostname="",
                # The link's own deadline comes first: it detects pauses of this process.
                ssl_handshake_timeout=within_s + tls.HANDSHAKE_BACKSTOP_S,
            )
        except (OSError, ValueError) as error:
            link.cut = tls.is_cut(error)
            return tls.failure(error)
        finally:
            if link.transport is None:
                sock.close()
        return link.refused

    def forget(self, link: Link) -> None:
        """Drop a link that has ended, and stop dialling it."""
        dial = self._dials.pop(link, None)
        self._end_turn(link)
        uid = self._placed.pop(link, None)
        if uid is not None:
            self._shares.give(uid)
        if dial is not None and dial is not asyncio.current_task():
            dial.cancel()
        key = self._key_of.pop(link, None)
        if key is not None and self._links.get(key) is link:  # another one may have its place
            del self._links[key]

    def renew(self, contexts: LinkContexts) -> None:
        """Dial with another certificate from now on; jobs keep their links, and new jobs get new ones."""
        self.contexts = contexts
        for key, link in list(self._links.items()):
            if link.opened:
                del self._links[key]

    def links(self) -> list[Link]:
        """Return all links, open or not."""
        return list(self._links.values())


def may_carry(link: LinkPort, now_s: float, timeout_s: float) -> bool:
    """Tell whether a link can be used by a job with this connect timeout."""
    if link.opened or link.leaving:
        return not link.leaving
    left_s = link.give_up_s - now_s
    # This job must not get another job's timeout, neither a longer nor a much shorter one.
    if link.reached:
        return left_s <= patience_s(timeout_s)
    return timeout_s / 2 <= left_s <= timeout_s


def patience_s(timeout_s: float) -> float:
    """Return how long TLS and Hello may take on a machine that was reached."""
    return max(timeout_s, limits.HANDSHAKE_TIMEOUT_S)
