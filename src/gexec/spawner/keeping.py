"""Forks the keeper of a background job's rank (``jobs.keeper``), which starts the task itself.

The caller waits until the keeper has started the command, or says why not: so a program that is not there is
*not started*, as that of any other job. Like a ``chdir`` to a file system that does not answer, that can stop
the tasks of one user only.

All that a keeper needs is loaded before the fork, and by the starter: keepers share its pages, and after an
upgrade starter, helpers and keepers run the code with which the starter began
(docs/decisions/0030-upgrades.md).
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import time
from typing import Final, NoReturn

from gexec.errors import ProtocolError
from gexec.jobs.beginning import CannotBegin, begin
from gexec.jobs.keeper import Keeper, KeeperTerms
from gexec.posix import identity
from gexec.spawner import starting
from gexec.spawner.starting import Refusal, Ways
from gexec.wire import outcome
from gexec.wire.launches import Keeping, LaunchSpec
from gexec.wire.messages import OUTCOME

_STARTED: Final = b"S"
_REFUSED: Final = b"R"
_TOLD_MAX_BYTES: Final = 8192


def spawn_kept(spec: LaunchSpec, keeping: Keeping, stdin: int, ways: Ways) -> tuple[int, int]:
    """Fork a keeper that starts a task; return the pids of the keeper, our child, and of the task.

    Args:
        stdin: what the task reads. stdout and stderr are the keeper's.

    Raises:
        Refusal: it cannot be started; the outcome gives the reason.
    """
    reading = writing = -1
    try:
        reading, writing = os.pipe2(os.O_CLOEXEC)
        pid = _forked(spec, keeping, stdin, ways, writing)
    except OSError as error:
        if reading >= 0:
            os.close(reading)
        raise Refusal(outcome.no_room(f"no keeper: {error.strerror}")) from error
    finally:
        if writing >= 0:
            os.close(writing)
    told = b""
    with open(reading, "rb", buffering=0) as file:
        while piece := file.read(_TOLD_MAX_BYTES):
            told += piece
    if told[:1] == _STARTED:
        return pid, int(told[1:])
    os.waitpid(pid, 0)
    if told[:1] == _REFUSED:
        try:
            (refused,) = OUTCOME.unpack(told[1:])
        except ProtocolError:
            refused = None
        if refused is not None:
            raise Refusal(refused)
    raise Refusal(outcome.not_started("the keeper of this background job ended before it started it"))


def _forked(spec: LaunchSpec, keeping: Keeping, stdin: int, ways: Ways, told_fd: int) -> int:
    # A signal for the helper must not run the helper's handlers in the child.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _be_keeper(spec, keeping, stdin, ways, told_fd)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_keeper(spec: LaunchSpec, keeping: Keeping, stdin: int, ways: Ways, told_fd: int) -> NoReturn:
    code = 70
    try:
        gc.freeze()  # pages of what the helper had stay shared
        signal.set_wakeup_fd(-1)
        os.setpgid(0, 0)
        os.umask(0o077)
        identity.close_inherited([stdin, told_fd])
        identity.null_stdio()
        identity.become_subreaper()
        identity.set_title("gexecd-keeper")
        keeper = _begun(spec, keeping, stdin, ways, told_fd)
        if keeper is not None:
            os.close(stdin)
            os.write(told_fd, _STARTED + b"%d" % keeper.pid)
            os.close(told_fd)
            _relax()
            status = keeper.run()
            _end_as(status)
            code = os.WEXITSTATUS(status)
    except BaseException:
        pass  # no traceback: stderr is /dev/null; the exit status reports the failure
    finally:
        os._exit(code)


def _begun(spec: LaunchSpec, keeping: Keeping, stdin: int, ways: Ways, told_fd: int) -> Keeper | None:
    """Start the keeper's work; None, and the reason in ``told_fd``, if the task cannot be started."""

    def start(fds: tuple[int, int, int]) -> int:
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        return starting.spawn(spec, fds, ways)

    try:
        return begin(
            keeping,
            spec.job_hex,
            spec.rank,
            argv=spec.argv,
            cwd=spec.cwd,
            terms=KeeperTerms(
                keeping.keep_bytes,
                spec.kill_grace_s,
                spec.leaves,
                keeping.timeout_s,
                keeping.holds,
                keeping.lease_s,
            ),
            start=start,
            stdin=stdin,
            now_s=time.time(),
        )
    except Refusal as refusal:
        refused = refusal.outcome
    except CannotBegin as cannot:
        refused = outcome.not_started(str(cannot))
    except Exception as error:
        refused = outcome.unexpected(error)
    os.write(told_fd, _REFUSED + OUTCOME.pack(refused))
    return None


def _relax() -> None:
    """Let the keeper of a long job have as much CPU time as its user may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    except (OSError, ValueError):
        pass


def _end_as(status: int) -> None:
    """End this process by the signal that ended the command, for the audit log; return if none did."""
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signum = os.WTERMSIG(status)
        if signum != signal.SIGKILL:
            signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
