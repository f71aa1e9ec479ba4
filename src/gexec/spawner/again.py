"""The spawner executes itself anew: another program in the same process, with the same children.

The pid stays, so tasks, starter and helpers stay this process's children, and its channels are inherited
descriptors. Everything else that must not be forgotten is in a sealed memfd: above all which credentials were
used before. Starter and helpers run the code with which they were forked, until gexecd ends, or their tasks
have ended: the tables of ``wire.launches`` must stay compatible. Source: docs/decisions/0030-upgrades.md.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from typing import Any, Final

from gexec.posix import channel, clock, identity
from gexec.spawner.auditing import EndedTask
from gexec.spawner.handover import Handover
from gexec.spawner.launching import LaunchedTask
from gexec.spawner.program import SpawnerProcess
from gexec.spawner.spawner import SIGNALS
from gexec.spawner.tasks import Tasks
from gexec.spawner.upgrades import STATE
from gexec.version import VERSION

#: The argument that makes this program tell what it is.
TRIAL: Final = "trial"


def main(argv: list[str]) -> int:
    """Continue as the spawner; return gexecd's exit status.

    Args:
        argv: the descriptor of the state, then gexecd's own arguments, which only ps shows; or ``trial``.
    """
    if argv == [TRIAL]:
        sys.stdout.write(json.dumps({"state": STATE, "version": VERSION}))
        return 0
    fd = int(argv[0])
    saved = json.loads(channel.unsealed(fd))
    os.close(fd)
    identity.close_inherited(saved["fds"])
    identity.keep_from_programs()
    process = resumed(saved)
    return process.run()


def execute(process: SpawnerProcess, told: str) -> None:
    """Execute the spawner's code that is installed now; returns only if that cannot be done.

    Args:
        told: the report about the upgrade, for those who have asked for it.

    Raises:
        OSError, ValueError: nothing has changed. BlockingIOError: a signal must be handled first.
    """
    handed, fds = process.handed, list[int]()
    # The mask stays: signals that arrive now are for the new program.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        if process.spawner.loop.has_signals:
            raise BlockingIOError("a signal has arrived")
        process.audit.settle()
        saved = save(process) | {"told": told}
        fds = [channel.sealed(json.dumps(saved).encode()), *saved["fds"]]
        for fd in fds:
            os.set_inheritable(fd, True)
        os.execv(handed.again[0], [*handed.again, str(fds[0]), *handed.argv])
    finally:
        for fd in fds:
            os.set_inheritable(fd, False)
        if fds:
            os.close(fds[0])
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def save(process: SpawnerProcess) -> dict[str, Any]:
    """Return the state of the spawner, in types that JSON can represent."""
    spawner, handed = process.spawner, process.handed
    handed.relay_pid = spawner.relay_pid
    handed.channel_fd = spawner.port.endpoint.fileno()
    helpers = spawner.helpers.save()
    queue = spawner.port.endpoint.save()
    fds = [*handed.descriptors]
    for task in spawner.tasks.running.values():
        fds += task.kept
    for each in (helpers["starter"], *helpers["helpers"]):
        if each is not None and each["fd"] >= 0:
            fds.append(each["fd"])
    for queued in (queue, *(each["queue"] for each in (helpers["starter"], *helpers["helpers"]) if each)):
        fds += [fd for _, message_fds in queued for fd in message_fds]
    return {
        "fds": fds,
        "handed": asdict(handed),
        "clock_s": clock.now_s(),
        "starter_pid": spawner.starter_pid,
        "queue": queue,
        "helpers": helpers,
        "tasks": _saved_tasks(spawner.tasks),
        "replay": process.admission.replay.save(),
        "audit": process.audit.save(),
    }


def resumed(saved: dict[str, Any]) -> SpawnerProcess:
    """Return the spawner of a saved state; ``run`` it."""
    clock.resume(saved["clock_s"])
    process = SpawnerProcess(
        Handover(**saved["handed"]), _no_starter, lambda: None, is_clean=True, execute=execute
    )
    process.audit.restore(saved["audit"])
    process.admission.replay.restore(saved["replay"])
    spawner = process.spawner
    spawner.starter_pid = saved["starter_pid"]
    spawner.port.endpoint.restore(saved["queue"])
    _restore_tasks(spawner.tasks, saved["tasks"], spawner.helpers.restore(saved["helpers"]))
    process.upgrades.resumed(saved["told"])
    return process


def _no_starter() -> Any:
    raise OSError("the starter has ended")


def _saved_tasks(tasks: Tasks) -> dict[str, Any]:
    return {
        "running": [(number, task.save()) for number, task in tasks.running.items()],
        "detached": [(number, task.save()) for number, task in tasks.detached.items()],
        "ended": [
            (number, ended.job_hex, ended.rank, ended.leaves, ended.uid, ended.told, ended.helper)
            for number, ended in tasks.ended.items()
        ],
        "places": tasks.places.save(),
        "tidy_by_s": tasks.tidy_by_s,
        "left_by_starter": tasks.left_by_starter,
    }


def _restore_tasks(tasks: Tasks, saved: dict[str, Any], helpers: dict[int, Any]) -> None:
    for number, task in saved["running"]:
        tasks.running[number] = LaunchedTask.restored(task, helpers)
    for number, task in saved["detached"]:
        tasks.detached[number] = LaunchedTask.restored(task, helpers)
    for number, *ended in saved["ended"]:
        tasks.ended[number] = EndedTask.restored(*ended)
    tasks.places.restore(saved["places"])
    tasks.tidy_by_s = saved["tidy_by_s"]
    tasks.left_by_starter = saved["left_by_starter"]
