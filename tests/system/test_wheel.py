"""System tests test the wheel that was built: its modules in every process, and all that belongs into it.

`make test` runs tests/system in the environment of the wheel (tests/all.py). Run from .venv, they test the
sources, and what is about the wheel skips.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

import gexec
from gexec import native

from .conftest import BIN, DEADLINE_S, Cluster

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(gexec.__file__).parent
#: The wheel that this run tests; tests/all.py sets it.
VARIABLE = "GEXEC_TEST_WHEEL"
ENVIRONMENT = ROOT / "build" / "wheel-env"
#: As sitecustomize: each process that imports gexec, and each that it forks, writes a file of its pid.
_WITNESS = """
import os
import sys

def tell():
    file = getattr(sys.modules.get("gexec"), "__file__", None)
    if file:
        with open(f"{os.path.dirname(__file__)}/{os.getpid()}", "w") as witness:
            witness.write(file)
        return True

def watch(event, arguments):
    global watching
    if event == "import" and watching and arguments[0].startswith("gexec."):
        watching = False
        watching = not tell()

watching = True
sys.addaudithook(watch)
os.register_at_fork(after_in_child=tell)
"""


@pytest.fixture
def wheel() -> zipfile.Path:
    """The wheel that this run is about."""
    if VARIABLE not in os.environ:
        pytest.skip("this run tests the sources: `make test` tests the wheel")
    return zipfile.Path(os.environ[VARIABLE])


@pytest.fixture
def witnesses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where processes that tests start write which gexec they have; relays, too, who are other users."""
    place = Path(tempfile.mkdtemp(prefix="gxw", dir="/tmp"))
    (place / "sitecustomize.py").write_text(_WITNESS)
    place.chmod(0o1777)
    monkeypatch.setenv("PYTHONPATH", str(place))
    yield place
    shutil.rmtree(place)


def names_in(wheel: zipfile.Path) -> set[str]:
    return {name for name in wheel.root.namelist() if not name.endswith("/")}


def test_the_test_process_has_the_wheels_modules(wheel: zipfile.Path) -> None:
    assert sys.prefix == str(ENVIRONMENT)
    assert Path(sysconfig.get_path("purelib"), "gexec") == PACKAGE
    assert not [path for path in sys.path if Path(path).resolve() == ROOT / "src"]


def test_the_installed_files_are_those_of_the_wheel(wheel: zipfile.Path) -> None:
    modules = {name for name in names_in(wheel) if name.startswith("gexec/")}
    assert modules
    for name in modules:
        assert (PACKAGE.parent / name).read_bytes() == (wheel / name).read_bytes(), name


def test_daemons_have_the_modules_of_the_test_process(
    witnesses: Path, cluster_of: Callable[..., Cluster]
) -> None:
    cluster = cluster_of(2)
    daemons = [process.pid for name in cluster.names for process in cluster.daemon(name)]
    assert len(daemons) >= 4
    assert cluster.state.authd is not None
    for pid in (*daemons, cluster.state.authd.pid, cluster.state.supervisor.pid):
        assert (witnesses / str(pid)).read_text() == gexec.__file__


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "scripts").iterdir()))
def test_commands_have_the_modules_of_the_test_process(witnesses: Path, name: str) -> None:
    # By the interpreter: started by itself, a command reads no sitecustomize (attack 107).
    with subprocess.Popen(
        [sys.executable, BIN / name, "-V"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.communicate(timeout=DEADLINE_S)
    assert (witnesses / str(process.pid)).read_text() == gexec.__file__


def test_the_wheel_has_all_modules_and_nothing_else(wheel: zipfile.Path) -> None:
    source = ROOT / "src" / "gexec"
    modules = {f"gexec/{path.relative_to(source)}" for path in source.rglob("*.py")}
    overlay = {
        f"gexec/{path.relative_to(source)}"
        for path in (source / native.FOLDER).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected = modules - overlay
    assert len(expected) > 150
    if native.is_current(str(source)):
        assert f"gexec/{native.FOLDER}/{native.LIBRARY}{native.SUFFIX}" in overlay
        expected |= overlay
    found = {name for name in names_in(wheel) if re.match(r"gexec-[^/]*\.(dist-info|data)/", name) is None}
    assert found == expected


def test_the_wheel_has_all_commands_and_the_licence(wheel: zipfile.Path) -> None:
    inside = {name.partition("/")[2] for name in names_in(wheel) if not name.startswith("gexec/")}
    commands = {f"scripts/{path.name}" for path in (ROOT / "scripts").iterdir()}
    assert inside == commands | {"METADATA", "WHEEL", "RECORD", "licenses/LICENSE"}


def test_the_commands_of_the_environment_are_the_wheels(wheel: zipfile.Path) -> None:
    assert BIN == ENVIRONMENT / "bin"
    for script in (ROOT / "scripts").iterdir():
        assert (BIN / script.name).read_bytes() == script.read_bytes()
        assert os.access(BIN / script.name, os.X_OK)


def test_what_the_wheel_requires_is_all_that_is_installed_with_it(wheel: zipfile.Path) -> None:
    """Tools of the tests are not there: what a daemon needs and the wheel does not name would be missed."""
    code = "from importlib import metadata; print(*(one.name for one in metadata.distributions()))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=True
    )
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "requirements/runtime.txt").read_text(), re.MULTILINE)
    installed = {name.lower() for name in done.stdout.split()}
    required = {re.split(r"[^\w.-]", line)[0].lower() for line in metadata.requires("gexec") or ()}
    assert required <= installed
    assert installed <= {name.lower() for name in pinned} | {"gexec"}
