"""Who the peer of a link is, by its certificate, and whether it is trusted.

In hardened mode a node's own key has signed the peer's certificate, so its issuer is that node, with its
role and its authority; in simple mode the issuer is the authority (``security.nodecert``). OpenSSL has
verified the chain, so nothing of this is the peer's own claim.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gexec.relay import tls
from gexec.security.names import certified, is_everybodys, normal, shown
from gexec.security.signers import AUTHORITY_PREFIX, ROLE_OID, Trust


class Peer:
    """What a peer's certificate says; of a client, which has none, nothing.

    Attributes:
        names: (kind, value) of its alternative names.
        node: the node's name in the inventory, in lower case; "" in simple mode.
        role: ``head``, ``node`` or "".
        authority_id: the key id of the authority, in hexadecimal digits.
        identity: one name of the node, for sentences and for counting: the same in all its certificates.
    """

    __slots__ = ("_certified", "authority_id", "identity", "names", "node", "role")

    def __init__(self, certificate: Mapping[str, Any] | None = None) -> None:
        found = certificate or {}
        self.names = [(str(kind), str(value)) for kind, value in found.get("subjectAltName") or ()]
        self._certified = certified(self.names)
        issuer = {str(key): str(value) for parts in found.get("issuer") or () for key, value in parts}
        common = issuer.get("commonName", "")
        self.role = issuer.get(ROLE_OID, "")
        self.node = common.lower() if self.role else ""
        self.authority_id = (
            issuer.get("organizationalUnitName", "") if self.role else common.removeprefix(AUTHORITY_PREFIX)
        )
        values = [value for _, value in self.names]
        own = [self.node] if self.node else [value for value in values if not is_everybodys(value)]
        self.identity = shown((own or values or ["a node without a name"])[0].lower())

    def holds(self, name: str) -> bool:
        """Tell whether the certificate holds a name or address."""
        return normal(name) in self._certified

    def refusal(self, wanted: str, address: str) -> str:
        """Return why the daemon at this address is not the wanted one ("" = any), "" if it is."""
        return tls.refusal(self.names, wanted, address) if wanted else ""


class Standing:
    """Whom this relay trusts now, for what.

    Args:
        authority_ids: the key ids of the authorities whose certificates are accepted.
    """

    def __init__(self, trust: Trust, authority_ids: Iterable[str]) -> None:
        self.trust = trust
        self.authority_ids = frozenset(authority_ids)

    def link_refusal(self, peer: Peer) -> str:
        """Return why there is to be no link with a peer, "" if there may be."""
        if peer.node and peer.node in self.trust.revoked:
            return f"its certificate was refused: the node {shown(peer.node)} is revoked"
        for revoked in self.trust.revoked:
            if peer.holds(revoked):
                return f"its certificate was refused: the node {shown(revoked)} is revoked"
        return ""

    def start_refusal(self, peer: Peer, host: str) -> str:
        """Return why a peer on an existing link may bring no ranks of a job, "" if it may.

        Args:
            host: the submitting host: if the peer is that host, it must be a head.
        """
        if peer.authority_id not in self.authority_ids:
            return "the authority of its certificate is not accepted any more: it must connect again"
        if peer.holds(host) and not self.trust.may_bring(peer.role, peer.authority_id):
            return f"{shown(host)} is no head, so it takes no jobs of users: submit them on a head"
        return ""
