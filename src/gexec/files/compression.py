"""zstd compression of a whole archive stream, if it helps. Pure; imports zstandard only when it is used."""

from __future__ import annotations

from gexec import limits
from gexec.errors import ProtocolError, UsageError
from gexec.files import records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Buffer = bytes | bytearray | memoryview

#: Size of the sample that decides about compression.
SAMPLE_BYTES = 512 * 1024
#: Below this size it is not worth the 20 ms that loading the library takes on each node.
WORTHWHILE_BYTES = 64 * 1024
#: Required ratio: otherwise zstd's fastest level takes as long as a gigabit link for the bytes saved.
WORTHWHILE_RATIO = 0.8
#: A fast level; stronger levels take more time than most links save.
LEVEL = 1


def compressed(chunks: Iterable[Buffer], when: str) -> Iterator[Buffer]:
    """Yield the stream, compressed or unchanged.

    Args:
        chunks: an archive stream, from its preamble on; each chunk is used before the next is requested.
        when: ``auto`` (if the first SAMPLE_BYTES become a fifth smaller), ``always`` or ``never``.

    Raises:
        UsageError: zstandard is needed and not installed.
    """
    if when == "never":
        yield from chunks
        return
    iterator = iter(chunks)
    sample = bytearray()
    for chunk in iterator:
        sample += chunk
        if len(sample) >= SAMPLE_BYTES:
            break
    if when == "auto" and not _helps(sample):
        yield sample
        yield from iterator
        return
    magic, version, flags = records.PREAMBLE.unpack_from(sample)
    yield records.PREAMBLE.pack(magic, version, flags | records.COMPRESSED)
    compressor = _zstandard().ZstdCompressor(level=LEVEL, write_content_size=False).compressobj()
    yield compressor.compress(memoryview(sample)[records.PREAMBLE.size :])
    for chunk in iterator:
        if packed := compressor.compress(chunk):
            yield packed
    yield compressor.flush()


def _helps(sample: bytearray) -> bool:
    if len(sample) < WORTHWHILE_BYTES:
        return False
    try:
        zstandard = _zstandard()
    except UsageError:
        return False
    packed = zstandard.ZstdCompressor(level=LEVEL).compress(sample)
    return len(packed) < WORTHWHILE_RATIO * len(sample)


class Inflater:
    """Passes the content of a compressed stream on to ``take``, in pieces of at most 128 KiB, whatever its
    size.

    Raises UsageError when zstandard is not installed.
    """

    __slots__ = ("_error", "_writer")

    def __init__(self, take: Callable[[bytes], None]) -> None:
        zstandard = _zstandard()
        self._error: type[Exception] = zstandard.ZstdError
        inflater = zstandard.ZstdDecompressor(max_window_size=limits.ARCHIVE_WINDOW_MAX_BYTES)
        self._writer = inflater.stream_writer(_Sink(take), closefd=False)

    def feed(self, data: memoryview) -> None:
        """Take compressed bytes; ProtocolError if they are not zstd."""
        try:
            self._writer.write(data)
        except self._error as error:
            raise ProtocolError(f"the archive stream was damaged in transit: {error}") from error


class _Sink:
    __slots__ = ("_take",)

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take

    def write(self, data: bytes) -> int:
        self._take(data)
        return len(data)


if TYPE_CHECKING:
    from typing import Any


def _zstandard() -> Any:
    try:
        import zstandard
    except ImportError as error:
        raise UsageError(
            "a compressed stream needs the Python package zstandard: install it, or do not compress"
        ) from error
    return zstandard
