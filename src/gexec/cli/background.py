"""``gexec -d``: a job that the nodes keep, whose id is written as soon as it runs somewhere.

Imported only for such a job. See docs/background.md.
"""

from __future__ import annotations

import os

from gexec import limits
from gexec.cli.flow import Run
from gexec.errors import UsageError
from gexec.render.prefix import prefixes
from gexec.render.view import Prefixed
from gexec.render.wrapped import Wrapped
from gexec.wire.background import Background

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable

    from gexec.cli.command import Call, Submit
    from gexec.cli.options import Parsed
    from gexec.client.session import JobSession
    from gexec.render.view import View
    from gexec.select.sources import Choice
    from gexec.wire.jobspec import JobSpec
    from gexec.wire.ranks import Ranges
else:
    import _signal

#: SIGHUP, and ^Z.
_DETACHING = frozenset([_signal.SIGHUP, _signal.SIGTSTP])
#: Digits of a job's id that people see: of 48 bits, two of a million jobs are equal with a chance of 0.2 %.
SHOWN_DIGITS = 12


def background_of(parsed: Parsed) -> bytes:
    """Return what the options say about the background; b"" if nothing is to be kept (--keep=0).

    Raises:
        UsageError: a value that makes no sense.
    """
    background = Background(
        name=os.fsencode(parsed.value("name", "")),
        keep_bytes=parsed.size("keep") if "keep" in parsed.values else limits.KEEP_BYTES,
        lease_s=parsed.span("lease", limits.LEASE_S),
        holds=parsed.flag("detach-on-hup"),
    )
    if background.keep_bytes == 0:
        if background.holds or background.name:
            raise UsageError("option --keep: with 0 nothing is kept that could be named or attached to")
        return b""
    return background.encode()


def run_attached(call: Call, job: JobSpec, choice: Choice, view: View | None, submit: Submit) -> int:
    """Start a background job and show it until it ends, or a signal detaches (--detach-on-hup).

    Two jobs: the first one starts the keepers, the second one reads what they keep, from the first byte on.
    """
    from gexec.cli.job import shown_ranks
    from gexec.cli.querying import hides_outcome, program_of, true_outcomes
    from gexec.jobs.table import again
    from gexec.render.quiet import Quiet

    connection = submit(job)
    session = connection.session
    with Run(call, job, choice, Quiet(), several=True) as starting:
        starting.one(connection, tell_started=call.parsed.flag("verbose"))
    outcomes = session.ended_outcomes()
    started = [rank for rank, outcome in enumerate(outcomes) if outcome.ok]
    job_hex, ranks = session.job_id.hex(), shown_ranks(started)
    farewell = f"detached: job {job_hex[:SHOWN_DIGITS]} goes on; {again(job_hex)}"
    run = Run(call, job, choice, view, several=True, detaches=(_DETACHING, farewell))
    with run:
        if started and not starting.is_over:
            reading = submit(program_of(job, started, ["attach", job_hex, ranks, "--hold"]))
            run.one(reading, ranks=started, again=hides_outcome)
            ended = reading.session.ended_outcomes()
            if run.status is None:
                ended = true_outcomes(call, job_hex, started, ended)
            for rank, outcome in zip(started, ended, strict=True):
                outcomes[rank] = outcome
        if started and (starting.is_over or run.killed):
            ending = submit(program_of(job, started, ["kill", job_hex, ranks, "--now"]))
            with Run(call, job, choice, Quiet(), several=True) as killing:
                killing.one(ending, ranks=started)
    run.finish(outcomes)
    return run.conclude()


def run_background(call: Call, job: JobSpec, choice: Choice, view: View | None, submit: Submit) -> int:
    """Start a background job, and write its id, or show it (--detach-on-hup); return the exit status."""
    if call.parsed.flag("detach-on-hup"):
        return run_attached(call, job, choice, view, submit)
    connection = submit(job)
    session = connection.session
    if view is None:
        view = Prefixed(prefixes(call.prefix, list(job.names), list(job.addresses)), job.ranks)
    announced = Announced(view, _announcement(call, job, session))
    with Run(call, job, choice, announced) as run:
        run.one(connection, tell_started=call.parsed.flag("verbose"))
    run.finish(session.ended_outcomes())
    return run.conclude()


class Announced(Wrapped):
    """Writes a line to stdout when the first process has started.

    Args:
        view: of everything else.
        line: returns it.
    """

    __slots__ = ("_line", "_was_announced")

    def __init__(self, view: View, line: Callable[[], bytes]) -> None:
        super().__init__(view)
        self._line = line
        self._was_announced = False

    def started(self, ranks: Ranges) -> None:
        """See View."""
        if not self._was_announced:
            self._was_announced = True
            self.writes.append((1, self._line(), None))
        super().started(ranks)


def _announcement(call: Call, job: JobSpec, session: JobSession) -> Callable[[], bytes]:
    name = Background.decode(job.background).name

    def line() -> bytes:
        job_hex = session.job_id.hex()
        if not call.parsed.flag("json"):
            return job_hex[:SHOWN_DIGITS].encode() + b"\n"
        from json import dumps

        told = {"event": "background", "job": job_hex, "name": name.decode()}
        return dumps(told, separators=(",", ":")).encode() + b"\n"

    return line
