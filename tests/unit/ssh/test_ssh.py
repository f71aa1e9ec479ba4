"""The engine behind ensh, without a process: names, command lines, transcripts, stdin, verdicts."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gexec import limits
from gexec.errors import ProtocolError, UsageError
from gexec.ssh import destination, script
from gexec.ssh.commands import Commands
from gexec.ssh.job import SshOptions, prepare
from gexec.ssh.stdin import KeptStdin
from gexec.ssh.transcript import Transcript
from gexec.ssh.verdict import verdict
from gexec.wire import outcome as outcomes
from gexec.wire.frames import OFFSET_ALL, STDERR, STDOUT
from gexec.wire.jobspec import JobSpec

MARK = b"0123456789abcdef" * 2


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "port", "words"),
    [
        ("node001", 0, ["--", "node001"]),
        ("root@node-1.example.org", 2222, ["-p", "2222", "--", "root@node-1.example.org"]),
        ("10.0.0.1", 0, ["--", "10.0.0.1"]),
        ("::1", 0, ["--", "::1"]),
        ("[fe80::1%eth0]", 22, ["-p", "22", "--", "fe80::1%eth0"]),
        ("me@[::1]", 0, ["--", "me@::1"]),
        ("node_01", 0, ["--", "node_01"]),
        ("rechner-süd", 0, ["--", "rechner-süd"]),
    ],
)
def test_names_go_to_ssh_to_the_letter(name: str, port: int, words: list[str]) -> None:
    assert destination.words(name, port) == words


@pytest.mark.parametrize(
    "name",
    ["-oProxyCommand=reboot", "-lroot", "me@-oProxyCommand=x", "-x@host", "", "a b", "a;b", "a|b", "$(id)",
     "`id`", "a'b", 'a"b', "a\nb", "a/b", "ssh://host", "a&b", "a>b", "@host", "me@", "[::1", "::1]",
     "[host]", "a\\b", "%h", "a\udcffb"],
)  # fmt: skip
def test_names_that_are_options_or_anything_to_a_shell_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="node name"):
        destination.words(name)
    with pytest.raises(UsageError):
        prepare([(name, 0)], ["true"])


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(UsageError, match="port"):
        destination.words("node", port)


# -- the command line ---------------------------------------------------------------------------


def script_in(line: bytes) -> bytes:
    """Return the script that a login shell's sh gets of a line: printf %b undone."""
    found = re.fullmatch(rb"""exec sh -c 'eval "\$\(printf %b "(.*)"\)"'""", line)
    assert found is not None
    return re.sub(rb"\\0([0-7]{3})", lambda octal: bytes((int(octal[1], 8),)), found[1])


WORDS = st.lists(st.binary(max_size=40).map(lambda word: word.replace(b"\0", b"")), min_size=1, max_size=5)


@given(WORDS)
def test_no_byte_of_a_line_is_any_login_shells_business(words: list[bytes]) -> None:
    job = prepare([("node", 0)], [b"prog", *words])
    line = script.JobLines(job, MARK, b"").of(0)
    inner = line.removeprefix(b"exec sh -c '").removesuffix(b"'")
    assert not set(inner) - set(range(0x20, 0x7F))
    assert b"'" not in inner  # quotes: every shell
    assert b"!" not in inner  # history: csh
    assert not re.search(rb"\\(?!0[0-7]{3})", inner)  # fish takes \' and \\ between quotes
    assert b" ".join(script.quoted(word) for word in [b"prog", *words]) in script_in(line)


def test_quoted_words_are_read_back_as_they_were() -> None:
    assert script.quoted(b"") == b"''"
    assert script.quoted(b"it's") == b"'it'\\''s'"


def test_a_line_holds_the_ranks_own_variables_and_no_others() -> None:
    job = prepare([("a", 0), ("b", 0)], ["true"])
    job.env = [*job.env, b"SECRET=1", b"PATH=/nowhere"]
    lines = script.JobLines(job, MARK, b"")
    text = script_in(lines.of(1))
    names = re.findall(rb"export (\w+)", text)
    assert sorted(names) == sorted(
        [b"GEXEC_MY_VNN", b"GEXEC_NODE", b"GEXEC_SVRS", b"GEXEC_NPROCS", b"GEXEC_GPID"]
    )
    assert b"GEXEC_MY_VNN='1'" in text
    assert b"GEXEC_NODE='b'" in text
    assert b"GEXEC_SVRS='a b'" in text
    assert b"GEXEC_NODE='a'" in script_in(lines.of(0))


def test_a_long_list_of_nodes_stays_at_home() -> None:
    job = prepare([(f"node{number:06}", 0) for number in range(8000)], ["true"])
    lines = script.JobLines(job, MARK, b"")
    assert b"GEXEC_SVRS" not in script_in(lines.of(7999))
    assert b"GEXEC_NPROCS='8000'" in script_in(lines.of(7999))


def test_a_command_that_is_too_long_for_an_argument_is_refused_before_anything_starts() -> None:
    job = prepare([("node", 0)], ["echo", "x" * 120_000, "y" * 20_000])
    with pytest.raises(UsageError, match="put large data into a file or into stdin"):
        script.JobLines(job, MARK, b"").of(0)
    fits = prepare([("node", 0)], ["echo", "x" * 120_000])
    assert len(script.JobLines(fits, MARK, b"").of(0)) <= limits.ARG_MAX_BYTES


def test_a_working_directory_is_never_an_option() -> None:
    job = prepare([("node", 0)], ["true"])
    assert b"cd './-P' || exit" in script_in(script.JobLines(job, MARK, b"-P").of(0))
    assert b"cd '/tmp' || exit" in script_in(script.JobLines(job, MARK, b"/tmp").of(0))
    assert not script_in(script.JobLines(job, MARK, b"").of(0)).startswith(b"cd ")


def test_the_words_of_ssh_have_the_users_options_first_and_the_node_after_a_double_dash() -> None:
    job = prepare([("a", 0), ("me@b", 2200)], ["true"], connect_timeout_s=2.2)
    commands = Commands(job, [b"/bin/ssh", b"-l", b"admin"], MARK, b"", ask=False)
    argv = commands.of(1)
    assert argv[:3] == [b"/bin/ssh", b"-l", b"admin"]
    assert argv[-5:-1] == [b"-p", b"2200", b"--", b"me@b"]
    assert b"BatchMode=yes" in argv
    assert b"ConnectTimeout=3" in argv
    assert commands.of(0)[-3:-1] == [b"--", b"a"]
    assert b"kill -INT -77" in script_in(commands.signal(0, 77, ["INT"])[-1])
    asking = Commands(job, [b"/bin/ssh"], MARK, b"", ask=True).of(0)
    assert b"BatchMode=yes" not in asking
    assert b"BatchMode=no" in asking


# -- options ------------------------------------------------------------------------------------


def program(path: Path) -> str:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def test_ssh_is_the_one_in_path_unless_gexec_ssh_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh, other = program(tmp_path / "ssh"), program(tmp_path / "my ssh")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("GEXEC_SSH", raising=False)
    assert SshOptions(arguments=["-l", "me"]).words() == [ssh, "-l", "me"]
    monkeypatch.setenv("GEXEC_SSH", f"'{other}' -F 'a b'")
    assert SshOptions(arguments=["-4"]).words() == [other, "-F", "a b", "-4"]
    assert SshOptions(command=["ssh", "-q"]).words() == [ssh, "-q"]


@pytest.mark.parametrize("value", ["/nonexistent/ssh", "no-such-ssh -v"])
def test_an_ssh_that_is_not_there_is_told(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEXEC_SSH", value)
    with pytest.raises(UsageError, match="not found in PATH"):
        SshOptions().words()


def test_a_malformed_gexec_ssh_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEXEC_SSH", "ssh 'unfinished")
    with pytest.raises(UsageError, match="GEXEC_SSH"):
        SshOptions().words()


def test_a_job_without_a_command_or_nodes_is_refused() -> None:
    with pytest.raises(UsageError, match="no command"):
        prepare([("node", 0)], [])
    with pytest.raises(UsageError, match="no command"):
        prepare([("node", 0)], [""])
    with pytest.raises(UsageError, match="0 nodes"):
        prepare([], ["true"]).encode()


def test_a_prepared_job_survives_its_blob_with_ports() -> None:
    job = JobSpec.decode(prepare([("a", 0), ("b", 2022)], ["true"], fanout=7).encode())
    argv = Commands(job, [b"/bin/ssh"], MARK, b"", ask=False).of(1)
    assert argv[-5:-1] == [b"-p", b"2022", b"--", b"b"]
    assert job.fanout == 7


# -- the transcript -----------------------------------------------------------------------------


def begin(pid: int = 4711) -> bytes:
    return b"\1%s %d\n" % (MARK, pid)


end = begin

#: Pieces that look like marks, wholly or in part.
TRICKY = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [b"\1", b"\1" + MARK, b"\1" + MARK + b" ", b"\1" + MARK + b" x\n", b"\1" + MARK[:7], b"\n"]
        ),
        st.just(b"\1" + MARK + b" " + b"1" * 11 + b"\n"),
    ),
    max_size=8,
).map(b"".join)


@given(TRICKY, st.binary(max_size=30), st.lists(st.integers(1, 40), max_size=20), st.integers(0, 255))
def test_output_is_byte_exact_however_it_is_cut(
    output: bytes, noise: bytes, cuts: list[int], status: int
) -> None:
    assume(not re.search(rb"\x01%s \d{1,10}\n" % MARK, output))  # nobody can know the mark
    whole = noise + begin() + output + end(status)
    for stream in (STDOUT, STDERR):
        transcript = Transcript(MARK)
        got, position = b"", 0
        for cut in [*cuts, len(whole)]:
            got += transcript.feed(stream, whole[position : position + cut])
            position += cut
        got += transcript.close(stream)
        assert got == output
        assert transcript.status == status
        assert transcript.pid == (4711 if stream == STDOUT else None)


def test_nothing_is_held_back_without_cause() -> None:
    transcript = Transcript(MARK)
    transcript.feed(STDOUT, begin())
    assert transcript.feed(STDOUT, b"prompt> ") == b"prompt> "
    assert transcript.feed(STDOUT, b"\1x") == b"\1x"
    assert transcript.feed(STDOUT, b"a\1") == b"a"
    assert transcript.feed(STDOUT, b"b") == b"\1b"
    assert transcript.feed(STDOUT, b"\1" + MARK[:3]) == b""
    assert transcript.close(STDOUT) == b"\1" + MARK[:3]


def test_output_of_what_the_command_left_behind_follows_its_end() -> None:
    transcript = Transcript(MARK)
    assert transcript.feed(STDOUT, begin() + b"a" + end(0) + b"b") == b"ab"
    assert not transcript.complete
    transcript.feed(STDERR, begin() + end(0))
    assert transcript.complete


def test_the_last_words_before_the_beginning_are_the_explanation() -> None:
    transcript = Transcript(MARK)
    transcript.feed(STDOUT, b"This account is not available.\n")
    assert transcript.explanation() == "This account is not available."
    transcript.feed(STDERR, b"Warning: something\r\n\nssh: connect to host x port 22: Connection refused\r\n")
    assert transcript.explanation() == "ssh: connect to host x port 22: Connection refused"
    unknown = Transcript(MARK)
    unknown.feed(STDERR, b"No key is known for x.\r\nHost key verification failed.\r\n")
    assert unknown.explanation() == "No key is known for x. Host key verification failed."
    jump = Transcript(MARK)
    jump.feed(STDERR, b"root@jump: Permission denied (publickey).\r\n")
    jump.feed(STDERR, b"kex_exchange_identification: Connection closed by remote host\r\n")
    jump.feed(STDERR, b"Connection closed by UNKNOWN port 65535\r\n")
    assert jump.explanation() == "root@jump: Permission denied (publickey)."
    dropped = Transcript(MARK)
    dropped.feed(STDERR, b"kex_exchange_identification: Connection closed by remote host\r\n")
    assert dropped.explanation() == "kex_exchange_identification: Connection closed by remote host"


def test_words_before_the_beginning_are_bounded() -> None:
    transcript = Transcript(MARK)
    for _ in range(100):
        assert transcript.feed(STDERR, b"x" * 1000) == b""
    assert transcript.explanation() == "x" * 500 + "..."


# -- stdin --------------------------------------------------------------------------------------


def test_stdin_in_memory_is_paced_by_the_slowest() -> None:
    store = KeptStdin(spooled=False)
    store.append(0, b"abc", False)
    store.append(3, b"def", True)
    assert store.read(2) == b"cdef"
    assert store.taken([4, 2], waiting=False) == 2
    store.forget(2)
    assert store.read(2) == b"cdef"
    assert store.read(6) == b""
    assert store.taken([], waiting=False) == OFFSET_ALL


def test_spooled_stdin_is_paced_by_the_fastest_and_kept_for_those_who_wait() -> None:
    store = KeptStdin(spooled=True)
    data = os.urandom(3 * limits.STDIN_WINDOW_BYTES)
    store.append(0, data, False)
    assert store.taken([5, 2], waiting=True) == 5
    assert store.taken([], waiting=True) == 5
    store.forget(5)
    assert store.read(0) == data[: limits.READ_CHUNK_BYTES]
    assert store.taken([], waiting=False) == OFFSET_ALL


@pytest.mark.parametrize("spooled", [False, True])
def test_stdin_with_a_gap_or_after_its_end_is_refused(spooled: bool) -> None:
    store = KeptStdin(spooled)
    with pytest.raises(ProtocolError):
        store.append(1, b"a", False)
    store.append(0, b"a", True)
    with pytest.raises(ProtocolError):
        store.append(1, b"b", False)


def test_more_stdin_than_may_be_under_way_is_refused() -> None:
    store = KeptStdin(spooled=False)
    with pytest.raises(ProtocolError, match="are not taken"):
        store.append(0, bytes(2 * limits.STDIN_WINDOW_BYTES + 1), False)


# -- verdicts -----------------------------------------------------------------------------------


def judged(**known: object) -> outcomes.Outcome:
    facts: dict[str, object] = {
        "went": True, "status": None, "explanation": "", "ssh_status": 255, "ended_for": "",
        "out_of_time": "", "asked_kill": False, "forced": False,
    }  # fmt: skip
    return verdict(**(facts | known))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("known", "outcome"),
    [
        ({"status": 0, "ssh_status": 0}, outcomes.exited(0)),
        ({"status": 255}, outcomes.exited(255)),
        ({"status": 128, "ssh_status": 128}, outcomes.exited(128)),
        ({"status": 143, "ssh_status": 143}, outcomes.killed(15)),
        ({"status": 160, "ssh_status": 160}, outcomes.exited(160)),
        ({"status": 256 + 9, "ssh_status": 9}, outcomes.killed(9)),
        ({"status": 143, "out_of_time": "slow"}, outcomes.timed_out(15, "slow")),
        ({"status": 0, "out_of_time": "slow"}, outcomes.timed_out(0, "slow")),
        ({"went": False, "explanation": "no route"}, outcomes.not_started("no route")),
        ({"went": False, "explanation": "a@b: Permission denied (publickey)."},
         outcomes.denied("a@b: Permission denied (publickey).")),
        ({"went": False, "explanation": "ssh: connect to host a port 22: Connection refused"},
         outcomes.unreachable("ssh: connect to host a port 22: Connection refused")),
        ({"went": False, "ended_for": "no answer within 9 s"}, outcomes.unreachable("no answer within 9 s")),
        ({"went": False, "explanation": "Connection reset by 10.0.0.1 port 22"},  # MaxStartups
         outcomes.not_started("Connection reset by 10.0.0.1 port 22")),
        ({"went": False, "ssh_status": 3},
         outcomes.not_started("ssh ended with status 3 before the command began")),
        ({"went": False, "ended_for": "SIGINT", "explanation": "x"}, outcomes.not_started("SIGINT")),
        ({"asked_kill": True}, outcomes.killed(9)),
        ({"asked_kill": True, "out_of_time": "slow"}, outcomes.timed_out(9, "slow")),
        ({"asked_kill": True, "forced": True},
         outcomes.lost("the node did not confirm the end of the command")),
        ({"stalled": "took nothing"}, outcomes.lost("took nothing")),
        ({"stalled": "took nothing", "status": 3}, outcomes.exited(3)),  # it did end
        ({}, outcomes.lost("the connection ended before the command did")),
    ],
)  # fmt: skip
def test_verdicts(known: dict[str, object], outcome: outcomes.Outcome) -> None:
    assert judged(**known) == outcome
