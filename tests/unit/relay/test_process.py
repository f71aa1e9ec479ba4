"""The process of a job at this node: asked for in its turn, and each ask answered for once."""

from __future__ import annotations

import errno
from typing import Any, cast

import pytest

from gexec import native
from gexec.core import events
from gexec.limits import LAUNCHES_UNDER_WAY_MAX
from gexec.relay.launches import Launches
from gexec.relay.ports import OrphanTask
from gexec.relay.process import JobProcess
from gexec.relay.quotas import Quotas
from gexec.settings.config import GexecdSettings
from gexec.wire import jobspec, messages, outcome
from gexec.wire.frames import STDOUT
from gexec.wire.outcome import Outcome
from surroundings import JOB_ID, UID, Pipes, Spawner, job

pytestmark = pytest.mark.skipif(
    native.in_use(), reason="compiled code takes no stand-ins for a RelayJob and its Jobs"
)
RANK = 3
TASK = 1
ENDED = Outcome(outcome.EXITED, 7)


class Surroundings:
    """What is around the process: spawner and pipes that write down what they are asked, real turns."""

    def __init__(self, flags: int = 0) -> None:
        self.processes = Spawner()
        self.pipes: list[Pipes] = []
        self.opened: list[tuple[bool, bool]] = []
        self.freed: list[Any] = []
        self.launches = Launches()
        self.quotas = Quotas(GexecdSettings(), descriptors=90)
        self.around = self
        self.no_descriptors = False
        # and the job
        self.key = (JOB_ID, RANK)
        self.uid = UID
        self.credential = b"credential"
        self.blob = b"blob"
        self.spec = job(flags=flags)
        self.told: list[events.Event] = []
        self.woken = 0
        self.failed: list[Exception] = []

    def open_pipes(self, tell: Any, with_stdin: bool, with_output: bool, freed: Any) -> Pipes:
        if self.no_descriptors:
            raise OSError(errno.EMFILE, "Too many open files")
        self.opened.append((with_stdin, with_output))
        self.freed.append(freed)
        self.pipes.append(Pipes())
        return self.pipes[-1]

    def adopt_pipes(self, tell: Any, outputs: dict[int, int], freed: Any) -> Pipes:
        self.pipes.append(Pipes())
        return self.pipes[-1]

    def tell(self, event: events.Event) -> None:
        self.told.append(event)

    def wake(self) -> None:
        self.woken += 1

    def fail(self, error: Exception) -> None:
        self.failed.append(error)

    def process(self) -> JobProcess:
        return JobProcess(cast(Any, self), cast(Any, self))

    @property
    def under_way(self) -> int:
        """How many launches of the user are with the spawner."""
        return self.launches._under_way.get(UID, 0)

    def fill(self) -> None:
        """Have as many launches of the user under way as may be."""
        for _ in range(LAUNCHES_UNDER_WAY_MAX):
            self.launches.ask(UID, lambda: True)


def outcomes_of(around: Surroundings) -> list[Outcome]:
    return [event.outcome for event in around.told if isinstance(event, events.TaskEnded)]


@pytest.mark.parametrize(
    ("flags", "opened"),
    [(0, (True, True)), (jobspec.NO_STDIN, (False, True)), (jobspec.DETACHED, (False, False))],
)
def test_it_is_run_on_the_pipes_that_the_job_wants(flags: int, opened: tuple[bool, bool]) -> None:
    around = Surroundings(flags)
    process = around.process()
    process.carry_out(events.RunTask())
    assert around.opened == [opened]
    [pipes] = around.pipes
    assert around.processes.asked == [("run", TASK, RANK, pipes.child_fds)]
    assert pipes.asked == ["close child ends"]
    assert around.under_way == 1
    around.processes.told[TASK](messages.ProcessStarted(TASK, 4321))
    assert pipes.asked == ["close child ends", "started"]
    assert [type(event) for event in around.told] == [events.TaskStarted]
    assert around.under_way == 0


def test_a_check_that_was_passed_is_the_task_that_runs() -> None:
    around = Surroundings()
    process = around.process()
    process.carry_out(events.CheckTask())
    assert around.under_way == 1
    around.processes.told[TASK](messages.ProcessReady(TASK))
    assert [type(event) for event in around.told] == [events.TaskReady]
    assert around.under_way == 0
    process.carry_out(events.RunTask())
    assert [asked[:2] for asked in around.processes.asked] == [("check", TASK), ("run", TASK)]
    process.end()
    assert ("kill", TASK, True) not in around.processes.asked  # it runs


def test_what_was_checked_and_never_runs_is_given_up_at_the_end() -> None:
    around = Surroundings()
    process = around.process()
    process.carry_out(events.CheckTask())
    process.end()
    assert around.processes.asked[1:] == [("close", TASK), ("kill", TASK, True)]
    assert around.under_way == 0


def test_what_the_pipes_hold_is_told_before_the_end() -> None:
    around = Surroundings()
    process = around.process()
    process.carry_out(events.RunTask())
    [pipes] = around.pipes
    pipes.pieces = [events.OutputRead(STDOUT, b"one"), events.OutputRead(STDOUT, b"two")]
    around.processes.told[TASK](messages.ProcessEnded(TASK, ENDED, True))
    assert around.woken == 1
    assert around.told == []  # the job asks for it
    first, second, end = (process.next_event() for _ in range(3))
    assert isinstance(first, events.OutputRead)
    assert isinstance(second, events.OutputRead)
    assert (first.data, second.data) == (b"one", b"two")
    assert isinstance(end, events.TaskEnded)
    assert (end.outcome, end.unread) == (ENDED, (0, 0))
    assert pipes.asked[-1] == "watch"
    assert not process.behind


def test_a_refusal_is_an_end_and_gives_the_turn_to_the_next() -> None:
    around = Surroundings()
    process = around.process()
    process.carry_out(events.RunTask())
    around.processes.told[TASK](messages.ProcessRefused(TASK, outcome.denied("no")))
    event = process.next_event()
    assert isinstance(event, events.TaskEnded)
    assert event.outcome == outcome.denied("no")
    assert around.under_way == 0


def test_without_descriptors_it_does_not_start_and_its_turn_is_free() -> None:
    around = Surroundings()
    around.no_descriptors = True
    process = around.process()
    process.carry_out(events.CheckTask())
    around.processes.told[TASK](messages.ProcessReady(TASK))
    process.carry_out(events.RunTask())
    assert outcomes_of(around) == [outcome.no_room("Too many open files")]
    assert around.processes.asked[1:] == [("close", TASK), ("kill", TASK, True)]
    assert around.under_way == 0


@pytest.mark.parametrize("effect", [events.RunTask(), events.CheckTask()])
def test_a_spawner_without_room_is_an_outcome_and_the_pipes_are_closed(effect: events.Effect) -> None:
    around = Surroundings()
    around.processes.full = True
    process = around.process()
    process.carry_out(effect)
    assert outcomes_of(around) == [outcome.no_room("Cannot allocate memory")]
    for pipes in around.pipes:
        assert pipes.asked == ["close", "close child ends"]
    assert around.under_way == 0
    process.carry_out(events.WriteStdin(b"x"))
    process.end()
    for pipes in around.pipes:
        assert pipes.asked == ["close", "close child ends"]


def test_a_defect_fails_this_job_and_its_turn_is_free() -> None:
    around = Surroundings()
    around.processes.defect = ValueError("odd")
    process = around.process()
    process.carry_out(events.RunTask())
    assert around.failed == [around.processes.defect]
    assert around.under_way == 0
    assert around.pipes[0].asked[-1] == "close child ends"
    process.end()
    assert around.pipes[0].asked[-1] == "close"


def test_before_its_turn_all_that_is_asked_of_it_waits_in_order() -> None:
    around = Surroundings()
    around.fill()
    process = around.process()
    process.carry_out(events.RunTask())
    process.carry_out(events.WriteStdin(b"early"))
    process.carry_out(events.SignalTask(15))
    process.carry_out(events.CloseStdin())
    assert around.processes.asked == []
    around.launches.done(UID)
    [pipes] = around.pipes
    assert around.processes.asked == [("run", TASK, RANK, pipes.child_fds), ("signal", TASK, 15)]
    assert pipes.asked == ["close child ends", "write b'early'", "close stdin"]


def test_a_kill_before_its_turn_is_the_end_and_it_never_starts() -> None:
    around = Surroundings()
    around.fill()
    process = around.process()
    process.carry_out(events.RunTask())
    process.carry_out(events.KillTask(True))
    text = "the job was ended before this node's process started"
    assert outcomes_of(around) == [outcome.not_started(text)]
    for _ in range(LAUNCHES_UNDER_WAY_MAX):
        around.launches.done(UID)
    assert around.processes.asked == []
    assert around.pipes == []
    assert around.under_way == 0


def test_a_job_that_ended_before_its_turn_starts_nothing() -> None:
    around = Surroundings()
    around.fill()
    process = around.process()
    process.carry_out(events.RunTask())
    process.end()
    for _ in range(LAUNCHES_UNDER_WAY_MAX):
        around.launches.done(UID)
    assert around.processes.asked == []
    assert around.under_way == 0


def test_what_it_is_asked_goes_to_the_spawner_or_to_the_pipes() -> None:
    around = Surroundings()
    process = around.process()
    early: list[events.Effect] = [events.SignalTask(1), events.CloseOutput(), events.KillTask(False)]
    for effect in early:
        process.carry_out(effect)  # of a process that is not there: nothing
    assert around.processes.asked == []
    process.carry_out(events.RunTask())
    [pipes] = around.pipes
    del around.processes.asked[:], pipes.asked[:]
    asked: list[events.Effect] = [
        events.SignalTask(2),
        events.KillTask(False),
        events.ForgetTask(),
        events.ReadOutput(STDOUT, False),
        events.WriteStdin(b"x"),
        events.CloseStdin(),
        events.CloseOutput(),
        events.DropStdin(),
    ]
    for effect in asked:
        process.carry_out(effect)
    assert around.processes.asked == [("signal", TASK, 2), ("kill", TASK, False), ("forget", TASK)]
    assert pipes.asked == [f"read {STDOUT} False", "write b'x'", "close stdin", "close output", "drop stdin"]
    process.give_up()
    assert around.processes.asked[-1] == ("kill", TASK, False)


def test_its_progress_is_measured_also_while_it_waits_for_its_turn() -> None:
    around = Surroundings()
    around.fill()
    process = around.process()
    process.carry_out(events.RunTask())
    process.carry_out(events.MeasureStdin())
    assert around.told == [events.StdinMeasured(0)]  # nothing of it was ever in a pipe
    around.launches.done(UID)
    around.pipes[0].unread_bytes = 7
    process.carry_out(events.MeasureStdin())
    assert around.told == [events.StdinMeasured(0), events.StdinMeasured(7)]


def test_after_the_end_all_is_given_back_once() -> None:
    around = Surroundings()
    process = around.process()
    process.carry_out(events.RunTask())
    [pipes] = around.pipes
    process.end()
    assert around.under_way == 0  # the answer that never came gives its turn to others
    process.end()
    assert pipes.asked.count("close") == 1
    assert around.under_way == 0


def test_pipes_are_of_their_users_share_and_given_back_at_the_end() -> None:
    around = Surroundings()
    pipes = around.quotas.pipes
    running = []
    while pipes.left(UID) >= 3:
        running.append(around.process())
        running[-1].carry_out(events.RunTask())
    assert pipes.used(UID) == 3 * len(running) == 18
    late = around.process()
    late.carry_out(events.RunTask())
    assert len(around.pipes) == len(running)
    ended = around.told[-1]
    assert isinstance(ended, events.TaskEnded)
    assert ended.outcome.kind == outcome.NOT_STARTED
    assert f"out of resources: uid {UID} has 18 descriptors of pipes" in ended.outcome.text
    assert "raise LimitNOFILE" in ended.outcome.text
    for _ in range(3):
        around.freed[0]()  # its process has ended
    assert pipes.used(UID) == 15
    next_one = around.process()
    next_one.carry_out(events.RunTask())
    assert len(around.pipes) == len(running) + 1
    around.freed[-1]()
    for process in (*running, late, next_one):
        process.end()
        process.end()
    assert pipes.used_by_all == 0


# -- a process that outlives its relay ----------------------------------------------------------


def lasting() -> tuple[Surroundings, JobProcess]:
    """Return a process whose output the spawner keeps."""
    around = Surroundings(jobspec.NO_STDIN)
    process = around.process()
    process.carry_out(events.RunTask())
    around.processes.told[TASK](messages.ProcessStarted(TASK, 4321))
    around.pipes[0].lasts((20, 21))
    assert around.processes.asked[-1] == ("keep", TASK, (20, 21))
    return around, process


def test_what_nobody_reads_any_more_is_not_kept() -> None:
    around, process = lasting()
    process.carry_out(events.CloseOutput())
    assert around.processes.asked[-1] == ("release", TASK)
    process.end()
    assert around.processes.asked.count(("release", TASK)) == 1


def test_the_output_of_a_process_that_has_ended_is_not_released_again() -> None:
    around, process = lasting()
    around.processes.told[TASK](messages.ProcessEnded(TASK, ENDED))
    process.end()
    assert ("release", TASK) not in around.processes.asked


def test_without_room_for_it_the_process_runs_on() -> None:
    around = Surroundings(jobspec.NO_STDIN)
    process = around.process()
    process.carry_out(events.RunTask())
    around.processes.told[TASK](messages.ProcessStarted(TASK, 4321))
    around.processes.full = True
    around.pipes[0].lasts((20, 21))
    around.processes.full = False
    process.carry_out(events.CloseOutput())
    assert ("release", TASK) not in around.processes.asked


def test_a_process_of_a_dead_relay_is_this_job_s() -> None:
    around = Surroundings(jobspec.NO_STDIN)
    process = around.process()
    orphan = OrphanTask(TASK, 1, 60.0, {STDOUT: 20})
    orphan.events.append(messages.ProcessEnded(TASK, ENDED))
    taken: list[bool] = []
    orphan.adopted = lambda: taken.append(True)
    process.adopt(orphan)
    assert taken == [True]
    process.adopted(orphan)
    assert [type(event) for event in around.told] == [events.OutputClosed]  # stderr
    [ended] = process.behind
    assert isinstance(ended, events.TaskEnded)
    assert ended.outcome == ENDED
    process.end()
    assert around.quotas.pipes.left(UID) == Surroundings().quotas.pipes.left(UID)
