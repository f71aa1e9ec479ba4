"""What the daemons keep of jobs is bounded by bytes, by number and by time."""

from __future__ import annotations

import time
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gexec.relay.admission import CredentialVerifier
from gexec.security.policy import Account, Policy
from gexec.security.signers import Trust
from gexec.security.signing import SigningKey, issue
from gexec.settings.config import GexecdSettings
from gexec.spawner.admission import Admission
from gexec.wire.jobspec import JobSpec

KEY = SigningKey.load(
    Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
)
KEYS = Trust.unlimited([KEY.public]).signers
UID = 4242
ACCOUNT = Account(name="somebody", uid=UID, gid=UID, gids=(UID,), shell="/bin/sh")


def large_job(number: int) -> tuple[bytes, bytes]:
    """Return the credential and the blob of a job of two megabytes."""
    blob = JobSpec(
        names=[b"node1", *[b"n%04d" % rank + b"x" * 240 for rank in range(5000)]],
        addresses=[b"127.0.0.1:1"] * 5001,
        program=b"/bin/true",
        argv=[b"true"],
        env=[b"V%d=" % part + bytes([97 + number]) * 100_000 for part in range(9)],
        salt=number,
    ).encode()
    raw = issue(
        KEY,
        realm="gexec",
        audience="gexec",
        host="node1",
        uid=UID,
        gid=UID,
        user="somebody",
        now_s=time.time(),
        ttl_s=60,
        job_id=bytes([number]) * 16,
        digest=sha256(blob).digest(),
    )
    return raw, blob


def test_entry_keeps_few_bytes_of_jobs_that_do_not_live_here() -> None:
    entry = CredentialVerifier(GexecdSettings(realm="gexec"), KEYS)
    for number in range(12):
        entry.check(*large_job(number))
    assert sum(len(known.blob) for known in entry._known.values()) <= 8 * 1024 * 1024
    entry.forget_known()
    assert not entry._known


def test_entry_keeps_nothing_of_a_job_that_has_ended_and_one_copy_of_one_that_lives() -> None:
    entry = CredentialVerifier(GexecdSettings(realm="gexec"), KEYS)
    raw, blob = large_job(1)
    entry.check(raw, blob)
    entry.keep(raw)
    entry.keep(raw)
    again = bytes(bytearray(blob))
    assert entry.shared(raw, again) is blob
    assert entry.shared(raw, again + b"x") == again + b"x"
    entry.release(raw)
    assert entry._live
    entry.release(raw)
    assert not entry._live
    assert not entry._known


def test_admission_keeps_few_bytes_and_only_for_a_while() -> None:
    admission = Admission(
        signers=KEYS,
        realm="gexec",
        names=("node1",),
        policy=Policy(allow_nologin=True),
        started_s=0.0,
        account_of=lambda uid: ACCOUNT,
        own_uid=UID,
    )
    jobs = [large_job(number) for number in range(8)]
    now_s = time.time()
    for raw, blob in jobs:
        admission.admit(raw, blob, 0, now_s=now_s, jobs_of=lambda uid, but: 0)
    assert 0 < sum(len(known.blob) for known in admission._known.values()) <= 8 * 1024 * 1024
    admission.expire(now_s)
    assert admission._known
    admission.expire(now_s + 5.1)
    assert not admission._known
    assert admission._known_bytes == 0
