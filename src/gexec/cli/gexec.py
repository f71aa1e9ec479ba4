"""``gexec``: run one command on many nodes. See ``gexec -h`` and docs/gexec.md.

Part of the thin client: what this file imports before the job is sent is held by a test.
"""

from __future__ import annotations

import os
import time

from gexec import limits
from gexec.cli.options import Option, Parsed, integer, one_of, parse, seconds
from gexec.client.job import ProgramError, Request, build, open_session
from gexec.errors import GexecError, UsageError
from gexec.render.prefix import KINDS, prefixes
from gexec.render.text import printable
from gexec.render.text import seconds as shown_seconds
from gexec.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Sequence
else:
    import _signal

OPTIONS = (
    Option("n", "nprocs", takes_value=True),
    Option("w", "nodes", takes_value=True),
    Option("x", "exclude", takes_value=True),
    Option("p", "prefix-type", takes_value=True),
    Option("d", "detached"),
    Option("f", "fanout", takes_value=True),
    Option("P", "port", takes_value=True),
    Option("v", "verbose"),
    Option("h", "help"),
    Option("V", "version"),
    Option("", "timeout", takes_value=True),
    Option("", "connect-timeout", takes_value=True),
    Option("", "chdir", takes_value=True),
    Option("", "no-stdin"),
    Option("", "strict"),
    Option("", "remote-path"),
)

HELP = """\
Usage: gexec [OPTIONS] PROGRAM [ARGUMENT]...
Run PROGRAM on all nodes of $GEXEC_SVRS at once; each output line gets its rank.

  gexec hostname                 all nodes          gexec -n 4 hostname  first 4
  gexec -w node1,node2 uptime    these nodes        gexec -p host uptime  names
  gexec sh -c 'cat >/tmp/f' <f   stdin goes to all  gexec -p none cat /etc/motd

  -n, --nprocs=N         the first N nodes, 0 = all (the default)
  -w, --nodes=NAMES      these nodes instead of $GEXEC_SVRS (may be repeated)
  -x, --exclude=NAMES    but not these
  -p, --prefix-type=T    none, vnn (rank, the default), host or ip
  -d, --detached         leave when all have started; output is thrown away
      --timeout=S        end what runs longer than S seconds
      --chdir=DIR        working directory on the nodes (default: this one)
      --no-stdin         processes read /dev/null
      --strict           start nowhere unless every node can start
      --remote-path      look PROGRAM up in PATH on each node, not here
  -f, --fanout=N         children of a node in the tree (default 16)
  -P, --port=N           of gexecd (2875)     --connect-timeout=S   (default 5)
  -v, --verbose          say what happens     -h, --help     -V, --version
Status: highest of the processes (128+signal, 124 timed out); 255 node failed.
"""


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status (2 = usage, 127 = no such program, 255 = failed)."""
    _open_standard_descriptors()
    if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # ^C before the job runs just ends us
    try:
        return _main(words)
    except ProgramError as error:
        _say(str(error))
        return error.status
    except UsageError as error:
        _say(str(error))
        return 2
    except GexecError as error:
        _say(str(error))
        return 255
    except Exception as error:
        if os.environ.get("GEXEC_TRACEBACK"):
            raise
        _say(
            f"internal error, please report it: {type(error).__name__}: {error} (GEXEC_TRACEBACK=1 shows it)"
        )
        return 255


def _main(words: Sequence[str]) -> int:
    begin_s = time.monotonic()
    parsed = parse("gexec", words, OPTIONS)
    if parsed.flag("help"):
        return _print(HELP)
    if parsed.flag("version"):
        return _print(f"gexec {VERSION}\n")
    if not parsed.rest:
        raise UsageError("no command: give a program to run, such as gexec hostname; gexec -h shows more")
    kind = one_of("-p/--prefix-type", parsed.last("prefix-type") or "vnn", KINDS)
    request = _request(parsed)
    job, choice = build(request)
    verbose = parsed.flag("verbose")
    if verbose:
        _say(f"{job.ranks} nodes from {choice.source}: {os.fsdecode(job.program)}")
    sock, session = open_session(job)
    # What is needed from here on is imported while gexecd is at work already.
    from gexec.client.console import Console
    from gexec.client.sink import standard_sinks
    from gexec.render.summary import exit_status, summary
    from gexec.render.view import Prefixed

    def started() -> None:
        count = sum([high - low for low, high in session.started])
        console.say(f"{count} of {job.ranks} started after {shown_seconds(time.monotonic() - begin_s)}")

    console = Console(
        sock,
        session,
        Prefixed(prefixes(kind, list(job.names), list(job.addresses)), job.ranks),
        standard_sinks(),
        read_stdin=request.stdin and not request.detached,
        started=started if verbose else None,
    )
    console.run()
    sock.close()
    outcomes = session.ended_outcomes()
    if console.status is None:
        told = summary(list(job.names), outcomes)
        if verbose:
            told.append(f"done after {shown_seconds(time.monotonic() - begin_s)}")
    else:
        told = [console.farewell] if console.farewell else []
    if told and not console.stderr_ends_line:
        _write(2, b"\n")
    for line in told:
        _say(line, escape=False)
    return exit_status(outcomes) if console.status is None else console.status


def _request(parsed: Parsed) -> Request:
    request = Request(parsed.rest)
    request.nodes = parsed.all("nodes")
    request.exclude = parsed.all("exclude")
    request.count = _integer(parsed, "n", "nprocs", 0, limits.RANKS_MAX, 0)
    request.fanout = _integer(parsed, "f", "fanout", limits.FANOUT_MIN, limits.FANOUT_MAX, request.fanout)
    request.port = _integer(parsed, "P", "port", 1, 65535, 0)
    request.timeout_s = _seconds(parsed, "timeout", 0.0)
    request.connect_timeout_s = _seconds(parsed, "connect-timeout", request.connect_timeout_s)
    request.chdir = parsed.last("chdir") or ""
    request.detached = parsed.flag("detached")
    request.stdin = not parsed.flag("no-stdin") and not _stdin_is_null()
    request.strict = parsed.flag("strict")
    request.remote_path = parsed.flag("remote-path")
    return request


def _integer(parsed: Parsed, short: str, long: str, low: int, high: int, default: int) -> int:
    text = parsed.last(long)
    return default if text is None else integer(f"-{short}/--{long}", text, low, high)


def _seconds(parsed: Parsed, long: str, default: float) -> float:
    text = parsed.last(long)
    return default if text is None else seconds(f"--{long}", text)


def _stdin_is_null() -> bool:
    stdin = os.fstat(0)
    null = os.stat("/dev/null")
    return (stdin.st_rdev, stdin.st_mode & 0o170000) == (null.st_rdev, null.st_mode & 0o170000)


def _open_standard_descriptors() -> None:
    """Fill closed descriptors 0 to 2, or gexecd's socket would become one of them.

    Read-only, so that writing to a closed stdout still fails as it should.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", os.O_RDONLY)


def _print(text: str) -> int:
    try:
        os.write(1, text.encode())
    except OSError as error:
        _say(f"cannot write standard output: {error.strerror}")
        return 255
    return 0


def _say(text: str, escape: bool = True) -> None:
    line = "gexec: " + (printable(text) if escape else text) + "\n"
    _write(2, line.encode("utf-8", "backslashreplace"))


def _write(fd: int, data: bytes) -> None:
    try:
        os.write(fd, data)
    except OSError:
        pass  # nobody listens; the exit status still tells
