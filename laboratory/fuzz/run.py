"""Runs the fuzzer: ``python -m laboratory.fuzz.run [TARGET ...] [--seconds N] [--keep]``.

Each target runs in a process of its own, as an ordinary user if this is root, beginning with the kept inputs
and the target's seeds. A finding ends the target; its input is written to ``bench-results/fuzz``. ``--keep``
adds the inputs that reached new code to the kept ones (the smallest set that reaches all of it).
"""

from __future__ import annotations

import argparse
import os
import pwd
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

#: The inputs that are kept, one directory for each target.
CORPORA = Path(__file__).resolve().parent / "corpora"
TraceFunction = Callable[[FrameType, str, Any], Any]
_FINDINGS = Path("bench-results") / "fuzz"
#: An input that takes longer is a finding.
_SLOW_S = 10
_MEMORY_MIB = 2048


def main(words: list[str]) -> int:
    """Run the targets one after another; return 1 if there is a finding."""
    names = sorted(path.name for path in CORPORA.iterdir())
    parser = argparse.ArgumentParser(prog="make fuzz", description="Fuzz the parsers.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join(names)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument(
        "--keep", action="store_true", help="add the inputs that reached new code to corpora/"
    )
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--place", help=argparse.SUPPRESS)
    parser.add_argument("--choose", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.one:
        place = Path(options.place)
        return _choose(options.one, place) if options.choose else _fuzz(options.one, place, options.seconds)
    for name in options.targets:
        if name not in names:
            parser.error(f"there is no target {name}: choose from {', '.join(names)}")
    failed = [
        name for name in options.targets or names if not _supervise(name, options.seconds, options.keep)
    ]
    if failed:
        print(f"findings in: {', '.join(failed)}")
    return 1 if failed else 0


def _supervise(name: str, seconds: int, keep: bool) -> bool:
    """Run one target; return whether it found nothing."""
    from laboratory.fuzz.targets import TARGETS

    with tempfile.TemporaryDirectory(prefix="gexec-fuzz-") as made:
        place = Path(made)
        for directory in ("inputs", "kept", "findings"):
            (place / directory).mkdir()
        for path in (CORPORA / name).glob("*"):
            shutil.copy(path, place / "inputs")
        for seed in TARGETS[name].seeds():
            (place / "inputs" / sha256(seed).hexdigest()[:16]).write_bytes(seed)
        command = [sys.executable, "-m", "laboratory.fuzz.run", "--one", name, "--place", made]
        print(f"{name}: {seconds} s", flush=True)
        status = subprocess.run([*command, "--seconds", str(seconds)], check=False).returncode
        found = sorted((place / "findings").iterdir())
        for path in found:
            _FINDINGS.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, _FINDINGS / f"{name}-{path.name}")
            print(f"{name}: finding: {_FINDINGS / f'{name}-{path.name}'}")
        if keep and not found and status == 0:
            subprocess.run([*command, "--choose"], check=True)
            _replace(CORPORA / name, place / "kept")
        return status == 0 and not found


def _replace(corpus: Path, kept: Path) -> None:
    """Make the kept inputs the target's corpus; findings stay."""
    corpus.mkdir(parents=True, exist_ok=True)
    for path in corpus.iterdir():
        if not path.name.startswith("finding-"):
            path.unlink()
    for path in kept.iterdir():
        shutil.copyfile(path, corpus / sha256(path.read_bytes()).hexdigest()[:16])


def _fuzz(name: str, place: Path, seconds: int) -> int:
    """Fuzz in this process; does not return if there is a finding."""
    import atheris

    with atheris.instrument_imports(include=["gexec"]):
        from laboratory.fuzz.targets import INPUT_MAX_BYTES
    run = _begin(name, place)
    options = [
        f"-max_len={INPUT_MAX_BYTES}",
        f"-timeout={_SLOW_S}",
        f"-rss_limit_mb={_MEMORY_MIB}",
        f"-artifact_prefix={place / 'findings'}/",
        f"-max_total_time={seconds}",
        "-print_final_stats=1",
    ]
    atheris.Setup([f"fuzz-{name}", *options, str(place / "inputs")], run)
    atheris.Fuzz()
    return 0


def _choose(name: str, place: Path) -> int:
    """Copy the inputs to keep: of each that reaches a step between lines that no smaller one reaches."""
    run = _begin(name, place)
    reached: set[tuple[object, int, int]] = set()
    steps: set[tuple[object, int, int]] = set()

    def trace(frame: FrameType, event: str, _: Any) -> TraceFunction | None:
        if "/gexec/" not in frame.f_code.co_filename:
            return None
        last = frame.f_lineno

        def step(frame: FrameType, event: str, _: Any) -> TraceFunction:
            nonlocal last
            steps.add((frame.f_code, last, frame.f_lineno))
            last = frame.f_lineno
            return step

        return step

    for path in sorted((place / "inputs").iterdir(), key=lambda path: (path.stat().st_size, path.name)):
        data = path.read_bytes()
        steps.clear()
        sys.settrace(trace)
        try:
            run(data)
        finally:
            sys.settrace(None)
        if steps - reached:
            reached |= steps
            (place / "kept" / path.name).write_bytes(data)
    return 0


def _begin(name: str, place: Path) -> Callable[[bytes], None]:
    """Return the target's function, in a process that is no longer root."""
    from laboratory.fuzz.targets import TARGETS

    target = TARGETS[name]
    tempfile.tempdir = tempfile.mkdtemp(prefix="own-", dir=place)
    # What is imported at the first use is imported now: another user may not be able to read it.
    for seed in target.seeds():
        target.run(seed)
    if os.geteuid() == 0:
        _become_nobody(place)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return target.run


def _become_nobody(place: Path) -> None:
    """Drop the rights of root for good: a defect of a parser must not touch this machine."""
    nobody = pwd.getpwnam("nobody")
    place.chmod(0o711)
    for path in place.rglob("*"):
        os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)
    os.setgroups([])
    os.setresgid(nobody.pw_gid, nobody.pw_gid, nobody.pw_gid)
    os.setresuid(nobody.pw_uid, nobody.pw_uid, nobody.pw_uid)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
