"""The compiled daemons: an overlay of modules that mypyc made, used only where it fits exactly.

``_native/`` beside this file holds compiled copies of :data:`PACKAGES` and :data:`MODULES`
(packaging/native.py makes it, docs/decisions/0016-compiled-daemons.md says why). A daemon's start
script calls :func:`prefer` before it imports anything else of gexec; the thin clients never do:
loading compiled modules costs them more than it saves.

A leaf: nothing of gexec is imported here but the package itself.
"""

from __future__ import annotations

import hashlib
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec

import gexec

#: What is compiled: packages, with all their modules, and single modules of gexec.
PACKAGES = ("authd", "core", "posix", "relay", "security", "settings", "wire")
MODULES = ("errors", "limits")
#: The overlay's directory in the package, and the file in it that says what it was made from.
FOLDER = "_native"
DIGEST = "DIGEST"
#: The one library with all the code; the modules beside it are a few lines each that refer to it.
LIBRARY = "gexec_native__mypyc"
#: Set to "no", it keeps the interpreted modules: for a profiler, or to compare.
VARIABLE = "GEXEC_NATIVE"

_PACKAGE = os.path.dirname(os.path.abspath(__file__))
#: Where the compiled modules look for each other: in a directory gexec beside their library.
_MODULES = os.path.join(_PACKAGE, FOLDER, "gexec")
#: The first one names interpreter and platform (".cpython-311-x86_64-linux-gnu.so"): the SOABI.
SUFFIX = EXTENSION_SUFFIXES[0]


def prefer() -> bool:
    """Let all later imports take the compiled modules, if they fit; tell whether they do now.

    They fit when they were made from the very sources beside them, by this kind of interpreter,
    and are undamaged. They are not used when GEXEC_NATIVE=no, nor when one of the modules in
    question was imported before: a class that is there twice is two classes. Never raises.
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
        return False  # a library of another libc, say
    gexec.__path__.insert(0, _MODULES)
    return True


def in_use() -> bool:
    """Tell whether this process takes the compiled modules."""
    return _MODULES in gexec.__path__


def manner() -> str:
    """Return "compiled" or "interpreted": what this process's modules are."""
    return "compiled" if in_use() else "interpreted"


def is_current(package: str) -> bool:
    """Tell whether a package's directory has an overlay that fits its sources and this interpreter.

    Raises:
        OSError: a file is there but cannot be read.
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
    """Return what DIGEST must say: by what it was compiled, for what, and a digest of all its files.

    Args:
        package: the directory of gexec's sources.
        overlay: the directory of what was made from them.
        compiler: what made it, one line.
    """
    digest = hashlib.sha256()
    for text in (compiler, SUFFIX):
        digest.update(text.encode() + b"\0")
    # This very module is in it, since it says how an overlay is laid out.
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
    """Import the library under the name by which the compiled modules look for it, wherever it lies."""
    loader = ExtensionFileLoader(LIBRARY, path)
    spec = ModuleSpec(LIBRARY, loader, origin=path)
    spec.has_location = True
    module = loader.create_module(spec)
    loader.exec_module(module)
    module.__spec__ = spec
    sys.modules[LIBRARY] = module
