"""From a request to a running job: nodes, addresses, program, environment, credential, submission.

The command line and the Python API both come through here. Part of the thin client.
"""

from __future__ import annotations

import os
import time

from gexec import limits
from gexec.client.authd import obtain_credential
from gexec.client.nodes import choose
from gexec.client.resolve import origin_ipv4, resolve
from gexec.client.session import JobSession
from gexec.errors import DaemonError, UsageError
from gexec.posix.unix import connect
from gexec.select.sources import Selection
from gexec.wire.jobspec import DETACHED, NO_STDIN, REMOTE_PATH, STRICT, JobSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gexec.client.connection import Connection
    from gexec.select.sources import Choice

DEFAULT_SOCKET = "/run/gexec/gexecd.sock"
#: Set on the nodes, so the caller's own values would only confuse.
_NODE_VARIABLES = frozenset(
    b"GEXEC_SVRS GEXEC_MY_VNN GEXEC_NODE GEXEC_JOB GEXEC_SPOOL GEXEC_NPROCS GEXEC_GPID".split()
)
#: Variables that describe this host's shell, terminal or login, and mislead on another one
#: (docs/gexec.md, Environment). PWD is set to the directory that the process gets.
_HERE_ONLY = _NODE_VARIABLES.union(
    b"OLDPWD PWD _ TMUX TMUX_PANE STY WINDOW WINDOWID SSH_CLIENT SSH_CONNECTION SSH_TTY".split(),
    b"XDG_RUNTIME_DIR XDG_SESSION_ID DBUS_SESSION_BUS_ADDRESS".split(),
)


class ProgramError(UsageError):
    """The program is not in the local PATH (``status`` 127) or may not be executed (126)."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Request(Selection):
    """What a caller asks for, before anything is looked up. See ``gexec -h`` for the meanings.

    Attributes, beside those of a Selection of nodes:
        argv: program and arguments, at least one.
        port: of names without one; 0 = GEXEC_PORT, else 2875.
        env: the environment that is propagated, None = this process's own.
        background: of a detached job that the nodes keep (``wire.background``), encoded; b"" = none.
        chdir: working directory on the nodes, "" = this process's own.
        stall_s: a process that makes no progress with its stdin for so long is given up; 0 = never.
        umask: None = this process's own.
    """

    __slots__ = (
        "argv", "background", "chdir", "connect_timeout_s", "detached", "env", "fanout", "port",
        "remote_path", "stall_s", "stdin", "timeout_s", "umask",
    )  # fmt: skip

    def __init__(self, argv: Sequence[str | bytes]) -> None:
        super().__init__()
        self.argv = argv
        self.port = 0
        self.fanout = limits.FANOUT_DEFAULT
        self.connect_timeout_s = limits.CONNECT_TIMEOUT_S
        self.timeout_s = 0.0
        self.stall_s = 0.0
        self.env: Mapping[str, str] | None = None
        self.chdir: str | bytes = ""
        self.umask: int | None = None
        self.background = b""
        self.detached = False
        self.stdin = True
        self.remote_path = False


def build(request: Request) -> tuple[JobSpec, Choice]:
    """Return the job and who chose its nodes.

    Raises:
        UsageError: something in the request or the environment is wrong; one sentence.
        ProgramError: the program is not found here.
    """
    if not request.argv:
        raise UsageError("no command: give a program to run on the nodes")
    environ = os.environ
    choice = choose(request, environ)
    if choice.took_stdin:
        request.stdin = False
    for name in [name for name, _ in choice.nodes if "@" in name]:
        raise UsageError(
            f"{name[:80]}: a job runs as the calling user, so no user@ in names; ensh takes them"
        )
    cwd = _directory(os.fsencode(request.chdir))
    argv = [os.fsencode(word) for word in request.argv]
    env = _environment(request.env)
    try:
        program = argv[0] if request.remote_path else find_program(argv[0], cwd, _path(env))
    except ProgramError as error:
        if request.argv[0] in [name for name, _ in choice.nodes]:
            raise ProgramError(
                error.status, f"{request.argv[0]} is a node, no program: -w gives nodes"
            ) from error
        raise
    port = request.port or _default_port(environ.get("GEXEC_PORT"))
    addresses = resolve(choice.nodes, port, environ.get("GEXEC_HOSTS"), choice.addresses)
    flags = (
        (DETACHED if request.detached else 0)
        | (STRICT if request.strict else 0)
        | (0 if request.stdin and not request.detached else NO_STDIN)
        | (REMOTE_PATH if request.remote_path else 0)
    )
    count = len(choice.nodes)
    left_out = _HERE_ONLY if request.env is None else _NODE_VARIABLES
    entries = [name + b"=" + value for name, value in env.items() if name and name not in left_out]
    if request.env is None:
        entries.append(b"PWD=" + cwd)
    entries += (b"GEXEC_NPROCS=%d" % count, b"GEXEC_GPID=" + new_gpid(origin_ipv4(addresses), time.time_ns()))
    job = JobSpec(
        names=[os.fsencode(name) for name, _ in choice.nodes],
        addresses=addresses,
        program=program,
        argv=argv,
        env=entries,
        cwd=cwd,
        flags=flags,
        fanout=request.fanout,
        umask=_umask() if request.umask is None else request.umask,
        connect_timeout_s=request.connect_timeout_s,
        timeout_s=request.timeout_s,
        stall_s=request.stall_s,
        window=limits.window_bytes(count),
        salt=int.from_bytes(os.urandom(8), "big"),
        background=request.background,
    )
    return job, choice


def part(job: JobSpec, ranks: Sequence[int]) -> JobSpec:
    """Return a job of its own that runs the same on some of a job's nodes."""
    count = b"GEXEC_NPROCS=%d" % len(ranks)
    return JobSpec(
        names=[job.names[rank] for rank in ranks],
        addresses=[job.addresses[rank] for rank in ranks],
        program=job.program,
        argv=job.argv,
        env=[count if entry.startswith(b"GEXEC_NPROCS=") else entry for entry in job.env],
        cwd=job.cwd,
        flags=job.flags,
        fanout=job.fanout,
        umask=job.umask,
        connect_timeout_s=job.connect_timeout_s,
        timeout_s=job.timeout_s,
        kill_grace_s=job.kill_grace_s,
        stall_s=job.stall_s,
        window=limits.window_bytes(len(ranks)),
        salt=int.from_bytes(os.urandom(8), "big"),
        background=job.background,
    )


def submit(job: JobSpec) -> Connection:
    """Obtain the credential, connect to this host's gexecd and submit the job; Accepted is still to come.

    Raises:
        UsageError, AuthError, DaemonError: one sentence each.
    """
    blob = job.encode()
    credential = obtain_credential(blob)
    path = os.environ.get("GEXEC_SOCKET") or DEFAULT_SOCKET
    sock = connect(path, "gexecd", DaemonError, limits.CONNECT_TIMEOUT_S)
    session = JobSession(
        job.ranks, job.window, detached=bool(job.flags & DETACHED), stdin=not job.flags & NO_STDIN
    )
    session.submit(credential, blob)
    try:
        sock.sendall(session.outgoing())
    except (BrokenPipeError, ConnectionResetError):
        pass  # it may have refused before it read everything: its answer is still to be read
    except OSError as error:
        sock.close()
        raise DaemonError(f"gexecd at {path} does not take the job: is it stopped or overloaded?") from error
    sock.setblocking(False)
    from gexec.client.connection import Connection  # while gexecd reads the job

    return Connection(sock, session)


def find_program(name: bytes, cwd: bytes, path: bytes) -> bytes:
    """Return the absolute path of a program as the shell would find it in ``path``.

    A name with a slash is made absolute against ``cwd`` and not looked at: it is the nodes' file.

    Raises:
        ProgramError: not found (127), or found and not executable (126).
    """
    if b"/" in name:
        return os.path.join(cwd, name[2:] if name.startswith(b"./") else name)
    shown = os.fsdecode(name)
    if not name:
        raise ProgramError(127, "the program's name is empty")
    status, text = 127, "not found in PATH on this host (--remote-path looks for it on each node)"
    if b" " in name:
        text = "not found in PATH on this host; a whole command line is for `enexec`, or `gexec sh -c`"
    for directory in path.split(b":"):
        candidate = os.path.join(cwd, directory, name)
        if os.access(candidate, os.X_OK):
            if not os.path.isdir(candidate):
                return candidate
        elif os.path.isfile(candidate):
            status, text = 126, f"{os.fsdecode(candidate)} may not be executed"
    raise ProgramError(status, f"{shown}: {text}")


def new_gpid(ipv4: bytes, now_ns: int) -> bytes:
    """Return a GEXEC_GPID as the original's programs read it: ``%8x:%ld:%ld``."""
    seconds, rest_ns = divmod(now_ns, 1_000_000_000)
    return b"%8x:%d:%d" % (int.from_bytes(ipv4, "big"), seconds, rest_ns // 1000)


def _directory(chdir: bytes) -> bytes:
    if chdir.startswith(b"/"):
        return chdir
    here = _here()
    return os.path.normpath(os.path.join(here, chdir)) if chdir else here


def _here() -> bytes:
    """Return the working directory as ``pwd -L`` does: by the links in $PWD, if it names this directory.

    Where a home directory is a link, or an automounter makes it, other nodes may have only that path.
    """
    logical = os.environb.get(b"PWD", b"")
    if logical.startswith(b"/") and not {b".", b".."}.intersection(logical.split(b"/")):
        try:
            if os.path.samefile(logical, b"."):
                return logical
        except (OSError, ValueError):
            pass  # it names nothing any more
    try:
        return os.getcwdb()
    except OSError as error:
        text = f"the working directory is not known ({error.strerror})"
        raise UsageError(f"{text}: use --chdir with an absolute path") from error


def _environment(given: Mapping[str, str] | None) -> Mapping[bytes, bytes]:
    if given is None:
        return os.environb
    return {os.fsencode(name): os.fsencode(value) for name, value in given.items()}


def _path(env: Mapping[bytes, bytes]) -> bytes:
    return env.get(b"PATH") or os.fsencode(os.defpath)


def _default_port(text: str | None) -> int:
    if not text:
        return limits.DEFAULT_PORT
    if text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535:
        return int(text)
    raise UsageError(f"GEXEC_PORT is {text[:80]!r}: expected a port from 1 to 65535")


def _umask() -> int:
    """Return this process's umask without changing it, which other threads would notice."""
    try:
        with open("/proc/self/status", "rb", 0) as file:
            _, found, rest = file.read(4096).partition(b"\nUmask:")
    except OSError:
        found, rest = b"", b""
    return int(rest.split()[0], 8) if found else 0o022
