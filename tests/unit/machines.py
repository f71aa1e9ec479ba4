"""``validated``, to be imported: every machine in a test proves its invariants after every step."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest

from gexec.core.node import Node
from gexec.core.root import Root
from gexec.core.subtree import Subtree


@pytest.fixture(autouse=True)
def validated(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[type[Any], tuple[str, ...]]] = [
        (Node, ("begin", "handle")),
        (Root, ("begin", "handle")),
        (Subtree, ("spread", "heard", "lost", "tick", "resync", "close")),
    ]
    for machine, names in steps:
        for name in names:
            monkeypatch.setattr(machine, name, _validated(getattr(machine, name)))


def _validated(step: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(step)
    def then_validate(machine: Any, *args: Any, **kwargs: Any) -> Any:
        result = step(machine, *args, **kwargs)
        machine.validate()
        return result

    return then_validate
