"""stdin of a job that this process writes."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest

from gexec.client.told import Told


@pytest.fixture
def told() -> Iterator[Told]:
    source = Told()
    yield source
    source.close()


def is_ready(source: Told) -> bool:
    return bool(select.select([source.fd], [], [], 0)[0])


def test_what_was_put_is_read_in_order_and_in_parts(told: Told) -> None:
    assert not is_ready(told)
    assert told.read(10) is None
    told.put(b"hello ")
    told.put(b"world")
    assert is_ready(told)
    assert told.read(7) == b"hello w"
    assert is_ready(told)
    assert told.read(100) == b"orld"
    assert not is_ready(told)
    assert told.read(100) is None
    told.put(b"")
    assert not is_ready(told)
    told.put(b"again")
    assert is_ready(told)
    assert told.read(100) == b"again"
