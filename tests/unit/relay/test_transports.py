"""A client's socket: all is written in order, slow readers pause the link, and what is unsent is known."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine
from typing import Any

import pytest

from gexec import native
from gexec.relay.loop import run
from gexec.relay.transports import ClientSocket

pytestmark = pytest.mark.skipif(native.in_use(), reason="compiled code takes no stand-in for a Link")

DEADLINE_S = 30.0


class Taker:
    """Stands for a link."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.heard = asyncio.Event()
        self.pauses: list[bool] = []
        self.over: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def received(self, data: memoryview) -> None:
        self.data += data
        self.heard.set()

    def pause(self) -> None:
        self.pauses.append(True)

    def resume(self) -> None:
        self.pauses.append(False)

    def disconnected(self, error: Exception | None) -> None:
        self.over.set_result(error)


def made(unsent: bytes = b"") -> tuple[ClientSocket, Taker, socket.socket]:
    """Return a client's socket, what it reports, and the client's end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    taker = Taker()
    return ClientSocket(ours, taker, unsent), taker, theirs  # type: ignore[arg-type]


def in_loop(test: Coroutine[Any, Any, None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await test

    run(within())


async def read(client: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await asyncio.get_running_loop().sock_recv(client, 65536)
    return data


def test_a_slow_reader_pauses_the_link_and_gets_all() -> None:
    async def test() -> None:
        transport, taker, client = made()
        transport.set_write_buffer_limits(high=100_000)
        parts = [os.urandom(50_000) for _ in range(40)]
        for part in parts:
            transport.write(part)
        assert taker.pauses == [True]
        assert 0 < transport.get_write_buffer_size() == len(transport.unsent) < 2_000_000
        assert b"".join(parts).endswith(transport.unsent)
        assert await read(client, 2_000_000) == b"".join(parts)
        assert (taker.pauses, transport.unsent) == ([True, False], b"")
        transport.abort()
        assert await taker.over is None
        client.close()

    in_loop(test())


def test_what_was_unsent_before_comes_first() -> None:
    async def test() -> None:
        transport, _, client = made(b"old ")
        transport.writelines([b"new ", b"", b"and newer"])
        assert await read(client, 17) == b"old new and newer"
        transport.abort()
        client.close()

    in_loop(test())


def test_close_writes_what_waits() -> None:
    async def test() -> None:
        transport, taker, client = made()
        transport.write(bytes(1_000_000))
        transport.close()
        transport.write(b"too late")
        assert await read(client, 1_000_000) == bytes(1_000_000)
        assert await taker.over is None
        assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
        assert transport.fileno() == -1
        client.close()

    in_loop(test())


@pytest.mark.parametrize("unread", [False, True])
def test_the_end_of_the_client_is_reported(unread: bool) -> None:
    async def test() -> None:
        transport, taker, client = made()
        client.send(b"last words")
        if unread:
            transport.write(b"nobody reads this")
        client.close()
        await taker.over
        assert transport.fileno() == -1
        assert bytes(taker.data) in (b"last words", b"")

    in_loop(test())


def test_bytes_of_the_client_arrive() -> None:
    async def test() -> None:
        transport, taker, client = made()
        client.send(b"request")
        await taker.heard.wait()
        assert taker.data == b"request"
        assert transport.get_extra_info("peercert") is None
        transport.abort()
        client.close()

    in_loop(test())
