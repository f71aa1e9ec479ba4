"""The audit log of a real spawner, and what a captured relay, a full disk and a stuck reader can do to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import audit_schema
from gexec import limits
from gexec.errors import AuthError
from gexec.wire import denials
from gexec.wire.denials import PeerDenied
from gexec.wire.frames import Hello, Refused, encode
from gexec.wire.messages import KillProcess, ProcessEnded, ProcessReady, ProcessRefused
from gexec.wire.outcome import DENIED, EXITED, Outcome

from .conftest import wait_until
from .daemons import Host
from .rig import COMMON, Rig, job, make, rig, signed

__all__ = ["make", "rig"]


@pytest.fixture(autouse=True)
def all_lines_are_as_documented(tmp_path: Path) -> Iterator[None]:
    """Check the audit log of each spawner of a test with the schema."""
    yield
    for path in tmp_path.glob("*/audit"):
        audit_schema.check(read_lines(path))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def lines(rig: Rig, event: str) -> list[dict[str, Any]]:
    """Return the audit log's lines of an event."""
    return [line for line in rig.audit() if line["event"] == event] if rig.audit_path.exists() else []


def denied(reason: str, source: str = "10.0.0.9", count: int = 1) -> PeerDenied:
    return PeerDenied(count, denials.PARENT, source, f"node9 ({source}:2875)", "ab" * 16, "jo", reason)


def test_what_the_relay_refuses_is_audited_as_what_the_relay_says(rig: Rig) -> None:
    rig.relay._port.say(denied("node9 is no parent of rank 3", count=4))
    wait_until(lambda: lines(rig, "deny"), "the refusal is audited")
    (line,) = lines(rig, "deny")
    del line["time"]
    assert line == COMMON | {
        "event": "deny",
        "seq": 1,
        "by": "relay",
        "source": "10.0.0.9",
        "code": "parent",
        "count": 4,
        "peer": "node9 (10.0.0.9:2875)",
        "job": "ab" * 16,
        "user": "jo",
        "reason": "node9 is no parent of rank 3",
    }


def test_attack_111_a_captured_relay_floods_the_audit_log(rig: Rig) -> None:
    """It invents refusals, repeats refused and accepted requests; jobs run, each end is recorded."""
    task = rig.sh("read line")
    assert task.started()
    for number in range(3000):
        rig.relay._port.say(denied("x" * 2000, source=f"10.0.{number >> 8}.{number & 255}"))
        rig.relay.flush()
    raw, blob = signed(job(["/bin/true"]))
    for _ in range(2000):
        rig.relay.check(500, 0, raw, blob)  # the same rank again and again
        rig.wait(500, ProcessReady, ProcessRefused)
        rig.relay.check(501, 0, b"forged", blob)
        rig.wait(501, ProcessRefused)
        rig.relay._port.say(KillProcess(task.number, False))
    assert isinstance(rig.wait(task.number, ProcessEnded), ProcessEnded)
    for _ in range(30):
        assert rig.sh("true").outcome().ok
    assert len(lines(rig, "deny")) < 2 * (limits.AUDIT_BURST + 60 * limits.AUDIT_PER_S)
    assert len(lines(rig, "accept")) == 1 + 1 + 30
    assert len(lines(rig, "exec")) == len(lines(rig, "exit")) == 1 + 30
    assert len(lines(rig, "kill")) == 1
    wait_until(
        lambda: {line["by"] for line in lines(rig, "suppressed")} == {"relay", "spawner"}, "the counts"
    )
    rows = [(line["by"], line["source"], line["codes"]) for line in lines(rig, "suppressed")]
    assert ("spawner", "relay") in {row[:2] for row in rows}
    assert "others" in {row[1] for row in rows}
    told = sum(line["count"] for line in lines(rig, "suppressed") if line["by"] == "relay")
    assert told + len([line for line in lines(rig, "deny") if line["by"] == "relay"]) == 3000


def test_attack_112_a_captured_relay_forges_no_other_event(rig: Rig) -> None:
    """It can write *deny* with ``by: relay`` and nothing else, in one line, whatever the texts contain."""
    nasty = 'x"}\n{"event":"exec","uid":0}\x1b]0;x\x07\u202e'
    rig.relay._port.say(PeerDenied(1, 0, nasty, nasty, nasty, nasty, nasty))
    wait_until(lambda: lines(rig, "deny"), "the refusal is audited")
    (line,) = rig.audit()
    assert (line["event"], line["by"]) == ("deny", "relay")
    raw = rig.audit_path.read_bytes()
    assert all(32 <= byte < 127 for byte in raw[:-1])


def test_a_refusal_after_the_signature_was_verified_names_the_user(make: Callable[..., Rig]) -> None:
    rig = make()
    raw, blob = signed(job(["/bin/true"]))
    assert rig.run(raw, blob).outcome().ok
    assert not rig.run(raw, blob).outcome().ok
    assert not rig.run(raw[:-1] + bytes([raw[-1] ^ 1]), blob).outcome().ok
    replay, forged = lines(rig, "deny")
    (accepted,) = lines(rig, "accept")
    assert (replay["code"], replay["uid"], replay["source"]) == (
        "replayed",
        os.geteuid(),
        f"uid {os.geteuid()}",
    )
    for name in ("job", "user", "gid", "origin", "key"):
        assert replay[name] == accepted[name]
    assert (forged["code"], forged["source"]) == ("signature", "relay")
    assert not {"job", "user", "uid"} & set(forged)


def test_a_program_that_does_not_exist_is_denied_by_name(rig: Rig) -> None:
    assert not rig.run(*signed(job(["/bin/not-there"]))).outcome().ok
    accepted, refused = rig.audit()
    assert (refused["code"], refused["rank"], refused["job"]) == ("start", 0, accepted["job"])


# -- what cannot be written --------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB that is mounted only in the mount namespace of this test."""
    directory = tmp_path / "disk"
    directory.mkdir()
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c",
         'mount -t tmpfs -o size=64k,mode=755 tmpfs "$0" && echo && exec cat', directory],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"\n"
    yield Path(f"/proc/{holder.pid}/root{directory}")
    holder.stdin.close()
    holder.stdout.close()
    holder.wait()


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with (disk / "filler").open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        for audit in disk.glob("audit*"):  # the rest of its last page
            with audit.open("ab", buffering=0) as last, contextlib.suppress(OSError):
                while last.write(b"\n"):
                    pass


@pytest.mark.root
def test_attack_64_audit_log_on_a_full_disk(make: Callable[..., Rig], disk: Path) -> None:
    """Jobs run; the log reports it once; when there is space, a line has the number of lost lines."""
    path = disk / "audit"
    rig = make(audit=str(path))
    assert rig.sh("true").outcome().ok
    fill(disk)
    for _ in range(5):
        assert rig.sh("true").outcome().ok
    assert rig.log_path.read_text().count("No space left on device: lines are being lost") == 1
    (disk / "filler").unlink()
    assert rig.sh("true").outcome().ok
    rig.close()
    entries = read_lines(path)
    (lost,) = [entry for entry in entries if entry["event"] == "lost"]
    assert (lost["lines"], lost["destination"]) == (15, str(path))
    numbers = [entry["seq"] for entry in entries]
    assert numbers == sorted(numbers)
    assert numbers[-1] - len(numbers) == 15  # the gap shows it, too
    assert "takes lines again; 15 lines were lost" in rig.log_path.read_text()


@pytest.mark.root
def test_attack_64_nothing_starts_without_a_record_if_that_is_wanted(
    make: Callable[..., Rig], disk: Path
) -> None:
    path = disk / "audit"
    rig = make(audit=str(path), audited_only=True)
    running = rig.sh("read line; exit 7")
    assert running.started()
    fill(disk)
    for _ in range(2):
        outcome = rig.sh("true").outcome()
        assert outcome.kind == DENIED
        assert "audit log cannot be written" in outcome.text
        assert "No space left on device" in outcome.text
        assert 'audit_failure = "refuse"' in outcome.text
    os.write(running.stdin, b"\n")
    assert running.outcome() == Outcome(EXITED, 7)  # what runs goes on
    (disk / "filler").unlink()
    assert rig.sh("true").outcome().ok
    rig.close()
    events = [entry["event"] for entry in read_lines(path)]
    assert events.count("lost") == 1
    assert events[-4:] == ["accept", "lost", "exec", "exit"]
    assert events.count("exec") == 2


@pytest.mark.parametrize("audited_only", [False, True])
def test_attack_113_audit_log_to_a_pipe_that_nobody_reads(
    make: Callable[..., Rig], tmp_path: Path, audited_only: bool
) -> None:
    """The spawner does not wait for it. With "refuse" nothing starts until it is read again."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    rig = make(audit=str(fifo), audited_only=audited_only)
    outcome = rig.run(*signed(job(["/bin/true", *["x" * 250] * 31]))).outcome()
    runs = 0
    while outcome.ok and runs < 40:
        outcome = rig.run(*signed(job(["/bin/true", *["x" * 250] * 31]))).outcome()
        runs += 1
    assert outcome.ok != audited_only
    assert "Resource temporarily unavailable" in rig.log_path.read_text() or audited_only
    raw = b""
    end = re.compile(rb'"event":"lost"[^\n]*\n')
    while not end.search(raw):  # also with no further job
        select.select([reading], [], [])
        raw += os.read(reading, 65536)
    for line in raw.splitlines():
        json.loads(line)
    assert rig.sh("true").outcome().ok
    rig.close()
    os.close(reading)


# -- real daemons ------------------------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


def audited(host: Host, event: str) -> list[dict[str, Any]]:
    """Return the lines of an event in gexecd's audit log."""
    text = host.audit.read_text() if host.audit.exists() else ""
    return [line for line in map(json.loads, text.splitlines()) if line["event"] == event]


def test_a_credential_that_the_relay_refuses_is_audited(host: Host) -> None:
    host.start_authd()
    host.gexecd()
    credential, blob = host.signed("true")
    frames = host.submit(credential[:-1] + bytes([credential[-1] ^ 1]), blob)
    assert isinstance(frames[-1], Refused)
    wait_until(lambda: audited(host, "deny"), "the refusal is audited")
    (line,) = audited(host, "deny")
    assert (line["by"], line["code"], line["source"]) == ("relay", "credential", f"uid {os.geteuid()}")
    assert line["reason"] == frames[-1].text
    assert line["peer"].startswith("client (pid ")


def test_attack_113_a_daemon_whose_stderr_nobody_reads_serves_its_jobs(host: Host) -> None:
    """Log and audit log go to one pipe, which is full."""
    host.start_authd()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(writing, bytes(65536)):
            pass
    os.set_blocking(writing, True)
    service = host.gexecd("--audit-log", "stderr", stderr=writing, audit=False)
    for _ in range(3):
        done = host.gexec("-n", "1", "-p", "none", "echo", "runs")
        assert (done.returncode, done.stdout) == (0, "runs\n"), done.stderr
    os.kill(service.pid, signal.SIGHUP)
    assert host.gexec("-n", "1", "true").returncode == 0
    assert service.stop() == 0
    os.close(reading)
    os.close(writing)


def test_a_daemon_that_may_not_run_without_a_record_recovers_on_sighup(host: Host) -> None:
    host.start_authd()
    directory = host.dir / "logs"
    config = host.config(f'audit_failure = "refuse"\naudit_log = "{directory}/audit"\n')
    service = host.gexecd("--config", config, audit=False)
    done = host.gexec("-n", "1", "true")
    assert done.returncode == 255
    assert f"{directory}/audit: No such file or directory" in done.stderr
    directory.mkdir()
    os.kill(service.pid, signal.SIGHUP)
    wait_until(lambda: "takes lines again" in service.errors(), "it is opened")
    assert host.gexec("-n", "1", "true").returncode == 0
    assert [line["event"] for line in read_lines(directory / "audit")] == ["lost", "accept", "exec", "exit"]


def test_authd_signs_nothing_without_a_record_if_that_is_wanted(host: Host) -> None:
    config = host.config('audit_failure = "refuse"\naudit_log = "/dev/full"\n')
    host.start_authd("--config", config)
    with pytest.raises(AuthError, match=r"authd's audit log cannot be written .*No space left on device"):
        host.signed("true")


def test_the_audit_log_is_rotated_at_its_size(host: Host) -> None:
    host.start_authd()
    config = host.config("audit_max_bytes = 1048576\naudit_keep = 2\n")
    host.audit.write_bytes(b"x" * 1048000 + b"\n")
    host.gexecd("--config", config)
    for _ in range(3):
        assert host.gexec("-n", "1", "true").returncode == 0
    old = Path(f"{host.audit}.1")
    assert old.stat().st_size <= 1048576
    lines = [line for line in (old.read_bytes() + host.audit.read_bytes()).splitlines() if b"{" in line]
    assert [json.loads(line)["event"] for line in lines].count("exit") == 3
    assert host.audit.stat().st_mode & 0o777 == 0o600


@pytest.mark.root
def test_attack_114_an_audit_log_that_another_user_could_exchange_is_refused(host: Host) -> None:
    folder = host.dir / "theirs"
    folder.mkdir()
    os.chown(folder, 12345, -1)
    host.start_authd()
    service = host.gexecd("--audit-log", folder / "audit", ready=False, audit=False)
    assert service.wait() == 1
    assert f"audit log {folder}/audit: the directory {folder} belongs to uid 12345" in service.errors()


def test_every_event_is_as_documented(host: Host) -> None:
    """All events, made by real daemons; the schema has each of them, and they have what it requires."""
    fifo, authd_audit = host.dir / "fifo", host.dir / "authd-audit"
    os.mkfifo(fifo)
    config = host.config(f'audit_log = ["{host.audit}", "{fifo}"]\n')
    host.start_authd("--audit-log", authd_audit)
    service = host.gexecd("--config", config, audit=False)
    assert host.gexec("-n", "1", "sh", "-c", "sleep 8 >/dev/null 2>&1 & exit 3").returncode == 3
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert host.gexec("-n", "1", "--strict", "/not/there").returncode == 127
    assert host.gexec("-n", "1", "--timeout", "0.5", "sleep", "1000").returncode == 124
    credential, blob = host.signed("true")
    for _ in range(limits.AUDIT_SOURCE_BURST + 5):
        host.submit(credential[:-1] + b"x", blob)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(host.authd_socket))
        sock.sendall(encode(0, Hello(1, "x")))
        assert sock.recv(65536)
    seen = set(audit_schema.EVENTS)
    of_gexecd = seen - {"issue", "certify"}
    wait_until(lambda: {line["event"] for line in read_lines(host.audit)} >= of_gexecd, "all are written")
    entries = read_lines(host.audit) + read_lines(authd_audit)
    audit_schema.check(entries)
    assert {line["event"] for line in entries} == seen
    assert {(line["daemon"], line["realm"]) for line in entries} == {("gexecd", "gexec"), ("authd", "gexec")}
    assert {line["node"] for line in entries} == {os.uname().nodename}
    for path in (host.audit, authd_audit):
        numbers = [line["seq"] for line in read_lines(path)]
        assert numbers == list(range(1, len(numbers) + 1))
    issued = {line["job"] for line in entries if line["event"] == "issue"}
    assert {line["job"] for line in entries if line["event"] in ("accept", "exec", "exit")} <= issued
    assert service.stop() == 0
    os.close(reading)
