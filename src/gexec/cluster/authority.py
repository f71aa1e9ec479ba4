"""The administrator's directory of hardened mode: the authority's key, the inventory, certificates, signers.

ca_key.pem                the authority's key; it never leaves this host
ca.pem                    the authority's certificate, for all nodes; two of them while the key is changed
inventory.toml            the names of all nodes, and which of them are heads
nodes/NODE.req, NODE.pem  the request and the certificate of each node
signers.toml              who may sign jobs, for all nodes (settings.signers)
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import ssl
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gexec import limits
from gexec.cluster import inventory
from gexec.cluster.inventory import InventoryEntry
from gexec.cluster.nodekeys import new_key, write_key, write_keys
from gexec.errors import AuthError, ConfigError, KeyFileError, UsageError
from gexec.posix.trusted import check_written, read_trusted
from gexec.security.certificate import authority
from gexec.security.keys import VerifyKey
from gexec.security.nodecert import node_certificate, requested
from gexec.settings.config import check_realm
from gexec.settings.keyfiles import read_authorities, read_signing_key
from gexec.settings.signers import SignerEntry, SignersFile, read_signers

AUTHORITY_DIR = "/etc/gexec/ca"
#: Validity of a node's certificate.
NODE_DAYS = 5 * 365
#: The longest validity that can be asked for.
DAYS_MAX = 100 * 365
#: Names the authority instead of a signer in `rotate`.
CA = "ca"
_MADE = "`gexecctl keys init --hardened` makes this directory"


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

    @property
    def new_key(self) -> Path:
        """The successor of the authority's key, from ``rotate add ca`` to ``rotate switch ca``."""
        return self.dir / "ca_new_key.pem"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other gexecctls from changing the directory at the same time; wait until they have done so."""
        try:
            descriptor = os.open(self.dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise KeyFileError(f"{self.dir}: {error.strerror}: {_MADE}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def init(self, realm: str) -> None:
        """Create the directory, the authority, and an empty inventory and list of signers.

        What an earlier call has left unfinished is completed, with its key; ca.pem comes last.
        """
        check_realm(realm)
        check_written(str(self.key), "key", KeyFileError)
        if self.certificates.exists():
            raise KeyFileError(
                f"{self.certificates}: already exists; `gexecctl keys rotate add ca` makes its successor"
            )
        try:
            (self.dir / "nodes").mkdir(parents=True, exist_ok=True)
            self.dir.chmod(0o700)
        except OSError as error:
            raise KeyFileError(f"{self.dir}: cannot be created ({error.strerror})") from error
        with self.locked():
            if not self.key.exists():
                write_key(self.key, new_key(), 0o600)
            write_key(self.dir / "realm", realm.encode() + b"\n", 0o644)
            if not self.inventory.exists():
                self.write_inventory(())
            if not self.signers.exists():
                self.write_signers(SignersFile())
            self._write_certificates([authority(read_signing_key(str(self.key), _MADE), realm)])

    # -- nodes --------------------------------------------------------------------------------

    def nodes(self) -> dict[str, InventoryEntry]:
        """Return the inventory by the nodes' names."""
        try:
            return inventory.entries_of(self._read(self.inventory, "inventory"))
        except ValueError as cause:
            raise ConfigError(f"{self.inventory}: is not as gexecctl wrote it: {cause}") from cause

    def write_inventory(self, entries: Iterable[InventoryEntry]) -> None:
        """Replace the inventory."""
        write_key(self.inventory, inventory.content_of(entries), 0o644)

    def issue(self, entry: InventoryEntry, request: bytes, days: int = NODE_DAYS) -> VerifyKey:
        """Certify a node's key, and put the node into the inventory if it is not there; return the key.

        Raises:
            AuthError: as for ``sign``; nothing was changed.
            UsageError: it is there with other names or another role, or another node has one of its names.
        """
        nodes = self.nodes()
        known = nodes.get(entry.name)
        if known is not None and known != entry:
            raise UsageError(
                f"{entry.name} is in {self.inventory} with other names: edit the file, or give no names"
            )
        self._refuse_revoked(entry.name)
        for name in (entry.name, *entry.names):
            for other in nodes.values():
                if other.name != entry.name and _folded(name) == _folded(other.name):
                    raise UsageError(f"{name} is the name of another node in {self.inventory}")
        key, certificate = self._certified(entry, request, days)
        self._refuse_other_nodes_key(entry.name, key)
        if known is None:
            # Comments of the administrator's are kept.
            content = self._read(self.inventory, "inventory") + inventory.table_of(entry)
            write_key(self.inventory, content, 0o644)
        self._store(entry.name, request, certificate)
        return key

    def sign(self, name: str, request: bytes, days: int = NODE_DAYS) -> VerifyKey:
        """Certify a node's key with the names that the inventory has; return the key.

        Raises:
            AuthError: the request or a name is not acceptable.
            UsageError: the inventory has no such node.
        """
        entry = self.nodes().get(name)
        if entry is None:
            raise UsageError(f"{name} is not in {self.inventory}: `gexecctl keys issue {name} ...` adds it")
        self._refuse_revoked(name)
        key, certificate = self._certified(entry, request, days)
        self._refuse_other_nodes_key(name, key)
        self._store(name, request, certificate)
        return key

    def sign_again(self, days: int = NODE_DAYS) -> list[str]:
        """Certify the keys of all stored requests again; return the nodes' names.

        Nodes that are revoked, or in the inventory no more, get no new certificate.
        """
        nodes, revoked = self.nodes(), set(read_signers(str(self.signers)).revoked)
        stored = {path.stem for path in (self.dir / "nodes").glob("*.req")}
        names = sorted((stored & nodes.keys()) - revoked)
        for name in names:
            self.sign_with(nodes[name], self._read(self.request(name), "request"), days)
        return names

    def sign_with(self, entry: InventoryEntry, request: bytes, days: int = NODE_DAYS) -> None:
        """Certify a key with the names of an inventory that was read, and whose nodes have their own keys."""
        _, certificate = self._certified(entry, request, days)
        self._store(entry.name, request, certificate)

    def _certified(self, entry: InventoryEntry, request: bytes, days: int) -> tuple[VerifyKey, bytes]:
        """Return a node's key, and its certificate in DER."""
        if not 1 <= days <= DAYS_MAX:
            raise UsageError(f"{days} days: expected 1 to {DAYS_MAX}")
        try:
            public = requested(request)
        except AuthError as cause:
            raise AuthError(f"the request of {entry.name} {cause}") from cause
        return public, node_certificate(
            read_signing_key(str(self.key), _MADE),
            realm=self.realm(),
            public=public,
            name=entry.name,
            names=entry.names,
            is_head=entry.head,
            now_s=time.time(),
            ttl_s=days * 86_400.0,
            serial=int.from_bytes(os.urandom(16)) | 1,
        )

    def _refuse_revoked(self, name: str) -> None:
        if name in read_signers(str(self.signers)).revoked:
            raise UsageError(
                f"{name} is revoked: a machine that replaces it needs another name, because nodes refuse "
                "this one"
            )

    def _store(self, name: str, request: bytes, certificate: bytes) -> None:
        write_keys([(self.request(name), request, 0o644), (self.certificate(name), _pem(certificate), 0o644)])

    def _refuse_other_nodes_key(self, name: str, key: VerifyKey) -> None:
        """Refuse a key that another node has, as machines have that were copied from one image."""
        for path in (self.dir / "nodes").glob("*.req"):
            if path.stem == name:
                continue
            try:
                other = requested(self._read(path, "request"))
            except AuthError:
                continue  # it is not certified again either
            if other.key_id == key.key_id:
                raise AuthError(
                    f"the request of {name} holds the key of {path.stem}, and either could be the other: "
                    f"make a key of its own on {name}, with `gexecctl keys request --force`"
                )

    # -- signers ------------------------------------------------------------------------------

    def write_signers(self, file: SignersFile) -> None:
        """Write signers.toml, if its content makes sense."""
        file.trust(())
        write_key(self.signers, file.text().encode(), 0o644)

    def put_signer(self, entry: SignerEntry) -> None:
        """Add a signer, or replace its entry."""
        file = read_signers(str(self.signers))
        kept = [each for each in file.signers if each.name != entry.name]
        self.write_signers(replace(file, signers=(*kept, entry)))

    def set_signer(self, entry: SignerEntry) -> None:
        """Add a signer with one key, or change its limits and keep all its keys.

        Raises:
            ConfigError: its limits are malformed.
            UsageError: it is named ca or has another key, a host of it is no head, or its last day is over.
        """
        if entry.name == CA:
            raise UsageError(f"a signer cannot be named {CA}, which names the authority")
        SignersFile((entry,)).trust(())  # malformed limits
        heads = {
            _folded(name) for node in self.nodes().values() if node.head for name in (node.name, *node.names)
        }
        for host in entry.hosts:
            if _folded(host) not in heads:
                raise UsageError(
                    f"{host} is no head: `gexecctl keys issue {host} REQUEST --head` makes it one"
                )
        if entry.is_over(time.time()):
            raise UsageError(f"--expires={entry.expires}: that day is over; `keys revoke` removes a signer")
        present = read_signers(str(self.signers)).entry(entry.name)
        if present is not None:
            if entry.keys[0].key_id not in [key.key_id for key in present.keys]:
                raise UsageError(
                    f"the signer {entry.name} has another key: `gexecctl keys rotate add {entry.name}` adds "
                    "this one"
                )
            entry = replace(entry, keys=present.keys)
        self.put_signer(entry)

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
            if not self.new_key.exists():
                write_key(self.new_key, new_key(), 0o600)
            added = authority(read_signing_key(str(self.new_key)), self.realm())
            accepted = read_authorities([str(self.certificates)])
            if added in accepted:
                raise UsageError(
                    f"{self.new_key}: already exists; `gexecctl keys rotate switch ca` comes next"
                )
            self._write_certificates([*accepted, added])
            return
        if public is None:
            raise UsageError(f"give --public FILE, the new key of the signer {what}")
        entry = self._signer(what)
        if public.key_id in [key.key_id for key in entry.keys]:
            raise UsageError(f"{self.signers} accepts this key of {what} already")
        self.put_signer(replace(entry, keys=(*entry.keys, public)))

    def rotate_switch_ca(self) -> list[str]:
        """Sign with the authority's new key: all nodes' certificates again; return the nodes' names.

        The next call completes what was interrupted, until the old key is dropped.
        """
        accepted = read_authorities([str(self.certificates)])
        if self.new_key.exists():
            if authority(read_signing_key(str(self.new_key)), self.realm()) not in accepted:
                raise UsageError(
                    f"{self.certificates} does not hold the new key: `gexecctl keys rotate add ca` comes "
                    "first"
                )
            os.replace(self.new_key, self.key)
        elif len(accepted) < 2:
            raise UsageError(f"{self.new_key}: no such file: `gexecctl keys rotate add ca` comes first")
        return self.sign_again()

    def rotate_drop(self, what: str) -> None:
        """Accept only the present key of the authority, or only the newest key of a signer."""
        if what == CA:
            if self.new_key.exists():
                raise UsageError("the new key is not in force: `gexecctl keys rotate switch ca` comes first")
            self._write_certificates([authority(read_signing_key(str(self.key), _MADE), self.realm())])
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
            missing=_MADE,
        )


def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()


def _folded(name: str) -> str:
    return name.lower().removesuffix(".")
