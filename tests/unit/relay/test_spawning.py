"""The relay's channel to its spawner: each task hears its own news, and nothing is lost but what must be."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any

from descriptors import only
from gexec.errors import ProtocolError
from gexec.posix import channel
from gexec.posix.channel import Port
from gexec.posix.log import Log
from gexec.relay.loop import run
from gexec.relay.ports import ProcessEvent
from gexec.relay.spawning import News, Spawning
from gexec.wire import denials, messages, outcome
from gexec.wire.denials import PeerDenied
from gexec.wire.messages import FROM_RELAY, FROM_SPAWNER

DEADLINE_S = 30.0
#: More than goes in one datagram.
LARGE = b"x" * (messages.INLINE_MAX_BYTES + 1)


class Both:
    """A relay's end on the event loop, and the spawner's."""

    def __init__(self) -> None:
        ours, theirs = channel.pair()
        self.spawner = Port(theirs, hears=FROM_RELAY, says=FROM_SPAWNER)
        self.news: list[News] = []
        self.stops: list[int] = []
        self._log = os.memfd_create("log", os.MFD_CLOEXEC)
        self.relay = Spawning(ours, Log("relay", self._log), self.news.append, self.stops.append)
        self.relay.begin()

    @property
    def log(self) -> list[str]:
        """What was logged, without time and process."""
        text = os.pread(self._log, 1_000_000, 0).decode()
        return [line.partition("]")[2].strip() for line in text.splitlines()]

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.relay.fileno())
        asyncio.get_running_loop().remove_writer(self.relay.fileno())
        self.relay.close()
        self.spawner.endpoint.close()
        os.close(self._log)


async def until(what: Callable[[], object]) -> None:
    """Return when this is true."""
    end_s = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < end_s, "it does not happen"
        await asyncio.sleep(0.001)


def play(scenario: Callable[[Both], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        both = Both()
        try:
            await scenario(both)
        finally:
            both.close()

    run(main())


def test_each_task_hears_its_own_news_in_their_order() -> None:
    async def scenario(both: Both) -> None:
        heard: dict[str, list[ProcessEvent]] = {"a": [], "b": []}
        first, second = (both.relay.open_task(heard[name].append) for name in "ab")
        assert first != second
        both.relay.check(first, 3, b"credential", b"blob")
        assert both.spawner.receive() == messages.Check(first, 3, b"credential", b"blob")
        ended = messages.ProcessEnded(first, outcome.Outcome(outcome.EXITED, 7), True)
        for event in (
            messages.ProcessReady(second),
            messages.ProcessStarted(first, 4321),
            ended,
            messages.ProcessLeft(first, 2),
            messages.ProcessStarted(second, 99),
        ):
            both.spawner.say(event)
        await until(lambda: len(heard["b"]) == 2)
        assert heard["a"] == [messages.ProcessStarted(first, 4321), ended, messages.ProcessLeft(first, 2)]
        assert heard["b"] == [messages.ProcessReady(second), messages.ProcessStarted(second, 99)]
        assert (both.stops, both.log) == ([], [])

    play(scenario)


def test_of_a_closed_task_and_of_one_that_never_was_nobody_hears() -> None:
    async def scenario(both: Both) -> None:
        heard: list[ProcessEvent] = []
        closed, task = both.relay.open_task(heard.append), both.relay.open_task(heard.append)
        both.relay.close_task(closed)
        both.relay.close_task(closed)
        for number in (closed, 12345, task):
            both.spawner.say(messages.ProcessReady(number))
        await until(lambda: heard)
        assert heard == [messages.ProcessReady(task)]
        assert (both.stops, both.log) == ([], [])

    play(scenario)


def test_certificates_and_keys_are_news_for_the_relay() -> None:
    async def scenario(both: Both) -> None:
        news: list[messages.Certificates | messages.AcceptedSigners] = [
            messages.Certificates(b"key", b"certificate", LARGE),
            messages.AcceptedSigners(b"keys"),
        ]
        for event in news:
            both.spawner.say(event)
        await until(lambda: len(both.news) == 2)
        assert both.news == news

    play(scenario)


def test_what_the_spawner_does_not_take_yet_goes_out_when_it_reads() -> None:
    async def scenario(both: Both) -> None:
        asked: list[int] = []
        while not both.relay.wants_write:
            both.relay.signal(len(asked), 15)
            asked.append(len(asked))
        for _ in range(100):  # these wait in memory
            both.relay.signal(len(asked), 15)
            asked.append(len(asked))
        taken: list[int] = []

        def take() -> bool:
            while (request := both.spawner.receive()) is not None:
                assert isinstance(request, messages.SignalProcess)
                taken.append(request.task)
            return len(taken) == len(asked)

        await until(take)
        assert taken == asked
        assert not both.relay.wants_write
        both.relay.kill(1, True)  # and it is watched again the next time
        assert both.spawner.receive() == messages.KillProcess(1, True)

    play(scenario)


def test_a_spawner_that_is_gone_ends_the_relay_after_all_that_it_said() -> None:
    async def scenario(both: Both) -> None:
        heard: list[ProcessEvent] = []
        task = both.relay.open_task(heard.append)
        both.spawner.say(messages.ProcessReady(task))
        both.spawner.endpoint.close()
        await until(lambda: both.stops)
        assert heard == [messages.ProcessReady(task)]
        assert both.stops == [1]
        assert both.log == ["error: the spawner is gone (the peer closed the channel): ending"]
        both.relay.signal(task, 15)  # nobody is there, which is no error of who asks

    play(scenario)


def test_a_spawner_that_goes_while_the_relay_drains_is_no_surprise() -> None:
    async def scenario(both: Both) -> None:
        both.relay.draining = True
        both.spawner.endpoint.close()
        await until(lambda: both.stops)
        assert both.stops == [0]
        assert both.log == []

    play(scenario)


def test_nonsense_of_the_spawner_ends_the_relay() -> None:
    async def scenario(both: Both) -> None:
        both.spawner.endpoint.send(messages.Message(200, 1, 1, b"", ()))
        await until(lambda: both.stops)
        assert both.stops == [1]
        [line] = both.log
        assert line.startswith("error: the spawner is gone (")
        assert line.endswith("): ending")

    play(scenario)


def test_a_message_for_which_there_are_no_descriptors_is_logged_and_the_next_one_is_heard() -> None:
    async def scenario(both: Both) -> None:
        heard: list[ProcessEvent] = []
        task = both.relay.open_task(heard.append)
        both.spawner.say(messages.AcceptedSigners(LARGE))  # with a descriptor
        both.spawner.say(messages.ProcessReady(task))
        with only(free=0):
            await until(lambda: heard)
        assert both.news == []
        assert both.stops == []
        assert both.log == ["error: a message from the spawner is lost: Too many open files"]

    play(scenario)


def test_a_spawner_that_reads_nothing_is_an_error_of_who_asks_at_last() -> None:
    async def scenario(both: Both) -> None:
        error = ""
        while not error:
            try:
                both.relay.signal(1, 15)
            except ProtocolError as raised:
                error = str(raised)
        assert error == "the peer has left 65536 messages unread"

    play(scenario)


def test_refusals_are_reported_and_only_counted_while_the_spawner_does_not_read() -> None:
    async def scenario(both: Both) -> None:
        def report() -> None:
            both.relay.report(PeerDenied(1, denials.CLIENT, "uid 7", "client", "", "", "not its own"))

        sent = 0
        while not both.relay.wants_write:
            report()
            sent += 1
        for _ in range(100_000):
            report()
        assert both.relay._port.endpoint.queued == 1
        got = 0
        while got < sent:
            said = both.spawner.receive()
            if said is None:
                await asyncio.sleep(0)
                continue
            assert said.count == 1
            got += 1
        await until(lambda: not both.relay.wants_write)
        report()
        assert both.spawner.receive().count == 100_001

    play(scenario)
