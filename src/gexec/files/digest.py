"""The digest of a file's contents, which skips holes. Pure.

It is the sha256 of the file's bytes without those blocks (of BLOCK_BYTES, counted from the start; the
shorter last one is none) that are only zeros. If any was left out, the sha256 of where they were is added
at the end. So a file of terabytes with little in it is hashed at once, the digest does not depend on how a
file system stores the zeros, and for most files it is what sha256sum says. Two contents with one digest
would have to differ in size, which is always compared too.
"""

from __future__ import annotations

from hashlib import sha256
from struct import Struct

from gexec import limits
from gexec.errors import ProtocolError

BLOCK_BYTES = limits.ARCHIVE_BLOCK_BYTES
_RUN = Struct("!QQ")


class ContentHash:
    """Takes a file's data in ascending order, what lies between being zeros; ``finish`` gives the digest."""

    __slots__ = ("_content", "_holes", "_is_sparse", "next")

    def __init__(self) -> None:
        self._content = sha256()
        self._holes = sha256()
        self._is_sparse = False
        #: End of the data so far.
        self.next = 0

    def update(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Take ``data`` at ``offset``; ProtocolError if what is left out before it is not whole blocks."""
        if offset != self.next:
            self._skip_to(offset)
        self._content.update(data)
        self.next = offset + len(data)

    def finish(self, size: int) -> bytes:
        """Return the digest of a file of ``size`` bytes; ProtocolError if the data do not fit that size."""
        if size != self.next:
            self._skip_to(size)
        if self._is_sparse:
            self._content.update(self._holes.digest())
        return self._content.digest()

    def _skip_to(self, offset: int) -> None:
        length = offset - self.next
        if length < 0 or length % BLOCK_BYTES or self.next % BLOCK_BYTES:
            raise ProtocolError(f"data at {offset} after data up to {self.next} leave out no whole blocks")
        self._is_sparse = True
        self._holes.update(_RUN.pack(self.next, length))
