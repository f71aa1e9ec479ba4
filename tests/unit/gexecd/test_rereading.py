"""Reading keys and policy again: what it writes, and that it does not wait for ever."""

from __future__ import annotations

import json
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gexec.gexecd import rereading
from gexec.gexecd.enrolment import CertificateSource
from gexec.security.policy import Policy
from gexec.security.signers import Trust
from gexec.settings.config import GexecdSettings
from gexec.spawner.handover import policy_fields, policy_from


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "auth_pub.pem"
    public = Ed25519PrivateKey.generate().public_key()
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def wanted(
    settings: GexecdSettings,
    config: str | None,
    policy: dict[str, Any] | None = None,
    given: Collection[str] = (),
) -> list[str]:
    """Return the program's arguments."""
    policy = policy_fields(Policy()) if policy is None else policy
    argv = rereading.rereading_command(settings, ("node1",), policy, config, given)
    return argv[argv.index("gexec.gexecd.rereading") + 1 :]


def test_the_file_may_name_other_keys_and_another_source_of_certificates(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "gexecd.toml"
    ca, node_key, node_certificate = (str(tmp_path / name) for name in ("ca.pem", "key.pem", "cert.pem"))
    config.write_text(
        f"public_keys = ['{key}']\nauthorities = ['{ca}']\nnode_key = '{node_key}'\n"
        f"node_certificate = '{node_certificate}'\n"
    )
    assert rereading.main(wanted(GexecdSettings(), str(config))) == 0
    told = json.loads(capsys.readouterr().out)
    source = CertificateSource.from_argument(told["renewal"][-1])
    assert (source.names, source.authorities) == (("node1",), (ca,))
    assert (source.node_key, source.node_certificate) == (node_key, node_certificate)


def test_keys_and_the_policy_of_the_file_are_written(
    key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "gexecd.toml"
    config.write_text('[policy]\nuid_min = 1000\nallow_groups = ["dev"]\n')
    settings = GexecdSettings(public_keys=(str(key),))
    assert rereading.main(wanted(settings, str(config), given=["public_keys"])) == 0
    told = json.loads(capsys.readouterr().out)
    (signer,) = Trust.decode(told["trust"]).signers.values()
    assert signer.key.pem == key.read_bytes()
    assert not signer.is_limited
    policy = policy_from(told["policy"])
    assert (policy.uid_min, policy.allow_groups) == (1000, frozenset({"dev"}))


def test_without_a_file_the_policy_stays(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = policy_fields(Policy(uid_min=7))
    assert rereading.main(wanted(GexecdSettings(public_keys=(str(key),)), None, policy)) == 0
    assert json.loads(capsys.readouterr().out)["policy"] == policy


def test_a_reading_that_hangs_is_ended_by_its_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(signum: int, frame: object) -> None:
        raise TimeoutError

    monkeypatch.setattr(rereading, "_WITHIN_S", 1)
    monkeypatch.setattr(rereading, "read_trust", lambda *paths: signal.pause())
    before = signal.signal(signal.SIGALRM, ended)
    try:
        with pytest.raises(TimeoutError):
            rereading.main(wanted(GexecdSettings(), None))
    finally:
        signal.signal(signal.SIGALRM, before)
