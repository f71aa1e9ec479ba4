"""A local cluster in hardened mode: its first node is the head; the others have only keys of their own.

DIR/ca/                 the authority's directory (cluster.authority)
DIR/nodes/NODE/         what /etc/gexec would be on that node (cluster.nodekeys)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gexec.cluster import nodekeys
from gexec.cluster.authority import AuthorityDir
from gexec.cluster.inventory import InventoryEntry
from gexec.cluster.layout import Layout, LocalNode
from gexec.errors import KeyFileError
from gexec.settings.config import AuthdSettings, GexecdSettings
from gexec.settings.keyfiles import read_verify_keys
from gexec.settings.signers import SignerEntry


def authority_of(place: Layout) -> AuthorityDir:
    """Return the authority's directory of a local cluster."""
    return AuthorityDir(place.dir / "ca")


def node_dir(place: Layout, name: str) -> Path:
    """Return the directory of a node's keys."""
    return place.dir / "nodes" / name


def prepare(place: Layout, nodes: Sequence[LocalNode], realm: str) -> None:
    """Make what is missing: the authority, the nodes' keys, the head's signer; certify all nodes.

    Raises:
        GexecError: a file cannot be written or used.
    """
    authority = authority_of(place)
    if not authority.certificates.exists():
        authority.init(realm)
    head = nodes[0].name
    entries = {node.name: InventoryEntry(node.name, (node.address,), node.name == head) for node in nodes}
    authority.write_inventory(entries.values())
    for name in entries:
        directory = node_dir(place, name)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise KeyFileError(f"{directory}: cannot be created ({error.strerror})") from error
        request, _ = nodekeys.request_certificate(directory)
        authority.sign_with(entries[name], request.read_bytes())
    if not (node_dir(place, head) / "signer_pub.pem").exists():
        public, _ = nodekeys.request_signer(node_dir(place, head))
        # The cluster's users are those of this machine: root may try it, too.
        keys = tuple(read_verify_keys([str(public)]).values())
        authority.put_signer(SignerEntry(head, keys, hosts=(head,), root=True))


def gexecd_settings(base: GexecdSettings, place: Layout, name: str, is_head: bool) -> GexecdSettings:
    """Return the settings of a node's gexecd."""
    authority = authority_of(place)
    return replace(
        base,
        public_keys=(),
        signers=str(authority.signers),
        authorities=(str(authority.certificates),),
        node_key=str(node_dir(place, name) / "node_key.pem"),
        node_certificate=str(authority.certificate(name)),
        submissions=is_head,
    )


def authd_settings(base: AuthdSettings, place: Layout, head: str) -> AuthdSettings:
    """Return the settings of the head's authd."""
    key = node_dir(place, head) / "signer_key.pem"
    return replace(base, private_key=str(key), public_keys=(), signers=str(authority_of(place).signers))
