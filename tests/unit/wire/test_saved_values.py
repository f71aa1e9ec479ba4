"""Saved values: every value comes back equal and of the same type, and damaged bytes are refused."""

from __future__ import annotations

from typing import Any

import pytest

from gexec.wire import outcome, values
from gexec.wire.frames import Ack, Ended, Kill, Output, Stdin

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 127, 128, -128, -129, 2**64 - 1, -(2**70), 0.5, -1e300, b"", b"\0\xff", "",
    "\udcff h\u00e9", [], [1, [2]], (), ((0, 3), (5, 9)), {}, {(1, 2): [b"x", None]}, set(), {3, 1},
    bytearray(b"\0\1"),
    outcome.exited(3), outcome.output_cut(outcome.killed(9), "held"), Kill(True), Ack(((1, 2, 3),)),
    Stdin(7, b"data", True), Output(((0, 2),), 1, 2**40, b"x" * 65_536),
    Ended(((3, 4),), outcome.lost("gone"), 2**64 - 1, 0),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
def test_value_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    back = values.decode(b"".join(values.encode([value])))
    assert back == [value]
    assert type(back[0]) is type(value)


def test_large_bytes_are_not_copied() -> None:
    large = bytes(1_000_000)
    assert any(part is large for part in values.encode({"data": large}))


def test_other_objects_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="object cannot be part of a saved state"):
        values.encode([object()])


@pytest.mark.parametrize("end", range(1, 60, 3))
def test_bytes_that_are_cut_are_refused(end: int) -> None:
    raw = b"".join(values.encode({"a": [1, b"xyz", 0.5], "b": (Kill(False), outcome.exited(0))}))
    with pytest.raises(ValueError, match=r"saved state|not enough|unpack"):
        values.decode(raw[: len(raw) - end])


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"NN", "bytes after its end"),
        (b"?" + bytes(8), "unknown tag"),
        (b"l" + b"\xff" * 8, "cut short"),
        ((b"l" + bytes(7) + b"\1") * 40 + b"N", "nested too deeply"),
        (b"".join(values.encode(Kill(True))).replace(b"\x16", b"\x7e"), "unknown type"),
    ],
)
def test_damaged_bytes_are_refused(raw: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        values.decode(raw)
