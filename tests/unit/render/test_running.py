"""The sentence for a user who has pressed ^C, and a view around another one."""

from __future__ import annotations

import pytest

from gexec.render.running import still_running
from gexec.render.view import View
from gexec.render.wrapped import Wrapped
from gexec.wire import outcome as outcomes
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import Outcome
from gexec.wire.ranks import Ranges

NAMES = [b"node%d" % number for number in range(1, 7)]
DONE = outcomes.exited(0)


@pytest.mark.parametrize(
    ("started", "ended", "sentence"),
    [
        ((), (), "6 of 6 are being started"),
        (((0, 6),), (), "6 of 6 still run: node[1-6]"),
        (((0, 6),), (0, 2), "4 of 6 still run: node[2,4-6]"),
        (((0, 3),), (0,), "2 of 6 still run: node2 node3; 3 of 6 are being started"),
        (((0, 3),), (0, 1, 2), "3 of 6 are being started"),
        (((0, 3),), (3, 4, 5), "3 of 6 still run: node[1-3]"),  # some never started
        (((0, 6),), range(6), "all have ended"),
    ],
)
def test_who_still_runs(started: Ranges, ended: tuple[int, ...], sentence: str) -> None:
    assert still_running(NAMES, started, [DONE if rank in ended else None for rank in range(6)]) == sentence


def test_names_are_shown_without_control_characters() -> None:
    assert "\x1b" not in still_running([b"odd\x1b[2J"], ((0, 1),), [None])


class Inner(View):
    """Writes a line for each call, and one more when it is refilled."""

    def __init__(self) -> None:
        super().__init__()
        self._line("begin")

    def _line(self, text: str) -> None:
        self.writes.append((1, f"{text}\n".encode(), (STDOUT, ((0, 1),), len(text))))

    def started(self, ranks: Ranges) -> None:
        self._line(f"started {ranks}")

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        self.taken.append((stream, ranks, len(data)))
        if data == b"bad":
            self.error = "it cannot go on"

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        self._line(f"ended {ranks} {outcome.value}")

    def finish(self) -> None:
        self.held = True

    def refill(self) -> None:
        self._line("more")
        self.held = False


def test_a_view_around_another_hands_on_each_call_and_takes_each_write_once() -> None:
    inner = Inner()
    view = Wrapped(inner)
    view.started(((0, 2),))
    view.output(STDERR, ((1, 2),), b"12345")
    view.ended(((0, 2),), outcomes.exited(3))
    assert [data for _, data, _ in view.writes] == [
        b"begin\n",
        b"started ((0, 2),)\n",
        b"ended ((0, 2),) 3\n",
    ]
    assert view.writes[0] == (1, b"begin\n", (STDOUT, ((0, 1),), 5))
    assert view.taken == [(STDERR, ((1, 2),), 5)]
    assert (inner.writes, inner.taken) == ([], [])
    assert not view.held
    view.finish()
    assert view.held
    view.refill()
    assert not view.held
    assert view.writes[-1][1] == b"more\n"
    assert len(view.writes) == 4


def test_the_error_of_the_view_inside_is_the_views_and_stays() -> None:
    inner = Inner()
    view = Wrapped(inner)
    view.output(STDOUT, ((0, 1),), b"good")
    assert view.error == ""
    view.output(STDOUT, ((0, 1),), b"bad")
    assert view.error == "it cannot go on"
    view.error = "first"
    view.output(STDOUT, ((0, 1),), b"bad")
    assert view.error == "first"
