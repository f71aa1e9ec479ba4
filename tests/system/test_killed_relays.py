"""Relays that are killed: processes that last continue in the next relay, and never end as undamaged.

Every job writes numbered lines, so a line that is missing, doubled or out of order is seen.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import DEADLINE_S, wait_until
from .daemons import command, is_gone, relay_of
from .several import Counting, Machines, running

pytestmark = pytest.mark.timeout(300)

#: What the summary says of a rank that has outlived its relay.
CUT = "output cut: the relay of its gexecd died meanwhile: what it had not delivered is lost"


#: The spawner's own pipe for its signals.
_OWN = 1


@pytest.fixture
def machines() -> Iterator[Machines]:
    yield from running(5)


@pytest.fixture
def one() -> Iterator[Machines]:
    yield from running(1)


def kept(machines: Machines, index: int) -> int:
    """Return how many ends of jobs' pipes that a relay reads are kept by the spawner of a machine."""
    proc = Path(f"/proc/{machines.gexecds[index].process.pid}")
    found = 0
    for entry in (proc / "fdinfo").iterdir():
        try:
            is_pipe = os.readlink(proc / "fd" / entry.name).startswith("pipe:")
            flags = int(entry.read_text().split("flags:")[1].split()[0], 8)
        except FileNotFoundError:
            continue
        mode = os.O_ACCMODE | os.O_NONBLOCK | os.O_CLOEXEC
        found += is_pipe and flags & mode == os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    return found - _OWN


def wait_until_kept(machines: Machines, index: int) -> None:
    """Wait until the spawner keeps stdout and stderr of a task."""
    wait_until(lambda: kept(machines, index) == 2, "the spawner keeps no output")


def kill_relay(machines: Machines, index: int) -> int:
    """Kill the relay of a machine; return the pid of the next one."""
    spawner = machines.gexecds[index].process.pid
    before = relay_of(spawner)
    served = machines.gexecds[index].errors().count("the new relay serves")
    os.kill(before, signal.SIGKILL)
    wait_until(
        lambda: machines.gexecds[index].errors().count("the new relay serves") > served,
        "there is no other relay",
    )
    after = relay_of(spawner)
    assert after != before
    return after


def numbers(lines: list[str], rank: int) -> list[str]:
    """Return what a rank has written."""
    return [line.split(maxsplit=1)[1].rstrip() for line in lines if line.split()[0] == str(rank)]


@pytest.mark.parametrize("index", [2, 1], ids=["a leaf", "an inner node"])
def test_a_process_outlives_its_relay(machines: Machines, index: int) -> None:
    """With fan-out 2, node2 (rank 0) is the parent of node3 (rank 1), and node4 (rank 2) that of node5."""
    job = Counting(machines)
    job.wait_for_more()
    wait_until_kept(machines, index)
    kill_relay(machines, index)
    job.wait_for_more()
    status, errors = job.end()
    hit = index - 1
    assert status == 255
    assert [line for line in errors.splitlines() if CUT in line and "exited 0" in line]
    for rank in range(4):
        *counted, last = numbers(job.lines, rank)
        if rank != hit:
            assert counted == [str(number) for number in range(1, len(counted) + 1)]
            assert last == f"all {len(counted)}"
        else:  # in order, none twice, and no more lost than the relay may have held
            came = [int(number) for number in counted]
            assert came == sorted(set(came))
            assert last == f"all {came[-1]}"
    assert kept(machines, index) == 0
    assert machines.gexec("-f", 2, "--", "/bin/true").returncode == 0


def of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return status, stdout and stderr of a client, at its end."""
    out, err = process.communicate(timeout=DEADLINE_S)
    return process.returncode, out, err


@pytest.fixture
def two() -> Iterator[Machines]:
    """The first one takes the jobs; the second one has the only rank."""
    yield from running(2)


def begin_kept(two: Machines, script: str) -> subprocess.Popen[str]:
    """Begin a job; its process on the second machine outlives its relay when this returns."""
    process = two.begin("--", "/bin/sh", "-c", script, two.dir)
    wait_until_kept(two, 1)
    return process


def wait_for_more(process: subprocess.Popen[str]) -> None:
    """Return when the client has written a line since now."""
    assert process.stdout is not None
    fd = process.stdout.fileno()
    os.set_blocking(fd, False)
    try:
        while os.read(fd, 65536):
            pass
    except BlockingIOError:
        pass
    os.set_blocking(fd, True)
    assert os.read(fd, 65536)


def test_it_ends_while_there_is_no_relay(two: Machines) -> None:
    process = begin_kept(two, 'while [ ! -e "$0/go" ]; do sleep 0.02; done; echo last; exit 3')
    spawner = two.gexecds[1].process.pid
    os.kill(relay_of(spawner), signal.SIGKILL)
    wait_until(lambda: "starting another one" in two.gexecds[1].errors(), "no other relay is started")
    (two.dir / "go").touch()
    status, out, err = of(process)
    assert (status, out) == (255, "0 last\n")
    assert "exited 3, " + CUT in err


def test_signals_reach_it_and_it_can_outlive_two_relays(two: Machines) -> None:
    script = "trap 'echo got it; exit 7' USR1; while :; do sleep 0.05; echo on; done"
    process = begin_kept(two, script)
    for _ in range(2):
        kill_relay(two, 1)
        wait_for_more(process)
    process.send_signal(signal.SIGUSR1)
    status, out, err = of(process)
    assert status == 255
    assert out.endswith("0 got it\n")
    assert "exited 7, " + CUT in err


def test_it_outlives_an_upgrade_before_and_after(two: Machines) -> None:
    process = begin_kept(two, 'while [ ! -e "$0/go" ]; do echo on; sleep 0.05; done; echo last')
    assert two.upgrade("--force", name="node2").returncode == 0
    kill_relay(two, 1)
    assert two.upgrade("--force", name="node2").returncode == 0
    (two.dir / "go").touch()
    status, out, err = of(process)
    assert status == 255
    assert out.endswith("0 last\n")
    assert CUT in err


def test_a_process_that_waits_for_stdin_is_lost_and_ended(two: Machines) -> None:
    pid_file = two.dir / "pid"
    script = f"echo $$ >{pid_file}.new; mv {pid_file}.new {pid_file}; cat >/dev/null; echo done"
    lasting = begin_kept(two, 'while [ ! -e "$0/go" ]; do sleep 0.02; done')
    with subprocess.Popen(
        [*command("gexec"), "--", "/bin/sh", "-c", script],
        env=two.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as job:  # fmt: skip
        wait_until(pid_file.exists, "it does not start")
        kill_relay(two, 1)
        status, out, err = of(job)
    assert (status, out) == (255, "")
    assert "lost" in err
    wait_until(lambda: is_gone(int(pid_file.read_text())), "its process goes on")
    (two.dir / "go").touch()
    assert of(lasting)[0] == 255


def test_without_a_process_that_lasts_gexecd_ends(one: Machines) -> None:
    gexecd = one.gexecds[0]
    assert one.gexec("--", "/bin/true").returncode == 0
    os.kill(relay_of(gexecd.process.pid), signal.SIGKILL)
    assert gexecd.wait() == 1


def test_the_fourth_death_ends_gexecd(two: Machines) -> None:
    process = begin_kept(two, "while :; do sleep 0.05; done")
    for _ in range(3):
        kill_relay(two, 1)
    os.kill(relay_of(two.gexecds[1].process.pid), signal.SIGKILL)
    assert two.gexecds[1].wait() == 1
    status, _, err = of(process)
    assert status == 255
    assert "lost" in err


def test_a_process_whose_job_nobody_wants_any_more_is_ended(two: Machines) -> None:
    pid_file = two.dir / "pid"
    process = begin_kept(two, f"echo $$ >{pid_file}; while :; do sleep 0.05; done")
    root = two.gexecds[0].process.pid
    os.kill(root, signal.SIGSTOP)
    os.kill(relay_of(root), signal.SIGKILL)
    os.kill(root, signal.SIGKILL)
    kill_relay(two, 1)
    assert of(process)[0] == 255
    pid = int(pid_file.read_text())
    wait_until(lambda: is_gone(pid), "its process goes on", deadline_s=2 * DEADLINE_S)


def test_gexecd_can_be_stopped_after_it(two: Machines) -> None:
    process = begin_kept(two, "while :; do sleep 0.05; done")
    kill_relay(two, 1)
    process.send_signal(signal.SIGTERM)
    assert of(process)[0] != 0
    assert two.gexecds[1].stop() == 0
