"""A resolver that does not answer: the names it knows count, the others hold nobody up for long."""

from __future__ import annotations

import threading

import pytest

from gexec import limits
from gexec.client import resolve


def test_names_without_an_answer_do_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    # A name server that is silent cannot be had here without changing the machine's own.
    over = threading.Event()

    def lookup(name: str) -> str:
        if name.startswith("silent"):
            over.wait(60)
        return "10.1.1.1"

    monkeypatch.setattr(resolve, "_lookup", lookup)
    monkeypatch.setattr(limits, "RESOLVE_MAX_S", 0.2)
    # The last names are asked first; as many as there are threads are silent, then nobody asks any more.
    nodes = [(f"known{number}", 0) for number in range(4)]
    silent = [(f"silent{number}", 0) for number in range(40)]
    assert resolve.resolve(silent + nodes, 1, None) == [b""] * 40 + [b"10.1.1.1:1"] * 4
    over.set()
