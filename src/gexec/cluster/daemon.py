"""One daemon of a local cluster: what it is, and its process after the fork from the supervisor."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gexec.cluster import processes
from gexec.cluster.processes import Process
from gexec.errors import GexecError
from gexec.posix import identity

#: Signals that end guard and supervisor.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: The longest report of a daemon that starts.
REPORT_MAX_BYTES = 4096
_LOG_TAIL_BYTES = 2048

#: Serves until SIGTERM; calls its argument when it is ready.
Body = Callable[[Callable[[], None]], None]


@dataclass
class Daemon:
    """One daemon: its function, its log and its host name."""

    name: str
    body: Body
    log: Path
    hostname: str | None = None
    process: Process | None = None


def failure(daemon: Daemon, report: bytes) -> str:
    """Return why a daemon did not come up; ``report`` is what it said."""
    sentence = report.decode(errors="replace").strip()
    if sentence and sentence != "ready":
        return f"{daemon.name}: {sentence}"
    return f"{daemon.name}: ended before it was ready; {log_hint(daemon.log)}"


def log_hint(log: Path) -> str:
    """Return the end of an error sentence: the last line of a log, or that the log is empty."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        lines = []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"the last line of {log} is: {last}" if last else f"its log, {log}, is empty"


def be_daemon(daemon: Daemon, writer: int) -> None:
    """Become a daemon in a freshly forked child; never returns."""
    status = 1
    try:
        supervisor = os.getppid()
        signal.set_wakeup_fd(-1)
        for signum in (*STOP_SIGNALS, signal.SIGCHLD):
            signal.signal(signum, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        identity.die_with_parent(signal.SIGTERM)
        if os.getppid() != supervisor:
            os._exit(1)
        writer = _keep_only(writer, daemon.log)
        identity.set_title(daemon.name)
        if daemon.hostname is not None and os.geteuid() == 0 and processes.enter_uts_namespace():
            socket.sethostname(daemon.hostname)

        def ready() -> None:
            os.write(writer, b"ready\n")
            os.close(writer)

        daemon.body(ready)
        status = 0
    except GexecError as error:
        _say(writer, str(error))
    except KeyboardInterrupt:
        pass
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException as error:
        import traceback

        traceback.print_exc()  # a defect: to the daemon's own log
        _say(writer, f"failed with {type(error).__name__}: {error}")
    finally:
        sys.stderr.flush()
        os._exit(status)


def _say(writer: int, sentence: str) -> None:
    print(sentence, file=sys.stderr)
    try:
        os.write(writer, " ".join(sentence.split()).encode()[: REPORT_MAX_BYTES - 1] + b"\n")
    except OSError:
        pass  # it was already ready, so this is not read


def _keep_only(writer: int, log: Path) -> int:
    """Close inherited descriptors except ``writer``, redirect output to the log; return the new writer."""
    null = os.open(os.devnull, os.O_RDONLY)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    writer = fcntl.fcntl(writer, fcntl.F_DUPFD_CLOEXEC, 4)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.dup2(writer, 3, inheritable=False)
    identity.close_inherited([3])
    return 3
