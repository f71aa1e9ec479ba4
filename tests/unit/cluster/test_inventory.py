"""inventory.toml."""

from __future__ import annotations

import pytest

from gexec.cluster.inventory import InventoryEntry, content_of, entries_of, table_of

NODES = [InventoryEntry("node001", ("10.0.0.1", "n1.site.org")), InventoryEntry("head", head=True)]


def test_what_is_written_is_read_again() -> None:
    assert list(entries_of(content_of(NODES)).values()) == NODES
    assert list(entries_of(b"# mine\n" + table_of(NODES[0])).values()) == NODES[:1]
    assert entries_of(content_of(())) == {}


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[node.a]\nnmes = []", "expected names and head"),
        ("[node.a]\nnames = [5]", "array of texts"),
        ("[node.a]\nhead = 1", "true or false"),
        ("node = 5", "attribute"),
        ("[node", "Expected"),
        ("\udcff", "decode"),
        ("a = " + "[" * 10_000, "recursion"),
    ],
)
def test_what_is_none_is_told(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        entries_of(text.encode("utf-8", "surrogateescape"))
