"""Which outcomes make a job a success (--exit-policy). Pure; imported when needed."""

from __future__ import annotations

from gexec.errors import UsageError
from gexec.limits import RANKS_MAX
from gexec.render.summary import exit_status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.wire.outcome import Outcome


class ExitPolicy:
    """How many nodes must succeed: ``count`` nodes, or ``percent`` of all; neither: all nodes."""

    __slots__ = ("count", "percent")

    def __init__(self, count: int = 0, percent: int = 0) -> None:
        self.count = count
        self.percent = percent


def parse_policy(text: str) -> ExitPolicy:
    """Return the policy of ``worst``, ``any``, ``ok-if N``, ``ok-if N%`` (also ``ok-if=N``, ``ok-if:N``).

    Raises:
        UsageError: anything else; N is 1 to RANKS_MAX, N% 1 to 100.
    """
    if text == "worst":
        return ExitPolicy()
    if text == "any":
        return ExitPolicy(count=1)
    if text[:5] != "ok-if" or text[5:6] not in (" ", "=", ":"):
        raise UsageError(
            f"option --exit-policy: expected worst, any, 'ok-if N' or 'ok-if N%', not {text[:80]!r}"
        )
    digits, percent = text[6:].removesuffix("%"), text.endswith("%")
    highest = 100 if percent else RANKS_MAX
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 5 and 1 <= int(digits) <= highest):
        raise UsageError(
            f"option --exit-policy: expected 1 to {highest}{'%' * percent} after ok-if, not {text[:80]!r}"
        )
    return ExitPolicy(percent=int(digits)) if percent else ExitPolicy(count=int(digits))


def policy_status(policy: ExitPolicy, outcomes: Sequence[Outcome]) -> int:
    """Return 0 if enough ranks exited 0, else the result of ``exit_status``, but at least 1."""
    if not policy.count and not policy.percent:
        return exit_status(outcomes)
    succeeded = sum([outcome.ok for outcome in outcomes])
    if policy.percent:
        enough = succeeded * 100 >= policy.percent * len(outcomes)
    else:
        enough = succeeded >= policy.count
    return 0 if enough else max(1, exit_status(outcomes))
