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
    "src/gexec/cluster/supervisor.py",
    "src/gexec/ssh/work.py",
}
LONG_FUNCTIONS = {("src/gexec/cluster/control.py", "_supervise")}


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


def test_no_modules_import_each_other() -> None:
    """Not by way of others, and not inside functions either; what only the checker of types reads is free."""
    imports = {_module(path): _imports(path) for path in MODULES}
    known = set(imports)
    graph = {
        module: {_known(name, known) for name in names} - {"", module} for module, names in imports.items()
    }
    assert [sorted(cycle) for cycle in _cycles(graph)] == []


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[parts[0] == "src" :]).removesuffix(".__init__")


def _known(name: str, modules: set[str]) -> str:
    """Return the module that a dotted name is or is in, "" if it is none of ours."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def _imports(path: Path) -> set[str]:
    """Return the dotted names that a module imports anywhere but under ``if TYPE_CHECKING``."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            waiting += ast.iter_child_nodes(node)
    return names


def _cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the modules of each cycle: what reaches each other."""
    reached = {module: _reachable(graph, module) for module in graph}
    cycles = []
    for module in graph:
        cycle = {other for other in reached[module] if module in reached[other]}
        if cycle and cycle not in cycles:
            cycles.append(cycle)
    return cycles


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


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
