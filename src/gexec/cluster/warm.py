"""Warming the image that all daemons of a local cluster are forked from.

What a library prepares at its first use (OpenSSL its providers and error tables, asyncio its
selectors, the interpreter its specialised bytecode) is prepared here once, in pages that all
daemons then share; otherwise each of a thousand would hold megabytes of it as its own.
"""

from __future__ import annotations

import asyncio
import ssl
import time

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from gexec.net.tls import LinkContexts, link_contexts
from gexec.security import certificate
from gexec.security.keys import SigningKey


def warm() -> None:
    """Do once, in memory, what every daemon does at its start and on its first link."""
    contexts = _contexts()
    for _ in range(3):
        _handshake(contexts)
    asyncio.run(_turns_of_a_loop())


def _contexts() -> LinkContexts:
    authority = SigningKey.load(_pem(ed25519.Ed25519PrivateKey.generate()))
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    public = leaf_key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    leaf = certificate.leaf(
        authority,
        realm="warm",
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


def _pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
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


async def _turns_of_a_loop() -> None:
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.call_later(0, future.set_result, None)
    await future
    async with asyncio.timeout(1):
        await asyncio.sleep(0)
