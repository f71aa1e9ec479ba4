"""Background jobs of several users on one node: who sees and ends what, and what a full disk does."""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import DEADLINE_S, Cluster, wait_until
from .daemons import command
from .etc import Etc

pytestmark = pytest.mark.root


class Users:
    """A cluster of one node, on which several users have jobs."""

    def __init__(self, cluster: Cluster, etc: Etc) -> None:
        self.cluster = cluster
        self.ann, self.bob = etc.add_user("ann"), etc.add_user("bob")
        self.spool = cluster.dir / "spool" / "node001"

    def run(
        self, user: pwd.struct_passwd | None, *words: object, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run one of our commands as a user; None = root."""
        who: dict[str, Any] = {}
        if user is not None:
            who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        return subprocess.run(
            command(*map(str, words)), env=self.cluster.env, text=True, capture_output=True, cwd="/",
            timeout=DEADLINE_S, stdin=subprocess.DEVNULL, **who, **options,
        )  # fmt: skip

    def start(self, user: pwd.struct_passwd | None, *words: object) -> str:
        """Start a background job; return its whole id."""
        done = self.run(user, "gexec", "-d", *words)
        assert (done.returncode, done.stderr) == (0, "")
        listed = self.run(user, "gexecctl", "jobs", "--json", done.stdout.strip())
        return str(json.loads(listed.stdout)["job"])

    def place(self, user: pwd.struct_passwd, job: str) -> Path:
        return self.spool / str(user.pw_uid) / f"{job}.0"


def _is_for_all(path: Path) -> bool:
    """Tell whether other users can execute a file."""
    return all(os.stat(each).st_mode & 0o001 for each in (path, *path.parents))


@pytest.fixture
def users(cluster_of: Callable[..., Cluster], etc: Etc) -> Users:
    if not (_is_for_all(Path(sys.executable).resolve()) and _is_for_all(Path(json.__file__).parent)):
        pytest.skip(f"other users cannot run {sys.executable}")
    return Users(cluster_of(1, etc=etc), etc)


def test_attack_133_another_users_job_is_not_there(users: Users) -> None:
    job = users.start(users.ann, "--name", "mine", "sh", "-c", "echo secret; sleep 1000")
    place = users.place(users.ann, job)
    wait_until(lambda: (place / "stdout.0").exists(), "the output is not there")
    assert users.run(users.bob, "gexecctl", "jobs", "--json").stdout == ""
    for words in (["attach"], ["output"], ["wait"], ["signal"], ["kill"], ["forget"]):
        for word in (job, "mine"):
            more = ["TERM"] if words == ["signal"] else []
            done = users.run(users.bob, "gexecctl", *words, word, *more)
            assert (done.returncode, done.stdout) == (1, ""), words
            assert "there is none" in done.stderr
    for action in ("output", "attach", "wait", "kill", "forget"):
        done = users.run(
            users.bob, "gexec", "--remote-path", "gexec-job", action, job, "0", f"--uid={users.ann.pw_uid}"
        )
        assert done.returncode == 1
        assert "is not kept here (Permission denied)" in done.stderr
    done = users.run(users.bob, "gexecctl", "jobs", "--all-users")
    assert (done.returncode, done.stderr) == (
        2, "gexecctl jobs: option --all-users: only root sees the jobs of others\n",
    )  # fmt: skip
    assert users.run(users.ann, "gexecctl", "kill", "mine").returncode == 0


def test_attack_133_a_keeper_answers_its_user_only(users: Users) -> None:
    """Also where the directory's mode was changed, so that others reach the socket."""
    job = users.start(users.ann, "sleep", "1000")
    place = users.place(users.ann, job)
    place.parent.chmod(0o755)
    place.chmod(0o755)
    (place / "control").chmod(0o777)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(users.bob.pw_gid, users.bob.pw_gid, users.bob.pw_gid)
            os.setresuid(users.bob.pw_uid, users.bob.pw_uid, users.bob.pw_uid)
            os.chdir(place)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect("control")
                try:
                    sock.send(b"kill now")
                    status = 0 if sock.recv(99) == b"" else 1
                except (BrokenPipeError, ConnectionResetError):
                    status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert '"running"' in users.run(users.ann, "gexecctl", "jobs", "--json").stdout
    assert users.run(users.ann, "gexecctl", "kill", job).returncode == 0


def test_root_sees_and_ends_the_jobs_of_all(users: Users) -> None:
    job = users.start(users.ann, "--name", "work", "sh", "-c", "echo here; sleep 1000")
    users.start(None, "--name", "own", "true")
    listed = [line.split()[:3] for line in users.run(None, "gexecctl", "jobs", "-a").stdout.splitlines()[1:]]
    assert sorted(words[1:] for words in listed) == [["own", "root"], ["work", users.ann.pw_name]]
    assert "work" not in users.run(None, "gexecctl", "jobs").stdout
    assert users.run(None, "gexecctl", "output", "work").returncode == 1
    wait_until(
        lambda: users.run(None, "gexecctl", "output", "-a", "work").stdout == "node001 here\n", "no output"
    )
    assert users.run(None, "gexecctl", "kill", "-a", job).returncode == 0
    assert users.run(users.ann, "gexecctl", "wait", job).returncode == 129
    assert users.run(None, "gexecctl", "forget", "-a", "work").returncode == 0
    assert users.run(users.ann, "gexecctl", "jobs").stdout == ""


def test_root_ends_a_users_command_without_keeper(users: Users) -> None:
    job = users.start(users.ann, "sleep", "1000")
    os.kill(json.loads((users.place(users.ann, job) / "job.json").read_text())["keeper"][0], signal.SIGKILL)
    done = users.run(None, "gexecctl", "kill", "-a", job)
    assert "processes that were killed: 1" in done.stderr


def test_the_command_has_its_users_identity_and_the_audit_log_its_pid(users: Users) -> None:
    job = users.start(users.ann, "sh", "-c", "id -u; echo $$; exit 3")
    done = users.run(users.ann, "gexecctl", "attach", "-p", "none", job)
    uid, pid = done.stdout.split()
    assert (done.returncode, int(uid)) == (3, users.ann.pw_uid)
    log = users.cluster.dir / "audit" / "node001.log"

    def events() -> list[Any]:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [
            (line["event"], line.get("pid"), line.get("status")) for line in lines if line.get("job") == job
        ]

    wait_until(lambda: len(events()) == 3, "the end is not in the audit log")
    assert events() == [("accept", None, None), ("exec", int(pid), None), ("exit", int(pid), 3)]


def test_attack_134_nobody_can_take_anothers_place(users: Users) -> None:
    users.start(users.ann, "true")
    mode = users.spool.stat()
    assert (mode.st_uid, mode.st_mode & 0o7777) == (0, 0o711)
    mine = (users.spool / str(users.ann.pw_uid)).stat()
    assert (mine.st_uid, mine.st_mode & 0o7777) == (users.ann.pw_uid, 0o700)
    spool = users.spool
    squat = (
        f"mkdir {spool}/{users.bob.pw_uid} || ln -s /tmp {spool}/x || mv {spool}/{users.ann.pw_uid} {spool}/y"
    )
    assert users.run(users.ann, "gexec", "sh", "-c", squat).returncode != 0
    assert sorted(path.name for path in users.spool.iterdir()) == [str(users.ann.pw_uid)]


def test_attack_135_root_reads_nothing_through_a_users_files(users: Users, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("the secret\n")
    secret.chmod(0o600)
    job = users.start(users.ann, "sh", "-c", "echo fine; exec sleep 1000")
    place = users.place(users.ann, job)
    wait_until(lambda: (place / "stdout.0").exists(), "the output is not there")
    (place / "stderr.0").symlink_to(secret)
    os.link(secret, place / "stderr.11")
    done = users.run(None, "gexecctl", "output", "-a", job)
    assert "secret" not in done.stdout + done.stderr.replace("secret is", "")
    (place / "stderr.0").unlink()
    (place / "stderr.11").unlink()
    os.mkfifo(place / "stderr.5")
    users.run(None, "gexecctl", "output", "-a", job)  # does not wait for a writer
    other = place.parent / f"{'0' * 32}.0"
    other.symlink_to("/etc")
    assert users.run(None, "gexecctl", "jobs", "-a").returncode == 0
    assert users.run(None, "gexecctl", "kill", "-a", job).returncode == 0
    assert users.run(None, "gexecctl", "forget", "-a", job).returncode == 0
    assert Path("/etc/passwd").exists()


def test_a_full_disk_drops_output_and_says_so(cluster: Cluster) -> None:
    """The command goes on, and how it ended is kept."""

    def gexecctl(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command("gexecctl", *words), env=cluster.env, text=True, capture_output=True, timeout=DEADLINE_S,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    assert cluster.gexec("-d", "-n1", "--name", "first", "true").returncode == 0
    mine = bytes(cluster.dir / "spool" / "node001" / "0")
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"tmpfs", mine, b"tmpfs", 0, b"size=256k,mode=0700") == 0, ctypes.get_errno()
    try:
        script = "head -c 1000000 /dev/zero; echo end >&2; exit 7"
        assert cluster.gexec("-d", "-n1", "--name", "full", "sh", "-c", script).returncode == 0
        done = gexecctl("wait", "full")
        assert (done.returncode, done.stderr) == (7, "gexecctl wait: node001: exited 7\n")
        done = gexecctl("output", "-p", "none", "full")
        assert 100_000 < len(done.stdout) < 256 * 1024
        assert "bytes could not be written: No space left on device" in done.stderr
        [process] = json.loads(gexecctl("jobs", "--json", "full").stdout)["processes"]
        assert process["stdout_bytes"] == 1_000_000
        assert process["dropped_bytes"] >= 700_000
        refused = cluster.gexec("-d", "-n1", "true", text=True)
        assert "No space left on device" in refused.stderr
    finally:
        libc.umount2(mine, 2)
    assert gexecctl("forget", "first").returncode == 0


def test_the_policys_commands_are_those_of_the_job(users: Users) -> None:
    denied = users.run(users.ann, "gexec", "-d", "--chdir", "/no/such", "true")
    assert denied.returncode == 255
    assert "working directory /no/such: No such file or directory" in denied.stderr
