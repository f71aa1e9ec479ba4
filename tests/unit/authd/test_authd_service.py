"""authd's service in this process: what it signs, what it refuses and says why, and what it audits."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gexec import limits
from gexec.authd.authd import Authd
from gexec.errors import ConfigError, KeyFileError
from gexec.posix.log import Log
from gexec.security.credential import bound_to, verify
from gexec.security.quota import Shares
from gexec.settings.config import AuthdSettings
from gexec.settings.keyfiles import read_trust
from gexec.wire import frames
from gexec.wire.frames import FROM_AUTHD, HEADER, Certified, Certify, Frame, Refused, Sign, Signed, encode

DEADLINE_S = 30.0
ME = os.geteuid()


class Service:
    """An authd with keys of its own, in a directory."""

    def __init__(self, place: Path, **settings: Any) -> None:
        self.place = place
        self.private, self.public = place / "private.pem", place / "public.pem"
        self.write_keys(1)
        self.settings = AuthdSettings(
            socket=str(place / "sock"),
            private_key=str(self.private),
            public_keys=(str(self.public),),
            audit_log=(str(place / "audit"),),
            **settings,
        )
        self._log = os.open(place / "log", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self.authd = Authd(self.settings, Log("authd", self._log))
        self._stack = ExitStack()

    def write_keys(self, number: int) -> None:
        key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        self.private.unlink(missing_ok=True)
        self.private.touch(mode=0o600)
        self.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.public.write_bytes(public)
        self.public.chmod(0o644)

    def connect(self) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.connect(self.settings.socket)
        sock.setblocking(False)
        return sock

    async def ask(self, data: bytes) -> Frame | None:
        """Send these bytes on a new connection; return what is answered, None if nothing is."""
        sock = self.connect()
        await asyncio.get_running_loop().sock_sendall(sock, data)
        return await self.answer(sock)

    async def answer(self, sock: socket.socket) -> Frame | None:
        decoder = frames.Decoder(FROM_AUTHD)
        while data := await asyncio.get_running_loop().sock_recv(sock, 65536):
            for _, frame in decoder.feed(data):
                return frame
        return None

    @property
    def audit(self) -> list[dict[str, Any]]:
        """The lines of the audit log, without the fields that all lines have."""
        lines = [json.loads(line) for line in Path(self.settings.audit_log[0]).read_text().splitlines()]
        common = ("time", "seq", "daemon", "node", "realm")
        return [{name: value for name, value in line.items() if name not in common} for line in lines]

    @property
    def log(self) -> str:
        return os.pread(self._log, 1_000_000, 0).decode()

    def play(self, scenario: Callable[[Service], Coroutine[Any, Any, None]]) -> None:
        """Run a scenario with the service, which then ends as with its parent."""
        reading, writing = os.pipe()

        async def main() -> None:
            ready = asyncio.Event()
            serving = asyncio.create_task(self.authd._run(ready.set, reading))
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await ready.wait()
                    await scenario(self)
            finally:
                self._stack.close()
                os.close(writing)
                await serving

        try:
            asyncio.run(main())
        finally:
            os.close(reading)

    def close(self) -> None:
        self.authd._listener.close()
        self.authd._audit.close()
        os.close(self._log)


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path: those of sockets are bounded."""
    before = os.umask(0o022)
    place = Path(tempfile.mkdtemp(prefix="gxs", dir="/tmp"))
    yield place
    shutil.rmtree(place)
    os.umask(before)


@pytest.fixture
def service(place: Path) -> Iterator[Service]:
    service = Service(place)
    yield service
    service.close()


def node_key() -> bytes:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


# -- what is signed -----------------------------------------------------------------------------


def test_a_job_is_signed_for_the_user_who_asks_and_audited(service: Service) -> None:
    blob = b"job" * 100_000

    async def scenario(service: Service) -> None:
        answer = await service.ask(encode(0, Sign(b"gexec", blob)))
        assert isinstance(answer, Signed)
        keys = read_trust([str(service.public)], "", ()).signers
        credential = verify(answer.credential, keys, realm="gexec", audience="gexec", now_s=time.time())
        bound_to(credential, blob)
        account = pwd.getpwuid(ME)
        assert (credential.uid, credential.gid, credential.user) == (ME, account.pw_gid, account.pw_name)
        assert credential.ttl_s == service.settings.ttl_s
        assert service.audit == [
            {
                "event": "issue", "uid": ME, "gid": account.pw_gid, "user": account.pw_name,
                "audience": "gexec", "job": credential.job_id.hex(), "digest": sha256(blob).hexdigest(),
                "ttl_s": service.settings.ttl_s, "key": credential.key_id.hex(),
            }
        ]  # fmt: skip

    service.play(scenario)


def test_two_requests_for_one_job_are_two_jobs(service: Service) -> None:
    async def scenario(service: Service) -> None:
        for _ in range(2):
            assert isinstance(await service.ask(encode(0, Sign(b"gexec", b"job"))), Signed)
        assert len({line["job"] for line in service.audit}) == 2

    service.play(scenario)


def test_a_request_that_comes_byte_by_byte_is_a_request(service: Service) -> None:
    async def scenario(service: Service) -> None:
        sock = service.connect()
        for byte in encode(0, Sign(b"gexec", b"job")):
            await asyncio.get_running_loop().sock_sendall(sock, bytes([byte]))
        assert isinstance(await service.answer(sock), Signed)

    service.play(scenario)


def test_a_node_gets_a_certificate(service: Service) -> None:
    async def scenario(service: Service) -> None:
        answer = await service.ask(encode(0, Certify(node_key(), ("node001", "10.0.0.1"))))
        assert isinstance(answer, Certified)
        certificate, authority = map(x509.load_der_x509_certificate, (answer.certificate, answer.authority))
        certificate.verify_directly_issued_by(authority)
        [line] = service.audit
        assert line == {
            "event": "certify", "uid": ME, "serial": f"{certificate.serial_number:x}",
            "names": ["node001", "10.0.0.1"],
        }  # fmt: skip

    service.play(scenario)


# -- what is refused ----------------------------------------------------------------------------


def denial(code: str, reason: str) -> dict[str, Any]:
    """Return the audit line about a refusal."""
    source = f"uid {ME}"
    return {"event": "deny", "by": "authd", "source": source, "code": code, "uid": ME, "reason": reason}


OTHER = "this is authd: it accepts only requests to sign and to certify"
AUDIENCE = "request to sign: the audience is empty or too long, or no job follows it"
MOST = Sign.MAX_BYTES


def header(length: int, kind: int, channel: int = 0) -> bytes:
    return HEADER.pack(length, kind, channel)


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (header(0, 1), OTHER),
        (header(9, Sign.TYPE, 1), OTHER),
        (header(MOST + 1, Sign.TYPE), f"Sign of {MOST + 1} bytes is over {MOST}"),
        (
            header(Certify.MAX_BYTES + 1, Certify.TYPE),
            f"Certify of {Certify.MAX_BYTES + 1} bytes is over {Certify.MAX_BYTES}",
        ),
        (header(0, Sign.TYPE), AUDIENCE),
        (header(5, Sign.TYPE) + b"\0job.", AUDIENCE),
        (header(6, Sign.TYPE) + b"\5gexec", AUDIENCE),
        (
            header(70, Sign.TYPE) + bytes([65]) + b"a" * 69,
            AUDIENCE,
        ),
        (header(5, Sign.TYPE) + b"\2a\nbb", "request to sign: the audience is not printable ASCII"),
        (
            header(limits.JOB_BLOB_MAX_BYTES + 3, Sign.TYPE) + b"\1a",
            f"job of {limits.JOB_BLOB_MAX_BYTES + 1} bytes is over {limits.JOB_BLOB_MAX_BYTES}",
        ),
    ],
    ids=["another frame", "another channel", "a long Sign", "a long Certify", "nothing", "no audience",
         "no job", "a long audience", "an odd audience", "a long job"],
)  # fmt: skip
def test_a_request_is_refused_before_more_of_it_is_read(service: Service, request_: bytes, text: str) -> None:
    async def scenario(service: Service) -> None:
        answer = await service.ask(request_)
        assert answer == Refused(frames.REFUSED_DENIED, text)
        assert service.audit == [denial("request", text)]

    service.play(scenario)


@pytest.mark.parametrize(
    ("key", "names"), [(b"no key", ("node001",)), (node_key(), ("*.site.org",)), (node_key(), ("a" * 300,))]
)
def test_a_certificate_is_refused(service: Service, key: bytes, names: tuple[str, ...]) -> None:
    async def scenario(service: Service) -> None:
        answer = await service.ask(encode(0, Certify(key, names)))
        assert isinstance(answer, Refused)
        assert answer.code == frames.REFUSED_DENIED
        assert service.audit == [denial("request", answer.text)]

    service.play(scenario)


def test_who_is_refused_while_it_sends_reads_why(service: Service) -> None:
    async def scenario(service: Service) -> None:
        answer = await service.ask(header(MOST + 1, Sign.TYPE) + bytes(1_000_000))
        assert answer == Refused(frames.REFUSED_DENIED, f"Sign of {MOST + 1} bytes is over {MOST}")

    service.play(scenario)


def test_who_leaves_early_is_nobodys_concern(service: Service) -> None:
    async def scenario(service: Service) -> None:
        loop = asyncio.get_running_loop()
        whole = encode(0, Sign(b"gexec", b"job"))
        for length in (0, 1, len(whole) - 1):
            sock = service.connect()
            await loop.sock_sendall(sock, whole[:length])
            sock.shutdown(socket.SHUT_WR)
            assert await service.answer(sock) is None
        assert isinstance(await service.ask(whole), Signed)
        assert [line["event"] for line in service.audit] == ["issue"]

    service.play(scenario)


def test_too_many_requests_of_a_user_are_refused_and_only_some_are_audited(place: Path) -> None:
    service = Service(place, rate_per_user=0.1)

    async def scenario(service: Service) -> None:
        whole = encode(0, Sign(b"gexec", b"job"))
        assert isinstance(await service.ask(whole), Signed)  # the burst is ten times the rate: one
        for _ in range(2 * limits.AUDIT_SOURCE_BURST):
            answer = await service.ask(whole)
            assert answer == Refused(
                frames.REFUSED_BUSY, "more than 0.1 requests per second: try again more slowly"
            )
        issued, *refused = service.audit
        assert issued["event"] == "issue"
        assert refused[0] == denial("busy", "too many requests")
        assert limits.AUDIT_SOURCE_BURST <= len(refused) < 2 * limits.AUDIT_SOURCE_BURST

    try:
        service.play(scenario)
    finally:
        service.close()


def test_attack_128_one_user_has_so_many_connections_and_the_next_when_one_has_gone(service: Service) -> None:
    async def scenario(service: Service) -> None:
        shares = service.authd._connections = Shares(64, ME + 1)
        silent = [service.connect() for _ in range(32)]
        answer = await service.answer(service.connect())
        assert isinstance(answer, Refused)
        assert answer.code == frames.REFUSED_BUSY
        assert f"too many connections: uid {ME} has {len(silent)} connections to authd" in answer.text
        assert service.audit[0]["reason"] == "too many connections"
        assert shares.left(ME + 1) == 32
        assert shares.left(ME + 2) == 16
        silent[0].close()
        while not isinstance(answer, Signed):  # its end is seen in a turn of the loop
            answer = await service.ask(encode(0, Sign(b"gexec", b"job")))

    service.play(scenario)


# -- keys ---------------------------------------------------------------------------------------


def test_keys_are_read_again_and_bad_ones_leave_the_old(service: Service) -> None:
    async def scenario(service: Service) -> None:
        request = encode(0, Sign(b"gexec", b"job"))
        service.write_keys(2)
        service.authd._reload()
        answer = await service.ask(request)
        assert isinstance(answer, Signed)
        keys = read_trust([str(service.public)], "", ()).signers
        assert verify(answer.credential, keys, realm="gexec", audience="gexec", now_s=time.time())
        service.private.chmod(0o644)
        service.authd._reload()
        assert "keeps its old keys: " in service.log
        assert isinstance(await service.ask(request), Signed)

    service.play(scenario)


def test_the_audit_log_that_was_moved_away_is_opened_anew(service: Service) -> None:
    async def scenario(service: Service) -> None:
        request = encode(0, Sign(b"gexec", b"job"))
        await service.ask(request)
        old = service.place / "old"
        os.rename(service.settings.audit_log[0], old)
        await service.ask(request)
        service.authd._reload()
        await service.ask(request)
        assert (len(old.read_text().splitlines()), len(service.audit)) == (2, 1)

    service.play(scenario)


def test_without_acceptable_keys_or_a_socket_it_does_not_begin(service: Service, place: Path) -> None:
    with pytest.raises(ConfigError, match="authd"):
        Authd(service.settings, Log("authd", service._log))  # another one listens there
    service.private.chmod(0o640)
    with pytest.raises(KeyFileError, match=str(service.private)):
        Authd(service.settings, Log("authd", service._log))


@pytest.mark.skipif(ME != 0, reason="needs root")
def test_for_whom_it_signs(service: Service) -> None:
    overflow = int(Path("/proc/sys/kernel/overflowuid").read_text())
    assert service.authd._account(0).pw_uid == 0
    with pytest.raises(
        Exception, match=f"uid {overflow} stands for all processes of foreign user namespaces"
    ):
        service.authd._account(overflow)
    with pytest.raises(Exception, match="uid 54321 has no account on "):
        service.authd._account(54321)
    with pytest.raises(Exception, match="uid 54321 may not have a node's certificate"):
        service.authd._certify(b"", 54321)
    service.authd._me = 4242
    with pytest.raises(
        Exception, match="this authd runs as uid 4242 and signs only for that user, not for uid 0"
    ):
        service.authd._account(0)
