"""gexec --fetch through real daemons: every node's files, as they are there, each below its own folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gexec.cluster import processes
from gexec.files.digest import ContentHash
from gexec.files.encoder import Encoder
from gexec.files.entries import File, Meta, packed_entry

from .commands import Shell
from .conftest import BIN, DEADLINE_S, Cluster, wait_until
from .must_hold import end, wait_gone

IS_ROOT = os.geteuid() == 0
root_only = pytest.mark.skipif(not IS_ROOT, reason="needs root")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short path that all nodes see."""
    place = Path(tempfile.mkdtemp(prefix="gxf", dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Shell:
    return Shell(cluster.env, tmp_path)


def nodes_files(cluster: Cluster, place: Path) -> dict[str, bytes]:
    """Give each node its own ``place/NODE/d/f``; return their contents."""
    contents: dict[str, bytes] = {}
    for name in cluster.names:
        folder = place / name / "d"
        folder.mkdir(parents=True)
        contents[name] = os.urandom(300_000 + len(contents))
        (folder / "f").write_bytes(contents[name])
    return contents


def fake_sender(place: Path, script: str) -> dict[str, str]:
    """Return an environment in which nodes find this before the real gexec-send, and run that after it."""
    folder = place / "bin"
    folder.mkdir()
    (folder / "gexec-send").write_text(f'#!/bin/sh\n{script}\nexec {BIN}/gexec-send "$@"\n')
    (folder / "gexec-send").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def files_below(top: Path) -> list[str]:
    return sorted(str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir())


def test_each_nodes_files_whatever_they_hold(cluster: Cluster, shell: Shell, place: Path) -> None:
    contents = nodes_files(cluster, place)
    odd = os.fsencode(place / "odd")
    os.mkdir(odd)
    for base, count in ((b"new\nline \xff", 50_000), (b"empty", 0)):
        with open(os.path.join(odd, base), "wb") as file:
            file.write(b"\0\xff\r\n" * count)
    os.symlink(b"../../../../etc/passwd", odd + b"/link")
    (place / "odd/sparse").touch()
    os.truncate(place / "odd/sparse", 1 << 33)
    target = Path(f"{place}.to")
    try:
        done = shell.gexec("--fetch", place, "--to", target)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        for node in cluster.names:
            top = f"{target}/{node}{place}"
            for name, content in contents.items():
                assert Path(top, name, "d/f").read_bytes() == content
            assert Path(os.fsdecode(os.fsencode(top) + b"/odd/new\nline \xff")).stat().st_size == 200_000
            assert os.readlink(f"{top}/odd/link") == "../../../../etc/passwd"
            sparse = os.stat(f"{top}/odd/sparse")
            assert (sparse.st_size, sparse.st_blocks) == (1 << 33, 0)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def test_what_only_some_nodes_have(cluster: Cluster, shell: Shell, place: Path) -> None:
    contents = nodes_files(cluster, place)
    (place / "node002/d/f").unlink()
    failed = place / "failed"
    words = ["-w", "node[001-003]", f"--failed-to={failed}", "--to", place / "to"]
    for name in ("node001", "node002", "node003"):
        words += ["--fetch", place / name / "d/f"]
    (place / "node001/d/f").chmod(0o600)
    done = shell.gexec(*words)
    assert done.returncode == 1
    # Nodes with the same sentence are one line.
    assert done.stderr.startswith(
        f"node[001-003] gexec-send: {place}/node002/d/f: not sent: there is no such file\n".encode()
    )
    assert done.stderr.count(b"not sent: there is no such file") == 1
    assert b"3 of 3 nodes exited 1: node[001-003]" in done.stderr
    assert len(failed.read_text().splitlines()) == 3
    for node in ("node001", "node002", "node003"):
        top = f"{place}/to/{node}{place}"
        assert Path(f"{top}/node001/d/f").read_bytes() == contents["node001"]
        assert Path(f"{top}/node001/d/f").stat().st_mode & 0o777 == 0o600
        assert files_below(Path(top)) == ["node001/d/f", "node003/d/f"]


def test_a_large_file_of_many_nodes_is_whole(cluster: Cluster, shell: Shell, place: Path) -> None:
    (place / "large").write_bytes(os.urandom(8 << 20))
    digest = hashlib.sha256((place / "large").read_bytes()).digest()
    done = shell.gexec("--fetch", "large", "--chdir", place, "--to", place / "to", "-v")
    assert done.returncode == 0
    assert b"gexec: 8 files in " in done.stderr
    for name in cluster.names:
        found = Path(f"{place}/to/{name}{place}/large").read_bytes()
        assert hashlib.sha256(found).digest() == digest


# -- what cat would show ------------------------------------------------------------------------------


def fetched(
    shell: Shell, place: Path, *paths: object, more: tuple[object, ...] = ()
) -> tuple[int, str, Path]:
    """Fetch paths of two nodes; return the status, stderr, and where the files of node001 are."""
    shutil.rmtree(place / "to", ignore_errors=True)
    words = [word for path in paths for word in ("--fetch", path)]
    done = shell.gexec("-w", "node[001-002]", *words, "--to", place / "to", *more)
    assert done.stdout == b""
    assert files_below(place / "to/node001") == files_below(place / "to/node002")
    return done.returncode, done.stderr.decode(), Path(f"{place}/to/node001")


def test_a_link_that_is_asked_for_brings_its_contents(shell: Shell, place: Path) -> None:
    (place / "real/sub").mkdir(parents=True)
    (place / "real/f").write_bytes(b"content")
    (place / "real/sub/inner").symlink_to("../f")
    (place / "way").symlink_to("real")
    (place / "file").symlink_to("way/f")
    for path, found in {
        "file": ["file"],
        "way/f": ["way/f"],
        "way": ["way/f", "way/sub/inner"],
        "way/": ["way/f", "way/sub/inner"],
        "real/.": ["real/f", "real/sub/inner"],
        "way/../real//./f": ["real/f"],
    }.items():
        status, err, top = fetched(shell, place, f"{place}/{path}")
        assert (status, err) == (0, "")
        assert files_below(Path(f"{top}{place}")) == found
        contents = [Path(f"{top}{place}/{name}") for name in found if not name.endswith("inner")]
        assert all(not file.is_symlink() and file.read_bytes() == b"content" for file in contents)
    assert fetched(shell, place, "/bin/sh")[0] == 0
    assert (place / "to/node001/bin/sh").read_bytes() == Path("/bin/sh").read_bytes()
    assert files_below(place / "to/node002") == ["bin/sh"]


def test_links_that_lead_nowhere_have_a_reason(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    (place / "dangling").symlink_to("nowhere")
    (place / "circle").symlink_to("circle")
    (place / "top").symlink_to("/")
    names = ("dangling", "circle", "f/", "top", "f")
    status, err, top = fetched(shell, place, *[f"{place}/{name}" for name in names])
    assert status == 1
    for name, reason in {
        "dangling": "it is a symbolic link to nowhere, and nothing is there",
        "circle": "its symbolic links lead in a circle",
        "f": "it is not a directory, as the / at its end requires",
        "top": "it leads to the directory /; / cannot be copied as a whole: name what is in it",
    }.items():
        # The same of both nodes is one line.
        assert err.count(f"node001 node002 gexec-send: {place}/{name}: not sent: {reason}\n") == 1
    assert files_below(Path(f"{top}{place}")) == ["f"]


def test_what_is_asked_for_twice_arrives_once(shell: Shell, place: Path) -> None:
    (place / "d/sub").mkdir(parents=True)
    (place / "d/sub/f").write_bytes(b"content")
    (place / "else").write_bytes(b"else")
    (place / "d/link").symlink_to("../else")
    (place / "way").symlink_to("d")
    paths = [f"{place}/{name}" for name in ("d", "d/sub/f", "d", "d/sub/", "d/link", "way", "way/sub/f")]
    status, err, top = fetched(shell, place, *paths)
    assert (status, err) == (0, "")
    found = files_below(Path(f"{top}{place}"))
    assert found == ["d/link", "d/sub/f", "way/link", "way/sub/f"]
    assert Path(f"{top}{place}/d/link").read_bytes() == b"else"
    assert os.readlink(f"{top}{place}/way/link") == "../else"
    status, err, top = fetched(shell, place, f"{place}/d", f"{place}/d/sub/none")
    assert status == 1
    assert f"{place}/d/sub/none: not sent: there is no such file" in err
    assert files_below(Path(f"{top}{place}")) == ["d/link", "d/sub/f"]


def test_wildcards_are_expanded_on_the_nodes(cluster: Cluster, shell: Shell, place: Path) -> None:
    for name in ("a.log", "b.log", ".hidden.log", "c.txt", "[ab].log", "sub/d.log", "new\nline.log"):
        (place / "log" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "log" / name).write_bytes(name.encode())
    (place / "log/link.log").symlink_to("c.txt")
    for pattern, found in {
        "*.log": ["[ab].log", "a.log", "b.log", "link.log", "new\nline.log"],
        ".*.log": [".hidden.log"],
        "[ab].log": ["[ab].log"],
        "?.log": ["a.log", "b.log"],
        "*/*.log": ["sub/d.log"],
        "s*": ["sub/d.log"],
        "[!a-z]*.log": ["[ab].log"],
    }.items():
        status, err, top = fetched(shell, place, f"{place}/log/{pattern}")
        assert (status, err) == (0, ""), pattern
        assert files_below(Path(f"{top}{place}/log")) == found
    assert fetched(shell, place, f"{place}/log/l*.log")[0] == 0
    assert Path(f"{top}{place}/log/link.log").read_bytes() == b"c.txt"
    status, err, top = fetched(shell, place, "log/*.txt", "lo[g]/a.log", more=("--chdir", place))
    assert (status, err) == (0, "")
    assert files_below(Path(f"{top}{place}")) == ["log/a.log", "log/c.txt"]


def test_nodes_where_nothing_matches_say_so_and_the_others_send(
    cluster: Cluster, shell: Shell, place: Path
) -> None:
    (place / "f1").write_bytes(b"content")
    # On node002 the sender looks at another place, which has no such files.
    env = fake_sender(place, 'case $GEXEC_NODE in node002) set -- --names=asked --glob -- "/none/f*";; esac')
    words = ["-w", "node[001-003]", "--fetch", f"{place}/f*", "--to", place / "to"]
    done = shell.gexec(*words, env=env)
    assert done.returncode == 1
    assert b"node002 gexec-send: /none/f*: no file matches there\n" in done.stderr
    assert files_below(place / "to") == [f"node001{place}/f1", f"node003{place}/f1"]
    status, err, _ = fetched(shell, place, f"{place}/x*", f"{place}/f1")
    assert status == 1
    assert err.count(f"node001 node002 gexec-send: {place}/x*: no file matches there\n") == 1


def test_files_of_proc_and_sys_have_their_contents(shell: Shell, place: Path) -> None:
    status, err, top = fetched(shell, place, "/proc/version", "/sys/class/net/lo/mtu", "/proc/self/environ")
    assert (status, err) == (0, "")
    assert Path(f"{top}/proc/version").read_bytes() == Path("/proc/version").read_bytes()
    assert Path(f"{top}/sys/class/net/lo/mtu").read_bytes() == Path("/sys/class/net/lo/mtu").read_bytes()
    assert b"GEXEC_NODE=node001\0" in Path(f"{top}/proc/self/environ").read_bytes()


def test_a_log_that_is_written_to_all_the_time_arrives(shell: Shell, place: Path) -> None:
    line = b"one more line of a busy log\n"
    (place / "log").write_bytes(line * 200_000)
    loop = f"while :; do echo one more line of a busy log; done >>{place}/log"
    with subprocess.Popen(["sh", "-c", loop]) as writer:
        try:
            status, err, top = fetched(shell, place, place / "log")
        finally:
            writer.kill()
    assert (status, err) == (0, "")
    found = Path(f"{top}{place}/log").read_bytes()
    assert len(found) >= len(line) * 200_000
    assert found == (line * (len(found) // len(line) + 1))[: len(found)]


def test_patterns_leave_out_files(shell: Shell, place: Path) -> None:
    for name in ("d/a.o", "d/a.c", "d/cache/f", "d/sub/b.o", "d/sub/keep.o"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    rules = ("--include-files=keep.o", "--exclude-files=*.o", "--exclude-files=/d/cache/")
    status, err, top = fetched(shell, place, place / "d", more=rules)
    assert (status, err) == (0, "")
    assert files_below(Path(f"{top}{place}")) == ["d/a.c", "d/sub/keep.o"]
    done = shell.gexec("--exclude-files=*.o", "true")
    assert (done.returncode, b"needs --fetch" in done.stderr) == (2, True)


# -- nodes ----------------------------------------------------------------------------------------------


def test_a_node_that_stands_twice_and_one_that_is_dead(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    done = shell.gexec("-w", "node001 dead node001", "--fetch", place / "f", "--to", place / "to")
    assert done.returncode == 255
    assert b"gexec: dead: not started: connection refused" in done.stderr
    assert sorted(os.listdir(place / "to")) == ["node001@0", "node001@2"]
    done = shell.gexec("-w", "node001 dead", "--strict", "--fetch", place / "f", "--to", place / "strict")
    assert done.returncode == 255
    assert files_below(place / "strict") == []


def test_a_dry_run_fetches_nothing(shell: Shell, place: Path) -> None:
    done = shell.gexec("-w", "node001", "--dry-run", "--fetch", "/etc/passwd", "--to", place / "to")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"gexec-send" in done.stdout
    assert not (place / "to").exists()


def test_a_hostile_node_writes_nothing_outside_its_folder(shell: Shell, place: Path) -> None:
    encoder = Encoder()
    evil = File(b"../../f", Meta(0o4755, 0, 0, 1, b"", b""), 0)
    stream = encoder.preamble() + encoder.list(0, [packed_entry(evil)]) + encoder.contents(0, 0, 1)
    stream += encoder.file_end(ContentHash().finish(0)) + encoder.done(0) + encoder.end(0)
    (place / "evil").write_bytes(stream)
    (place / "f").write_bytes(b"mine")
    env = fake_sender(place, f"case $GEXEC_NODE in node002) exec cat {place}/evil;; esac")
    done = shell.gexec("-w", "node[001-003]", "--fetch", place / "f", "--to", place / "to", env=env)
    assert done.returncode == 255
    assert done.stderr.count(b"gexec: node002: ") == 2  # what is wrong, and the summary
    assert b"node002: lost: what it sent is not all here" in done.stderr
    assert files_below(place / "to") == [f"node001{place}/f", f"node003{place}/f"]
    assert (place / "f").read_bytes() == b"mine"


def hostile(place: Path, meta: Meta) -> bytes:
    """Return what a sender would send that has an empty ``place/f`` with these attributes."""
    encoder = Encoder()
    file = File(os.fsencode(place / "f").lstrip(b"/"), meta, 0)
    stream = encoder.preamble() + encoder.list(0, [packed_entry(file)]) + encoder.contents(0, 0, 1)
    return stream + encoder.file_end(ContentHash().finish(0)) + encoder.done(0) + encoder.end(0)


@root_only
def test_attack_110_owners_and_set_id_bits_that_a_node_reports(shell: Shell, place: Path) -> None:
    """With them a node's root would put a program of another user, or a set-uid one, onto the head."""
    (place / "evil").write_bytes(hostile(place, Meta(0o6755, 54321, 54322, 1, b"", b"")))
    env = fake_sender(place, f"exec cat {place}/evil")
    fetched = place / f"to/node002{place}/f"
    words = ["-w", "node002", "--fetch", place / "f", "--to", place / "to"]
    for more, owner in (([], (0, 0)), (["--owners"], (54321, 54322)), ([], (54321, 54322))):
        done = shell.gexec(*words, *more, env=env)
        assert done.returncode == 0, done.stderr
        status = fetched.stat()
        assert (status.st_uid, status.st_gid) == owner
        assert status.st_mode & 0o7777 == 0o755


@pytest.mark.skipif(IS_ROOT, reason="root may set owners")
def test_owners_need_root(shell: Shell, place: Path) -> None:
    done = shell.gexec("-w", "node001", "--fetch", place, "--to", place / "to", "--owners")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"--owners: only root can set owners" in done.stderr


def test_a_node_that_sends_without_end_is_stopped_by_its_time_out(shell: Shell, place: Path) -> None:
    env = fake_sender(place, "exec yes")
    words = ["-w", "node001", "--timeout=1", "--fetch", "/f", "--to", place / "to"]
    done = shell.gexec(*words, env=env)
    assert done.returncode == 124
    assert done.stderr.count(b"\n") == 2
    assert files_below(place / "to") == []


@pytest.mark.root
@root_only
def test_a_full_disk_here_is_told_and_leaves_no_part(shell: Shell, place: Path) -> None:
    (place / "to").mkdir()
    (place / "large").write_bytes(os.urandom(8 << 20))
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "gexec-test", str(place / "to")]
    if subprocess.run(mount, capture_output=True, timeout=DEADLINE_S).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        done = shell.gexec("-w", "node[001-002]", "--fetch", place / "large", "--to", place / "to")
        assert done.returncode == 255
        assert done.stderr.count(b": the disk is full; free space there") == 1
        path = f"{place}/to/%h{place}/large"
        assert done.stderr.startswith(f"gexec: node001 node002: {path}: the disk is full".encode())
        assert b"2 of 2 nodes lost: what it sent is not all here: node001 node002" in done.stderr
        assert files_below(place / "to") == []
    finally:
        subprocess.run(["umount", str(place / "to")], check=True, timeout=DEADLINE_S)


def test_a_destination_that_may_not_be_written_is_told(shell: Shell, place: Path) -> None:
    (place / "file").touch()
    done = shell.gexec("--fetch", "/etc/passwd", "--to", place / "file")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)
    done = shell.gexec("--fetch", "/etc/passwd", "--to", "/proc/1/none")
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


def test_kill_9_of_a_node_costs_its_own_files_only(
    cluster_of: Callable[..., Cluster], place: Path, tmp_path: Path
) -> None:
    cluster = cluster_of(4)
    shell = Shell(cluster.env, tmp_path)
    (place / "f").write_bytes(b"content")
    # The node that is to be killed sends the beginning of a file and waits.
    encoder = Encoder()
    file = File(b"f", Meta(0o644, 0, 0, 1, b"", b""), 1 << 20)
    begin = encoder.preamble() + encoder.list(0, [packed_entry(file)]) + encoder.contents(0, 1 << 20, 1)
    (place / "begin").write_bytes(begin + encoder.data(0, 65536) + bytes(65536))
    wait = f"cat {place}/begin; touch {place}/begun; exec sleep 1000"
    env = fake_sender(place, f"case $GEXEC_NODE in node003) {wait};; esac")
    client = shell.start("gexec", "--fetch", place / "f", "--to", place / "to", env=env)
    wait_until((place / "begun").exists, "node003 does not send")
    for process in cluster.daemon("node003"):
        processes.send_signal(process, signal.SIGKILL)
    _, err = end(client)
    assert client.returncode == 255
    assert b"gexec: node003: lost: " in err
    assert files_below(place / "to") == [f"{name}{place}/f" for name in ("node001", "node002", "node004")]
    wait_gone(str(place))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_status_after_a_signal_is_the_signals_whatever_senders_make_of_it(
    cluster: Cluster, shell: Shell, place: Path, signum: int
) -> None:
    (place / "f").write_bytes(b"content")
    wait = f"trap 'exit 3' INT TERM HUP; touch {place}/begun; while :; do sleep 0.1; done"
    env = fake_sender(place, f"case $GEXEC_NODE in node003) {wait};; esac")
    client = shell.start("gexec", "--fetch", place / "f", "--to", place / "to", env=env)
    wait_until((place / "begun").exists, "node003 does not run")
    wait_until(Path(f"{place}/to/node001{place}/f").exists, "nothing comes from node001")
    client.send_signal(signum)
    _, err = end(client)
    assert client.returncode == 128 + signum
    assert b"Traceback" not in err
    wait_gone(str(place))
