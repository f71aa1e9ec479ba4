"""`make demo`: eight real nodes on this machine run commands; exit status 0 if all results are as expected.

Starts a local cluster as the current user, in a folder that is removed at the end. Shows each
command as a user would type it, its output and its exit status, and compares both with what is
expected.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

NODES = 8
DEADLINE_S = 60.0
BIN = Path(sys.executable).parent
NAMES = [f"node{number:03d}" for number in range(1, NODES + 1)]

Check = Callable[[str, str], bool]


class Demo:
    """Shows commands and remembers whether one was not as expected."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.environ = environ
        self.failures = 0

    def show(self, what: str, shell: str, status: int, as_expected: Check) -> None:
        """Run one line of shell and show it; ``as_expected`` gets stdout and stderr."""
        print(f"\n# {what}\n$ {shell}", flush=True)
        try:
            done = subprocess.run(
                ["/bin/sh", "-c", shell],
                env=self.environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=DEADLINE_S,
            )
        except subprocess.TimeoutExpired:
            print(f"   NOT AS EXPECTED: no end after {DEADLINE_S:g} s", flush=True)
            self.failures += 1
            return
        sys.stdout.write(done.stdout)
        for line in done.stderr.splitlines():
            print(f"{line}   (stderr)")
        if done.returncode != 0:
            print(f"(exit status {done.returncode})")
        if done.returncode != status or not as_expected(done.stdout, done.stderr):
            print(f"   NOT AS EXPECTED (exit status {done.returncode}, expected {status})")
            self.failures += 1
        sys.stdout.flush()


def main() -> int:
    """Run the demo; return its exit status."""
    folder = Path(tempfile.mkdtemp(prefix="gexec-demo-", dir="/tmp"))
    if os.geteuid() == 0:
        folder.chmod(0o755)
    bin_folder = _commands(folder)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GEXEC_")}
    environ["PATH"] = f"{bin_folder}:{environ.get('PATH', os.defpath)}"
    environ["GEXEC_CLUSTER_DIR"] = str(folder / "cluster")
    demo = Demo(environ)
    try:
        demo.show(
            f"a cluster of {NODES} nodes on this machine: authd and {NODES} gexecds, with their own keys",
            f"gexecctl cluster up {NODES}",
            0,
            lambda out, err: out.startswith("8 nodes, node001 to node008"),
        )
        if not demo.failures:
            _jobs(demo)
            demo.show(
                "end the cluster: no process is left",
                "gexecctl cluster down",
                0,
                lambda out, err: out == "ended: 8 nodes, node001 to node008\n",
            )
    finally:
        down = [sys.executable, str(BIN / "gexecctl"), "cluster", "down"]
        subprocess.run(down, env=environ, stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)
    if demo.failures:
        print(f"\n{demo.failures} of the commands did not give the expected result")
        return 1
    print("\nAll commands gave the expected results.")
    return 0


def _commands(folder: Path) -> Path:
    """Return a folder for PATH with this project's commands, also where they are not installed."""
    commands = folder / "bin"
    commands.mkdir()
    for name in ("gexec", "enexec", "gexecctl"):
        path = commands / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {BIN / name} "$@"\n')
        path.chmod(0o755)
    return commands


def _jobs(demo: Demo) -> None:
    demo.environ.update(_cluster_environment(demo.environ))
    print('$ eval "$(gexecctl cluster env)"')
    root = os.geteuid() == 0
    demo.show(
        "one command on all nodes; -p host puts the node's name in front"
        + ("" if root else " (as root each node would also have its own host name)"),
        "gexec -n 0 -p host hostname",
        0,
        lambda out, err: not err and _labels(out) == NAMES and (not root or _rest(out) == NAMES),
    )
    demo.show(
        "the first three nodes; each line has the number of its process in front",
        "gexec -n 3 sh -c 'echo I am $GEXEC_MY_VNN of $GEXEC_NPROCS on $GEXEC_NODE'",
        0,
        lambda out, err: sorted(out.splitlines()) == [f"{i} I am {i} of 3 on {NAMES[i]}" for i in range(3)],
    )
    demo.show(
        "enexec runs a shell line, each line behind its node's name; these two nodes",
        "enexec -n 'node002 node003' 'echo a b | wc -w'",
        0,
        lambda out, err: not err and sorted(out.splitlines()) == ["node002 2", "node003 2"],
    )
    demo.show(
        "a range of nodes; -b shows equal output once, the smallest group last",
        "enexec -b -n 'node[001-008]' 'test $GEXEC_NODE = node005 && echo other || echo same'",
        0,
        lambda out, err: not err and out == "--- node[001-004,006-008] (7)\nsame\n--- node005 (1)\nother\n",
    )
    demo.show(
        "a rolling change: two nodes at a time, until one fails",
        "gexec --batch 2 --max-failures 0 -p host sh -c 'echo done; test $GEXEC_NODE != node003'",
        255,
        lambda out, err: _labels(out) == NAMES[:4] and "node003: exited 1" in err and "node[005-008]" in err,
    )
    demo.show(
        "stdout and stderr are separate, and the exit status is the highest of all",
        "gexec -n 0 -p host sh -c 'echo out; echo err >&2; exit $GEXEC_MY_VNN'",
        7,
        lambda out, err: (
            sorted(out.splitlines()) == [f"{name} out" for name in NAMES]
            and {f"{name} err" for name in NAMES} <= set(err.splitlines())
            and len(err.splitlines()) > NODES
        ),
    )
    demo.show(
        "stdin goes to every node",
        "seq 1000000 | gexec -n 0 -p none sha256sum | sort | uniq -c",
        0,
        lambda out, err: re.fullmatch(r"\s*8 [0-9a-f]{64}  -\n", out) is not None and not err,
    )
    demo.show(
        "a node that does not exist does not stop the others; the error names it",
        "gexec -w node001,nowhere.invalid,node002 -p host echo here",
        255,
        lambda out, err: (
            sorted(out.splitlines()) == ["node001 here", "node002 here"] and "nowhere.invalid" in err
        ),
    )
    demo.show(
        "--timeout ends the processes on all nodes",
        "gexec -n 2 --timeout 0.5 sleep 1000",
        124,
        lambda out, err: not out and "timed out" in err,
    )
    demo.show(
        "doctor checks keys, daemons, clocks and names",
        "gexecctl doctor",
        0,
        lambda out, err: "problem" not in out,
    )


def _cluster_environment(environ: dict[str, str]) -> dict[str, str]:
    """Return what the shell would have after eval "$(gexecctl cluster env)"."""
    shell = 'eval "$(gexecctl cluster env)" && env -0'
    done = subprocess.run(["/bin/sh", "-c", shell], env=environ, capture_output=True, text=True)
    pairs = (entry.partition("=") for entry in done.stdout.split("\0"))
    return {name: value for name, _, value in pairs if name.startswith("GEXEC_")}


def _labels(out: str) -> list[str]:
    return sorted(line.partition(" ")[0] for line in out.splitlines())


def _rest(out: str) -> list[str]:
    return sorted(line.partition(" ")[2] for line in out.splitlines())


if __name__ == "__main__":
    sys.exit(main())
