"""A node whose reports never fit together is given up."""

from __future__ import annotations

from gexec import limits
from gexec.core import events
from gexec.core.patience import Patience
from gexec.core.root import Root
from gexec.wire import frames, jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.frames import Ended, Output
from gexec.wire.jobspec import JobSpec
from machines import validated  # noqa: F401  (a fixture that every test uses)


def test_requests_at_once_and_over_time() -> None:
    patience = Patience()
    assert all(patience.lasts(0, 1.0) for _ in range(limits.RESENDS_MAX))
    assert not patience.lasts(0, 1.0)
    assert patience.lasts(1, 1.0)  # another rank
    slow = Patience()
    assert all(slow.lasts(0, number * limits.RESEND_EVERY_S) for number in range(10 * limits.RESENDS_MAX))


def _lies(frame: frames.Frame) -> int:
    """Return how often the root requests everything again of a child that always says this."""
    spec = JobSpec(
        names=[b"n"] * 2, addresses=[b""] * 2, program=b"/x", argv=[b"x"], env=[], flags=jobspec.NO_STDIN,
        fanout=2, window=limits.WINDOW_MIN_BYTES,
    )  # fmt: skip
    root = Root(job_id=bytes(16), spec=spec, credential=b"c", blob=b"b", client=1)
    root.begin(0.0)
    requests, told = 0, list[frames.Frame]()
    for step in range(10 * limits.RESENDS_MAX):
        for lie in (frames.Accepted(bytes(16)), frame):
            effects = root.handle(events.ChildFrame(1, lie), 0.001 * step)
            requests += sum(
                isinstance(e, events.ToChild) and isinstance(e.frame, frames.Resync) for e in effects
            )
            told += [e.frame for e in effects if isinstance(e, events.ToParent)]
    text = "what its node reports does not fit together"
    [ended] = [frame for frame in told if isinstance(frame, Ended)]
    assert (ended.ranks, ended.outcome) == (((0, 1),), outcomes.lost(text))
    return requests


def test_attack_77_a_child_whose_output_never_fits() -> None:
    """It made the root, and all nodes of its branch, send everything again without end."""
    assert _lies(Output(((0, 1),), 1, 100, b"after a gap")) == limits.RESENDS_MAX
    assert _lies(Ended(((0, 1),), outcomes.exited(0), 99, 0)) == limits.RESENDS_MAX
