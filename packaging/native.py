"""Compile the daemons' modules with mypyc, into src/gexec/_native (docs/decisions/0016-compiled-daemons.md).

Usage: python packaging/native.py

Does nothing if what is there was made from the sources as they are. Exit status: 0 it is there and
current, 3 this machine cannot compile (a sentence says why), 1 anything else.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import io
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))  # these sources, whatever is installed

from gexec import native  # noqa: E402

PACKAGE = ROOT / "src" / "gexec"
OVERLAY = PACKAGE / native.FOLDER
#: Where it is made; never twice in one folder, since compilers may outlive one that was killed.
WORK = ROOT / "build" / f"native-{os.getpid()}"
#: Modules (gexec.wire.frames, say) that stay interpreted in the overlay, because mypyc cannot compile them.
#: gexec.posix.pam: structures of ctypes.
INTERPRETED: frozenset[str] = frozenset({"gexec.settings.config", "gexec.posix.pam"})
#: Exit status: it cannot be done here.
CANNOT = 3
GROUP = native.LIBRARY.removesuffix("__mypyc")
#: Hidden symbols: calls from one object of the library to another go straight there. -fwrapv is what
#: Python itself is compiled with.
COMPILE = ["-O2", "-g0", "-w", "-fPIC", "-fwrapv", "-fvisibility=hidden", "-DNDEBUG"]
#: What is looked up is looked up when the library is loaded, which is before a daemon forks: later, each
#: process would write what it finds into pages that it shared until then.
LINK = ["-shared", "-s", "-Wl,-z,now"]
#: The modules beside the library are tiny: fewer mappings, less to copy in each fork.
LINK_SMALL = [*LINK, "-Wl,-z,noseparate-code"]


class CannotError(Exception):
    """This machine lacks what compiling needs; the text names it."""


def main() -> int:
    """Make the overlay if it is not there or not current; return the exit status."""
    WORK.parent.mkdir(exist_ok=True)
    with open(WORK.parent / "native.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            compiler = f"mypyc {_mypy_version()}, packaging/native.py {_own_digest()}"
            if _made_by(OVERLAY) == compiler and native.is_current(str(PACKAGE)):
                return 0
            _check_tools()
            for left in WORK.parent.glob("native-*"):  # nobody else is at work: ours is the lock
                shutil.rmtree(left, ignore_errors=True)
            print("compiling the daemons: a minute or two, only when their sources have changed", flush=True)
            made = make(compiler)
            if made is None:
                return 1
            _put_in_place(made)
        except CannotError as error:
            sys.stderr.write(f"gexec runs interpreted here, and its daemons slower: no {error}\n")
            return CANNOT
        finally:
            shutil.rmtree(WORK, ignore_errors=True)
    return 0


def make(compiler: str) -> Path | None:
    """Compile a copy of the sources as they are now; return the overlay, or None after saying why not."""
    package = WORK / "src" / "gexec"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", native.FOLDER))
    overlay = package / native.FOLDER
    compiled = []
    for path in native.sources(str(package)):
        if path.endswith("__init__.py") or _module(path) in INTERPRETED:
            (overlay / "gexec" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / path, overlay / "gexec" / path)
        else:
            compiled.append(path)
    extensions = _to_c(package, compiled)
    if extensions is None or not _build(extensions, overlay):
        return None
    (overlay / native.DIGEST).write_text(native.describe(str(package), str(overlay), compiler))
    return overlay if _works(package, compiled) else None


def _to_c(package: Path, modules: Sequence[str]) -> list[Any] | None:
    """Have mypyc write C for these modules; return what is to be built of it (setuptools' Extensions).

    One group, so that a call between modules is a plain call, but a file for each module: they are
    compiled side by side, and half as long in all as one file of everything.
    """
    from mypyc.build import mypycify

    # Each module as strictly as `make check` does; only that a type variable's class, when called,
    # returns Any is something that mypy says here and not there.
    options = [f"--config-file={ROOT / 'pyproject.toml'}", "--no-warn-return-any", "--cache-dir=/dev/null"]
    said = io.StringIO()
    try:
        # The paths become the modules' names, and stand in tracebacks.
        with chdir(package.parent), redirect_stdout(said), redirect_stderr(said):
            return mypycify(
                [*options, *(f"{package.name}/{path}" for path in modules)],
                multi_file=True,
                group_name=GROUP,
                target_dir=str(WORK / "c"),
            )
    except SystemExit:
        errors = [line for line in said.getvalue().splitlines() if ": warning: " not in line]
        sys.stderr.write("\n".join(errors) + "\nmypyc could not compile the daemons: see above\n")
        return None


def _build(extensions: Sequence[Any], overlay: Path) -> bool:
    """Compile and link, on all cores; False after saying what failed."""
    [library] = [one for one in extensions if one.name == native.LIBRARY]
    includes = [f"-I{folder}" for folder in library.include_dirs]
    includes.append(f"-I{sysconfig.get_path('include')}")
    compile_it = [*_compiler(), *COMPILE, *includes]
    objects = {str(source): f"{source}.o" for source in library.sources}
    # The longest ones first, or the last core works alone at the end.
    commands = [
        [*compile_it, "-c", source, "-o", made]
        for source, made in sorted(objects.items(), key=lambda item: -os.path.getsize(item[0]))
    ]
    for one in extensions:
        if one is not library:
            target = overlay / (one.name.replace(".", "/") + native.SUFFIX)
            commands.append([*compile_it, *LINK_SMALL, *one.sources, "-o", str(target)])
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        done = all(list(pool.map(_run, commands)))
    target = overlay / (native.LIBRARY + native.SUFFIX)
    return done and _run([*_compiler(), *LINK, *objects.values(), "-o", str(target)])


def _works(package: Path, modules: Sequence[str]) -> bool:
    """Import all that was compiled, as a daemon does, in a fresh interpreter; False: it said what failed."""
    code = (
        "import importlib, sys; sys.path.insert(0, sys.argv[1]); from gexec import native\n"
        "assert native.prefer(), 'the overlay is not taken'\n"
        "for name in sys.argv[2:]:\n"
        "    file = importlib.import_module(name).__file__\n"
        "    assert file.endswith(native.SUFFIX), f'{name} is {file}'"
    )
    environment = {name: value for name, value in os.environ.items() if name != native.VARIABLE}
    names = [_module(path) for path in modules]
    words = [sys.executable, "-B", "-c", code, str(package.parent), *names]
    return subprocess.run(words, env=environment, check=False).returncode == 0


def _put_in_place(made: Path) -> None:
    """Replace the overlay. Killed in between, it leaves none: gexec runs interpreted then."""
    if OVERLAY.exists():
        os.rename(OVERLAY, WORK / "old")
    os.rename(made, OVERLAY)


def _run(command: Sequence[str]) -> bool:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.stderr.write(f"{shlex.join(command)}\n{done.stderr}")
    return done.returncode == 0


def _module(path: str) -> str:
    return "gexec." + path.removesuffix(".py").replace("/", ".")


def _made_by(overlay: Path) -> str:
    """Return the first line of an overlay's DIGEST: the compiler that made it; "" if there is none."""
    try:
        return (overlay / native.DIGEST).read_text(encoding="ascii").partition("\n")[0]
    except (OSError, ValueError):
        return ""


def _mypy_version() -> str:
    if importlib.util.find_spec("mypyc") is None:
        raise CannotError("mypyc (it comes with mypy: `make` installs it)")
    return version("mypy")


def _own_digest() -> str:
    """Return a few digits that change with this file: other flags make another library."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


def _compiler() -> list[str]:
    """Return the words that call the C compiler: $CC, or what this Python was compiled with, or cc."""
    told = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    words = shlex.split(told)
    return words if "CC" in os.environ or shutil.which(words[0]) else ["cc"]


def _check_tools() -> None:
    """Raise CannotError for the first thing that is missing."""
    [word, *_] = _compiler()
    if shutil.which(word) is None:
        raise CannotError(f"C compiler, {word} (Debian: apt-get install gcc libc6-dev)")
    header = os.path.join(sysconfig.get_path("include"), "Python.h")
    if not os.path.exists(header):
        raise CannotError(f"{header} (Debian: apt-get install python3-dev)")
    if importlib.util.find_spec("setuptools") is None:
        raise CannotError("setuptools (`make` installs it)")


if __name__ == "__main__":
    sys.exit(main())
