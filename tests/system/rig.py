"""A real spawner with real helpers in a process of its own, and the relay's end of its channel."""

from __future__ import annotations

import json
import os
import pwd
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gexec import limits
from gexec.posix import channel, identity
from gexec.posix.audit import AuditLog
from gexec.posix.log import Log
from gexec.relay.spawning import RelayChannel
from gexec.security.policy import Policy
from gexec.security.signers import Trust
from gexec.security.signing import SigningKey, issue
from gexec.spawner.accounts import account_of
from gexec.spawner.admission import ACCOUNT_S, Admission
from gexec.spawner.forking import fork_starter
from gexec.spawner.spawner import Spawner
from gexec.wire import messages
from gexec.wire.jobspec import JobSpec
from gexec.wire.messages import ProcessEnded, ProcessRefused, ProcessStarted
from gexec.wire.outcome import Outcome
from gexec.wire.upgrades import ToRelay

DEADLINE_S = 30.0
KEY = SigningKey.load(
    Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
)
NOBODY = pwd.getpwnam("nobody")
#: Fields of all lines of the audit log.
COMMON = {"daemon": "gexecd", "node": "node1", "realm": "test"}


class Rig:
    """A spawner in a process of its own, and the relay's end of its channel."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.audit_path = directory / "audit"
        self.log_path = directory / "log"
        ours, theirs = channel.pair()
        self.pid = os.fork()
        if self.pid == 0:
            self._be_spawner(theirs, ours, options)
        theirs.close()
        self.relay = RelayChannel(ours)
        self._sock = ours
        self.events: list[messages.Event | ToRelay] = []
        self.numbers = iter(range(1, 1000))
        self.fds: set[int] = set()
        self._reaped = False

    def _be_spawner(self, sock: socket.socket, other: socket.socket, options: dict[str, Any]) -> None:
        status = 70
        try:
            if "prepare" in options:
                options["prepare"]()
            log = Log("spawner", os.open(self.log_path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o644))
            if "etc" in options:
                options["etc"].take_place()
            other.close()
            # The relay's ends of other rigs among them, or those would never see an end.
            identity.close_inherited([sock.fileno(), log._fd])
            identity.become_subreaper()
            for module, name, value in options.get("constants", ()):
                setattr(module, name, value)
            for what, values in options.get("task_limits", {}).items():
                resource.setrlimit(what, values)
            starter = fork_starter(group=options.get("group", ""))
            admission = Admission(
                signers=Trust.unlimited([KEY.public]).signers,
                realm="test",
                names=("node1", "10.0.0.1"),
                policy=options.get("policy", Policy(allow_nologin=True)),
                started_s=options.get("started_s", time.time() - 1),
                account_of=options.get("account_of", account_of),
                replay=options.get("replay"),
                account_s=options.get("account_s", ACCOUNT_S),
            )
            for what, values in options.get("limits", {}).items():
                resource.setrlimit(what, values)
            spawner = Spawner(
                relay=sock,
                start=lambda: starter,
                admission=admission,
                audit=AuditLog((options.get("audit", str(self.audit_path)),), log, common=COMMON),
                audited_only=options.get("audited_only", False),
                log=log,
                tasks_max=options.get("tasks_max", limits.JOBS_MAX),
                is_clean="group" in options,
            )
            if "faults" in options:
                _let_fail(spawner, options["faults"])
            status = spawner.run()
        finally:
            os._exit(status)

    def run(self, raw: bytes, blob: bytes, rank: int = 0, number: int | None = None) -> Task:
        number = next(self.numbers) if number is None else number
        pipes = [os.pipe() for _ in range(3)]
        (in_r, in_w), (out_r, out_w), (err_r, err_w) = pipes
        self.relay.run(number, rank, raw, blob, (in_r, out_w, err_w))
        for fd in (in_r, out_w, err_w):
            os.close(fd)
        self.fds |= {in_w, out_r, err_r}
        return Task(self, number, in_w, out_r, err_r)

    def sh(self, script: str, *, user: int | pwd.struct_passwd | None = None, **options: Any) -> Task:
        return self.run(*signed(job(["/bin/sh", "-c", script], **options), uid=user))

    def wait(self, number: int, *kinds: type) -> Any:
        """Return the next event of these kinds of a task, in whatever order tasks speak."""
        until_s = time.monotonic() + DEADLINE_S
        while True:
            for event in self.events:
                if isinstance(event, kinds) and getattr(event, "task", None) == number:
                    self.events.remove(event)
                    return event
            assert time.monotonic() < until_s, (kinds, self.events, self.log_path.read_text())
            select.select([self.relay], [self.relay] if self.relay.wants_write else [], [], 1.0)
            self.relay.flush()
            said = self.relay.receive()
            if said is not None:
                self.events.append(said)

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit_path.read_text().splitlines()]

    def close(self) -> int:
        """Close the channel as a relay that has ended, and return the spawner's exit status."""
        if not self._reaped:
            self.relay.close()
            self._reaped = True
            _, status = os.waitpid(self.pid, 0)
            self.status = os.waitstatus_to_exitcode(status)
        return self.status


def _let_fail(spawner: Spawner, faults: int) -> None:
    """Let so many turns of its loop fail, one after another."""
    reading, writing = os.pipe()
    os.write(writing, bytes(faults))

    def fail() -> None:
        os.read(reading, 1)
        raise KeyError("a defect")

    spawner.loop.watch(reading, fail)


class Task:
    def __init__(self, rig: Rig, number: int, stdin: int, stdout: int, stderr: int) -> None:
        self.rig = rig
        self.number = number
        self.stdin, self.stdout, self.stderr = stdin, stdout, stderr

    def started(self) -> int:
        """Return its pid; of a short one the audit log tells it, since its end is all that is told."""
        event = self.rig.wait(self.number, ProcessStarted, ProcessEnded, ProcessRefused)
        if isinstance(event, ProcessStarted):
            return event.pid
        assert isinstance(event, ProcessEnded), event
        self.rig.events.append(event)
        pids = [line["pid"] for line in self.rig.audit() if line["event"] == "exec"]
        return int(pids[-1])

    def outcome(self) -> Outcome:
        """Return how the task ended, whether it was started or not."""
        ended: Outcome = self.rig.wait(self.number, ProcessEnded, ProcessRefused).outcome
        return ended

    def output(self) -> bytes:
        """Return all of stdout, to its end."""
        pieces = []
        while piece := os.read(self.stdout, 65536):
            pieces.append(piece)
        return b"".join(pieces)

    def line(self) -> bytes:
        """Return one line of stdout."""
        line = b""
        while not line.endswith(b"\n"):
            piece = os.read(self.stdout, 1)
            if not piece:
                break
            line += piece
        return line.rstrip()


@contextmanager
def rigs(directory: Path, **defaults: Any) -> Iterator[Callable[..., Rig]]:
    """Yield a function that makes a rig; all of them must end with status 0, with the context."""
    made: list[Rig] = []

    def make(**options: Any) -> Rig:
        place = directory / str(len(made))
        place.mkdir()
        made.append(Rig(place, **defaults | options))
        return made[-1]

    yield make
    statuses = [rig.close() for rig in made]
    for rig in made:
        for fd in rig.fds:
            os.close(fd)
    assert statuses == [0] * len(made)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Rigs of a test."""
    with rigs(tmp_path) as making:
        yield making


@pytest.fixture
def rig(make: Callable[..., Rig]) -> Rig:
    """The only rig of a test."""
    return make()


def job(argv: list[str], *, names: tuple[bytes, ...] = (b"node1",), **options: Any) -> JobSpec:
    env = options.pop("env", [b"PATH=/usr/bin:/bin"])
    return JobSpec(
        names=list(names),
        addresses=[b"10.0.0.1:2875"] * len(names),
        program=options.pop("program", argv[0].encode()),
        argv=[word.encode() for word in argv],
        env=env,
        **{"kill_grace_s": 0.3, "salt": time.monotonic_ns(), **options},
    )


def signed(
    spec: JobSpec, *, uid: int | pwd.struct_passwd | None = None, **changes: Any
) -> tuple[bytes, bytes]:
    blob = spec.encode()
    entry = uid if isinstance(uid, pwd.struct_passwd) else pwd.getpwuid(os.geteuid() if uid is None else uid)
    fields: dict[str, Any] = {
        "realm": "test",
        "audience": "gexec",
        "host": "head",
        "uid": entry.pw_uid,
        "gid": entry.pw_gid,
        "user": entry.pw_name,
        "now_s": time.time(),
        "ttl_s": 60.0,
        "job_id": os.urandom(16),
        "digest": sha256(blob).digest(),
    }
    return issue(KEY, **(fields | changes)), blob


def gone(pid: int) -> bool:
    """Wait until a process is gone (or a zombie that somebody else must reap)."""
    until_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < until_s:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.01)
    return False
