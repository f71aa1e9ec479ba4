"""How gexecd executes further programs of gexec: isolated, from its own package."""

from __future__ import annotations

import os
import sys

import gexec

_RUNNER = os.path.join(os.path.dirname(os.path.abspath(gexec.__file__)), "posix", "runner.py")


def command(module: str, *arguments: str) -> list[str]:
    """Return the argv that runs ``main(arguments)`` of a module; it ignores the variables PYTHON*."""
    return [sys.executable, "-I", "-X", "utf8", _RUNNER, module, *arguments]
