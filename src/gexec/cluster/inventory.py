"""inventory.toml of the authority's directory: the nodes, their names, and which of them are heads.

[node.node001]
names = ["node001.example.org", "10.0.0.1"]
head = false
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass

_BEGIN = """\
# The nodes of the cluster: their names and addresses as others dial them, and which are heads.
# [node.node001]
# names = ["node001.example.org", "10.0.0.1"]
# head = false
"""


@dataclass(frozen=True, slots=True)
class InventoryEntry:
    """One node: its other names and addresses, and whether users submit jobs there."""

    name: str
    names: tuple[str, ...] = ()
    head: bool = False


def entries_of(content: bytes) -> dict[str, InventoryEntry]:
    """Return the nodes of a file by their names.

    Raises:
        ValueError: it is not an inventory; the text says why.
    """
    try:
        tables = tomllib.loads(content.decode()).get("node", {})
        return {name: _entry(name, table) for name, table in tables.items()}
    except (AttributeError, RecursionError) as cause:
        raise ValueError(str(cause)) from cause


def content_of(entries: Iterable[InventoryEntry]) -> bytes:
    """Return the content of a new file with these nodes."""
    return _BEGIN.encode() + b"".join(map(table_of, entries))


def table_of(entry: InventoryEntry) -> bytes:
    """Return what adds a node to a file."""
    names = ", ".join([json.dumps(name) for name in entry.names])
    text = f"\n[node.{json.dumps(entry.name)}]\nnames = [{names}]\nhead = {json.dumps(entry.head)}\n"
    return text.encode()


def _entry(name: str, table: dict[str, object]) -> InventoryEntry:
    names, head = table.get("names", []), table.get("head", False)
    if table.keys() - {"names", "head"}:
        raise ValueError(f"node.{name}: expected names and head")
    if not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
        raise ValueError(f"node.{name}: names: expected an array of texts")
    if not isinstance(head, bool):
        raise ValueError(f"node.{name}: head: expected true or false")
    return InventoryEntry(name, tuple(names), head)
