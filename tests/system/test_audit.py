"""The audit log of a real spawner, and what a captured relay, a full disk and a stuck reader can do to it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gexec import limits
from gexec.wire import denials
from gexec.wire.denials import PeerDenied
from gexec.wire.frames import Refused
from gexec.wire.messages import KillProcess, ProcessEnded, ProcessReady, ProcessRefused

from .conftest import wait_until
from .daemons import Host
from .test_spawner import Rig, job, make, rig, signed

__all__ = ["make", "rig"]


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
    assert line == {
        "event": "deny",
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
