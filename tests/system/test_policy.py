"""The policy of a real gexecd, read again on SIGHUP, and `gexecctl policy check`, which agrees with it."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gexec.gexecd.rereading import policy_of
from gexec.settings.config import read_gexecd
from gexec.wire.outcome import DENIED

from .conftest import BIN, DEADLINE_S, wait_until
from .daemons import Host, command
from .etc import Etc
from .rig import Rig, job, signed

ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


def test_sighup_reads_limits_and_commands_again(host: Host) -> None:
    config = host.config(
        f'[[policy.rule]]\nusers = ["{ME}"]\nlimits = {{ nofile = "100:200" }}\numask = "77"\n'
    )
    host.start_authd()
    service = host.gexecd("--config", config)
    script = ["sh", "-c", "ulimit -Sn; ulimit -Hn; umask"]
    assert host.gexec("-n", "1", "-p", "none", *script).stdout.split() == ["100", "200", "0077"]

    host.config(
        f'[[policy.rule]]\nusers = ["{ME}"]\nlimits = {{ nofile = 90 }}\nallow_commands = ["/usr/bin/id"]\n'
    )
    os.kill(service.pid, signal.SIGHUP)
    wait_until(lambda: "reloaded" in service.errors(), "the policy is not read again")
    refused = host.gexec("-n", "1", *script)
    assert refused.returncode == 255
    assert "none of the allowed commands of this node's policy" in refused.stderr
    assert host.gexec("-n", "1", "-p", "none", "/usr/bin/id", "-un").stdout == f"{ME}\n"
    for words, status in ((["/usr/bin/id"], 0), (script, 1)):
        checked = subprocess.run(
            command("gexecctl", "policy", "check", "--config", config, ME, *words), capture_output=True
        )
        assert checked.returncode == status, checked.stdout

    host.config("[policy]\nnice = 1000\n")
    os.kill(service.pid, signal.SIGHUP)
    wait_until(lambda: "the old settings stay in force" in service.errors(), "the error is not logged")
    assert "nice = 1000: expected -20 to 39" in service.errors()
    assert host.gexec("-n", "1", *script).returncode == 255


@pytest.mark.root
def test_policy_check_agrees_with_the_spawner(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    etc = Etc(tmp_path / "etc")
    users = {
        "ann": etc.add_user("ann"),
        "guest": etc.add_user("guest", groups=("guests",)),
        "locked": etc.add_user("locked", password="!$6$x"),
        "expired": etc.add_user("expired", expires_day="1"),
        "barred": etc.add_user("barred", shell="/usr/sbin/nologin"),
        "free": etc.add_user("free", groups=("crew",)),
    }
    config = tmp_path / "gexecd.toml"
    config.write_text(
        '[policy]\ndeny_groups = ["guests"]\nallow_commands = ["/usr/bin/id"]\n'
        '[[policy.rule]]\ngroups = ["crew"]\nallow_commands = []\n'
    )
    directory = tmp_path / "rig"
    directory.mkdir()
    rig = Rig(directory, etc=etc, policy=policy_of(read_gexecd(str(config)).policy))
    allowed = 0
    for name, user in users.items():
        for program in ("/usr/bin/id", "/bin/sh", "/usr/bin/no-such-program"):
            checked = subprocess.run(
                [
                    sys.executable,
                    BIN / "gexecctl",
                    "policy",
                    "check",
                    "--json",
                    "--config",
                    config,
                    name,
                    program,
                ],
                capture_output=True,
                text=True,
                timeout=DEADLINE_S,
                preexec_fn=etc.take_place,
            )
            told = json.loads(checked.stdout)
            assert told["complete"], told
            assert checked.returncode == (0 if told["allowed"] else 1)
            argv = [program] if program != "/bin/sh" else [program, "-c", "exit 0"]
            outcome = rig.run(*signed(job(argv), uid=user)).outcome()
            assert told["allowed"] == outcome.ok, (told, outcome)
            assert told["refusal"] == outcome.text
            allowed += outcome.ok
            if name not in ("ann", "free"):
                assert outcome.kind == DENIED
    assert allowed == 3  # ann's id, and what the crew has
    rig.close()
