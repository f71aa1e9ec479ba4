"""Background jobs on a real cluster, and with a gexecd that stops and starts while they run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gexec.posix.descendants import stat_of
from gexec.wire.outcome import LOST

from .conftest import BIN, DEADLINE_S, Cluster, changed, wait_until
from .daemons import Host, command

#: A rank's directory below the cluster's: spool/NODE/UID/JOB.RANK
UID = os.geteuid()


class Ctl:
    """gexecctl and ``gexec -d`` on a cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def __call__(self, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run gexecctl to its end."""
        return subprocess.run(
            command("gexecctl", *words),
            env=changed(self.cluster.env, options.pop("env", None)),
            text=True,
            capture_output=True,
            timeout=DEADLINE_S,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def begin(self, *words: object, name: str = "gexecctl") -> subprocess.Popen[str]:
        """Start a command; the caller waits for it."""
        return subprocess.Popen(
            command(name, *words),
            env=self.cluster.env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        )

    def start(self, *words: object) -> str:
        """Run ``gexec -d``, and return the id that it writes."""
        done = self.cluster.gexec("-d", *words, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout) == 13
        return str(done.stdout).strip()

    def jobs(self, *words: object) -> list[dict[str, Any]]:
        """Return what ``gexecctl jobs --json`` says."""
        done = self("jobs", "--json", *words)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def forget_all(self) -> None:
        """End and forget all jobs."""
        for job in self.jobs():
            self("kill", "--now", job["job"])
            assert self("forget", job["job"]).returncode == 0

    def place(self, job: str, node: str = "node001") -> Path:
        """Return the directory of a job's only rank on a node."""
        [found] = (self.cluster.dir / "spool" / node / str(UID)).glob(f"{job}*")
        return found

    def keeper(self, job: str, node: str = "node001") -> int:
        """Return the pid of a job's keeper on a node."""
        return int(json.loads((self.place(job, node) / "job.json").read_text())["keeper"][0])


@pytest.fixture
def ctl(cluster: Cluster) -> Iterator[Ctl]:
    """Of the shared cluster; all background jobs of a test, and of tests before it, are gone after it."""
    one = Ctl(cluster)
    one.forget_all()
    yield one
    one.forget_all()


# -- from the start to the end ----------------------------------------------------------------


def test_a_job_from_its_start_to_its_end(ctl: Ctl, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    job = ctl.start(
        "--name", "build", "sh", "-c", f"echo out; echo err >&2; read x <{tmp_path}/go; exit $GEXEC_MY_VNN"
    )
    [told] = ctl.jobs()
    assert told["job"].startswith(job)
    assert (told["name"], told["size"], told["found"], told["states"]) == ("build", 8, 8, {"running": 8})
    table = ctl("jobs").stdout.splitlines()
    assert table[1].split()[:4] == [job, "build", "running", "node[001-008]"]
    waiting = ctl.begin("wait", "build")
    wait_until(lambda: ctl.jobs()[0]["bytes"] == 8 * 8, "the output is not there")
    for _ in range(8):
        with (tmp_path / "go").open("w") as file:
            file.write("\n")
    out, err = waiting.communicate(timeout=DEADLINE_S)
    assert (waiting.returncode, out) == (7, "")
    assert "gexecctl wait: node008: exited 7\n" in err
    [told] = ctl.jobs("build")
    assert {"exited 0": 1, "exited 7": 1}.items() <= told["states"].items()
    assert ctl("wait", job).returncode == 7
    done = ctl("output", "-b", "build")
    assert (done.returncode, done.stdout) == (0, "--- node[001-008] (8)\nout\n")
    assert done.stderr.count("err") >= 1
    assert ctl("forget", "build").returncode == 0
    assert ctl.jobs() == []
    assert ctl("jobs").stdout == ""


def test_the_id_comes_although_a_node_is_down(ctl: Ctl) -> None:
    done = ctl.cluster.gexec("-d", "-w", "node001,node009", "true", text=True)
    assert (done.returncode, len(done.stdout)) == (255, 13)
    assert done.stderr == "gexec: node009: not started: the name does not resolve\n"
    done = ctl("wait", done.stdout.strip())
    assert done.returncode == 255
    assert "rank1: lost: no node that was asked has it" in done.stderr


def test_a_program_that_cannot_start_is_not_kept(ctl: Ctl) -> None:
    done = ctl.cluster.gexec("-d", "/no/such/program", text=True)
    assert (done.returncode, done.stdout) == (127, "")
    assert "8 of 8 nodes not started: program /no/such/program: No such file or directory" in done.stderr
    assert ctl.jobs() == []


def test_without_keep_it_is_as_before(ctl: Ctl, tmp_path: Path) -> None:
    done = ctl.cluster.gexec(
        "-d", "-n1", "--keep=0", "sh", "-c", f"ls -l /proc/self/fd >{tmp_path}/said", text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait_until(lambda: (tmp_path / "said").exists(), "it does not run")
    assert ctl.jobs() == []


def test_json_announces_the_job(ctl: Ctl) -> None:
    done = ctl.cluster.gexec("-d", "--json", "--name", "x", "-n2", "true", text=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    [event] = [event for event in events if event["event"] == "background"]
    assert (len(event["job"]), event["name"]) == (32, "x")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--name", "x", "true"], "option --name needs --detached or --detach-on-hup"),
        (["-d", "--name", "a b", "true"], "name b'a b': expected 1 to 64 letters"),
        (["-d", "--name", "-x", "true"], "name b'-x': expected"),
        (["-d", "--keep", "1k", "true"], "1024 bytes to keep: expected 0, or 65536 to"),
        (["-d", "--lease", "31d", "true"], "lease 2.6784e+06 s: expected 1 to 2592000 seconds"),
        (["-d", "--lease", "1w", "true"], "expected a time such as 90, 30m, 24h or 7d"),
        (["-d", "--keep", "0", "--name", "x", "true"], "option --keep: with 0 nothing is kept"),
        (["-d", "--detach-on-hup", "true"], "options --detached and --detach-on-hup: "),
        (["-d", "--retries", "1", "true"], "options --detached and --retries: "),
    ],
)
def test_usage_errors_of_gexec(cluster: Cluster, words: list[str], error: str) -> None:
    done = cluster.gexec(*words, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert error in done.stderr


@pytest.mark.parametrize(
    ("words", "status", "error"),
    [
        (["attach"], 2, "expected one JOB"),
        (["kill", "a", "b"], 2, "expected one JOB"),
        (["signal", "a"], 2, "expected JOB and a signal"),
        (["signal", "abcd", "NONE"], 2, "signal 'NONE': expected a name such as TERM, or a number"),
        (["wait", "--tail", "5", "abcd"], 2, "option --tail: only attach and output"),
        (["wait", "--now", "abcd"], 2, "option --now: only kill"),
        (["wait", "nothing"], 1, "job nothing: there is none on 8 nodes; `gexecctl jobs` lists them"),
        (["wait", "-w", "node009", "nothing"], 255, "there is none on 1 node, but 1 of them did not answer"),
        (["jobs", "nothing"], 1, "job nothing: there is none on 8 nodes"),
        (["jobs", "-w", "node001,node009"], 255, "node009: not started: the name does not resolve"),
    ],
)
def test_errors_of_gexecctl(ctl: Ctl, words: list[str], status: int, error: str) -> None:
    done = ctl(*words)
    assert done.returncode == status
    assert done.stderr.startswith(f"gexecctl {words[0]}: ")
    assert error in done.stderr


def test_of_two_jobs_with_one_name_the_newest_that_runs_is_meant(ctl: Ctl) -> None:
    first = ctl.start("--name", "twin", "-n1", "sleep", "1000")
    second = ctl.start("--name", "twin", "-n2", "true")
    ctl("wait", second)
    done = ctl("signal", "twin", "kill")
    assert (done.returncode, done.stderr) == (
        0, f"gexecctl signal: 2 jobs are called twin: this is {first}, the newest that runs\n",
    )  # fmt: skip
    assert ctl("wait", first).returncode == 137
    assert ctl("signal", first, "TERM").returncode == 1
    assert sorted(ctl("jobs", "--complete").stdout.split()) == sorted([first, second, "twin"])


def test_only_chosen_nodes_are_asked_and_missed(ctl: Ctl) -> None:
    job = ctl.start("sh", "-c", "exit $GEXEC_MY_VNN")
    assert ctl("wait", "-w", "node[002-003]", job).returncode == 2
    done = ctl("output", "-w", "node003", "--json", job)
    assert [json.loads(line)["rank"] for line in done.stdout.splitlines() if '"event":"exited"' in line] == [
        0
    ]
    assert [len(told["processes"]) for told in ctl.jobs("-n", "3")] == [3]


def test_many_ranks_on_one_node(ctl: Ctl) -> None:
    job = ctl.start("-w", " ".join(["node001"] * 20), "sh", "-c", "echo $GEXEC_MY_VNN; exit $GEXEC_MY_VNN")
    assert ctl("wait", job).returncode == 19
    done = ctl("output", "-p", "vnn", job)
    assert sorted(done.stdout.splitlines()) == sorted([f"{rank} {rank}" for rank in range(20)])


# -- attach -----------------------------------------------------------------------------------


def test_attach_shows_the_tail_then_what_comes(ctl: Ctl, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    job = ctl.start("-n1", "sh", "-c", f"seq 1 100; read x <{tmp_path}/go; echo late; exit 5")
    wait_until(lambda: ctl.jobs()[0]["bytes"] == 292, "the output is not there")
    attached = ctl.begin("attach", "--tail", "20", "-p", "none", job)
    assert attached.stdout is not None
    assert [attached.stdout.readline() for _ in range(6)] == ["95\n", "96\n", "97\n", "98\n", "99\n", "100\n"]
    (tmp_path / "go").write_text("\n")
    out, err = attached.communicate(timeout=DEADLINE_S)
    assert (out, attached.returncode) == ("late\n", 5)
    assert err == "gexecctl attach: node001: exited 5\n"


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_detaches(ctl: Ctl, signum: int, status: int) -> None:
    job = ctl.start("-n2", "sh", "-c", "echo here; sleep 1000")
    attached = ctl.begin("attach", job)
    assert attached.stdout is not None
    assert {attached.stdout.readline(), attached.stdout.readline()} == {"node001 here\n", "node002 here\n"}
    attached.send_signal(signum)
    _, err = attached.communicate(timeout=DEADLINE_S)
    assert attached.returncode == status
    assert err == f"gexecctl attach: detached: the job goes on; `gexecctl attach {job}` shows it again\n"
    assert ctl.jobs()[0]["states"] == {"running": 2}


def test_the_middle_is_dropped_and_that_is_said(ctl: Ctl) -> None:
    job = ctl.start("-n1", "--keep", "64k", "seq", "1", "100000")
    assert ctl("wait", job).returncode == 0
    done = ctl("output", "-p", "none", job)
    lines = done.stdout.split("\n")
    assert (lines[0], lines[-2]) == ("1", "100000")
    missing = 588895 - len(done.stdout)
    assert done.stderr == f"gexec-job: {missing} bytes of stdout are missing here: they were not kept\n"
    assert len(done.stdout) <= 65536
    assert ctl.jobs()[0]["processes"][0]["kept_bytes"] == len(done.stdout)


# -- signals and ends -------------------------------------------------------------------------


def test_kill_ends_everything_also_in_sessions_of_its_own(ctl: Ctl, tmp_path: Path) -> None:
    script = f"setsid sh -c 'echo $$ >{tmp_path}/pid.$GEXEC_MY_VNN; sleep 1000; sleep 1000' & sleep 1000"
    job = ctl.start("-n2", "sh", "-c", script)
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2, "it does not run")
    wait_until(lambda: all(path.read_text() for path in tmp_path.iterdir()), "it does not run")
    pids = [int(path.read_text()) for path in tmp_path.iterdir()]
    assert all(stat_of(pid) for pid in pids)
    assert ctl("kill", job).returncode == 0
    assert [stat_of(pid) for pid in pids] == [None, None]
    assert ctl("wait", job).returncode == 129
    done = ctl("kill", job)
    assert (done.returncode, done.stderr) == (0, f"gexecctl kill: job {job}: nothing of it runs\n")


def test_a_job_that_runs_is_not_forgotten(ctl: Ctl) -> None:
    job = ctl.start("-n1", "sleep", "1000")
    done = ctl("forget", job)
    assert done.returncode == 1
    assert "it runs: `gexecctl kill` ends it" in done.stderr
    assert len(ctl.jobs()) == 1


def test_a_keeper_that_is_killed_is_said(ctl: Ctl) -> None:
    job = ctl.start("-n2", "sh", "-c", "echo here; exec sleep 1000")
    wait_until(lambda: ctl.jobs()[0]["bytes"] == 10, "the output is not there")
    os.kill(ctl.keeper(job), signal.SIGKILL)
    [told] = ctl.jobs()
    assert told["states"] == {"lost": 1, "running": 1}
    done = ctl("output", job)
    assert sorted(done.stdout.splitlines()) == ["node001 here", "node002 here"]
    pid = int((ctl.place(job) / "pid").read_text())
    done = ctl("kill", job)
    assert "node001 gexec-job: its keeper has ended before; processes that were killed: 1" in done.stderr
    wait_until(lambda: stat_of(pid) is None, "the command still runs")
    done = ctl("wait", job)
    assert done.returncode == 255
    assert "node001: lost: its keeper has ended without a word" in done.stderr


def test_a_reboot_is_said(ctl: Ctl) -> None:
    job = ctl.start("-n1", "sleep", "1000")
    os.kill(ctl.keeper(job), signal.SIGKILL)
    place = ctl.place(job)
    record = json.loads((place / "job.json").read_text())
    os.kill(int((place / "pid").read_text()), signal.SIGKILL)
    (place / "job.json").write_text(json.dumps(record | {"boot": "another"}))
    done = ctl("wait", job)
    assert (done.returncode, done.stderr) == (
        255, "gexecctl wait: node001: lost: the node was restarted while it ran\n",
    )  # fmt: skip
    assert ctl.jobs()[0]["processes"][0]["value"] == 0
    assert ctl.jobs()[0]["states"] == {"lost": 1}
    assert LOST == 4


def test_what_has_expired_is_gone(ctl: Ctl) -> None:
    job = ctl.start("-n1", "--lease", "1", "true")
    place = ctl.place(job)
    wait_until(lambda: ctl.jobs() == [], "it does not expire")
    assert not place.exists()


def test_timeout_counts_in_the_background(ctl: Ctl) -> None:
    job = ctl.start("-n1", "--timeout", "0.5", "sleep", "1000")
    done = ctl("wait", job)
    assert (done.returncode, done.stderr) == (
        124, "gexecctl wait: node001: timed out: ran longer than 0.5 s\n",
    )  # fmt: skip


# -- --detach-on-hup --------------------------------------------------------------------------


def test_detach_on_hup_shows_the_job_to_its_end(ctl: Ctl) -> None:
    done = ctl.cluster.gexec(
        "--detach-on-hup", "-b", "-n3", "--keep", "64k", "sh", "-c", "seq 1 50000; exit 3", text=True
    )
    assert done.returncode == 3
    head, _, body = done.stdout.partition("\n")
    assert head == "--- node[001-003] (3) exited 3"
    assert body == "".join([f"{number}\n" for number in range(1, 50001)])
    assert done.stderr == "gexec: 3 of 3 nodes exited 3: node[001-003]\n"


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGHUP, 129), (signal.SIGTSTP, 148)])
def test_a_lost_terminal_keeps_the_job_and_all_of_its_output(
    ctl: Ctl, tmp_path: Path, signum: int, status: int
) -> None:
    os.mkfifo(tmp_path / "go")
    script = f"seq 1 1000; read x <{tmp_path}/go; seq 1001 2000; exit 4"
    attached = ctl.begin("--detach-on-hup", "-n1", "-p", "none", "sh", "-c", script, name="gexec")
    assert attached.stdout is not None
    assert [attached.stdout.readline() for _ in range(1000)] == [f"{number}\n" for number in range(1, 1001)]
    attached.send_signal(signum)
    _, err = attached.communicate(timeout=DEADLINE_S)
    assert attached.returncode == status
    [told] = ctl.jobs()
    job = told["job"][:12]
    assert err == f"gexec: detached: job {job} goes on; `gexecctl attach {job}` shows it again\n"
    again = ctl.begin("attach", "-p", "none", job)
    (tmp_path / "go").write_text("\n")
    out, _ = again.communicate(timeout=DEADLINE_S)
    assert (again.returncode, out) == (4, "".join([f"{number}\n" for number in range(1, 2001)]))


def test_an_interrupt_is_the_jobs(ctl: Ctl) -> None:
    script = "trap 'echo int; exit 9' INT; echo ready; while :; do sleep 0.1; done"
    attached = ctl.begin("--detach-on-hup", "-n2", "sh", "-c", script, name="gexec")
    assert attached.stdout is not None
    for _ in range(2):
        attached.stdout.readline()
    attached.send_signal(signal.SIGINT)
    out, _ = attached.communicate(timeout=DEADLINE_S)
    assert (attached.returncode, sorted(out.splitlines())) == (9, ["0 int", "1 int"])


def test_two_interrupts_end_the_job(ctl: Ctl) -> None:
    script = "trap '' INT TERM HUP; echo ready; while :; do sleep 0.1; done"
    attached = ctl.begin("--detach-on-hup", "-n1", "sh", "-c", script, name="gexec")
    assert attached.stdout is not None
    attached.stdout.readline()
    attached.send_signal(signal.SIGINT)
    assert attached.stderr is not None
    assert "^C goes to all processes" in attached.stderr.readline()
    attached.send_signal(signal.SIGINT)
    attached.communicate(timeout=DEADLINE_S)
    assert ctl.jobs()[0]["states"] == {"killed by signal 9": 1}


# -- a gexecd that ends and comes back --------------------------------------------------------


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    host.start_authd()
    yield host
    host.close()


def on(host: Host, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("gexecctl", *words), env=host.env, cwd="/", text=True, capture_output=True,
        timeout=DEADLINE_S, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_job_goes_on_while_gexecd_is_stopped_and_started(host: Host) -> None:
    config = host.config(f'spool = "{host.dir}/spool"\ndrain_s = 0\n')
    os.mkfifo(host.dir / "go")
    os.chmod(host.dir / "go", 0o666)
    service = host.gexecd("--config", config)
    started = host.gexec("-d", "sh", "-c", f"echo early; read x <{host.dir}/go; echo late; exit 6")
    assert started.returncode == 0, started.stderr
    job = started.stdout.strip()
    assert service.stop() == 0
    (host.dir / "go").write_text("\n")
    host.gexecd("--config", config)
    done = on(host, "attach", "-p", "none", job)
    assert (done.returncode, done.stdout) == (6, "early\nlate\n")
    assert service.stop(signal.SIGKILL) == 0


def test_a_job_goes_on_under_an_upgrade(host: Host) -> None:
    config = host.config(f'spool = "{host.dir}/spool"\ndrain_s = 0\n')
    host.gexecd("--config", config)
    before = host.gexec("-d", "sleep", "1000").stdout.strip()
    assert on(host, "upgrade", "--force", "--config", config).returncode == 0
    after = host.gexec("-d", "sh", "-c", "exit 3").stdout.strip()
    assert on(host, "wait", after).returncode == 3
    assert on(host, "kill", before).returncode == 0
    told = on(host, "jobs", "--json", before)
    assert json.loads(told.stdout)["states"] == {"killed by signal 1": 1}


def test_a_node_without_a_spool_says_so(host: Host) -> None:
    host.gexecd("--config", host.config('spool = ""\n'))
    done = host.gexec("-d", "true")
    assert done.returncode == 255
    assert "this node keeps no background jobs: it has no spool (gexecd.toml); --keep=0" in done.stderr
    assert host.gexec("-d", "--keep=0", "true").returncode == 0


def test_limits_of_the_node_are_said(host: Host) -> None:
    host.gexecd("--config", host.config(f'spool = "{host.dir}/spool"\nspool_jobs_max = 1\n'))
    assert host.gexec("-d", "true").returncode == 0
    done = host.gexec("-d", "true")
    assert done.returncode == 255
    assert "at most 1 (spool_jobs_max in gexecd.toml); `gexecctl forget` removes" in done.stderr


def test_the_programs_on_the_nodes_have_help() -> None:
    done = subprocess.run([sys.executable, BIN / "gexec-job", "-h"], capture_output=True, text=True)
    assert done.stdout.startswith("Usage: gexec-job list | ACTION JOB RANKS [SIGNAL]\n")
    done = subprocess.run([sys.executable, BIN / "gexec-job", "wait"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
