"""docs/bootstrap.md, command by command: a head and three nodes with sshd and nothing of gexec."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .machines import blocks_of, install, needs, run

BLOCKS = blocks_of("bootstrap.md")


@pytest.mark.root
def test_the_pages_commands_make_a_cluster(machines_place: Path) -> None:
    needs()
    install(machines_place)
    # A block's commands, and what it says between two marks.
    blocks = [f"echo '--- {number}'\n{block}" for number, block in enumerate(BLOCKS)]
    status, log = run(machines_place, "".join(blocks) + "echo '--- end'\n")
    assert status == 0, log[-5000:]
    said = re.split(r"^--- (?:\d+|end)\n", log, flags=re.MULTILINE)[1:]
    versions, copied, keys, users, daemons, works, _ = said
    assert versions.startswith("--- node[1-3] (3)\nPython 3."), log
    assert copied == ""
    assert "/etc/auth_priv.pem" in keys
    assert users == ""
    assert "Traceback" not in daemons
    lines = works.splitlines()
    assert lines[:2] == ["--- node[1-3] (3)", "Linux"], works
    assert sorted(lines[2:]) == ["0 node1", "1 node2", "2 node3"], works
