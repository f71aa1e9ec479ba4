"""The tests themselves: each can fail, and none waits for time to pass."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
#: Calls that fail by themselves, beside those of the tests' own helpers that do.
CHECKS = {"raises", "fail", "warns", "simulate", "verify"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions_in(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def calls(function: Function) -> set[str]:
    """Return the last names of all that is called: `f` of `f()` and of `x.f()`."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            found.add(
                node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            )
    return found


def asserts(function: Function) -> bool:
    return any(isinstance(node, ast.Assert | ast.Raise) for node in ast.walk(function))


def swallows(function: Function) -> bool:
    """Tell whether errors come to nothing in a function: `except ...: pass`, or `suppress`."""
    return "suppress" in calls(function) or any(
        isinstance(node, ast.ExceptHandler) and all(isinstance(line, ast.Pass) for line in node.body)
        for node in ast.walk(function)
    )


def that_cannot_fail(trees: list[ast.Module]) -> list[str]:
    """Return the tests that check nothing, neither themselves nor by a helper."""
    everything = [function for tree in trees for function in functions_in(tree)]
    checking = CHECKS | {function.name for function in everything if asserts(function)}
    while more := {one.name for one in everything if calls(one) & checking} - checking:
        checking |= more
    return [
        f"{one.name} (line {one.lineno})"
        for one in everything
        if one.name.startswith("test_")
        and (one.name not in checking or (swallows(one) and not asserts(one) and not calls(one) & CHECKS))
    ]


def that_wait_for_time(tree: ast.Module) -> list[int]:
    """Return the lines of sleeps that are in no loop which looks for something."""
    in_loops = {id(node) for loop in ast.walk(tree) if isinstance(loop, ast.While) for node in ast.walk(loop)}
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "sleep"
        and id(node) not in in_loops
    ]


TREES = {path: ast.parse(path.read_bytes()) for path in sorted(TESTS.rglob("*.py"))}


def test_every_test_can_fail() -> None:
    assert sum(path.name.startswith("test_") for path in TREES) > 50
    assert that_cannot_fail(list(TREES.values())) == []


@pytest.mark.parametrize("path", TREES, ids=lambda path: str(path.relative_to(TESTS)))
def test_sleeps_are_in_loops_that_look_for_something(path: Path) -> None:
    assert that_wait_for_time(TREES[path]) == []


def test_what_is_wrong_is_found() -> None:
    tree = ast.parse(
        "def test_nothing():\n    try:\n        receive()\n    except OSError:\n        pass\n"
        "def test_suppressed():\n    with suppress(OSError):\n        helper()\n"
        "def helper():\n    assert receive()\n"
        "def test_by_helper():\n    helper()\n"
        "def test_time():\n    time.sleep(1)\n    while not receive():\n        time.sleep(1)\n"
        "    assert receive()\n"
    )
    assert that_cannot_fail([tree]) == ["test_nothing (line 1)", "test_suppressed (line 6)"]
    assert that_wait_for_time(tree) == [14]
