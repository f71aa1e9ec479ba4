"""Encodes an archive stream. Pure."""

from __future__ import annotations

from hashlib import sha256

from gexec import limits
from gexec.files import records
from gexec.files.entries import packed_list
from gexec.files.records import DIGEST_BYTES, HEAD

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gexec.files.signatures import StreamSigner


class Encoder:
    """One stream. Each method returns the bytes of one record, to be sent in the order of the calls.

    The caller's duty: ``preamble`` first and ``end`` last; entries of all lists in ascending order of their
    paths' components, each path once, nothing below a file or link; lists in order, their contents too, each
    list ``done`` before the contents of the next; after ``contents`` only ``data`` and then ``file_end`` or
    ``file_bad``. A decoder refuses anything else. In a signed stream ``signature`` is last, and comes often
    enough before: nothing has an effect earlier, and at most ARCHIVE_UNSIGNED_MAX_BYTES may wait for one.

    Args:
        signer: signs the stream; None: it is not signed.
    """

    __slots__ = ("_chain", "_is_signed", "_signer")

    def __init__(self, signer: StreamSigner | None = None) -> None:
        self._chain = sha256()
        self._signer = signer
        #: A signature covers all records so far.
        self._is_signed = True

    def preamble(self, *, asking: bool = False, digests_only: bool = False, boot_id: bytes = b"") -> bytes:
        """Return the stream's first bytes. ``boot_id``: 16 bytes that name this run of this host's kernel."""
        flags = records.ASKING * asking | records.DIGESTS_ONLY * digests_only
        flags |= records.SIGNED * (self._signer is not None)
        preamble = records.PREAMBLE.pack(records.MAGIC, records.VERSION, flags, boot_id)
        self._chain.update(preamble)
        return preamble

    def device(self, device: int, kind: bytes, source: bytes) -> bytes:
        """Return the record that says what a device of the entries is: a network file system."""
        kind = kind[:255]
        fixed = records.DEVICE.pack(device, len(kind))
        return self._record(records.DEVICES, fixed + kind + source[: limits.ARCHIVE_PATH_MAX_BYTES])

    def rules(self, lines: Sequence[bytes]) -> bytes:
        """Return the record of the rules by which files are left out."""
        return self._record(records.RULES, b"\0".join(lines))

    def list(self, number: int, entries: Iterable[bytes]) -> bytes:
        """Return the record of a list of entries, each from ``packed_entry``."""
        return self._record(records.LIST, records.NUMBER.pack(number) + packed_list(entries))

    def digests(self, number: int, digests: Mapping[int, bytes]) -> bytes:
        """Return the record of digests of files in a list, by index (UNREADABLE: there is none)."""
        packed = b"".join([records.DIGEST_OF.pack(index, digest) for index, digest in digests.items()])
        return self._record(records.DIGESTS, records.NUMBER.pack(number) + packed)

    def contents(self, index: int, size: int, mtime_ns: int) -> bytes:
        """Return the record that begins the contents of a file of the oldest list."""
        return self._record(records.CONTENTS, records.CONTENTS_OF.pack(index, size, mtime_ns))

    def data(self, offset: int, length: int) -> bytes:
        """Return the header of ``length`` bytes of data, at most ARCHIVE_DATA_MAX_BYTES."""
        return HEAD.pack(records.DATA, length) + records.OFFSET.pack(offset)

    def file_end(self, digest: bytes) -> bytes:
        """Return the record that ends a file: the digest of its contents (ContentHash)."""
        return self._record(records.FILE_END, digest)

    def file_bad(self, reason: str) -> bytes:
        """Return the record that ends a file that receivers must drop."""
        return self._record(
            records.FILE_BAD, reason.encode("utf-8", "backslashreplace")[: limits.TEXT_MAX_BYTES]
        )

    def done(self, number: int) -> bytes:
        """Return the record that ends the contents of a list."""
        return self._record(records.DONE, records.NUMBER.pack(number))

    def wait(self) -> bytes:
        """Return a record that means nothing: a sign that the sender waits."""
        return self._record(records.WAIT, b"")

    def end(self, problems: int) -> bytes:
        """Return the last record, but for its signature."""
        return self._record(records.END, records.PROBLEMS.pack(problems))

    def signature(self) -> bytes:
        """Return the record that signs all records so far; nothing if that is done, or nobody signs."""
        if self._signer is None or self._is_signed:
            return b""
        record = self._record(records.SIGNATURE, self._signer.sign(self._chain.digest()))
        self._is_signed = True
        return record

    def _record(self, kind: int, payload: bytes) -> bytes:
        record = HEAD.pack(kind, len(payload) + DIGEST_BYTES) + payload
        self._chain.update(record)
        self._is_signed = False
        return record + self._chain.digest()


def packed(compressed: bytes) -> bytes:
    """Return the record of compressed records."""
    return HEAD.pack(records.PACKED, len(compressed)) + compressed
