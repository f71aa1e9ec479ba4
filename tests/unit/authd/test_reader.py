"""Reading a request in pieces."""

from __future__ import annotations

import asyncio
import socket

import pytest

from gexec.authd.reader import RequestReader, drain


def test_what_was_sent_is_read_in_pieces_of_the_wanted_sizes() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.sendall(b"abcdefgh")
            theirs.shutdown(socket.SHUT_WR)
            reader = RequestReader(ours)
            assert await reader.exactly(3) == b"abc"
            assert await reader.some(2) == b"de"
            assert await reader.exactly(0) == b""
            with pytest.raises(EOFError):
                await reader.exactly(4)

    asyncio.run(scenario())


def test_a_refused_request_is_read_to_its_end() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            theirs.sendall(bytes(100_000))
            theirs.shutdown(socket.SHUT_WR)
            await drain(ours)
            assert theirs.recv(1) == b""

    asyncio.run(scenario())
