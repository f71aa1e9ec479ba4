"""How gexecd executes further programs of gexec: isolated, from its own package."""

from __future__ import annotations

import hashlib
import os
import sys

import gexec

_RUNNER = os.path.join(os.path.dirname(os.path.abspath(gexec.__file__)), "posix", "runner.py")


def command(module: str, *arguments: str) -> list[str]:
    """Return the argv that runs ``main(arguments)`` of a module; it ignores the variables PYTHON*."""
    return [sys.executable, "-I", "-X", "utf8", _RUNNER, module, *arguments]


def code_digest() -> str:
    """Return a digest of all files of the package as they are on the disk now, compiled modules too.

    Raises:
        OSError: a file cannot be read.
    """
    package = os.path.dirname(os.path.abspath(gexec.__file__))
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(package):
        folders[:] = sorted(set(folders) - {"__pycache__"})
        for name in sorted(names):
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                content = file.read()
            digest.update(f"{os.path.relpath(path, package)}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()
