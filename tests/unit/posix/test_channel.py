"""The channel: every message survives, descriptors arrive close-on-exec, nonsense ends it."""

from __future__ import annotations

import array
import fcntl
import os
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec import limits
from gexec.errors import ProtocolError
from gexec.posix import channel
from gexec.posix.channel import Endpoint, MessageLost, Port
from gexec.relay.spawning import RelayChannel
from gexec.wire import launches, messages, outcome
from gexec.wire.launches import (
    FROM_HELPER,
    FROM_STARTER,
    TO_HELPER,
    TO_STARTER,
    Becoming,
    HelperGone,
    Launch,
    LaunchCheck,
    LaunchSpec,
    LostTasks,
    NewHelper,
    OldTask,
    ProcessRan,
    SignalHelper,
    StarterNote,
)
from gexec.wire.messages import (
    FROM_RELAY,
    FROM_SPAWNER,
    AcceptedSigners,
    Certificates,
    Check,
    ForgetProcess,
    KillProcess,
    Message,
    ProcessEnded,
    ProcessLeft,
    ProcessReady,
    ProcessRefused,
    ProcessStarted,
    RunProcess,
    SignalProcess,
)

BECOMING = Becoming(
    1000, (100,), "ann", (("nofile", 100, -1),), 5, "gexec", ("/usr/bin/*", "/opt/x y"), ("/usr/bin/su",)
)
SIGNAL, KILL, FORGET, STARTED, READY, REFUSED, ENDED, KEYS, LEFT = 3, 4, 5, 16, 17, 18, 19, 21, 22


def spawner_port(sock: socket.socket) -> Port:
    """Return the spawner's end of its relay's channel."""
    return Port(sock, hears=FROM_RELAY, says=FROM_SPAWNER)


def helper_port(sock: socket.socket) -> Port:
    """Return the spawner's end of a helper's channel."""
    return Port(sock, hears=FROM_HELPER, says=TO_HELPER, bounded=True)


def helpers_port(sock: socket.socket) -> Port:
    """Return a helper's own end."""
    return Port(sock, hears=TO_HELPER, says=FROM_HELPER)


SPEC = LaunchSpec(b"/bin/x", [b"x", b""], [b"A=1"], b"/", 0o22, True, 1.5, bytes(range(16)), 7)


def test_requests_and_events_arrive_as_they_were() -> None:
    ours, theirs = channel.pair()
    relay, spawner = RelayChannel(ours), spawner_port(theirs)
    relay.check(1, 2, b"c" * 300, b"b" * 1000)
    relay.check(1, 2, b"c", b"b" * 1_000_000)
    relay.signal(3, 15)
    relay.kill(4, True)
    relay.forget(2**32 - 1)
    assert [spawner.receive() for _ in range(5)] == [
        Check(1, 2, b"c" * 300, b"b" * 1000),
        Check(1, 2, b"c", b"b" * 1_000_000),
        SignalProcess(3, 15),
        KillProcess(4, True),
        ForgetProcess(2**32 - 1),
    ]
    events: list[messages.Event] = [
        ProcessStarted(1, 4321),
        ProcessReady(2),
        ProcessRefused(3, outcome.not_started("ü" * 5000, 2)),
        ProcessEnded(4, outcome.killed(9)),
        ProcessEnded(5, outcome.killed(9), True),
        ProcessLeft(5, 2),
        Certificates(b"k", b"c" * 70_000, b"a"),
        AcceptedSigners(b"p"),
    ]
    for event in events:
        spawner.say(event)
    assert [relay.receive() for _ in events] == events
    assert relay.receive() is None
    relay.close()
    with pytest.raises(ConnectionError):
        spawner.receive()
    spawner.endpoint.close()


@pytest.mark.parametrize(
    ("kind", "value", "payload"),
    [(ENDED, 2, bytes(5)), (LEFT, 0, b""), (LEFT, 1, b"x"), (LEFT, 1, bytes(4 + 33)), (LEFT, 1, b"x" * 100)],
)  # fmt: skip
def test_ends_and_leftovers_with_impossible_values_are_refused(kind: int, value: int, payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.decode(Message(kind, 1, value, payload, ()), FROM_SPAWNER)


OLD = OldTask(3, 4711, "00" * 16, 2, 12, 34, 5.5, 1.5, True, False)


@pytest.mark.parametrize(
    ("said", "table"),
    [
        (LaunchCheck(5, SPEC), TO_HELPER),
        (SignalProcess(5, 9), TO_HELPER),
        (KillProcess(5, False), TO_HELPER),
        (ForgetProcess(5), TO_HELPER),
        (SignalHelper(5, 9), TO_STARTER),
        (LostTasks(5, 1000, [OLD], [("11" * 16, 7)], [1, 2]), TO_STARTER),
        (LostTasks(5, 1000, [], [], []), TO_STARTER),
        (ProcessLeft(6, 0, 70_000, ("12 a\n b", "13 ü")), FROM_HELPER),
        (HelperGone(5), FROM_STARTER),
        (ProcessRan(5, 4711, outcome.exited(3), False), FROM_HELPER),
        (ProcessRan(5, 4711, outcome.killed(9), True), FROM_STARTER),
        (HelperGone(5, "no memory: ü"), FROM_STARTER),
        (HelperGone(5, "expired", True), FROM_STARTER),
        (StarterNote("no keyrings: ü"), FROM_STARTER),
    ],
    ids=lambda said: type(said).__name__,
)
def test_what_is_said_to_and_by_the_starter_and_helpers_arrives_as_it_was(
    said: object, table: messages.Table
) -> None:
    assert messages.decode(messages.encode(said, table), table) == said


def test_descriptors_go_along_with_launches_and_new_helpers() -> None:
    for said, table in (
        (Launch(5, SPEC, (0, 1, 2)), TO_HELPER),
        (NewHelper(5, Becoming(1000, (100, 4, 27)), (0,)), TO_STARTER),
        (NewHelper(5, BECOMING, (0,)), TO_STARTER),
    ):
        ours, theirs = channel.pair()
        sender, receiver = Port(ours, hears={}, says=table), Port(theirs, hears=table, says={})
        sender.say(said)
        told = receiver.receive()
        assert len(told.fds) == len(said.fds)
        for fd in told.fds:
            os.close(fd)
        told.fds = said.fds
        assert told == said
        sender.endpoint.close()
        receiver.endpoint.close()


def test_no_sender_can_say_what_only_another_one_may() -> None:
    tables = [FROM_RELAY, FROM_SPAWNER, TO_HELPER, TO_STARTER, FROM_STARTER]
    with pytest.raises(TypeError, match="not in this sender's table"):
        messages.encode(Launch(1, SPEC, (0, 1, 2)), FROM_RELAY)
    for kind in (launches.LAUNCH, 7, launches.NEW_HELPER, 9, 10):
        assert kind not in FROM_RELAY
        with pytest.raises(ProtocolError, match="none that this sender may send"):
            messages.decode(Message(kind, 1, 9), FROM_RELAY)
    kinds = {(kind, form.said) for table in tables for kind, form in table.items()}
    assert len({kind for kind, _ in kinds}) == len(kinds)  # one number, one meaning


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"1", b"{}", b'{"uid": 1, "gids": []}', b'{"uid": 1, "gids": [1], "x": 1}']
)
def test_a_malformed_new_helper_is_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.decode(Message(launches.NEW_HELPER, 1, 0, payload, (0,)), TO_STARTER)


@pytest.mark.parametrize("payload", [b"x", bytes(4 + 33), b"x" * 100])
def test_malformed_leftovers_of_a_helper_are_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.decode(Message(LEFT, 1, 0, payload), FROM_HELPER)


@pytest.mark.parametrize("payload", [b"", b"\0", b"\0\0\0\0\0\2", b"\xff\0\0\0\0\0"])
def test_a_malformed_end_is_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.decode(Message(24, 1, 0, payload), FROM_HELPER)


@pytest.mark.parametrize("payload", [b"", b"[]", b"[[], [], [], []]", b'[[{"number": 1}], [], []]', b"\xff"])
def test_malformed_tasks_of_a_helper_that_is_gone_are_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.decode(Message(10, 1, 0, payload), TO_STARTER)


def test_attack_69_descriptors_arrive_close_on_exec() -> None:
    ours, theirs = channel.pair()
    relay, spawner = RelayChannel(ours), spawner_port(theirs)
    read, write = os.pipe()
    relay.run(1, 0, b"c", b"b" * 100_000, (read, write, write))
    os.close(read)
    os.close(write)
    run = spawner.receive()
    assert isinstance(run, RunProcess)
    assert len(run.fds) == 3
    os.write(run.fds[1], b"through")
    assert os.read(run.fds[0], 10) == b"through"
    for fd in run.fds:
        assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        os.close(fd)
    relay.close()
    spawner.endpoint.close()


def test_a_peer_that_does_not_read_never_blocks_and_gets_everything() -> None:
    ours, theirs = channel.pair()
    relay, spawner = RelayChannel(ours), spawner_port(theirs)
    read, write = os.pipe()
    for task in range(500):
        relay.run(task, 0, b"", b"x" * 20_000, (read, write, write))
    assert relay.wants_write
    seen: list[int] = []
    while len(seen) < 500:
        while (run := spawner.receive()) is not None:
            assert isinstance(run, RunProcess)
            seen.append(run.task)
            for fd in run.fds:
                os.close(fd)
        relay.flush()
    assert seen == list(range(500))
    assert not relay.wants_write
    os.close(read)
    os.close(write)
    relay.close()
    spawner.endpoint.close()


def test_queue_has_a_limit() -> None:
    ours, theirs = channel.pair()
    endpoint = Endpoint(ours, queued_max=3)
    forget = Message(FORGET, 0)
    while endpoint.queued < 3:
        endpoint.send(forget)
    with pytest.raises(ProtocolError, match="unread"):
        endpoint.send(forget)
    endpoint.close()
    theirs.close()


#: The kind of a message, or a number that is none; and payloads that are nearly right.
KINDS = st.one_of(st.sampled_from([*range(1, 11), *range(16, 24)]), st.integers(0, 255))
PAYLOADS = st.one_of(
    st.just(b""),
    st.binary(max_size=120),
    st.builds(lambda credential, blob: struct.pack("!H", len(credential)) + credential + blob,
              st.binary(max_size=9), st.binary(max_size=9)),
    st.builds(lambda kind, value, text: struct.pack("!Bi", kind, value) + text,
              st.integers(0, 7), st.integers(-1, 65536), st.binary(max_size=9)),
    st.just(SPEC.pack()),
)  # fmt: skip


def is_request(kind: int, value: int, payload: bytes) -> bool:
    """Tell whether a message without descriptors is a request, by the table of the protocol."""
    if kind == messages.CHECK:
        return len(payload) >= 2 and int.from_bytes(payload[:2]) <= min(
            len(payload) - 2, limits.CREDENTIAL_MAX_BYTES
        )
    values = {SIGNAL: (1, 64), KILL: (0, 1), FORGET: (0, 2**32)}
    least, most = values.get(kind, (1, 0))
    return not payload and least <= value <= most


def is_event(kind: int, value: int, payload: bytes) -> bool:
    """Tell whether a message without descriptors is an event."""
    if kind in (REFUSED, ENDED):
        if len(payload) < 5 or (kind == ENDED and value > 1):
            return False
        outcome_kind, outcome_value = struct.unpack_from("!Bi", payload)
        return bool(outcome_kind <= 5 and 0 <= outcome_value <= 65535)
    if kind == messages.CERTIFICATES:
        return len(payload) >= 12 and sum(struct.unpack_from("!III", payload)) == len(payload) - 12
    if kind == LEFT:
        return value >= 1 and not payload
    return kind == KEYS or (kind in (STARTED, READY) and not payload)


HEADS = st.builds(
    lambda kind, flags, task, value, payload: messages.HEAD.pack(kind, flags, task, value) + payload,
    KINDS, st.sampled_from([0, 0, 0, 1, 2, 255]), st.integers(0, 2**32 - 1),
    st.one_of(st.integers(0, 65), st.integers(0, 2**32 - 1)), PAYLOADS,
)  # fmt: skip


@given(st.one_of(HEADS, st.binary(max_size=200)))
def test_attack_46_54_nonsense_is_a_protocol_error(raw: bytes) -> None:
    ours, theirs = channel.pair()
    try:
        ours.send(raw)
        port = spawner_port(theirs)
        if not raw:
            with pytest.raises(ConnectionError):
                port.receive()
            return
        kind, flags, _, value = messages.HEAD.unpack_from(raw.ljust(10, b"\0"))
        if len(raw) >= 10 and not flags and is_request(kind, value, raw[10:]):
            assert port.receive() is not None
        else:
            with pytest.raises(ProtocolError):
                port.receive()
    finally:
        ours.close()
        theirs.close()


@given(KINDS, st.integers(0, 65), PAYLOADS)
def test_nonsense_payload_is_a_protocol_error(kind: int, value: int, payload: bytes) -> None:
    message = Message(kind, 1, value, payload, ())
    for table, right in (
        (FROM_RELAY, is_request(kind, value, payload)),
        (FROM_SPAWNER, is_event(kind, value, payload)),
    ):
        if right:
            assert messages.decode(message, table) is not None
        else:
            with pytest.raises(ProtocolError):
                messages.decode(message, table)


def test_attack_67_descriptors_of_a_malformed_message_are_closed() -> None:
    ours, theirs = channel.pair()
    spawner = spawner_port(theirs)
    read, write = os.pipe()
    socket.send_fds(ours, [messages.HEAD.pack(SIGNAL, 0, 1, 9)], [write])
    os.close(write)
    with pytest.raises(ProtocolError):
        spawner.receive()
    assert os.read(read, 1) == b""  # its end: no copy of the other side is left
    os.close(read)
    ours.close()
    spawner.endpoint.close()


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("blob", [b"b", b"b" * 100_000], ids=["inline", "memfd"])
def test_descriptors_that_a_full_process_cannot_take_cost_that_message_alone(blob: bytes) -> None:
    ours, theirs = channel.pair()
    relay, spawner = RelayChannel(ours), spawner_port(theirs)
    relay.run(7, 3, b"c", blob, (0, 1, 2))
    relay.signal(8, 15)
    with no_descriptor_left(), pytest.raises(MessageLost, match="Too many open files") as lost:
        spawner.receive()
    assert (lost.value.kind, lost.value.task, lost.value.value) == (messages.RUN, 7, 3)
    assert spawner.receive() == SignalProcess(8, 15)
    relay.close()
    spawner.endpoint.close()


def test_more_descriptors_than_a_message_has_are_a_protocol_error() -> None:
    ours, theirs = channel.pair()
    port = spawner_port(theirs)
    head = messages.HEAD.pack(messages.RUN, 0, 1, 0)
    fds = array.array("i", [0] * 5)
    ours.sendmsg([head + b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    with pytest.raises(ProtocolError, match="more than 4 file descriptors"):
        port.receive()
    ours.close()
    port.endpoint.close()


def _ask_for_ever(
    helper: Port, numbers: Iterator[int], spec: LaunchSpec = SPEC, fds: tuple[int, ...] = (0, 1, 2)
) -> None:
    for number in numbers:
        helper.say(Launch(number, spec, fds))


def _check_for_ever(helper: Port, numbers: Iterator[int], spec: LaunchSpec) -> None:
    for number in numbers:
        helper.say(LaunchCheck(number, spec))


def _flush_all(helper: Port) -> None:
    while helper.endpoint.wants_write:
        helper.endpoint.flush()


def _large(size: int) -> LaunchSpec:
    return LaunchSpec(b"/x", [b"x"], [b"A=" + b"x" * size], b"/", 0o22, False, 5.0, bytes(16), 0)


def test_what_waits_for_a_helper_holds_few_descriptors() -> None:
    ours, theirs = channel.pair()
    helper = helper_port(ours)
    before = len(os.listdir("/proc/self/fd"))
    numbers = count(1)
    with pytest.raises(OSError, match="has not taken up what it was sent before"):
        _ask_for_ever(helper, numbers)
    assert next(numbers) > 64  # what may be under way at a time finds room
    assert len(os.listdir("/proc/self/fd")) - before <= 256
    helper.say(KillProcess(1, True))  # there is room for what takes none
    helper.endpoint.close()
    assert len(os.listdir("/proc/self/fd")) < before
    theirs.close()


@pytest.mark.parametrize("size", [100, 30_000, 60_000, 200_000])
def test_all_launches_that_may_be_under_way_find_room_before_a_helper_reads(size: int) -> None:
    ours, theirs = channel.pair()
    helper = helper_port(ours)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 106_496)  # half of what systems allow by default
    for number in range(limits.LAUNCHES_UNDER_WAY_MAX):
        helper.say(Launch(number, _large(size), (0, 1, 2)))
    helper.endpoint.close()
    theirs.close()


def test_what_waits_for_a_helper_holds_few_bytes() -> None:
    ours, theirs = channel.pair()
    helper = helper_port(ours)
    numbers = count()
    with pytest.raises(OSError, match="has not taken up what it was sent before"):
        _check_for_ever(helper, numbers, _large(60_000))  # checks bring no descriptors
    assert next(numbers) * 60_000 < 16 * 1024 * 1024
    helper.say(KillProcess(1, True))
    helper.endpoint.close()
    theirs.close()


def test_a_message_that_cannot_be_sent_is_given_up_and_the_next_one_goes_out() -> None:
    ours, theirs = channel.pair()
    helper, port = helper_port(ours), helpers_port(theirs)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sent = 0
    while not helper.endpoint.wants_write:
        helper.say(KillProcess(sent, True))
        sent += 1
    helper.say(LaunchCheck(7, _large(60_000)))  # more than the socket ever takes
    helper.say(KillProcess(8, True))
    for number in range(sent):
        assert port.receive() == KillProcess(number, True)
        if number == 0:
            with pytest.raises(OSError, match="Message too long"):
                _flush_all(helper)
        else:
            helper.endpoint.flush()
    assert port.receive() == KillProcess(8, True)
    helper.endpoint.close()
    port.endpoint.close()


def test_copies_for_the_queue_are_all_or_none() -> None:
    before = len(os.listdir("/proc/self/fd"))
    lowest = os.dup(0)
    os.close(lowest)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            channel._copies((0, 1, 2))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) == before
