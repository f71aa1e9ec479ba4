"""Runs ``main(arguments)`` of a module, from the package that this file is in (``posix.programs``).

It is executed by its path, so that ps shows which program of gexec a process runs.
"""

from __future__ import annotations

import importlib
import os
import sys


def run(module: str, arguments: list[str]) -> int:
    """Run a module's ``main`` and return its exit status; its package is first in the path."""
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    status: int = importlib.import_module(module).main(arguments)
    return status


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], sys.argv[2:]))
