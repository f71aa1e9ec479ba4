"""Jobs over ssh under ~/.ssh/config as real users have it: ssh_config(5), option by option."""

from __future__ import annotations

import gzip
import os
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gexec.ssh import settings
from gexec.ssh.commands import Commands
from gexec.ssh.job import SshOptions, prepare
from gexec.wire import outcome as outcomes
from gexec.wire.outcome import exited, killed

from .commands import Shell
from .conftest import DEADLINE_S, wait_until
from .ssh_jobs import port_of_nobody, run, start
from .ssh_options import LEFT, OTHER_NAMES, SET, TABLE
from .sshd import Sshd

THREE = ["node1", "node2", "node3"]
#: What ssh could take for its own: the escape character, alone on a line.
STDIN = b"in\n~.\n~&\nx.\n"


def check_job(sshd: Sshd, ssh: list[str], stdin: bytes | None) -> None:
    """Run a command on three nodes; it must get its stdin, and both streams and the status come back."""
    command = ["sh", "-c", "cat; echo err $GEXEC_NODE >&2; exit 3"]
    with start(sshd, THREE, *command, stdin=stdin, options=SshOptions(command=ssh)) as job:
        assert job.finish().outcomes == [exited(3)] * 3
        for rank, name in enumerate(THREE):
            assert job.stdout(rank) == (stdin or b"")
            assert job.stderr(rank) == f"err {name}\n".encode()


# -- the table ----------------------------------------------------------------------------------


def of_installed_ssh() -> set[str]:
    """Return the options that the installed ssh has, in small letters: from itself and from its manual."""
    if shutil.which("ssh") is None:
        pytest.skip("needs ssh")
    command = ["ssh", "-F", "none", "-G", "host"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S)
    found = {line.split()[0].lower() for line in shown.stdout.splitlines()}
    assert len(found) > 50
    return found | {name.lower() for name in _manual()}  # -G leaves some out that have no value


def _manual() -> list[str]:
    for path in Path("/usr/share/man/man5").glob("ssh_config.5*"):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return re.findall(r"^\.It Cm ([A-Z]\w+)$", text.decode(errors="replace"), re.MULTILINE)
    return []


def test_every_option_of_the_installed_ssh_is_in_the_table() -> None:
    named = {row.name.lower() for row in TABLE}
    assert len(named) == len(TABLE), "an option is twice in the table"
    assert not of_installed_ssh() - named - OTHER_NAMES


def test_what_the_table_says_is_set_is_what_is_set() -> None:
    found = settings.words(5, 10, 3, ask=False) + settings.words(5, 10, 3, ask=True)
    names = {word.partition("=")[0] for word in found if "=" in word} | set(settings.REQUIRED_NEW)
    assert names == {row.name for row in TABLE if row.what == SET}
    assert all(row.why and row.contrary for row in TABLE if row.what == SET)
    assert {row.what for row in TABLE} == {SET, LEFT}


def job_argv(ssh: list[str], ask: bool) -> list[str]:
    """Return the words of the ssh of a job on node1."""
    words = SshOptions(command=ssh).words()
    words += settings.new_words(words)
    job = prepare([("node1", 0)], ["true"])
    commands = Commands(job, [os.fsencode(word) for word in words], b"mark", b"", ask)
    return [os.fsdecode(word) for word in commands.of(0)]


@pytest.mark.parametrize("ask", [False, True], ids=["batch", "ask"])
def test_what_is_set_is_so_for_ssh_whatever_the_configuration_has(
    sshd: Sshd, tmp_path: Path, ask: bool
) -> None:
    contrary = {row.name: row.contrary for row in TABLE if row.what == SET} | {"BatchMode": "no"}
    contrary |= {"BatchMode": "yes"} if ask else {}
    program, *words = job_argv(sshd.configured(tmp_path, as_lines(contrary)), ask)
    command = [program, "-G", *words]
    shown = subprocess.run(command, capture_output=True, timeout=DEADLINE_S, text=True)
    assert shown.returncode == 0, shown.stderr
    found = dict(line.lower().split(" ", 1) for line in shown.stdout.splitlines() if " " in line)
    wanted = dict(word.lower().split("=", 1) for word in words if re.fullmatch(r"\w+=\w+", word))
    assert len(wanted) >= len(contrary) - ask
    for name, value in wanted.items():
        # -G writes some booleans in C's words, and no RemoteCommand where there is none.
        told = {"no": ("no", "false"), "yes": ("yes", "true"), "none": ("none", None)}.get(value, (value,))
        assert found.get(name) in told, f"{name} is {found.get(name)}, not {value}"
    assert found["addkeystoagent"] == ("ask" if ask else "false")


def as_lines(options: dict[str, str]) -> str:
    return "\n".join(f"{name} {value}" for name, value in options.items())


_NODES = "Match originalhost node1,node2,node3"
_FORWARDS = {
    "LocalForward": "127.0.87.1:{port} 127.0.0.1:1",
    "RemoteForward": "127.0.87.1:{port} 127.0.0.1:1",
    "DynamicForward": "127.0.87.1:{port}",
    "Tunnel": "yes",
}
CASES = [
    *(f"{row.name} {row.contrary}" for row in TABLE if row.what == SET),
    *(f"ExitOnForwardFailure yes\n{name} {value}" for name, value in _FORWARDS.items()),
    # All that is left to the user, and does no harm.
    as_lines({row.name: row.contrary for row in TABLE if row.what == LEFT and row.contrary}),
    "SessionType subsystem",
    "RequestTTY yes",
    "LogLevel QUIET",
    "AddKeysToAgent confirm",
    "IgnoreUnknown UseKeychain\nUseKeychain yes",
    f"{_NODES}\nProxyJump node8",
    f"{_NODES}\nProxyCommand ssh -F {{dir}}/ssh_config -W %h:%p node8",
    "Match exec true\nCompression yes",
    "CanonicalizeHostname always\nCanonicalDomains example.invalid",
]


@pytest.mark.parametrize("lines", CASES, ids=lambda lines: str(lines).replace("\n", ", ")[:50])
def test_a_job_runs_under_each_option(sshd: Sshd, tmp_path: Path, lines: str) -> None:
    ssh = sshd.configured(tmp_path, lines.format(port=port_of_nobody(), dir=sshd.dir))
    read = subprocess.run([*ssh, "-G", "node1"], capture_output=True, text=True, timeout=DEADLINE_S)
    if "Bad configuration option" in read.stderr:
        pytest.skip(f"an older ssh: {read.stderr.splitlines()[0]}")
    check_job(sshd, ssh, None)
    check_job(sshd, ssh, STDIN)


def worst(sshd: Sshd, folder: Path) -> list[str]:
    """Return the words of ssh with all that breaks a job in one file."""
    options = {row.name: row.contrary for row in TABLE if row.what == SET} | _FORWARDS
    options |= {"ControlPath": f"{folder}/cm-%C", "ControlPersist": "60", "ExitOnForwardFailure": "yes"}
    options |= {"LocalCommand": f"echo x >>{folder}/local"}
    return sshd.configured(folder, as_lines(options).format(port=port_of_nobody()))


# -- what a connection would leave behind ----------------------------------------------------------


def test_all_of_it_at_once_and_nothing_is_left_behind(sshd: Sshd, tmp_path: Path) -> None:
    ssh = worst(sshd, tmp_path)
    before = set(os.listdir(tmp_path))
    check_job(sshd, ssh, None)
    check_job(sshd, ssh, STDIN)
    assert set(os.listdir(tmp_path)) == before, "a master's socket, or what LocalCommand wrote"


@pytest.mark.parametrize("value", ["yes", "ask"])
def test_known_hosts_stays_as_it_was(sshd: Sshd, tmp_path: Path, value: str) -> None:
    # One line: ssh leaves a key alone that other names have, too.
    was, *_ = (sshd.dir / "known_hosts").read_text().splitlines(keepends=True)
    known = tmp_path / "known_hosts"
    known.write_text(was)
    ssh = sshd.configured(tmp_path, f"UpdateHostKeys {value}\nUserKnownHostsFile {known}")
    with start(sshd, ["node1"], "cat", stdin=STDIN, options=SshOptions(command=ssh)) as job:
        assert job.finish().outcomes == [exited(0)]
    assert known.read_text() == was


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Path]:
    """The socket of an agent of our own, without keys."""
    if shutil.which("ssh-agent") is None:
        pytest.skip("needs ssh-agent")
    path = tmp_path / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    wait_until(path.exists, "the agent does not come up")
    yield path
    process.terminate()
    process.wait(DEADLINE_S)


def test_no_key_is_added_to_the_agent(sshd: Sshd, tmp_path: Path, agent: Path) -> None:
    check_job(sshd, sshd.configured(tmp_path, f"AddKeysToAgent yes\nIdentityAgent {agent}"), None)
    command = ["ssh-add", "-l"]
    environment = os.environ | {"SSH_AUTH_SOCK": str(agent)}
    listed = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=DEADLINE_S)
    assert "no identities" in listed.stdout


def test_a_key_of_the_users_agent_is_used(sshd: Sshd, tmp_path: Path, agent: Path) -> None:
    environment = os.environ | {"SSH_AUTH_SOCK": str(agent)}
    command = ["ssh-add", "-q", str(sshd.dir / "user_key")]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=DEADLINE_S)
    lines = f"IdentityAgent {agent}\nIdentitiesOnly no\nIdentityFile none"
    check_job(sshd, sshd.configured(tmp_path, lines), None)


def test_a_dead_node_is_tried_once(sshd: Sshd, tmp_path: Path) -> None:
    ssh = sshd.configured(tmp_path, "ConnectionAttempts 1000")
    job = SshOptions(command=ssh, arguments=["-p", str(port_of_nobody())])
    with start(sshd, ["node1"], "true", options=job) as done:
        [outcome] = done.finish().outcomes
    assert "Connection refused" in outcome.text


def test_the_ssh_to_a_jump_host_asks_nothing_either(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = tmp_path / "asked"
    askpass = tmp_path / "askpass"
    askpass.write_text(f'#!/bin/sh\necho "$1" >>{asked}\necho yes\n')
    askpass.chmod(0o755)
    monkeypatch.setenv("SSH_ASKPASS", str(askpass))
    monkeypatch.setenv("DISPLAY", ":77")
    lines = f"StrictHostKeyChecking ask\nUserKnownHostsFile {tmp_path}/none\n{_NODES}\nProxyJump node8"
    with start(sshd, ["node1"], "true", options=SshOptions(command=sshd.configured(tmp_path, lines))) as job:
        [outcome] = job.finish().outcomes
    assert not asked.exists()
    assert outcome.kind == outcomes.NOT_STARTED
    assert "Host key verification failed" in outcome.text


# -- a master of the user's own -------------------------------------------------------------------


@pytest.fixture
def master(sshd: Sshd, tmp_path: Path) -> Iterator[tuple[list[str], int]]:
    """The ssh of a user who has opened a shared connection to node1, as for a login with a token; its pid."""
    ssh = sshd.configured(tmp_path, f"ControlPath {tmp_path}/%h\nControlMaster auto\nControlPersist 1000")
    opened = subprocess.run([*ssh, "-fN", "node1"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert opened.returncode == 0, opened.stderr
    shown = subprocess.run([*ssh, "-O", "check", "node1"], capture_output=True, text=True, timeout=60)
    yield ssh, int(re.findall(r"pid=(\d+)", shown.stderr)[0])
    subprocess.run([*ssh, "-O", "exit", "node1"], capture_output=True, timeout=60)


def test_a_shared_connection_of_the_user_is_used_and_stays(
    sshd: Sshd, master: tuple[list[str], int], tmp_path: Path
) -> None:
    ssh, pid = master
    # The key is refused from now on: whoever gets there came through the master.
    refused = [*ssh, "-o", "IdentityFile=/nonexistent"]
    for stdin in (None, STDIN):
        command = ["sh", "-c", "cat; echo err >&2; exit 3"]
        with start(sshd, ["node1", "node2"], *command, stdin=stdin, options=SshOptions(command=ssh)) as job:
            assert job.finish().outcomes == [exited(3)] * 2
            assert (job.stdout(), job.stderr()) == (stdin or b"", b"err\n")
    with start(
        sshd, ["node1"], "sh", "-c", "echo up; exec sleep 1000", options=SshOptions(command=refused)
    ) as job:
        job.until(job.stdout)
        job.session.signal(signal.SIGTERM)
        assert job.finish().outcomes == [killed(signal.SIGTERM)]
    assert os.path.exists(f"/proc/{pid}")
    assert not list(tmp_path.glob("*.2")), "the job has left a master of its own"


def test_a_shared_connection_that_ends_is_lost(sshd: Sshd, master: tuple[list[str], int]) -> None:
    ssh, pid = master
    with start(
        sshd, ["node1"], "sh", "-c", "echo up; exec sleep 1000", options=SshOptions(command=ssh)
    ) as job:
        job.until(job.stdout)
        os.kill(pid, signal.SIGKILL)
        assert job.finish().outcomes[0].kind == outcomes.LOST


# -- options of the user's own, and other ssh ------------------------------------------------------


def test_a_forward_is_kept_for_those_who_ask_for_it(sshd: Sshd) -> None:
    port = port_of_nobody()
    wanted = ["-o", "ClearAllForwardings=no", "-o", f"RemoteForward=127.0.0.1:{port} 127.0.0.1:1"]
    # sshd listens there while the command runs.
    line = f"grep -ci ':{port:04X} 00000000:0000 0A' /proc/net/tcp"
    with start(
        sshd, ["node1"], "sh", "-c", line, options=SshOptions(command=sshd.ssh, arguments=wanted)
    ) as job:
        assert job.finish().stdout() == b"1\n"
    assert run(sshd, ["node1"], "sh", "-c", line).stdout() == b"0\n"


#: An OpenSSH of before 8.7 as far as it is seen from here: what it says, and what it does not take.
_OLD = """#!/bin/sh
for word; do
    case $word in
    -V) echo 'OpenSSH_8.6p1, OpenSSL 1.1.1k  FIPS 25 Mar 2021' >&2; exit 0 ;;
    SessionType=*|StdinNull=*|ForkAfterAuthentication=*)
        echo "command-line: line 0: Bad configuration option: ${word%=*}" >&2; exit 255 ;;
    esac
done
exec ssh "$@"
"""


def test_an_older_ssh_gets_no_option_that_it_does_not_know(sshd: Sshd, tmp_path: Path) -> None:
    old = tmp_path / "ssh"
    old.write_text(_OLD)
    old.chmod(0o755)
    check_job(sshd, [str(old), *sshd.ssh[1:]], STDIN)
    rejected = subprocess.run([old, "-o", "StdinNull=no", "x"], capture_output=True, timeout=DEADLINE_S)
    assert b"Bad configuration option" in rejected.stderr


@pytest.mark.parametrize("text", ["", "exit 0", "echo 'dropbear v2022.83' >&2", "kill -9 $$"])
def test_what_does_not_answer_as_openssh_is_taken_for_an_old_one(tmp_path: Path, text: str) -> None:
    program = tmp_path / "ssh"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    assert settings.new_words([str(program)]) == []
    assert settings.new_words([str(tmp_path / "none")]) == []


# -- the commands -----------------------------------------------------------------------------------


@pytest.fixture
def shell(sshd: Sshd, tmp_path: Path) -> Shell:
    """No gexecd anywhere, and the worst ~/.ssh/config."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GEXEC_")}
    return Shell(clean | {"GEXEC_SSH": shlex.join(worst(sshd, tmp_path))}, tmp_path)


def test_ensh(shell: Shell) -> None:
    done = shell.run("ensh", "-n", "node[1-4]", "-p", "none", "cat; echo x >&2", input=STDIN)
    assert (done.returncode, done.stdout, done.stderr) == (0, STDIN * 4, b"x\n" * 4)


def test_ensync(shell: Shell) -> None:
    python = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")
    newer = [python or "false", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if subprocess.run(newer, capture_output=True, timeout=DEADLINE_S).returncode:
        pytest.skip("needs the system's python3, 3.11 or newer, which sessions by ssh find")
    data = os.urandom(1 << 20)
    (shell.folder / "file").write_bytes(data)
    dest = f"{shell.folder}/to-%n/"
    done = shell.run(
        "ensync", "-n", "node[1-3]", "--via=ssh", "--parents", "--dest", dest, shell.folder / "file"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert [(shell.folder / f"to-{rank}/file").read_bytes() for rank in range(3)] == [data] * 3


@pytest.mark.parametrize(
    ("given", "needed"),
    [
        ("StdinNull=yes", "StdinNull=no"),
        ("sessiontype none", "SessionType=default"),
        ("RequestTTY = force", "RequestTTY=no"),
        ('RemoteCommand "echo other"', "RemoteCommand=none"),
    ],
)
def test_an_option_under_which_no_command_can_run_is_a_usage_error(
    shell: Shell, given: str, needed: str
) -> None:
    for words in (["ensh"], ["ensh", "--dry-run"], ["ensync", "--via=ssh"], ["ensync"]):
        done = shell.run(*words, "-n", "node1", "-o", given, "/etc/hosts")
        said = f"{words[0]}: option {given!r} for ssh: a command on a node needs {needed}; leave it out\n"
        assert (done.returncode, done.stderr.decode()) == (2, said)


@pytest.mark.parametrize("flag", ["-n", "-fN", "-tts"])
def test_a_flag_under_which_no_command_can_run_is_a_usage_error(shell: Shell, flag: str) -> None:
    done = shell.run("ensh", "-n", "node1", "true", env={"GEXEC_SSH": f"ssh {flag}"})
    said = f"ensh: option {flag} for ssh: no command can run with it; leave it out\n"
    assert (done.returncode, done.stderr.decode()) == (2, said)
