"""Makes a job that runs over ssh from nodes and a command; the counterpart of gexec.client.job.

Our own process (gexec.ssh.engine) takes gexecd's place: it accepts the same Submit over a socket pair and
answers with the same frames, so everything behind the session is the same for both.
"""

from __future__ import annotations

import _socket
import os
import sys
import time

from gexec import limits
from gexec.client.connection import Connection
from gexec.client.job import new_gpid
from gexec.client.session import JobSession
from gexec.errors import DaemonError, UsageError
from gexec.ssh import destination, script, settings
from gexec.wire.jobspec import NO_STDIN, REMOTE_PATH, JobSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: How many ssh run at a time without -f.
FANOUT_DEFAULT = 64
_ENGINE = "import sys; from gexec.ssh.engine import main; sys.exit(main(sys.argv[1:]))"
#: Engines of this process that were not reaped. They run slightly longer than their jobs.
_engines: list[int] = []


class SshOptions:
    """How ssh is called.

    Attributes:
        command: ssh and its options, such as from -l and -o, which precede those that gexec adds. Empty:
            GEXEC_SSH, a command line with shell quoting, else ``ssh`` in PATH.
        arguments: more options for ssh, after ``command``.
        ask: ssh may ask for passwords and host keys on the terminal.
        chdir: working directory on the nodes, relative to the home directory; empty = that.
    """

    __slots__ = ("arguments", "ask", "chdir", "command")

    def __init__(
        self,
        command: Sequence[str] = (),
        arguments: Sequence[str] = (),
        ask: bool = False,
        chdir: str = "",
    ) -> None:
        self.command = command
        self.arguments = arguments
        self.ask = ask
        self.chdir = chdir

    def words(self) -> list[str]:
        """Return ssh's absolute path and options. UsageError: no such program, or an invalid option."""
        given = list(self.command) or _configured(os.environ.get("GEXEC_SSH")) or ["ssh"]
        program = _found(given[0])
        if program is None:
            raise UsageError(
                f"{given[0][:200]} is not found in PATH: install OpenSSH's client, or set GEXEC_SSH"
            )
        found = [program, *given[1:], *self.arguments]
        if any("\0" in word for word in found) or "\0" in self.chdir:
            raise UsageError("an option for ssh contains a NUL byte, which no argument can have")
        settings.check(found)
        return found


def prepare(
    nodes: Sequence[tuple[str, int]],
    argv: Sequence[str | bytes],
    *,
    stdin: bool = True,
    fanout: int = FANOUT_DEFAULT,
    timeout_s: float = 0.0,
    stall_s: float = 0.0,
    connect_timeout_s: float = limits.CONNECT_TIMEOUT_S,
) -> JobSpec:
    """Return the job that runs a command on nodes.

    Args:
        nodes: (name, port) in rank order; the name is passed to ssh unchanged, port 0 = ssh's default.
        argv: program, looked up in PATH on each node, and arguments; no shell interprets them.
        stdin: the processes read the caller's stdin; else /dev/null.
        fanout: number of ssh at a time, 1 to FANOUT_MAX; 1 = one node after the other.
        timeout_s: 0 = none, counted from each command's start.
        stall_s: a command that makes no progress with its stdin for so long is given up; 0 = never.

    Raises:
        UsageError: a name that cannot be passed to ssh, no command, or a limit of JobSpec.
    """
    if not argv or not argv[0]:
        raise UsageError("no command: give a program to run on the nodes")
    for name, port in nodes:
        destination.words(name, port)
    words = [os.fsencode(word) for word in argv]
    count = len(nodes)
    return JobSpec(
        names=[os.fsencode(name) for name, _ in nodes],
        # ssh resolves addresses; only the port is given.
        addresses=[b":%d" % port if port else b"" for _, port in nodes],
        program=words[0],
        argv=words,
        env=[b"GEXEC_NPROCS=%d" % count, b"GEXEC_GPID=" + new_gpid(b"\x7f\0\0\1", time.time_ns())],
        flags=REMOTE_PATH | (0 if stdin else NO_STDIN),
        fanout=fanout,
        timeout_s=timeout_s,
        stall_s=stall_s,
        connect_timeout_s=connect_timeout_s,
        window=limits.window_bytes(count),
        salt=int.from_bytes(os.urandom(8), "big"),
    )


def submit(job: JobSpec, options: SshOptions | None = None) -> Connection:
    """Start the engine and submit the job to it; Accepted is still to come.

    When the connection is closed, or this process ends in any way, the engine ends all commands and
    itself.

    Args:
        job: from ``prepare``; flags that only gexecd supports (detached, strict) are refused.

    Raises:
        UsageError: there is no ssh, or the command is too long for it.
        DaemonError: the engine cannot be started.
    """
    options = options or SshOptions()
    words = options.words()
    words += settings.new_words(words)
    blob = job.encode()
    lines = script.JobLines(job, b"0" * 32, os.fsencode(options.chdir))
    longest = max(range(job.ranks), key=lambda rank: len(job.names[rank]))
    lines.of(longest)  # reports a too long command before anything starts
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    session = JobSession(job.ranks, job.window, stdin=not job.flags & NO_STDIN)
    session.submit(b"", blob)
    try:
        _start_engine(
            theirs.fileno(), [("ask" if options.ask else "batch"), options.chdir, *words], options.ask
        )
        ours.settimeout(limits.HANDSHAKE_TIMEOUT_S)
        ours.sendall(session.outgoing())
    except OSError as error:
        ours.close()
        raise DaemonError(
            f"the process that calls ssh cannot be started: {error.strerror or error}"
        ) from error
    finally:
        theirs.close()
    ours.setblocking(False)
    return Connection(ours, session)


def _start_engine(sock: int, arguments: Sequence[str], ask: bool) -> None:
    _engines[:] = [pid for pid in _engines if not _ended(pid)]
    # In its own session, the engine and every ssh do not get the terminal's ^C, which would end ssh before
    # its command. A session also loses the terminal, so this is not done if ssh may ask there.
    engine = os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-X", "utf8", "-c", _ENGINE, *arguments],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, sock, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
        ],
        setsid=not ask,
    )
    _engines.append(engine)


def _ended(pid: int) -> bool:
    """Reap a child; True if it has ended."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True  # already reaped elsewhere


def _configured(text: str | None) -> list[str]:
    if not text:
        return []
    import shlex

    try:
        return shlex.split(text)
    except ValueError as error:
        raise UsageError(f"GEXEC_SSH {text[:200]!r} is not a valid command line: {error}") from error


def _found(name: str) -> str | None:
    directories = [""] if "/" in name else (os.environ.get("PATH") or os.defpath).split(":")
    for directory in directories:
        candidate = os.path.abspath(os.path.join(directory, name))
        if os.path.isfile(candidate) and os.access(candidate, os.X_OK):
            return candidate
    return None
