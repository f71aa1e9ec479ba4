"""A real authd over its real socket: who asks gets a credential for himself and nobody else."""

from __future__ import annotations

import json
import os
import pwd
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gexec import limits
from gexec.authd.authd import serve
from gexec.client.authd import obtain_credential
from gexec.errors import AuthError
from gexec.posix.readiness import announce
from gexec.posix.unix import connect, exchange
from gexec.security.certificate import authority
from gexec.security.credential import Credential, bound_to, verify
from gexec.settings.config import AuthdSettings
from gexec.settings.keyfiles import read_signing_key, read_trust
from gexec.wire.frames import (
    FROM_AUTHD,
    HEADER,
    Certified,
    Certify,
    Decoder,
    Frame,
    Hello,
    Refused,
    Sign,
    Signed,
    encode,
)

from .conftest import BIN, wait_until

DEADLINE_S = 30.0


class Authd:
    """One real authd process in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "run").mkdir(mode=0o755, exist_ok=True)
        self.socket = str(directory / "run" / "authd.sock")
        self.private = str(directory / "auth_priv.pem")
        self.public = str(directory / "auth_pub.pem")
        self.audit_path = directory / "audit.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.connections: list[Any] = []

    def command(self, *arguments: str) -> list[str]:
        return [
            sys.executable, str(BIN / "authd"), "--socket", self.socket,
            "--private-key", self.private, "--public-key", self.public,
            "--audit-log", str(self.audit_path), *arguments,
        ]  # fmt: skip

    def start(self, *arguments: str, **options: Any) -> Authd:
        reading, writing = os.pipe()
        self.process = subprocess.Popen(
            self.command("--ready-fd", str(writing), *arguments),
            pass_fds=[writing], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, **options,
        )  # fmt: skip
        os.close(writing)
        try:
            assert select.select([reading], [], [], DEADLINE_S)[0], "authd is not ready"
            if os.read(reading, 1) != b"1":
                raise AssertionError(f"authd ended: {self.process.communicate()[1].decode()}")
        finally:
            os.close(reading)
        return self

    def stop(self) -> int:
        while self.connections:
            self.connections.pop().close()
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.terminate()
        try:
            self.stderr = process.communicate(timeout=DEADLINE_S)[1].decode()
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return process.returncode

    def sign(self, blob: bytes = b"job") -> Credential:
        return self.check(obtain_credential(blob, socket_path=self.socket), blob)

    def check(self, raw: bytes, blob: bytes, realm: str = "gexec") -> Credential:
        keys = read_trust([self.public], "", ()).signers
        credential = verify(raw, keys, realm=realm, audience="gexec", now_s=time.time())
        bound_to(credential, blob)
        return credential

    def ask(self, frame: Frame) -> Frame:
        return exchange(self.connect(), frame, FROM_AUTHD, "authd", AuthError)

    def connect(self) -> Any:
        sock = connect(self.socket, "authd", AuthError, DEADLINE_S)
        self.connections.append(sock)
        return sock

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit_path.read_text().splitlines()]


def make_keys(authd: Authd, *private: str) -> None:
    """The seed's own commands."""
    for command in (
        [*private, "-out", authd.private] if private else ["openssl", "genrsa", "-out", authd.private],
        ["chmod", "600", authd.private],
        ["openssl", "pkey" if private else "rsa", "-in", authd.private, "-pubout", "-out", authd.public],
    ):
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # Under /tmp itself: other users of the tests must be able to reach the socket.
    before = os.umask(0o022)
    path = Path(subprocess.check_output(["mktemp", "-d", "/tmp/gexec-authd-XXXXXX"], text=True).strip())
    path.chmod(0o755)
    yield path
    os.umask(before)
    subprocess.run(["rm", "-r", str(path)], check=True)


@pytest.fixture
def idle(directory: Path) -> Iterator[Authd]:
    """authd with keys, not started."""
    authd = Authd(directory)
    make_keys(authd)
    yield authd
    authd.stop()


@pytest.fixture
def authd(idle: Authd) -> Authd:
    return idle.start()


@contextmanager
def forked(authd: Authd, uid: int | None = None) -> Iterator[None]:
    """As the local cluster runs it: serve() in a forked child, which ends with its parent's pipe."""
    settings = AuthdSettings(
        socket=authd.socket,
        private_key=authd.private,
        public_keys=(authd.public,),
        audit_log=(str(authd.audit_path),),
    )
    life_reading, life_writing = os.pipe()
    ready_reading, ready_writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            os.close(life_writing)
            if uid is not None:
                os.setgroups([])
                os.setresuid(uid, uid, uid)
            ready = lambda: announce(ready_writing)  # noqa: E731
            status = serve(settings, ready=ready, die_with_parent_fd=life_reading)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(life_reading)
    os.close(ready_writing)
    try:
        assert os.read(ready_reading, 1) == b"1"
        yield
    finally:
        os.close(life_writing)
        os.close(ready_reading)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0


def as_user(uid: int, body: Callable[[], str], *, namespace: bool = False) -> str:
    """Run ``body`` in a child process of that user and return what it returns."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            os.setgroups([])
            os.setresgid(pwd.getpwuid(uid).pw_gid, *[pwd.getpwuid(uid).pw_gid] * 2)
            os.setresuid(uid, uid, uid)
            if namespace:
                _enter_user_namespace(uid)
            text = body()
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read().decode()
    os.waitpid(pid, 0)
    return text


def _enter_user_namespace(uid: int) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: else /proc/self is root's after setresuid
    if libc.unshare(0x10000000) != 0:
        raise OSError(ctypes.get_errno(), "no user namespaces")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    if os.getuid() != 0:
        raise OSError("no user namespaces")


# -- signing ------------------------------------------------------------------------------------


def test_signs_for_who_asks(authd: Authd) -> None:
    me = pwd.getpwuid(os.geteuid())
    before_s = time.time()
    first, second = authd.sign(b"\0" * 100), authd.sign(b"x" * limits.JOB_BLOB_MAX_BYTES)
    assert (first.uid, first.gid, first.user) == (me.pw_uid, me.pw_gid, me.pw_name)
    assert before_s - 1 <= first.issued_s <= time.time() + 1
    assert first.ttl_s == limits.CREDENTIAL_TTL_S
    assert first.job_id != second.job_id
    assert first.digest == sha256(b"\0" * 100).digest()
    assert first.host == os.uname().nodename


def test_every_issue_is_audited(authd: Authd) -> None:
    credential = authd.sign(b"job")
    assert isinstance(authd.ask(Hello(1, "x")), Refused)
    entries = authd.audit()
    assert [entry["event"] for entry in entries] == ["issue", "deny"]
    assert entries[0]["job"] == credential.job_id.hex()
    assert entries[0]["uid"] == os.geteuid()


@pytest.mark.parametrize(
    "command",
    [
        ["openssl", "genrsa", "-traditional"],
        ["openssl", "genpkey", "-algorithm", "RSA"],
        ["openssl", "genpkey", "-algorithm", "ed25519"],
    ],
    ids=["pkcs1", "pkcs8", "ed25519"],
)
def test_keys_of_each_kind(directory: Path, command: list[str]) -> None:
    authd = Authd(directory)
    make_keys(authd, *command)
    authd.start("--realm", "blue")
    try:
        raw = obtain_credential(b"job", socket_path=authd.socket)
        assert authd.check(raw, b"job", realm="blue").realm == "blue"
    finally:
        authd.stop()


def test_environment_names_the_socket(authd: Authd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEXEC_AUTHD_SOCKET", authd.socket)
    authd.check(obtain_credential(b"job"), b"job")


def test_request_in_single_bytes(authd: Authd) -> None:
    sock = authd.connect()
    for byte in encode(0, Sign(b"gexec", b"job")):
        sock.sendall(bytes((byte,)))
    ((_, answer),) = Decoder(FROM_AUTHD).feed(sock.recv(65536))
    assert isinstance(answer, Signed)
    authd.check(answer.credential, b"job")


# -- attacks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        encode(0, Hello(1, "x")),
        encode(1, Sign(b"gexec", b"job")),
        HEADER.pack(0, 64, 0),
        HEADER.pack(5, 64, 0) + b"\0gexe",
        HEADER.pack(3, 64, 0) + b"\3ab",
        HEADER.pack(70, 64, 0) + bytes((65,)) + b"a" * 69,
        HEADER.pack(4, 64, 0) + b"\2\x1b[x",
        HEADER.pack(0xFFFFFFFF, 64, 0),
        HEADER.pack(0x80000000, 66, 0),
        HEADER.pack(limits.JOB_FRAME_MAX_BYTES, 64, 0) + b"\5gexec",
        HEADER.pack(1, 66, 0) + b"\0",
        HEADER.pack(10, 66, 0) + b"\xff" * 10,
        HEADER.pack(0, 66, 0),
        HEADER.pack(0, 255, 0),
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
def test_attack_43_46_nonsense_gets_a_sentence(authd: Authd, raw: bytes) -> None:
    sock = authd.connect()
    sock.sendall(raw)
    ((_, answer),) = Decoder(FROM_AUTHD).feed(sock.recv(65536))
    assert isinstance(answer, Refused)
    assert answer.text.isprintable()
    authd.sign()


def test_attack_44_refused_while_still_sending(authd: Authd) -> None:
    """The refusal is read even by a client that sends megabytes first."""
    sock = authd.connect()
    answer = exchange(sock, _Huge(), FROM_AUTHD, "authd", AuthError)
    assert isinstance(answer, Refused)
    assert "over" in answer.text
    authd.sign()


class _Huge(Frame):
    TYPE = 64
    MAX_BYTES = 8 * 1024 * 1024

    def pack(self) -> bytes:
        return bytes(self.MAX_BYTES)


@pytest.mark.root
def test_attack_29_another_user_gets_only_his_own_identity(authd: Authd) -> None:
    other = pwd.getpwnam("daemon")

    def body() -> str:
        os.environ["USER"] = os.environ["LOGNAME"] = "root"
        return obtain_credential(b"job", socket_path=authd.socket).hex()

    said = authd.check(bytes.fromhex(as_user(other.pw_uid, body)), b"job")
    assert (said.uid, said.gid, said.user) == (other.pw_uid, other.pw_gid, "daemon")


@pytest.mark.root
def test_attack_29_authd_of_a_user_serves_that_user_only(directory: Path) -> None:
    daemon = pwd.getpwnam("daemon")
    authd = Authd(directory)
    make_keys(authd)
    for path in (authd.private, authd.public, str(directory), os.path.dirname(authd.socket)):
        os.chown(path, daemon.pw_uid, daemon.pw_gid)
    with forked(authd, daemon.pw_uid):
        assert stat.S_IMODE(os.stat(authd.socket).st_mode) == 0o600
        with pytest.raises(AuthError, match=f"served by uid {daemon.pw_uid}"):
            authd.sign()  # root does not trust a daemon of another user ...
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(authd.socket)  # ... nor would the daemon sign for root
            raw.sendall(encode(0, Sign(b"gexec", b"job")))
            ((_, answer),) = Decoder(FROM_AUTHD).feed(raw.recv(65536))
        assert isinstance(answer, Refused)
        assert "signs only for that user" in answer.text
        body = lambda: obtain_credential(b"job", socket_path=authd.socket).hex()  # noqa: E731
        assert len(bytes.fromhex(as_user(daemon.pw_uid, body))) > 100


@pytest.mark.root
def test_attack_30_client_does_not_speak_with_another_users_socket(directory: Path) -> None:
    squatted = directory / "squatted"
    squatted.mkdir()
    os.chown(squatted, pwd.getpwnam("daemon").pw_uid, -1)
    path = str(squatted / "authd.sock")
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setresuid(*[pwd.getpwnam("daemon").pw_uid] * 3)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        os.chmod(path, 0o666)
        os.write(writing, b"1")
        signal.pause()
        os._exit(0)
    try:
        os.read(reading, 1)
        with pytest.raises(AuthError, match="somebody else listens there"):
            obtain_credential(b"job", socket_path=path)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("mode", [0o640, 0o644])
def test_attack_31_start_with_a_readable_private_key(idle: Authd, mode: int) -> None:
    os.chmod(idle.private, mode)
    ended = subprocess.run(idle.command(), capture_output=True, text=True, timeout=DEADLINE_S)
    assert ended.returncode == 1
    assert "chmod 600" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_attack_32_silent_clients_hold_nobody_up(authd: Authd) -> None:
    silent = [authd.connect() for _ in range(100)]
    for number, sock in enumerate(silent):
        sock.sendall(encode(0, Sign(b"gexec", b"job"))[: number % 16])
    authd.sign()
    for sock in silent:
        assert sock.recv(1) == b""  # authd gives up on them by itself
        sock.close()
    assert any("no complete request" in str(entry.get("reason")) for entry in authd.audit())


def left_out(authd: Authd) -> int:
    """Return how many refusals the audit log counts without a line of their own."""
    return sum(entry["count"] for entry in authd.audit() if entry["event"] == "suppressed")


def test_attack_33_ten_thousand_requests(authd: Authd) -> None:
    request = encode(0, Sign(b"gexec", b"job"))
    signed = refused = 0
    pid = authd.process.pid if authd.process else 0
    for _ in range(100):
        batch = [authd.connect() for _ in range(100)]
        for sock in batch:
            sock.sendall(request)
        for sock in batch:
            ((_, answer),) = Decoder(FROM_AUTHD).feed(sock.recv(65536))
            signed += isinstance(answer, Signed)
            refused += isinstance(answer, Refused)
            sock.close()
    assert signed + refused == 10_000
    assert signed >= 2000
    entries = authd.audit()
    assert sum(entry["event"] == "issue" for entry in entries) == signed
    assert len(os.listdir(f"/proc/{pid}/fd")) < 40
    if refused:
        told = sum(entry["event"] == "deny" for entry in entries)
        wait_until(lambda: told + left_out(authd) >= refused, "the others are counted")
        assert told + left_out(authd) == refused
    if os.geteuid() == 0:  # whoever else asks meanwhile is served
        uid = pwd.getpwnam("daemon").pw_uid
        body = lambda: obtain_credential(b"job", socket_path=authd.socket).hex()  # noqa: E731
        assert len(bytes.fromhex(as_user(uid, body))) > 100


@pytest.mark.root
def test_attack_128_connections_of_all_users_who_take_what_they_can(authd: Authd) -> None:
    """Four users keep connecting and say nothing; another one, and root, get their credentials meanwhile."""
    *greedy, other = [pwd.getpwnam(name).pw_uid for name in ("daemon", "bin", "sys", "games", "man")]
    reading, writing = os.pipe()
    pids = []
    try:
        for uid in greedy:
            pid = os.fork()
            if pid == 0:
                try:
                    os.setgroups([])
                    os.setresuid(uid, uid, uid)
                    _take_connections(authd.socket, lambda: os.write(writing, b"x"))
                finally:
                    os._exit(1)
            pids.append(pid)
        assert select.select([reading], [], [], DEADLINE_S)[0]
        for _ in greedy:
            os.read(reading, 1)
        for _ in range(20):
            assert authd.sign().uid == 0
            told = as_user(other, lambda: obtain_credential(b"job", socket_path=authd.socket).hex())
            assert authd.check(bytes.fromhex(told), b"job").uid == other
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(reading)
        os.close(writing)


def _take_connections(path: str, full: Callable[[], object]) -> None:
    """Have as many silent connections as one gets, for ever; call ``full`` when one is refused first."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 2048))
    held: list[socket.socket] = []
    is_full = False
    while True:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        held.append(sock)
        readable, _, _ = select.select(held, [], [], 0.01 if is_full else 0)
        for each in readable:  # refused, or its time is over
            held.remove(each)
            each.close()
        if readable and not is_full:
            is_full = True
            full()


@pytest.mark.root
def test_attack_34_root_of_a_user_namespace_stays_who_he_is(authd: Authd) -> None:
    uid = pwd.getpwnam("daemon").pw_uid

    def body() -> str:
        assert os.getuid() == 0
        # Here the server (the host's root) appears as the overflow uid: speak with it all the same.
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(authd.socket)
            raw.sendall(encode(0, Sign(b"gexec", b"job")))
            return raw.recv(65536)[HEADER.size :].hex()

    text = as_user(uid, body, namespace=True)
    if "Error" in text:
        pytest.skip(f"no user namespaces here: {text}")
    assert authd.check(bytes.fromhex(text), b"job").uid == uid


@pytest.mark.root
def test_attack_34_overflow_uid_is_nobody_in_particular(idle: Authd) -> None:
    uid = int(Path("/proc/sys/kernel/overflowuid").read_text())
    try:
        pwd.getpwuid(uid)
    except KeyError:
        pytest.skip(f"uid {uid} has no account here")
    body = lambda: obtain_credential(b"job", socket_path=idle.socket).hex()  # noqa: E731
    idle.start()
    assert "foreign user namespaces" in as_user(uid, body)
    idle.stop()
    config = idle.directory / "authd.toml"
    config.write_text("overflow_uid = true\n")
    idle.start("--config", str(config))
    assert idle.check(bytes.fromhex(as_user(uid, body)), b"job").uid == uid


@pytest.mark.root
def test_uid_without_an_account(authd: Authd) -> None:
    uid = next(uid for uid in range(50_000, 60_000) if uid not in {each.pw_uid for each in pwd.getpwall()})
    pid = os.fork()
    if pid == 0:
        os.setresuid(uid, uid, uid)
        try:
            obtain_credential(b"job", socket_path=authd.socket)
        except AuthError as error:
            os._exit(0 if "has no account" in str(error) else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


# -- certificates -------------------------------------------------------------------------------


def node_key() -> bytes:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_certifies_its_own_gexecd(authd: Authd) -> None:
    answer = authd.ask(Certify(node_key(), ("node001", "127.0.0.1")))
    assert isinstance(answer, Certified)
    certificate = x509.load_der_x509_certificate(answer.certificate)
    certificate.verify_directly_issued_by(x509.load_der_x509_certificate(answer.authority))
    assert answer.authority == authority(read_signing_key(authd.private), "gexec")


@pytest.mark.parametrize("names", [("*.example",), ("",), ("a b",)])
def test_certifies_no_strange_names(authd: Authd, names: tuple[str, ...]) -> None:
    answer = authd.ask(Certify(node_key(), names))
    assert isinstance(answer, Refused)


@pytest.mark.root
def test_users_get_no_certificate(authd: Authd) -> None:
    def body() -> str:
        answer = authd.ask(Certify(node_key(), ("node001",)))
        return answer.text if isinstance(answer, Refused) else "certified"

    assert "may not have a node's certificate" in as_user(pwd.getpwnam("daemon").pw_uid, body)


# -- life ---------------------------------------------------------------------------------------


def test_sighup_takes_a_new_key_and_keeps_the_old_one_if_it_is_wrong(authd: Authd) -> None:
    assert authd.process
    before = authd.sign().key_id
    os.chmod(authd.private, 0o644)
    authd.process.send_signal(signal.SIGHUP)
    assert authd.sign().key_id == before
    os.unlink(authd.private)
    old = Path(authd.public).read_bytes()
    make_keys(authd, "openssl", "genpkey", "-algorithm", "ed25519")
    with open(authd.public, "ab") as file:
        file.write(old)
    authd.process.send_signal(signal.SIGHUP)
    deadline_s = time.monotonic() + DEADLINE_S
    while authd.sign().key_id == before:
        assert time.monotonic() < deadline_s
    authd.stop()
    assert "keeps its old keys" in authd.stderr


def test_sigterm_ends_and_takes_the_socket_away(authd: Authd) -> None:
    assert authd.stop() == 0
    assert not os.path.exists(authd.socket)
    with pytest.raises(AuthError, match=r"does not run here: no socket at .*; start it with `authd -d`"):
        authd.sign()


def test_a_local_cluster_that_has_ended_is_told(idle: Authd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEXEC_CLUSTER_DIR", str(idle.directory))
    with pytest.raises(AuthError, match="local cluster has ended: start one with `gexecctl cluster up N`"):
        idle.sign()
    monkeypatch.setenv("GEXEC_CLUSTER_DIR", f"{idle.directory}x")
    with pytest.raises(AuthError, match="start it with `authd -d`"):
        idle.sign()


def test_dead_socket_is_told_and_replaced(authd: Authd) -> None:
    assert authd.process
    authd.process.kill()
    authd.process.communicate()
    assert os.path.exists(authd.socket)
    with pytest.raises(AuthError, match="nobody listens"):
        authd.sign()
    authd.start().sign()


def test_second_authd_leaves_the_first_alone(authd: Authd) -> None:
    ended = subprocess.run(authd.command(), capture_output=True, text=True, timeout=DEADLINE_S)
    assert ended.returncode == 1
    assert "already runs" in ended.stderr
    authd.sign()


def test_stopped_authd_is_told(authd: Authd, monkeypatch: pytest.MonkeyPatch) -> None:
    assert authd.process
    monkeypatch.setattr("gexec.client.authd.ANSWER_TIMEOUT_S", 0.2)
    authd.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(AuthError, match="did not answer in time"):
            authd.sign()
    finally:
        authd.process.send_signal(signal.SIGCONT)


def test_daemon_returns_when_it_listens(idle: Authd) -> None:
    subprocess.run(idle.command("-d"), check=True, timeout=DEADLINE_S)
    sock = idle.connect()
    pid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
    sock.close()
    idle.sign()
    daemon = _daemon_of(str(idle.socket), pid)
    os.kill(daemon, signal.SIGTERM)
    deadline_s = time.monotonic() + DEADLINE_S
    while os.path.exists(idle.socket):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_relative_paths_hold_in_the_background(idle: Authd) -> None:
    """Its working directory is / then, and SIGHUP reads the files again."""
    words = [os.path.basename(word) if word.endswith(".pem") else word for word in idle.command("-d")]
    subprocess.run(words, check=True, timeout=DEADLINE_S, cwd=idle.directory)
    daemon = _daemon_of(str(idle.socket), 0)
    try:
        idle.sign()
        make_keys(idle)
        new = read_signing_key(idle.private).key_id
        os.kill(daemon, signal.SIGHUP)
        wait_until(
            lambda: new in obtain_credential(b"job", socket_path=idle.socket), "authd keeps its old key"
        )
        idle.sign()
    finally:
        os.kill(daemon, signal.SIGTERM)
    wait_until(lambda: not os.path.exists(idle.socket), "authd does not end")


def _daemon_of(path: str, not_pid: int) -> int:
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if path.encode() in words and b"-d" in words:
            return int(entry.name)
    raise AssertionError("the daemon is not there")


def test_end_of_the_parents_pipe_ends_it(idle: Authd) -> None:
    with forked(idle):
        idle.sign()
    assert not os.path.exists(idle.socket)


def test_notifies_systemd(idle: Authd) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(idle.directory / "notify"))
        notify.settimeout(DEADLINE_S)
        idle.start(env=os.environ | {"NOTIFY_SOCKET": str(idle.directory / "notify")})
        assert notify.recv(100) == b"READY=1"


@pytest.mark.parametrize(("arguments", "status"), [(["-h"], 0), (["-V"], 0), (["--nonsense"], 2)])
def test_help_version_and_usage(arguments: list[str], status: int) -> None:
    command = [sys.executable, str(BIN / "authd"), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    assert ended.returncode == status
    assert "authd" in ended.stdout + ended.stderr


@pytest.mark.parametrize("blob", [b"", b"x" * (limits.JOB_BLOB_MAX_BYTES + 1)])
def test_client_refuses_what_cannot_be_signed(blob: bytes) -> None:
    with pytest.raises(AuthError, match="expected 1 to"):
        obtain_credential(blob)
