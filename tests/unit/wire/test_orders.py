"""Frames that go down the tree: each arrives as it was; what is cut or beyond its bounds is refused."""

from __future__ import annotations

import pytest

from gexec import limits
from gexec.errors import ProtocolError
from gexec.wire import orders
from gexec.wire.codec import HEADER, Frame, encode
from gexec.wire.frames import FROM_CLIENT, FROM_PARENT, FROM_ROOT, STDERR, STDOUT, TO_AUTHD, Decoder

TABLE = FROM_CLIENT | FROM_PARENT | FROM_ROOT | TO_AUTHD
CHANNEL = 3
ORDERS: list[Frame] = [
    orders.Submit(b"credential", b"blob"),
    orders.Start(7, 3, 9, b"credential", b"blob", True),
    orders.Start(2**32 - 1, 0, 1, b"c", b"", False),
    orders.Resync(2**32 - 1),
    orders.Stdin(2**40, b"data", True),
    orders.Stdin(0, b""),
    orders.Signal(1),
    orders.Signal(64),
    orders.Ack(((0, STDOUT, 5), (7, STDERR, 2**50))),
    orders.Kill(True),
    orders.Kill(False),
    orders.Go(),
    orders.Close(),
    orders.Release(),
    orders.Upgrade(True),
    orders.Upgrade(False),
    orders.Upgraded(True, "from 1 to 2"),
    orders.Upgraded(False, ""),
    orders.Sign(b"gexec", b"job"),
    orders.Certify(b"key", ("node001", "10.0.0.1")),
]


def decoded(data: bytes) -> list[tuple[int, Frame]]:
    decoder = Decoder(TABLE)
    decoder.limit_bytes = limits.JOB_FRAME_MAX_BYTES
    return list(decoder.feed(data))


def raw(kind: type[Frame], payload: bytes) -> bytes:
    return HEADER.pack(len(payload), kind.TYPE, CHANNEL) + payload


@pytest.mark.parametrize("frame", ORDERS, ids=lambda frame: type(frame).__name__)
def test_a_frame_arrives_as_it_was(frame: Frame) -> None:
    assert decoded(encode(CHANNEL, frame)) == [(CHANNEL, frame)]


def test_each_order_has_a_test() -> None:
    kinds = {kind for kind in vars(orders).values() if isinstance(kind, type) and issubclass(kind, Frame)}
    assert {type(frame) for frame in ORDERS} == kinds - {Frame}


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (orders.Submit, b""),
        (orders.Submit, b"\0\5cred"),
        (
            orders.Submit,
            (limits.CREDENTIAL_MAX_BYTES + 1).to_bytes(2) + bytes(limits.CREDENTIAL_MAX_BYTES + 1),
        ),
        (orders.Start, orders.Start(1, 0, 1, b"c", b"b").pack()[:12]),
        (orders.Start, orders.Start(1, 5, 5, b"c", b"b").pack()),
        (orders.Start, orders.Start(1, 6, 5, b"c", b"b").pack()),
        (orders.Start, orders.Start(1, 0, limits.RANKS_MAX + 1, b"c", b"b").pack()),
        (orders.Start, orders.Start(1, 0, 1, b"c", b"b").pack().replace(b"\0\0\1c", b"\2\0\1c")),
        (orders.Resync, b"\0\0\1"),
        (orders.Stdin, bytes(8)),
        (orders.Stdin, bytes(8) + b"\2"),
        (orders.Signal, b""),
        (orders.Signal, b"\0"),
        (orders.Signal, bytes([65])),
        (orders.Signal, b"\1\1"),
        (orders.Ack, bytes(12)),
        (orders.Ack, bytes(4) + b"\0" + bytes(8)),
        (orders.Kill, b""),
        (orders.Kill, b"\2"),
        (orders.Go, b"x"),
        (orders.Close, b"x"),
        (orders.Release, b"x"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else value[:20].hex(),
)
def test_what_is_malformed_is_refused(kind: type[Frame], payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        decoded(raw(kind, payload))
