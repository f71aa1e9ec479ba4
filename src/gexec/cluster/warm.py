"""Warms up the process from which all daemons of a local cluster are forked.

Libraries prepare data at their first use: OpenSSL its providers and error tables, asyncio its selectors, the
interpreter its specialised bytecode. This happens here once, in pages that all daemons then share; otherwise
each of a thousand would have its own megabytes of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import ssl
import time

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gexec.core import events
from gexec.core.node import Node
from gexec.relay.link import Link
from gexec.relay.peer import Peer
from gexec.relay.tls import LinkContexts, link_contexts
from gexec.security import certificate
from gexec.security import credential as credentials
from gexec.security.signers import Trust
from gexec.security.signing import SigningKey, issue
from gexec.wire import frames
from gexec.wire.frames import Frame
from gexec.wire.jobspec import NO_STDIN, JobSpec
from gexec.wire.outcome import exited

#: CPython 3.11 specialises a function's bytecode after eight calls, and settles in a few more.
_TIMES = 24


def warm() -> None:
    """Do, in memory, what every daemon does at its start and on its first link."""
    authority = SigningKey.load(_pem(rsa.generate_private_key(public_exponent=65537, key_size=2048)))
    contexts = _contexts(authority)
    for _ in range(_TIMES):
        _handshake(contexts)
    # Not with uvloop: descriptors that libuv opens once per process would be closed in the children.
    asyncio.run(_links(contexts))
    _jobs(authority)


def _contexts(authority: SigningKey) -> LinkContexts:
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    public = leaf_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    leaf = certificate.leaf(
        authority,
        issuer=certificate.authority(authority, "warm"),
        public_key_der=public,
        names=("localhost",),
        now_s=time.time(),
        ttl_s=60.0,
        serial=1,
    )
    return link_contexts(
        _pem(leaf_key),
        ssl.DER_cert_to_PEM_cert(leaf).encode(),
        ssl.DER_cert_to_PEM_cert(certificate.authority(authority, "warm")).encode(),
    )


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _handshake(contexts: LinkContexts) -> None:
    forth, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    dialler = contexts.dial.wrap_bio(back, forth, server_hostname="localhost")
    acceptor = contexts.accept.wrap_bio(forth, back, server_side=True)
    waiting = [dialler, acceptor]
    while waiting:
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
    dialler.write(b"warm")
    acceptor.read(4)


class _Owner:
    """Receives the frames of two connected links until there were enough."""

    def __init__(self) -> None:
        self.over = asyncio.get_running_loop().create_future()
        self._heard = 0

    def link_reached(self, link: Link) -> None:
        """Nothing: no link is dialled here."""

    def link_opened(self, link: Link) -> None:
        """Send the first frame."""
        link.send(1, frames.Signal(1))

    def link_frame(self, link: Link, channel: int, frame: Frame) -> None:
        """Answer a few times."""
        self._heard += 1
        if self._heard < 4 * _TIMES:
            link.send(1, frames.Signal(1))
        elif not self.over.done():
            self.over.set_result(None)

    def peer_refusal(self, peer: Peer) -> str:
        """Every peer is trusted here."""
        return ""

    def link_closed(self, link: Link, text: str) -> None:
        """End the exchange early."""
        if not self.over.done():
            self.over.set_result(None)


async def _links(contexts: LinkContexts) -> None:
    """Exchange frames between two links over a socket pair."""
    loop = asyncio.get_running_loop()
    owner = _Owner()
    here, there = socket.socketpair()
    for sock in (here, there):
        sock.setblocking(False)
    accepted = Link(owner, frames.FROM_PARENT, "warm")
    dialled = Link(owner, frames.FROM_PARENT, "warm")
    async with asyncio.timeout(10):
        await asyncio.gather(
            loop.connect_accepted_socket(lambda: accepted.protocol, there, ssl=contexts.accept),
            loop.create_connection(
                lambda: dialled.protocol, sock=here, ssl=contexts.dial, server_hostname="localhost"
            ),
        )
        await owner.over
    for link in (accepted, dialled):
        link.abort("warm")
    await asyncio.sleep(0)


def _jobs(authority: SigningKey) -> None:
    """Run a leaf of a job from its Start to its Close, as often as the interpreter needs to specialise it."""
    count = 64
    spec = JobSpec(
        names=[b"node%03d" % rank for rank in range(count)],
        addresses=[b"127.0.0.1:2875"] * count,
        program=b"/bin/true",
        argv=[b"true"],
        env=[b"PATH=/bin"],
        flags=NO_STDIN,
    )
    blob = spec.encode()
    now_s = time.time()
    credential = issue(
        authority,
        realm="warm",
        audience="gexec",
        host="localhost",
        uid=0,
        gid=0,
        user="root",
        now_s=now_s,
        ttl_s=60.0,
        job_id=bytes(16),
        digest=hashlib.sha256(blob).digest(),
    )
    signers = Trust.unlimited([authority.public]).signers
    for _ in range(_TIMES):
        known = credentials.verify(credential, signers, realm="warm", audience="gexec", now_s=now_s)
        credentials.bound_to(known, blob)
        sent = frames.encode(1, frames.Start(1, 5, 6, credential, blob))
        for _, start in frames.Decoder(frames.FROM_PARENT).feed(sent):
            assert isinstance(start, frames.Start)
            _leaf(Node(job_id=known.job_id, spec=JobSpec.decode(start.blob), start=start, parent=1))


def _leaf(node: Node) -> None:
    node.begin(0.0)
    for event in (
        events.TaskStarted(),
        events.OutputRead(frames.STDOUT, b"warm\n"),
        events.OutputClosed(frames.STDOUT),
        events.OutputClosed(frames.STDERR),
        events.TaskEnded(exited(0)),
        events.ParentFrame(1, frames.Close()),
    ):
        for effect in node.handle(event, 0.0):
            if isinstance(effect, events.ToParent):
                frames.encode(1, effect.frame)
        node.next_deadline_s()
