"""The real ensync and gexec --fetch against a scripted gexecd: what they ask for, and what they try again."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from client_peers import DEADLINE_S, Peer, daemons, sign_all
from gexec.cli.ensync import ENSYNC
from gexec.cli.gexec import GEXEC
from gexec.files.answers import ListAnswer
from gexec.files.decoder import ArchiveDecoder
from gexec.files.encoder import Encoder
from gexec.files.entries import File
from gexec.files.records import Event, Listed
from gexec.files.signatures import StreamVerifier
from gexec.wire.frames import (
    OFFSET_ALL,
    REFUSED_BUSY,
    STDOUT,
    Ended,
    Output,
    RanksStarted,
    Refused,
    Signal,
    Stdin,
    StdinTaken,
)
from gexec.wire.jobspec import NO_STDIN, PROMPT, REMOTE_PATH, STRICT, JobSpec
from gexec.wire.outcome import Outcome, denied, exited, lost, not_started

_NODES = "127.0.0.1 127.0.0.2 127.0.0.3"
_REPORT = b"gexec-files 1 complete files=1 bytes=7\n"


def ensync(env: dict[str, str], *words: object) -> subprocess.CompletedProcess[bytes]:
    command = ensync_command(*words)
    return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S)


def ensync_command(*words: object) -> list[str]:
    code = "import sys; from gexec.cli.ensync import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", code, "-n", _NODES, *map(str, words)]


class Script:
    """Takes one job after the other, and ends its ranks as it is told.

    Args:
        endings: of each job, the outcomes of its ranks.

    Attributes:
        jobs: that came.
        stdin: what each of them was given.
    """

    def __init__(self, *endings: list[Outcome]) -> None:
        self._endings = list(endings)
        self.jobs: list[JobSpec] = []
        self.stdin: list[bytes] = []

    def __call__(self, peer: Peer) -> None:
        job = peer.accept()
        self.jobs.append(job)
        self.stdin.append(b"")
        peer.say(RanksStarted(((0, job.ranks),)))
        answers: list[bytes] = []
        verifier = StreamVerifier(bytes.fromhex(key_of(job))) if not job.flags & NO_STDIN else None
        decoder = ArchiveDecoder(lambda event: answers.extend(_answers(event, decoder)), verifier)
        eof = bool(job.flags & NO_STDIN)
        told = 0
        while not eof:
            frame = peer.until(Stdin)
            assert isinstance(frame, Stdin)
            self.stdin[-1] += frame.data
            decoder.feed(frame.data)
            for answer in answers:
                peer.say(Output(((0, job.ranks),), STDOUT, told, answer))
                told += len(answer)
            answers.clear()
            eof = frame.eof
            peer.say(StdinTaken(OFFSET_ALL if eof else frame.offset + len(frame.data)))
        for rank, outcome in enumerate(self._endings.pop(0)):
            said = _REPORT if outcome.ok else b""
            if said:
                peer.say(Output(((rank, rank + 1),), STDOUT, told, said))
            peer.say(Ended(((rank, rank + 1),), outcome, told + len(said), 0))
        peer.finish(0)


def key_of(job: JobSpec) -> str:
    """Return the key with which a job's stream is signed: the last argument of its receivers."""
    option, _, key = job.argv[-1].decode().partition("=")
    assert option == "--signed-by"
    return key


def _answers(event: Event, decoder: ArchiveDecoder) -> list[bytes]:
    """Return what receivers answer that have nothing yet."""
    if not isinstance(event, Listed):
        return []
    if decoder.digests_only:
        return [ListAnswer(event.number, 0, 0, 0).line().encode() + b"\n"]
    files = sum([1 << index for index, entry in enumerate(event.entries) if isinstance(entry, File)])
    return [ListAnswer(event.number, 0, files, 0).line().encode() + b"\n"]


GONE, REFUSED = lost("connection reset"), not_started("connection refused")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    return path


def test_what_a_copying_job_is(tmp_path: Path, file: Path) -> None:
    script = Script([exited(0)] * 3)
    with daemons(tmp_path, script) as running:
        done = ensync(running.env, "--dest", "/srv/%h", "--backup", "-v", file)
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"3 files written on 3 of 3 nodes" in done.stderr
    [job] = script.jobs
    about = f"--about=1 file, 7 bytes: {file}"
    words = [b"gexec-receive", about.encode(), b"--dest=/srv/%h", b"--backup", b"--target=either"]
    assert job.argv[:-1] == words
    assert len(bytes.fromhex(key_of(job))) == 32
    assert (job.cwd, job.flags, job.fanout) == (b"/", REMOTE_PATH, 1)
    [path] = [entry for entry in job.env if entry.startswith(b"PATH=")]
    assert path.endswith(b":" + str(Path(sys.executable).parent).encode())
    assert script.stdin[0].startswith(b"gexfiles")
    assert b"content" in script.stdin[0]


def test_a_node_that_is_lost_is_tried_once_more(tmp_path: Path, file: Path) -> None:
    script = Script([exited(0), GONE, GONE], [exited(0), GONE])
    with daemons(tmp_path, script) as running:
        done = ensync(running.env, "--via=gexec", "-v", file)
    assert done.returncode == 255
    assert b"ensync: once more: 2 of 3 nodes (lost: connection reset): 127.0.0.2 127.0.0.3\n" in done.stderr
    assert b"ensync: 127.0.0.3: lost: connection reset\n" in done.stderr
    assert b"2 files written on 2 of 3 nodes" in done.stderr
    assert list(script.jobs[1].names) == [b"127.0.0.2", b"127.0.0.3"]
    # A key signs one stream: what was sent in the first attempt is worth nothing in the second.
    assert key_of(script.jobs[1]) != key_of(script.jobs[0])
    assert len(script.jobs[1].argv) == len(script.jobs[0].argv)
    assert script.stdin[1] != script.stdin[0]
    assert len(script.stdin[1]) == len(script.stdin[0])
    # They may be frozen: they get little time, and none of them is in the way of another.
    assert [bool(job.flags & PROMPT) for job in script.jobs] == [False, True]
    assert [job.fanout for job in script.jobs] == [1, 2]
    assert [job.stall_s for job in script.jobs] == [30.0, 30.0]


@pytest.mark.parametrize(("word", "stall_s"), [("--stall=7.5", 7.5), ("--stall=0", 0.0)])
def test_the_stall_time_goes_with_the_job(tmp_path: Path, file: Path, word: str, stall_s: float) -> None:
    script = Script([exited(0)] * 3)
    with daemons(tmp_path, script) as running:
        assert ensync(running.env, "--via=gexec", word, file).returncode == 0
    assert script.jobs[0].stall_s == stall_s


def test_json_has_one_report_and_one_outcome_of_a_node_that_is_tried_again(
    tmp_path: Path, file: Path
) -> None:
    with daemons(tmp_path, Script([exited(0), GONE, GONE], [exited(0), exited(1)])) as running:
        done = ensync(running.env, "--via=gexec", "--json", "--exit-policy=ok-if 2", file)
    assert done.returncode == 0
    assert done.stderr.startswith(b"ensync: once more: 2 of 3 nodes (lost: connection reset)")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events if event.get("rank") == 0] == ["started", "report", "exited"]
    assert [event["event"] for event in events if event.get("rank") == 1] == [
        "started",
        "started",
        "report",
        "exited",
    ]
    assert [event["event"] for event in events if event.get("rank") == 2] == ["started", "started", "exited"]
    [report] = [event for event in events if event["event"] == "report" and event["rank"] == 1]
    assert report == {
        "event": "report", "rank": 1, "node": "127.0.0.2", "complete": True, "files": 1, "links": 0,
        "directories": 0, "bytes": 7, "unchanged": 0, "differing": 0, "deleted": 0, "failed": 0,
    }  # fmt: skip
    assert events[0]["event"] == "job"
    assert (events[-1]["event"], events[-1]["exit_status"], events[-1]["succeeded"]) == ("end", 0, 2)


def test_json_ends_with_the_exit_status_also_after_a_signal_or_a_file_that_was_not_sent(
    tmp_path: Path, file: Path
) -> None:
    client: list[subprocess.Popen[bytes]] = []

    def interrupted(peer: Peer) -> None:
        job = peer.accept()
        peer.say(RanksStarted(((0, job.ranks),)))
        peer.until(Stdin)  # from now on it catches signals
        client[0].send_signal(signal.SIGINT)
        got = peer.until(Signal)
        assert isinstance(got, Signal)
        assert got.signum == signal.SIGTERM  # at SIGINT a receiver that is just starting shows a traceback
        peer.say(Ended(((0, job.ranks),), exited(3), 0, 0))
        peer.finish(0)

    with daemons(tmp_path, interrupted) as running:
        command = ensync_command("--via=gexec", "--json", file)
        client.append(subprocess.Popen(command, env=running.env, stdout=subprocess.PIPE))
        out, _ = client[0].communicate(timeout=DEADLINE_S)
    assert (client[0].returncode, json.loads(out.splitlines()[-1])["exit_status"]) == (130, 130)
    (tmp_path / "second").mkdir()
    with daemons(tmp_path / "second", Script([exited(0)] * 3)) as running:
        done = ensync(running.env, "--json", file, "/dev/null")
    assert (done.returncode, json.loads(done.stdout.splitlines()[-1])["exit_status"]) == (1, 1)


def test_a_signal_while_the_next_attempt_is_submitted_ends_the_run(tmp_path: Path, file: Path) -> None:
    """It comes when ensync asks authd to sign the second job."""
    client: list[subprocess.Popen[bytes]] = []
    first = Script([exited(0), GONE, GONE])

    def script(peer: Peer) -> None:
        if first.jobs:
            while peer.next() is not None:
                pass
        else:
            first(peer)

    def sign(peer: Peer) -> None:
        if first.jobs:
            client[0].send_signal(signal.SIGINT)
        sign_all(peer)

    failed = tmp_path / "failed"
    with daemons(tmp_path, script, sign) as running:
        command = ensync_command("--via=gexec", f"--failed-to={failed}", file)
        client.append(subprocess.Popen(command, env=running.env, stderr=subprocess.PIPE))
        _, err = client[0].communicate(timeout=DEADLINE_S)
    assert client[0].returncode == 130, err
    assert b"ensync: 2 of 3 nodes lost: gexec left before it ended: 127.0.0.2 127.0.0.3\n" in err
    assert re.findall(r"^127\S+", failed.read_text(), re.MULTILINE) == ["127.0.0.2", "127.0.0.3"]


def test_a_lost_node_that_is_then_not_reached_is_still_a_lost_one(tmp_path: Path, file: Path) -> None:
    script = Script([GONE, GONE, REFUSED], [REFUSED, denied("no")])
    with daemons(tmp_path, script) as running:
        done = ensync(running.env, "--via=gexec", file)
    assert b"ensync: 2 of 3 nodes lost: connection reset: 127.0.0.1 127.0.0.2\n" in done.stderr
    assert b"ensync: 127.0.0.3: not started: connection refused\n" in done.stderr
    assert len(script.jobs) == 2


def test_where_there_is_no_ssh_what_gexec_did_still_counts(tmp_path: Path, file: Path) -> None:
    failed = tmp_path / "failed"
    with daemons(tmp_path, Script([exited(0), REFUSED, exited(0)])) as running:
        done = ensync(running.env | {"GEXEC_SSH": "/nowhere/ssh"}, f"--failed-to={failed}", file)
    assert done.returncode == 255
    lines = done.stderr.decode().splitlines()
    assert lines[0] == "ensync: by ssh: 1 of 3 nodes (not started: connection refused): 127.0.0.2"
    assert lines[1].startswith("ensync: /nowhere/ssh is not found")
    assert lines[2:] == ["ensync: 127.0.0.2: not started: connection refused"]
    assert failed.read_text().startswith("127.0.0.2")


@pytest.mark.parametrize("words", [["--checksum"], ["--dry-run"], ["--strict"], ["--dest=/srv/%n"]])
def test_what_cannot_be_done_twice_is_not(tmp_path: Path, file: Path, words: list[str]) -> None:
    script = Script([exited(0), GONE, exited(0)])
    with daemons(tmp_path, script) as running:
        done = ensync(running.env, "--via=gexec", *words, file)
    assert done.returncode == 255
    assert b"127.0.0.2: lost: connection reset\n" in done.stderr
    assert len(script.jobs) == 1
    assert bool(script.jobs[0].flags & STRICT) == (words == ["--strict"])


def test_removing_is_a_job_without_files(tmp_path: Path) -> None:
    script = Script([exited(0)] * 3)
    with daemons(tmp_path, script) as running:
        done = ensync(running.env, "--remove", "/a b", "/c")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    [job] = script.jobs
    assert job.argv[:-1] == [b"gexec-receive", b"--about=removal of 2 files: '/a b' /c", b"--dest=/"]
    assert job.flags == REMOTE_PATH


def test_a_daemon_that_refuses_is_told(tmp_path: Path, file: Path) -> None:
    def refuse(peer: Peer) -> None:
        peer.accept_hello()
        peer.say(Refused(REFUSED_BUSY, "no more jobs"))

    with daemons(tmp_path, refuse) as running:
        done = ensync(running.env, "--via=gexec", file)
    assert (done.returncode, done.stderr) == (255, b"ensync: gexecd refused the job: no more jobs\n")


def test_wrong_words_reach_no_daemon(tmp_path: Path, file: Path) -> None:
    with daemons(tmp_path, _nobody) as running:
        for words in (
            [],
            ["--exit-policy=best", file],
            ["--fanout=0", file],
            ["--rerun=/nowhere/at/all", file],
            [tmp_path / "nothing"],
        ):
            done = ensync(running.env, *words)
            assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), words


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--user=nobody"], "option --user needs --via=ssh: "),
        (["--user=nobody", "--via=auto"], "option --user needs --via=ssh: "),
        (["-l", "nobody", "--via=gexec"], "option --user needs --via=ssh: "),
        (["--via=gexec", "-o", "Port=22"], "options --via=gexec and --ssh-option: "),
        (["--via=g", "--ask"], "options --via=gexec and --ask: "),
        (["--strict", "--ask"], "options --strict and --ask: "),
        (["--strict", "-o", "Port=22"], "options --strict and --ssh-option: "),
        (["--strict", "--via=auto"], "options --strict and --via=auto: "),
        (["--strict", "--via=ssh"], "options --strict and --via=ssh: "),
        (["--min-rate=1M", "--via=ssh"], "options --min-rate and --via=ssh: "),
        (["--compress=always", "--via=ssh"], "options --compress=always and --via=ssh: "),
        (["--remove", "--bwlimit=1M"], "options --remove and --bwlimit: "),
        (["--remove", "--compress=never"], "options --remove and --compress: "),
        (["--remove", "--min-rate=1M"], "options --remove and --min-rate: "),
        (["--remove", "--sync"], "options --remove and --sync: "),
        (["--checksum", "--backup"], "options --checksum and --backup: "),
        (["--checksum", "--min-rate=1M"], "options --checksum and --min-rate: "),
        (["--numeric-ids", "--no-owner"], "options --numeric-ids and --no-owner: "),
        (["--relative"], "option --relative needs --dest: "),
    ],
)
def test_what_cannot_be_honoured_is_an_error_before_anything_is_sent(
    tmp_path: Path, file: Path, words: list[str], told: str
) -> None:
    with daemons(tmp_path, _nobody) as running:
        done = ensync(running.env, *words, file)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1), done.stderr
    assert done.stderr.decode().startswith(f"ensync: {told}")


def test_a_dry_run_takes_the_options_of_the_run_it_is_for(tmp_path: Path, file: Path) -> None:
    script = Script([exited(0)] * 3)
    words = ["--dry-run", "--backup", "--sync", "--min-rate=1M", "--checksum-compare", "--compress=never"]
    with daemons(tmp_path, script) as running:
        done = ensync(running.env, *words, file)
    assert (done.returncode, done.stderr) == (0, b"")
    assert not any(word.startswith(b"--min-rate") for word in script.jobs[0].argv)


def test_delete_without_a_directory_is_told_once(tmp_path: Path, file: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)  # is sent as a link
    (tmp_path / "folder").mkdir()
    with daemons(tmp_path, Script([exited(0)] * 3, [exited(0)] * 3)) as running:
        done = ensync(running.env, "--delete", file, tmp_path / "link")
        said = b"ensync: --delete: no directory is copied, so nothing can be deleted\n"
        assert (done.returncode, done.stderr) == (0, said)
        done = ensync(running.env, "--delete", file, tmp_path / "folder")
        assert (done.returncode, done.stderr) == (0, b"")


def _nobody(peer: Peer) -> None:
    raise AssertionError("a job came")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("*.log", "no file matches the pattern, or it was quoted"),
        ("file/x", "a part of its path is a file"),
        ("n" * 300, "its path is longer or deeper than can be copied"),
        ("nothing", "there is no such file or directory on this host"),
        (
            "node002:/tmp",
            "there is no such file or directory on this host; -n gives nodes, --dest the directory there",
        ),
    ],
)
def test_why_nothing_is_at_a_path(tmp_path: Path, path: str, why: str) -> None:
    (tmp_path / "file").touch()
    done = ensync({"PATH": "/usr/bin:/bin"}, tmp_path / path)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert f"ensync: {tmp_path / path}: {why}" in done.stderr.decode()


def test_a_working_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    code = "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
    code += "import sys; from gexec.cli.ensync import main; sys.exit(main(['f']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=DEADLINE_S)
    assert done.returncode == 2
    assert done.stderr.startswith(b"ensync: the working directory is not known")


def test_the_manual_has_every_option() -> None:
    text = (Path(__file__).parents[3] / "docs/ensync.md").read_text()
    wanted = {f"--{option.long}" for option in ENSYNC.options}
    options = text.partition("\n## Options\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", options)) == wanted
    others = {f"--{option.long}" for option in GEXEC.options}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) <= wanted | others
    letters = {letter for option in ENSYNC.options for letter in option.short}
    assert set(re.findall(r"`-(\w)`", options)) == letters


# -- fetching -----------------------------------------------------------------------------------------


def fetch(env: dict[str, str], *words: object) -> subprocess.CompletedProcess[bytes]:
    code = "import sys; from gexec.cli.gexec import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S)


def sending(data: bytes) -> Callable[[Peer], None]:
    """Return a script in which every rank sends this and exits 0."""

    def script(peer: Peer) -> None:
        job = peer.accept()
        everyone = ((0, job.ranks),)
        asking = [b"--asking"] if b"--asking" in job.argv else []
        assert job.argv[: 4 + len(asking)] == [b"gexec-send", b"--names=asked", b"--glob", *asking, b"--"]
        assert (job.flags, job.cwd) == (REMOTE_PATH | (0 if asking else NO_STDIN), b"/")
        peer.say(RanksStarted(everyone), Output(everyone, STDOUT, 0, data))
        peer.finish(job.ranks, lengths=(len(data), 0))

    return script


@pytest.mark.parametrize("data", [b"", b"gexfiles\1\0", b"Welcome to this node\n" * 50])
def test_nodes_that_send_no_whole_stream_are_failures(tmp_path: Path, data: bytes) -> None:
    script = sending(data) if data else (lambda peer: peer.finish(peer.accept().ranks))
    with daemons(tmp_path, script) as running:
        done = fetch(running.env, "--fetch", "/f", "--to", tmp_path / "to")
    assert done.returncode == 255
    assert b"gexec: 3 of 3 nodes lost: what it sent is not all here: 127.0.0" in done.stderr
    assert [path for path in (tmp_path / "to").rglob("*") if not path.is_dir()] == []


def test_a_folder_that_cannot_be_made_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to/127.0.0.1").symlink_to("/")
    with daemons(tmp_path, sending(Encoder().preamble())) as running:
        done = fetch(running.env, "--fetch", "/f", "--to", tmp_path / "to")
        assert done.returncode == 255
        assert b"127.0.0.1 is a symbolic link: remove it first; the job is ended\n" in done.stderr
        done = fetch(running.env, "--fetch", "/f", "--to", tmp_path / "to/127.0.0.1/proc/1/x")
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fetch", "/f"], "option --fetch needs --to: "),
        (["--fetch", "f", "--to", "x"], "expected an absolute path"),
        (["--fetch", "/f", "--to", "x", "hostname"], "'hostname' is given"),
        (["--fetch", "/f", "--to", "x", "--batch=2"], "--batch"),
        (["--fetch", "/f", "--to", "x", "--detached"], "--detached"),
        (["--fetch", "/f", "--to", "x", "-b"], "--gather"),
        (["--fetch", "/f", "--to", "x", "--remote-path"], "--remote-path"),
    ],
)
def test_wrong_words_for_fetching(tmp_path: Path, words: list[str], told: str) -> None:
    with daemons(tmp_path, _nobody) as running:
        done = fetch(running.env, *words)
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert told in done.stderr.decode()
