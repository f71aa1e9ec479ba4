"""What a relay reports about refusals: it arrives as it was, and is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec import limits
from gexec.errors import ProtocolError
from gexec.wire import denials, messages
from gexec.wire.denials import PeerDenied
from gexec.wire.messages import FROM_RELAY, Message

SAID = PeerDenied(
    3, denials.PARENT, "10.0.0.9", "node9 (10.0.0.9:2875)", "ab" * 16, "jo", "not its parent: ü"
)


def test_a_report_arrives_as_it_was() -> None:
    assert messages.decode(messages.encode(SAID, FROM_RELAY), FROM_RELAY) == SAID


def test_long_texts_are_cut_and_zeros_separate_nothing() -> None:
    said = PeerDenied(1, denials.CLIENT, "s" * 9999, "p\0q", "", "u" * 9999, "r" * 99_999)
    told = messages.decode(messages.encode(said, FROM_RELAY), FROM_RELAY)
    assert (len(told.source), told.peer, len(told.user)) == (denials.TEXT_MAX_BYTES, "p q", 255)
    assert len(told.reason) == limits.TEXT_MAX_BYTES


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\0",
        b"\xff\0\0\0\0",
        b"\0a\0b\0c\0d",
        b"\0a\0b\0c\0d\0e\0f",
        b"\0" + b"a" * 256 + b"\0\0\0\0",
        b"\0\0\0\0\0" + b"r" * 2049,
    ],
)
def test_attack_112_what_no_relay_sends_is_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.decode(Message(30, 0, 1, payload), FROM_RELAY)


def test_a_report_of_no_refusal_is_a_protocol_error() -> None:
    encoded = messages.encode(SAID, FROM_RELAY)
    with pytest.raises(ProtocolError, match="with value 0"):
        messages.decode(encoded._replace(value=0), FROM_RELAY)


@given(st.binary(max_size=3000))
def test_no_payload_raises_anything_else(payload: bytes) -> None:
    try:
        code, *texts = denials.unpack(payload)
    except ProtocolError:
        return
    assert isinstance(code, int)
    assert all(isinstance(text, str) for text in texts)
