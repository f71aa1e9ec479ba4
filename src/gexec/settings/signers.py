"""The file of hardened mode, signers.toml: the signers with their limits, and the names of revoked nodes.

    revoked = ["node017"]

    [signer.head1]
    keys = ["MCowBQYDK2VwAyEA..."]  # SubjectPublicKeyInfo in base64; two while the key is changed
    hosts = ["head1"]               # whose authd may use the keys
    uids = "1000-59999"
    groups = ["users"]              # absent: no such limit
    root = false
    targets = ["node[001-100]"]     # absent: all nodes
    expires = 2027-06-30            # UTC; absent: never

gexecctl writes the file, and administrators may edit it.
"""

from __future__ import annotations

import datetime
import json
import re
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from gexec import limits
from gexec.errors import ConfigError, KeyFileError, UsageError
from gexec.security.keys import VerifyKey
from gexec.security.signers import Signer, Trust
from gexec.select.ranges import expand
from gexec.settings.toml import read_toml

_DAY_S = 86_400
_UID_MAX = 2**32 - 2
_NAMES_MAX = limits.RANKS_MAX
_UTC = datetime.UTC


@dataclass(frozen=True, slots=True)
class SignerEntry:
    """One table [signer.NAME] of signers.toml; as there, ``targets`` may be node sets with ranges."""

    name: str
    keys: tuple[VerifyKey, ...]
    hosts: tuple[str, ...]
    uids: str = f"1-{_UID_MAX}"
    groups: tuple[str, ...] = ()
    root: bool = False
    targets: tuple[str, ...] = ()
    expires: datetime.date | datetime.datetime | None = None

    def signers(self, names: Iterable[str]) -> list[Signer]:
        """Return its signers, one for each key, as they are for the node with these names and addresses.

        Raises:
            ConfigError: uids or targets are malformed.
        """
        limited = Signer(
            key=self.keys[0],
            name=self.name,
            hosts=frozenset([host.lower() for host in self.hosts]),
            uids=_uids(self.name, self.uids),
            groups=frozenset(self.groups),
            root=self.root,
            here=not self.targets or not _folded(names).isdisjoint(self._targets()),
            expires_s=None if self.expires is None else _seconds(self.expires),
        )
        return [replace(limited, key=key) for key in self.keys]

    def is_over(self, now_s: float) -> bool:
        """Tell whether its last day has passed."""
        return self.expires is not None and _seconds(self.expires) <= now_s

    def _targets(self) -> frozenset[str]:
        try:
            return _folded(
                name for text in self.targets for name in expand(_pieces(text), _NAMES_MAX, "targets")
            )
        except UsageError as error:
            raise ConfigError(f"signer.{self.name}: {error.sentence}") from error


@dataclass(frozen=True, slots=True)
class SignersFile:
    """The content of a signers.toml."""

    signers: tuple[SignerEntry, ...] = ()
    revoked: tuple[str, ...] = ()

    def trust(self, names: Iterable[str]) -> Trust:
        """Return what the node with these names and addresses trusts.

        Raises:
            ConfigError: an entry is malformed, or two have the same key.
        """
        own = list(names)
        found = [signer for entry in self.signers for signer in entry.signers(own)]
        by_id = {signer.key.key_id: signer for signer in found}
        if len(by_id) < len(found):
            raise ConfigError("two signers have the same key: each head needs its own")
        return Trust(by_id, _folded(self.revoked))

    def entry(self, name: str) -> SignerEntry | None:
        """Return the entry with this name, None if there is none."""
        return next((entry for entry in self.signers if entry.name == name), None)

    def text(self) -> str:
        """Return the file's text."""
        lines = [
            "# Who may sign jobs, and what. Written by `gexecctl keys`, which drops other comments.",
            f"revoked = {_array(self.revoked)}",
        ]
        for entry in self.signers:
            lines += ["", f"[signer.{_quoted(entry.name)}]"]
            keys = [b64encode(key.der).decode() for key in entry.keys]
            lines += [f"keys = {_array(keys)}", f"hosts = {_array(entry.hosts)}"]
            lines.append(f"uids = {_quoted(entry.uids)}")
            if entry.groups:
                lines.append(f"groups = {_array(entry.groups)}")
            lines.append(f"root = {json.dumps(entry.root)}")
            if entry.targets:
                lines.append(f"targets = {_array(entry.targets)}")
            if entry.expires is not None:
                lines.append(f"expires = {entry.expires.isoformat()}")
        return "\n".join(lines) + "\n"


def read_signers(path: str) -> SignersFile:
    """Return the content of a signers.toml that no other user can have written.

    Raises:
        ConfigError: one sentence that names the file and what is wrong.
    """
    document = read_toml(path, what="signers", missing="copy the administrator's signers.toml there")
    try:
        return signers_of(document)
    except (ConfigError, KeyFileError) as cause:
        raise ConfigError(f"{path}: {cause}") from cause


def signers_of(document: dict[str, Any]) -> SignersFile:
    """Return the signers that the document of a signers.toml describes.

    Raises:
        ConfigError, KeyFileError: what is wrong.
    """
    tables = document.pop("signer", {})
    revoked = _texts("revoked", document.pop("revoked", []))
    if document:
        raise ConfigError(f"{next(iter(document))[:80]!r}: expected `revoked` and tables [signer.NAME]")
    if not isinstance(tables, dict):
        raise ConfigError("signer: expected tables, [signer.NAME]")
    file = SignersFile(tuple([_entry(name, table) for name, table in tables.items()]), revoked)
    file.trust(())
    return file


def _entry(name: str, table: Any) -> SignerEntry:
    where = f"signer.{name[:80]}"
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: expected a table, [{where}]")
    known = {"keys", "hosts", "uids", "groups", "root", "targets", "expires"}
    if unknown := sorted(table.keys() - known):
        raise ConfigError(f"{where}: {unknown[0][:80]!r} is none of {', '.join(sorted(known))}")
    expires = table.get("expires")
    if expires is not None and not isinstance(expires, datetime.date):
        raise ConfigError(f"{where}: expires = {str(expires)[:80]!r}: expected a date, as 2027-06-30")
    root = table.get("root", False)
    if not isinstance(root, bool):
        raise ConfigError(f"{where}: root: expected true or false")
    keys = tuple([_key(where, text) for text in _texts(f"{where}: keys", table.get("keys", []))])
    hosts = _texts(f"{where}: hosts", table.get("hosts", []))
    for what, values in (("keys", keys), ("hosts", hosts)):
        if not values:
            raise ConfigError(f"{where}: {what}: expected at least one")
    uids = table.get("uids", SignerEntry.__dataclass_fields__["uids"].default)
    if not isinstance(uids, str):
        raise ConfigError(f'{where}: uids: expected a text, as "1000-59999"')
    return SignerEntry(
        name=name,
        keys=keys,
        hosts=hosts,
        uids=uids,
        groups=_texts(f"{where}: groups", table.get("groups", [])),
        root=root,
        targets=_texts(f"{where}: targets", table.get("targets", [])),
        expires=expires,
    )


def _key(where: str, text: str) -> VerifyKey:
    try:
        return VerifyKey.load(b"-----BEGIN PUBLIC KEY-----\n%s\n-----END PUBLIC KEY-----\n" % text.encode())
    except KeyFileError as cause:
        raise ConfigError(f"{where}: keys: {text[:80]!r} {cause}") from cause


def _pieces(text: str) -> list[str]:
    """Return the texts outside and inside of the brackets of a node set, in turn."""
    pieces = re.split(r"[][]", text)
    if re.sub(r"[^][]", "", text) != "[]" * (len(pieces) // 2):
        raise UsageError(f"targets: {text[:80]!r}: expected names such as node[001-100]")
    return pieces


def _uids(name: str, text: str) -> tuple[tuple[int, int], ...]:
    ranges = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
            raise ConfigError(
                f'signer.{name}: uids = "{text[:80]}": expected "1000-59999" or "1000,2000-2999"'
            )
        if not int(first) <= int(last) <= _UID_MAX:
            raise ConfigError(
                f"signer.{name}: uids {part.strip()[:40]}: expected FIRST-LAST, at most {_UID_MAX}"
            )
        ranges.append((int(first), int(last)))
    return tuple(ranges)


def _seconds(when: datetime.date | datetime.datetime) -> float:
    """Return UNIX time: of a date, its end; a time without a zone is UTC."""
    if isinstance(when, datetime.datetime):
        return (when if when.tzinfo else when.replace(tzinfo=_UTC)).timestamp()
    return datetime.datetime(when.year, when.month, when.day, tzinfo=_UTC).timestamp() + _DAY_S


def _texts(what: str, value: Any) -> tuple[str, ...]:
    if not (isinstance(value, list) and all(isinstance(item, str) and item for item in value)):
        raise ConfigError(f"{what}: expected an array of texts")
    return tuple(value)


def _array(values: Iterable[str]) -> str:
    return "[" + ", ".join([_quoted(value) for value in values]) + "]"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _folded(names: Iterable[str]) -> frozenset[str]:
    return frozenset([name.lower().removesuffix(".") for name in names])
