"""Accepting: who is counted and for how long, who is closed, and what is left when descriptors run out."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import socket
import ssl
import struct
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from descriptors import only
from gexec import limits
from gexec.posix.log import Log
from gexec.relay.accept import Acceptor
from gexec.relay.arriving import NodeFrames
from gexec.relay.context import RelayContext
from gexec.relay.link import Link
from gexec.relay.loop import run
from gexec.relay.peer import Peer
from gexec.relay.peerlog import PeerErrors
from gexec.relay.quotas import Quotas
from gexec.relay.tls import LinkContexts, link_contexts
from gexec.security.certificate import authority, leaf
from gexec.security.quota import NOBODY, Shares
from gexec.security.signers import Trust
from gexec.security.signing import SigningKey
from gexec.settings.config import GexecdSettings
from gexec.wire import frames
from gexec.wire.frames import Decoder, Frame, Hello, Ping, encode

DEADLINE_S = 30.0
HELLO = encode(0, Hello(limits.PROTOCOL_VERSION, "test"))
#: Whoever runs the tests is an ordinary user here.
SUPERUSER = os.getuid() + 1
PER_SOURCE = limits.LINKS_UNAUTHENTICATED_PER_SOURCE_MAX


@cache
def contexts() -> LinkContexts:
    """Return what a node named node004 dials and accepts with."""
    key = SigningKey(ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)))
    node = ec.generate_private_key(ec.SECP256R1())
    public = node.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certificate = leaf(
        key,
        issuer=authority(key, "r"),
        public_key_der=public,
        names=["node004"],
        now_s=time.time(),
        ttl_s=3600,
        serial=2**127 + 1,
    )
    pems = [
        x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
        for der in (certificate, authority(key, "r"))
    ]
    return link_contexts(node.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), *pems)


class Node:
    """An acceptor with real listeners, and the owner of its links, which does what the relay does."""

    def __init__(self, place: Path, hello_s: float = DEADLINE_S, host: str = "127.0.0.1") -> None:
        self.accepted: list[tuple[Link, int | None]] = []
        self.opened: list[Link] = []
        self.closed: list[tuple[Link, str]] = []
        self.faults: list[dict[str, Any]] = []
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.faults.append(context))
        self._fd = os.open(place / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        log = Log("relay", self._fd)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, 0), family=family, backlog=200)
        self.address = self.listener.getsockname()[:2]
        self.socket = str(place / "sock")
        self.client_listener = socket.socket(socket.AF_UNIX)
        self.client_listener.bind(self.socket)
        self.client_listener.listen(500)
        channel, self._spawner = socket.socketpair()
        self._channel = channel
        context = RelayContext(
            listeners=[self.listener],
            client_listeners=[self.client_listener],
            channel_socket=channel,
            certificates=(b"", b"", b""),
            names=("node004",),
            settings=GexecdSettings(unauthenticated_max_s=hello_s),
            superuser=SUPERUSER,
            trust=Trust(),
            ready=lambda: None,
            log=log,
        )
        self.quotas = Quotas(GexecdSettings(), SUPERUSER)
        self.arriving = NodeFrames(self.quotas.arriving)
        self.acceptor = Acceptor(self, context, contexts(), PeerErrors(log), self.quotas, self.arriving)

    def link_accepted(self, link: Link, uid: int | None) -> None:
        self.accepted.append((link, uid))

    def link_reached(self, link: Link) -> None:
        raise AssertionError("nothing is dialled here")

    def link_opened(self, link: Link) -> None:
        self.acceptor.known(link)
        self.opened.append(link)

    def link_frame(self, link: Link, channel: int, frame: Frame) -> None:
        raise AssertionError("no frame of a job was sent")

    def peer_refusal(self, peer: Peer) -> str:
        return ""

    def link_closed(self, link: Link, text: str) -> None:
        self.acceptor.forget(link)
        self.arriving.ended(link)
        self.closed.append((link, text))

    @property
    def log(self) -> list[str]:
        """What was logged: sentences without time and process."""
        text = os.pread(self._fd, 1_000_000, 0).decode()
        return [line.partition("]")[2].strip() for line in text.splitlines()]

    async def close(self) -> None:
        self.acceptor.stop()
        for link, _ in self.accepted:
            link.abort("the test is over")
        for sock in (self._channel, self._spawner):
            sock.close()
        os.close(self._fd)
        # What was cancelled has its turns.
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)


class Peers:
    """Sockets of peers; closed with the test."""

    def __init__(self, node: Node, stack: ExitStack) -> None:
        self._node = node
        self._stack = stack

    def client(self) -> socket.socket:
        """Connect as a client of this host."""
        return self.connect(self._stack.enter_context(socket.socket(socket.AF_UNIX)))

    def connect(self, sock: socket.socket) -> socket.socket:
        sock.settimeout(DEADLINE_S)
        sock.connect(self._node.socket)
        return sock

    def reserved(self, source: str = "") -> socket.socket:
        """Return a socket that is connected later, when there are no more descriptors for one."""
        family = socket.AF_INET6 if source else socket.AF_UNIX
        sock = self._stack.enter_context(socket.socket(family))
        sock.settimeout(DEADLINE_S)
        return sock

    def daemon(self, source: str = "127.0.0.1") -> socket.socket:
        """Connect as a daemon does that has said nothing yet."""
        sock = socket.create_connection(self._node.address, DEADLINE_S, (source, 0))
        return self._stack.enter_context(sock)


async def until(what: Callable[[], object]) -> None:
    """Return when this is true."""
    end_s = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < end_s, "it does not happen"
        await asyncio.sleep(0.001)


async def received(sock: socket.socket) -> bytes:
    """Return what a peer receives next: b"" is the end, however it comes."""
    sock.setblocking(False)
    try:
        return await asyncio.get_running_loop().sock_recv(sock, 65536)
    except ConnectionResetError:
        return b""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path: those of sockets are bounded."""
    place = Path(tempfile.mkdtemp(prefix="gxa", dir="/tmp"))
    yield place
    shutil.rmtree(place)


Scenario = Callable[[Node, Peers], Coroutine[Any, Any, None]]


def play(scenario: Scenario, place: Path, **options: Any) -> None:
    """Run a scenario with a node that accepts; nothing may be left unhandled in its loop."""

    async def main() -> None:
        node = Node(place, **options)
        with ExitStack() as stack:
            try:
                await scenario(node, Peers(node, stack))
            finally:
                await node.close()
        assert node.faults == []

    run(main())


# -- clients ------------------------------------------------------------------------------------


def test_a_client_is_known_by_its_process_and_user(place: Path) -> None:
    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        client = peers.client()
        await until(lambda: node.accepted)
        [(link, uid)] = node.accepted
        assert uid == os.getuid()
        assert link.label == f"client (pid {os.getpid()}, uid {uid})"
        assert link.source == f"uid {uid}"
        client.sendall(HELLO + encode(0, Ping(12345678)))
        decoder = frames.Decoder(frames.FROM_ROOT)
        answers: list[Frame] = []
        while len(answers) < 2:
            answers += [frame for _, frame in decoder.feed(await received(client))]
        assert isinstance(answers[0], Hello)
        assert answers[1] == frames.Pong(12345678)
        client.close()
        await until(lambda: node.closed)
        assert node.closed == [(link, "the connection was closed")]

    play(scenario, place)


def test_a_client_that_has_gone_before_it_is_accepted_is_one_that_has_ended(place: Path) -> None:
    async def scenario(node: Node, peers: Peers) -> None:
        for _ in range(3):
            peers.client().close()
        node.acceptor.begin()
        await until(lambda: len(node.closed) == 3)
        assert {uid for _, uid in node.accepted} == {os.getuid()}

    play(scenario, place)


def test_one_user_has_so_many_clients_and_the_next_when_one_has_gone(place: Path) -> None:
    most = limits.CLIENTS_MAX // 2
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2 * most + 200:
        pytest.skip(f"this process may open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * most + 200), hard))

    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        clients = [peers.client() for _ in range(most)]
        await until(lambda: len(node.accepted) == most)
        assert node.log == []
        refused = peers.client()
        answers = Decoder(frames.FROM_ROOT).feed(await received(refused))
        _, (channel, why) = answers
        assert isinstance(why, frames.Refused)
        assert channel == 1
        assert why.text.startswith(f"uid {os.getuid()} has {most} clients on this node and gets no more now")
        assert await received(refused) == b""
        assert len(node.accepted) == most
        me = f"client (pid {os.getpid()}, uid {os.getuid()})"
        assert node.log == [f"warning: {me} was refused: {most} clients of this user"]
        clients[7].close()
        await until(lambda: node.closed)
        assert node.closed[0][0] is not node.accepted[0][0]  # the oldest is not dropped
        peers.client().sendall(HELLO)
        await until(lambda: node.opened)
        assert len(node.accepted) == most + 1

    try:
        play(scenario, place)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_attack_96_half_sent_submissions_of_a_user_are_of_its_share(place: Path) -> None:
    """As many as fit are held, the next one gets the reason; all is given back."""

    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        submissions = node.quotas.submissions
        size = limits.JOB_FRAME_MAX_BYTES
        begun = HELLO + struct.pack("!IBI", size, 16, 1) + bytes(1000)
        most = limits.SUBMISSIONS_MAX_BYTES // 2 // size
        held = []

        def more_than(used: int) -> bool:
            return submissions.used(os.getuid()) > used

        for number in range(most):
            held.append(peers.client())
            held[-1].sendall(begun)
            await until(partial(more_than, number * size))
        assert node.closed == []
        late = peers.client()
        late.sendall(begun)
        await until(lambda: node.closed)
        answers = list(Decoder(frames.FROM_ROOT).feed(await received(late)))
        why = answers[-1][1]
        assert isinstance(why, frames.Refused)
        assert "bytes of submissions that are not complete on this node and gets no more now" in why.text
        peers.client().sendall(HELLO)  # others are served, and small ones of the same user
        await until(lambda: len(node.opened) == most + 2)
        for sock in held:
            sock.close()
        await until(lambda: submissions.used_by_all == 0)

    play(scenario, place)


# -- daemons ------------------------------------------------------------------------------------


def test_a_daemon_is_known_by_its_certificate_and_no_longer_counted(place: Path) -> None:
    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        loop = asyncio.get_running_loop()
        writers = []
        for _ in range(PER_SOURCE + 1):  # one more than may be unknown at a time
            reader, writer = await asyncio.open_connection(
                *node.address, ssl=contexts().dial, server_hostname="node004"
            )
            writers.append(writer)
            writer.write(HELLO)
            await until(lambda: len(node.opened) == len(writers))
        link = node.opened[-1]
        assert link.label == f"node004 (127.0.0.1:{writers[-1].get_extra_info('sockname')[1]})"
        assert node.accepted[-1] == (link, None)
        assert await reader.read(100)
        assert node.log == []
        for writer in writers:
            writer.close()
        await until(lambda: len(node.closed) == len(writers))
        assert loop.is_running()

    play(scenario, place)


async def linked(node: Node, data: bytes) -> asyncio.StreamWriter:
    """Connect as a daemon, and send these bytes after the Hello."""
    _, writer = await asyncio.open_connection(*node.address, ssl=contexts().dial, server_hostname="node004")
    writer.write(HELLO + data)
    return writer


def test_attack_127_half_sent_frames_of_one_node_are_of_its_share(place: Path) -> None:
    """Whatever links it uses; one ordinary frame of it is free, and all is given back."""

    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        size = limits.JOB_FRAME_MAX_BYTES
        begun = struct.pack("!IBI", size, frames.Start.TYPE, 1) + bytes(1000)
        most = limits.ARRIVING_MAX_BYTES // 2 // size
        arriving = node.quotas.arriving
        writers = []
        for number in range(most):
            writers.append(await linked(node, begun))
            await until(lambda wanted=number + 1: arriving.used("node004") > (wanted - 0.5) * size)  # type: ignore[misc]
        assert node.closed == []
        writers.append(await linked(node, begun))
        await until(lambda: node.closed)
        why = f"over its share: node004 has {arriving.used('node004')} bytes of frames that are not complete"
        assert node.closed[0][1].startswith(why)
        assert "all nodes have" in node.closed[0][1]
        for writer in writers:
            writer.close()
        await until(lambda: len(node.closed) == len(writers))
        assert arriving.used("node004") == 0

    play(scenario, place)


def test_attack_127_one_node_has_so_many_links(place: Path) -> None:
    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor._peers = accepted = Shares(4, NOBODY)
        node.acceptor.begin()
        writers = [await linked(node, b"") for _ in range(2)]
        await until(lambda: accepted.used("node004") == 2)
        writers.append(await linked(node, b""))
        await until(lambda: node.closed)
        assert node.closed[0][1].startswith(
            "over its share: node004 has 2 links on this node and gets no more"
        )
        writers[0].close()
        await until(lambda: accepted.used("node004") == 1)
        writers.append(await linked(node, b""))
        await until(lambda: accepted.used("node004") == 2)
        for writer in writers:
            writer.close()
        await until(lambda: accepted.used_by_all == 0)

    play(scenario, place)


def test_so_many_of_one_source_are_unknown_at_a_time(place: Path) -> None:
    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        daemons = [peers.daemon() for _ in range(PER_SOURCE)]
        await until(lambda: len(node.accepted) == PER_SOURCE)
        refused = peers.daemon()
        assert await received(refused) == b""
        assert len(node.accepted) == PER_SOURCE
        port = refused.getsockname()[1]
        counts = f"{PER_SOURCE} connections from this address and {PER_SOURCE} in all"
        assert node.log == [f"warning: 127.0.0.1:{port} was refused: {counts} are not yet authenticated"]

        peers.daemon("127.0.0.2")  # another source has room
        await until(lambda: len(node.accepted) == PER_SOURCE + 1)
        daemons[3].close()
        await until(lambda: node.closed)
        peers.daemon()
        await until(lambda: len(node.accepted) == PER_SOURCE + 2)

    play(scenario, place)


def test_so_many_of_all_sources_are_unknown_at_a_time(place: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = limits.LINKS_UNAUTHENTICATED_MAX
    if hard != resource.RLIM_INFINITY and hard < 2 * most + 200:
        pytest.skip(f"this process may open {hard} files only")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * most + 200), hard))

    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        for number in range(most):
            peers.daemon(f"127.0.0.{1 + number // PER_SOURCE}")
            await until(lambda wanted=number + 1: len(node.accepted) == wanted)  # type: ignore[misc]
        assert await received(peers.daemon("127.0.0.99")) == b""
        assert f"0 connections from this address and {most} in all are not yet" in node.log[0]
        client = peers.client()  # clients have limits of their own
        client.sendall(HELLO)
        await until(lambda: node.opened)

    try:
        play(scenario, place)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_whoever_speaks_no_tls_is_closed_and_no_longer_counted(place: Path) -> None:
    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        for number in range(PER_SOURCE + 3):
            peer = peers.daemon()
            peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
            await until(lambda wanted=number + 1: len(node.closed) == wanted)  # type: ignore[misc]
        assert {text.partition(":")[0] for _, text in node.closed} == {"TLS failed"}
        assert node.log == []

    play(scenario, place)


def test_whoever_has_reset_its_connection_before_it_is_accepted_has_ended(place: Path) -> None:
    async def scenario(node: Node, peers: Peers) -> None:
        for _ in range(5):
            peer = peers.daemon()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
        node.acceptor.begin()
        peers.client().sendall(HELLO)
        await until(lambda: node.opened)
        await until(lambda: len(node.closed) == len(node.accepted) - 1)
        assert len(node.accepted) >= 2

    play(scenario, place)


def test_whoever_says_nothing_is_closed_when_its_time_is_over(place: Path) -> None:
    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        silent = [peers.daemon(), peers.client()]
        for sock in silent:
            while await received(sock):
                pass
        await until(lambda: len(node.closed) == 2)
        assert {text for _, text in node.closed} == {"no Hello within 1 s"}

    play(scenario, place, hello_s=1.0)


def test_a_link_that_is_given_up_during_its_handshake_closes_the_connection(place: Path) -> None:
    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        peer = peers.daemon()
        await until(lambda: node.accepted)
        node.accepted[0][0].abort("enough")
        assert await received(peer) == b""
        assert [text for _, text in node.closed] == ["enough"]

    play(scenario, place)


def test_an_address_of_version_6_is_shown_in_brackets(place: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")

    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        peer = peers.daemon("::1")
        await until(lambda: node.accepted)
        assert node.accepted[0][0].label == f"[::1]:{peer.getsockname()[1]}"
        assert node.accepted[0][0].source == "::1"
        before = peers.reserved("::1")
        with only(free=0):
            before.connect(node.address)
            await until(lambda: node.log)
        text = f"[::1]:{before.getsockname()[1]} was refused: no file descriptors are left"
        assert node.log == [f"warning: {text}: raise LimitNOFILE"]

    play(scenario, place, host="::1")


# -- out of descriptors -------------------------------------------------------------------------


def test_without_descriptors_whoever_comes_is_closed_and_served_again_later(place: Path) -> None:
    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        peers.client()
        await until(lambda: node.accepted)
        late, later = peers.reserved(), peers.reserved()
        with only(free=0):
            peers.connect(late)
            assert await received(late) == b""
            peers.connect(later)
            assert await received(later) == b""  # the descriptor in reserve was kept again
        text = "a client was refused: no file descriptors are left: raise LimitNOFILE"
        assert node.log == [f"warning: {text}"] * 2
        assert len(node.accepted) == 1
        peers.client().sendall(HELLO)
        await until(lambda: node.opened)

    play(scenario, place)


def test_the_last_descriptor_serves_and_nobody_is_said_to_be_refused(place: Path) -> None:
    """The kernel takes a descriptor before it looks whether somebody waits: EMFILE need not mean anybody."""

    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        peers.client()
        await until(lambda: node.accepted)
        client = peers.reserved()
        with only(free=1):
            peers.connect(client)
            client.sendall(HELLO)
            await until(lambda: node.opened)
        assert node.log == []

    play(scenario, place)


# -- the end ------------------------------------------------------------------------------------


def test_after_the_end_nobody_is_accepted_and_who_is_connected_stays(place: Path) -> None:
    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        client = peers.client()
        await until(lambda: node.accepted)
        node.acceptor.stop()
        node.acceptor.stop()
        with pytest.raises(ConnectionRefusedError):
            peers.client()
        with pytest.raises(ConnectionRefusedError):
            peers.daemon()
        client.sendall(HELLO)
        await until(lambda: node.opened)

    play(scenario, place)


def test_a_renewed_certificate_is_for_the_next_connection(place: Path) -> None:
    async def scenario(node: Node, peers: Peers) -> None:
        node.acceptor.begin()
        node.acceptor.contexts = LinkContexts(
            dial=contexts().dial, accept=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        )
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(*node.address, ssl=contexts().dial, server_hostname="node004")
        await until(lambda: node.closed)
        node.acceptor.contexts = contexts()
        _, writer = await asyncio.open_connection(
            *node.address, ssl=contexts().dial, server_hostname="node004"
        )
        writer.write(HELLO)
        await until(lambda: node.opened)
        writer.close()

    play(scenario, place)
