"""Cells: the control group that each command has where gexecd may make some. Real groups, so as root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gexec.posix import cgroups
from gexec.spawner import cellmaker
from gexec.wire.outcome import KILLED, LOST
from system.conftest import wait_until
from system.daemons import Host, children_of, command, is_gone, status_of
from system.groups import cells_of, own_group
from system.rig import NOBODY, Rig, gone, rigs

USER = NOBODY.pw_uid
#: Not the tests' own: other users may not be able to execute it.
PYTHON = "/usr/bin/python3"
#: It has nothing of its command: no variable, session, group, output or parent.
HIDES = "env -i /usr/bin/setsid /bin/sh -c '{}' >/dev/null 2>&1 </dev/null &"
#: Tells its pid by a file, because it holds no output.
TELLS = "echo $$ >{path}; exec /bin/sleep 1000"


@pytest.fixture
def group() -> Iterator[str]:
    with own_group() as made:
        yield made


@pytest.fixture
def make(group: str, tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    with rigs(tmp_path, group=group) as making:
        yield making


@pytest.fixture
def rig(make: Callable[..., Rig]) -> Rig:
    return make()


@pytest.fixture
def told() -> Iterator[Path]:
    """A file that any user may write a pid to."""
    path = Path(f"/tmp/gexec-test-{os.getpid()}-told")
    path.touch()
    path.chmod(0o666)
    yield path
    path.unlink()


def pid_in(told: Path) -> int:
    wait_until(lambda: told.read_text().endswith("\n"), "nothing has told its pid")
    return int(told.read_text())


def hidden(told: Path) -> str:
    return f"({HIDES.format(TELLS.format(path=told))})"


def running(group: str) -> list[int]:
    """Return what runs in any cell."""
    return [thread for threads in cells_of(group).values() for thread in threads]


@pytest.mark.root
def test_a_command_and_all_that_it_starts_are_in_one_cell(rig: Rig, told: Path, group: str) -> None:
    first = rig.sh(f"{hidden(told)}; echo $$ $PPID; exec sleep 1000", user=USER)
    pid, helper = map(int, first.line().split())
    cell = cgroups.cell_of(pid)
    assert cell in cells_of(group)
    assert cgroups.cell_of(pid_in(told)) == cell
    assert cgroups.cell_of(helper) == ""
    second = rig.sh("echo $$; exec sleep 1000", user=USER)
    assert cgroups.cell_of(int(second.line())) not in ("", cell)
    other = rig.sh("echo $$; exec sleep 1000")  # root's, with a helper of its own
    assert cgroups.cell_of(int(other.line())) not in ("", cell)
    for task in (first, second, other):
        rig.relay.kill(task.number, True)
        assert task.outcome().kind == KILLED


@pytest.mark.root
def test_an_empty_cell_is_used_again(rig: Rig, group: str) -> None:
    used = set()
    for _ in range(5):
        task = rig.sh("tail -1 /proc/self/cgroup", user=USER)
        used.add(task.line())
        assert task.outcome().ok
    assert len(used) == 1
    rig.close()
    assert cells_of(group) == {}


@pytest.mark.root
def test_attack_131_what_hides_its_command_ends_with_it_and_with_no_other(rig: Rig, told: Path) -> None:
    hider = rig.sh(f"{hidden(told)}; echo up; exec sleep 1000", user=USER)
    assert hider.line() == b"up"
    pid = pid_in(told)
    # A command that could have started it ends by itself, another one is killed.
    assert rig.sh("true", user=USER).outcome().ok
    other = rig.sh("echo up; exec sleep 1000", user=USER)
    assert other.line() == b"up"
    rig.relay.kill(other.number, True)
    assert other.outcome().kind == KILLED
    assert rig.sh("true", user=USER).outcome().ok
    assert not is_gone(pid)
    rig.relay.kill(hider.number, True)
    assert hider.outcome().kind == KILLED
    assert gone(pid)


@pytest.mark.root
def test_attack_132_a_command_cannot_leave_its_cell(rig: Rig, group: str) -> None:
    jobs = f"{group}/{cgroups.JOBS}"
    script = f"""cd {jobs} || exit 9
        for to in ../cgroup.procs cgroup.procs cgroup.threads */cgroup.procs */cgroup.threads */cgroup.freeze
        do
            for pid in 0 $$ $PPID; do (echo $pid >$to) 2>/dev/null && echo $to; done
        done
        mkdir new 2>/dev/null && echo new
        chmod 700 . */ 2>/dev/null && echo mode
        tail -1 /proc/self/cgroup"""
    task = rig.sh(script, user=USER)
    words = task.output().split()
    assert task.outcome().ok
    assert len(words) == 1, words
    assert os.path.basename(words[0].decode()) in cells_of(group)


@pytest.mark.root
@pytest.mark.parametrize("now", [True, False])
def test_attack_61_fork_bomb_that_outruns_its_parents_is_ended(rig: Rig, group: str, now: bool) -> None:
    """Each process ends as soon as it has a child, in a session of its own: it is never long in one place."""
    bomb = """
import os, resource, signal
for number in (signal.SIGHUP, signal.SIGTERM): signal.signal(number, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_NPROC, (150, 150))
print("up", flush=True)
os.closerange(0, 3)
while True:
    try:
        if os.fork() and os.fork():
            os._exit(0)
        os.setsid()
    except OSError:
        pass
"""
    task = rig.sh(f"exec {PYTHON} -IS -c '{bomb}'", user=USER)
    assert task.line() == b"up"
    wait_until(lambda: len(running(group)) > 20, "the bomb has not begun")
    rig.relay.kill(task.number, now)
    wait_until(lambda: not running(group), "something of the bomb is left")
    assert rig.sh("true", user=USER).outcome().ok


#: States of processes that do not run, and how each shows in /proc.
STILL = {"stopped": "T", "traced": "t", "frozen": "S"}


@pytest.mark.root
@pytest.mark.parametrize("way", STILL)
def test_what_does_not_run_is_ended_too(rig: Rig, group: str, way: str) -> None:
    program = """
import ctypes, os, signal, sys, time
os.setsid()
way = sys.argv[1]
if way == "stopped":
    os.kill(os.getpid(), signal.SIGSTOP)
if way == "traced" and not os.fork():
    ctypes.CDLL(None).ptrace(0, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(1000)
"""
    words = f"{PYTHON} -IS -c '{program}' {way}"
    task = rig.sh(f"env -i {words} >/dev/null 2>&1 </dev/null & echo $$; exec sleep 1000", user=USER)
    cell = cgroups.cell_of(int(task.line()))
    wait_until(lambda: STILL[way] in [state_of(thread) for thread in cells_of(group)[cell]], f"none is {way}")
    if way == "frozen":
        Path(group, cgroups.JOBS, cell, "cgroup.freeze").write_text("1")
    rig.relay.kill(task.number, False)
    wait_until(lambda: not running(group), "something is left")
    assert rig.sh("true", user=USER).outcome().ok


def state_of(pid: int) -> str:
    try:
        return status_of(pid)["State"][0]
    except OSError:
        return ""


@pytest.mark.root
def test_set_uid_program_ends_with_its_command(rig: Rig, group: str) -> None:
    """The helper, which is the user, may send it no signal; the starter may."""
    program = Path(f"/tmp/gexec-test-{os.getpid()}-suid")
    shutil.copy("/bin/sleep", program)
    try:
        program.chmod(0o4755)
        task = rig.sh(
            f"trap '' HUP TERM; (env -i setsid {program} 1000 &); echo up; exec sleep 1000", user=USER
        )
        assert task.line() == b"up"
        rig.relay.kill(task.number, False)
        assert task.outcome().kind == KILLED
        wait_until(lambda: not running(group), "something is left")
    finally:
        program.unlink()


@pytest.mark.root
def test_death_of_a_helper_ends_what_hides(rig: Rig, told: Path, group: str) -> None:
    task = rig.sh(f"{hidden(told)}; echo $PPID; exec sleep 1000", user=USER)
    helper = int(task.line())
    pid = pid_in(told)
    os.kill(helper, signal.SIGKILL)
    assert task.outcome().kind == LOST
    assert gone(pid)
    wait_until(lambda: not running(group), "something is left")
    assert rig.sh("true", user=USER).outcome().ok


@pytest.mark.root
def test_a_cell_of_a_detached_command_is_left_alone(rig: Rig, told: Path, group: str) -> None:
    task = rig.sh(f"{hidden(told)}; echo $PPID; exec sleep 1000", user=USER)
    helper = int(task.line())
    pid = pid_in(told)
    rig.relay.forget(task.number)
    assert rig.sh("true", user=USER).outcome().ok
    os.kill(helper, signal.SIGKILL)
    assert gone(helper)
    rig.close()
    assert not is_gone(pid)
    (cell,) = cells_of(group)
    assert pid in cells_of(group)[cell]


@pytest.mark.root
def test_a_helper_that_has_no_more_cells_starts_commands_without(
    make: Callable[..., Rig], group: str
) -> None:
    rig = make(constants=[(cellmaker, "CELLS_MAX", 2)])
    tasks = [rig.sh("echo $$; exec sleep 1000", user=USER) for _ in range(4)]
    cells = [cgroups.cell_of(int(task.line())) for task in tasks]
    assert cells.count("") == 2
    for task in tasks:
        rig.relay.kill(task.number, True)
        assert task.outcome().kind == KILLED


@pytest.mark.root
def test_a_limit_of_descriptors_leaves_most_of_them_to_commands(make: Callable[..., Rig]) -> None:
    import resource

    rig = make(task_limits={resource.RLIMIT_NOFILE: (64, 64)})
    tasks = [rig.sh("echo $$; exec sleep 1000", user=USER) for _ in range(40)]
    cells = [cgroups.cell_of(int(task.line())) for task in tasks]
    assert 12 <= len(set(cells) - {""}) <= 20
    for task in tasks:
        rig.relay.kill(task.number, True)
        assert task.outcome().kind == KILLED


# -- gexecd itself -----------------------------------------------------------------------------


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


@pytest.mark.root
def test_what_gexecd_could_not_end_is_ended_by_the_next_one(host: Host, told: Path, group: str) -> None:
    """All its processes are killed at once; a service that a command has left lives."""
    host.start_authd()
    config = host.config(f'control_group = "{group}"\n')
    service = host.gexecd("--config", config)
    left = host.gexec("-n", "1", "-p", "none", "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
    survivor = int(left.stdout)
    client = host.begin("-n", "1", "-p", "none", "sh", "-c", f"{hidden(told)}; exec sleep 1000")
    pid = pid_in(told)
    family = [service.pid]
    for each in family:
        family += [one for one in children_of(each) if status_of(one)["Name"][0].startswith("gexecd")]
    assert len(family) == 4
    for each in family:
        os.kill(each, signal.SIGSTOP)
    for each in family:
        os.kill(each, signal.SIGKILL)
    service.wait()
    client.kill()
    assert not is_gone(pid)
    again = host.gexecd("--config", config)
    assert gone(pid)
    wait_until(lambda: running(group) == [survivor], "only the service is left")
    assert "ending what 1 commands of an earlier gexecd have left running" in again.errors()
    assert host.gexec("-n", "1", "true").returncode == 0
    assert again.stop() == 0
    assert not is_gone(survivor)
    assert list(cells_of(group).values()) == [[survivor]]


@pytest.mark.root
def test_a_background_job_lives_on_in_its_cell(host: Host, group: str) -> None:
    """Also when gexecd ends and another one ends what the first one has left running."""
    host.start_authd()
    config = host.config(f'control_group = "{group}"\nspool = "{host.dir}/spool"\ndrain_s = 0\n')
    service = host.gexecd("--config", config)
    started = host.gexec("-d", "sh", "-c", "sleep 1000; sleep 1000")
    assert started.returncode == 0, started.stderr
    wait_until(lambda: len(running(group)) == 3, "keeper, shell and sleep are not in the cell")
    before = running(group)
    assert service.stop() == 0
    assert running(group) == before
    host.gexecd("--config", config)
    assert host.gexec("true").returncode == 0
    assert running(group) == before
    done = subprocess.run(
        command("gexecctl", "kill", "--now", started.stdout.strip()),
        env=host.env,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    wait_until(lambda: not running(group), "something is left")


@pytest.mark.root
@pytest.mark.parametrize("end", ["timeout", "lost client", "^C^C"])
def test_nothing_is_left_of_a_job_that_was_ended(host: Host, told: Path, group: str, end: str) -> None:
    host.start_authd()
    host.gexecd("--config", host.config(f'control_group = "{group}"\n'))
    bound = ["--timeout=1"] if end == "timeout" else []
    client = host.begin(*bound, "-n", "1", "sh", "-c", f"trap '' INT HUP TERM; {hidden(told)}; sleep 1000")
    pid = pid_in(told)
    if end == "lost client":
        client.kill()
    elif end == "^C^C":
        client.send_signal(signal.SIGINT)
        assert client.stderr is not None
        client.stderr.readline()
        client.send_signal(signal.SIGINT)
    assert gone(pid)
    wait_until(lambda: not running(group), "something is left")


@pytest.mark.root
@pytest.mark.parametrize("below", ["", "/daemons"])
def test_the_group_that_systemd_has_delegated_is_used(host: Host, group: str, below: str) -> None:
    """Delegate= with and without DelegateSubgroup=, which has the daemons in a group below."""
    os.setxattr(group, "trusted.delegate", b"1")
    own = Path(group + below)
    own.mkdir(exist_ok=True)
    host.start_authd()
    host.gexecd(preexec_fn=lambda: (own / "cgroup.procs").write_text("0"))
    done = host.gexec("-n", "1", "-p", "none", "tail", "-1", "/proc/self/cgroup")
    assert done.returncode == 0, done.stderr
    assert f"{os.path.basename(group)}/{cgroups.JOBS}/" in done.stdout


def test_without_control_groups_it_says_so_once_and_runs(host: Host) -> None:
    host.start_authd()
    service = host.gexecd("--config", host.config('control_group = "none"\n'))
    done = host.gexec("-n", "1", "-p", "none", "tail", "-1", "/proc/self/cgroup")
    assert done.returncode == 0
    assert f"/{cgroups.JOBS}/" not in done.stdout
    said = service.errors().count("commands get no control groups of their own: the settings forbid it")
    assert said == (os.geteuid() == 0)  # an ordinary user's gexecd has no part in this


@pytest.mark.root
def test_a_control_group_that_is_none_is_refused(host: Host) -> None:
    host.start_authd()
    service = host.gexecd("--config", host.config('control_group = "/tmp"\n'), ready=False)
    assert service.wait() == 1
    assert "control_group = '/tmp': it is no group of cgroup v2 below the root" in service.errors()
