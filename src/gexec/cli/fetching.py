"""``gexec --fetch PATH --to DIR``: each node's files as DIR/NODE/PATH. See docs/gexec.md, Fetching."""

from __future__ import annotations

import os
import time

from gexec.cli.command import (
    conclude,
    print_,
    progress_of,
    request_of,
)
from gexec.cli.nodefiles import nothing_to_rerun, places, write_failed
from gexec.client.console import Console
from gexec.client.job import build, open_session
from gexec.client.sink import standard_sinks
from gexec.client.transfer import Fetched, environment
from gexec.errors import UsageError
from gexec.files.options import CopyOptions
from gexec.render.prefix import prefixes
from gexec.render.sentences import Sentences
from gexec.render.text import printable
from gexec.render.text import seconds as shown_seconds
from gexec.render.text import size as shown_size
from gexec.render.view import Prefixed
from gexec.wire.outcome import Outcome, lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.cli.command import Command, Say
    from gexec.cli.options import Parsed


def fetch(command: Command, parsed: Parsed, say: Say, begin_s: float) -> int:
    """Fetch; return the exit status."""
    directory = _directory(parsed)
    request = request_of(command, parsed, ("gexec-send", "--", *parsed.all("fetch")))
    request.stdin = False
    request.remote_path = True
    request.env = environment()
    request.strict = parsed.flag("strict")
    request.chdir = request.chdir or "/"
    if nothing_to_rerun(parsed, say):
        return 0
    job, choice = build(request)
    if parsed.flag("dry-run"):
        return print_(places(job, choice, command.resolves), say)
    verbose = parsed.flag("verbose")
    if verbose:
        say(f"{job.ranks} nodes from {choice.source}")
    names = list(job.names)
    shown = Sentences(Prefixed(prefixes("host", names, ()), job.ranks), names)
    view = Fetched(shown, directory, names, CopyOptions(make_parents=True))
    _make(directory)
    sock, session = open_session(job)
    progress = progress_of(parsed, job, "host", begin_s, session)
    if progress is not None:
        progress.measure(lambda: view.bytes, lambda: 0)
    console = Console(
        sock,
        session,
        view,
        standard_sinks(),
        read_stdin=False,
        command=command.name,
        names=names,
        progress=progress,
    )
    console.run()
    sock.close()
    say.after_open_line = not console.stderr_ends_line
    for problem in view.problems:
        say(problem, escape=False)
    outcomes = _judged(session.ended_outcomes(), view)
    if console.status is not None:
        if console.farewell:
            say(console.farewell, escape=False)
        write_failed(parsed, choice, outcomes, say)
        return console.status
    if verbose:
        files = sum([report.files + report.links for report in view.reports if report is not None])
        took = shown_seconds(time.monotonic() - begin_s)
        say(f"{files} files in {printable(directory)}, {shown_size(view.bytes)} in {took}", escape=False)
    status = conclude(parsed, job, choice, outcomes, say, begin_s)
    if console.ending_signal and not all(outcome.ok for outcome in outcomes):
        return 128 + console.ending_signal
    return status


def _directory(parsed: Parsed) -> str:
    """Return where it goes, absolute; UsageError if the words make no sense."""
    if parsed.rest:
        raise UsageError(f"option --fetch: no command runs with it, but {parsed.rest[0][:80]!r} is given")
    for path in parsed.all("fetch"):
        if not path.startswith("/") and "chdir" not in parsed.values:
            raise UsageError(f"--fetch {path[:200]!r}: expected an absolute path, or one below --chdir")
    return os.path.abspath(parsed.value("to", ""))


def _make(directory: str) -> None:
    from gexec.files.directories import reason

    try:
        os.makedirs(directory, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"--to {directory}: it is not a directory; remove the file that is there") from error
    except OSError as error:
        raise UsageError(f"--to {directory}: it cannot be made: {reason(error)}") from error


def _judged(outcomes: list[Outcome], view: Fetched) -> list[Outcome]:
    """Return the outcomes; that a sender ended well is not enough if what it sent is not all here."""
    return [
        lost("what it sent is not all here")
        if outcome.ok and (report is None or not report.is_complete or report.failed)
        else outcome
        for outcome, report in zip(outcomes, view.reports, strict=True)
    ]
