"""The floor: the same command, started the same number of times on the machine itself, one at a time per
core.

No network, no trees, no checks: os.posix_spawn, output read through pipes, exit status waited for. No tool
that starts the processes on this machine can be faster, so times are given as ratios to it.
"""

from __future__ import annotations

import os
import time

CORES = len(os.sched_getaffinity(0))


def floor_s(argv: list[str], count: int) -> float:
    """Return the seconds that ``count`` starts of ``argv`` take, shared among the cores.

    Raises:
        RuntimeError: one of them failed.
    """
    shares = [count // CORES + (index < count % CORES) for index in range(CORES)]
    gate_reader, gate_writer = os.pipe()
    workers = []
    for share in shares:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.close(gate_writer)
                os.read(gate_reader, 1)  # until the gate opens: its writer closes
                _start_each(argv, share)
                status = 0
            finally:
                os._exit(status)
        workers.append(pid)
    os.close(gate_reader)
    started_s = time.perf_counter()
    os.close(gate_writer)
    statuses = [os.waitpid(pid, 0)[1] for pid in workers]
    taken_s = time.perf_counter() - started_s
    if any(statuses):
        raise RuntimeError(f"{argv[0]} failed on the bare machine")
    return taken_s


def _start_each(argv: list[str], count: int) -> None:
    environ = dict(os.environ)
    for _ in range(count):
        out_reader, out_writer = os.pipe()
        error_reader, error_writer = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, out_writer, 1), (os.POSIX_SPAWN_DUP2, error_writer, 2)]
        pid = os.posix_spawn(argv[0], argv, environ, file_actions=actions)
        os.close(out_writer)
        os.close(error_writer)
        for reader in (out_reader, error_reader):
            while os.read(reader, 65536):
                pass
            os.close(reader)
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError(f"{argv[0]} failed")
