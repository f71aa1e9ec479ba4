"""The house: what `make check` holds of every module beside the contracts of imports (.importlinter)."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    path
    for folder in ("src/gexec", "laboratory")
    for path in (ROOT / folder).rglob("*.py")
    if "_native" not in path.parts
)
LINES_MAX = 400
FUNCTION_LINES_MAX = 60
#: Modules and functions that are longer still; what is mended leaves the list, nothing comes to it.
LONG = {
    "src/gexec/client/console.py",
    "src/gexec/client/stream.py",
    "src/gexec/cluster/supervisor.py",
    "src/gexec/ssh/work.py",
}
LONG_FUNCTIONS = {("src/gexec/cluster/control.py", "_supervise"), ("src/gexec/cli/command.py", "_command")}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _definitions(path: Path) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_two_classes_have_one_name() -> None:
    homes: dict[str, set[str]] = defaultdict(set)
    for path in MODULES:
        for node in _definitions(path):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].add(_name(path))
    assert {name: sorted(places) for name, places in homes.items() if len(places) > 1} == {}


def test_modules_are_short() -> None:
    long = {_name(path) for path in MODULES if len(path.read_text(encoding="utf-8").splitlines()) > LINES_MAX}
    assert long == LONG


def test_functions_are_short() -> None:
    long = {
        (_name(path), node.name)
        for path in MODULES
        for node in _definitions(path)
        if not isinstance(node, ast.ClassDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    }
    assert long == LONG_FUNCTIONS


def test_programs_in_strings_of_tests_import_what_is_there() -> None:
    """No checker of types reads them, and most run in system tests only."""
    missing = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for module, names in re.findall(
            r"from ((?:gexec|laboratory)\.[\w.]+) import (\w+(?: as \w+)?(?:, \w+(?: as \w+)?)*)",
            path.read_text(encoding="utf-8"),
        ):
            for name in (part.split(" as ")[0] for part in names.split(", ")):
                if (module, name) != ("gexec.core", "new") and not _has(
                    module, name
                ):  # test_native writes it
                    missing.append(f"{_name(path)}: from {module} import {name}")
    assert missing == []


def _has(module: str, name: str) -> bool:
    if hasattr(importlib.import_module(module), name):
        return True
    return importlib.util.find_spec(f"{module}.{name}") is not None
