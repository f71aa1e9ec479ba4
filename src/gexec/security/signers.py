"""The signers of a node: the keys whose credentials it accepts, and what each of them may sign for.

In simple mode the signers are the cluster's public keys, without limits. In hardened mode each head has its
own key, and signers.toml its limits. Pure. Source: docs/decisions/0027-hardened-mode.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self

from gexec.security.keys import VerifyKey

UID_MAX: Final = 2**32 - 1
#: The attribute of the subject of a node's certificate that holds the role (ITU-T X.667: an OID of a UUID).
ROLE_OID: Final = "2.25.207693921763049541436131872963247051281.1"
#: Its values.
HEAD: Final = "head"
NODE: Final = "node"
#: The common name of an authority is this and the id of its key.
AUTHORITY_PREFIX: Final = "gexec key "


@dataclass(frozen=True, slots=True)
class Signer:
    """A key, and what credentials it may sign. The defaults are a signer without limits.

    Attributes:
        key: verifies its signatures.
        name: for error texts; "" in simple mode.
        hosts: the hosts whose authd may use it (in lower case); empty = all.
        uids: the users, as ranges (first, last); root only if ``root`` is set too.
        groups: a user must be in one of them on the node that runs the job; empty = no such limit.
        root: it may sign for root.
        here: this node is one of its targets.
        expires_s: UNIX time after which it is not accepted; None = never.
    """

    key: VerifyKey
    name: str = ""
    hosts: frozenset[str] = frozenset()
    uids: tuple[tuple[int, int], ...] = ((0, UID_MAX),)
    groups: frozenset[str] = frozenset()
    root: bool = True
    here: bool = True
    expires_s: float | None = None

    @property
    def is_limited(self) -> bool:
        """False for a cluster's key in simple mode; signers of signers.toml always name their hosts."""
        return bool(self.hosts)

    def refusal(self, *, host: str, uid: int, user: str, now_s: float, runs_here: bool) -> str:
        """Return why a credential with this content is not this signer's to sign, "" if it is.

        Args:
            runs_here: the job is to run on this node, so the node must be one of the signer's targets.
        """
        if self.expires_s is not None and now_s >= self.expires_s:
            return f"the signer {self.name} expired {now_s - self.expires_s:.0f} s ago: renew it"
        if self.hosts and host.lower() not in self.hosts:
            return f"the signer {self.name} may sign for {_shown(self.hosts)}, but not on the host {host}"
        if uid == 0 and not self.root:
            return f"the signer {self.name} may not sign for root (it has root = false)"
        if uid != 0 and not any(first <= uid <= last for first, last in self.uids):
            return f"the signer {self.name} may not sign for {user} (uid {uid}): it is outside of its uids"
        if runs_here and not self.here:
            return f"this node is none of the targets of the signer {self.name}"
        return ""

    def groups_refusal(self, user: str, uid: int, groups: Iterable[str]) -> str:
        """Return why a user with these groups on this node is refused, "" if not; root needs no group."""
        if self.groups and uid != 0 and self.groups.isdisjoint(groups):
            return f"{user} is in none of the groups of the signer {self.name} ({_shown(self.groups)})"
        return ""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a node trusts: the signers of credentials by key id, and the nodes that are trusted no more."""

    signers: dict[bytes, Signer] = field(default_factory=dict)
    revoked: frozenset[str] = frozenset()

    @classmethod
    def unlimited(cls, keys: Iterable[VerifyKey]) -> Self:
        """Return the trust of simple mode: these keys may sign everything."""
        return cls({key.key_id: Signer(key) for key in keys})

    def may_bring(self, role: str, authority_id: str) -> bool:
        """Tell whether a daemon may bring jobs of users to this node.

        Args:
            role: of its certificate; "" if an authority certified it directly, as in simple mode.
            authority_id: the key id of that authority, in hexadecimal digits.

        Returns:
            True for the role ``head``. Without a role: only if the authority's key may sign any credential
            too, because its holder needs no certificate then.
        """
        if role:
            return role == HEAD
        return any(
            not signer.is_limited and key_id.hex() == authority_id for key_id, signer in self.signers.items()
        )

    def encode(self) -> str:
        """Return it as JSON, for the spawner and the relay."""
        return json.dumps(
            {"signers": list(map(_told, self.signers.values())), "revoked": sorted(self.revoked)}
        )

    @classmethod
    def decode(cls, text: str | bytes) -> Self:
        """Return what ``encode`` wrote.

        Raises:
            ValueError, KeyError, TypeError, KeyFileError: it is something else.
        """
        told = json.loads(text if isinstance(text, str) else text.decode())
        signers = [_signer(each) for each in told["signers"]]
        return cls({signer.key.key_id: signer for signer in signers}, frozenset(told["revoked"]))


_SHOWN_MAX: Final = 8


def _told(signer: Signer) -> dict[str, Any]:
    return {
        "key": signer.key.pem.decode(),
        "name": signer.name,
        "hosts": sorted(signer.hosts),
        "uids": signer.uids,
        "groups": sorted(signer.groups),
        "root": signer.root,
        "here": signer.here,
        "expires_s": signer.expires_s,
    }


def _signer(told: dict[str, Any]) -> Signer:
    return Signer(
        key=VerifyKey.load(told["key"].encode()),
        name=told["name"],
        hosts=frozenset(told["hosts"]),
        uids=tuple([(int(first), int(last)) for first, last in told["uids"]]),
        groups=frozenset(told["groups"]),
        root=bool(told["root"]),
        here=bool(told["here"]),
        expires_s=told["expires_s"],
    )


def _shown(names: frozenset[str]) -> str:
    some = sorted(names)
    return ", ".join(some[:_SHOWN_MAX]) + (" ..." if len(some) > _SHOWN_MAX else "")
