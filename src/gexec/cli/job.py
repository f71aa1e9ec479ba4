"""``gexec-job``: what a node has of a user's background jobs. Started on the nodes by gexecctl and gexec.

``gexec-job list`` writes a line of JSON for each rank (``jobs.states``). All other actions are about one rank
of JOB: of RANKS, in order, that which has this process's own rank in its place.
"""

from __future__ import annotations

import os
import sys
import time

from gexec.cli.options import parse
from gexec.cli.table import options_of
from gexec.errors import GexecError, UsageError
from gexec.jobs import access, spool
from gexec.wire import ranks as sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Sequence

    from gexec.cli.options import Parsed
    from gexec.jobs.spool import RankPlace
else:
    import _signal

SPOOL = "/var/spool/gexec"
FAILED, USAGE = 1, 2


def main(words: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    if "--hold" not in words:  # else it is the command's, as soon as that is found
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    try:
        parsed = parse("gexec-job", words, options_of("gexec-job"), True)
        if parsed.flag("help"):
            from gexec.cli.manual import help_page

            sys.stdout.write(help_page("gexec-job"))
            return 0
        return _run(parsed)
    except UsageError as error:
        access.tell(str(error))
        return USAGE
    except GexecError as error:
        access.tell(str(error))
        return FAILED
    except BrokenPipeError:
        return FAILED
    except OSError as error:
        access.tell(error.strerror or str(error))
        return FAILED


def _run(parsed: Parsed) -> int:
    directory = os.environ.get("GEXEC_SPOOL") or SPOOL
    action, *rest = parsed.rest or [""]
    uid = parsed.integer("uid", os.geteuid())
    if action == "list" and not rest:
        return _list(directory, parsed.flag("all-users"))
    if action not in _ACTIONS or len(rest) < 2:
        raise UsageError("expected list, or an action with JOB and RANKS: gexec-job -h shows them")
    with access.rank_place(directory, uid, rest[0], _own_rank(rest[1])) as (user_fd, place):
        return _act(parsed, action, rest[2:], user_fd, place)


_ACTIONS = ("attach", "output", "wait", "signal", "kill", "forget")


def _act(parsed: Parsed, action: str, rest: list[str], user_fd: int, place: RankPlace) -> int:
    tail_bytes = parsed.size("tail") if "tail" in parsed.values else None
    if action == "attach":
        return access.attach(place, tail_bytes, parsed.flag("hold"))
    if action == "wait":
        return access.await_end(place)
    if action == "output":
        access.show(place, tail_bytes)
    elif action == "signal":
        access.send_signal(place, int(rest[0]))
    elif action == "kill":
        text = access.kill(place, parsed.flag("now"))
        if text:
            access.tell(text)
    else:
        access.forget(user_fd, place)
    return 0


def _list(directory: str, of_all: bool) -> int:
    uids = [os.geteuid()]
    if of_all:
        if os.geteuid() != 0:
            raise UsageError("option --all-users: only root sees the jobs of others")
        try:
            uids = spool.users(directory)
        except FileNotFoundError:
            uids = []
    for state in access.states(directory, uids, time.time()):
        rest = memoryview(state.line())
        while rest:
            rest = rest[os.write(1, rest) :]
    return 0


def _own_rank(text: str) -> int:
    """Return the rank that this process is for."""
    from gexec.client.remote import my_vnn

    try:
        ranges = tuple([_range(part) for part in text.split(",")])
        return sets.members(ranges)[my_vnn()]
    except (ValueError, IndexError) as error:
        raise UsageError(f"ranks {text[:80]!r}: expected such as 0-7,9, one for each process") from error


def _range(text: str) -> tuple[int, int]:
    low, _, high = text.partition("-")
    return int(low), int(high or low) + 1


def shown_ranks(ranks: Sequence[int]) -> str:
    """Return ranks in the form of the argument RANKS."""
    return ",".join([f"{low}-{high - 1}" for low, high in sets.of(ranks)])
