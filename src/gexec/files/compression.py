"""zstd compression of records, where it helps. Pure; imports zstandard only when it is used."""

from __future__ import annotations

from gexec import limits
from gexec.errors import ProtocolError, UsageError
from gexec.files import records
from gexec.files.encoder import packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Buffer = bytes | bytearray | memoryview

#: Below this size it is not worth the 20 ms that loading the library takes on each node.
WORTHWHILE_BYTES = 64 * 1024
#: Required ratio: otherwise zstd's fastest level takes as long as a gigabit link for the bytes saved.
WORTHWHILE_RATIO = 0.8
#: After records that did not become smaller, so many pass before the next try.
SKIPPED_AFTER = 15
#: A fast level; stronger levels take more time than most links save.
LEVEL = 1


class Compressor:
    """Compresses records or not.

    Args:
        when: ``auto`` (while they become a fifth smaller), ``always`` or ``never``.

    Raises:
        UsageError: ``always``, and zstandard is not installed.
    """

    __slots__ = ("_compressor", "_skipped", "_when")

    def __init__(self, when: str) -> None:
        self._when = when
        self._skipped = 0
        self._compressor: Any = None
        if when == "always":
            self._compressor = _zstandard().ZstdCompressor(level=LEVEL)

    def chunks(self, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        """Return what is sent for ``parts``: whole records, at most PACKED_MAX_BYTES in all."""
        size = sum(map(len, parts))
        if self._when == "never" or not size or size > records.PACKED_MAX_BYTES:
            return parts
        if self._when == "auto":
            if self._skipped:
                self._skipped -= 1
                return parts
            if self._compressor is None:
                if size < WORTHWHILE_BYTES:
                    return parts
                try:
                    self._compressor = _zstandard().ZstdCompressor(level=LEVEL)
                except UsageError:
                    self._when = "never"
                    return parts
        compressed = self._compressor.compress(b"".join(parts))
        if self._when == "auto" and len(compressed) > WORTHWHILE_RATIO * size:
            self._skipped = SKIPPED_AFTER
            return parts
        if len(compressed) > records.PACKED_MAX_BYTES:
            return parts
        return [packed(compressed)]


class Inflater:
    """Takes compressed records apart. Raises UsageError when zstandard is not installed."""

    __slots__ = ("_inflater", "_zstandard")

    def __init__(self) -> None:
        self._zstandard = _zstandard()
        self._inflater = self._zstandard.ZstdDecompressor(max_window_size=limits.ARCHIVE_WINDOW_MAX_BYTES)

    def inflate(self, data: bytes) -> bytes:
        """Return the records; ProtocolError if they are not zstd or more than PACKED_MAX_BYTES."""
        try:
            size = self._zstandard.get_frame_parameters(data).content_size
            if not 0 <= size <= records.PACKED_MAX_BYTES:
                raise ProtocolError("compressed records in an archive stream are over the limit")
            inflated: bytes = self._inflater.decompress(
                data, read_across_frames=False, allow_extra_data=False
            )
        except self._zstandard.ZstdError as error:
            raise ProtocolError(f"the archive stream was damaged in transit: {error}") from error
        return inflated


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise UsageError(
            "a compressed stream needs the Python package zstandard: install it, or do not compress"
        ) from error
    return zstandard
