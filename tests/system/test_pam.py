"""PAM's account check and session with real modules, services and accounts, in a real spawner."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gexec import limits
from gexec.errors import ConfigError
from gexec.gexecd.rereading import policy_of
from gexec.security.policy import Limit, Policy, Terms
from gexec.settings.config import PolicySettings
from gexec.spawner import helpers
from gexec.wire.outcome import DENIED, EXITED, KILLED, LOST, NOT_STARTED, Outcome

from .conftest import wait_until
from .etc import Etc
from .rig import Rig, gone, rigs

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0, reason="needs root: tasks of other users, and a file in /etc/pam.d"
    ),
    pytest.mark.skipif(
        not (Path("/etc/pam.d").is_dir() and ctypes.util.find_library("pam")), reason="needs libpam"
    ),
]


class Service:
    """A service of the test's own in /etc/pam.d, and a directory for what its modules need."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="gexec-test-", dir="/opt"))
        self.dir.chmod(0o755)
        self.name = self.dir.name
        self._path = Path("/etc/pam.d") / self.name
        self.events = self.dir / "events"

    def write(self, *lines: str) -> str:
        """Write the service's file; return the service's name."""
        self._path.write_text("".join(f"{line}\n" for line in lines))
        return self.name

    def script(self, text: str) -> Path:
        """Write a program for pam_exec."""
        path = self.dir / "script"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def recording(self) -> str:
        """Return the line of a module that records sessions in ``events``."""
        path = self.script(f'echo "$PAM_TYPE $PAM_USER $PAM_SERVICE $PAM_TTY" >>{self.events}')
        return f"session required pam_exec.so {path}"

    def recorded(self) -> list[str]:
        """Return what modules have recorded."""
        return self.events.read_text().splitlines() if self.events.exists() else []

    def close(self) -> None:
        """Remove the service."""
        self._path.unlink(missing_ok=True)
        shutil.rmtree(self.dir)


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    with rigs(tmp_path, account_s=0.0) as making:

        def made(service: str, *limits: Limit, **options: Any) -> Rig:
            policy = Policy(allow_nologin=True, terms=Terms(pam=service, limits=limits))
            return making(policy=policy, **options)

        yield made


#: Each task gets a new helper, so its account is checked again.
AT_ONCE = ((helpers, "_PAM_AGE_MAX_S", -1.0),)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_a_session_is_opened_for_a_helper_and_closed_after_it(
    make: Callable[..., Rig], etc: Etc, service: Service
) -> None:
    ann = etc.add_user("ann")
    rig = make(service.write("account required pam_permit.so", service.recording()), etc=etc)
    task = rig.sh("echo $PPID; read line; id -un", user=ann)
    helper = int(task.line())
    opened = [f"open_session ann {service.name} gexec"]
    assert service.recorded() == opened
    assert (name_of(helper), name_of(parent_of(helper))) == ("gexecd-helper", "gexecd-session")
    assert int(rig.sh("echo $PPID", user=ann).output()) == helper
    assert service.recorded() == opened
    os.write(task.stdin, b"\n")
    assert task.output() == b"ann\n"
    assert task.outcome() == Outcome(EXITED, 0)
    rig.close()
    closed = f"close_session ann {service.name} gexec"
    wait_until(lambda: service.recorded() == [*opened, closed], "the session is not closed")


def test_root_has_a_session_too(make: Callable[..., Rig], service: Service) -> None:
    rig = make(service.write("account required pam_permit.so", service.recording()))
    task = rig.sh("id -u; cat /proc/$PPID/comm")
    assert task.output() == b"0\ngexecd-helper\n"
    assert service.recorded() == [f"open_session root {service.name} gexec"]


def test_attack_81_pam_refuses_and_its_reason_reaches_the_user(
    make: Callable[..., Rig], etc: Etc, service: Service
) -> None:
    ann = etc.add_user("ann")
    said = service.dir / "said"
    said.write_bytes(b"The node is closed \x1b[2J until Monday.\n" + b"x" * 5000)
    name = service.write(f"account optional pam_echo.so file={said}", "account required pam_deny.so")
    rig = make(name, etc=etc)
    outcome = rig.sh("true", user=ann).outcome()
    assert outcome.kind == DENIED
    assert outcome.text.startswith(f"PAM of this node (service {name}) refuses ann: Authentication failure: ")
    assert "The node is closed \\x1b[2J until Monday." in outcome.text
    assert len(outcome.text) < 400
    rig.close()
    (line,) = (line for line in rig.audit() if line["event"] == "deny")
    assert (line["code"], line["user"]) == ("pam", "ann")


@pytest.mark.parametrize("field", [{"expires_day": "1"}, {"password": "!$6$x"}])
def test_attack_81_the_check_of_shadow_counts_also_with_pam(
    make: Callable[..., Rig], etc: Etc, service: Service, field: dict[str, str]
) -> None:
    ann = etc.add_user("ann")
    rig = make(service.write("account required pam_permit.so"), etc=etc)
    assert rig.sh("true", user=ann).outcome().ok
    etc.set_shadow("ann", **field)
    outcome = rig.sh("true", user=ann).outcome()
    assert outcome.kind == DENIED
    assert "on this node" in outcome.text


def test_attack_81_an_account_that_is_locked_elsewhere_between_two_jobs(
    make: Callable[..., Rig], etc: Etc, service: Service
) -> None:
    """As in a directory: /etc/shadow knows nothing of it. What runs continues."""
    ann, bob = etc.add_user("ann"), etc.add_user("bob")
    locked = service.dir / "locked"
    locked.write_text("eve\n")
    locked.chmod(0o600)
    name = service.write(f"account required pam_listfile.so item=user sense=deny onerr=fail file={locked}")
    rig = make(name, etc=etc, constants=AT_ONCE)
    long = rig.sh("echo up; read line; echo on", user=ann)
    assert long.line() == b"up"
    locked.write_text("eve\nann\n")
    outcome = rig.sh("true", user=ann).outcome()
    assert (outcome.kind, "refuses ann" in outcome.text) == (DENIED, True)
    assert rig.sh("true", user=bob).outcome().ok
    os.write(long.stdin, b"\n")
    assert long.line() == b"on"
    assert long.outcome() == Outcome(EXITED, 0)


def test_modules_set_limits_and_variables(make: Callable[..., Rig], etc: Etc, service: Service) -> None:
    ann = etc.add_user("ann")
    conf, env = service.dir / "limits.conf", service.dir / "env.conf"
    conf.write_text("ann hard nofile 300\nann soft nofile 200\nann - core 0\n")
    env.write_text("SCRATCH DEFAULT=/scratch/ann\nLANG DEFAULT=C.UTF-8\nGEXEC_NODE DEFAULT=liar\n")
    name = service.write(
        "account required pam_permit.so",
        f"session required pam_limits.so conf={conf}",
        f"session required pam_env.so conffile={env} readenv=0",
    )
    script = "ulimit -Sn; ulimit -Hn; ulimit -c; echo $SCRATCH $LANG $GEXEC_NODE $OWN"
    jobs_env = [b"LANG=de", b"OWN=own", b"PATH=/bin"]
    rig = make(name, etc=etc)
    task = rig.sh(script, user=ann, env=jobs_env)
    assert task.output() == b"200\n300\n0\n/scratch/ann C.UTF-8 node1 own\n"
    # The policy's own limits count more than those of PAM.
    rig = make(name, Limit("nofile", 100, 250), etc=etc)
    task = rig.sh(script, user=ann, env=jobs_env)
    assert task.output().split()[:2] == [b"100", b"250"]


def test_attack_105_a_module_that_does_not_answer_delays_nobody_else(
    make: Callable[..., Rig], etc: Etc, service: Service
) -> None:
    ann, bob = etc.add_user("ann"), etc.add_user("bob")
    gate = service.dir / "gate"
    os.mkfifo(gate)
    script = service.script(f'[ "$PAM_USER" != ann ] || {{ echo hangs >>{service.events}; cat {gate}; }}')
    name = service.write(f"account required pam_exec.so {script}")
    rig = make(name, etc=etc, constants=((limits, "PAM_S", 2.0),))
    tasks = [rig.sh("true", user=ann) for _ in range(3)]
    wait_until(lambda: service.recorded() == ["hangs"], "the module is not asked")
    assert rig.sh("true", user=bob).outcome().ok
    assert rig.sh("true").outcome().ok
    for task in tasks:
        outcome = task.outcome()
        assert outcome.kind == NOT_STARTED
        assert "PAM of this node has not answered for 2 s" in outcome.text
    script.write_text("#!/bin/sh\n")
    assert rig.sh("true", user=ann).outcome().ok


@pytest.mark.parametrize("victim", ["gexecd-helper", "gexecd-session"])
def test_without_its_helper_or_session_a_task_ends(
    make: Callable[..., Rig], etc: Etc, service: Service, victim: str
) -> None:
    ann = etc.add_user("ann")
    rig = make(service.write("account required pam_permit.so", service.recording()), etc=etc)
    task = rig.sh("echo $PPID $$; trap '' TERM HUP; while :; do sleep 0.1; done", user=ann)
    helper, pid = map(int, task.line().split())
    task.started()
    os.kill(helper if victim == "gexecd-helper" else parent_of(helper), signal.SIGKILL)
    assert task.outcome().kind == LOST
    assert gone(pid)
    assert rig.sh("true", user=ann).outcome().ok


def test_a_task_whose_user_stopped_the_helper_can_be_killed(
    make: Callable[..., Rig], etc: Etc, service: Service
) -> None:
    ann = etc.add_user("ann")
    rig = make(service.write("account required pam_permit.so"), etc=etc)
    task = rig.sh("kill -STOP $PPID; echo stopped; exec sleep 1000", user=ann)
    assert task.line() == b"stopped"
    rig.relay.kill(task.number, True)
    assert task.outcome() == Outcome(KILLED, signal.SIGKILL)


def test_a_service_that_does_not_exist_is_an_error_of_the_configuration(service: Service) -> None:
    with pytest.raises(ConfigError, match=f"there is no file /etc/pam.d/{service.name}"):
        policy_of(PolicySettings(pam=service.name))
    service.write("account required pam_permit.so")
    assert policy_of(PolicySettings(pam=service.name)).terms.pam == service.name
