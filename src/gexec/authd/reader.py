"""Reads a request from a connection piece by piece, so that no request is in memory as a whole."""

from __future__ import annotations

import asyncio
import socket

CHUNK_BYTES = 64 * 1024


class RequestReader:
    """Reads requested sizes from a connection with few system calls."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    async def some(self, most: int) -> bytes:
        """Return 1 to ``most`` bytes. EOFError at the end."""
        if not self._buffer:
            self._buffer = await asyncio.get_running_loop().sock_recv(self._connection, CHUNK_BYTES)
            if not self._buffer:
                raise EOFError
        taken, self._buffer = self._buffer[:most], self._buffer[most:]
        return taken

    async def exactly(self, size: int) -> bytes:
        """Return ``size`` bytes. EOFError if the end comes first."""
        parts = []
        while size:
            part = await self.some(size)
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


async def drain(connection: socket.socket) -> None:
    """Read and drop what a refused client still sends, so that it can read the refusal."""
    connection.shutdown(socket.SHUT_WR)
    while await asyncio.get_running_loop().sock_recv(connection, CHUNK_BYTES):
        pass
