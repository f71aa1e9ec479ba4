"""Install the wheel into an environment of its own, build/wheel-env, in which system tests run.

Usage: python packaging/wheel_environment.py [PYTHON]

The environment has what a node has and nothing else: the pinned packages of requirements/runtime.txt
and the wheel, built anew from the sources and the compiled modules as they are. Packages are installed
again only if the requirements or the interpreter changed, the wheel only if its content did.

PYTHON is asked for its pip if this interpreter has none. Exit status: 0 the environment is current,
1 it could not be made (stderr has the error of the tool that failed).
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / "build" / "wheel-env"
PYTHON = ENVIRONMENT / "bin" / "python"
#: Where the wheel is built: dist/ is for `make wheel`.
WHEELS = ROOT / "build" / "wheel"
REQUIREMENTS = ROOT / "requirements" / "runtime.txt"
#: Files in the environment that hold the digest of what it was made from.
PACKAGES_STAMP = ENVIRONMENT / ".packages"
WHEEL_STAMP = ENVIRONMENT / ".wheel"


def main(arguments: list[str]) -> int:
    """Bring the environment up to date."""
    ENVIRONMENT.parent.mkdir(exist_ok=True)
    with open(ENVIRONMENT.parent / "wheel.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            wheel = build()
            pip = [*_pip(arguments), "--python", str(PYTHON), "install", "--quiet"]
            packages = _digest(REQUIREMENTS.read_bytes(), sys.version.encode(), sys.base_prefix.encode())
            if _read(PACKAGES_STAMP) != packages:
                # With pip of another environment, so that ours has no pip that a node would not have.
                _run(sys.executable, "-m", "venv", "--clear", "--without-pip", str(ENVIRONMENT))
                _run(*pip, "--require-hashes", "--only-binary", ":all:", "-r", str(REQUIREMENTS))
                PACKAGES_STAMP.write_text(packages)
            content = _digest(wheel.name.encode(), wheel.read_bytes())
            if _read(WHEEL_STAMP) != content:
                WHEEL_STAMP.unlink(missing_ok=True)
                # pip compiles the modules' bytecode, too, as `make compiled` does for the sources.
                _run(*pip, "--no-deps", "--no-index", "--force-reinstall", str(wheel))
                WHEEL_STAMP.write_text(content)
        except subprocess.CalledProcessError as error:
            sys.stderr.write(f"cannot make {ENVIRONMENT}: {error}\n")
            return 1
    return 0


def build() -> Path:
    """Build the wheel; return its path. The same sources make the same bytes."""
    shutil.rmtree(WHEELS, ignore_errors=True)
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(WHEELS))
    [wheel] = WHEELS.glob("gexec-*.whl")
    return wheel


def _pip(pythons: list[str]) -> list[str]:
    """Return the arguments that call pip: this interpreter's, or that of the first of others that has it."""
    for python in (sys.executable, *pythons):
        if (
            subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode
            == 0
        ):
            return [python, "-m", "pip"]
    return [sys.executable, "-m", "pip"]  # its error says what is missing


def _run(*command: str) -> None:
    """Run a command. Its output is shown only if it fails: hatchling and pip tell of what goes well, too."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout.decode(errors="replace"))
        done.check_returncode()


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(b"%d\0" % len(part) + part)
    return digest.hexdigest()


def _read(stamp: Path) -> str:
    try:
        return stamp.read_text(encoding="ascii")
    except FileNotFoundError:
        return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
