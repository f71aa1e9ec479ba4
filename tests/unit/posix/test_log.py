"""The daemon's log, and the text that it shows."""

from __future__ import annotations

import subprocess
import sys

import pytest

_CODE = """
import builtins, os, sys
from {module} import printable
def refuse(*words, **options): raise PermissionError("this process opens no files any more")
builtins.open = os.open = refuse
before = set(sys.modules)
assert printable("a\\x1b[2J\\n\\u200b") == "a\\\\x1b[2J\\\\n\\\\u200b"
print(sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("module", ["gexec.posix.log", "gexec.render.text"])
def test_an_escape_needs_nothing_that_a_confined_process_cannot_load(module: str) -> None:
    code = _CODE.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
