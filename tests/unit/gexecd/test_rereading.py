"""Reading keys and policy again: what it writes, and that it does not wait for ever."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gexec.gexecd import rereading
from gexec.security.policy import Policy
from gexec.spawner.handover import policy_fields, policy_from


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "auth_pub.pem"
    public = Ed25519PrivateKey.generate().public_key()
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def test_keys_and_the_policy_of_the_file_are_written(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "gexecd.toml"
    config.write_text('[policy]\nuid_min = 1000\nallow_groups = ["dev"]\n')
    wanted = {"public_keys": [str(key)], "config": str(config), "policy": policy_fields(Policy())}
    assert rereading.main([json.dumps(wanted)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["public_keys"] == key.read_text()
    policy = policy_from(told["policy"])
    assert (policy.uid_min, policy.allow_groups) == (1000, frozenset({"dev"}))


def test_without_a_file_the_policy_stays(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = policy_fields(Policy(uid_min=7))
    assert rereading.main([json.dumps({"public_keys": [str(key)], "config": None, "policy": policy})]) == 0
    assert json.loads(capsys.readouterr().out)["policy"] == policy


def test_a_reading_that_hangs_is_ended_by_its_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(signum: int, frame: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(rereading, "_WITHIN_S", 1)
    monkeypatch.setattr(rereading, "read_verify_keys", lambda paths: signal.pause())
    before = signal.signal(signal.SIGALRM, ended)
    try:
        with pytest.raises(TimeoutError):
            rereading.main([json.dumps({"public_keys": [], "config": None, "policy": {}})])
    finally:
        signal.signal(signal.SIGALRM, before)
