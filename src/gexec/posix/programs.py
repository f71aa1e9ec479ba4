"""How gexecd executes further programs of gexec: isolated, from the package that is running."""

from __future__ import annotations

import os
import sys

import gexec

#: The directory that the running package was imported from comes first: never another version.
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from {module} import main; sys.exit(main(sys.argv[2:]))"
_HOME = os.path.dirname(os.path.dirname(os.path.abspath(gexec.__file__)))


def command(module: str, *arguments: str) -> list[str]:
    """Return the argv that runs ``main(arguments)`` of a module, without the environment's PYTHON*."""
    return [sys.executable, "-I", "-X", "utf8", "-c", _BOOT.format(module=module), _HOME, *arguments]
