"""Dialling: who got no processor time must not take its own lateness for the peer's."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time

import pytest

from gexec.relay.arriving import NodeFrames
from gexec.relay.dial import parse_address
from gexec.relay.link import Link
from gexec.relay.linkstates import OPENED
from gexec.relay.loop import run
from gexec.relay.peer import Peer
from gexec.relay.pool import Pool
from gexec.relay.quotas import Quotas
from gexec.relay.tls import LinkContexts
from gexec.relay.turns import Turns
from gexec.security.quota import NOBODY, Shares
from gexec.settings.config import GexecdSettings
from gexec.wire.frames import Frame

CONNECT_TIMEOUT_S = 0.02


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("10.0.0.1:2875", ("10.0.0.1", 2875)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%lo]:1", ("fe80::1%lo", 1)),
    ],
)
def test_addresses_are_taken_apart(address: str, parts: tuple[str, int]) -> None:
    assert parse_address(address) == parts


@pytest.mark.parametrize(
    "address",
    ["", "10.0.0.1", ":1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:+1", "localhost:2875",
     "[a]:1", "[node%lo]:1", "10.0.0:1", "[10.0.0.1%x]:1", "[:::1]:1"],
)  # fmt: skip
def test_names_and_nonsense_are_no_addresses(address: str) -> None:
    """A name in a job's address list must not make a relay look it up."""
    with pytest.raises(ValueError, match="address"):
        parse_address(address)


class Owner:
    """Notes what happens first to a link."""

    def __init__(self) -> None:
        self.said = asyncio.get_running_loop().create_future()
        self.begun: list[Link] = []
        self.ended: dict[Link, str] = {}
        self.idle: set[Link] = set()
        self.news = asyncio.Event()
        self.pool: Pool | None = None

    def _say(self, what: str) -> None:
        self.news.set()
        if not self.said.done():
            self.said.set_result(what)

    def link_begun(self, link: Link) -> None:
        self.begun.append(link)

    def link_reached(self, link: Link) -> None:
        self._say("reached")

    def link_opened(self, link: Link) -> None:
        self._say("opened")

    def link_frame(self, link: Link, channel: int, frame: Frame) -> None:
        self._say("frame")

    def peer_refusal(self, peer: Peer) -> str:
        return ""

    def link_is_idle(self, link: Link) -> bool:
        return link in self.idle

    def link_closed(self, link: Link, text: str) -> None:
        self.ended[link] = text
        if self.pool is not None:
            self.pool.forget(link)
        self._say(text)


def pool_of(owner: Owner, dials: int = 64, links: int = 64) -> Pool:
    context = ssl.create_default_context()
    quotas = Quotas(GexecdSettings())
    quotas.dials = Turns(Shares(dials))
    quotas.links = Shares(links)
    return Pool(owner, LinkContexts(accept=context, dial=context), quotas, NodeFrames(Shares(64, NOBODY)))


def dialled(address: str, stand_s: float) -> str:
    """Dial in a daemon that stands still right after it has asked; return what it says of the peer."""

    async def dial() -> str:
        owner = Owner()
        pool = pool_of(owner)
        link = pool.get("node", address, CONNECT_TIMEOUT_S, 1000)
        asyncio.get_running_loop().call_soon(time.sleep, stand_s)
        said: str = await owner.said
        link.abort("enough")
        return said

    return run(dial())


def test_a_dialler_that_stood_still_finds_the_connection_that_was_made_meanwhile() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert dialled(f"127.0.0.1:{port}", stand_s=5 * CONNECT_TIMEOUT_S) == "reached"


def test_a_peer_that_swallows_packets_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        port = listener.getsockname()[1]
        crowd = []
        try:
            # A listener whose queue is full answers nobody.
            while True:
                one = socket.socket()
                crowd.append(one)
                one.settimeout(0.2)
                one.connect(("127.0.0.1", port))
        except TimeoutError:
            pass
        try:
            for stand_s in (0.0, 5 * CONNECT_TIMEOUT_S):
                assert dialled(f"127.0.0.1:{port}", stand_s) == "no answer within 0.02 s"
        finally:
            for one in crowd:
                one.close()


def test_dials_of_a_user_wait_for_their_turn_and_have_all_their_time_then() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        owner = Owner()
        pool = pool_of(owner, dials=4)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = f"127.0.0.1:{listener.getsockname()[1]}"
            first, second, third = (pool.get(f"node{number}", address, 60.0, 1000) for number in range(3))
            assert owner.begun == [first, second]
            assert third.waiting
            assert pool.get("node2", address, 60.0, 1000) is third
            # Another user does not wait behind this one, nor root.
            others = pool.get("node2", address, 60.0, 1001)
            roots = pool.get("node3", address, 60.0, 0)
            assert owner.begun == [first, second, others, roots]
            first.abort("enough")
            pool.forget(first)
            assert owner.begun[-1] is third
            assert not third.waiting
            assert third.give_up_s > loop.time() + 59
            for link in (second, third, others, roots):
                link.abort("enough")
                pool.forget(link)
            assert pool.links() == []

    run(scenario())


def test_attack_126_links_to_one_node_under_many_address_lists_are_of_the_users_share() -> None:
    """Two of four places are one user's; idle links make room, the oldest first; what is urgent is made."""

    async def scenario() -> None:
        owner = Owner()
        pool = owner.pool = pool_of(owner, links=4)
        shares = pool._shares
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

            async def dial(number: int, uid: int = 1000, urgent: bool = False) -> Link:
                """Return a link that is open, or has ended: the peer answers, and says nothing."""
                addresses = f"127.0.0.1:{port},127.0.0.1:{number + 1}"
                link = pool.get("node001", addresses, 60.0, uid, urgent)
                while link not in pool._placed and link not in owner.ended:
                    owner.news.clear()
                    await owner.news.wait()
                if link in pool._placed:
                    link.state = OPENED
                return link

            first, second = [await dial(number) for number in range(2)]
            third = await dial(2)
            assert owner.ended[third].startswith(
                "uid 1000 has 2 links to other nodes on this node and gets no"
            )
            others = await dial(3, uid=1001)
            owner.idle |= {first, second, others}
            fourth = await dial(4)
            assert owner.ended[first] == "idle, and its user needs its place"
            assert shares.used(1000) == 2
            owner.idle.clear()
            urgent = await dial(5, urgent=True)
            assert shares.used(1000) == 3
            for link in (second, others, fourth, urgent):
                assert link not in owner.ended
                link.abort("enough")
            assert shares.used_by_all == 0

    run(scenario())
