"""``gexec --fetch PATH --to DIR``: each node's files as DIR/NODE/PATH. See docs/gexec.md, Fetching."""

from __future__ import annotations

import os

from gexec.cli.filters import Filters
from gexec.cli.flow import Run
from gexec.client.job import build, submit
from gexec.client.told import Told
from gexec.client.transfer import INTERRUPT, Fetched, environment
from gexec.errors import UsageError
from gexec.files.options import CopyOptions
from gexec.render.prefix import prefixes
from gexec.render.sentences import Sentences
from gexec.render.text import printable
from gexec.render.text import size as shown_size
from gexec.render.view import Prefixed
from gexec.wire.jobspec import NO_STDIN
from gexec.wire.outcome import Outcome, lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.cli.command import Call
    from gexec.cli.options import Parsed


def fetch(call: Call) -> int:
    """Fetch; return the exit status."""
    parsed = call.parsed
    directory = _directory(parsed)
    options = _options(parsed)
    told = Told() if _has_files(directory) else None
    request = call.request(_sender(parsed, asking=told is not None))
    request.stdin = told is not None
    request.remote_path = True
    request.env = environment()
    request.chdir = request.chdir or "/"
    if call.has_nothing_to_rerun():
        return 0
    job, choice = build(request)
    if parsed.flag("dry-run"):
        return call.show_places(job, choice)
    call.verbose(f"{job.ranks} nodes from {choice.source}")
    names = list(job.names)
    shown = Sentences(Prefixed(prefixes("host", names, ()), job.ranks), names)
    if told is not None:
        job.flags &= ~NO_STDIN
    view = Fetched(shown, directory, names, options, tell=told.put if told is not None else None)
    _make(directory)
    connection = submit(job)
    with Run(call, job, choice, view, interrupt=INTERRUPT) as run:
        if run.progress is not None:
            run.progress.measure(lambda: view.bytes, lambda: 0)
        run.one(connection, told)
    run.finish(_judged(connection.session.ended_outcomes(), view))
    for problem in view.problems:
        call.say(problem, escape=False)
    if parsed.flag("verbose") and run.status is None:
        files = sum([report.files + report.links for report in view.reports if report is not None])
        where = printable(directory)
        call.say(f"{files} files in {where}, {shown_size(view.bytes)} in {call.elapsed()}", escape=False)
    return run.conclude(by_signal=True)


def _options(parsed: Parsed) -> CopyOptions:
    """Return how files are written here; UsageError if the caller may not set owners.

    Digests are not compared: one process for all nodes would have to read what is here. What nodes report of
    owners and attributes is not trusted, unless the caller wants the owners.
    """
    owners = parsed.flag("owners")
    if owners and os.geteuid() != 0:
        raise UsageError("option --owners: only root can set owners; leave it out")
    return CopyOptions(make_parents=True, asks_digests=False, keep_attributes=False, keep_owner=owners)


def _sender(parsed: Parsed, *, asking: bool) -> list[str]:
    """Return the command that runs on the nodes. ``asking``: it sends what is lacking here."""
    words = ["--names=asked", "--glob", *Filters(parsed).words(), *(["--asking"] if asking else [])]
    return ["gexec-send", *words, "--", *parsed.all("fetch")]


def _has_files(directory: str) -> bool:
    """Return True if something is there already: perhaps not everything must be sent again."""
    try:
        with os.scandir(directory) as entries:
            return any(True for _ in entries)
    except OSError:
        return False


def _directory(parsed: Parsed) -> str:
    """Return where it goes, absolute; UsageError if the arguments make no sense."""
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
