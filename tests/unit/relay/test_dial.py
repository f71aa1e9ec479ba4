"""Dialling a node under several addresses: in turn, the first that connects wins, failures are named."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from gexec import limits
from gexec.relay.dial import Attempts, parse_addresses
from gexec.relay.loop import run


@pytest.fixture
def listening() -> Iterator[Callable[..., str]]:
    """Opens listeners, and tells their addresses; a ``deaf`` one swallows what comes."""
    with ExitStack() as stack:

        def listen(host: str = "127.0.0.1", deaf: bool = False) -> str:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            server = socket.create_server((host, 0), family=family, backlog=0 if deaf else 5)
            stack.enter_context(server)
            port = server.getsockname()[1]
            while deaf:  # a listener whose queue is full answers nobody
                one = stack.enter_context(socket.socket())
                one.settimeout(0.2)
                try:
                    one.connect((host, port))
                except TimeoutError:
                    break
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

        yield listen


def refusing() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def reached(addresses: list[str], timeout_s: float = 30.0, no_good: int = 0) -> str:
    """Dial; return the address that was reached, the first ``no_good`` ones left aside, or what failed."""

    async def dial() -> str:
        attempts = Attempts(addresses, timeout_s)
        try:
            for _ in range(no_good + 1):
                sock = await attempts.connect()
                if sock is None:
                    return attempts.told()
                sock.close()
                attempts.failed("no good")
            return attempts.address
        finally:
            attempts.close()

    return run(dial())


def test_after_one_that_refuses_the_next_is_tried(listening: Callable[..., str]) -> None:
    good = listening()
    assert reached([refusing(), refusing(), good]) == good
    assert reached([good, refusing()]) == good


def test_one_that_does_not_answer_does_not_hold_up_the_next(listening: Callable[..., str]) -> None:
    deaf, good = listening(deaf=True), listening()
    assert reached([deaf, good]) == good
    assert reached([deaf, refusing(), good]) == good


def test_what_is_no_good_is_left_for_the_others(listening: Callable[..., str]) -> None:
    deaf, good, other = listening(deaf=True), listening(), listening()
    assert reached([good, other], no_good=1) == other
    assert reached([good, deaf, other], no_good=1) == other
    said = reached([good, refusing()], no_good=1)
    assert said.startswith(f"{good}: no good; 127.0.0.1:")
    assert said.endswith(": connection refused (gexecd does not run there)")


def test_all_that_failed_are_named(listening: Callable[..., str]) -> None:
    deaf, first, second = listening(deaf=True), refusing(), refusing()
    zoned = "[fe80::1%no-such]:1"
    said = reached([first, zoned, deaf, second], timeout_s=0.5)
    refused = f"{first}, {second}: connection refused (gexecd does not run there)"
    assert refused in said
    assert f"{deaf}: no answer within 0.5 s" in said
    assert f"{zoned}: " in said
    assert "has no network interface 'no-such'" in said


def test_what_there_was_no_time_for_is_named(
    listening: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "NEXT_ADDRESS_S", 60.0)
    deaf, good = listening(deaf=True), listening()
    said = reached([deaf, good], timeout_s=0.1)
    assert said == f"{deaf}: no answer within 0.1 s; {good}: not tried within 0.1 s"


def test_of_one_address_only_the_cause_is_told() -> None:
    assert reached([refusing()]) == "connection refused (gexecd does not run there)"


def test_all_of_a_node_fit_into_an_outcome() -> None:
    zone = "x" * 15
    addresses = [f"[2001:db8:1111:2222:3333:4444:5555:{number}%{zone}]:65535" for number in range(1111, 1119)]
    assert max(map(len, addresses)) <= limits.ADDRESS_MAX_BYTES
    assert len(reached(addresses).encode()) <= limits.TEXT_MAX_BYTES


def test_a_zone_is_of_who_dials(listening: Callable[..., str]) -> None:
    try:
        address = listening("::1").replace("]", "%lo]")
    except OSError:
        pytest.skip("no IPv6 here")
    assert reached([address]) == address


def test_addresses_of_a_rank_are_numeric_and_few() -> None:
    assert parse_addresses("10.0.0.1:1,[::1]:2,10.0.0.1:1") == ["10.0.0.1:1", "[::1]:2"]
    for wrong in ("10.0.0.1:1,", ",", "10.0.0.1:1,host:1", "10.0.0.1:1 ,[::1]:1", "[::1]:" + "1" * 80):
        with pytest.raises(ValueError, match="address"):
            parse_addresses(wrong)
    with pytest.raises(ValueError, match="more than 8"):
        parse_addresses(",".join(f"10.0.0.{number}:1" for number in range(9)))


def test_nothing_is_left_open_when_the_dialling_is_stopped(listening: Callable[..., str]) -> None:
    async def dial() -> None:
        attempts = Attempts([listening(deaf=True)], 30.0)
        task = asyncio.create_task(attempts.connect())
        await asyncio.wait({task}, timeout=0)
        attempts.close()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(dial())  # an open socket would be a ResourceWarning, which fails a test
