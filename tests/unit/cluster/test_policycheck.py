"""What `gexecctl policy check` explains, for the accounts of this machine."""

from __future__ import annotations

import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest

from gexec.cli import gexecctl
from gexec.cluster.policycheck import as_json, described, explain
from gexec.errors import UsageError

ME = pwd.getpwuid(os.geteuid()).pw_name


def config(directory: Path, text: str) -> str:
    path = directory / "gexecd.toml"
    path.write_text(text)
    path.chmod(0o644)
    return str(path)


def rules_of(told: dict[str, Any]) -> dict[str, Any]:
    return {rule["rule"]: rule["permitted"] for rule in told["rules"]}


def test_everything_that_applies_is_told(tmp_path: Path) -> None:
    path = config(
        tmp_path,
        f"""
        [policy]
        allow_commands = ["/no/such"]
        jobs_per_user_max = 7
        [policy.limits]
        nofile = "100:200"
        [[policy.rule]]
        users = ["{ME}"]
        allow_commands = ["/usr/bin/*"]
        limits = {{ core = 0, nproc = "500:unlimited" }}
        umask = "27"
        nice = 3
        """,
    )
    explanation = explain(ME, "/usr/bin/id", path)
    told = json.loads(as_json(explanation))
    assert told["rule"] == 1
    limits = {"core": [0, 0], "nproc": [500, -1]}
    assert told["limits"] == (limits if os.geteuid() == 0 else limits | {"nofile": [100, 200]})
    assert (told["nice"], told["umask"], told["jobs_per_user_max"]) == (3, "027", 7)
    assert rules_of(told)["command"] is True
    assert "[[policy.rule]] number 1 applies" in described(explanation)
    assert "nproc 500:unlimited" in described(explanation)


def test_a_refusal_names_the_rule_and_the_status_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, '[policy]\nallow_commands = ["/usr/bin/id"]\n')
    assert gexecctl.main(["policy", "check", "--config", path, ME, "/bin/sh", "-c", "id; --json"]) == 1
    told = capsys.readouterr().out
    assert "\nno  command: program /bin/sh" in told
    assert "none of the allowed commands" in told.splitlines()[-1]
    path = config(tmp_path, f'[policy]\nuid_min = 4000000000\ndeny_users = ["{ME}"]\n')
    assert gexecctl.main(["policy", "check", "--json", "--config", path, ME, "id"]) == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["allowed"], rules_of(answer)["deny_users"]) == (False, False)


def test_an_account_that_does_not_exist_is_refused() -> None:
    explanation = explain("no-such-user", "/usr/bin/id", None)
    assert explanation.refusal == "no-such-user has no account on this node"
    assert json.loads(as_json(explanation))["uid"] is None
    assert described(explanation).endswith(f"refused: {explanation.refusal}")
    assert "no account" in explain("4000000000", "/usr/bin/id", None).refusal


def test_a_program_is_looked_up_and_must_exist(tmp_path: Path) -> None:
    path = config(tmp_path, "")
    assert rules_of(json.loads(as_json(explain(str(os.geteuid()), "ls", path))))["command"] is True
    assert "not found in the job's PATH" in explain(ME, "no-such-program", path).refusal
    assert "No such file" in explain(ME, "/no/such/program", path).refusal


@pytest.mark.parametrize(("command", "words"), [("", "expected a command"), ("bin/x", "absolute path")])
def test_usage_errors(command: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=words):
        explain(ME, command, None)
    assert gexecctl.main(["policy", "check", ME, command]) == 2
    assert words in capsys.readouterr().err


def test_settings_that_cannot_be_used_are_no_refusal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = config(tmp_path, "[policy]\nnice = 99\n")
    assert gexecctl.main(["policy", "check", "--config", path, ME, "id"]) == 2
    assert "nice = 99: expected -20 to 39" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
def test_an_ordinary_user_is_told_what_could_not_be_examined() -> None:
    explanation = explain("root", "/usr/bin/id", None)
    answers = {finding.rule: finding.permitted for finding in explanation.findings}
    assert (answers["locked"], answers["expired"], answers["command"]) == (None, None, None)
    assert not explanation.is_complete
    assert described(explanation).endswith("allowed, as far as this user can examine")
    assert {finding.rule: finding.permitted for finding in explanation.findings}["shell"] is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
def test_an_ordinary_users_gexecd_serves_that_user_only(tmp_path: Path) -> None:
    path = config(tmp_path, "")
    assert explain("root", "/usr/bin/id", path).refusal.endswith("serves that user only")
    assert explain(ME, "/usr/bin/id", path).refusal == ""
