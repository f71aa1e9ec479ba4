"""The target of archive streams: a real receiver, which writes below a directory of its own."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from struct import Struct
from typing import Final

from gexec.errors import GexecError
from gexec.files import records
from gexec.files.digest import ContentHash
from gexec.files.encoder import Encoder
from gexec.files.entries import Directory, File, HardLink, Meta, Removal, Symlink, packed_entry, packed_list
from gexec.files.options import CopyOptions
from gexec.files.receiver import Receiver
from gexec.files.signatures import StreamSigner, StreamVerifier

#: One record of an input: kind, length of the payload.
_RECORD: Final = Struct("!BH")
#: A file beside the destination, which no stream may reach.
_CANARY: Final = b"untouched"
_SIGNER: Final = StreamSigner(bytes(range(32)))
_places: Final[list[tempfile.TemporaryDirectory[str]]] = []


def fuzz_archive(data: bytes) -> None:
    """Byte 0: options, and what the bytes are: a stream, or records (kind u8, length u16, payload).

    Records get their digests and signatures here, and lists are compressed here: otherwise the fuzzer would
    not get past the first record. A stream that must be signed, and was not made here, may change nothing.
    """
    if not data:
        return
    if not _places:
        _places.append(tempfile.TemporaryDirectory(prefix="gexec-fuzz-"))
    place = Path(_places[0].name)
    destination = place / "destination"
    _remove(destination)
    (destination / "a").mkdir(parents=True)
    (destination / "a" / "old").write_bytes(b"old")
    (destination / "link").symlink_to("../canary")
    (place / "canary").write_bytes(_CANARY)
    before = _state(destination)
    options = CopyOptions(
        delete=bool(data[0] & 2), backup=bool(data[0] & 4), make_parents=bool(data[0] & 8), keep_owner=False
    )
    is_made, is_signed = bool(data[0] & 1), bool(data[0] & 16)
    verifier = StreamVerifier(_SIGNER.public) if is_signed else None
    receiver = Receiver(str(destination), options, say=_nothing, tell=_nothing, verifier=verifier)
    stream = _chained(data[1:], is_signed) if is_made else data[1:]
    step = (data[0] >> 5) * 64 + 1
    try:
        for begin in range(0, len(stream), step):
            receiver.feed(stream[begin : begin + step])
        receiver.end()
    except GexecError:
        pass
    receiver.finish()
    assert sorted(os.listdir(place)) == ["canary", "destination"], "something is beside the destination"
    assert (place / "canary").read_bytes() == _CANARY
    assert (place / "canary").stat().st_nlink == 1
    assert is_made or not is_signed or _state(destination) == before, "an unsigned stream changed something"


def _state(destination: Path) -> list[tuple[str, int, int, int]]:
    found = []
    for path in sorted(destination.rglob("*")):
        status = path.lstat()
        found.append((str(path), status.st_mode, status.st_ino, status.st_mtime_ns))
    return found


def _remove(destination: Path) -> None:
    """Remove what a stream made, also directories that it made unreadable."""
    if destination.exists():
        for directory, _, _ in os.walk(destination, onerror=None):
            for entry in os.scandir(directory):
                if entry.is_dir(follow_symlinks=False):
                    os.chmod(entry.path, 0o700)
        shutil.rmtree(destination)


def _nothing(sentence: str) -> None:
    assert len(sentence) < 100_000


def _chained(data: bytes, is_signed: bool) -> bytes:
    encoder = Encoder(_SIGNER if is_signed else None)
    parts = [encoder.preamble(boot_id=bytes(16))]
    position = 0
    while position + _RECORD.size <= len(data):
        kind, length = _RECORD.unpack_from(data, position)
        position += _RECORD.size
        payload = data[position : position + length]
        position += length
        if kind == records.DATA:
            parts.append(records.HEAD.pack(kind, len(payload)) + records.OFFSET.pack(0) + payload)
        elif kind == records.LIST:
            parts.append(encoder._record(kind, payload[:4] + packed_list([payload[4:]])))
        elif kind == records.SIGNATURE and not payload:
            parts.append(encoder.signature())
        else:
            parts.append(encoder._record(kind, payload))
    return b"".join(parts)


def archive_seeds() -> list[bytes]:
    """Return a small tree with everything in it, and a real stream without its digests."""
    meta = Meta(0o644, 0, 0, 10**18, b"root", b"root", attributes=((b"user.a", b"b"),))
    entries = [
        Directory(b"a", Meta(0o755, 0, 0, 10**18, b"", b"")),
        File(b"a/b", meta, 3, is_linked=True),
        HardLink(b"a/c", meta, 3, b"a/b"),
        Symlink(b"a/d", meta, b"../../canary"),
        Removal(b"a/old", meta),
        File(b"link", meta, 3),
    ]
    content = ContentHash()
    content.update(0, b"abc")
    said = [
        (records.LIST, records.NUMBER.pack(0) + b"".join([packed_entry(entry) for entry in entries])),
        (records.CONTENTS, records.CONTENTS_OF.pack(1, 3, 10**18)),
        (records.DATA, b"abc"),
        (records.FILE_END, content.finish(3)),
        (records.DONE, records.NUMBER.pack(0)),
        (records.END, records.PROBLEMS.pack(0)),
    ]
    packed = b"".join([_RECORD.pack(kind, len(payload)) + payload for kind, payload in said])
    signature = _RECORD.pack(records.SIGNATURE, 0)
    signed = b"".join([_RECORD.pack(kind, len(payload)) + payload + signature for kind, payload in said])
    return [
        *[bytes((flags,)) + packed for flags in (1, 3, 15)],
        *[bytes((flags,)) + signed for flags in (17, 31)],
        b"\0" + _chained(packed, False),
        b"\20" + _chained(packed, True),
    ]
