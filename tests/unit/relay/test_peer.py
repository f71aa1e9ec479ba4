"""Who a peer is by its certificate, and what that permits."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gexec.relay.peer import Peer, Standing
from gexec.security.keys import VerifyKey
from gexec.security.signers import ROLE_OID, Signer, Trust

KEY = VerifyKey(Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key())
ID = KEY.key_id.hex()
CA = "0123456789abcdef"


def certificate(role: str = "", node: str = "node1", authority: str = CA, **names: str) -> dict[str, Any]:
    """Return a certificate as ``getpeercert`` does."""
    issuer = [("organizationName", "gexec cluster x")]
    if role:
        issuer += [("organizationalUnitName", authority), (ROLE_OID, role), ("commonName", node)]
    else:
        issuer.append(("commonName", f"gexec key {authority}"))
    alternatives = [("DNS", node), *((kind.replace("_", " "), value) for kind, value in names.items())]
    return {"issuer": tuple([(each,) for each in issuer]), "subjectAltName": tuple(alternatives)}


def test_a_node_of_hardened_mode() -> None:
    peer = Peer(certificate("head", "Node1", IP_Address="10.0.0.1"))
    assert (peer.node, peer.role, peer.authority_id) == ("node1", "head", CA)
    assert peer.holds("node1")
    assert peer.holds("10.0.0.1")
    assert not peer.holds("node2")


def test_a_node_of_simple_mode() -> None:
    peer = Peer(certificate(authority=ID))
    assert (peer.node, peer.role, peer.authority_id) == ("", "", ID)


def test_a_client_is_nobody() -> None:
    for nobody in (Peer(), Peer({})):
        assert (nobody.node, nobody.role, nobody.authority_id, nobody.names) == ("", "", "", [])
        assert not nobody.holds("")


@pytest.mark.parametrize(
    ("revoked", "found"),
    [
        (certificate("node", "node7"), True),
        (certificate("head", "NODE7"), True),
        (certificate("node", "node7") | {"subjectAltName": (("IP Address", "10.0.0.7"),)}, True),
        (certificate("node", "node8", DNS="node7"), True),
        (certificate("", "node7"), True),
        (certificate("node", "node8"), False),
        (certificate("node", "node7.site.org"), False),
    ],
)
def test_attack_121_a_revoked_node(revoked: dict[str, Any], found: bool) -> None:
    """A node cannot hide behind a leaf without its name: the issuer of the leaf is the node."""
    standing = Standing(Trust({}, frozenset({"node7"})), [CA])
    refusal = standing.link_refusal(Peer(revoked))
    assert bool(refusal) == found
    assert not found or refusal == "its certificate was refused: the node node7 is revoked"


def test_attack_119_only_a_head_may_be_the_submitting_host() -> None:
    standing = Standing(Trust({KEY.key_id: Signer(KEY)}), [CA, ID])
    assert standing.start_refusal(Peer(certificate("head")), "node1") == ""
    assert "node1 is no head" in standing.start_refusal(Peer(certificate("node")), "node1")
    # An ancestor that is not the submitting host.
    assert standing.start_refusal(Peer(certificate("node")), "head1") == ""
    # Simple mode: its authority's key may sign everything.
    assert standing.start_refusal(Peer(certificate("", authority=ID)), "node1") == ""
    assert "is no head" in standing.start_refusal(Peer(certificate("", authority=CA)), "node1")


def test_a_link_of_an_authority_that_was_dropped_brings_no_ranks() -> None:
    standing = Standing(Trust({KEY.key_id: Signer(KEY)}), [CA])
    for peer in (Peer(certificate("head", authority=ID)), Peer(certificate("", authority=ID)), Peer()):
        assert "not accepted any more" in standing.start_refusal(peer, "node1")
