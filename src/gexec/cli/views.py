"""The ways to show a run that options choose (docs/output.md). Imported only when one is asked for."""

from __future__ import annotations

import os

from gexec.errors import UsageError
from gexec.render.prefix import prefixes, styled, wants_colour
from gexec.render.view import Prefixed, View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.cli.options import Parsed
    from gexec.wire.jobspec import JobSpec
    from gexec.wire.outcome import Outcome

#: At most one of these can have stdout.
_FORMS = ("gather", "diff", "json", "quiet")


class OutputForm:
    """What the options say about showing.

    Args:
        parsed: the command line.
        kind: of prefix.
        form: one of _FORMS, unless an option chooses another; "" = lines.
        judge: returns the exit status that JSON ends with, from the outcomes and what the policy makes of
            them; None = the latter.

    Attributes:
        form: what has stdout: one of _FORMS, or "" for lines.
    """

    def __init__(
        self,
        parsed: Parsed,
        kind: str,
        form: str = "",
        judge: Callable[[Sequence[Outcome], int], int] | None = None,
    ) -> None:
        self._parsed = parsed
        self._kind = kind
        self._reference = parsed.last("diff") or ""
        forms = [name for name in _FORMS if parsed.given(name)]
        self.form = forms[-1] if forms else form
        self._judge = judge
        self._gathered = "gather" in forms
        terminal = os.isatty(1)
        self._colour = wants_colour(parsed.value("color", "auto"), terminal, os.environ)
        self._align = terminal

    def view(self, job: JobSpec) -> View:
        """Return the view of a run of this job's nodes."""
        names, addresses = list(job.names), list(job.addresses)
        view = self._shown(names, addresses)
        directory = self._parsed.last("output-dir")
        if directory is not None:
            from gexec.client.outdir import OutputDir
            from gexec.render.tee import Tee

            view = Tee(view, OutputDir(directory, names))
        return view

    def _shown(self, names: Sequence[bytes], addresses: Sequence[bytes]) -> View:
        if self.form == "json":
            from gexec.render.jsonl import Jsonl

            return Jsonl(names, addresses, self._status)
        if self.form == "gather":
            from gexec.render.gather import Gathered

            return Gathered(names, live=self._parsed.flag("live"), colour=self._colour)
        if self.form == "diff":
            from gexec.render.diff import Diff

            reference = os.fsencode(self._reference)
            if reference and reference not in names:
                raise UsageError(f"option --diff: {self._reference[:80]!r} is none of the job's nodes")
            return Diff(names, reference, gathered=self._gathered, colour=self._colour)
        if self.form == "quiet":
            from gexec.render.quiet import Quiet

            return Quiet()
        plain = prefixes(self._kind, names, addresses)
        if plain is not None and (self._colour or self._align):
            plain = styled(plain, names, self._colour, self._align)
        return Prefixed(plain, len(names))

    def _status(self, outcomes: Sequence[Outcome]) -> int:
        from gexec.render.policy import parse_policy, policy_status

        status = policy_status(parse_policy(self._parsed.last("exit-policy") or "worst"), outcomes)
        return status if self._judge is None else self._judge(outcomes, status)
