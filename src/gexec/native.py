"""The compiled daemons: an overlay of modules compiled by mypyc, used only if it matches exactly.

``_native/`` beside this file holds compiled copies of :data:`PACKAGES` and :data:`MODULES`
(packaging/native.py makes it, docs/decisions/0016-compiled-daemons.md says why). A daemon's start script
calls :func:`prefer` before it imports anything else of gexec. The thin clients never do, because loading
compiled modules takes longer than it saves them.

A leaf: imports nothing of gexec except the package itself.
"""

from __future__ import annotations

import hashlib
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec

import gexec

#: What is compiled: packages, with all their modules, and single modules of gexec.
PACKAGES = ("core", "posix", "relay", "security", "spawner", "wire")
MODULES = ("errors", "limits")
#: The overlay's directory in the package, and the file in it that identifies its sources.
FOLDER = "_native"
DIGEST = "DIGEST"
#: The library with all the code; each module beside it is a small file that refers to it.
LIBRARY = "gexec_native__mypyc"
#: The value "no" keeps the interpreted modules: for a profiler, or a comparison.
VARIABLE = "GEXEC_NATIVE"

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
#: The compiled modules look for each other in a directory gexec beside their library.
_MODULES = os.path.join(_PACKAGE, FOLDER, "gexec")
#: The first one names interpreter and platform (".cpython-311-x86_64-linux-gnu.so"): the SOABI.
SUFFIX = EXTENSION_SUFFIXES[0]


def prefer() -> bool:
    """Let all later imports use the compiled modules, if they match; return whether they do.

    They match if they were made from exactly the sources beside them, for this kind of interpreter, and are
    undamaged. They are not used with GEXEC_NATIVE=no, nor if one of these modules was imported before,
    because its classes would exist twice. Never raises.
    """
    if in_use():
        return True
    if os.environ.get(VARIABLE) == "no" or _imported():
        return False
    try:
        if not is_current(_PACKAGE):
            return False
        _load(os.path.join(_PACKAGE, FOLDER, LIBRARY + SUFFIX))
    except (OSError, ImportError, ValueError):
        return False  # for example a library for another libc
    gexec.__path__.insert(0, _MODULES)
    return True


def in_use() -> bool:
    """Tell whether this process uses the compiled modules."""
    return _MODULES in gexec.__path__


def manner() -> str:
    """Return "compiled" or "interpreted", for this process's modules."""
    return "compiled" if in_use() else "interpreted"


def is_current(package: str) -> bool:
    """Tell whether a package's directory has an overlay that matches its sources and this interpreter.

    Raises:
        OSError: a file exists but cannot be read.
    """
    overlay = os.path.join(package, FOLDER)
    try:
        with open(os.path.join(overlay, DIGEST), encoding="ascii", errors="replace") as file:
            told = file.read(4096)
    except FileNotFoundError:
        return False
    compiler, _, _ = told.partition("\n")
    return told == describe(package, overlay, compiler)


def describe(package: str, overlay: str, compiler: str) -> str:
    """Return the content that DIGEST must have: compiler, target, and a digest of all files.

    Args:
        package: the directory of gexec's sources.
        overlay: the directory of the compiled modules.
        compiler: the compiler that made it, one line.
    """
    digest = hashlib.sha256()
    for text in (compiler, SUFFIX):
        digest.update(text.encode() + b"\0")
    # This module is included, because it defines the layout of an overlay.
    for folder, paths in ((package, ["native.py", *sources(package)]), (overlay, _files(overlay))):
        for path in paths:
            with open(os.path.join(folder, path), "rb") as file:
                content = file.read()
            digest.update(b"%s\0%d\0" % (os.fsencode(path), len(content)))
            digest.update(content)
    return f"{compiler}\n{SUFFIX}\n{digest.hexdigest()}\n"


def sources(package: str) -> list[str]:
    """Return the paths, below a package's directory, of all modules that the overlay replaces."""
    found = [f"{name}.py" for name in MODULES]
    for name in PACKAGES:
        found += [f"{name}/{path}" for path in _files(os.path.join(package, name)) if path.endswith(".py")]
    return sorted(found)


def _files(folder: str) -> list[str]:
    """Return the paths of all files below a directory except DIGEST and the interpreter's caches."""
    found = []
    for entry in os.scandir(folder):
        if entry.is_dir():
            if entry.name != "__pycache__":
                found += [f"{entry.name}/{path}" for path in _files(entry.path)]
        elif entry.name != DIGEST:
            found.append(entry.name)
    return sorted(found)


def _imported() -> bool:
    names = PACKAGES + MODULES
    return any(name.startswith("gexec.") and name.split(".")[1] in names for name in sys.modules)


def _load(path: str) -> None:
    """Import the library from a path, under the name by which the compiled modules look for it."""
    loader = ExtensionFileLoader(LIBRARY, path)
    spec = ModuleSpec(LIBRARY, loader, origin=path)
    spec.has_location = True
    module = loader.create_module(spec)
    loader.exec_module(module)
    module.__spec__ = spec
    sys.modules[LIBRARY] = module
