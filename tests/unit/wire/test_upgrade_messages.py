"""Messages of an upgrade: they come back equal, and only from the side that may send them."""

from __future__ import annotations

import os
from typing import Any

import pytest

from gexec.errors import ProtocolError
from gexec.wire import messages, upgrades
from gexec.wire.messages import decode, encode

TO_RELAY = [
    upgrades.HandoverEnds(True),
    upgrades.HandoverEnds(False),
    upgrades.GoOn(),
    upgrades.UpgradeEnded(True, "from 1 to 2"),
    upgrades.UpgradeEnded(False, ""),
]
OF_RELAY = [
    upgrades.SuccessorReady(2_000_000_000),
    upgrades.StateTaken(17),
    upgrades.HandoverFailed("no room"),
    upgrades.UpgradeWanted(True),
    messages.ReleaseOutput(7),
]


@pytest.mark.parametrize(
    ("said", "table", "other"),
    [(said, upgrades.FROM_SPAWNER, upgrades.FROM_RELAY) for said in TO_RELAY]
    + [(said, upgrades.FROM_RELAY, upgrades.FROM_SPAWNER) for said in OF_RELAY],
)
def test_message_comes_back_and_has_one_sender(said: Any, table: Any, other: Any) -> None:
    message = encode(said, table)
    assert decode(message, table) == said
    with pytest.raises(ProtocolError, match="none that this sender may send"):
        decode(message, other)


def test_a_survivor_comes_back_with_its_descriptors() -> None:
    said = upgrades.Survivor(7, 3, 2, 90_000, b"j" * 16, b"d" * 32, (4, 5))
    message = encode(said, upgrades.FROM_SPAWNER)
    assert decode(message, upgrades.FROM_SPAWNER) == said
    with pytest.raises(ProtocolError, match="none that this sender may send"):
        decode(message, upgrades.FROM_RELAY)
    with pytest.raises(ProtocolError, match="cut short"):
        decode(message._replace(payload=message.payload[:-1]), upgrades.FROM_SPAWNER)


def test_a_relay_lets_keep_two_descriptors() -> None:
    said = messages.KeepOutput(7, (4, 5))
    message = encode(said, upgrades.FROM_RELAY)
    assert decode(message, upgrades.FROM_RELAY) == said
    with pytest.raises(ProtocolError, match="brings 1 file descriptors"):
        decode(message._replace(fds=(4,)), upgrades.FROM_RELAY)


def test_handover_brings_one_descriptor() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    message = encode(upgrades.HandOver((reading,)), upgrades.FROM_SPAWNER)
    assert message.fds == (reading,)
    os.close(reading)
    with pytest.raises(ProtocolError, match="brings 0 file descriptors"):
        decode(messages.Message(23, 0), upgrades.FROM_SPAWNER)


def test_a_long_reason_is_cut() -> None:
    message = encode(upgrades.HandoverFailed("x" * 10_000), upgrades.FROM_RELAY)
    assert len(decode(message, upgrades.FROM_RELAY).text) == 2048


def test_no_number_is_used_twice() -> None:
    """The tables of processes are part of those with upgrades."""
    assert set(messages.FROM_SPAWNER) < set(upgrades.FROM_SPAWNER)
    assert set(messages.FROM_RELAY) < set(upgrades.FROM_RELAY)
    assert not set(upgrades.FROM_SPAWNER) & set(upgrades.FROM_RELAY)
