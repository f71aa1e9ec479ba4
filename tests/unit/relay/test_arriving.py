"""Frames that have begun: each peer's are charged together, one ordinary frame is free, all is given back."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from gexec.relay.arriving import Arriving
from gexec.relay.link import Link
from gexec.security.quota import NOBODY, Shares
from gexec.wire import frames


class Owner:
    """Of links that are never connected."""

    def link_reached(self, link: Link) -> None:
        raise AssertionError

    link_opened = link_reached

    def link_frame(self, link: Link, channel: int, frame: frames.Frame) -> None:
        raise AssertionError

    def link_closed(self, link: Link, text: str) -> None:
        raise AssertionError

    def peer_refusal(self, peer: object) -> str:
        raise AssertionError


def links(number: int) -> list[Link]:
    async def make() -> list[Link]:
        return [Link(Owner(), {}, str(each)) for each in range(number)]

    return asyncio.run(make())


def test_one_ordinary_frame_of_each_node_is_free_and_the_rest_is_charged() -> None:
    shares = Shares(100, NOBODY)
    arriving = Arriving(shares, uncharged_bytes=10)
    first, second, third = links(3)
    assert arriving.changed(first, "node001", 10)
    assert shares.used_by_all == 0
    assert arriving.changed(second, "node001", 50)
    assert shares.used("node001") == 50
    assert not arriving.changed(first, "node001", 20)  # it ends, so its own is no longer counted
    assert shares.used("node001") == 40
    assert arriving.changed(third, "node002", 10)
    assert arriving.changed(second, "node001", 0)
    arriving.ended(third)
    arriving.ended(third)
    assert shares.used_by_all == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 60)), max_size=60))
def test_what_is_charged_is_what_is_held_and_all_is_given_back(done: list[tuple[int, int]]) -> None:
    shares = Shares(100, NOBODY)
    arriving = Arriving(shares, uncharged_bytes=10)
    known = links(6)
    held = dict.fromkeys(range(6), 0)
    for number, size in done:
        held[number] = size if arriving.changed(known[number], f"node{number % 2}", size) else 0
        for peer in (0, 1):
            total = sum(size for each, size in held.items() if each % 2 == peer)
            assert shares.used(f"node{peer}") == max(0, total - 10)
    for link in known:
        arriving.ended(link)
    assert shares.used_by_all == 0
    assert not arriving._of_peer
