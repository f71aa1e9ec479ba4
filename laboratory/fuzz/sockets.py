"""Targets behind real sockets: authd, and the channels of the spawner with their descriptors."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import Final

from gexec.authd.authd import Authd
from gexec.errors import ProtocolError
from gexec.posix.channel import MessageLost, Port, pair, seal
from gexec.security import credential as credentials
from gexec.settings.config import AuthdSettings
from gexec.wire import frames, launches, messages
from gexec.wire.codec import HEADER_BYTES, Decoder, encode
from laboratory.fuzz.formats import job_of
from laboratory.fuzz.keypair import KEYS, PRIVATE_PEM, PUBLIC_DER, PUBLIC_PEM

_MESSAGE_TABLES: Final = (
    messages.FROM_RELAY,
    messages.FROM_SPAWNER,
    launches.TO_HELPER,
    launches.FROM_HELPER,
    launches.TO_STARTER,
    launches.FROM_STARTER,
)

# -- authd's socket ----------------------------------------------------------------------------


class _AuthdHere:
    """A real authd, without its listener's loop: requests come on socket pairs."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="gexec-fuzz-")
        place = Path(self._place.name)
        (place / "key").write_bytes(PRIVATE_PEM)
        (place / "key").chmod(0o600)
        (place / "key.pub").write_bytes(PUBLIC_PEM)
        settings = AuthdSettings(
            socket=str(place / "socket"),
            private_key=str(place / "key"),
            public_keys=(str(place / "key.pub"),),
            rate_per_user=1_000_000.0,
            overflow_uid=True,
            audit_log=(os.devnull,),
        )
        self.authd = Authd(settings)
        self.loop = asyncio.new_event_loop()

    def ask(self, data: bytes) -> bytes:
        """Return what it answers to these bytes and their end."""
        ours, theirs = socket.socketpair()
        with ours:
            ours.sendall(data)
            ours.shutdown(socket.SHUT_WR)
            self.loop.run_until_complete(self.authd._serve(theirs, os.geteuid()))
            answer = b""
            while piece := ours.recv(65536):
                answer += piece
        return answer


_authds: Final[list[_AuthdHere]] = []


def fuzz_authd(data: bytes) -> None:
    if not _authds:
        _authds.append(_AuthdHere())
    answer = _authds[0].ask(data)
    if not answer:
        return  # the request was cut short
    ((channel, frame),) = Decoder(frames.FROM_AUTHD).feed(answer)
    assert channel == 0
    if isinstance(frame, frames.Signed):
        audience = data[HEADER_BYTES + 1 :][: data[HEADER_BYTES]].decode("ascii")
        found = credentials.verify(
            frame.credential, KEYS, realm="gexec", audience=audience, now_s=_now_of(frame.credential)
        )
        assert found.uid == os.geteuid()


def _now_of(raw: bytes) -> float:
    issued_us: int = credentials.BODY.unpack_from(raw, credentials.HEAD.size)[0]
    return issued_us / credentials.US


def authd_seeds() -> list[bytes]:
    return [
        encode(0, frames.Sign(b"gexec", job_of().encode())),
        encode(0, frames.Certify(PUBLIC_DER, ("node1", "10.0.0.1", "::1"))),
        encode(0, frames.Hello(1, "x")),
        encode(0, frames.Sign(b"gexec", b"x"))[:-1],
    ]


# -- channels of the spawner -------------------------------------------------------------------

_DATAGRAM: Final = Struct("!BBH")


def fuzz_channel(data: bytes) -> None:
    """Byte 0: who sends; then datagrams: descriptors u8, whether it has a memfd u8, length u16, its bytes."""
    if not data:
        return
    ours, theirs = pair()
    hears = _MESSAGE_TABLES[data[0] % len(_MESSAGE_TABLES)]
    port = Port(theirs, hears, hears)
    before = len(os.listdir("/proc/self/fd"))
    with ours, theirs:
        ours.setblocking(False)
        for said in _datagrams(data[1:]):
            _send(ours, said)
            try:
                heard = port.receive()
            except (ProtocolError, MessageLost):
                continue
            except ConnectionError:
                break
            if heard is None:
                continue
            again = messages.encode(heard, hears)
            assert messages.encode(messages.decode(again, hears), hears) == again
            for fd in again.fds:
                os.close(fd)
        assert len(os.listdir("/proc/self/fd")) == before, "descriptors are left open"
        port.endpoint.close()


def _datagrams(data: bytes) -> Iterator[tuple[int, bool, bytes]]:
    position = 0
    while position + _DATAGRAM.size <= len(data):
        fds, memfd, length = _DATAGRAM.unpack_from(data, position)
        position += _DATAGRAM.size
        yield fds % 8, bool(memfd & 1), data[position : position + length]
        position += length


def _send(sock: socket.socket, said: tuple[int, bool, bytes]) -> None:
    count, has_memfd, payload = said
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(count)]
    if has_memfd:
        memfd = os.memfd_create("fuzz", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(memfd, payload[messages.HEAD.size :])
        seal(memfd)
        fds.append(memfd)
        payload = payload[: messages.HEAD.size]
    try:
        socket.send_fds(sock, [payload], fds)
    except OSError:
        pass  # an empty or too long datagram
    finally:
        for fd in fds:
            os.close(fd)


def channel_seeds() -> list[bytes]:
    job, credential = job_of().encode(), b"credential"
    task = messages.RunProcess(1, 0, credential, job, (0, 1, 2))
    said: list[tuple[int, object]] = [
        (0, task),
        (0, messages.Check(1, 0, credential, job)),
        (0, messages.SignalProcess(1, 15)),
        (0, messages.KillProcess(1, True)),
        (0, messages.ForgetProcess(1)),
        (1, messages.ProcessStarted(1, 77)),
        (1, messages.Certificates(b"key", b"leaf", b"authority")),
    ]
    seeds = []
    for number, one in said:
        message = messages.encode(one, _MESSAGE_TABLES[number])
        head = messages.HEAD.pack(message.kind, 0, message.task, message.value)
        raw = head + message.payload
        seeds.append(bytes((number,)) + _DATAGRAM.pack(len(message.fds), 0, len(raw)) + raw)
    memfd = messages.HEAD.pack(messages.RUN, messages.FLAG_MEMFD, 1, 0)
    payload = memfd + messages.encode(task, messages.FROM_RELAY).payload
    return [*seeds, b"\0" + _DATAGRAM.pack(3, 1, len(payload)) + payload]
