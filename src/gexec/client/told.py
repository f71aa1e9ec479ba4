"""stdin of a job, written by this process while the job runs."""

from __future__ import annotations

import os

from gexec.client.stdio import Input


class Told(Input):
    """What its processes are told; ``close`` it after the job. It has no end before that."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        super().__init__(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        self._kept = bytearray()

    def put(self, data: bytes) -> None:
        """Tell all processes this; never waits."""
        if data and not self._kept:
            os.eventfd_write(self.fd, 1)
        self._kept += data

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    def _read(self, most_bytes: int) -> bytes:
        if not self._kept:
            raise BlockingIOError
        data = bytes(self._kept[:most_bytes])
        del self._kept[:most_bytes]
        if not self._kept:
            os.eventfd_read(self.fd)
        return data
