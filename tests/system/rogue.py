"""A peer that speaks the protocol by hand: it says whatever a test wants, with real certificates.

Everything here blocks with a deadline. Connections come from addresses of 127.0.0.0/8 that no
other test uses, since daemons bound what they log and allow for each address.
"""

from __future__ import annotations

import itertools
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509 import load_der_x509_certificate

from gexec import limits
from gexec.client.authd import obtain_credential
from gexec.gexecd.enrolment import CertificateSource, enrol
from gexec.relay.tls import link_contexts
from gexec.security.certificate import authority, leaf
from gexec.security.credential import Credential, verify
from gexec.security.signing import SigningKey
from gexec.settings.keyfiles import read_trust
from gexec.wire import frames
from gexec.wire.frames import Frame
from gexec.wire.jobspec import JobSpec
from gexec.wire.record import field_names

from .conftest import DEADLINE_S, Cluster, wait_until

_SOURCES = itertools.count(1)


def fresh_source() -> str:
    """Return an address to come from that was not used before in this process."""
    number = next(_SOURCES)
    return f"127.{100 + os.getpid() % 100}.{number // 250}.{1 + number % 250}"


# -- identities -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Identity:
    """A key, its certificate and the authorities that its owner believes, all PEM."""

    key: bytes
    certificate: bytes
    authority: bytes

    def dialling(self, **options: Any) -> ssl.SSLContext:
        """Return the context of who dials; it looks at nobody's name."""
        context = link_contexts(self.key, self.certificate, self.authority).dial
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        for name, value in options.items():
            setattr(context, name, value)
        return context

    def accepting(self) -> ssl.SSLContext:
        """Return the context of who is dialled; it looks at nobody's certificate."""
        context = link_contexts(self.key, self.certificate, self.authority).accept
        context.verify_mode = ssl.CERT_NONE
        return context


def certified(cluster: Cluster, *names: str) -> Identity:
    """Return what the cluster's own authd gives to whoever runs daemons here."""
    source = CertificateSource(names, cluster.env["GEXEC_AUTHD_SOCKET"], (), "", "")
    return Identity(*enrol(source, patience_s=0)[:3])


def made(key: SigningKey, *names: str, now_s: float | None = None, ttl_s: float = 3600) -> Identity:
    """Return a certificate made with a cluster's key."""
    own = ec.generate_private_key(ec.SECP256R1())
    der = leaf(
        key,
        issuer=authority(key, "gexec"),
        public_key_der=own.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        names=names,
        now_s=time.time() if now_s is None else now_s,
        ttl_s=ttl_s,
        serial=1 + next(_SOURCES),
    )
    return Identity(
        own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        load_der_x509_certificate(der).public_bytes(Encoding.PEM),
        load_der_x509_certificate(authority(key, "gexec")).public_bytes(Encoding.PEM),
    )


def cluster_key(cluster: Cluster) -> SigningKey:
    """Return the cluster's private key."""
    return SigningKey.load(cluster.place.private_key.read_bytes())


def foreign_key() -> SigningKey:
    """Return the private key of another cluster."""
    private = ed25519.Ed25519PrivateKey.generate()
    return SigningKey.load(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


# -- jobs -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A job and the credential that authd signed for it."""

    spec: JobSpec
    blob: bytes
    credential: bytes

    def start(self, low: int = 0, high: int | None = None, epoch: int = 1, **changes: Any) -> frames.Start:
        """Return a Start; by default rank 0 alone."""
        high = low + 1 if high is None else high
        return replace_start(frames.Start(epoch, low, high, self.credential, self.blob), **changes)


def replace_start(start: frames.Start, **changes: Any) -> frames.Start:
    """Return the Start with some fields changed."""
    names = ("epoch", "low", "high", "credential", "blob", "attach_only")
    return frames.Start(**({name: getattr(start, name) for name in names} | changes))


def spec_of(cluster: Cluster, names: Iterable[str], *argv: str, **changes: Any) -> JobSpec:
    """Return a job of /bin/sh -c, on these nodes of the cluster."""
    names = list(names)
    port = cluster.state.port
    addresses = [f"{cluster.state.node(name).address}:{port}".encode() for name in names]
    fields: dict[str, Any] = {
        "names": [name.encode() for name in names],
        "addresses": addresses,
        "program": b"/bin/sh",
        "argv": [b"sh", b"-c", *(word.encode() for word in argv)],
        "env": [b"PATH=/usr/bin:/bin"],
        "kill_grace_s": 0.5,
        "window": limits.window_bytes(len(names)),
        "salt": int.from_bytes(os.urandom(8)),
    }
    return JobSpec(**(fields | changes))


def signed(cluster: Cluster, blob: bytes) -> bytes:
    """Return authd's credential for these bytes, whatever they are."""
    return obtain_credential(blob, socket_path=cluster.env["GEXEC_AUTHD_SOCKET"])


def job(cluster: Cluster, names: Iterable[str], script: str, **changes: Any) -> Job:
    """Return a signed job that runs a shell script."""
    spec = spec_of(cluster, names, script, **changes)
    blob = spec.encode()
    return Job(spec, blob, signed(cluster, blob))


def credential_of(cluster: Cluster, raw: bytes) -> Credential:
    """Return what a credential of the cluster says."""
    keys = read_trust([str(cluster.place.public_key)], "", ()).signers
    return verify(raw, keys, realm="gexec", audience="gexec", now_s=time.time())


# -- connections ------------------------------------------------------------------------------


class Wire:
    """One connection in frames, blocking.

    Args:
        sock: connected; TLS is done.
        hears: the frames that are understood (a FROM_* table).
    """

    def __init__(self, sock: socket.socket, hears: dict[int, type[Frame]]) -> None:
        self.sock = sock
        self.sock.settimeout(DEADLINE_S)
        self._decoder = frames.Decoder(hears)
        self._waiting: list[tuple[int, Frame]] = []
        self.ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, channel: int, *what: Frame) -> None:
        """Send frames on a channel."""
        self.send_raw(b"".join(frames.encode(channel, frame) for frame in what))

    def send_raw(self, data: bytes) -> None:
        """Send any bytes."""
        try:
            self.sock.sendall(data)
        except (ConnectionError, ssl.SSLError):
            pass  # the other side has ended it: ``receive`` tells

    def greet(self, version: int = limits.PROTOCOL_VERSION) -> Self:
        """Say Hello and hear the other's."""
        self.send(0, frames.Hello(version, "rogue"))
        self.expect(frames.Hello)
        return self

    def receive(self) -> tuple[int, Frame] | None:
        """Return the next (channel, frame), None at the end of the connection."""
        while not self._waiting:
            try:
                data = self.sock.recv(256 * 1024)
            except (ConnectionError, ssl.SSLError):
                data = b""
            if not data:
                self.ended = True
                return None
            self._waiting += self._decoder.feed(data)
        return self._waiting.pop(0)

    def has_more(self) -> bool:
        """Return True if something was read already that ``receive`` has not returned."""
        return bool(self._waiting) or (isinstance(self.sock, ssl.SSLSocket) and self.sock.pending() > 0)

    def expect(self, *kinds: type[Frame], channel: int | None = None) -> Any:
        """Return the next frame of one of these types; others are passed over."""
        while (came := self.receive()) is not None:
            if isinstance(came[1], kinds) and channel in (None, came[0]):
                return came[1]
        raise AssertionError(f"the connection ended, expected one of {kinds}")

    def until_end(self) -> list[Frame]:
        """Return all frames until the other side ends the connection."""
        came = []
        while (one := self.receive()) is not None:
            came.append(one[1])
        return came


def tcp(cluster: Cluster, name: str, source: str | None = None) -> socket.socket:
    """Return a TCP connection to a node's port."""
    address = cluster.state.node(name).address
    return socket.create_connection(
        (address, cluster.state.port), timeout=DEADLINE_S, source_address=(source or fresh_source(), 0)
    )


def dial(cluster: Cluster, name: str, identity: Identity | None = None, source: str | None = None) -> Wire:
    """Return a link to a node after both Hellos; by default it comes from the host that signs jobs."""
    identity = identity or certified(cluster, "rogue", cluster.names[0])
    sock = identity.dialling().wrap_socket(tcp(cluster, name, source), server_hostname=name)
    return Wire(sock, frames.FROM_CHILD).greet()


def client(cluster: Cluster, name: str = "node001") -> Wire:
    """Return a client's connection to a node's gexecd after both Hellos."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(str(cluster.place.socket(name)))
    return Wire(sock, frames.FROM_ROOT).greet()


class Listener:
    """A node of its own: it listens, is dialled by real daemons, and does with them what it likes.

    Args:
        name: what its certificate says, and what jobs call it.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self._context = certified(cluster, name).accepting()
        self.ip = fresh_source()
        self._sock = socket.create_server((self.ip, 0))
        self._sock.settimeout(DEADLINE_S)
        self.port = self._sock.getsockname()[1]
        self.address = f"{self.ip}:{self.port}".encode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def be(self, identity: Identity) -> None:
        """Show another certificate from now on."""
        self._context = identity.accepting()

    def close(self) -> None:
        """Listen no more: whoever dials again is refused."""
        self._sock.close()

    def accept(self) -> Wire:
        """Return the next link, after both Hellos; whoever dials after it is refused."""
        sock, _ = self._sock.accept()
        self.close()
        sock.settimeout(DEADLINE_S)
        return Wire(self._context.wrap_socket(sock, server_side=True), frames.FROM_PARENT).greet()


class Proxy:
    """Passes TCP connections on to a node, and may change what goes through.

    Args:
        alter: called with (number of the connection, True for bytes from the dialling side, how
            many bytes went that way before, bytes); returns what is passed on.
    """

    def __init__(self, cluster: Cluster, name: str, alter: Callable[[int, bool, int, bytes], bytes]) -> None:
        self._to = (cluster.state.node(name).address, cluster.state.port)
        self._alter = alter
        self.ip = fresh_source()
        self._sock = socket.create_server((self.ip, 0))
        self.port = self._sock.getsockname()[1]
        self.connections = 0
        self._open: list[socket.socket] = [self._sock]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in list(self._open):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(DEADLINE_S)
        for sock in self._open:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._sock.accept()
            except OSError:
                return
            far = socket.create_connection(self._to, timeout=DEADLINE_S)
            far.settimeout(None)
            self._open += [near, far]
            number = self.connections
            self.connections += 1
            for one, other, down in ((near, far, True), (far, near, False)):
                thread = threading.Thread(target=self._pump, args=(number, one, other, down), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, number: int, one: socket.socket, other: socket.socket, down: bool) -> None:
        passed = 0
        try:
            while data := one.recv(65536):
                other.sendall(self._alter(number, down, passed, data))
                passed += len(data)
        except OSError:
            pass
        for sock in (one, other):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


# -- what the daemons say and do --------------------------------------------------------------


class Told:
    """What a node's gexecd writes into its log from now on."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._path = cluster.place.log(name)
        self._begin = self._path.stat().st_size

    def text(self) -> str:
        """Return it."""
        with open(self._path, "rb") as file:
            file.seek(self._begin)
            return file.read().decode(errors="replace")

    def line(self, *words: str) -> str:
        """Wait for a line that holds all these words, and return it."""
        found: list[str] = []

        def look() -> bool:
            lines = self.text().splitlines()
            found[:] = [line for line in lines if all(word in line for word in words)]
            return bool(found)

        wait_until(look, f"no line with {words} in {self._path.name}:\n{self.text()[-2000:]}")
        return found[0]


def healthy(cluster: Cluster) -> None:
    """Check that the cluster runs a command everywhere."""
    done = cluster.gexec("-n", 0, "true", text=True)
    assert (done.returncode, done.stderr) == (0, "")


def lines_of(path: Path) -> list[str]:
    """Return the lines of a witness file, none if nothing ever wrote it."""
    return path.read_text().splitlines() if path.exists() else []


def with_changes(spec: JobSpec, **changes: Any) -> bytes:
    """Return the blob of a job with some fields changed."""
    fields = {name: getattr(spec, name) for name in field_names(JobSpec)}
    return JobSpec(**(fields | changes)).encode()
