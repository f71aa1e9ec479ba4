"""What a keeper of a background job costs (docs/decisions/0029): time to start, and memory.

Usage: python bench/keepers.py [--count N] [--kept N]

Starts N tasks, one at a time, in this process as in a helper: plain ones, background ones, and background
ones of a user of whom the node keeps many ranks already. Then an interpreter that loads what a keeper needs,
as if keepers were executed. Times are min and median; memory is the proportional set size (PSS) of one of N.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gexec.posix import identity
from gexec.spawner.launcher import Launcher
from gexec.wire.launches import Keeping, LaunchSpec
from gexec.wire.messages import ProcessRefused

_EXECUTED = "import gexec.jobs.beginning, sys; sys.stdout.write('x'); sys.stdout.flush(); input()"


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--kept", type=int, default=1000)
    options = parser.parse_args()
    identity.become_subreaper()
    gc.disable()
    spool = tempfile.mkdtemp(prefix="gxk")
    os.mkdir(f"{spool}/{os.geteuid()}", 0o700)
    launcher = Launcher(lambda event: _check(event))
    try:
        for name, keeping in (("task", None), ("background task", _keeping(spool))):
            print(f"{name}: {_ms(launcher, options.count, keeping)}")
        pids = list(launcher._by_pid)[options.count :]
        print(f"keeper: {_pss_kb(pids) / 1024:.1f} MB PSS, one of {len(pids)}")
        _many(spool, options.kept)
        print(f"background task, {options.kept} ranks kept: {_ms(launcher, 20, _keeping(spool))}")
        _executed(options.count)
    finally:
        for pid in launcher._by_pid:
            subprocess.run(["pkill", "-KILL", "-P", str(pid)], check=False)
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(spool)


def _check(event: object) -> None:
    if isinstance(event, ProcessRefused):
        raise SystemExit(event.outcome.describe())


_number = iter(range(1, 1_000_000))


def _ms(launcher: Launcher, count: int, keeping: Keeping | None) -> str:
    """Return the times of starts."""
    times_s = []
    for _ in range(count):
        number = next(_number)
        spec = LaunchSpec(
            b"/bin/sleep", [b"sleep", b"1000"], [b"PATH=/bin"], b"/", 0o22, False, 1.0,
            number.to_bytes(16), 0, True, keeping,
        )  # fmt: skip
        fds = tuple([os.open("/dev/null", os.O_RDWR) for _ in range(3)])
        begin_s = time.perf_counter()
        launcher.start(number, spec, fds)
        times_s.append(time.perf_counter() - begin_s)
    return _shown(times_s)


def _shown(times_s: list[float]) -> str:
    return f"{1000 * min(times_s):.1f}, {1000 * statistics.median(times_s):.1f} ms"


def _keeping(spool: str) -> Keeping:
    return Keeping(spool, 100_000, 2**50, "", 2**20, 60.0, False, 0.0, "node", 1, "user")


def _many(spool: str, count: int) -> None:
    """Let the user have more kept ranks: copies of the first one, which has ended."""
    user = Path(spool) / str(os.geteuid())
    first = next(user.iterdir())
    end = b'{"format": 1, "outcome": [0, 0, ""], "ended_s": 1, "lengths": [0, 0], "dropped": [0, 0], '
    end += b'"why": "", "held": false, "expires_s": 1e10}\n'
    for number in range(count - len(list(user.iterdir()))):
        place = user / f"{number:032x}.1"
        place.mkdir()
        text = (first / "job.json").read_text()
        text = text.replace(first.name[:32], place.name[:32]).replace('"rank": 0', '"rank": 1')
        (place / "job.json").write_text(text)
        (place / "stdout.0").write_text("x")
        (place / "end.json").write_bytes(end)


def _pss_kb(pids: list[int]) -> float:
    def one(pid: int) -> int:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("Pss:")).split()[1])

    return statistics.median([one(pid) for pid in pids])


def _executed(count: int) -> None:
    times_s, begun = [], []
    for _ in range(count):
        begin_s = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _EXECUTED], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.read(1)
        times_s.append(time.perf_counter() - begin_s)
        begun.append(process)
    mb = _pss_kb([process.pid for process in begun]) / 1024
    print(f"executed interpreter: {_shown(times_s)}, {mb:.1f} MB PSS, one of {count}")
    for process in begun:
        process.communicate(b"\n")


if __name__ == "__main__":
    main()
