"""Handing a relay's state over: all of it arrives, or nothing is used."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest

from gexec import native
from gexec.core import saving
from gexec.posix import channel
from gexec.relay import handing

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = channel.pair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def nulls() -> Iterator[list[int]]:
    fds = [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(300)]
    yield fds
    for fd in fds:
        os.close(fd)


def test_state_and_many_descriptors_arrive(pair: Pair, nulls: list[int]) -> None:
    state: dict[str, Any] = {"jobs": [b"x" * 3_000_000] * 3, "small": list(range(2000))}
    sender = Thread(target=handing.send, args=(pair[0], state, nulls))
    sender.start()
    got, fds = handing.receive(pair[1])
    sender.join()
    assert got == state
    assert len(fds) == len(nulls)
    assert not set(fds) & set(nulls)
    for fd in fds:
        assert not os.get_inheritable(fd)
        assert os.fstat(fd).st_rdev == os.makedev(1, 3)
        os.close(fd)


def test_a_sender_that_ends_early_is_an_error(pair: Pair) -> None:
    pair[0].close()
    with pytest.raises(ConnectionResetError, match="has sent no state"):
        handing.receive(pair[1])


@pytest.mark.skipif(native.in_use(), reason="compiled code takes no None for a dict")
def test_a_sender_that_ends_before_its_descriptors_is_an_error(pair: Pair) -> None:
    memfd = channel.sealed(b"N")
    handing._send(pair[0], handing._HEAD.pack(handing._MAGIC, saving.VERSION, 5), [memfd])
    os.close(memfd)
    pair[0].close()
    with pytest.raises(ConnectionResetError):
        handing.receive(pair[1])


@pytest.mark.parametrize(
    ("magic", "version"), [(handing._MAGIC, saving.VERSION + 1), (b"anything", saving.VERSION)]
)
def test_another_form_is_refused(pair: Pair, magic: bytes, version: int) -> None:
    memfd = channel.sealed(b"N")
    handing._send(pair[0], handing._HEAD.pack(magic, version, 0), [memfd])
    os.close(memfd)
    with pytest.raises(ValueError, match=f"the new code needs {saving.VERSION}"):
        handing.receive(pair[1])


def test_a_memfd_that_can_still_change_is_refused(pair: Pair) -> None:
    memfd = os.memfd_create("open", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(memfd, b"N")
    handing._send(pair[0], handing._HEAD.pack(handing._MAGIC, saving.VERSION, 0), [memfd])
    os.close(memfd)
    with pytest.raises(ValueError, match="not sealed"):
        handing.receive(pair[1])


def test_a_state_that_cannot_be_written_is_not_sent(pair: Pair) -> None:
    with pytest.raises(TypeError, match="cannot be part of a saved state"):
        handing.send(pair[0], {"job": object()}, [])
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pair[1].recv(1)
