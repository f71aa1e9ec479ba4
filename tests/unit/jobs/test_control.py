"""Requests to keepers: what is one, and what is not."""

from __future__ import annotations

import pytest

from gexec.jobs import control
from gexec.jobs.control import KillCommand, News, SignalCommand


@pytest.mark.parametrize(
    ("raw", "request_"),
    [
        (b"news 0 12", News(0, 12, False)),
        (b"news 5 6 hold", News(5, 6, True)),
        (b"signal 15", SignalCommand(15)),
        (b"kill", KillCommand(False)),
        (b"kill now", KillCommand(True)),
    ],
)
def test_requests(raw: bytes, request_: object) -> None:
    assert control.parsed(raw) == request_


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"news", b"news 1", b"news 1 2 3", b"news -1 2", b"news 1 2 hold x", b"news 1 " + b"9" * 19,
        b"signal", b"signal 0", b"signal 65", b"signal x", b"signal 15 15", b"kill later", b"\xff\xff",
        "signal \u0661\u0665".encode(),
    ],
)  # fmt: skip
def test_anything_else_is_no_request(raw: bytes) -> None:
    assert control.parsed(raw) is None
