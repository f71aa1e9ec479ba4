"""Compiled modules are used only where they fit. A small gexec is compiled for real here, once."""

from __future__ import annotations

import ast
import builtins
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from gexec import native

ROOT = Path(__file__).resolve().parents[2]
#: What the small gexec consists of, besides files __init__.py.
SMALL = (
    "version.py",
    "native.py",
    *(f"{name}.py" for name in native.MODULES),
    "core/saving.py",
    "core/tree.py",
)
_LOOK = """
from gexec import native
print(native.prefer(), native.manner())
import gexec.core.tree, gexec.errors
print(gexec.core.tree.__file__)
print(gexec.errors.__file__)
print(len(gexec.core.tree.split(0, 9, 3)), gexec.errors.UsageError("told"))
"""


def build(tree: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the compile tool of a tree."""
    return subprocess.run(
        [sys.executable, tree / "packaging" / "native.py"],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=100,
    )


def look(tree: Path, code: str = _LOOK, **environ: str) -> list[str]:
    """Run Python code on a tree's gexec; return what it printed, in lines. It must end well."""
    env = {name: value for name, value in os.environ.items() if name != native.VARIABLE}
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        env=env | {"PYTHONPATH": str(tree / "src")} | environ,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def is_compiled(seen: list[str], tree: Path) -> bool:
    """Tell from what _LOOK printed whether a tree's compiled modules were taken: all or none of them."""
    folder = tree / "src" / "gexec"
    overlay = folder / native.FOLDER / "gexec"
    assert seen[3] == "3 told"
    if seen[0] == "True compiled":
        assert seen[1:3] == [f"{overlay}/core/tree{native.SUFFIX}", f"{overlay}/errors{native.SUFFIX}"]
        return True
    assert seen[0] == "False interpreted"
    assert seen[1:3] == [f"{folder}/core/tree.py", f"{folder}/errors.py"]
    return False


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("native") / "tree"
    for name in ("packaging/native.py", "packaging/wheel_hook.py", "pyproject.toml", "README.md", "LICENSE"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    shutil.copytree(ROOT / "scripts", tree / "scripts")
    for name in (*SMALL, *(f"{package}/__init__.py" for package in native.PACKAGES)):
        (tree / "src" / "gexec" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "src" / "gexec" / name, tree / "src" / "gexec" / name)
    (tree / "src" / "gexec" / "__init__.py").write_text('"""A small one."""\n')
    done = build(tree)
    if done.returncode == 3:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    return tree


@pytest.fixture
def tree(_made: Path, tmp_path: Path) -> Path:
    """A tree of its own for each test, compiled."""
    return Path(shutil.copytree(_made, tmp_path / "tree"))


def overlay(tree: Path, name: str = "") -> Path:
    return tree / "src" / "gexec" / native.FOLDER / name


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


def test_what_fits_is_used(tree: Path) -> None:
    assert is_compiled(look(tree), tree)


def test_what_fits_is_used_wherever_it_lies(tree: Path, tmp_path: Path) -> None:
    moved = tree.rename(tmp_path / "elsewhere")
    assert is_compiled(look(moved), moved)


def other_interpreter(tree: Path) -> None:
    """Make the overlay another Python's, as its DIGEST would be there."""
    path = overlay(tree, native.DIGEST)
    path.write_text(path.read_text().replace(native.SUFFIX, ".cpython-399-pdp11.so"))


def foreign_library(tree: Path) -> None:
    """Put a library there that cannot be loaded, and a DIGEST that says all is well."""
    overlay(tree, native.LIBRARY + native.SUFFIX).write_bytes(b"\x7fELF of another machine")
    path = overlay(tree, native.DIGEST)
    compiler, _, _ = path.read_text().partition("\n")
    path.write_text(native.describe(str(tree / "src" / "gexec"), str(overlay(tree)), compiler))


SPOILED: dict[str, Callable[[Path], object]] = {
    "a source was altered": lambda tree: append(tree / "src/gexec/core/tree.py", "\n# no\n"),
    "a source came": lambda tree: (tree / "src/gexec/core/new.py").touch(),
    "a source went": lambda tree: shutil.rmtree(tree / "src/gexec/relay"),
    "the overlay's layout changed": lambda tree: append(tree / "src/gexec/native.py", "\n# no\n"),
    "the library is cut": lambda tree: cut(overlay(tree, native.LIBRARY + native.SUFFIX)),
    "a module is cut": lambda tree: cut(overlay(tree, f"gexec/core/tree{native.SUFFIX}")),
    "a module is gone": lambda tree: overlay(tree, f"gexec/core/tree{native.SUFFIX}").unlink(),
    "a module too many": lambda tree: overlay(tree, "gexec/core/new.py").touch(),
    "no digest": lambda tree: overlay(tree, native.DIGEST).unlink(),
    "an empty digest": lambda tree: overlay(tree, native.DIGEST).write_bytes(b""),
    "a digest of noise": lambda tree: overlay(tree, native.DIGEST).write_bytes(bytes(range(256)) * 99),
    "another interpreter's": other_interpreter,
    "another machine's": foreign_library,
    "no overlay": lambda tree: shutil.rmtree(overlay(tree)),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_what_does_not_fit_is_not_used_and_the_sources_are(
    tree: Path, spoil: Callable[[Path], object]
) -> None:
    spoil(tree)
    assert not is_compiled(look(tree), tree)


def test_it_can_be_turned_off(tree: Path) -> None:
    assert not is_compiled(look(tree, GEXEC_NATIVE="no"), tree)
    assert is_compiled(look(tree, GEXEC_NATIVE="yes"), tree)


def test_what_the_interpreter_keeps_beside_the_modules_does_not_matter(tree: Path) -> None:
    subprocess.run([sys.executable, "-m", "compileall", "-q", tree / "src"], check=True, timeout=100)
    assert list(overlay(tree).glob("**/*.pyc"))
    assert is_compiled(look(tree), tree)


@pytest.mark.parametrize("module", ["gexec.errors", "gexec.core"])
def test_too_late_is_not_at_all(tree: Path, module: str) -> None:
    assert not is_compiled(look(tree, f"import {module}\n{_LOOK}"), tree)


def test_modules_that_are_never_compiled_may_come_first(tree: Path) -> None:
    assert is_compiled(look(tree, f"import gexec.version\n{_LOOK}"), tree)


def test_a_second_call_changes_nothing(tree: Path) -> None:
    code = "import gexec; from gexec.native import prefer; print(prefer(), prefer(), len(gexec.__path__))"
    assert look(tree, code) == ["True True 2"]


def test_the_tool_has_nothing_to_do_where_it_is_current(tree: Path) -> None:
    before = overlay(tree).stat()
    done = build(tree, CC="/nowhere/cc")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert overlay(tree).stat().st_ino == before.st_ino


def test_a_source_that_cannot_be_compiled_is_told_and_leaves_the_old_overlay(tree: Path) -> None:
    path = tree / "src" / "gexec" / "core" / "tree.py"
    was = path.read_text()
    append(path, "\n\ndef wrong() -> int:\n    return 'text'\n")
    done = build(tree)
    assert done.returncode == 1
    assert "gexec/core/tree.py:" in done.stderr
    assert "Incompatible return value type" in done.stderr
    assert not is_compiled(look(tree), tree)
    path.write_text(was)
    assert is_compiled(look(tree), tree)
    assert sorted(path.name for path in (tree / "build").iterdir()) == ["native.lock"]


def test_what_a_changed_source_says_is_compiled_again(tree: Path) -> None:
    (tree / "src" / "gexec" / "core" / "new.py").write_text('"""New."""\n\nVALUE = 42\n')
    (tree / "build" / "native-1" / "left").mkdir(parents=True)  # by one that was killed
    done = build(tree)
    assert done.returncode == 0, done.stderr
    assert is_compiled(look(tree), tree)
    assert sorted(path.name for path in (tree / "build").iterdir()) == ["native.lock"]
    code = "from gexec.native import prefer\nprefer()\nfrom gexec.core import new\n"
    assert look(tree, code + "print(new.__file__, new.VALUE)") == [
        f"{overlay(tree)}/gexec/core/new{native.SUFFIX} 42"
    ]


def test_without_a_compiler_a_sentence_says_so(tree: Path) -> None:
    shutil.rmtree(overlay(tree))
    done = build(tree, CC="/nowhere/cc")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "no C compiler, /nowhere/cc" in done.stderr


def wheel(tree: Path) -> tuple[str, list[str]]:
    """Build a tree's wheel; return what its name says it is for, and the files in it."""
    shutil.rmtree(tree / "dist", ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"],
        cwd=tree,
        capture_output=True,
        timeout=100,
        check=True,
    )
    [path] = (tree / "dist").glob("gexec-*.whl")
    with zipfile.ZipFile(path) as file:
        return path.name.partition("-")[2].partition("-")[2], file.namelist()


def test_a_wheel_has_them_and_is_for_this_python_only_while_they_are_current(tree: Path) -> None:
    library = f"gexec/{native.FOLDER}/{native.LIBRARY}{native.SUFFIX}"
    tag, names = wheel(tree)
    assert library in names
    assert f"gexec/{native.FOLDER}/{native.DIGEST}" in names
    assert tag.startswith(f"cp3{sys.version_info.minor}-")
    append(tree / "src" / "gexec" / "errors.py", "\n# later\n")
    tag, names = wheel(tree)
    assert not [name for name in names if native.FOLDER in name]
    assert "gexec/errors.py" in names
    assert tag == "py3-none-any.whl"


def test_an_installed_wheel_is_compiled(tree: Path) -> None:
    wheel(tree)
    [path] = (tree / "dist").glob("gexec-*.whl")
    with zipfile.ZipFile(path) as file:
        file.extractall(tree / "installed" / "src")
    assert is_compiled(look(tree / "installed"), tree / "installed")


def test_all_that_is_to_be_compiled_is_there() -> None:
    for path in native.sources(str(ROOT / "src" / "gexec")):
        assert (ROOT / "src" / "gexec" / path).is_file()
    for name in native.PACKAGES:
        assert (ROOT / "src" / "gexec" / name / "__init__.py").is_file()


def test_only_scripts_of_daemons_prefer_it_and_before_all_else() -> None:
    scripts = list((ROOT / "scripts").iterdir())
    assert len(scripts) >= 9
    for script in scripts:
        _, _, text = script.read_text().partition("begin_anew()\n")  # of a leaf that is not compiled
        lines = [line for line in text.splitlines() if "gexec" in line or "prefer" in line]
        daemon = script.name in ("gexecd", "authd", "gexecctl")
        assert ("native" in script.read_text()) == daemon, script.name
        if daemon:
            assert lines[0] == "from gexec.native import prefer"
            assert lines[1].startswith("prefer()")


def test_no_bound_of_a_slice_calls_anything() -> None:
    """mypyc 2.4 evaluates the bounds of a memoryview's slice twice: ``view[os.write(fd, view) :]``."""
    package = ROOT / "src" / "gexec"
    sources = native.sources(str(package))
    wrong = [
        f"{path}:{node.lineno}: {ast.unparse(node)}"
        for path in sources
        for node in ast.walk(ast.parse((package / path).read_bytes()))
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and _acts(node.slice)
    ]
    assert len(sources) > 50
    assert not wrong, "take the call out of the slice: " + "; ".join(wrong)


def test_what_is_caught_has_a_name_of_its_own() -> None:
    """mypyc 2.4 gives a name the type of what is caught first: another exception is a TypeError then.

    ``except ProtocolError as error`` and, further down in the same function, ``except Exception as error``:
    what was to be told is lost. If the first one is a class of Python's all is well.
    """
    package = ROOT / "src" / "gexec"
    wrong = []
    for path in native.sources(str(package)):
        for function in ast.walk(ast.parse((package / path).read_bytes())):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                wrong += [f"{path}:{line}" for line in _caught_twice(function)]
    assert not wrong, "give what is caught here another name: " + "; ".join(wrong)


def _caught_twice(function: ast.AST) -> list[int]:
    """Return the lines where a name is used again that stood for an exception of gexec's own."""
    first: dict[str, str] = {}
    again = []
    caught = [node for node in ast.walk(function) if isinstance(node, ast.ExceptHandler) and node.type]
    for handler in sorted(caught, key=lambda node: node.lineno):
        if handler.name and handler.type:
            kind = ast.unparse(handler.type)
            before = first.setdefault(handler.name, kind)
            if before != kind and not hasattr(builtins, before.strip("(").split(",")[0]):
                again.append(handler.lineno)
    return again


def _acts(bounds: ast.Slice) -> bool:
    inside = [
        node for bound in (bounds.lower, bounds.upper, bounds.step) if bound for node in ast.walk(bound)
    ]
    calls = [node for node in inside if isinstance(node, (ast.Call, ast.NamedExpr, ast.Await, ast.Yield))]
    return any(not (isinstance(node, ast.Call) and ast.unparse(node.func) == "len") for node in calls)
