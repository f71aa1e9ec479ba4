"""Sender and receiver as processes: pipes, signals, full disks, other users, races with an attacker."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gexec.files.digest import ContentHash
from gexec.files.encoder import Encoder
from gexec.files.entries import Directory, File, Meta, StreamEntry, Symlink, packed_entry
from gexec.files.options import CopyOptions
from gexec.files.receiver import Receiver
from gexec.files.report import Report, parse
from gexec.files.signatures import KEY_BYTES, StreamSigner

from .conftest import DEADLINE_S, wait_until

IS_ROOT = os.geteuid() == 0
#: Somebody else, when there is one.
OTHER = 54321 if IS_ROOT else os.geteuid()

root_only = pytest.mark.skipif(not IS_ROOT, reason="needs root")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users reach."""
    place = Path(tempfile.mkdtemp(prefix="gxf", dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def words(command: str, *options: object) -> list[str]:
    return [sys.executable, "-I", "-m", f"gexec.cli.{command}", *map(str, options)]


def run(command: str, *options: object, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    settings.setdefault("stdin", None if "input" in settings else subprocess.DEVNULL)
    if settings["stdin"] is None:
        del settings["stdin"]
    return subprocess.run(
        words(command, *options), capture_output=True, timeout=DEADLINE_S, check=False, **settings
    )


def report_of(stdout: bytes) -> Report:
    report = parse(stdout.decode().splitlines()[-1])
    assert report is not None
    return report


def stream_of(*files: tuple[bytes, bytes], mode: int = 0o644, owner: int = -1, folder: bytes = b"") -> bytes:
    """Return a stream of small files, below a directory if one is given."""
    uid = os.geteuid() if owner < 0 else owner
    entries: list[StreamEntry] = []
    if folder:
        entries.append(Directory(folder, Meta(0o755, uid, uid, 1, b"", b"")))
        folder += b"/"
    first = len(entries)
    for name, content in files:
        entries.append(File(folder + name, Meta(mode, uid, uid, 1, b"", b""), len(content)))
    encoder = Encoder()
    stream = encoder.preamble() + encoder.list(0, map(packed_entry, entries))
    for index, (_, content) in enumerate(files, first):
        hashed = ContentHash()
        hashed.update(0, content)
        stream += encoder.contents(index, len(content), 1)
        stream += encoder.data(0, len(content)) + content
        stream += encoder.file_end(hashed.finish(len(content)))
    return stream + encoder.done(0) + encoder.end(0)


# -- signed streams -------------------------------------------------------------------------------


def signed_copy(tree: Path, place: Path, secret: bytes, *options: str) -> tuple[int, Any]:
    """Send a directory, signed with a key, and receive it; return how sender and receiver ended."""
    reading, writing = os.pipe()
    os.write(writing, secret)
    os.close(writing)
    sender = subprocess.Popen(
        words("send", "--names=base", f"--sign={reading}", tree),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        pass_fds=[reading],
    )
    os.close(reading)
    assert sender.stdout is not None
    with sender.stdout:
        done = run("receive", f"--dest={place}", *options, stdin=sender.stdout)
    return sender.wait(DEADLINE_S), done


@pytest.mark.parametrize("key", ["own", "other", "none"])
def test_a_receiver_takes_what_the_key_in_its_arguments_has_signed(place: Path, key: str) -> None:
    tree, to = place / "tree", place / "to"
    tree.mkdir()
    to.mkdir()
    for number in range(300):
        (tree / f"small{number}").write_bytes(os.urandom(1000))
    (tree / "large").write_bytes(os.urandom(3_000_001))
    (tree / "unsized").write_bytes(Path("/proc/self/mounts").read_bytes())
    secret = os.urandom(KEY_BYTES)
    public = StreamSigner(secret if key == "own" else os.urandom(KEY_BYTES)).public
    status, done = signed_copy(tree, to, secret, *([f"--signed-by={public.hex()}"] if key != "none" else []))
    if key == "own":
        assert (status, done.returncode, done.stderr) == (0, 0, b"")
        for path in tree.iterdir():
            assert (to / "tree" / path.name).read_bytes() == path.read_bytes()
        return
    assert (done.returncode, list(to.iterdir())) == (3, [])
    assert (b"its signature is wrong" if key == "other" else b"no key was given") in done.stderr


def test_a_receiver_with_a_key_takes_no_unsigned_stream(place: Path) -> None:
    done = run("receive", f"--dest={place}", f"--signed-by={'00' * 32}", input=stream_of((b"f", b"x")))
    assert (done.returncode, list(place.iterdir())) == (3, [])
    assert b"the archive stream is not signed" in done.stderr


@pytest.mark.parametrize("key", ["", "00", "zz" * 32, "00" * 33])
def test_keys_that_are_none_are_usage_errors(place: Path, key: str) -> None:
    done = run("receive", f"--dest={place}", f"--signed-by={key}")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    assert b"--signed-by" in done.stderr
    for words_of, told in ((["--sign=97"], b"cannot be read"), (["--sign=0"], b"expected 32 bytes")):
        done = run("send", *words_of, place)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
        assert told in done.stderr


def test_a_receiver_without_a_key_needs_no_cryptography(place: Path) -> None:
    """By ssh it comes to nodes that have only Python."""
    code = (
        "import sys; sys.modules['cryptography'] = None\n"
        f"from gexec.cli.receive import main; sys.exit(main(['--dest={place}']))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], input=stream_of((b"f", b"x")), timeout=DEADLINE_S, check=False
    )
    assert (done.returncode, (place / "f").read_bytes()) == (0, b"x")


# -- commands ---------------------------------------------------------------------------------------


def test_ten_thousand_small_files(place: Path) -> None:
    source = place / "from"
    for number in range(10_000):
        folder = source / f"{number // 1000}"
        if not number % 1000:
            folder.mkdir(parents=True)
        (folder / f"{number}").write_bytes(b"%d" % number)
    (place / "to").mkdir()
    with subprocess.Popen(words("send", "--names=base", source), stdout=subprocess.PIPE) as sender:
        done = run("receive", "--dest", place / "to", stdin=sender.stdout)
    assert (sender.returncode, done.returncode, done.stderr) == (0, 0, b"")
    assert report_of(done.stdout).files == 10_000
    found = {path.name: path.read_bytes() for path in (place / "to" / "from").glob("*/*")}
    assert found == {str(number): b"%d" % number for number in range(10_000)}


def test_to_the_same_path_and_to_each_node_its_own(place: Path) -> None:
    (place / "file").write_text("content")
    stream = run("send", place / "file").stdout
    (place / "file").unlink()
    done = run("receive", input=stream)
    assert (done.returncode, (place / "file").read_text()) == (0, "content")
    env = {**os.environ, "GEXEC_NODE": "node007", "GEXEC_MY_VNN": "7"}
    done = run("receive", "--parents", "--dest", f"{place}/%h.%n", input=stream, env=env)
    assert done.returncode == 0
    assert Path(f"{place}/node007.7{place}/file").read_text() == "content"


def test_exit_statuses(place: Path) -> None:
    stream = stream_of((b"f", b"x"))
    assert run("receive", "--dest", place, input=stream).returncode == 0
    assert run("receive", "--dest", place, "--checksum", input=stream).returncode == 0
    (place / "f").write_text("y")
    done = run("receive", "--dest", place, "--checksum", input=stream)
    assert (done.returncode, done.stdout.splitlines()[0]) == (1, b"differs f: content")
    for wrong in (["--nonsense"], ["--dest", "relative"], ["word"], ["--checksum", "--dry-run"]):
        done = run("receive", *wrong, input=stream)
        assert (done.returncode, done.stdout) == (2, b"")
        assert done.stderr.count(b"\n") == 1
    assert run("receive", "--dest", place / "none", input=stream).returncode == 1
    done = run("receive", "--dest", place, input=stream[:-1])
    assert done.returncode == 3
    assert not report_of(done.stdout).is_complete
    assert run("receive", "--dest", place, input=b"").returncode == 3
    assert run("send", place / "f").returncode == 0
    assert run("send", place / "none").returncode == 1
    assert run("send").returncode == 2
    assert run("send", "/").returncode == 2


def test_a_sender_whose_reader_leaves(place: Path) -> None:
    (place / "f").write_bytes(os.urandom(4_000_000))
    reader, writer = os.pipe()
    with subprocess.Popen(words("send", place / "f"), stdout=writer, stderr=subprocess.PIPE) as sender:
        os.close(writer)
        os.read(reader, 100)
        os.close(reader)
        assert sender.stderr is not None
        assert sender.stderr.read() == b""
    assert sender.returncode == 3


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, None], ids=str)
def test_a_receiver_that_is_ended_leaves_no_half_file(place: Path, how: signal.Signals | None) -> None:
    """By a signal, or (None) because the sender is gone."""
    (place / "old").write_text("old")
    stream = stream_of((b"new", b"n" * 500_000), (b"old", b"o" * 500_000), (b"z", b"z"))
    begun = stream[: len(stream) - 250_000]
    receiver = subprocess.Popen(
        words("receive", "--dest", place),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert receiver.stdin is not None
    receiver.stdin.write(begun)
    receiver.stdin.flush()
    folder = f"/proc/{receiver.pid}/fd"

    def is_writing_the_second() -> bool:
        links = [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
        return (place / "new").exists() and any(str(place) + "/" in link for link in links)

    wait_until(is_writing_the_second, "the receiver does not write the second file")
    if how is not None:
        receiver.send_signal(how)
    stdout, stderr = receiver.communicate(timeout=DEADLINE_S)
    assert (place / "old").read_text() == "old"
    assert (place / "new").read_text() == "n" * 500_000
    if how == signal.SIGKILL:
        assert receiver.returncode == -9
        assert run("receive", "--dest", place, input=stream).returncode == 0
        assert (place / "old").read_text() == "o" * 500_000
    else:
        assert receiver.returncode == 3
        assert not report_of(stdout).is_complete
        assert stderr.count(b"\n") == 1
    assert {path.name for path in place.iterdir()} <= {"old", "new", "z"}


def test_signals_that_come_together_end_a_receiver_with_one_sentence(place: Path) -> None:
    """A job that is ended gets HUP and TERM; ^C in between is the terminal's."""
    begun = stream_of((b"new", b"n" * 500_000))[:250_000]
    receiver = subprocess.Popen(
        words("receive", "--dest", place),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert receiver.stdin is not None
    receiver.stdin.write(begun)
    receiver.stdin.flush()
    folder = f"/proc/{receiver.pid}/fd"

    def is_writing() -> bool:
        return any(f"{place}/" in os.readlink(f"{folder}/{name}") for name in os.listdir(folder))

    wait_until(is_writing, "the receiver does not write")
    # Stopped, so that all of them are pending when it goes on.
    for signum in (signal.SIGSTOP, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        receiver.send_signal(signum)
    stdout, stderr = receiver.communicate(timeout=DEADLINE_S)
    assert (receiver.returncode, stderr.count(b"\n")) == (3, 1), stderr
    assert not report_of(stdout).is_complete
    assert list(place.iterdir()) == []


def test_a_sender_at_ctrl_c_leaves_no_traceback(place: Path) -> None:
    (place / "f").write_bytes(os.urandom(4 << 20))
    sender = subprocess.Popen(
        words("send", "--compress=never", place / "f"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert sender.stdout is not None
    sender.stdout.read(1)  # it runs, and the pipe takes no more
    sender.send_signal(signal.SIGINT)
    _, stderr = sender.communicate(timeout=DEADLINE_S)
    assert (sender.returncode, stderr) == (-signal.SIGINT, b"")


def test_a_stream_of_many_damages_as_a_process(place: Path) -> None:
    stream = bytearray(stream_of((b"f", b"content" * 1000)))
    stream[3000] ^= 1
    done = run("receive", "--dest", place, input=bytes(stream))
    assert (done.returncode, done.stderr.count(b"\n")) == (3, 1)
    assert b"damaged" in done.stderr
    assert list(place.iterdir()) == []


# -- disks --------------------------------------------------------------------------------------------


def in_own_mounts(script: str, place: Path, stream: bytes) -> subprocess.CompletedProcess[bytes]:
    """Run a script with ``$receive`` in a mount namespace of its own, in the directory ``place``."""
    tried = ["unshare", "-m", "mount", "-t", "tmpfs", "none", str(place)]
    if not IS_ROOT or not shutil.which("unshare") or subprocess.run(tried, check=False).returncode:
        pytest.skip("needs root who may have mounts of his own")
    return subprocess.run(
        ["unshare", "-m", "sh", "-ec", script],
        input=stream,
        env={**os.environ, "receive": " ".join(words("receive", "--dest", place))},
        cwd=place,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_a_full_disk(place: Path) -> None:
    noise = os.urandom(900_000)
    stream = stream_of((b"a", b"small"), (b"b", noise), (b"c", noise), (b"d", b"after"))
    script = f"mount -t tmpfs -o size=1m none {place}; cd {place}; echo old >c; $receive || echo status $?; "
    done = in_own_mounts(script + "ls -A; cat a c d; stat -c %s b", place, stream)
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode() == f"gexec-receive: {place}/c: the disk is full; free space there\n"
    report, *rest = done.stdout.decode().splitlines()
    assert "files=3" in report
    assert "failed=1" in report
    assert rest == ["status 1", "a", "b", "c", "d", "smallold", "after900000"]


def test_a_read_only_file_system(place: Path) -> None:
    script = (
        f"mount -t tmpfs none {place}; cd {place}; echo old >f; mount -o remount,ro {place}; "
        "$receive || echo status $?; ls -A; cat f"
    )
    done = in_own_mounts(script, place, stream_of((b"f", b"new"), (b"g", b"new")))
    assert [line.split(": ")[-1] for line in done.stderr.decode().splitlines()] == [
        "the file system is read-only; mount it read-write"
    ] * 2
    assert done.stdout.decode().splitlines()[1:] == ["status 1", "f", "old"]


def test_delete_stays_on_its_file_system(place: Path) -> None:
    script = (
        f"mkdir {place}/precious {place}/d; cd {place}/d; mkdir -p x/bind x/tmpfs y; "
        f"echo keep >../precious/file; "
        f"mount --bind ../precious x/bind; mount -t tmpfs none x/tmpfs; echo keep >x/tmpfs/file; "
        f"$receive --delete || echo status $?; cat x/bind/file x/tmpfs/file; ls"
    )
    done = in_own_mounts(script, place, stream_of(folder=b"d"))
    assert done.stdout.decode().splitlines()[1:] == ["status 1", "keep", "keep", "x"]
    assert b"another file system is mounted there" in done.stderr
    assert (place / "precious" / "file").read_text() == "keep\n"


# -- other users ----------------------------------------------------------------------------------------


def as_other(action: Callable[[], None]) -> int:
    """Run ``action`` as somebody else, in a fork: others may not execute our Python; return its pid."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if IS_ROOT:
            os.setgroups([])
            os.setresgid(OTHER, OTHER, OTHER)
            os.setresuid(OTHER, OTHER, OTHER)
        action()
        status = 0
    finally:
        os._exit(status)


@root_only
def test_attack_79_a_user_writes_only_what_that_user_may(place: Path) -> None:
    """Also Slurm's CVE-2023-49938: a file is opened with the groups of the process, not with root's."""
    (place / "root").mkdir(mode=0o770)
    (place / "root" / "f").write_text("root's")
    (place / "open").mkdir()
    (place / "open").chmod(0o777)
    (place / "open" / "f").write_text("root's")
    (place / "open" / "f").chmod(0o600)
    streams = [stream_of((path, b"mine"), mode=0o6755, owner=0) for path in (b"open/f", b"root/f")]
    streams.append(stream_of(folder=b"open", owner=OTHER))

    def copy() -> None:
        for stream, failed in zip(streams, (0, 1, 1), strict=True):
            assert receive_here(place, stream, CopyOptions(compare_content=True)).failed == failed

    _, status = os.waitpid(as_other(copy), 0)
    assert status == 0
    assert (place / "root" / "f").read_text() == "root's"
    found = (place / "open" / "f").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (OTHER, OTHER, 0o755)
    assert ((place / "open").stat().st_uid, stat.S_IMODE((place / "open").stat().st_mode)) == (0, 0o777)


def test_a_file_that_its_owner_may_not_read_is_written_again(place: Path) -> None:
    """Only its mode differs, but nobody could copy its contents here."""
    (place / "d").mkdir()
    (place / "d" / "f").write_bytes(b"same")
    os.utime(place / "d" / "f", ns=(1, 1))
    (place / "d" / "f").chmod(0)
    if IS_ROOT:
        for path in (place / "d", place / "d" / "f"):
            os.chown(path, OTHER, OTHER)
    stream = stream_of((b"f", b"same"), owner=OTHER, folder=b"d")

    def copy() -> None:
        report = receive_here(place, stream, CopyOptions())
        assert (report.files, report.failed) == (1, 0)

    _, status = os.waitpid(as_other(copy), 0)
    assert status == 0
    assert stat.S_IMODE((place / "d" / "f").stat().st_mode) == 0o644


# -- races ----------------------------------------------------------------------------------------------

#: More turns than any test needs: an attacker whose test died ends by itself.
TURNS = 5_000_000


def exchange(one: Path, other: Path, is_over: Callable[[], bool]) -> None:
    """Exchange two names (a directory and a link that leads out) as fast as possible."""
    rename = ctypes.CDLL(None).renameat2
    names = (os.fsencode(one), os.fsencode(other))
    for turn in range(TURNS):
        assert rename(-100, names[0], -100, names[1], 2) == 0
        if not turn % 64 and is_over():
            return


def put_links(folder: Path, target: Path, is_over: Callable[[], bool]) -> None:
    """Put links to a file in the place of all in a directory, final and temporary names alike."""
    os.chdir(folder)
    for turn in range(TURNS):
        for name in os.listdir("."):
            with contextlib.suppress(OSError):
                os.symlink(target, "../swap")
                os.rename("../swap", name)
        if not turn % 16 and is_over():
            return


@pytest.fixture
def attacker() -> Iterator[Callable[..., None]]:
    """Return ``attacker(function, *arguments)``: it runs as somebody else until the test is over."""
    attackers: list[int] = []
    over = os.pipe()

    def start(function: Callable[..., None], *arguments: object) -> None:
        ready = os.pipe()

        def attack() -> None:
            os.close(over[1])
            os.write(ready[1], b"!")
            function(*arguments, lambda: bool(select.select([over[0]], [], [], 0)[0]))

        attackers.append(as_other(attack))
        assert os.read(ready[0], 1) == b"!"
        os.close(ready[0])
        os.close(ready[1])

    yield start
    os.close(over[1])
    statuses = [os.waitpid(pid, 0)[1] for pid in attackers]
    os.close(over[0])
    assert statuses == [0] * len(statuses)


@pytest.fixture
def theirs(place: Path) -> Path:
    """A directory of the attacker, with ``d`` and, beside it, a link to the directory ``outside``."""
    theirs = place / "theirs"
    (theirs / "d").mkdir(parents=True)
    outside = place / "outside"
    outside.mkdir(mode=0o700)
    (outside / "precious").write_text("precious")
    (theirs / "link").symlink_to(outside)
    (theirs / "files").mkdir()
    if IS_ROOT:
        for path in (theirs, theirs / "d", theirs / "link", theirs / "files"):
            os.chown(path, OTHER, OTHER, follow_symlinks=False)
    if not hasattr(ctypes.CDLL(None), "renameat2"):
        pytest.skip("this C library has no renameat2")
    return theirs


def receive_here(place: Path, stream: bytes, options: CopyOptions) -> Report:
    receiver = Receiver(str(place), options, say=lambda _: None, tell=lambda _: None)
    receiver.feed(stream)
    return receiver.finish()


#: More tries than it takes by far, also when the attacker gets little of the processor.
TRIES = 100_000


def test_attack_79_a_directory_exchanged_for_a_link_while_files_are_written(
    place: Path, theirs: Path, attacker: Callable[..., None]
) -> None:
    attacker(exchange, theirs / "d", theirs / "link")
    stream = stream_of((b"d/evil", b"evil"), mode=0o666, owner=OTHER)
    folder = stream_of((b"evil", b"evil"), mode=0o777, owner=OTHER, folder=b"d")
    written = refused = 0
    for number in range(TRIES):  # a few hundred are usual
        report = receive_here(theirs, folder if number % 2 else stream, CopyOptions(delete=True))
        written += report.files + report.unchanged
        refused += report.failed
        if number > 500 and written > 50 and refused > 50:
            break
    assert written
    assert refused
    outside = place / "outside"
    assert [path.name for path in outside.iterdir()] == ["precious"]
    status = outside.stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), 0o700)


def test_attack_79_the_same_race_catches_a_naive_writer(
    place: Path, theirs: Path, attacker: Callable[..., None]
) -> None:
    """So the test above can fail: who writes by path, after a look at it, is led out."""
    attacker(exchange, theirs / "d", theirs / "link")
    for _ in range(TRIES):
        if not (theirs / "d").is_symlink():
            (theirs / "d" / "evil").write_text("evil")
        if (place / "outside" / "evil").exists():
            return
    pytest.fail("the attack does not work: the test above shows nothing")


@root_only
def test_attack_79_owner_and_mode_of_a_file_exchanged_for_a_link(
    place: Path, theirs: Path, attacker: Callable[..., None]
) -> None:
    """Slurm's CVE-2023-41914: chown and chmod through a link that a user put there meanwhile."""
    precious = place / "outside" / "precious"
    precious.chmod(0o600)
    attacker(put_links, theirs / "files", precious)
    encoder = Encoder()
    stream = stream_of((b"files/evil", b"evil"), mode=0o666, owner=OTHER)
    link = Symlink(b"files/link", Meta(0o777, OTHER, OTHER, 1, b"", b""), b"x")
    links = encoder.preamble() + encoder.list(0, [packed_entry(link)]) + encoder.done(0) + encoder.end(0)
    for _ in range(300):
        receive_here(theirs, stream, CopyOptions())
        receive_here(theirs, stream, CopyOptions(backup=True, compare_content=True))
        receive_here(theirs, links, CopyOptions())
    status = precious.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o600)
    assert precious.read_text() == "precious"


@root_only
def test_attack_79_the_same_race_catches_a_naive_chown(
    place: Path, theirs: Path, attacker: Callable[..., None]
) -> None:
    precious = place / "outside" / "precious"
    attacker(put_links, theirs / "files", precious)
    for _ in range(TRIES):
        try:
            descriptor = os.open(theirs / "files" / "evil", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            os.close(descriptor)
            os.chown(theirs / "files" / "evil", OTHER, OTHER)
        except OSError:
            (theirs / "files" / "evil").unlink(missing_ok=True)
        if precious.stat().st_uid == OTHER:
            return
    pytest.fail("the attack does not work: the test above shows nothing")


def slip_in(theirs: Path, is_over: Callable[[], bool]) -> None:
    """Put a directory of root in the place of each one that root makes."""
    os.chdir(theirs)
    for turn in range(TURNS):
        with contextlib.suppress(OSError):
            os.rmdir("d")
            os.rename("roots", "d")
        with contextlib.suppress(OSError):
            os.rename("d", "roots")
        if not turn % 64 and is_over():
            return


@root_only
def test_attack_79_a_new_directory_exchanged_for_one_of_root(
    place: Path, theirs: Path, attacker: Callable[..., None]
) -> None:
    (theirs / "roots").mkdir(mode=0o700)
    (theirs / "roots" / "secret").touch()
    inode = (theirs / "roots").stat().st_ino
    attacker(slip_in, theirs)
    stream = stream_of(folder=b"d", owner=OTHER)
    for _ in range(1000):
        receive_here(theirs, stream, CopyOptions())
        for name in ("d", "roots"):
            with contextlib.suppress(OSError):
                status = (theirs / name).stat()
                assert status.st_ino != inode or status.st_uid == 0
