"""ensync through real daemons: files arrive as they are here, whatever happens to other nodes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gexec.cluster import processes
from gexec.posix.descendants import children_of

from .commands import Shell, Terminal
from .conftest import BIN, DEADLINE_S, Cluster, wait_until
from .must_hold import end, marked, wait_gone

IS_ROOT = os.geteuid() == 0
root_only = pytest.mark.skipif(not IS_ROOT, reason="needs root")


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Shell:
    return Shell(cluster.env, tmp_path)


def tree_of(top: Path) -> dict[bytes, tuple[object, ...]]:
    """Return everything below a directory: mode, mtime, and contents' digest, target or nothing."""
    found: dict[bytes, tuple[object, ...]] = {}
    for folder, directories, files in os.walk(os.fsencode(top)):
        for name in directories + files:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").digest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            mtime = 0 if stat.S_ISLNK(status.st_mode) else status.st_mtime_ns
            found[os.path.relpath(path, os.fsencode(top))] = (status.st_mode, mtime, content)
    return found


def told(done: subprocess.CompletedProcess[bytes]) -> tuple[int, bytes, bytes]:
    return done.returncode, done.stdout, done.stderr


def to_each(place: Path) -> list[object]:
    """The options that give each node a folder of its own."""
    return ["--parents", "--dest", f"{place}/to/%h/"]


def sender_of(client: subprocess.Popen[bytes]) -> int:
    """Return the pid of the client's sender once it is there."""
    found: list[int] = []

    def there() -> bool:
        found[:] = [pid for pid in children_of(client.pid) if b"gexec.cli.send" in _words(pid)]
        return bool(found)

    wait_until(there, "there is no sender")
    return found[0]


def wait_read(sender: int, count: int) -> None:
    """Wait until a sender has read so many bytes."""

    def has_read() -> bool:
        text = Path(f"/proc/{sender}/io").read_text()
        return int(text.split("rchar:")[1].split()[0]) > count

    wait_until(has_read, f"the sender has not read {count} bytes")


def _words(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def no_file_below(top: Path) -> None:
    """Fail if there is a file, under whatever name."""
    assert [path for path in top.rglob("*") if not path.is_dir()] == []


# -- what arrives -----------------------------------------------------------------------------------------


def test_whatever_a_file_is_called_and_holds(cluster: Cluster, shell: Shell, place: Path) -> None:
    source = os.fsencode(place / "tree")
    os.makedirs(source + b"/with space/new\nline")
    names = [b"empty", b"with space/new\nline/\xff\xfe", b"-n", b"*", b"%h", b"'", "ä".encode(), b"\x1b[2J"]
    for base in names:
        with open(os.path.join(source, base), "wb") as file:
            file.write(base * (0 if base == b"empty" else 100_000))
    os.chmod(os.path.join(source, b"*"), 0o600)
    os.utime(os.path.join(source, b"*"), ns=(1, 1_234_567_890_123_456_789))
    os.symlink(b"\xff nowhere", source + b"/link")
    os.mkdir(source + b"/with space/empty")
    expected = tree_of(place / "tree")
    assert told(shell.run("ensync", *to_each(place), place / "tree")) == (0, b"", b"")
    for name in cluster.names:
        assert tree_of(place / "to" / name / "tree") == expected, name
    again = shell.run("ensync", "-v", *to_each(place), place / "tree")
    assert b"0 files written on 8 of 8 nodes, 72 were right already" in again.stderr


def test_ten_thousand_small_files_to_three_nodes(shell: Shell, place: Path) -> None:
    for number in range(10_000):
        folder = place / "tree" / f"{number // 500}"
        if not number % 500:
            folder.mkdir(parents=True)
        (folder / f"{number}").write_bytes(b"%d" % number)
    expected = tree_of(place / "tree")
    done = shell.run("ensync", "-n", "node[001-003]", *to_each(place), place / "tree")
    assert told(done) == (0, b"", b"")
    for name in ("node001", "node002", "node003"):
        assert tree_of(place / "to" / name / "tree") == expected, name


def test_a_sparse_file_of_more_than_four_gigabytes(shell: Shell, place: Path) -> None:
    size = 2**32 + 1
    with (place / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(2**31 + 12345)
        file.write(b"middle")
        file.seek(size - 1)
        file.write(b"e")
    done = shell.run("ensync", "-n", "node001 node002", *to_each(place), place / "sparse")
    assert told(done) == (0, b"", b"")
    for name in ("node001", "node002"):
        with (place / "to" / name / "sparse").open("rb") as file:
            status = os.fstat(file.fileno())
            assert status.st_size == size
            assert status.st_blocks * 512 < 2**24
            assert os.pread(file.fileno(), 5, 0) == b"begin"
            assert os.pread(file.fileno(), 8, 2**31 + 12344) == b"\0middle\0"
            assert os.pread(file.fileno(), 2, size - 2) == b"\0e"


def test_one_large_file_arrives_on_all_nodes_whole(cluster: Cluster, shell: Shell, place: Path) -> None:
    content = os.urandom(24 << 20)
    (place / "large").write_bytes(content)
    for compress in ("always", "never"):
        shutil.rmtree(place / "to")
        words = [*to_each(place), f"--compress={compress}", "--sync", place / "large"]
        assert told(shell.run("ensync", *words)) == (0, b"", b"")
        for name in cluster.names:
            assert (place / "to" / name / "large").read_bytes() == content, name


def test_the_rank_in_the_destination_and_a_node_that_stands_twice(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    nodes = "node002 node001 node002"
    done = shell.run("ensync", "-n", nodes, "--parents", "--dest", f"{place}/to/%n-%h%%/", place / "f")
    assert told(done) == (0, b"", b"")
    found = sorted(path.parent.name for path in (place / "to").glob("*/f"))
    assert found == ["0-node002%", "1-node001%", "2-node002%"]
    # The same file twice at the same time: one of the two is the last one, and it is whole.
    (place / "f").write_bytes(os.urandom(1 << 20))
    done = shell.run("ensync", "-n", nodes, *to_each(place), place / "f")
    assert told(done) == (0, b"", b"")
    assert (place / "to/node002/f").read_bytes() == (place / "f").read_bytes()


def test_names_from_stdin_do_not_take_the_files_way(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    done = shell.run("ensync", "-n", "-", *to_each(place), place / "f", input=b"node003 node005\n")
    assert told(done) == (0, b"", b"")
    assert sorted(path.parent.name for path in place.glob("to/*/f")) == ["node003", "node005"]


def test_paths_stay_whole_below_a_destination_if_that_is_wanted(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    done = shell.run("ensync", "-n", "node004", *to_each(place), "--relative", "f", cwd=place)
    assert told(done) == (0, b"", b"")
    assert Path(f"{place}/to/node004{place}/f").read_bytes() == b"content"


def test_this_host_is_left_out_by_x(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    words = ["-x", "-n", f"{socket.gethostname()} node003", *to_each(place), place / "f"]
    assert told(shell.run("ensync", *words)) == (0, b"", b"")
    assert [path.parent.name for path in place.glob("to/*/f")] == ["node003"]


@root_only
def test_owners_and_set_id_bits(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    os.chown(place / "f", 12345, 23456)
    (place / "f").chmod(0o4755)
    done = shell.run("ensync", "-n", "node001", *to_each(place), place / "f")
    assert (done.returncode, done.stderr.count(b"set-uid and set-gid bits of 1 file are left out")) == (0, 1)
    status = (place / "to/node001/f").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12345, 23456, 0o755)
    done = shell.run("ensync", "-n", "node001", *to_each(place), "--setuid", "--numeric-ids", place / "f")
    assert told(done) == (0, b"", b"")
    assert (place / "to/node001/f").stat().st_mode & 0o7777 == 0o4755
    done = shell.run("ensync", "-n", "node002", *to_each(place), "--setuid", "--no-owner", place / "f")
    status = (place / "to/node002/f").stat()
    assert (done.returncode, status.st_uid, status.st_gid) == (0, 0, 0)
    # To its own place: it is what it is already, and keeps what it has.
    assert told(shell.run("ensync", "-n", "node001", place / "f")) == (0, b"", b"")
    assert (place / "f").stat().st_mode & 0o7777 == 0o4755


# -- which files ----------------------------------------------------------------------------------


def files_of(place: Path, node: str = "node001") -> list[str]:
    """Return what is below a node's folder; directories have a slash."""
    top = place / "to" / node
    return sorted(
        f"{path.relative_to(top)}{'/' * (path.is_dir() and not path.is_symlink())}" for path in top.rglob("*")
    )


def new_tree(place: Path) -> Path:
    for name in ("d/a.o", "d/a.c", "d/cache/f", "d/sub/b.o", "d/sub/keep.o", "d/sub/cache/g", "x.o"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(name.encode())
    return place / "d"


def test_patterns_leave_out_files_and_the_first_that_matches_counts(shell: Shell, place: Path) -> None:
    tree = new_tree(place)
    words = ["-n", "node[001-002]", *to_each(place)]
    rules = ["--include-files=keep.o", "--exclude-files", "*.o", "--exclude-files=/d/cache/"]
    assert told(shell.run("ensync", *words, *rules, tree, place / "x.o")) == (0, b"", b"")
    kept = ["d/", "d/a.c", "d/sub/", "d/sub/cache/", "d/sub/cache/g", "d/sub/keep.o"]
    assert files_of(place) == files_of(place, "node002") == kept
    # The other way round nothing is kept; whole paths below the destination change nothing.
    shutil.rmtree(place / "to")
    (place / "rules").write_text("# the same in a file\n*.o\n/d/cache/\n+ keep.o\n")
    rules = [f"--exclude-files-from={place}/rules", "--relative"]
    assert told(shell.run("ensync", *words, *rules, tree)) == (0, b"", b"")
    prefix = f"{place}/"[1:]
    found = [name.removeprefix(prefix) for name in files_of(place) if name.startswith(f"{prefix}d")]
    assert found == ["d/", "d/a.c", "d/sub/", "d/sub/cache/", "d/sub/cache/g"]


def test_a_list_names_the_files(shell: Shell, place: Path) -> None:
    tree = new_tree(place)
    tree.chmod(0o750)
    os.utime(tree / "sub", ns=(1, 1_234_567_890_000_000_000))
    (place / "list").write_text("# some\n/sub/keep.o\ncache/\nnone\nsub/../a.c\na.c\n\nnone\n")
    words = ["-n", "node[001-002]", *to_each(place), f"--files-from={place}/list", tree]
    done = shell.run("ensync", *words)
    assert done.returncode == 1
    assert done.stderr.count(b"d/none: not sent: there is no such file\n") == 1
    assert files_of(place) == files_of(place, "node002") == ["a.c", "cache/", "cache/f", "sub/", "sub/keep.o"]
    assert (place / "to/node001/sub").stat().st_mtime_ns == 1_234_567_890_000_000_000
    (place / "list").write_text("sub\n")
    shutil.rmtree(place / "to")
    assert told(shell.run("ensync", *words)) == (0, b"", b"")
    assert files_of(place) == ["sub/"]


def test_a_list_may_come_from_stdin_and_from_a_pipe_and_be_below_the_root(shell: Shell, place: Path) -> None:
    tree = new_tree(place)
    words = ["-n", "node001", *to_each(place), "--files-from=-", "--from0"]
    done = shell.run("ensync", *words, input=f"{tree}/a.c\0{tree}/sub/keep.o".encode())
    assert told(done) == (0, b"", b"")
    assert [name for name in files_of(place) if not name.endswith("/")] == [
        f"{tree}/a.c"[1:],
        f"{tree}/sub/keep.o"[1:],
    ]
    # Without a destination: the same paths.
    assert told(shell.run("ensync", "-n", "node001", "--files-from=-", input=f"{tree}/a.c".encode())) == (
        0,
        b"",
        b"",
    )
    done = shell.run("ensync", "-n", "-", "--files-from=-", "--dest=/tmp", input=b"node001")
    assert (done.returncode, b"stdin can be only one of them" in done.stderr) == (2, True)


def test_an_empty_list_copies_nothing(shell: Shell, place: Path) -> None:
    done = shell.run("ensync", "-n", "node001", *to_each(place), "--files-from=-", input=b"\n# none\n")
    assert told(done) == (0, b"", b"")
    assert files_of(place) == []


def test_a_missing_file_below_another_one_is_told(shell: Shell, place: Path) -> None:
    tree = new_tree(place)
    done = shell.run("ensync", "-n", "node001", *to_each(place), tree, tree / "none")
    assert (done.returncode, b"d/none: there is no such file or directory on this host" in done.stderr) == (
        2,
        True,
    )
    done = shell.run("ensync", "-n", "node001", *to_each(place), f"{tree}/*.none")
    assert b"no file matches the pattern, or it was quoted and no shell expanded it" in done.stderr


def test_a_log_that_is_written_to_all_the_time_is_copied(shell: Shell, place: Path) -> None:
    line = b"one more line of a busy log\n"
    (place / "log").write_bytes(line * 200_000)
    loop = f"while :; do echo one more line of a busy log; done >>{place}/log"
    with subprocess.Popen(["sh", "-c", loop]) as writer:
        try:
            done = shell.run("ensync", "-n", "node[001-003]", *to_each(place), place / "log", "/proc/version")
        finally:
            writer.kill()
    assert told(done) == (0, b"", b"")
    found = (place / "to/node003/log").read_bytes()
    assert len(found) >= len(line) * 200_000
    assert found == (line * (len(found) // len(line) + 1))[: len(found)]
    assert (place / "to/node003/version").read_bytes() == Path("/proc/version").read_bytes()


# -- comparing, deleting --------------------------------------------------------------------------


def test_checksum_tells_which_nodes_differ_and_how_once(shell: Shell, place: Path) -> None:
    (place / "d").mkdir()
    (place / "d/f").write_bytes(b"content")
    (place / "d/g").write_bytes(b"content")
    words = ["-n", "node[001-006]", *to_each(place), place / "d"]
    assert told(shell.run("ensync", *words)) == (0, b"", b"")
    for name in ("node002", "node004", "node005"):
        os.utime(place / f"to/{name}/d/f", ns=(1, 1))
    assert told(shell.run("ensync", "--checksum", *words)) == (0, b"", b"")
    for name in ("node002", "node004"):
        (place / f"to/{name}/d/f").write_bytes(b"CONTENT")
        (place / f"to/{name}/d/g").unlink()
    (place / "to/node005/d/f").chmod(0o600)
    (place / "to/node005/d/extra").touch()
    before = tree_of(place / "to")
    done = shell.run("ensync", "--checksum", *words)
    assert done.returncode == 1
    assert done.stdout == (
        b"--- node002,node004 (2) exited 1\ndiffers d/f: content\nmissing d/g\n"
        b"--- node005 (1) exited 1\ndiffers d/f: mode\nextra d/extra\n"
    )
    assert b"3 of 6 nodes exited 1: node[002,004-005]" in done.stderr
    assert tree_of(place / "to") == before


def test_a_dry_run_says_what_would_be_done_and_does_nothing(shell: Shell, place: Path) -> None:
    (place / "d").mkdir()
    (place / "d/f").write_bytes(b"content")
    words = ["-n", "node001 node002", *to_each(place), place / "d"]
    assert told(shell.run("ensync", *words)) == (0, b"", b"")
    (place / "to/node002/d/extra").touch()
    (place / "d/g").touch()
    os.utime(place / "d", ns=(1, 1))
    before = tree_of(place / "to")
    done = shell.run("ensync", "--dry-run", "--delete", *words)
    assert done.returncode == 1
    assert done.stdout == (
        b"--- node001 (1) exited 1\ncreate d/g\n--- node002 (1) exited 1\ncreate d/g\ndelete d/extra\n"
    )
    assert tree_of(place / "to") == before


def test_delete_removes_what_is_not_here(shell: Shell, place: Path) -> None:
    (place / "d").mkdir()
    (place / "d/f").write_bytes(b"content")
    words = ["-n", "node001 node002", *to_each(place), place / "d"]
    assert told(shell.run("ensync", *words)) == (0, b"", b"")
    (place / "to/node002/beside").touch()
    (place / "to/node002/d/sub").mkdir()
    (place / "to/node002/d/sub/extra").touch()
    (place / "to/node002/d/link").symlink_to(place / "d")
    assert told(shell.run("ensync", *words)) == (0, b"", b"")
    assert (place / "to/node002/d/sub/extra").exists()
    assert told(shell.run("ensync", "--delete", *words)) == (0, b"", b"")
    assert sorted(path.name for path in (place / "to/node002").rglob("*")) == ["beside", "d", "f"]
    assert (place / "d/f").exists()


def test_backup_and_equal_contents(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"new")
    target = place / "to/node001/f"
    target.parent.mkdir()
    target.write_bytes(b"old")
    words = ["-n", "node001", *to_each(place), place / "f"]
    assert told(shell.run("ensync", "-b", *words)) == (0, b"", b"")
    assert (target.read_bytes(), Path(f"{target}~").read_bytes()) == (b"new", b"old")
    os.utime(target, ns=(1, 1))
    inode = target.stat().st_ino
    assert told(shell.run("ensync", "--checksum-compare", *words)) == (0, b"", b"")
    assert target.stat().st_ino == inode
    assert told(shell.run("ensync", *words)) == (0, b"", b"")
    assert target.stat().st_mtime_ns == (place / "f").stat().st_mtime_ns


def fake_source(place: Path) -> dict[str, str]:
    """Return an environment in which nodes find a receiver that takes this host for another one."""
    folder = place / "bin"
    folder.mkdir()
    (folder / "gexec-receive").write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "from gexec.cli import receive\n"
        "from gexec.files import identity\n"
        "identity.SameFile.is_same = lambda self, meta, status: False\n"
        "sys.exit(receive.main(sys.argv[1:]))\n"
    )
    (folder / "gexec-receive").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_remove_deletes_files_on_the_nodes(shell: Shell, place: Path) -> None:
    (place / "a b").touch()
    (place / "d").mkdir()
    env = fake_source(place)
    done = shell.run("ensync", "-n", "node001", "--remove", place / "a b", place / "none", env=env)
    assert told(done) == (0, b"", b"")
    assert not (place / "a b").exists()
    (place / "a b").touch()
    done = shell.run("ensync", "-n", "node001", "--remove", "--dry-run", place / "a b", env=env)
    assert (done.returncode, done.stdout.splitlines()[1:]) == (1, [b"delete " + bytes(place / "a b")])
    done = shell.run("ensync", "-n", "node001", "--remove", "--backup", place / "a b", env=env)
    assert told(done) == (0, b"", b"")
    assert (place / "a b~").exists()
    done = shell.run("ensync", "-n", "node001", "--remove", place / "d", env=env)
    assert done.returncode == 1
    assert b"d: it is a directory; only files and links are removed" in done.stderr
    assert (place / "d").exists()


def accepted(cluster: Cluster, about: str) -> list[dict[str, Any]]:
    """Return the lines of all nodes' audit logs about accepted jobs with this text among their arguments."""
    found = []
    for name in cluster.names:
        lines = map(json.loads, cluster.place.audit(name).read_text().splitlines())
        found += [
            line
            for line in lines
            if line["event"] == "accept" and any(about in word for word in line["argv"])
        ]
    return found


def test_audit_logs_have_what_was_copied_and_where(cluster: Cluster, shell: Shell, place: Path) -> None:
    (place / "d").mkdir()
    for number in range(5):
        (place / f"d/{number}").touch()
    words = ["-n", "node[001-003]", "--backup", *to_each(place), place / "d"]
    assert told(shell.run("ensync", *words)) == (0, b"", b"")
    lines = accepted(cluster, str(place / "d"))
    assert [line["node"] for line in lines] == ["node001", "node002", "node003"]
    expected = [
        "gexec-receive",
        f"--about=5 files, 0 bytes: {place}/d",
        f"--dest={place}/to/%h/",
        "--parents",
        "--backup",
        "--target=directory",
    ]
    for line in lines:
        assert line["argv"][:-1] == expected
        assert line["argv"][-1].startswith("--signed-by=")
        assert line["program"] == "gexec-receive"
    # Onto itself: the destination is named also where none was given.
    assert told(shell.run("ensync", "-n", "node004", place / "d/1")) == (0, b"", b"")
    [line] = accepted(cluster, f"--about=1 file, 0 bytes: {place}/d/1")
    assert (line["node"], line["argv"][2:-1]) == ("node004", ["--dest=/"])
    many = [place / f"{'x' * 100}{number}" for number in range(400)]
    assert told(shell.run("ensync", "-n", "node005", "--remove", *many)) == (0, b"", b"")
    [line] = accepted(cluster, str(many[0]))
    assert line["argv"][0] == "gexec-receive"
    assert line["argv"][1].startswith(f"--about=removal of 400 files: {many[0]} ")
    assert line["argv"][1].endswith(" more")


# -- what fails ---------------------------------------------------------------------------------------------


def test_what_one_node_cannot_write_is_named_and_the_others_have_it(
    cluster: Cluster, shell: Shell, place: Path
) -> None:
    (place / "f").write_bytes(b"content")
    (place / "to/node003").touch()  # a file in the way of its folder
    failed = place / "failed"
    done = shell.run("ensync", f"--failed-to={failed}", *to_each(place), place / "f")
    assert done.returncode == 1
    assert b"node003 gexec-receive: the destination" in done.stderr
    assert b"ensync: node003: exited 1\n" in done.stderr
    others = [name for name in cluster.names if name != "node003"]
    assert sorted(path.parent.name for path in place.glob("to/*/f")) == others
    assert failed.read_text().split()[0] == "node003"
    (place / "to/node003").unlink()
    done = shell.run("ensync", f"--rerun={failed}", f"--failed-to={failed}", *to_each(place), place / "f")
    assert told(done) == (0, b"", b"")
    assert (place / "to/node003/f").read_bytes() == b"content"
    done = shell.run("ensync", f"--rerun={failed}", *to_each(place), place / "f")
    assert (done.returncode, b"names no node" in done.stderr) == (0, True)


def test_a_directory_in_the_way_stays(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    (place / "to/node001/f/sub").mkdir(parents=True)
    done = shell.run("ensync", "-n", "node001", *to_each(place), place / "f")
    assert done.returncode == 1
    assert b"it is a directory here: remove it first" in done.stderr
    assert (place / "to/node001/f/sub").is_dir()


def test_nothing_is_made_above_without_parents(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    done = shell.run("ensync", "-n", "node001", "--dest", f"{place}/to/%h/", place / "f")
    assert done.returncode == 1
    assert b"is missing (--parents makes it)" in done.stderr


def test_what_cannot_be_sent_is_told_once_and_the_rest_arrives(shell: Shell, place: Path) -> None:
    deep = place / "d"
    deep.mkdir()
    (deep / "f").write_bytes(b"content")
    here = os.getcwd()
    os.chdir(deep)
    try:
        for _ in range(300):
            os.mkdir("x")
            os.chdir("x")
    finally:
        os.chdir(here)
    done = shell.run("ensync", "-n", "node[001-003]", *to_each(place), deep)
    assert done.returncode == 1
    assert done.stderr.count(b"not sent: its path is longer or deeper than can be copied") == 1
    assert b"3 of 3 nodes exited 1" in done.stderr
    for name in ("node001", "node002", "node003"):
        assert (place / "to" / name / "d/f").read_bytes() == b"content"
    done = shell.run("ensync", place / "nothing")
    assert done.returncode == 2
    assert b"no such file or directory on this host" in done.stderr


def test_a_dead_node_costs_nobody_else_and_strict_writes_nothing(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    words = ["-n", "node001 dead node002", *to_each(place), place / "f"]
    done = shell.run("ensync", "--strict", *words)
    assert done.returncode == 255
    assert b"dead: not started: connection refused" in done.stderr
    no_file_below(place / "to")
    done = shell.run("ensync", "--via=gexec", "--summary", "--exit-policy=ok-if 2", *words)
    assert done.returncode == 0
    assert b"2 of 3 nodes exited 0: node001 node002" in done.stderr
    assert b"dead: not started: connection refused" in done.stderr
    assert sorted(path.parent.name for path in place.glob("to/*/f")) == ["node001", "node002"]


@pytest.mark.root
@root_only
@pytest.mark.skipif(shutil.which("nsenter") is None, reason="needs nsenter")
def test_a_full_disk_and_a_read_only_one_leave_the_old_file_and_the_others_whole(
    cluster_of: Callable[..., Cluster], place: Path, tmp_path: Path
) -> None:
    # Here each node has a file system of its own at the same path, as on real machines.
    folder = place / "files"
    folder.mkdir()
    (folder / "f").write_bytes(b"old")
    cluster = cluster_of(4, private=[folder])
    shell = Shell(cluster.env, tmp_path)
    assert told(shell.run("ensync", folder / "f")) == (0, b"", b"")
    assert cluster.path("node004", folder / "f").read_bytes() == b"old"
    for name, setting in (("node002", "ro"), ("node003", "size=4m")):
        pid = str(cluster.daemon(name)[0].pid)
        words = ["nsenter", "-t", pid, "-m", "mount", "-o", f"remount,{setting}", str(folder)]
        subprocess.run(words, check=True, timeout=DEADLINE_S)
    content = os.urandom(8 << 20)
    (folder / "f").write_bytes(content)
    (folder / "g").write_bytes(b"more")
    done = shell.run("ensync", folder / "f", folder / "g")
    assert done.returncode == 1
    assert done.stderr.count(b"node002 gexec-receive: ") == 2
    assert b"the file system is read-only" in done.stderr
    assert f"node003 gexec-receive: {folder}/f: ".encode() in done.stderr
    assert b"the disk is full" in done.stderr
    assert b"2 of 4 nodes exited 1: node002 node003" in done.stderr
    for name, expected in (
        ("node001", content),
        ("node002", b"old"),
        ("node003", b"old"),
        ("node004", content),
    ):
        assert cluster.path(name, folder / "f").read_bytes() == expected, name
    assert cluster.path("node003", folder / "g").read_bytes() == b"more"
    assert os.listdir(cluster.path("node002", folder)) == ["f"]
    assert sorted(os.listdir(cluster.path("node003", folder))) == ["f", "g"]
    # One that is full for good does not keep --checksum from telling.
    done = shell.run("ensync", "--checksum", folder / "f", folder / "g")
    assert b"--- node003 (1) exited 1\ndiffers" in done.stdout


# -- what is ended ------------------------------------------------------------------------------------------


def begun(shell: Shell, place: Path, *words: object) -> tuple[subprocess.Popen[bytes], int]:
    """Start a copy of a file that takes seconds; return when data flows, with the sender's pid."""
    (place / "large").write_bytes(os.urandom(20 << 20))
    words = ("--via=gexec", "--compress=never", "--bwlimit=5M", *words, *to_each(place), place / "large")
    client = shell.start("ensync", *words)
    try:
        sender = sender_of(client)
        wait_read(sender, 5 << 20)
    except BaseException:
        client.kill()
        end(client)
        raise
    return client, sender


def test_kill_9_of_a_node_in_the_chain_costs_its_own_file_only(
    cluster_of: Callable[..., Cluster], place: Path, tmp_path: Path
) -> None:
    cluster = cluster_of(6)
    shell = Shell(cluster.env, tmp_path)
    (place / "to/node003").mkdir()
    (place / "to/node003/large").write_bytes(b"old")
    client, _ = begun(shell, place, "-f", "1")
    for process in cluster.daemon("node003"):
        processes.send_signal(process, signal.SIGKILL)
    out, err = end(client)
    assert (client.returncode, out) == (255, b"")
    assert b"once more: 1 of 6 nodes (lost: " in err
    assert b"ensync: node003: lost: " in err
    content = (place / "large").read_bytes()
    for name in cluster.names:
        files = {path.name: path.read_bytes() for path in (place / "to" / name).iterdir()}
        assert files == {"large": b"old" if name == "node003" else content}, name
    wait_gone(str(place))


def test_kill_9_of_the_client_leaves_no_file_and_no_process(
    cluster: Cluster, shell: Shell, place: Path
) -> None:
    client, _ = begun(shell, place)
    assert len(marked("gexec-receive")) >= 8
    client.kill()
    end(client)
    wait_gone(str(place))
    wait_until(lambda: not cluster.tasks(), "receivers are left")
    no_file_below(place / "to")


_SLOW = """\
import sys
from gexec.cli.receive import main
from gexec.files.pace import Pace
Pace.__init__.__defaults__ = (0.0,)  # judged at once, not over seconds
sys.exit(main(sys.argv[1:]))
"""


def test_a_node_that_writes_slowly_comes_after_the_others(
    cluster: Cluster, shell: Shell, place: Path
) -> None:
    """node002 gives up for --min-rate; all others have the file, then it gets it by itself."""
    folder = place / "bin"
    folder.mkdir()
    (folder / "slow.py").write_text(_SLOW)
    (folder / "gexec-receive").write_text(
        f'#!/bin/sh\ncase "$GEXEC_NODE $*" in "node002 "*--min-rate=*)'
        f' exec {sys.executable} {folder}/slow.py "$@";; esac\nexec {BIN}/gexec-receive "$@"\n'
    )
    (folder / "gexec-receive").chmod(0o755)
    (place / "f").write_bytes(os.urandom(3 << 20))
    env = {"PATH": f"{folder}:{os.environ['PATH']}"}
    words = ("--min-rate", "900G", "--parents", "--dest", f"{place}/to/%h/", place / "f")
    done = shell.run("ensync", *words, env=env)
    assert done.returncode == 0, done.stderr
    assert b"a second are written here: given up (--min-rate)" in done.stderr
    assert b"ensync: at their own pace: 1 of 8 nodes (exited 4): node002\n" in done.stderr
    for node in cluster.names:
        assert (place / "to" / node / "f").read_bytes() == (place / "f").read_bytes()
    done = shell.run("ensync", "--strict", *words, env=env)  # on all alike: nobody is left out
    assert done.returncode == 4
    assert shell.run("ensync", "--via", "ssh", *words).returncode == 2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_all_and_leaves_no_file(
    cluster: Cluster, shell: Shell, place: Path, signum: int
) -> None:
    client, _ = begun(shell, place)
    client.send_signal(signum)
    out, err = end(client)
    assert (client.returncode, out) == (128 + signum, b"")
    assert b"Traceback" not in err
    said = [line for line in err.splitlines() if b"before everything was done" in line]
    assert len(said) == 1
    assert said[0].startswith(b"node[001-008] gexec-receive: ended by signal ")
    assert b"8 of 8 nodes exited 3" in err
    wait_gone(str(place))
    no_file_below(place / "to")


def test_a_sender_that_is_killed_ends_all_and_leaves_no_file(
    cluster: Cluster, shell: Shell, place: Path
) -> None:
    (place / "to/node001").mkdir()
    (place / "to/node001/large").write_bytes(b"old")
    client, sender = begun(shell, place)
    os.kill(sender, signal.SIGKILL)
    _, err = end(client)
    assert client.returncode == 3
    assert err.count(b"the stream ended too early") == 1
    assert b"node[001-008] gexec-receive: the stream ended too early" in err
    files = [path for path in (place / "to").rglob("*") if not path.is_dir()]
    assert files == [place / "to/node001/large"]
    assert files[0].read_bytes() == b"old"


def test_a_timeout_ends_receivers_with_one_sentence_and_no_traceback(shell: Shell, place: Path) -> None:
    (place / "large").write_bytes(os.urandom(12 << 20))
    words = ["--timeout=3", "--bwlimit=1M", "--compress=never", *to_each(place), place / "large"]
    done = shell.run("ensync", *words)
    assert done.returncode == 124
    assert b"Traceback" not in done.stderr
    assert done.stderr.count(b"before everything was done") == 1
    no_file_below(place / "to")


def test_what_is_named_and_not_delivered_shows_in_the_status(shell: Shell, place: Path) -> None:
    os.mkfifo(place / "pipe")
    (place / "f").write_bytes(b"content")
    (place / "socket").touch()
    (place / "socket").unlink()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / "socket"))
        names = ["/dev/null", "/proc/self/mem", place / "pipe", place / "socket", place / "f"]
        done = shell.run("ensync", "-n", "node[001-002]", *names, *to_each(place))
    assert done.returncode == 1
    for name, why in (
        ("/dev/null", "it is a device"),
        (f"{place}/pipe", "it is a named pipe"),
        (f"{place}/socket", "it is a socket"),
        ("mem", "its contents cannot be read: Input/output error"),  # its path has the sender's pid
    ):
        assert done.stderr.count(f"{name}: not sent: {why}".encode()) == 1, done.stderr
    assert (place / "to/node002/f").read_bytes() == b"content"
    assert shell.run("ensync", "-n", "node001", "/dev/null", *to_each(place)).returncode == 1


def test_the_same_sentence_of_all_nodes_is_one_line(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    done = shell.run("ensync", place / "f", "--dest", f"{place}/to/%h/")
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert lines == [
        f"node[001-008] gexec-receive: the destination {place}/to/%h/ is missing (--parents makes it)",
        "ensync: 8 of 8 nodes exited 1: node[001-008]",
    ]


@pytest.mark.parametrize("below", ["", "/x"])
@pytest.mark.parametrize("parents", [[], ["--parents"]])
@pytest.mark.parametrize("there", ["file", "dangling link", "link to a file", "nothing"])
@pytest.mark.parametrize("name", ["at", "at-%h"])
def test_a_destination_that_is_no_directory_is_one_line_for_all_nodes(
    cluster: Cluster, shell: Shell, place: Path, name: str, there: str, parents: list[str], below: str
) -> None:
    if parents and there == "nothing":
        pytest.skip("then it is made")
    (place / "f").write_bytes(b"content")
    for node in cluster.names:
        path = place / name.replace("%h", node)
        if there == "file":
            path.touch()
        elif "link" in there and not path.is_symlink():
            path.symlink_to("f" if there == "link to a file" else "nowhere")
    done = shell.run("ensync", "--via=gexec", *parents, "--dest", f"{place}/{name}{below}/", place / "f")
    said, failed = done.stderr.decode().splitlines()
    assert (done.returncode, failed) == (1, "ensync: 8 of 8 nodes exited 1: node[001-008]")
    why = "cannot be used: " if below and there != "nothing" else "is "
    assert said.startswith(f"node[001-008] gexec-receive: the destination {place}/{name}{below}/ {why}")


def test_with_all_standard_descriptors_closed_the_files_arrive(
    cluster: Cluster, shell: Shell, place: Path
) -> None:
    (place / "f").write_bytes(b"content")
    line = 'exec "$0" "$@" <&- >&- 2>&-'
    words = ["sh", "-c", line, f"{BIN}/ensync", *to_each(place), place / "f"]
    done = subprocess.run(list(map(str, words)), env=cluster.env, timeout=DEADLINE_S, check=False)
    assert done.returncode == 0
    assert len(list(place.glob("to/*/f"))) == 8


@pytest.mark.root
@root_only
def test_a_file_that_is_mounted_over_has_the_reason_and_the_remedy(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    (place / "to/f").write_bytes(b"old")
    mount = ["mount", "--bind", str(place / "f"), str(place / "to/f")]
    if subprocess.run(mount, capture_output=True, timeout=DEADLINE_S).returncode:
        pytest.skip("nothing can be mounted here")
    (place / "f").unlink()
    (place / "f").write_bytes(b"content, new")
    try:
        for option, told_ in (("--sync", b"it is in use, as a mount point"), ("--backup", b"unmount it")):
            done = shell.run("ensync", "-n", "node001", place / "f", "--dest", place / "to", option)
            assert (done.returncode, done.stderr.count(told_)) == (1, 1), done.stderr
    finally:
        subprocess.run(["umount", str(place / "to/f")], check=True, timeout=DEADLINE_S)


# -- what is shown ------------------------------------------------------------------------------------------


def test_progress_on_a_terminal_has_bytes_and_the_end_has_a_report(shell: Shell, place: Path) -> None:
    (place / "large").write_bytes(os.urandom(12 << 20))
    terminal = Terminal()
    words = ["-n", "node[001-003]", "--bwlimit=6M", "--compress=never", *to_each(place), place / "large"]
    client = shell.start("ensync", *words, stdout=terminal.fd, stderr=terminal.fd)
    terminal.close()
    terminal.wait_for(b" of 12.0 MiB, ")
    terminal.wait_for(b"0/3 done, 3 running")
    terminal.wait_for(b"still running: node[001-003]")
    assert client.wait(DEADLINE_S) == 0
    lines = terminal.end()
    assert lines[0].startswith("ensync: 3 files written on 3 of 3 nodes, 0 were right already: 36.0 MiB in ")
    assert "".join(lines).endswith("/s in all")


def events_of(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_json_has_reports_differences_and_what_receivers_say(shell: Shell, place: Path) -> None:
    (place / "d").mkdir()
    (place / "d/f").write_bytes(b"content")
    (place / "to/node002").touch()  # a file in the way
    words = ["-n", "node001 node002", *to_each(place), place / "d"]
    done = shell.run("ensync", "--json", *words)
    assert (done.returncode, done.stderr) == (1, b"ensync: node002: exited 1\n")
    events = events_of(done)
    assert [event["event"] for event in events if event.get("rank") == 0] == ["started", "report", "exited"]
    [report] = [event for event in events if event["event"] == "report"]
    assert [report[name] for name in ("complete", "files", "directories", "bytes")] == [True, 1, 1, 7]
    [said] = [event for event in events if event["event"] == "stderr"]
    assert (said["node"], said["newline"]) == ("node002", True)
    assert str(said["text"]).startswith(f"gexec-receive: the destination {place}/to/node002/ is not a dir")
    assert (events[0]["event"], events[-1]["event"], events[-1]["exit_status"]) == ("job", "end", 1)
    (place / "d/f").write_bytes(b"CONTENT")
    (place / "to/node002").unlink()
    done = shell.run("ensync", "--json", "--checksum", "-n", "node001", *to_each(place), place / "d")
    [difference] = [event for event in events_of(done) if event["event"] == "stdout"]
    assert difference["text"] == "differs d/f: content"
    [report] = [event for event in events_of(done) if event["event"] == "report"]
    assert (report["differing"], done.returncode) == (1, 1)
    done = shell.run("ensync", "--json", "--remove", "-n", "node001", place / "to/node001/d/f")
    assert {"job", "started", "report", "exited", "end"} <= {event["event"] for event in events_of(done)}


def test_quiet_has_failures_and_what_receivers_say_and_nothing_else(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    assert told(shell.run("ensync", "-q", *to_each(place), place / "f")) == (0, b"", b"")
    (place / "f").write_bytes(b"CONTENT")
    done = shell.run("ensync", "--quiet", "--checksum", *to_each(place), place / "f")
    assert told(done) == (1, b"", b"ensync: 8 of 8 nodes exited 1: node[001-008]\n")
    for name in ("node002", "node003"):
        shutil.rmtree(place / "to" / name)
        (place / "to" / name).touch()
    terminal = Terminal()
    client = shell.start("ensync", "-q", *to_each(place), place / "f", stdout=terminal.fd, stderr=terminal.fd)
    terminal.close()
    assert client.wait(DEADLINE_S) == 1
    lines = terminal.end()
    assert "".join(lines).startswith(f"node002 node003 gexec-receive: the destination {place}/to/%h/ is")
    assert lines[-1] == "ensync: 2 of 8 nodes exited 1: node002 node003"


def test_summary_names_those_that_succeeded(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    done = shell.run("ensync", "--summary", "-n", "node[001-003]", *to_each(place), place / "f")
    assert told(done) == (0, b"", b"ensync: 3 of 3 nodes exited 0: node[001-003]\n")


def test_headings_of_differences_have_colours_if_that_is_wanted(shell: Shell, place: Path) -> None:
    (place / "f").write_bytes(b"content")
    words = ["--checksum", "-n", "node001", "--dest", place / "to", place / "f"]
    assert b"\x1b" not in shell.run("ensync", *words).stdout
    done = shell.run("ensync", "--color=always", *words)
    assert done.stdout == b"\x1b[1m--- node001 (1) exited 1\x1b[0m\nmissing f\n"


def test_help_fits_a_screen(shell: Shell) -> None:
    done = shell.run("ensync", "--help")
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 0
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
