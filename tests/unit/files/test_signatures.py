"""Signed streams: whatever passes one on can stop it, and nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from file_streams import MINE, MINE_DIRECTORY, SIGNER, VERIFIER, Received, contents_of, meta, snapshot
from gexec import limits
from gexec.errors import ProtocolError, UsageError
from gexec.files import records
from gexec.files.decoder import ArchiveDecoder
from gexec.files.digest import BLOCK_BYTES, ContentHash
from gexec.files.encoder import Encoder, packed
from gexec.files.entries import (
    Directory,
    File,
    Removal,
    StreamEntry,
    Symlink,
    packed_entry,
)
from gexec.files.options import VERIFY, CopyOptions
from gexec.files.signatures import DOMAIN, KEY_BYTES, SIGNATURE_BYTES, StreamSigner, StreamVerifier
from rogue_streams import RawRecord, put_together, taken_apart, with_contents, with_entries

CHAIN = bytes(range(100, 132))
ENDED = "the stream ended too early: the sender or a link was lost"
ALTERED = "the archive stream was altered on its way: its signature is wrong"
LARGE = os.urandom(3 * BLOCK_BYTES) + b"end"


# -- keys ---------------------------------------------------------------------------------------------


def test_a_signature_is_ed25519_over_the_domain_and_the_chain() -> None:
    secret = os.urandom(KEY_BYTES)
    signer = StreamSigner(secret)
    signature = signer.sign(CHAIN)
    assert (len(signer.public), len(signature)) == (KEY_BYTES, SIGNATURE_BYTES)
    key = ed25519.Ed25519PrivateKey.from_private_bytes(secret)
    assert signature == key.sign(DOMAIN + CHAIN)
    assert signer.public == key.public_key().public_bytes_raw()
    assert StreamVerifier(signer.public).is_signed(CHAIN, signature)


@pytest.mark.parametrize("wrong", ["chain", "signature", "short", "empty", "key", "domain"])
def test_no_other_signature_is_taken(wrong: str) -> None:
    signer = StreamSigner(os.urandom(KEY_BYTES))
    chain, signature, public = CHAIN, signer.sign(CHAIN), signer.public
    if wrong == "chain":
        chain = CHAIN[::-1]
    elif wrong == "signature":
        signature = signature[:-1] + bytes([signature[-1] ^ 1])
    elif wrong == "short":
        signature = signature[:-1]
    elif wrong == "empty":
        signature = b""
    elif wrong == "key":
        public = SIGNER.public
    else:
        chain = DOMAIN + CHAIN
    assert not StreamVerifier(public).is_signed(chain, signature)


@pytest.fixture
def other_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version of cryptography whose compiled module is another one."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.bindings._rust", None)


@pytest.mark.usefixtures("other_cryptography")
def test_the_documented_way_into_cryptography_gives_the_same() -> None:
    signer = StreamSigner(bytes(range(32)))
    assert signer.public == SIGNER.public
    assert signer.sign(CHAIN) == SIGNER.sign(CHAIN)
    assert StreamVerifier(SIGNER.public).is_signed(CHAIN, SIGNER.sign(CHAIN))


@pytest.mark.usefixtures("other_cryptography")
def test_without_cryptography_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.ed25519", None)
    for make in (StreamSigner, StreamVerifier):
        with pytest.raises(UsageError, match="needs the Python package cryptography"):
            make(bytes(32))


def test_what_is_no_key_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="is not an Ed25519 public key"):
        StreamVerifier(b"short")


# -- streams ------------------------------------------------------------------------------------------

ENTRIES: Sequence[StreamEntry] = (
    Directory(b"d", MINE_DIRECTORY),
    File(b"d/a", MINE, 5),
    File(b"d/b", MINE, 5),
    File(b"d/large", MINE, len(LARGE)),
    Symlink(b"d/link", MINE, b"a"),
    Removal(b"e", MINE),
)


def listed(encoder: Encoder, number: int, *entries: StreamEntry) -> bytes:
    return encoder.list(number, [packed_entry(entry) for entry in entries]) + encoder.signature()


def signed_stream(signer: StreamSigner | None = SIGNER) -> bytes:
    """Return a stream with most kinds of records, signed as a sender does."""
    encoder = Encoder(signer)
    made = encoder.preamble(asking=True) + encoder.device(5, b"nfs4", b"server:/x")
    made += encoder.rules([b"- /d/*.o"])
    made += listed(encoder, 0, *ENTRIES) + listed(encoder, 1, File(b"f", MINE, 1))
    made += encoder.digests(1, {0: bytes(32)}) + encoder.wait() + encoder.signature()
    made += contents_of(encoder, 1, b"aaaaa") + contents_of(encoder, 2, b"bbbbb")
    made += encoder.contents(3, len(LARGE), MINE.mtime_ns) + encoder.signature()
    hashed = ContentHash()
    for start in range(0, len(LARGE), BLOCK_BYTES):
        piece = LARGE[start : start + BLOCK_BYTES]
        hashed.update(start, piece)
        made += encoder.data(start, len(piece)) + piece
    made += encoder.file_end(hashed.finish(len(LARGE))) + encoder.done(0) + encoder.signature()
    made += contents_of(encoder, 0, b"f") + encoder.done(1)
    return made + encoder.end(0) + encoder.signature()


def acted_on(stream: bytes, verifier: StreamVerifier | None = VERIFIER) -> tuple[list[str], str]:
    """Return the events that come of a stream, without contents, and why it ended early."""
    events: list[str] = []

    def take(event: records.Event) -> None:
        if isinstance(event, records.Listed):
            events.append(f"{event.number} {[packed_entry(entry) for entry in event.entries]}")
        elif not isinstance(event, records.Data):
            events.append(repr(event))

    decoder = ArchiveDecoder(take, verifier)
    try:
        decoder.feed(stream)
        decoder.finish()
    except (ProtocolError, UsageError) as error:
        return events, str(error)
    return events, ""


HONEST, _ = acted_on(signed_stream())


def _positions(stream: bytes, step: int) -> list[int]:
    """Return where to harm a stream: at its records, and here and there in the large file."""
    size = len(stream)
    return [*range(0, 1500, step), *range(1500, size - 900, 4999), *range(size - 900, size, step)]


def test_an_intact_stream_has_the_events_of_an_unsigned_one() -> None:
    signed, error = acted_on(signed_stream())
    unsigned, other = acted_on(signed_stream(None), None)
    assert (error, other) == ("", "")
    assert signed == unsigned


def test_signed_and_unsigned_are_not_mixed_up() -> None:
    events, error = acted_on(signed_stream(None))
    assert events == []
    assert "the archive stream is not signed" in error
    events, error = acted_on(signed_stream(), None)
    assert events == []
    assert "no key was given" in error
    # Nor by the flag alone.
    encoder = Encoder(None)
    preamble = bytearray(encoder.preamble())
    preamble[9] |= records.SIGNED
    events, error = acted_on(put_together(bytes(preamble), taken_apart(signed_stream(None))[1]))
    assert (events, error) == ([], ENDED)


def test_a_key_signs_for_its_own_copy_only() -> None:
    other = StreamSigner(os.urandom(KEY_BYTES))
    assert acted_on(signed_stream(other)) == ([], ALTERED)


def test_events_come_with_the_signature_and_not_before() -> None:
    stream = signed_stream()
    for cut in _positions(stream, 3):
        events, error = acted_on(stream[:cut])
        assert error == ENDED
        assert events == HONEST[: len(events)]
    encoder = Encoder(SIGNER)
    begin = encoder.preamble() + encoder.list(0, [packed_entry(File(b"f", MINE, 5))])
    assert acted_on(begin)[0] == []
    assert len(acted_on(begin + encoder.signature())[0]) == 1
    end = contents_of(encoder, 0, b"fffff") + encoder.done(0) + encoder.end(0)
    assert len(acted_on(begin + end)[0]) == 0  # the signature before is missing
    assert encoder.signature() != b""
    assert encoder.signature() == b""  # once is enough


def test_every_flipped_byte_ends_the_stream_where_it_is() -> None:
    stream = signed_stream()
    whole = len(HONEST)
    for position in _positions(stream, 1):
        damaged = bytearray(stream)
        damaged[position] ^= 1 << position % 8
        events, error = acted_on(bytes(damaged))
        assert error, position
        assert len(events) < whole
        assert events == HONEST[: len(events)]


def _altered_payload(raw: list[RawRecord], at: int, byte: int, bit: int) -> list[RawRecord]:
    kind, payload = raw[at]
    changed = bytearray(payload or b"\0")
    changed[byte % len(changed)] ^= 1 << bit
    return [*raw[:at], (kind, bytes(changed)), *raw[at + 1 :]]


@given(data=st.data())
def test_attack_92_whatever_a_relay_makes_of_the_records_only_what_was_signed_counts(
    data: st.DataObject,
) -> None:
    """Records altered, left out, repeated, exchanged or added, with right chains: at the most the beginning
    of the honest stream is acted on.
    """
    preamble, raw = taken_apart(signed_stream())
    index = st.integers(0, len(raw) - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        at, other = data.draw(index) % len(raw), data.draw(index) % len(raw)
        how = data.draw(st.sampled_from(["flip", "drop", "repeat", "exchange", "move", "cut", "kind"]))
        if how == "flip":
            raw = _altered_payload(raw, at, data.draw(st.integers(0, 2**20)), data.draw(st.integers(0, 7)))
        elif how == "drop":
            raw = [*raw[:at], *raw[at + 1 :]] or raw
        elif how == "repeat":
            raw = [*raw[:at], raw[other], *raw[at:]]
        elif how == "exchange":
            raw[at], raw[other] = raw[other], raw[at]
        elif how == "move":
            raw.insert(other, raw.pop(at))
        elif how == "cut":
            raw = raw[: max(1, at)]
        else:
            raw[at] = data.draw(st.integers(1, 14)), raw[at][1]
    events, error = acted_on(put_together(preamble, raw))
    assert events == HONEST[: len(events)]
    assert error or put_together(preamble, raw) == signed_stream()


# -- what it costs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["lists", "waits", "contents"])
def test_only_so_much_waits_for_a_signature(what: str) -> None:
    encoder = Encoder(SIGNER)
    events: list[records.Event] = []
    decoder = ArchiveDecoder(events.append, VERIFIER)
    decoder.feed(encoder.preamble())
    if what == "contents":
        decoder.feed(encoder.contents(0, 2**40, 0))
    fed, error = 0, ""
    while not error and fed < 2 * limits.ARCHIVE_UNSIGNED_MAX_BYTES:
        if what == "waits":
            record = encoder.wait()
        elif what == "lists":
            record = encoder.list(0, [os.urandom(limits.ARCHIVE_LIST_MAX_BYTES // 2)])
        else:
            record = encoder.data(fed // BLOCK_BYTES * BLOCK_BYTES, BLOCK_BYTES) + bytes(BLOCK_BYTES)
        fed += len(record)
        try:
            decoder.feed(record)
        except ProtocolError as caught:
            error = str(caught)
    assert error == "records without a signature in the archive stream are over the limit"
    assert fed <= limits.ARCHIVE_UNSIGNED_MAX_BYTES + limits.ARCHIVE_LIST_MAX_BYTES
    assert events == []


def test_contents_of_a_large_file_do_not_wait() -> None:
    encoder = Encoder(SIGNER)
    came: list[records.Event] = []
    decoder = ArchiveDecoder(came.append, VERIFIER)
    decoder.feed(encoder.preamble() + listed(encoder, 0, File(b"f", MINE, 2 * BLOCK_BYTES)))
    decoder.feed(encoder.contents(0, 2 * BLOCK_BYTES, 0) + encoder.signature())
    decoder.feed(encoder.data(0, BLOCK_BYTES) + bytes(BLOCK_BYTES // 2))
    assert [type(event) for event in came] == [records.Listed, records.Contents, records.Data]


def test_compressed_records_may_have_signatures_among_them() -> None:
    import zstandard

    stream = signed_stream()
    size = records.PREAMBLE.size
    compressed = packed(zstandard.ZstdCompressor(level=1).compress(stream[size:]))
    assert acted_on(stream[:size] + compressed)[0] == HONEST


# -- receivers ----------------------------------------------------------------------------------------


def _entries(change: Callable[[list[StreamEntry]], None]) -> Callable[[list[RawRecord]], list[RawRecord]]:
    """Return what changes the entries of the first list."""

    def altered(raw: list[RawRecord]) -> list[RawRecord]:
        at = [kind for kind, _ in raw].index(records.LIST)
        return [*raw[:at], with_entries(raw[at], change), *raw[at + 1 :]]

    return altered


def _first(
    path: bytes, change: Callable[[StreamEntry], None]
) -> Callable[[list[RawRecord]], list[RawRecord]]:
    """Return what changes one entry of the first list."""

    def change_one(entries: list[StreamEntry]) -> None:
        for entry in entries:
            if entry.path == path:
                change(entry)

    return _entries(change_one)


def _mode(entry: StreamEntry) -> None:
    entry.meta.mode = 0o4755


def _owner(entry: StreamEntry) -> None:
    entry.meta.uid, entry.meta.gid = 12345, 12345


def _name(entry: StreamEntry) -> None:
    entry.path = b"d/aa"


def _target(entry: StreamEntry) -> None:
    assert isinstance(entry, Symlink)
    entry.target = b"/etc/shadow"


def _without(raw: list[RawRecord], kinds: tuple[int, ...]) -> list[RawRecord]:
    return [one for one in raw if one[0] not in kinds]


ALTERATIONS: dict[str, Callable[[list[RawRecord]], list[RawRecord]]] = {
    "contents": lambda raw: with_contents(raw, {b"aaaaa": b"evil!"}),
    "exchanged": lambda raw: with_contents(raw, {b"aaaaa": b"bbbbb", b"bbbbb": b"aaaaa"}),
    "mode": _first(b"d/a", _mode),
    "owner": _first(b"d/a", _owner),
    "name": _first(b"d/a", _name),
    "target": _first(b"d/link", _target),
    "added": _entries(lambda entries: entries.insert(5, Symlink(b"d/more", meta(), b"x"))),
    "dropped": _entries(lambda entries: entries.__delitem__(2)),
    "removal": _entries(lambda entries: entries.append(Removal(b"kept", meta()))),
    "unsigned": lambda raw: _without(raw, (records.SIGNATURE,)),
    "no rules": lambda raw: _without(raw, (records.RULES,)),
    "list again": lambda raw: [*raw[:4], raw[2], *raw[4:]],
    "no contents": lambda raw: _without(raw, (records.CONTENTS, records.DATA, records.FILE_END)),
    "other sizes": lambda raw: [
        (kind, records.CONTENTS_OF.pack(1, 4, 5) if kind == records.CONTENTS else payload)
        for kind, payload in raw
    ],
}  # fmt: skip


@pytest.mark.parametrize("task", ["write", "verify"])
@pytest.mark.parametrize("name", ALTERATIONS)
def test_attack_90_what_a_relay_alters_is_not_installed(tmp_path: Path, name: str, task: str) -> None:
    place = tmp_path / "to"
    (place / "d").mkdir(parents=True)
    for existing in ("kept", "d/a", "d/extra"):
        (place / existing).write_bytes(b"old")
    before = snapshot(place)
    options = CopyOptions(delete=True, keep_set_id=True) if task == "write" else CopyOptions(task=VERIFY)
    preamble, raw = taken_apart(signed_stream())
    done = Received(put_together(preamble, ALTERATIONS[name](list(raw))), place, options, verifier=VERIFIER)
    assert done.error
    assert not done.report.is_complete
    after = snapshot(place)
    known = {"'d'", "'d/a'", "'d/b'", "'d/large'", "'d/link'"}
    for path, found in after.items():
        if found == before.get(path):
            continue
        # What was signed before the alteration may be here, as it was signed.
        assert path in known, path
        assert found[2] in {b"", b"aaaaa", b"bbbbb", b"a", LARGE}, path
        assert not found[0] & 0o7000
    assert set(before) <= set(after)


@pytest.mark.parametrize("cut", ["end", "signature", "half"])
def test_attack_91_a_stream_that_is_cut_short_deletes_nothing_and_is_not_complete(
    tmp_path: Path, cut: str
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/extra").write_bytes(b"")
    preamble, raw = taken_apart(signed_stream())
    last = raw[-1]
    raw = raw[: {"end": -2, "signature": -1, "half": len(raw) // 2}[cut]]
    for end in ([], [last], [(records.END, records.PROBLEMS.pack(0)), last]):
        stream = put_together(preamble, [*raw, *end])
        if stream == signed_stream():
            continue
        done = Received(stream, tmp_path, CopyOptions(delete=True), verifier=VERIFIER)
        assert done.error
        assert not done.report.is_complete
        assert (tmp_path / "d/extra").exists()


def test_attack_91_what_is_lacking_and_does_not_come_is_a_failure(tmp_path: Path) -> None:
    """A relay told the sender that nobody lacks anything: the stream is honest, and has no contents."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d/extra").write_bytes(b"")
    encoder = Encoder(SIGNER)
    stream = encoder.preamble(asking=True) + listed(encoder, 0, *ENTRIES[:3])
    stream += encoder.done(0) + encoder.end(0) + encoder.signature()
    done = Received(stream, tmp_path, CopyOptions(delete=True), verifier=VERIFIER)
    assert (done.error, done.report.is_complete, done.report.failed) == ("", True, 2)
    assert len([said for said in done.said if "its contents were not sent" in said]) == 2
    assert os.listdir(tmp_path / "d") == ["extra"]


def test_attack_91_a_doubt_that_is_not_settled_is_a_failure(tmp_path: Path) -> None:
    """The same of --checksum: that two files are equal is not taken for granted."""
    (tmp_path / "f").write_bytes(b"other")
    encoder = Encoder(SIGNER)
    stream = encoder.preamble(asking=True, digests_only=True) + listed(encoder, 0, File(b"f", MINE, 5))
    stream += encoder.digests(0, {}) + encoder.done(0) + encoder.end(0) + encoder.signature()
    done = Received(stream, tmp_path, CopyOptions(task=VERIFY), verifier=VERIFIER)
    assert (done.error, done.report.is_complete, done.report.failed) == ("", True, 1)
    assert "its digest was not sent" in done.said[0]
