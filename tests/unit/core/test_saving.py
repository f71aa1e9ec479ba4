"""Saved machines: nothing is forgotten, and a machine that was saved and made again behaves as before."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from gexec import native
from gexec.core import saving
from gexec.core.child import Child
from gexec.core.continuing import continued
from gexec.core.flow import Broadcast, RetainedStream
from gexec.core.intake import Intake
from gexec.core.ledger import Ledger
from gexec.core.node import Node
from gexec.core.outbox import Outbox
from gexec.core.patience import Patience
from gexec.core.quiet import QuietRanks
from gexec.core.root import Root
from gexec.core.stall import Stall
from gexec.core.subtree import Subtree
from gexec.core.task import Task
from gexec.core.tree import Epochs
from gexec.relay.job import RelayJob
from gexec.wire import values
from gexec.wire.frames import Start
from gexec.wire.jobspec import JobSpec
from laboratory.daemons import SimDaemon
from laboratory.simulator import simulate

SPEC = JobSpec(
    names=[b"one", b"two", b"three"],
    addresses=[b"10.0.0.1:2875"] * 3,
    program=b"/bin/cat",
    argv=[b"cat"],
    env=[],
    stall_s=5.0,
)
#: Attributes that are not saved: arguments, or what follows from others.
MADE_AGAIN = {
    Node: "_effects _emit _orphan_grace_s _spec job_id low",
    Root: "_effects _spec _subtree job_id",
    Subtree: "_blob _credential _decide _emit _fanout _first _stdin _taken children held topmost",
    Task: "_emit _outbox _ranges _spec _stdin rank",
    Child: "elder",
    Intake: "_emit _stdin",
    Outbox: "_index",
    QuietRanks: "_tell",
    Epochs: "_fanout _ranks",
}


def machines() -> list[Any]:
    """Return one object of each class that can be saved."""
    start = Start(1, 0, 3, b"credential", b"blob")
    node = Node(job_id=b"j" * 16, spec=SPEC, start=start, parent=1)
    root = Root(job_id=b"j" * 16, spec=SPEC, credential=b"credential", blob=b"blob", client=1)
    child = Child(1, 0, 1, {0}, 0, 0.0)
    parts = [
        RetainedStream(1),
        Broadcast(),
        node._task.intake,
        Ledger(1),
        Outbox(),
        Patience(),
        QuietRanks(lambda frame: None),
        Stall(1.0, 0.0),
        Epochs(9, 2, 1, 9),
    ]
    return [node, root, node._task, node._subtree, child, *parts]


@pytest.mark.skipif(native.in_use(), reason="a compiled class does not tell its slots")
@pytest.mark.parametrize("machine", machines(), ids=lambda machine: type(machine).__name__)
def test_every_attribute_is_saved_or_made_again(machine: Any) -> None:
    has = set(vars(machine)) if hasattr(machine, "__dict__") else set(type(machine).__slots__)
    saved = set(f"{machine.SAVED} {machine.PARTS}".split())
    others = set(MADE_AGAIN.get(type(machine), "").split())
    assert has == saved | others, "list new attributes in SAVED or PARTS, and raise saving.VERSION"


def test_all_classes_that_can_be_saved_are_tested() -> None:
    assert {type(machine) for machine in machines()} == set(saving.Savable.__subclasses__())


def test_state_of_something_else_is_refused() -> None:
    node = machines()[0]
    given: Any = {"job_id": node.job_id, "spec": SPEC, "credential": b"credential", "blob": b"blob"}
    with pytest.raises(KeyError):
        continued(node.save(), low=-1, **given)
    with pytest.raises(TypeError):
        continued(node.save() | {"_task": None}, low=0, **given)


def remade(job: RelayJob) -> Node | Root:
    """Return a job's machine, saved, written, read, and made again."""
    raw = b"".join(values.encode(job.machine.save()))
    again = continued(
        values.decode(raw),
        job_id=job.key[0],
        low=job.key[1],
        spec=job.spec,
        credential=job.credential,
        blob=job.blob,
    )
    assert b"".join(values.encode(again.save())) == raw
    return again


@pytest.mark.parametrize("seed", [*range(2000, 2020), 7_050_234])
def test_a_machine_made_again_at_any_step_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trace of a simulated job is the same if its machines are replaced at random steps."""
    expected = simulate(seed).digest
    choose = Random(seed)
    stepped = SimDaemon._stepped

    def replaced(daemon: SimDaemon, job: RelayJob) -> None:
        stepped(daemon, job)
        if not job.machine.finished and choose.random() < 0.2:
            old, job.machine = job.machine, remade(job)
            machines = daemon.cluster.machines
            machines[machines.index((daemon.index, old))] = (daemon.index, job.machine)
            job.machine.validate()

    monkeypatch.setattr(SimDaemon, "_stepped", replaced)
    assert simulate(seed).digest == expected
