"""The command gexecctl as a user meets it."""

from __future__ import annotations

import json
import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import BIN, Cluster, gexecctl


def test_keys_init_makes_files_with_right_modes_and_never_replaces_them(tmp_path: Path) -> None:
    done = gexecctl("keys", "init", "--dir", tmp_path, "--bits", 2048)
    assert done.returncode == 0, done.stderr
    private, public = (tmp_path / name for name in ("auth_priv.pem", "auth_pub.pem"))
    assert done.stdout == f"{private}\n{public}\n"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (private, public)] == [0o600, 0o644]
    again = gexecctl("keys", "init", "--dir", tmp_path)
    assert again.returncode == 1
    assert "already exists; --force" in again.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["keys", "init", "--dir", "x", "--private", "y"],
        ["keys", "init", "--private", "y"],
        ["keys", "init", "--dir", "x", "--bits", "512"],
        ["cluster", "up", "0"],
        ["cluster", "up", "99999999"],
        ["cluster", "up", "many"],
        ["cluster", "up", "2", "--port", "65536"],
        ["cluster", "pids"],
        ["cluster"],
        ["nonsense"],
        [],
    ],
)
def test_wrong_words_end_with_2_and_a_sentence(tmp_path: Path, words: list[str]) -> None:
    env = os.environ | {"GEXEC_CLUSTER_DIR": str(tmp_path / "c")}
    done = gexecctl(*words, env=env)
    assert done.returncode == 2, done
    assert done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("action", ["env", "addresses", "status", "pids"])
def test_without_a_cluster_the_commands_say_how_to_start_one(tmp_path: Path, action: str) -> None:
    words = ["cluster", action, "--dir", str(tmp_path)] + (["node001"] if action == "pids" else [])
    done = gexecctl(*words)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"gexecctl: {tmp_path}: no cluster runs here; `gexecctl cluster up N` starts one\n"


def test_env_is_for_a_shells_eval(cluster: Cluster) -> None:
    ctl = shlex.join([sys.executable, str(BIN / "gexecctl"), "cluster", "env", "--dir", str(cluster.dir)])
    script = f'eval "$({ctl})"; for node in $GEXEC_SVRS; do echo "$node"; done; test -S "$GEXEC_SOCKET"'
    done = subprocess.run(["/bin/sh", "-ec", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == cluster.names


def test_output_that_nobody_reads_is_no_traceback(cluster: Cluster) -> None:
    command = [sys.executable, str(BIN / "gexecctl"), "cluster", "addresses", "--dir", str(cluster.dir)]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert done.stderr == b""


def test_doctor_finds_a_local_cluster_healthy(cluster: Cluster) -> None:
    done = gexecctl("doctor", env=cluster.env)
    assert done.returncode == 0, done.stdout + done.stderr
    levels = {line.split()[0] for line in done.stdout.splitlines()}
    assert levels == {"ok"}, done.stdout
    assert "all 8 nodes in GEXEC_SVRS resolve" in done.stdout


def test_doctor_prints_an_object_for_each_finding(cluster: Cluster) -> None:
    env = cluster.env | {"GEXEC_SVR": "misspelt"}
    done = gexecctl("doctor", "--json", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(list(finding) == ["level", "check", "text", "fix"] for finding in findings)
    assert {finding["check"] for finding in findings} >= {"versions", "keys", "authd", "gexecd", "port"}
    [warning] = [finding for finding in findings if finding["level"] != "ok"]
    assert warning == {
        "level": "warning",
        "check": "variables",
        "text": "GEXEC_SVR is set, but is not a variable of gexec",
        "fix": "is it misspelt?",
    }
    assert all(finding["fix"] is None for finding in findings if finding["level"] == "ok")


def test_doctor_without_anything_names_problems_and_ends_with_1(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GEXEC_")}
    env |= {
        "GEXEC_CLUSTER_DIR": str(tmp_path),
        "GEXEC_SOCKET": str(tmp_path / "x"),
        "GEXEC_AUTHD_SOCKET": "/x",
    }
    done = gexecctl("doctor", env=env)
    assert done.returncode == 1
    assert "gexecd does not run here" in done.stdout
    assert "authd does not run here" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_version_and_help_answer() -> None:
    assert gexecctl("--version").stdout.startswith("gexecctl ")
    for words in ([], ["keys"], ["cluster"], ["doctor"], ["cluster", "up"], ["keys", "init"]):
        assert gexecctl(*words, "--help").returncode == 0
