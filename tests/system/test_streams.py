"""Standard descriptors that are closed or full, and locales without UTF-8, for every command."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from .commands import Shell
from .conftest import Cluster

#: Without Python's UTF-8 mode the encoding of names, arguments and terminals is ASCII here.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
PRINTING = [
    ("gexec", "--version"), ("gexec", "--help"), ("gexec", "--help-all"), ("gexec", "--dry-run", "true"),
    ("gexec", "echo", "x"), ("gexec", "--json", "true"), ("gexec", "-b", "echo", "x"),
    ("enexec", "--version"), ("ensh", "--help"), ("ensync", "--help"),
    ("gexecctl", "--version"), ("gexecctl", "--help"), ("gexecctl", "doctor"),
    ("gexecctl", "cluster", "status"), ("gexecctl", "cluster", "env"), ("gexecctl", "cluster", "addresses"),
    ("gexec-send", "--help"), ("gexec-receive", "--help"), ("gexecctl", "policy", "check", "root", "true"),
    ("gexecd", "--help"), ("gexecd", "--version"), ("authd", "--help"),
]  # fmt: skip
NO_FAILURE = ("Traceback", "internal error", "Exception ignored")


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Shell:
    return Shell(cluster.env, tmp_path)


def words_of(cluster: Cluster, words: tuple[str, ...]) -> tuple[object, ...]:
    return (*words, "--dir", cluster.dir) if words[:2] == ("gexecctl", "cluster") else words


def redirected(
    shell: Shell, words: tuple[object, ...], redirection: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with a shell's redirections; what else there is of stdout and stderr is returned."""
    command = shell.command(str(words[0]), *words[1:])
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
        env=shell.env,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-", "<&- >&-"])
def test_output_that_cannot_be_written_is_said_and_no_success(
    cluster: Cluster, shell: Shell, words: tuple[str, ...], redirection: str
) -> None:
    done = redirected(shell, words_of(cluster, words), redirection)
    said = done.stderr.decode()
    reason = "No space left on device" if "full" in redirection else "Bad file descriptor"
    assert done.returncode in (1, 3, 255), said
    assert said.count(f"{words[0]}: cannot write stdout: {reason}") == 1
    assert not any(text in said for text in NO_FAILURE), said


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_output_is_whole_where_stderr_is_none(
    cluster: Cluster, shell: Shell, words: tuple[str, ...], redirection: str
) -> None:
    done = redirected(shell, words_of(cluster, words), redirection)
    assert done.returncode == 0, done.stdout
    assert done.stdout


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
@pytest.mark.parametrize("redirection", [">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full"])
def test_without_any_place_to_say_something_the_status_still_tells(
    cluster: Cluster, shell: Shell, words: tuple[str, ...], redirection: str
) -> None:
    # 3: gexec-send's stream was cut short; 120 is Python's own for streams that it could not flush.
    assert redirected(shell, words_of(cluster, words), redirection).returncode in (1, 3, 120, 255)


@pytest.mark.parametrize(
    "words", [("gexecctl", "nothing"), ("gexecd", "--nothing"), ("gexec", "--nothing")], ids=" ".join
)
@pytest.mark.parametrize("redirection", ["2>&-", ">&- 2>&-", "2>/dev/full"])
def test_a_usage_error_is_one_also_where_nobody_hears_it(
    shell: Shell, words: tuple[str, ...], redirection: str
) -> None:
    assert redirected(shell, words, redirection).returncode == 2


# -- locales ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["gexec", "-w", "nöde,node001", "echo", "grüß"],
        ["gexec", "--rerun", "fäiled", "echo", "grüß"],
        ["gexec", "--nodelist=fäiled", "-x", "nöde", "echo", "grüß"],
        ["gexec", "--rerun", "fäiled", "--failed-to", "nöw", "echo", "grüß"],
        ["gexec", "--rerun", "fäiled", "--output-dir", "öut", "echo", "grüß"],
        ["gexec", "--rerun", "fäiled", "-p", "host", "--summary", "-v", "echo", "grüß"],
        ["gexec", "--rerun", "fäiled", "-b", "echo", "grüß"],
        ["gexec", "--rerun", "fäiled", "--dry-run", "echo", "grüß"],
        ["enexec", "--rerun", "fäiled", "echo grüß"],
    ],
    ids=" ".join,
)
def test_names_and_arguments_beyond_ascii_in_a_locale_without_them(shell: Shell, words: list[str]) -> None:
    (shell.folder / "fäiled").write_text("nöde # not there\nnode001\n")
    utf8 = shell.run(*words, cwd=shell.folder, env={"LC_ALL": "C.UTF-8"})
    done = shell.run(*words, cwd=shell.folder, env=ASCII)
    assert sorted(done.stdout.splitlines()) == sorted(utf8.stdout.splitlines())
    assert done.returncode == utf8.returncode
    assert "grüß".encode() in done.stdout
    for text in NO_FAILURE:
        assert text.encode() not in done.stderr
    if "nöw" in words:
        assert "nöde" in (shell.folder / "nöw").read_text()
    if "öut" in words:
        assert (shell.folder / "öut" / "node001.out").read_text() == "grüß\n"


def test_nodes_that_are_down_are_known_in_every_locale(shell: Shell) -> None:
    (shell.folder / "list").write_text("nöde\n")
    assert shell.run("gexec", "-w", "nöde", "true", env=ASCII).returncode == 255
    done = shell.run(
        "gexec", "--rerun", shell.folder / "list", "--skip-down", "true", env={"LC_ALL": "C.UTF-8"}
    )
    assert (done.returncode, b"--skip-down leaves out all 1" in done.stderr) == (2, True), done.stderr


def test_files_are_copied_in_a_locale_that_does_not_know_their_names(shell: Shell) -> None:
    source, there = shell.folder / "grüße", shell.folder / "zü"
    source.write_text("x")
    there.mkdir()
    done = shell.run("ensync", "-n", "node001", f"--dest={there}/", source, env=ASCII)
    assert done.returncode == 0, done.stderr
    assert (there / "grüße").read_text() == "x"


def test_a_cluster_in_a_directory_beyond_ascii(shell: Shell, tmp_path: Path) -> None:
    place = Path(f"/tmp/gxö{os.getpid()}")
    done = shell.run("gexecctl", "cluster", "up", "1", "--dir", place, env=ASCII)
    try:
        assert done.returncode == 0, done.stderr
        assert str(place).encode() in done.stdout
    finally:
        ended = shell.run("gexecctl", "cluster", "down", "--dir", place, env=ASCII)
    assert ended.returncode == 0, ended.stderr
