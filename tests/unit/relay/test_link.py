"""A link to a peer that reads slowly: all arrives in order, and little of it waits in the transport."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gexec import limits
from gexec.relay.link import Link
from gexec.relay.loop import run
from gexec.relay.peer import Peer
from gexec.version import VERSION
from gexec.wire import frames
from gexec.wire.frames import Frame, Start, Stdin

FRAMES = 200
DATA = bytes(60_000)


class Owner:
    """Keeps the frames that come."""

    def __init__(self, expected: int) -> None:
        self.came: list[Frame] = []
        self.opened = asyncio.Event()
        self.all = asyncio.Event()
        self.closed: list[str] = []
        self._expected = expected

    def link_reached(self, link: Link) -> None:
        pass

    def link_opened(self, link: Link) -> None:
        self.opened.set()

    def link_frame(self, link: Link, channel: int, frame: Frame) -> None:
        self.came.append(frame)
        if len(self.came) == self._expected:
            self.all.set()

    def peer_refusal(self, peer: Peer) -> str:
        return ""

    def link_closed(self, link: Link, text: str) -> None:
        self.closed.append(text)
        self.all.set()


async def pair(
    expected: int, allowed: dict[int, type[Frame]] = frames.FROM_PARENT
) -> tuple[Link, asyncio.Transport, Link, asyncio.Transport, Owner]:
    """Return a sending and a receiving link over a socket, both opened, and who receives."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    sends, takes = Owner(0), Owner(expected)
    sender = Link(sends, frames.FROM_CHILD, "sender")
    taker = Link(takes, allowed, "taker", accepted=True)
    ours, _ = await loop.connect_accepted_socket(lambda: sender.protocol, here)
    theirs, _ = await loop.connect_accepted_socket(lambda: taker.protocol, there)
    await sends.opened.wait()
    await takes.opened.wait()
    return sender, ours, taker, theirs, takes


async def turn() -> None:
    """Let the event loop do what is due now."""
    done = asyncio.Event()
    asyncio.get_running_loop().call_soon(done.set)
    await done.wait()


def test_what_a_slow_reader_does_not_take_waits_in_the_link_and_arrives_in_order() -> None:
    async def scenario() -> None:
        sender, ours, _, theirs, takes = await pair(FRAMES)
        theirs.pause_reading()
        for number in range(FRAMES):
            sender.send(1, Stdin(number * len(DATA), DATA))
            await turn()
            assert ours.get_write_buffer_size() < 1_000_000
        assert not takes.all.is_set()
        theirs.resume_reading()
        await takes.all.wait()
        assert [frame.offset for frame in takes.came if isinstance(frame, Stdin)] == [
            number * len(DATA) for number in range(FRAMES)
        ]
        sender.close("done")

    run(scenario())


def test_a_link_that_is_closed_sends_what_waits_first() -> None:
    async def scenario() -> None:
        sender, _, _, theirs, takes = await pair(FRAMES)
        theirs.pause_reading()
        for number in range(FRAMES):
            sender.send(1, Stdin(number * len(DATA), DATA))
        await turn()
        sender.close("done")
        theirs.resume_reading()
        await takes.all.wait()
        assert len(takes.came) == FRAMES

    run(scenario())


def test_what_is_not_urgent_is_sent_when_it_is_hastened() -> None:
    async def scenario() -> None:
        sender, ours, _, theirs, takes = await pair(1)
        sender.send(1, Stdin(0, b"x"), hurry=False)
        await turn()
        assert sender.unsent_bytes  # it waits for another frame
        sender.hasten()
        assert not sender.unsent_bytes
        await takes.all.wait()
        assert takes.came == [Stdin(0, b"x")]
        for transport in (ours, theirs):
            transport.abort()

    run(scenario())


@pytest.mark.parametrize("accepted", [True, False])
def test_who_dials_is_told_that_the_log_of_a_peer_that_says_no_hello_has_the_reason(accepted: bool) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        owner = Owner(1)
        link = Link(owner, frames.FROM_CHILD, "link", accepted=accepted)
        await loop.connect_accepted_socket(lambda: link.protocol, here)
        there.shutdown(socket.SHUT_WR)
        await owner.all.wait()
        there.close()
        hint = "" if accepted else " before Hello: the log of its gexecd has the reason"
        assert owner.closed == [f"the connection was closed{hint}"]

    run(scenario())


def test_frames_of_all_sizes_arrive_unchanged_and_in_order() -> None:
    """Small ones are joined, large ones written as they are, and a job's frame in pieces."""
    sizes = [0, 1, 3, 20_000, 16_384, 16_383, 200_000, 7, 7, 250_000, 90_000, 90_000, 90_000, 5]
    sent: list[Frame] = []
    for number, size in enumerate(sizes):
        sent.append(Stdin(number, (f"{number:04d}".encode() * size)[:size]))
        if number % 3 == 0:
            sent.append(Start(1, 0, 1, b"credential", bytes([number]) * 1_000_000))

    async def scenario() -> None:
        sender, _, _, theirs, takes = await pair(3 * len(sent))
        for _ in range(2):
            for frame in sent:
                sender.send(1, frame)
        await turn()
        theirs.pause_reading()
        for frame in sent:
            sender.send(1, frame)
            await turn()
        theirs.resume_reading()
        await takes.all.wait()
        assert takes.came == 3 * sent
        sender.close("done")

    run(scenario())


def test_what_has_come_of_a_frame_stays_when_another_link_reads() -> None:
    """All links read into one buffer."""

    async def scenario() -> None:
        pairs = [await pair(3) for _ in range(2)]
        sent = [Stdin(number, bytes([65 + number]) * 250_000) for number in range(3)]
        for frame in sent:
            for sender, *_ in pairs:
                sender.send(1, frame)
        for sender, *_, takes in pairs:
            await takes.all.wait()
            assert takes.came == sent
            sender.close("done")

    run(scenario())


def test_a_peer_of_an_older_version_is_not_told_what_it_does_not_know() -> None:
    async def go() -> None:
        sender, _, taker, _, owner = await pair(1, frames.FROM_CHILD)
        assert sender.version == taker.version == limits.PROTOCOL_VERSION
        sender.version = 1
        sender.send(1, frames.NotResponding(((0, 1),)))
        sender.send(1, frames.RanksStarted(((0, 1),)))
        await owner.all.wait()
        assert (owner.came, owner.closed) == ([frames.RanksStarted(((0, 1),))], [])
        sender.close("the end")

    run(go())


@pytest.mark.parametrize(
    ("said", "answered"), [(1, 1), (2, 2), (3, 2), (0, None)], ids=["older", "same", "newer", "too old"]
)
def test_a_client_gets_the_version_that_both_have(said: int, answered: int | None) -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        owner = Owner(0)
        link = Link(owner, frames.FROM_CLIENT, "client", accepted=True)
        await loop.connect_accepted_socket(lambda: link.protocol, here)
        there.setblocking(False)
        await loop.sock_sendall(there, frames.encode(0, frames.Hello(said, "test")))
        came = await loop.sock_recv(there, 4096)
        if answered is None:
            assert owner.closed == [
                f"protocol violation: it uses protocol 0 (test), this side uses protocol 2 (gexec {VERSION})"
            ]
        else:
            assert list(frames.Decoder(frames.FROM_ROOT).feed(came)) == [
                (0, frames.Hello(answered, f"gexec {VERSION}"))
            ]
            assert link.version == answered
        link.close("the end")
        there.close()

    run(go())
