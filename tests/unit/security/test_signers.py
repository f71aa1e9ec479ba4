"""What a signer may sign for, and that it gets to the spawner and the relay as it is."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gexec.errors import CredentialError
from gexec.security.credential import verify
from gexec.security.signers import Signer, Trust
from gexec.security.signing import SigningKey, issue

NOW_S = 1_700_000_000.0
KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(32)))
OTHER = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))
LIMITED: dict[str, Any] = {
    "name": "head1",
    "hosts": frozenset({"head1", "10.0.0.1"}),
    "uids": ((1000, 1999), (5000, 5000)),
    "groups": frozenset({"users", "staff"}),
    "root": False,
    "expires_s": NOW_S + 3600,
}


def head(**changes: Any) -> Signer:
    return Signer(KEY.public, **LIMITED | changes)


def check(signer: Signer, runs_here: bool = True, now_s: float = NOW_S, **changes: Any) -> None:
    fields: dict[str, Any] = {"host": "head1", "uid": 1000, "user": "alice"} | changes
    raw = issue(
        KEY,
        realm="gexec",
        audience="gexec",
        gid=100,
        now_s=now_s,
        ttl_s=60.0,
        job_id=bytes(16),
        digest=sha256(b"").digest(),
        **fields,
    )
    verify(
        raw, {signer.key.key_id: signer}, realm="gexec", audience="gexec", now_s=now_s, runs_here=runs_here
    )


@pytest.mark.parametrize(
    "changes", [{}, {"uid": 1999}, {"uid": 5000}, {"host": "HEAD1"}, {"host": "10.0.0.1"}]
)
def test_a_signer_within_its_limits(changes: dict[str, Any]) -> None:
    check(head(), **changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"uid": 0, "user": "root"}, "head1 may not sign for root"),
        ({"uid": 999}, r"may not sign for alice \(uid 999\)"),
        ({"uid": 2000}, "outside of its uids"),
        ({"host": "node001"}, "head1 may sign for 10.0.0.1, head1, but not on the host node001"),
        ({"host": "head1.evil.org"}, "but not on the host"),
        ({"now_s": NOW_S + 3600}, "head1 expired 0 s ago"),
    ],
)
def test_attack_120_a_signer_beyond_its_limits(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(CredentialError, match=text) as told:
        check(head(), **changes)
    assert told.value.code == "signer"


def test_attack_120_a_signer_on_a_node_that_is_none_of_its_targets() -> None:
    with pytest.raises(CredentialError, match="none of the targets of the signer head1"):
        check(head(here=False))
    check(head(here=False), runs_here=False)  # the head, from which the job goes to its targets


def test_uids_of_a_signer_never_hold_root_by_themselves() -> None:
    with pytest.raises(CredentialError, match="root = false"):
        check(head(uids=((0, 1999),)), uid=0, user="root")
    check(head(root=True), uid=0, user="root")


def test_groups_of_a_signer() -> None:
    assert head().groups_refusal("alice", 1000, ["alice", "staff"]) == ""
    refusal = head().groups_refusal("alice", 1000, ["alice"])
    assert refusal == "alice is in none of the groups of the signer head1 (staff, users)"
    assert head().groups_refusal("root", 0, ["root"]) == ""
    assert head(groups=frozenset()).groups_refusal("alice", 1000, []) == ""


def test_the_key_of_simple_mode_has_no_limits() -> None:
    (signer,) = Trust.unlimited([KEY.public]).signers.values()
    assert not signer.is_limited
    for uid, host in ((0, "anything"), (2**32 - 2, "10.0.0.1")):
        assert signer.refusal(host=host, uid=uid, user="x", now_s=NOW_S, runs_here=True) == ""
    assert signer.groups_refusal("x", 5, ()) == ""


def test_attack_123_the_key_of_a_signer_that_was_removed() -> None:
    with pytest.raises(CredentialError, match="which this node does not accept") as told:
        check(Signer(OTHER.public))
    assert told.value.code == "key"


def test_trust_is_passed_on_as_it_is() -> None:
    trust = Trust({KEY.key_id: head(here=False), OTHER.key_id: Signer(OTHER.public)}, frozenset({"node7"}))
    again = Trust.decode(trust.encode())
    assert again.revoked == trust.revoked
    assert list(again.signers) == list(trust.signers)
    for key_id, signer in trust.signers.items():
        found = again.signers[key_id]
        for name in ("name", "hosts", "uids", "groups", "root", "here", "expires_s"):
            assert getattr(found, name) == getattr(signer, name)
        assert found.key.der == signer.key.der


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"signers": [{}]}'])
def test_trust_that_is_none(text: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Trust.decode(text)


def test_who_may_bring_jobs() -> None:
    trust = Trust({KEY.key_id: head(), OTHER.key_id: Signer(OTHER.public)})
    assert trust.may_bring("head", "any")
    assert not trust.may_bring("node", OTHER.key_id.hex())
    assert not trust.may_bring("other", OTHER.key_id.hex())
    # Simple mode: the authority is of a key that may sign everything anyway.
    assert trust.may_bring("", OTHER.key_id.hex())
    assert not trust.may_bring("", KEY.key_id.hex())
    assert not trust.may_bring("", "")
