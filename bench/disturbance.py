"""Measures how much one user's attacks slow another user's jobs, quiet and attacked in turns.

Usage: python bench/disturbance.py [--nodes 4] [--rounds 3] [--jobs 15] [--only NAME,NAME]

Needs root, and two accounts with a login shell beside root's. Starts a cluster of its own on 127.0.0.0/8.
Exit status: 0 measured, 1 another user's job failed, or a daemon ended. Speed never fails the run.
"""

from __future__ import annotations

import argparse
import contextlib
import encodings.idna  # noqa: F401  for addresses, after the change of user
import json
import os
import pwd
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gexec
from gexec import limits
from gexec.cluster import control, processes
from gexec.cluster.layout import Layout, environment
from gexec.wire import frames

BIN = Path(sys.executable).parent
#: How long an attack stands before the jobs beside it are measured.
STANDS_S = 8.0
Action = Callable[[], None]


def main() -> int:
    """Measure what the command line requests; return the exit status."""
    parser = argparse.ArgumentParser(description="Time jobs of one user beside attacks of another.")
    parser.add_argument("--nodes", type=int, default=4, help="nodes of the cluster (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="quiet and attacked in turns (default: 3)")
    parser.add_argument("--jobs", type=int, default=15, help="jobs in each turn (default: 15)")
    parser.add_argument("--only", default="", help="names of attacks, separated by commas")
    options = parser.parse_args()
    accounts = [entry for entry in pwd.getpwall() if entry.pw_uid and has_login(entry)]
    if os.geteuid() != 0 or len(accounts) < 2:
        print("bench-disturbance: needs root and two accounts with a login shell", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))
    with running(options.nodes) as (place, names):
        return measure(place, names, accounts[:2], options)


def has_login(entry: pwd.struct_passwd) -> bool:
    """Tell whether an account may run jobs."""
    return not entry.pw_shell.endswith(("nologin", "false"))


@contextlib.contextmanager
def running(nodes: int) -> Iterator[tuple[Layout, list[str]]]:
    """A local cluster, which this process and its children use."""
    place = Layout(Path(tempfile.mkdtemp(prefix="gxb", dir="/tmp")))
    place.dir.chmod(0o755)
    control_ = [sys.executable, str(BIN / "gexecctl"), "cluster"]
    try:
        subprocess.run([*control_, "up", str(nodes), "--dir", str(place.dir)], check=True)
        state = control.require(place)
        os.environ.update(environment(place, state))
        gexec.run(["true"], cwd="/")  # it loads all modules, which other users may not be allowed to read
        yield place, [node.name for node in state.nodes]
    finally:
        subprocess.run([*control_, "down", "--dir", str(place.dir)], check=False)
        shutil.rmtree(place.dir, ignore_errors=True)


def measure(
    place: Layout, names: list[str], accounts: list[pwd.struct_passwd], options: argparse.Namespace
) -> int:
    """Measure each attack; return the exit status."""
    attacker, other = accounts
    state = control.require(place)
    daemons = [process for name in names for process in control.node_processes(state, name)]
    relays = [control.node_processes(state, name)[1].pid for name in names]
    print(f"{'attack':12} {'quiet ms':>9} {'attacked':>9} {'ratio':>6} {'RSS +MiB':>9} {'fds +':>6}")
    for name, attack in attacks(place, names).items():
        if options.only and name not in options.only.split(","):
            continue
        quiet: list[float] = []
        attacked: list[float] = []
        rss, fds = [rss_mib(pid) for pid in relays], [descriptors(pid) for pid in relays]
        more_rss = more_fds = 0.0
        for _ in range(options.rounds):
            quiet += jobs(other, options.jobs)
            with as_user(attacker, attack):
                time.sleep(STANDS_S)
                attacked += jobs(other, options.jobs)
                more_rss = max(
                    [more_rss, *[rss_mib(pid) - was for pid, was in zip(relays, rss, strict=True)]]
                )
                more_fds = max(
                    [more_fds, *[descriptors(pid) - was for pid, was in zip(relays, fds, strict=True)]]
                )
            time.sleep(STANDS_S)
        if None in (*quiet, *attacked) or not all(map(processes.is_alive, daemons)):
            print(f"{name}: a job of another user failed, or a daemon ended", file=sys.stderr)
            return 1
        before, during = statistics.median(quiet) * 1000, statistics.median(attacked) * 1000
        print(f"{name:12} {before:9.1f} {during:9.1f} {during / before:6.2f} {more_rss:9.0f} {more_fds:6.0f}")
    return 0


def rss_mib(pid: int) -> float:
    """Return a process's resident memory."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has."""
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextlib.contextmanager
def as_user(user: pwd.struct_passwd, action: Action) -> Iterator[int]:
    """Do something as this user in a process of its own until the context ends; yield a pipe to read."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()
            os.setgroups([])
            os.setresgid(*[user.pw_gid] * 3)
            os.setresuid(*[user.pw_uid] * 3)
            os.dup2(writing, 1)
            action()
            signal.pause()  # what it holds open, stays open
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    try:
        yield reading
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reading)


def jobs(user: pwd.struct_passwd, count: int) -> list[Any]:
    """Return the seconds of so many jobs of a user on all nodes; None for a job that failed."""

    def run() -> None:
        took: list[float | None] = []
        for _ in range(count):
            begin_s = time.monotonic()
            try:
                done = gexec.run(["true"], cwd="/")
            except gexec.GexecError as error:
                os.write(2, f"{error}\n".encode())
                took.append(None)
                continue
            took.append(time.monotonic() - begin_s if done.ok else None)
        os.write(1, json.dumps(took).encode() + b"\n")

    with as_user(user, run) as reading, os.fdopen(os.dup(reading)) as pipe:
        found: list[Any] = json.loads(pipe.readline())
        return found


# -- attacks ----------------------------------------------------------------------------------


def black_hole(held: list[socket.socket]) -> int:
    """Return a port that answers nobody on any address of this machine while these sockets are open."""
    hole = socket.socket()
    hole.bind(("", 0))
    hole.listen(0)
    held.append(hole)
    for _ in range(4):  # then its queue is full, and the kernel lets further packets fall
        held.append(socket.socket())
        held[-1].setblocking(False)
        held[-1].connect_ex(("127.0.0.1", hole.getsockname()[1]))
    return int(hole.getsockname()[1])


def attacks(place: Layout, names: list[str]) -> dict[str, Action]:
    """Return all attacks by their names."""
    state = control.require(place)
    peer = (state.nodes[0].address, state.port)
    path = str(place.socket(names[0]))

    held: list[socket.socket] = []

    def job(argv: list[str], nodes: list[str], **more: Any) -> None:
        gexec.run(argv, nodes=nodes, cwd="/", **more)

    def connections() -> None:
        """2,000 idle connections, 200 slow ones, and garbage, from one address."""
        for number in range(2200):
            with contextlib.suppress(OSError):
                held.append(socket.create_connection(peer, 5, source_address=("127.99.0.1", 0)))
                if number % 11 == 0:
                    held[-1].sendall(b"\x16\x03\x01\x02\x00\x01")
        while True:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(peer, 5, source_address=("127.99.0.1", 0)) as sock,
            ):
                sock.sendall(os.urandom(4096))
            for sock in held[::11]:
                with contextlib.suppress(OSError):
                    sock.send(b"\x01")
            time.sleep(0.02)

    def submissions() -> None:
        """384 submissions of which a part is missing."""
        size = limits.JOB_FRAME_MAX_BYTES
        begun = frames.encode(0, frames.Hello(1, "bench")) + struct.pack("!IBI", size, 16, 1)
        for _ in range(384):
            with contextlib.suppress(OSError):
                held.append(socket.socket(socket.AF_UNIX))
                held[-1].connect(path)
                held[-1].sendall(begun + bytes(size - 1000))
        signal.pause()

    def helper() -> None:
        """A stopped helper, and 900 ranks on each node."""
        if os.fork():
            job(["sh", "-c", "trap '' HUP TERM; while sleep 0.1; do kill -STOP $PPID; done"], names)
        job(["sleep", "100"], names * 900)

    def holes() -> None:
        """65,536 addresses that do not answer."""
        port = black_hole(held)
        many = [f"127.{10 + n // 62500}.{n // 250 % 250}.{1 + n % 250}:{port}" for n in range(65_536)]
        job(["true"], many, fanout=1024)

    def strict() -> None:
        """300 strict jobs with a node that does not answer."""
        port = black_hole(held)
        for _ in range(300):
            if not os.fork():
                job(["true"], [*names, f"127.200.0.1:{port}"], strict=True, connect_timeout_s=60.0)
                os._exit(0)

    bomb = "ulimit -u 400 2>/dev/null || ulimit -p 400 || exit 9; f() { f & f & exec sleep 100; }; f; read x"
    return {
        "connections": connections,
        "submissions": submissions,
        "helper": helper,
        "ranks": lambda: job(["sleep", "100"], [names[0]] * 4096),
        "holes": holes,
        "strict": strict,
        "bomb": lambda: job(["sh", "-c", bomb], names[:1]),
    }


if __name__ == "__main__":
    sys.exit(main())
