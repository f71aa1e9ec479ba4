"""What peers did wrong is logged at a bounded rate, and nothing of it hides what others did."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator

import pytest

from gexec.posix.log import Log
from gexec.relay import peerlog
from gexec.relay.link import Link
from gexec.relay.loop import run
from gexec.relay.peer import Peer
from gexec.relay.peerlog import BURST, SOURCE_BURST, SOURCE_PER_S, PeerErrors, tell_faults
from gexec.wire import frames
from gexec.wire.frames import Frame


class Written:
    """A log's descriptor, and its lines without time and process."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @property
    def lines(self) -> list[str]:
        text = os.pread(self.fd, 10_000_000, 0).decode()
        return [line.partition("]")[2].strip() for line in text.splitlines()]


@pytest.fixture
def written() -> Iterator[Written]:
    """What a log has written."""
    fd = os.memfd_create("log", os.MFD_CLOEXEC)
    yield Written(fd)
    logging.getLogger("asyncio").filters = []  # which tell_faults sets, with this descriptor
    os.close(fd)


def test_a_source_has_so_many_lines_at_once_and_then_one_in_a_while(written: Written) -> None:
    errors = PeerErrors(Log("relay", written.fd))
    for number in range(SOURCE_BURST + 5):
        errors.tell("10.0.0.1", f"error {number}", 100.0)
    assert written.lines == [f"warning: error {number}" for number in range(SOURCE_BURST)]
    later_s = 100.0 + 1 / SOURCE_PER_S
    errors.tell("10.0.0.1", "the next", later_s)
    errors.tell("10.0.0.1", "one too many", later_s)
    assert written.lines[SOURCE_BURST:] == ["warning: the next (5 more about 10.0.0.1 were not logged)"]
    errors.tell("10.0.0.1", "the last", later_s + 1 / SOURCE_PER_S)
    assert written.lines[SOURCE_BURST + 1 :] == ["warning: the last (1 more about 10.0.0.1 were not logged)"]


def test_a_source_that_floods_takes_nothing_from_another_one(written: Written) -> None:
    errors = PeerErrors(Log("relay", written.fd))
    for _ in range(10 * BURST):
        errors.tell("10.0.0.1", "flood", 0.0)
    errors.tell("10.0.0.2", "rare", 0.0)
    assert written.lines == ["warning: flood"] * SOURCE_BURST + ["warning: rare"]


def test_many_sources_together_have_a_bound_too(written: Written) -> None:
    errors = PeerErrors(Log("relay", written.fd))
    for number in range(2 * BURST):
        errors.tell(f"10.0.{number}.1", "error", 0.0)
    assert len(written.lines) == BURST
    errors.tell("10.0.399.1", "again", 1.0)
    assert written.lines[BURST:] == ["warning: again (1 more about 10.0.399.1 were not logged)"]


def test_what_is_kept_of_untold_sources_is_bounded(written: Written) -> None:
    errors = PeerErrors(Log("relay", written.fd))
    for number in range(peerlog._SOURCES_MAX + 2 * BURST):
        errors.tell(f"source {number}", "error", 0.0)
    assert 0 < len(errors._untold) <= peerlog._SOURCES_MAX


class Nobody:
    """An owner of links that hears nothing."""

    def link_reached(self, link: Link) -> None:
        raise AssertionError

    link_opened = link_reached

    def link_frame(self, link: Link, channel: int, frame: Frame) -> None:
        raise AssertionError

    def peer_refusal(self, peer: Peer) -> str:
        return ""

    def link_closed(self, link: Link, text: str) -> None:
        pass


def _fails() -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("verbose", [False, True])
def test_a_fault_of_the_loop_is_one_line_and_its_traceback_is_for_debugging(
    written: Written, verbose: bool
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        tell_faults(loop, Log("relay", written.fd, verbose=verbose))
        loop.call_soon(_fails)
        done = asyncio.Event()
        loop.call_soon(done.set)
        await done.wait()

    run(scenario())
    first, *more = written.lines
    assert first.startswith("error: ")
    assert first.endswith(": OSError: [Errno 5] Input/output error")
    if verbose:
        assert __file__ in more[-1]
        assert more[-1].endswith("_fails")
    else:
        assert more == []


def test_what_the_loop_itself_logs_is_a_warning_and_of_others_nothing(written: Written) -> None:
    async def scenario() -> None:
        tell_faults(asyncio.get_running_loop(), Log("relay", written.fd))
        logging.getLogger("asyncio").warning("socket.send() raised exception of %s", "peer")
        logging.getLogger("asyncio").info("not told")
        logging.getLogger("other").critical("not ours")

    run(scenario())
    assert written.lines == ["warning: socket.send() raised exception of peer"]


def test_a_fault_of_a_link_names_its_peer(written: Written) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        tell_faults(loop, Log("relay", written.fd))
        link = Link(Nobody(), frames.FROM_PARENT, "node003 (10.0.0.3:2875)")
        loop.call_exception_handler({"message": "Fatal error", "protocol": link.protocol})
        loop.call_exception_handler({"exception": ValueError("odd")})

    run(scenario())
    assert written.lines == [
        "error: node003 (10.0.0.3:2875): Fatal error",
        "error: failed: ValueError: odd",
    ]
