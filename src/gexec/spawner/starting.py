"""Starts a task's program, or reports why it cannot be started."""

from __future__ import annotations

import errno
import os
import signal
import stat as stat_module
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from gexec.wire import outcome
from gexec.wire.launches import LaunchSpec
from gexec.wire.outcome import Outcome, shown_path

if TYPE_CHECKING:
    from gexec.spawner.commands import Permitted  # few helpers need it

_DEFAULT_PATH: Final = b"/usr/local/bin:/usr/bin:/bin"
_ALL_SIGNALS: Final = tuple(sorted([int(signum) for signum in signal.valid_signals()]))


class Refusal(Exception):
    """A task cannot be started; ``outcome`` is the outcome of its rank."""

    def __init__(self, refused: Outcome) -> None:
        super().__init__(refused.text)
        self.outcome = refused


class Ways:
    """How the tasks of one helper are started.

    Args:
        commands: checks programs; None = all are permitted.
        env: variables of this node, which replace those of jobs.
    """

    __slots__ = ("commands", "env")

    def __init__(self, commands: Permitted | None = None, env: Mapping[bytes, bytes] | None = None) -> None:
        self.commands = commands
        self.env = env or {}

    def environment(self, spec: LaunchSpec) -> dict[bytes, bytes]:
        """Return the environment of a task."""
        env = {name: value for name, _, value in [entry.partition(b"=") for entry in spec.env]}
        if self.commands is not None:
            env = self.commands.environment(env)
        env.update(self.env)
        return env

    def program(self, spec: LaunchSpec, env: dict[bytes, bytes]) -> bytes:
        """Return the path of a task's program, in the task's working directory.

        Raises:
            Refusal: it is not found, or not permitted.
        """
        program = spec.program
        if spec.remote_path and b"/" not in program:
            program = _looked_up(spec, env)
        if self.commands is None:
            return program
        from gexec.spawner.commands import CommandDenied

        try:
            return self.commands.checked(os.path.join(os.getcwdb(), program))
        except OSError as error:
            raise _spawn_refusal(spec, error) from error
        except CommandDenied as error:
            raise Refusal(outcome.denied(str(error))) from error


def spawn(spec: LaunchSpec, fds: tuple[int, ...], ways: Ways) -> int:
    """Start a task's program with ``fds`` as stdin, stdout and stderr; return its pid.

    The new process is in this process's session, in its own process group, and has this process's limits.

    Raises:
        Refusal: it cannot be started; the outcome gives the reason.
    """
    env = ways.environment(spec)
    umask = os.umask(spec.umask)
    try:
        _enter(spec.cwd)
        return os.posix_spawn(
            ways.program(spec, env),
            spec.argv,
            env,
            file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds)],
            # Own process group, but the launcher's session: in a session of its own the group
            # would be orphaned, and the kernel ignores SIGTSTP for those.
            setpgroup=0,
            setsigmask=(),
            setsigdef=_ALL_SIGNALS,
        )
    except OSError as error:
        raise _spawn_refusal(spec, error) from error
    except ValueError as error:
        # An empty first argument, or a variable without a name.
        text = (
            f"program {shown_path(spec.program)}: its arguments or environment cannot be passed on: {error}"
        )
        raise Refusal(outcome.not_started(text)) from error
    finally:
        os.umask(umask)
        os.chdir("/")


def check(spec: LaunchSpec, ways: Ways) -> None:
    """Check whether ``spawn`` could start the task.

    Raises:
        Refusal: it could not be started; the outcome gives the reason.
    """
    try:
        _enter(spec.cwd)
        program = ways.program(spec, ways.environment(spec))
        _executable(spec, program)
    finally:
        os.chdir("/")


def _enter(cwd: bytes) -> None:
    try:
        os.chdir(cwd)
    except OSError as error:
        text = f"working directory {shown_path(cwd)}: {error.strerror}"
        # One number for every reason: ENOENT or EACCES would mean an error of the program (127, 126).
        raise Refusal(outcome.not_started(text, errno.ENOTDIR)) from error


def _looked_up(spec: LaunchSpec, env: dict[bytes, bytes]) -> bytes:
    """Return the program's path from the job's PATH, as execvp would."""
    forbidden = b""
    for directory in env.get(b"PATH", _DEFAULT_PATH).split(b":"):
        path = (directory or b".") + b"/" + spec.program
        try:
            if not stat_module.S_ISREG(os.stat(path).st_mode):
                continue
        except (OSError, ValueError):
            continue
        if os.access(path, os.X_OK):
            return path
        forbidden = forbidden or path
    if forbidden:
        text = f"program {shown_path(forbidden)}: Permission denied: it is not executable for this user"
        raise Refusal(outcome.not_started(text, errno.EACCES))
    text = f"program {shown_path(spec.program)}: not found in the job's PATH on this node"
    raise Refusal(outcome.not_started(text, errno.ENOENT))


def _executable(spec: LaunchSpec, program: bytes) -> None:
    try:
        mode = os.stat(program).st_mode
        if not stat_module.S_ISREG(mode) or not os.access(program, os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _spawn_refusal(spec, error) from error


def _spawn_refusal(spec: LaunchSpec, error: OSError) -> Refusal:
    number = error.errno or 0
    shown = shown_path(spec.program)
    reason = error.strerror or "it cannot be started"
    if number == errno.ENOENT and os.path.exists(spec.program):
        number = errno.ENOEXEC
        reason += ": the interpreter that it names does not exist on this node"
    elif number in (errno.ENOENT, errno.ENOTDIR):
        number = errno.ENOENT
        hint = "a whole command line is for enexec, or gexec sh -c"
        if b" " not in spec.program:
            hint = "--remote-path looks for a name in the node's PATH"
        reason += f" on this node ({hint})"
    elif number == errno.ELOOP:
        number = errno.EACCES
    elif number == errno.EACCES:
        reason += ": it is not executable for this user"
    elif number == errno.ENOEXEC:
        reason += ": it is neither a program for this machine nor a script with a first line #!"
    elif number == errno.E2BIG:
        size = sum(map(len, spec.argv)) + sum(map(len, spec.env))
        reason += f": {size} bytes of arguments and environment are more than this node's kernel takes"
    elif number in (errno.EAGAIN, errno.ENOMEM):
        reason += ": this node has no room for one more process of this user"
    return Refusal(outcome.not_started(f"program {shown}: {reason}", number))
