"""The spawner as a real process with real helpers, seen from its relay's end of the channel.

The attacks are those of a relay that was taken over, and of jobs that try to get away.
"""

from __future__ import annotations

import json
import os
import pwd
import resource
import select
import signal
import socket
import stat
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gexec import limits
from gexec.errors import ProtocolError
from gexec.posix import channel, identity
from gexec.posix.audit import AuditLog
from gexec.posix.log import Log
from gexec.relay.spawning import RelayChannel
from gexec.security.policy import Policy
from gexec.security.replay import ReplayCache
from gexec.security.signers import Trust
from gexec.security.signing import SigningKey, issue
from gexec.spawner.accounts import account_of
from gexec.spawner.admission import ACCOUNT_S, Admission
from gexec.spawner.forking import fork_starter
from gexec.spawner.spawner import Spawner
from gexec.wire import jobspec, launches, messages
from gexec.wire.jobspec import JobSpec
from gexec.wire.messages import ProcessEnded, ProcessReady, ProcessRefused, ProcessStarted
from gexec.wire.outcome import DENIED, EXITED, KILLED, LOST, NOT_STARTED, Outcome

from .conftest import wait_until
from .frozen import frozen_at

DEADLINE_S = 30.0
KEY = SigningKey.load(
    Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
)
NOBODY = pwd.getpwnam("nobody")
#: Fields of all lines of the audit log.
COMMON = {"daemon": "gexecd", "node": "node1", "realm": "test"}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: tasks of another user")


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
        self.events: list[messages.Event] = []
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
            starter = fork_starter()
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


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    rigs: list[Rig] = []

    def made(**options: Any) -> Rig:
        directory = tmp_path / str(len(rigs))
        directory.mkdir()
        rigs.append(Rig(directory, **options))
        return rigs[-1]

    yield made
    statuses = [rig.close() for rig in rigs]
    for rig in rigs:
        for fd in rig.fds:
            os.close(fd)
    assert statuses == [0] * len(rigs)


@pytest.fixture
def rig(make: Callable[..., Rig]) -> Rig:
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


# -- tasks ------------------------------------------------------------------------------------


def test_task_runs_with_its_environment_directory_and_streams(rig: Rig, tmp_path: Path) -> None:
    spec = job(
        ["/bin/sh", "-c", "cat; pwd; env; umask; echo err >&2; exit 7"],
        cwd=os.fsencode(tmp_path),
        env=[b"PATH=/usr/bin:/bin", b"A=1=2", b"GEXEC_NODE=liar", b"GEXEC_NPROCS=2"],
        names=(b"node1", b"node2"),
        umask=0o027,
    )
    task = rig.run(*signed(spec))
    os.write(task.stdin, b"hello\n")
    rig.fds.remove(task.stdin)
    os.close(task.stdin)
    assert task.started() > 0
    lines = task.output().decode().splitlines()
    assert os.read(task.stderr, 100) == b"err\n"
    assert task.outcome() == Outcome(EXITED, 7)
    assert lines[:2] == ["hello", str(tmp_path)]
    assert {"A=1=2", "GEXEC_MY_VNN=0", "GEXEC_NODE=node1", "GEXEC_SVRS=node1 node2", "GEXEC_NPROCS=2"} <= set(
        lines
    )
    assert lines[-1].endswith("027")
    rig.close()
    assert [entry["event"] for entry in rig.audit()] == ["accept", "exec", "exit"]


def test_large_job_travels_in_a_sealed_memfd(rig: Rig) -> None:
    big = "x" * 100_000
    task = rig.sh('echo "${#BIG}"', env=[f"BIG={big}".encode()])
    assert task.output() == b"100000\n"


@pytest.mark.parametrize(
    ("argv", "options", "status", "words"),
    [
        (["/no/such"], {}, 127, "program /no/such: No such file or directory on this node (--remote-path"),
        (["/bin/ls /tmp"], {}, 127, "on this node (a whole command line is for enexec, or gexec sh -c)"),
        (["/etc/passwd/no"], {}, 127, "program /etc/passwd/no: Not a directory"),
        (["/etc/passwd"], {}, 126, "program /etc/passwd: Permission denied"),
        (["/"], {}, 126, "program /: Permission denied"),
        (["/bin/true"], {"cwd": b"/no/dir"}, 255, "working directory /no/dir: No such file or directory"),
        (["/bin/true"], {"cwd": b"/etc/passwd"}, 255, "working directory /etc/passwd: Not a directory"),
        (["nosuch"], {"flags": jobspec.REMOTE_PATH}, 127, "program nosuch: not found in the job's PATH"),
    ],
)
def test_what_cannot_start_says_why(
    rig: Rig, argv: list[str], options: dict[str, Any], status: int, words: str
) -> None:
    raw, blob = signed(job(argv, **options))
    outcome = rig.run(raw, blob).outcome()
    assert (outcome.kind, outcome.exit_status) == (NOT_STARTED, status)
    assert words in outcome.text
    assert outcome.value > 0
    raw, blob = signed(job(argv, **options))
    rig.relay.check(500, 0, raw, blob)
    assert words in rig.wait(500, ProcessRefused).outcome.text


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("#!/no/such/interpreter", "the interpreter that it names does not exist"),
        ("no script", "neither a program for this machine nor a script"),
    ],
)
def test_a_script_that_cannot_be_executed_says_why(rig: Rig, tmp_path: Path, line: str, words: str) -> None:
    script = tmp_path / "script"
    script.write_text(f"{line}\n")
    script.chmod(0o755)
    outcome = rig.run(*signed(job([str(script)]))).outcome()
    assert (outcome.kind, outcome.exit_status) == (NOT_STARTED, 126)
    assert words in outcome.text


def test_script_without_interpreter_line_is_told(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text("echo no\n")
    path.chmod(0o755)
    assert "Exec format error" in rig.run(*signed(job([str(path)]))).outcome().text
    path.write_text("#!/no/interpreter\n")
    assert "interpreter" in rig.run(*signed(job([str(path)]))).outcome().text


def test_remote_path_finds_the_program(rig: Rig) -> None:
    task = rig.run(*signed(job(["echo", "found"], flags=jobspec.REMOTE_PATH)))
    assert task.output() == b"found\n"


def test_strict_check_then_run(rig: Rig) -> None:
    raw, blob = signed(job(["/bin/echo", "go"]))
    rig.relay.check(9, 0, raw, blob)
    rig.wait(9, ProcessReady)
    task = rig.run(raw, blob, number=9)
    assert task.output() == b"go\n"
    assert task.outcome() == Outcome(EXITED, 0)
    assert rig.run(raw, blob).outcome().kind == DENIED


def test_signals_reach_the_group(rig: Rig) -> None:
    task = rig.sh("trap 'echo usr1; exit 3' USR1; echo up; while :; do sleep 0.05; done")
    assert task.line() == b"up"
    rig.relay.signal(task.number, signal.SIGUSR1)
    assert task.line() == b"usr1"
    assert task.outcome() == Outcome(EXITED, 3)


def test_stop_and_continue_work(rig: Rig) -> None:
    task = rig.sh("echo up; exec sleep 1000")
    pid = task.started()
    assert task.line() == b"up"
    for signum, states in ((signal.SIGTSTP, "T"), (signal.SIGCONT, "SR")):
        rig.relay.signal(task.number, signum)
        until_s = time.monotonic() + DEADLINE_S
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in states:
            assert time.monotonic() < until_s
            time.sleep(0.01)
    rig.relay.kill(task.number, True)
    assert task.outcome() == Outcome(KILLED, signal.SIGKILL)


def test_signals_are_default_and_unblocked_in_the_task(rig: Rig) -> None:
    task = rig.run(*signed(job(["/bin/grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"])))
    reserved = 0b11 << 31  # 32 and 33 are the C library's own; nobody can set them
    assert [int(line.split()[1], 16) & ~reserved for line in task.output().splitlines()] == [0, 0]


def test_kill_is_gentle_then_hard(rig: Rig) -> None:
    task = rig.sh("trap '' TERM HUP; echo up; while :; do sleep 0.05; done")
    assert task.line() == b"up"
    rig.relay.kill(task.number, False)
    assert task.outcome() == Outcome(KILLED, signal.SIGKILL)
    rig.close()
    assert "kill" in [entry["event"] for entry in rig.audit()]


def test_end_of_relay_ends_the_tasks(rig: Rig) -> None:
    tasks = [rig.sh("echo $$; trap '' TERM HUP; sleep 1000 & wait; sleep 1000") for _ in range(3)]
    pids = [int(task.line()) for task in tasks]
    assert rig.close() == 0
    assert all(gone(pid) for pid in pids)


def test_forgotten_task_outlives_its_relay(rig: Rig) -> None:
    task = rig.sh("echo $$; exec sleep 1000")
    pid = int(task.line())
    task.started()
    rig.relay.forget(task.number)
    try:
        assert rig.close() == 0
        os.kill(pid, 0)
    finally:
        os.kill(pid, signal.SIGKILL)


# -- attacks: binding -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("15_argv", {"argv": [b"/bin/echo", b"other"]}),
        ("16_env", {"env": [b"PATH=/evil"]}),
        ("17_cwd", {"cwd": b"/tmp"}),
        ("18_targets", {"names": [b"node2"]}),
        ("19_options", {"umask": 0}),
    ],
)
def test_attack_15_to_19_swapped_part_of_the_job(rig: Rig, name: str, change: dict[str, Any]) -> None:
    spec = job(["/bin/echo", "hello"])
    raw, _ = signed(spec)
    for attribute, value in change.items():
        setattr(spec, attribute, value)
    outcome = rig.run(raw, spec.encode()).outcome()
    assert outcome.kind == DENIED
    assert "not the one that the credential was signed for" in outcome.text


def test_attack_20_replay_on_the_same_host(rig: Rig) -> None:
    raw, blob = signed(job(["/bin/true"]))
    assert rig.run(raw, blob).outcome().ok
    outcome = rig.run(raw, blob).outcome()
    assert outcome.kind == DENIED
    assert "it runs once" in outcome.text


def test_attack_21_22_replay_after_a_restart(make: Callable[..., Rig]) -> None:
    raw, blob = signed(job(["/bin/true"]))
    assert make().run(raw, blob).outcome().ok
    again = make(started_s=time.time())
    assert "before this node's gexecd started" in again.run(raw, blob).outcome().text
    assert again.run(*signed(job(["/bin/true"]))).outcome().ok


@pytest.mark.parametrize("name", [b"node2", b"10.0.0.2", b"localhost", b"127.0.0.1", b"::1", b"node1.evil"])
def test_attack_23_24_66_job_for_another_node(rig: Rig, name: bytes) -> None:
    outcome = rig.run(*signed(job(["/bin/true"], names=(name,)))).outcome()
    assert outcome.kind == DENIED
    assert "none of this node's names" in outcome.text


@pytest.mark.parametrize("name", [b"NODE1", b"node1.", b"10.0.0.1"])
def test_node_is_known_by_its_names_and_addresses(rig: Rig, name: bytes) -> None:
    assert rig.run(*signed(job(["/bin/true"], names=(name,)))).outcome().ok


@pytest.mark.parametrize("raw", [b"", b"x", b"GXC\x01" + bytes(200)])
def test_attack_25_65_no_credential(rig: Rig, raw: bytes) -> None:
    assert rig.run(raw, job(["/bin/true"]).encode()).outcome().kind == DENIED


def test_attack_26_27_identity_that_the_node_does_not_know(rig: Rig) -> None:
    own = os.geteuid()
    for changes in ({"user": "somebody"}, {"gid": 4_000_000}):
        outcome = rig.run(*signed(job(["/bin/true"]), uid=own, **changes)).outcome()
        assert outcome.kind == DENIED
        assert "on this node" in outcome.text
    assert rig.run(*signed(job(["/bin/true"]), uid=own)).outcome().ok


def test_rank_out_of_range_is_refused(rig: Rig) -> None:
    assert "so none is number 5" in rig.run(*signed(job(["/bin/true"])), rank=5).outcome().text


# -- attacks: resources -----------------------------------------------------------------------


def test_attack_61_fork_bomb_is_ended(rig: Rig) -> None:
    script = "f() { n=$1; while [ $n -gt 0 ]; do (f $((n-1))) & n=$((n-1)); done; sleep 1000; }; f 5; wait"
    task = rig.sh(f"echo up; {script}")
    assert task.line() == b"up"
    rig.relay.kill(task.number, True)
    assert task.outcome() == Outcome(KILLED, signal.SIGKILL)
    assert task.output() == b""  # its end comes only when no process holds the pipe any more


def test_attack_62_environment_of_10_mb(rig: Rig) -> None:
    with pytest.raises(ValueError, match="over the limit"):
        rig.relay.run(1, 0, b"", bytes(10 * 1024 * 1024), (0, 1, 2))


def test_attack_63_replay_cache_is_filled(make: Callable[..., Rig]) -> None:
    rig = make(replay=ReplayCache(4, superuser=1))
    assert rig.sh("true").outcome().ok
    assert rig.sh("true").outcome().ok
    outcome = rig.sh("true").outcome()
    assert outcome.kind == DENIED
    assert "can remember no more" in outcome.text


# -- what runs out, and defects: one task's matter --------------------------------------------


def _fds_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_an_unexpected_error_about_one_task_refuses_that_task_and_keeps_nothing(
    make: Callable[..., Rig],
) -> None:
    def defective(uid: int) -> Any:
        raise KeyError("a defect")

    rig = make(account_of=defective)
    refused = rig.sh("true").outcome()
    assert refused.kind == NOT_STARTED
    assert "gexecd on this node failed on this process: KeyError" in refused.text
    before = _fds_of(rig.pid)
    for _ in range(20):
        assert rig.sh("true").outcome().kind == NOT_STARTED
    assert _fds_of(rig.pid) == before


def test_turns_that_fail_end_nothing(make: Callable[..., Rig]) -> None:
    rig = make(faults=20)
    task = rig.sh("echo up; read x; exit 3")
    assert task.line() == b"up"
    os.write(task.stdin, b"\n")
    assert task.outcome() == Outcome(EXITED, 3)
    assert "unexpected KeyError: 'a defect'" in rig.log_path.read_text()


def test_a_loop_that_only_fails_ends_its_tasks_with_a_status_of_its_own(tmp_path: Path) -> None:
    rig = Rig(tmp_path, faults=60_000)
    task = rig.sh("echo $$; exec sleep 1000")
    pid = int(task.line())
    _, status = os.waitpid(rig.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 1
    assert gone(pid)
    assert "turns in succession have failed: ending 1 tasks" in rig.log_path.read_text()
    rig.relay.close()
    for fd in rig.fds:
        os.close(fd)


@needs_root
@pytest.mark.root
def test_a_user_without_a_process_left_is_told_so(make: Callable[..., Rig]) -> None:
    rig = make(task_limits={resource.RLIMIT_NPROC: (1, 1)})
    refused = rig.sh("true", user=NOBODY.pw_uid).outcome()
    assert refused.kind == NOT_STARTED
    assert "this node has no room for one more process of this user" in refused.text
    assert rig.sh("true").outcome().ok


@needs_root
@pytest.mark.root
def test_no_descriptor_for_a_helper_refuses_its_user_alone(make: Callable[..., Rig]) -> None:
    rig = make()
    assert rig.sh("true").outcome().ok
    used = {int(name) for name in os.listdir(f"/proc/{rig.pid}/fd")}
    most = sorted(set(range(100)) - used)[2] + 1  # a task's three fit, and no more
    resource.prlimit(rig.pid, resource.RLIMIT_NOFILE, (most, most))
    refused = rig.sh("true", user=NOBODY.pw_uid).outcome()
    assert refused.kind == NOT_STARTED
    assert "out of resources" in refused.text
    assert "Too many open files" in refused.text
    assert rig.sh("true").outcome().ok


@needs_root
@pytest.mark.root
def test_another_users_task_has_the_descriptors_that_were_configured(make: Callable[..., Rig]) -> None:
    rig = make(
        task_limits={resource.RLIMIT_NOFILE: (300, 2000)}, limits={resource.RLIMIT_NOFILE: (2000, 2000)}
    )
    for user in (None, NOBODY.pw_uid):
        assert rig.sh("ulimit -Sn; ulimit -Hn", user=user).output() == b"300\n2000\n"


# -- attacks: privilege -----------------------------------------------------------------------


def test_attack_67_fd_confusion(rig: Rig, tmp_path: Path) -> None:
    raw, blob = signed(job(["/bin/true"]))
    victim = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    rig.relay.run(1, 0, raw, blob, (victim, victim, victim))
    assert "neither a pipe nor /dev/null" in rig.wait(1, ProcessRefused).outcome.text
    os.close(victim)
    assert rig.sh("true").outcome().ok


@pytest.mark.parametrize(
    "datagram",
    [b"x", b"\xff" * 10, messages.HEAD.pack(messages.RUN, 0, 1, 0), messages.HEAD.pack(99, 0, 1, 0),
     messages.HEAD.pack(3, 0, 1, 65), messages.HEAD.pack(messages.RUN, 1, 1, 0),
     messages.HEAD.pack(launches.LAUNCH, 0, 1, 0) + b"\0" * 60, messages.HEAD.pack(9, 0, 1, 9)],
)  # fmt: skip
def test_attack_45_53_malformed_message_ends_the_channel_and_the_tasks(rig: Rig, datagram: bytes) -> None:
    task = rig.sh("echo $$; exec sleep 1000")
    pid = int(task.line())
    task.started()
    rig._sock.send(datagram)
    with pytest.raises((ConnectionError, ProtocolError)):
        rig.wait(999, ProcessEnded)
    assert gone(pid)


def test_unsealed_memfd_is_refused(rig: Rig) -> None:
    memfd = os.memfd_create("loose")
    os.write(memfd, bytes(100))
    socket.send_fds(rig._sock, [messages.HEAD.pack(messages.CHECK, messages.FLAG_MEMFD, 1, 0)], [memfd])
    os.close(memfd)
    with pytest.raises((ConnectionError, ProtocolError)):
        rig.wait(999, ProcessEnded)


def test_attack_69_no_descriptor_but_stdio(rig: Rig) -> None:
    # ls itself opens one more, for the directory.
    task = rig.run(*signed(job(["/bin/ls", "/proc/self/fd"])))
    assert task.output().split() == [b"0", b"1", b"2", b"3"]


def test_attack_85_escape_during_kill(rig: Rig) -> None:
    script = "for i in 1 2 3; do env -i /usr/bin/setsid /bin/sh -c 'echo $$; exec sleep 1000' & done; wait"
    task = rig.sh(script)
    pids = [int(task.line()) for _ in range(3)]
    rig.relay.kill(task.number, True)
    assert task.outcome() == Outcome(KILLED, signal.SIGKILL)
    assert all(gone(pid) for pid in pids)


# -- other users ------------------------------------------------------------------------------


@needs_root
@pytest.mark.root
def test_attack_28_68_task_of_another_user_has_that_identity_only(rig: Rig) -> None:
    task = rig.sh(
        "id -u; id -g; id -G; grep -E '^(Uid|Gid|Groups|CapEff|CapPrm)' /proc/self/status", user=NOBODY.pw_uid
    )
    lines = task.output().decode().splitlines()
    assert task.outcome() == Outcome(EXITED, 0)
    uid, gid = str(NOBODY.pw_uid), str(NOBODY.pw_gid)
    assert lines[:2] == [uid, gid]
    assert {int(word) for word in lines[2].split()} == set(os.getgrouplist("nobody", NOBODY.pw_gid))
    facts = {line.partition(":")[0]: line.partition(":")[2].split() for line in lines[3:]}
    assert facts["Uid"] == [uid] * 4
    assert facts["Gid"] == [gid] * 4
    assert facts["CapEff"] == facts["CapPrm"] == ["0" * 16]


@needs_root
@pytest.mark.root
def test_attack_69_task_of_another_user_has_no_other_descriptor(rig: Rig) -> None:
    task = rig.run(*signed(job(["/bin/ls", "/proc/self/fd"]), uid=NOBODY.pw_uid))
    assert task.output().split() == [b"0", b"1", b"2", b"3"]


@needs_root
@pytest.mark.root
def test_attack_67_68_helper_cannot_be_traced_or_read_by_its_user(rig: Rig) -> None:
    script = "p=$PPID; ls /proc/$p/fd 2>&1 | head -1; cat /proc/$p/mem 2>&1 | head -c 100; cat /proc/$p/comm"
    task = rig.sh(script, user=NOBODY.pw_uid)
    text = task.output().decode()
    assert text.count("Permission denied") == 2
    assert text.endswith("gexecd-helper\n")


@needs_root
@pytest.mark.root
def test_one_helper_for_all_tasks_of_a_user(rig: Rig) -> None:
    parents = {rig.sh("echo $PPID", user=NOBODY.pw_uid).output() for _ in range(5)}
    assert len(parents) == 1
    assert len(_children(rig.pid)) == 1


@needs_root
@pytest.mark.root
def test_killed_helper_loses_its_tasks_and_leaves_nothing(rig: Rig) -> None:
    task = rig.sh(
        "echo $PPID $$; trap '' TERM; setsid sleep 1000 & echo $!; exec sleep 1000", user=NOBODY.pw_uid
    )
    helper, pid = map(int, task.line().split())
    other = int(task.line())
    task.started()
    os.kill(helper, signal.SIGKILL)
    assert task.outcome().kind == LOST
    assert gone(pid)
    assert gone(other)
    assert rig.sh("true", user=NOBODY.pw_uid).outcome().ok


@needs_root
@pytest.mark.root
def test_stopped_helper_does_not_stop_the_spawner(rig: Rig) -> None:
    task = rig.sh("kill -STOP $PPID; echo stopped; exec sleep 1000", user=NOBODY.pw_uid)
    assert task.line() == b"stopped"
    assert rig.sh("true").outcome().ok
    rig.relay.kill(task.number, True)
    assert task.outcome() == Outcome(KILLED, signal.SIGKILL)


@needs_root
@pytest.mark.root
def test_attack_73_signal_does_not_leave_the_task(rig: Rig) -> None:
    mine = rig.sh("echo up; read x; echo $x")
    theirs = rig.sh("echo up; exec sleep 1000", user=NOBODY.pw_uid)
    assert mine.line() == theirs.line() == b"up"
    rig.relay.signal(theirs.number, signal.SIGTERM)
    rig.relay.signal(12345, signal.SIGTERM)
    assert theirs.outcome() == Outcome(KILLED, signal.SIGTERM)
    os.write(mine.stdin, b"alive\n")
    assert mine.line() == b"alive"


@needs_root
@pytest.mark.root
def test_attack_81_nologin_account(make: Callable[..., Rig]) -> None:
    outcome = make(policy=Policy()).sh("true", user=NOBODY.pw_uid).outcome()
    assert outcome.kind == DENIED
    assert "may not log in" in outcome.text


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
def test_ordinary_user_serves_only_itself(rig: Rig) -> None:
    assert "serves that user only" in rig.sh("true", user=0).outcome().text


@needs_root
@pytest.mark.root
def test_end_of_relay_ends_other_users_tasks_and_helpers(rig: Rig) -> None:
    task = rig.sh("echo $PPID $$; trap '' TERM HUP; while :; do sleep 0.1; done", user=NOBODY.pw_uid)
    pids = [int(word) for word in task.line().split()]
    assert rig.close() == 0
    assert all(gone(pid) for pid in pids)


def test_attack_80_audit_holds_no_control_characters(rig: Rig) -> None:
    rig.run(*signed(job(["/bin/echo", "\x1b[2J\x07\n\x7f\x9b31m"]))).outcome()
    rig.close()
    raw = rig.audit_path.read_bytes()
    assert not any((byte < 32 and byte != 10) or byte >= 127 for byte in raw)
    assert stat.S_IMODE(rig.audit_path.stat().st_mode) == 0o600


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.root
@needs_root
def test_a_task_that_sigkill_does_not_end_costs_its_user_no_other_task(
    make: Callable[..., Rig],
) -> None:
    """Its storage hangs. Their helper has done what it can, and is left alone."""
    rig = make()
    with TemporaryDirectory(prefix="gxf", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        _one_hangs(rig, Path(folder) / "disk")


def _one_hangs(rig: Rig, disk: Path) -> None:
    with frozen_at(disk, NOBODY.pw_uid) as freeze:
        other = rig.sh("echo up; read line; echo $line", user=NOBODY.pw_uid)
        assert other.line() == b"up"
        hung = rig.sh(f"cd {disk} && echo up && read line && echo x >file", user=NOBODY.pw_uid)
        assert hung.line() == b"up"
        pid = hung.started()
        freeze()
        os.write(hung.stdin, b"go\n")
        status = Path(f"/proc/{pid}/stat")
        wait_until(lambda: " D " in status.read_text(), "it does not hang")
        rig.relay.kill(hung.number, True)
        text = f"process {pid} of nobody does not end on SIGKILL: its storage hangs?"
        wait_until(lambda: text in rig.log_path.read_text(), "nobody reports it")
        os.write(other.stdin, b"still here\n")
        assert other.line() == b"still here"
        assert other.outcome() == Outcome(EXITED, 0)
        last = rig.sh("echo new", user=NOBODY.pw_uid)
        assert last.output() == b"new\n"
    assert hung.outcome() == Outcome(KILLED, 9)
