"""The administrator's directory of hardened mode: the authority's key, the inventory, certificates, signers.

ca_key.pem                the authority's key; it never leaves this host
ca.pem                    the authority's certificate, for all nodes; two of them while the key is changed
inventory.toml            the names of all nodes, and which of them are heads
nodes/NODE.req, NODE.pem  the request and the certificate of each node
signers.toml              who may sign jobs, for all nodes (settings.signers)
"""

from __future__ import annotations

import json
import os
import ssl
import time
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gexec import limits
from gexec.cluster.nodekeys import new_key, write_key
from gexec.errors import AuthError, ConfigError, KeyFileError, UsageError
from gexec.posix.trusted import read_trusted
from gexec.security.certificate import authority
from gexec.security.keys import VerifyKey
from gexec.security.nodecert import node_certificate, requested
from gexec.security.signing import SigningKey
from gexec.settings.keyfiles import read_authorities, read_signing_key
from gexec.settings.signers import SignerEntry, SignersFile, read_signers

AUTHORITY_DIR = "/etc/gexec/ca"
#: Validity of a node's certificate.
NODE_DAYS = 5 * 365
#: The longest validity that can be asked for.
DAYS_MAX = 100 * 365
#: Names the authority instead of a signer in `rotate`.
CA = "ca"
_INVENTORY = """\
# The nodes of the cluster: their names and addresses as others dial them, and which are heads.
# [node.node001]
# names = ["node001.example.org", "10.0.0.1"]
# head = false
"""


@dataclass(frozen=True, slots=True)
class InventoryEntry:
    """One node of inventory.toml: its other names and addresses, and whether users submit jobs there."""

    name: str
    names: tuple[str, ...] = ()
    head: bool = False


@dataclass(frozen=True, slots=True)
class AuthorityDir:
    """The directory; every method raises KeyFileError or ConfigError for a file that cannot be used."""

    dir: Path

    @property
    def key(self) -> Path:
        """The authority's private key."""
        return self.dir / "ca_key.pem"

    @property
    def certificates(self) -> Path:
        """What every node gets as ca.pem."""
        return self.dir / "ca.pem"

    @property
    def signers(self) -> Path:
        """What every node gets as signers.toml."""
        return self.dir / "signers.toml"

    @property
    def inventory(self) -> Path:
        """The nodes."""
        return self.dir / "inventory.toml"

    def request(self, name: str) -> Path:
        """Return the path of a node's request."""
        return self.dir / "nodes" / f"{name}.req"

    def certificate(self, name: str) -> Path:
        """Return the path of a node's certificate."""
        return self.dir / "nodes" / f"{name}.pem"

    def init(self, realm: str) -> None:
        """Create the directory, the authority, and an empty inventory and list of signers."""
        if self.key.exists():
            raise KeyFileError(
                f"{self.key}: already exists; `gexecctl keys rotate add ca` makes its successor"
            )
        try:
            (self.dir / "nodes").mkdir(parents=True, exist_ok=True)
            self.dir.chmod(0o700)
        except OSError as error:
            raise KeyFileError(f"{self.dir}: cannot be created ({error.strerror})") from error
        pem = new_key()
        write_key(self.key, pem, 0o600)
        self._write_certificates([authority(SigningKey.load(pem), realm)])
        write_key(self.dir / "realm", realm.encode() + b"\n", 0o644)
        if not self.inventory.exists():
            write_key(self.inventory, _INVENTORY.encode(), 0o644)
        if not self.signers.exists():
            self.write_signers(SignersFile())

    # -- nodes --------------------------------------------------------------------------------

    def nodes(self) -> dict[str, InventoryEntry]:
        """Return the inventory by the nodes' names."""
        raw = self._read(self.inventory, "inventory")
        try:
            tables = tomllib.loads(raw.decode()).get("node", {})
            return {name: _entry(name, table) for name, table in tables.items()}
        except (ValueError, AttributeError, RecursionError) as cause:
            raise ConfigError(f"{self.inventory}: is not as gexecctl wrote it: {cause}") from cause

    def add(self, entry: InventoryEntry) -> None:
        """Put a node into the inventory; UsageError if it is there with other names or another role."""
        known = self.nodes().get(entry.name)
        if known is not None:
            if known != entry:
                raise UsageError(
                    f"{entry.name} is in {self.inventory} with other names: edit the file, or give no names"
                )
            return
        write_key(self.inventory, self._read(self.inventory, "inventory") + _text(entry).encode(), 0o644)

    def write_inventory(self, entries: Iterable[InventoryEntry]) -> None:
        """Replace the inventory."""
        write_key(self.inventory, (_INVENTORY + "".join(map(_text, entries))).encode(), 0o644)

    def sign(
        self,
        name: str,
        request: bytes,
        days: int = NODE_DAYS,
        nodes: Mapping[str, InventoryEntry] | None = None,
    ) -> VerifyKey:
        """Certify a node's key with the names that the inventory has; return the key.

        Args:
            nodes: the inventory, if it was read.

        Raises:
            AuthError: the request or a name is not acceptable.
            UsageError: the inventory has no such node.
        """
        entry = (self.nodes() if nodes is None else nodes).get(name)
        if entry is None:
            raise UsageError(f"{name} is not in {self.inventory}: `gexecctl keys issue {name} ...` adds it")
        if not 1 <= days <= DAYS_MAX:
            raise UsageError(f"{days} days: expected 1 to {DAYS_MAX}")
        try:
            public = requested(request)
        except AuthError as cause:
            raise AuthError(f"the request of {name} {cause}") from cause
        der = node_certificate(
            read_signing_key(str(self.key)),
            realm=self.realm(),
            public=public,
            name=entry.name,
            names=entry.names,
            is_head=entry.head,
            now_s=time.time(),
            ttl_s=days * 86_400.0,
            serial=int.from_bytes(os.urandom(16)) | 1,
        )
        write_key(self.request(name), request, 0o644)
        write_key(self.certificate(name), _pem(der), 0o644)
        return public

    def sign_again(self, days: int = NODE_DAYS) -> list[str]:
        """Certify the keys of all stored requests again; return the nodes' names."""
        names = sorted(path.stem for path in (self.dir / "nodes").glob("*.req"))
        nodes = self.nodes()
        for name in names:
            self.sign(name, self._read(self.request(name), "request"), days, nodes)
        return names

    # -- signers ------------------------------------------------------------------------------

    def write_signers(self, file: SignersFile) -> None:
        """Write signers.toml, if its content makes sense."""
        file.trust(())
        write_key(self.signers, file.text().encode(), 0o644)

    def put_signer(self, entry: SignerEntry) -> None:
        """Add a signer, or change its limits."""
        if entry.name == CA:
            raise UsageError(f"a signer cannot be named {CA}, which names the authority")
        file = read_signers(str(self.signers))
        kept = [each for each in file.signers if each.name != entry.name]
        self.write_signers(replace(file, signers=(*kept, entry)))

    def revoke(self, name: str, signer_only: bool = False) -> list[str]:
        """Remove the signer with this name, and revoke the node; return what was done."""
        file = read_signers(str(self.signers))
        told = []
        if file.entry(name) is not None:
            kept = tuple([each for each in file.signers if each.name != name])
            file = replace(file, signers=kept)
            told.append(f"the signer {name} was removed")
        if name in self.nodes() and not signer_only:
            if name not in file.revoked:
                file = replace(file, revoked=(*file.revoked, name))
            told.append(f"the node {name} is revoked")
        if not told:
            raise UsageError(f"{name}: neither a signer nor a node of {self.inventory}")
        self.write_signers(file)
        return told

    # -- rotation -----------------------------------------------------------------------------

    def rotate_add(self, what: str, public: VerifyKey | None) -> None:
        """Accept a successor of the authority's key, or of a signer's key, beside the present one."""
        if what == CA:
            new = self.dir / "ca_new_key.pem"
            if new.exists():
                raise UsageError(f"{new}: already exists; `gexecctl keys rotate switch ca` comes next")
            pem = new_key()
            write_key(new, pem, 0o600)
            added = authority(SigningKey.load(pem), self.realm())
            self._write_certificates([*read_authorities([str(self.certificates)]), added])
            return
        if public is None:
            raise UsageError(f"give --public FILE, the new key of the signer {what}")
        entry = self._signer(what)
        if public.key_id not in [key.key_id for key in entry.keys]:
            self.put_signer(replace(entry, keys=(*entry.keys, public)))

    def rotate_switch_ca(self) -> list[str]:
        """Sign with the authority's new key: all nodes' certificates again; return the nodes' names."""
        new = self.dir / "ca_new_key.pem"
        if not new.exists():
            raise UsageError(f"{new}: no such file: `gexecctl keys rotate add ca` comes first")
        os.replace(new, self.key)
        return self.sign_again()

    def rotate_drop(self, what: str) -> None:
        """Accept only the present key of the authority, or only the newest key of a signer."""
        if what == CA:
            if (self.dir / "ca_new_key.pem").exists():
                raise UsageError("the new key is not in force: `gexecctl keys rotate switch ca` comes first")
            self._write_certificates([authority(read_signing_key(str(self.key)), self.realm())])
            return
        entry = self._signer(what)
        self.put_signer(replace(entry, keys=entry.keys[-1:]))

    def realm(self) -> str:
        """Return the cluster's name."""
        return self._read(self.dir / "realm", "realm").decode().strip()

    def _signer(self, name: str) -> SignerEntry:
        entry = read_signers(str(self.signers)).entry(name)
        if entry is None:
            raise UsageError(f"{name}: no signer of {self.signers}")
        return entry

    def _write_certificates(self, ders: Sequence[bytes]) -> None:
        write_key(self.certificates, b"".join(map(_pem, ders)), 0o644)

    def _read(self, path: Path, what: str) -> bytes:
        return read_trusted(
            str(path),
            what=what,
            max_bytes=limits.CONFIG_MAX_BYTES,
            private=False,
            error=ConfigError,
            missing="`gexecctl keys init --hardened` makes this directory",
        )


def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


def _text(entry: InventoryEntry) -> str:
    names = ", ".join([json.dumps(name) for name in entry.names])
    return f"\n[node.{json.dumps(entry.name)}]\nnames = [{names}]\nhead = {json.dumps(entry.head)}\n"


def _entry(name: str, table: dict[str, object]) -> InventoryEntry:
    names, head = table.get("names", []), table.get("head", False)
    if table.keys() - {"names", "head"}:
        raise ValueError(f"node.{name}: expected names and head")
    if not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
        raise ValueError(f"node.{name}: names: expected an array of texts")
    if not isinstance(head, bool):
        raise ValueError(f"node.{name}: head: expected true or false")
    return InventoryEntry(name, tuple(names), head)
