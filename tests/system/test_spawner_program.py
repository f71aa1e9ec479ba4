"""The spawner of a real gexecd: what it has loaded, what it holds, and who is its child."""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import gexec
from system.conftest import wait_until
from system.daemons import Host, children_of, command, is_gone, status_of

PACKAGE = Path(gexec.__file__).parent
#: Lines of gexec's own that a running spawner and a starter may have loaded, as `wc -l` counts them.
SPAWNER_LINES_MAX = 7660
STARTER_LINES_MAX = 6500
#: The process that starts tasks of gexecd's own user.
STARTS_OWN = "gexecd-helper" if os.geteuid() == 0 else "gexecd-starter"
#: What starts tasks, reads the network or knows keys that sign is never in the process that checks.
FOREIGN = re.compile(
    r"(relay|client|cli|cluster|authd|ssh|files|select|render|settings|gexecd)/"
    r"|core/(?!__init__|deadlines)|wire/(codec|frames|orders|ranks)\b|security/(certificate|signing)\b"
    r"|spawner/(starter|helper|keeper|cells|launcher|leftovers|orphan|starting|task)\.py"
    r"|posix/(cgroups|descendants|sockets|unix)\b"
)


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


def memory_of(pid: int) -> bytes:
    """Return all that a process can write to: each string that it has read or made is there."""
    pieces = []
    with open(f"/proc/{pid}/maps", encoding="ascii") as maps, open(f"/proc/{pid}/mem", "rb") as memory:
        for line in maps:
            place, rights = line.split()[:2]
            if rights.startswith("rw"):
                begin, end = (int(number, 16) for number in place.split("-"))
                memory.seek(begin)
                pieces.append(memory.read(end - begin))
    return b"\0".join(pieces)


def modules_of(pid: int) -> set[str]:
    """Return the modules of gexec that a process has loaded: their code names the file it came from."""
    pattern = re.escape(os.fsencode(PACKAGE)) + rb"/((?:[a-z_0-9]+/)?[a-z_0-9]+\.py)\b(?!c)"
    return {os.fsdecode(path) for path in re.findall(pattern, memory_of(pid))}


def lines_of(modules: set[str]) -> int:
    """Return how many lines these modules have."""
    return sum(len((PACKAGE / path).read_text(encoding="utf-8").splitlines()) for path in modules)


def named(pid: int, name: str) -> list[int]:
    """Return a process's children of this name."""
    return [child for child in children_of(pid) if status_of(child)["Name"] == [name]]


def run(host: Host, *words: str) -> str:
    """Run a job on the node; return its output."""
    done = host.gexec("-n", "1", "-p", "none", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_running_spawner_has_little_loaded(host: Host) -> None:
    host.start_authd()
    service = host.gexecd()
    assert run(host, "echo", "up") == "up\n"
    os.kill(service.pid, signal.SIGHUP)  # reading keys again loads nothing here either
    wait_until(lambda: "public keys accepted" in service.errors(), "the keys are read again")
    loaded = modules_of(service.pid)
    assert "spawner/admission.py" in loaded
    assert [path for path in sorted(loaded) if FOREIGN.match(path)] == []
    assert lines_of(loaded) <= SPAWNER_LINES_MAX, sorted(loaded)
    if os.geteuid() == 0:  # nobody else may look into the starter
        (starter,) = named(service.pid, "gexecd-starter")
        (helper,) = named(starter, "gexecd-helper")
        loaded = modules_of(helper)
        assert "spawner/launcher.py" in loaded
        assert [path for path in loaded if path.startswith("security/") or "admission" in path] == []
        assert lines_of(loaded) <= STARTER_LINES_MAX, sorted(loaded)


def test_neither_spawner_nor_starter_holds_a_private_key(host: Host) -> None:
    host.start_authd()
    service = host.gexecd()
    assert run(host, "echo", "up") == "up\n"
    (relay,) = named(service.pid, "gexecd-relay")
    (starter,) = named(service.pid, "gexecd-starter")
    begin = b"-----BEGIN PRIVATE KEY-----\n"
    # The key itself, which is 184 bytes of PEM for P-256: the text around it is a constant of libraries.
    key = re.compile(re.escape(begin) + rb"[A-Za-z0-9+/]{64}\n")
    assert key.search(memory_of(service.pid)) is None
    if os.geteuid() == 0:
        assert key.search(memory_of(starter)) is None
        assert key.search(memory_of(relay)) is not None  # so the search does find one


def test_attack_70_the_environment_of_the_daemon_is_not_inherited(host: Host) -> None:
    host.env["SECRET_OF_GEXECD"] = "1"
    host.start_authd()
    service = host.gexecd()
    assert b"SECRET_OF_GEXECD" in Path(f"/proc/{service.pid}/environ").read_bytes()
    del host.env["SECRET_OF_GEXECD"]
    assert "SECRET_OF_GEXECD" not in run(host, "env")


def job_of_another_user(host: Host, user: pwd.struct_passwd, script: str, reading: Path) -> int:
    """Run a job as another user, who may read nothing of this test; return the job's pid.

    The job's script gets the path of a named pipe, to wait for.
    """
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
            os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
            host.submit(*host.signed("/bin/sh", "-c", script, "sh", str(reading)))
        finally:
            os._exit(0)
    return pid


@pytest.mark.root
def test_attack_100_a_helper_holds_no_key_and_no_job_of_another_user(host: Host) -> None:
    try:
        user = pwd.getpwnam("sync")  # an account with a shell that is not nologin
    except KeyError:
        pytest.skip("there is no user sync")
    host.start_authd()
    service = host.gexecd()
    marks = [os.urandom(8).hex() for _ in range(2)]
    assert run(host, "echo", f"first-{marks[0]}") == f"first-{marks[0]}\n"
    gate, told = host.dir / "gate", host.dir / "told"
    told.touch()
    told.chmod(0o666)
    os.mkfifo(gate)
    gate.chmod(0o644)
    client = job_of_another_user(host, user, f"echo $PPID >{told}; cat $1", gate)
    try:
        wait_until(lambda: told.read_text().endswith("\n"), "the job does not run")
        helper = int(told.read_text())
        assert status_of(helper)["Uid"] == [str(user.pw_uid)] * 4
        assert run(host, "echo", f"second-{marks[1]}") == f"second-{marks[1]}\n"
        memory = memory_of(helper)
        assert str(gate).encode() in memory  # its own job, so the search does find one
        assert [mark for mark in marks if mark.encode() in memory] == []
        assert re.search(rb"-----BEGIN (RSA )?PRIVATE KEY-----\n[A-Za-z0-9+/]{64}\n", memory) is None
        loaded = modules_of(helper)
        assert "spawner/helper.py" in loaded
        assert [path for path in loaded if path.startswith("security/") or "admission" in path] == []
    finally:
        os.kill(client, signal.SIGKILL)  # which ends its job
        os.waitpid(client, 0)
    assert service.stop() == 0


def test_tasks_are_the_starters_and_all_end_together(host: Host) -> None:
    host.start_authd()
    service = host.gexecd()
    assert run(host, "sh", "-c", "cat /proc/$PPID/comm") == f"{STARTS_OWN}\n"
    children = {status_of(child)["Name"][0]: child for child in children_of(service.pid)}
    assert set(children) == {"gexecd-relay", "gexecd-starter"}
    assert service.stop() == 0
    assert all(is_gone(child) for child in children.values())


def test_a_gexecd_without_its_starter_ends_with_a_failure(host: Host) -> None:
    """systemd then starts it again; nothing hangs, and its tasks end."""
    host.start_authd()
    service = host.gexecd()
    with subprocess.Popen(
        command("gexec", "-n", "1", "-p", "none", "sh", "-c", "echo $$; exec sleep 1000"),
        env=host.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as job:  # fmt: skip
        assert job.stdout is not None
        task = int(job.stdout.readline())
        (starter,) = named(service.pid, "gexecd-starter")
        os.kill(starter, signal.SIGKILL)
        assert service.wait() == 1
        assert "the starter has ended" in service.errors()
        wait_until(lambda: is_gone(task), "the task ends")
        assert job.wait() == 255
