"""What the relay takes for a good job: now, again, and long after its credential has expired."""

from __future__ import annotations

import time
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gexec.errors import CredentialError, ProtocolError
from gexec.relay.admission import CredentialVerifier
from gexec.security.signers import Trust
from gexec.security.signing import SigningKey, issue
from gexec.settings.config import GexecdSettings
from gexec.wire.jobspec import JobSpec
from surroundings import job

KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
OTHER = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))
SKEW_S = 10
TTL_S = 60


def signed(
    number: int = 0, key: SigningKey = KEY, issued_s: float | None = None, **more: str
) -> tuple[bytes, bytes]:
    """Return the credential and the blob of a job."""
    blob = job(env=[b"NUMBER=%d" % number], salt=number).encode()
    raw = issue(
        key,
        realm=more.get("realm", "gexec"),
        audience=more.get("audience", "gexec"),
        host="node1",
        uid=4242,
        gid=4242,
        user="somebody",
        now_s=time.time() if issued_s is None else issued_s,
        ttl_s=TTL_S,
        job_id=bytes([number]) * 16,
        digest=sha256(blob).digest(),
    )
    return raw, blob


def verifier(*keys: SigningKey) -> CredentialVerifier:
    settings = GexecdSettings(realm="gexec", clock_skew_s=SKEW_S)
    return CredentialVerifier(settings, Trust.unlimited(key.public for key in keys or (KEY,)).signers)


def test_a_good_job_is_returned_without_its_environment() -> None:
    raw, blob = signed(5)
    credential, spec = verifier().check(raw, blob)
    assert (credential.uid, credential.job_id) == (4242, bytes([5]) * 16)
    assert spec.env == []
    assert spec.names == JobSpec.decode(blob).names


@pytest.mark.parametrize(
    ("raw", "blob"),
    [
        (signed(key=OTHER)[0], signed()[1]),
        (signed(realm="other")[0], signed()[1]),
        (signed(audience="other")[0], signed()[1]),
        (signed(issued_s=time.time() - TTL_S - SKEW_S - 5)[0], signed()[1]),
        (signed(issued_s=time.time() + SKEW_S + 3600)[0], signed()[1]),
        (signed(1)[0], signed(2)[1]),
        (b"", signed()[1]),
    ],
    ids=[
        "another key",
        "another realm",
        "another audience",
        "expired",
        "of the future",
        "another job",
        "none",
    ],
)
def test_a_job_is_refused(raw: bytes, blob: bytes) -> None:
    with pytest.raises(CredentialError):
        verifier().check(raw, blob)


def test_a_blob_that_is_no_job_is_refused_though_it_is_signed() -> None:
    blob = b"no job"
    raw = issue(
        KEY, realm="gexec", audience="gexec", host="h", uid=1, gid=1, user="u", now_s=time.time(),
        ttl_s=TTL_S, job_id=bytes(16), digest=sha256(blob).digest(),
    )  # fmt: skip
    entry = verifier()
    for _ in range(2):  # nothing of it is remembered
        with pytest.raises(ProtocolError):
            entry.check(raw, blob)


def test_a_known_credential_opens_no_other_job() -> None:
    entry = verifier()
    raw, blob = signed(1)
    entry.check(raw, blob)
    entry.keep(raw)
    with pytest.raises(CredentialError):
        entry.check(raw, signed(2)[1])
    assert entry.check(raw, blob)


def test_new_keys_count_for_all_but_the_jobs_that_live() -> None:
    entry = verifier(KEY)
    living, waiting = signed(1), signed(2)
    for raw, blob in (living, waiting):
        entry.check(raw, blob)
    entry.keep(living[0])
    entry.reload(Trust.unlimited([OTHER.public]).signers)
    assert entry.check(*living)
    with pytest.raises(CredentialError):
        entry.check(*waiting)
    assert entry.check(*signed(3, key=OTHER))
    entry.release(living[0])
    with pytest.raises(CredentialError):
        entry.check(*living)


def test_a_job_lives_until_the_last_of_its_ranks_has_ended() -> None:
    entry = verifier()
    raw, blob = signed()
    entry.check(raw, blob)
    entry.keep(raw)
    entry.keep(raw)
    entry.reload({})
    entry.release(raw)
    assert entry.check(raw, blob)
    entry.release(raw)
    with pytest.raises(CredentialError):
        entry.check(raw, blob)


def test_of_jobs_that_do_not_live_here_the_last_few_are_remembered() -> None:
    entry = verifier()
    jobs = [signed(number) for number in range(20)]
    specs = [entry.check(*one)[1] for one in jobs]
    again = [entry.check(*one)[1] is spec for one, spec in zip(reversed(jobs), reversed(specs), strict=True)]
    assert again == [True] * 16 + [False] * 4


def test_the_credential_of_a_process_that_runs_already_may_have_expired() -> None:
    raw, blob = signed(5, issued_s=time.time() - 10 * TTL_S)
    entry = verifier()
    with pytest.raises(CredentialError):
        entry.check(raw, blob)
    entry.expect(sha256(raw).digest())
    assert entry.check(raw, blob)[0].job_id == bytes([5]) * 16
    with pytest.raises(CredentialError):
        entry.check(raw, signed(6)[1])  # another job
    other, other_blob = signed(6, issued_s=time.time() - 10 * TTL_S)
    with pytest.raises(CredentialError):
        entry.check(other, other_blob)
    entry.forget_known()
    entry.expect(None)
    with pytest.raises(CredentialError):
        entry.check(raw, blob)
