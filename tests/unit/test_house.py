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
#: Modules that no unit test imports, and the system test that runs each; the list only gets shorter.
SYSTEM_TESTS = {
    "cli.background": "test_background",
    "cli.copying": "test_ensync",
    "cli.daemon": "test_gexecd",
    "cli.fetching": "test_fetch",
    "cli.flow": "test_commands_rounds",
    "cli.job": "test_background",
    "cli.jobactions": "test_background",
    "cli.jobs": "test_background",
    "cli.nodefiles": "test_commands_output",
    "cli.querying": "test_background",
    "cli.receive": "test_files_commands",
    "cli.rolling": "test_commands_rounds",
    "cli.standard": "test_streams",
    "cli.streams": "test_streams",
    "cli.upgrade": "test_upgrades",
    "cli.views": "test_commands_output",
    "client.api": "test_resources",
    "client.authd": "test_authd",
    "client.console": "test_views",
    "client.gmond": "test_gmond",
    "client.job": "test_node_sources",
    "client.remote": "test_cluster",
    "client.stream": "test_views",
    "cluster.private": "test_cluster_private",
    "cluster.daemon": "test_cluster",
    "cluster.guard": "test_cluster",
    "cluster.reporting": "test_cluster",
    "cluster.planning": "test_cluster",
    "cluster.supervisor": "test_cluster",
    "cluster.warm": "test_cluster",
    "gexecd.activation": "test_gexecd",
    "gexecd.gexecd": "test_gexecd",
    "gexecd.listening": "test_addresses",
    "gexecd.relaying": "test_confinement",
    "gexecd.renewal": "test_gexecd",
    "gexecd.succession": "test_upgrades",
    "posix.background": "test_gexecd",
    "posix.memory": "test_memory",
    "posix.readiness": "test_gexecd",
    "posix.pam": "test_pam",
    "posix.session": "test_becoming",
    "posix.trusted": "test_gexecd",
    "posix.unix": "test_authd",
    "relay.relay": "test_gexecd",
    "spawner.accounts": "test_spawner",
    "spawner.again": "test_upgrades",
    "spawner.auditing": "test_spawner",
    "spawner.boot": "test_spawner_program",
    "spawner.forking": "test_spawner",
    "spawner.helper": "test_spawner",
    "spawner.helpers": "test_spawner",
    "spawner.keeping": "test_background",
    "spawner.leftovers": "test_leftovers",
    "spawner.orphan": "test_leftovers",
    "spawner.replacing": "test_killed_relays",
    "spawner.session": "test_pam",
    "spawner.spawner": "test_spawner",
    "spawner.starter": "test_leftovers",
    "spawner.starting": "test_spawner",
    "spawner.stdio": "test_spawner",
    "spawner.tasks": "test_spawner",
    "spawner.upgrades": "test_upgrades",
    "spawner.upgrading": "test_upgrades",
    "ssh.engine": "test_ssh_engine",
    "ssh.link": "test_ssh_engine",
    "ssh.messenger": "test_ssh_endings",
    "ssh.settings": "test_ssh_config",
    "ssh.work": "test_ssh_engine",
    "utf8": "test_streams",
}


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
    assert long == set()


def test_functions_are_short() -> None:
    long = {
        (_name(path), node.name)
        for path in MODULES
        for node in _definitions(path)
        if not isinstance(node, ast.ClassDef)
        and (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    }
    assert long == set()


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


def test_every_module_has_a_unit_test_that_imports_it_or_is_on_the_list() -> None:
    source = ROOT / "src" / "gexec"
    modules = {
        ".".join(path.relative_to(source).with_suffix("").parts)
        for path in MODULES
        if path.is_relative_to(source) and path.name != "__init__.py"
    }
    assert modules - _imported_by_unit_tests() == set(SYSTEM_TESTS)
    for name in set(SYSTEM_TESTS.values()):
        assert (ROOT / "tests" / "system" / f"{name}.py").is_file(), name


def _imported_by_unit_tests() -> set[str]:
    """Return the modules, below gexec, that tests/unit import: tests, and what several tests share."""
    found = set()
    for path in (ROOT / "tests" / "unit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return {name.removeprefix("gexec.") for name in found if name.startswith("gexec.")}


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
