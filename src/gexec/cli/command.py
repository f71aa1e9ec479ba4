"""What gexec, enexec and ensh have in common: their options, and the way from words to an exit status.

Part of the thin client: the plain case, lines with prefixes, imports nothing that it does not need
before the job is sent (a test holds it). Other ways to show a run come with ``cli.views``, runs of
several jobs with ``cli.rolling``.
"""

from __future__ import annotations

import os
import time

from gexec.cli.options import Parsed, parse
from gexec.cli.table import check_combination, options_of
from gexec.client.job import ProgramError, Request, build, open_session
from gexec.errors import GexecError, UsageError
from gexec.render.prefix import prefixes
from gexec.render.text import printable
from gexec.render.text import seconds as shown_seconds
from gexec.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import signal as _signal
    from collections.abc import Callable, Sequence

    from gexec.cli.views import OutputForm
    from gexec.client.progress import Progress
    from gexec.client.session import JobSession
    from gexec.render.view import View
    from gexec.select.sources import Choice
    from gexec.wire.jobspec import JobSpec
    from gexec.wire.outcome import Outcome

    Opener = Callable[[JobSpec], tuple[_socket.socket, JobSession]]
    #: What a command does once its words are parsed: (command, words, say, begin) -> exit status.
    Body = Callable[["Command", Parsed, "Say", float], int]
else:
    import _signal

#: Those that need more than the plain way of showing.
_VIEWS = ("color", "gather", "live", "diff", "json", "output-dir", "quiet", "summary")
_ROUNDS = ("batch", "batch-delay", "max-failures", "retries")


class Command:
    """One of the commands.

    Attributes:
        name: as the user called it.
        options: its rows of the table.
        prefix: what stands before each line unless the user says otherwise.
        administrator: the node list file comes before GEXEC_SVRS.
    """

    __slots__ = ("administrator", "name", "options", "prefix")
    #: Addresses are looked up here, and not by what the command calls.
    resolves = True
    #: Options may follow other arguments. Not where those are another program's command line.
    options_anywhere = False

    def __init__(self, name: str, prefix: str, administrator: bool = False) -> None:
        self.name = name
        self.options = options_of(name)
        self.prefix = prefix
        self.administrator = administrator

    def argv(self, words: Sequence[str]) -> Sequence[str]:
        """Return what is run on the nodes."""
        if not words:
            raise UsageError(
                f"no command: give a program to run, such as {self.name} hostname; {self.name} -h shows more"
            )
        return words

    def plan(self, parsed: Parsed, request: Request) -> tuple[JobSpec, Choice, Opener]:
        """Return the job, who chose its nodes, and what submits it or a part of it."""
        request.detached = parsed.flag("detached")
        request.strict = parsed.flag("strict")
        request.remote_path = parsed.flag("remote-path")
        self.choose(parsed, request)
        job, choice = build(request)
        return job, choice, open_session

    def choose(self, parsed: Parsed, request: Request) -> None:
        """Put into the request what this command's own options say about nodes."""


def run(command: Command, words: Sequence[str], body: Body | None = None) -> int:
    """Run a command line; return its exit status (2 = usage, 127 = no such program, 255 = failed).

    ``body`` is what is done with words that ask for more than help; by default they are run on the nodes.
    """
    _open_standard_descriptors()
    if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # ^C before the job runs just ends us
    say = Say(command.name)
    try:
        return _run(command, words, say, body or _command)
    except ProgramError as error:
        say(str(error))
        return error.status
    except UsageError as error:
        lines = [error.sentence, *error.details]
        say("\n  ".join([printable(line) for line in lines]), escape=False)
        return 2
    except GexecError as error:
        say(str(error))
        return 255
    except Exception as error:
        if os.environ.get("GEXEC_TRACEBACK"):
            raise
        say(f"internal error, please report it: {type(error).__name__}: {error} (GEXEC_TRACEBACK=1 shows it)")
        return 255


def _run(command: Command, words: Sequence[str], say: Say, body: Body) -> int:
    begin_s = time.monotonic()
    parsed = parse(command.name, words, command.options, command.options_anywhere)
    if parsed.flag("help") or parsed.flag("help-all"):
        from gexec.cli.manual import help_page, page

        return print_((help_page if parsed.flag("help") else page)(command.name), say)
    if parsed.flag("version"):
        return print_(f"{command.name} {VERSION}\n", say)
    check_combination(parsed)
    return body(command, parsed, say, begin_s)


def _command(command: Command, parsed: Parsed, say: Say, begin_s: float) -> int:
    """Run a command on the nodes; return the exit status."""
    if "fetch" in parsed.values:
        from gexec.cli.fetching import fetch

        return fetch(command, parsed, say, begin_s)
    request = request_of(command, parsed)
    if "rerun" in parsed.values:
        from gexec.cli.nodefiles import nothing_to_rerun

        if nothing_to_rerun(parsed, say):
            return 0
    kind = parsed.value("prefix-type", command.prefix)
    output = _output(parsed, kind)
    job, choice, submit = command.plan(parsed, request)
    if parsed.flag("dry-run"):
        from gexec.cli.nodefiles import places

        return print_(places(job, choice, command.resolves), say)
    verbose = parsed.flag("verbose")
    if verbose:
        say(f"{job.ranks} nodes from {choice.source}: {os.fsdecode(job.program)}")
    if any(name in parsed.values for name in _ROUNDS):
        from gexec.cli.rolling import run_rounds

        return run_rounds(command, parsed, kind, job, choice, submit, output, say, begin_s)
    # What may find fault with the words comes before the job runs.
    view = output.view(job) if output else None
    sock, session = submit(job)
    # What is needed from here on is imported while gexecd is at work already.
    from gexec.client.console import Console
    from gexec.client.sink import standard_sinks

    def started() -> None:
        count = sum([high - low for low, high in session.started])
        console.say(f"{count} of {job.ranks} started after {shown_seconds(time.monotonic() - begin_s)}")

    console = Console(
        sock,
        session,
        view or plain(kind, job),
        standard_sinks(),
        read_stdin=request.stdin and not request.detached,
        command=command.name,
        started=started if verbose else None,
        names=list(job.names),
        progress=progress_of(parsed, job, kind, begin_s, session),
    )
    console.run()
    sock.close()
    outcomes = session.ended_outcomes()
    say.after_open_line = not console.stderr_ends_line
    if console.status is not None:
        if console.farewell:
            say(console.farewell, escape=False)
        if "failed-to" in parsed.values:
            from gexec.cli.nodefiles import write_failed

            write_failed(parsed, choice, outcomes, say)
        return console.status
    return conclude(parsed, job, choice, outcomes, say, begin_s)


def request_of(command: Command, parsed: Parsed, argv: Sequence[str] = ()) -> Request:
    """Return what the words ask for, to run ``argv`` or else the words' own command.

    UsageError for a value that makes no sense.
    """
    request = Request(argv or command.argv(parsed.rest))
    request.administrator = command.administrator
    request.warn = Say(command.name)
    request.nodes = parsed.all("nodes")
    request.exclude = parsed.all("exclude")
    if "failed-to" in parsed.values:
        from gexec.cli.nodefiles import check_failed_to

        check_failed_to(parsed.last("failed-to") or "")
    if "exit-policy" in parsed.values:
        from gexec.render.policy import parse_policy

        parse_policy(parsed.last("exit-policy") or "")  # a wrong one is told before anything runs
    request.nodelist = parsed.last("rerun") or parsed.last("nodelist") or ""
    request.hosts_file = parsed.last("hosts-file") or ""
    request.count = parsed.integer("nprocs")
    request.pick = parsed.integer("pick")
    request.skip_down = parsed.flag("skip-down")
    request.fanout = parsed.integer("fanout", request.fanout)
    request.port = parsed.integer("port")
    request.timeout_s = parsed.seconds("timeout")
    request.connect_timeout_s = parsed.seconds("connect-timeout", request.connect_timeout_s)
    request.chdir = parsed.last("chdir") or ""
    request.stdin = not (parsed.flag("no-stdin") or _stdin_is_null())
    return request


def _output(parsed: Parsed, kind: str) -> OutputForm | None:
    """Return how to show the run, None for the plain way: lines with plain prefixes."""
    wanted = [name for name in _VIEWS if parsed.given(name)]
    if not wanted and (kind == "none" or not os.isatty(1)):
        return None
    from gexec.cli.views import OutputForm

    return OutputForm(parsed, kind)


def plain(kind: str, job: JobSpec) -> View:
    """Return the plain way of showing: each line as it comes, its prefix in front."""
    from gexec.render.view import Prefixed

    return Prefixed(prefixes(kind, list(job.names), list(job.addresses)), job.ranks)


def progress_of(
    parsed: Parsed, job: JobSpec, kind: str, begin_s: float, session: JobSession | None = None
) -> Progress | None:
    """Return what draws on the terminal, None where nobody would see it or it would disturb."""
    raw = kind == "none" and job.ranks == 1
    if parsed.flag("no-progress") or parsed.flag("detached") or raw or not os.isatty(2):
        return None
    from gexec.client.progress import Progress, wanted

    if not wanted():
        return None
    progress = Progress(list(job.names), begin_s)
    if session is not None:
        progress.watch(session, range(job.ranks))
    return progress


def conclude(
    parsed: Parsed,
    job: JobSpec,
    choice: Choice,
    outcomes: list[Outcome],
    say: Say,
    begin_s: float,
) -> int:
    """Tell what failed, write it down where that was asked for, and return the exit status."""
    failed = not all(outcome.ok for outcome in outcomes)
    told: list[str] = []
    status = 0
    if failed or parsed.flag("summary"):
        from gexec.render.summary import exit_status, full_summary, summary

        told = (full_summary if parsed.flag("summary") else summary)(list(job.names), outcomes)
        status = exit_status(outcomes)
    if parsed.flag("verbose"):
        told.append(f"done after {shown_seconds(time.monotonic() - begin_s)}")
    for line in told:
        say(line, escape=False)
    if failed or parsed.flag("skip-down"):
        remember_reached(choice, outcomes)
    if "exit-policy" in parsed.values:
        from gexec.render.policy import parse_policy, policy_status

        status = policy_status(parse_policy(parsed.last("exit-policy") or ""), outcomes)
    if "failed-to" in parsed.values:
        from gexec.cli.nodefiles import write_failed

        if not write_failed(parsed, choice, outcomes, say):
            return 255
    return status


def remember_reached(choice: Choice, outcomes: Sequence[Outcome]) -> None:
    """Keep in mind which nodes could not be reached, for --skip-down."""
    from gexec.client.down import remember
    from gexec.select.rounds import is_down, unreached

    ended = [(name, outcome) for (name, _), outcome in zip(choice.nodes, outcomes, strict=True)]
    down = {name for name, outcome in ended if is_down(outcome)}
    remember(down, {name for name, outcome in ended if not unreached(outcome)} - down)


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


class Say:
    """Puts sentences on stderr, the command's name in front."""

    __slots__ = ("_name", "after_open_line")

    def __init__(self, name: str) -> None:
        self._name = name
        #: The line before on stderr is another's and has no end: it gets one before a sentence.
        self.after_open_line = False

    def __call__(self, text: str, escape: bool = True) -> None:
        """Say one sentence; ``escape`` what could steer a terminal, unless that is done already."""
        line = f"{self._name}: {printable(text) if escape else text}\n"
        if self.after_open_line:
            self.after_open_line = False
            line = "\n" + line
        self._write(line.encode("utf-8", "backslashreplace"))

    def _write(self, data: bytes) -> None:
        try:
            os.write(2, data)
        except OSError:
            pass  # nobody listens; the exit status still tells


def print_(text: str, say: Say) -> int:
    """Write to stdout; return the exit status that follows."""
    rest = memoryview(text.encode("utf-8", "surrogateescape"))
    try:
        while rest:
            rest = rest[os.write(1, rest) :]
    except BrokenPipeError:
        return 128 + int(_signal.SIGPIPE)
    except OSError as error:
        say(f"cannot write stdout: {error.strerror}")
        return 255
    return 0
