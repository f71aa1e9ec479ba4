"""What gexec, enexec and ensh have in common: their options, and the way from arguments to an exit status.

Part of the thin client: the plain case, lines with prefixes, imports nothing that it does not need
before the job is sent (a test holds it). What comes then is ``cli.flow``; other forms of output come
with ``cli.views``, runs of several jobs with ``cli.rolling``. None of them imports this module: they
get a ``Call``.
"""

from __future__ import annotations

import os
import time

from gexec.cli.options import Parsed, parse
from gexec.cli.table import check_combination, options_of
from gexec.client.job import ProgramError, Request, build, submit
from gexec.errors import GexecError, UsageError
from gexec.render.text import printable
from gexec.render.text import seconds as shown_seconds
from gexec.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Sequence

    from gexec.client.connection import Connection
    from gexec.render.view import View
    from gexec.select.sources import Choice
    from gexec.wire.jobspec import JobSpec

    #: Submits a job, or a part of one.
    Submit = Callable[[JobSpec], Connection]
    #: What a command does once its arguments are parsed; returns the exit status.
    Body = Callable[["Call"], int]
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
        prefix: precedes each output line unless options choose another.
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

    @property
    def page(self) -> str:
        """Its pages of help (``cli.manual``)."""
        return self.name

    def argv(self, words: Sequence[str]) -> Sequence[str]:
        """Return the program and arguments that run on the nodes."""
        if not words:
            raise UsageError(
                f"no command: give a program to run, such as {self.name} hostname; {self.name} -h shows more"
            )
        return words

    def plan(self, parsed: Parsed, request: Request) -> tuple[JobSpec, Choice, Submit]:
        """Return the job, who chose its nodes, and what submits it or a part of it."""
        request.detached = parsed.flag("detached") or parsed.flag("detach-on-hup")
        if request.detached:
            from gexec.cli.background import background_of

            request.background = background_of(parsed)
        request.remote_path = parsed.flag("remote-path")
        self.choose(parsed, request)
        job, choice = build(request)
        return job, choice, submit

    def choose(self, parsed: Parsed, request: Request) -> None:
        """Put this command's own options for nodes into the request."""


class Call:
    """One call of a command.

    Attributes:
        command: which.
        parsed: its arguments.
        say: writes sentences for the user.
        begin_s: monotonic time of the start.
    """

    __slots__ = ("begin_s", "command", "parsed", "say")

    def __init__(self, command: Command, parsed: Parsed, say: Say, begin_s: float) -> None:
        self.command = command
        self.parsed = parsed
        self.say = say
        self.begin_s = begin_s

    @property
    def prefix(self) -> str:
        """What precedes each output line: vnn, host, ip or none."""
        return self.parsed.value("prefix-type", self.command.prefix)

    def elapsed(self) -> str:
        """Return the time since the start as text, e.g. ``1.2 s``."""
        return shown_seconds(time.monotonic() - self.begin_s)

    def verbose(self, text: str) -> None:
        """Say one sentence, with -v."""
        if self.parsed.flag("verbose"):
            self.say(text)

    def request(self, argv: Sequence[str] = ()) -> Request:
        """Return what the arguments ask for, to run ``argv`` or else their own command.

        Raises:
            UsageError: a value that makes no sense.
        """
        parsed = self.parsed
        request = Request(argv or self.command.argv(parsed.rest))
        request.administrator = self.command.administrator
        request.warn = Say(self.command.name)
        request.nodes = parsed.all("nodes")
        request.exclude = parsed.all("exclude")
        if "failed-to" in parsed.values:
            from gexec.cli.nodefiles import check_failed_to

            check_failed_to(parsed.value("failed-to", ""))
        if "exit-policy" in parsed.values:
            from gexec.render.policy import parse_policy

            parse_policy(parsed.value("exit-policy", ""))  # an error is reported before anything runs
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
        request.strict = parsed.flag("strict")
        request.stdin = not (parsed.flag("no-stdin") or _stdin_is_null())
        return request

    def has_nothing_to_rerun(self) -> bool:
        """Return True, and say so, if --rerun names a file without nodes."""
        if "rerun" not in self.parsed.values:
            return False
        from gexec.cli.nodefiles import is_empty

        path = self.parsed.value("rerun", "")
        if not is_empty(path):
            return False
        self.say(f"{path} names no node: there is nothing to run again")
        return True

    def view(self, job: JobSpec) -> View | None:
        """Return the view that options ask for, None for the plain way: lines with plain prefixes."""
        wanted = any(self.parsed.given(name) for name in _VIEWS)
        if not wanted and (self.prefix == "none" or not os.isatty(1)):
            return None
        from gexec.cli.views import OutputForm

        return OutputForm(self.parsed, self.prefix).view(job)

    def show_places(self, job: JobSpec, choice: Choice) -> int:
        """Print what would run, and where (--dry-run); return the exit status."""
        from gexec.cli.nodefiles import places

        return print_(places(job, choice, self.command.resolves), self.say)


def run(command: Command, words: Sequence[str], body: Body | None = None) -> int:
    """Run a command line; return its exit status (2 = usage, 127 = no such program, 255 = failed).

    ``body`` is called unless the arguments ask for help; by default it runs a command on the nodes.
    """
    _need_standard_descriptors()
    if _signal.getsignal(_signal.SIGINT) != _signal.SIG_IGN:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)  # ^C before the job runs ends this process
    say = Say(command.name)
    try:
        return _run(command, words, say, body or _on_nodes)
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

        return print_((help_page if parsed.flag("help") else page)(command.page), say)
    if parsed.flag("version"):
        return print_(f"{command.name} {VERSION}\n", say)
    check_combination(parsed)
    return body(Call(command, parsed, say, begin_s))


def _on_nodes(call: Call) -> int:
    """Run a command on the nodes; return the exit status."""
    parsed = call.parsed
    if "fetch" in parsed.values:
        from gexec.cli.fetching import fetch

        return fetch(call)
    request = call.request()
    if call.has_nothing_to_rerun():
        return 0
    job, choice, submit = call.command.plan(parsed, request)
    if parsed.flag("dry-run"):
        return call.show_places(job, choice)
    call.verbose(f"{job.ranks} nodes from {choice.source}: {os.fsdecode(job.program)}")
    if any(name in parsed.values for name in _ROUNDS):
        from gexec.cli.rolling import run_rounds

        return run_rounds(call, job, choice, submit)
    view = call.view(job)  # what it may find wrong comes before the job runs
    if job.background:
        from gexec.cli.background import run_background

        return run_background(call, job, choice, view, submit)
    connection = submit(job)
    # What is needed from here on is imported while gexecd is at work already.
    from gexec.cli.flow import Run
    from gexec.client.stdio import Input

    with Run(call, job, choice, view) as run:
        source = Input() if request.stdin and not request.detached else None
        run.one(connection, source, tell_started=parsed.flag("verbose"))
    run.finish(connection.session.ended_outcomes())
    return run.conclude()


def _stdin_is_null() -> bool:
    stdin = os.fstat(0)
    null = os.stat("/dev/null")
    return (stdin.st_rdev, stdin.st_mode & 0o170000) == (null.st_rdev, null.st_mode & 0o170000)


def _need_standard_descriptors() -> None:
    try:
        for fd in (0, 1, 2):
            os.fstat(fd)
    except OSError:
        from gexec.cli.standard import open_standard_descriptors

        open_standard_descriptors()


class Say:
    """Writes sentences to stderr, preceded by the command's name."""

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

    def unwritten(self, error: OSError) -> int:
        """Return the exit status after stdout took no more; say why, unless its reader has gone."""
        from gexec.client.stdio import READER_GONE

        if isinstance(error, BrokenPipeError):
            return READER_GONE
        self(f"cannot write stdout: {error.strerror}")
        return 255

    def _write(self, data: bytes) -> None:
        try:
            os.write(2, data)
        except OSError:
            pass  # without a reader; the exit status remains


def print_(text: str, say: Say) -> int:
    """Write to stdout; return the exit status that follows."""
    rest = memoryview(text.encode("utf-8", "surrogateescape"))
    try:
        while rest:
            rest = rest[os.write(1, rest) :]
    except OSError as error:
        return say.unwritten(error)
    return 0
