"""``gexec --fetch PATH --to DIR``: each node's files as DIR/NODE/PATH. See docs/gexec.md, Fetching."""

from __future__ import annotations

import os

from gexec.cli.command import conclude, progress_of, request_of
from gexec.client.console import Console
from gexec.client.sink import standard_sinks
from gexec.client.transfer import Fetched
from gexec.core.outcome import Outcome, exited
from gexec.errors import UsageError
from gexec.files.options import Options
from gexec.render.prefix import prefixes
from gexec.render.text import printable
from gexec.render.text import seconds as shown_seconds
from gexec.render.text import size as shown_size
from gexec.render.view import Prefixed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.cli.command import Command, Say
    from gexec.cli.options import Parsed

#: The exit status of a rank whose files did not arrive as they were sent.
_INCOMPLETE = 3


def fetch(command: Command, parsed: Parsed, say: Say, begin_s: float) -> int:
    """Fetch; return the exit status."""
    directory = _directory(parsed)
    request = request_of(command, parsed, ("gexec-send", "--", *parsed.all("fetch")))
    request.stdin = False
    if "chdir" not in parsed.values:
        request.chdir = "/"
    job, choice, submit = command.plan(parsed, request)
    job_names = list(job.names)
    view = Fetched(
        Prefixed(prefixes("host", job_names, ()), job.ranks), directory, job_names, Options(make_parents=True)
    )
    sock, session = submit(job)
    console = Console(
        sock,
        session,
        view,
        standard_sinks(),
        read_stdin=False,
        command=command.name,
        names=job_names,
        progress=progress_of(parsed, job, "host", begin_s, session),
    )
    console.run()
    sock.close()
    for problem in view.problems:
        say(problem)
    if console.status is not None:
        return console.status
    outcomes = _judged(session.ended_outcomes(), view)
    status = conclude(parsed, job, choice, outcomes, None, say, begin_s)
    reports = [report for report in view.reports if report is not None]
    if parsed.flag("verbose"):
        files = sum([report.files + report.links for report in reports])
        total = sum([report.bytes for report in reports])
        say(f"{files} files, {shown_size(total)} from {len(reports)} of {job.ranks} nodes in {directory}")
        say(f"done after {shown_seconds(_since(begin_s))}")
    return status


def _since(begin_s: float) -> float:
    import time

    return time.monotonic() - begin_s


def _directory(parsed: Parsed) -> str:
    """Return where it goes, made if it was not there; UsageError if it cannot be."""
    if parsed.rest:
        raise UsageError(f"option --fetch: no command runs with it, but {parsed.rest[0][:80]!r} is given")
    directory = parsed.last("to")
    if directory is None:
        raise UsageError("option --fetch: say where it goes with --to DIR")
    for path in parsed.all("fetch"):
        if not path.startswith("/") and "chdir" not in parsed.values:
            raise UsageError(f"--fetch {path[:200]!r}: expected an absolute path, or one below --chdir")
    try:
        os.makedirs(directory, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--to {printable(directory)}: {error.strerror}") from error
    return os.path.abspath(directory)


def _judged(outcomes: list[Outcome], view: Fetched) -> list[Outcome]:
    """Return the outcomes; a sender that ended well is not enough, if what came is not whole."""
    return [
        exited(_INCOMPLETE)
        if outcome.ok and (report is None or not report.is_complete or report.failed)
        else outcome
        for outcome, report in zip(outcomes, view.reports, strict=True)
    ]
