"""What is there already is not sent: counted on a loopback interface that only this copy uses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import BIN, DEADLINE_S

pytestmark = [
    pytest.mark.root,
]
#: Runs in a network namespace: a cluster of 8, and copies; prints the bytes that each of them sent.
_PROGRAM = """
import fcntl, json, os, socket, struct, subprocess, sys
from pathlib import Path

place, bin_ = Path(sys.argv[1]), sys.argv[2]
with socket.socket() as sock:  # the loopback interface is up
    fcntl.ioctl(sock, 0x8914, struct.pack("16sh14x", b"lo", 1))

def command(name, *words):
    return [sys.executable, f"{bin_}/{name}", *map(str, words)]

def sent():
    [line] = [line for line in Path("/proc/net/dev").read_text().splitlines() if "lo:" in line]
    return int(line.split(":")[1].split()[8])

env = {**os.environ, "GEXEC_CLUSTER_DIR": str(place / "cluster")}
env.pop("GEXEC_NODELIST", None)
subprocess.run(command("gexecctl", "cluster", "up", 8), env=env, check=True, stdout=subprocess.DEVNULL)
try:
    text = subprocess.run(
        command("gexecctl", "cluster", "env"), env=env, check=True, capture_output=True, text=True
    ).stdout
    shell = ["sh", "-c", text + '\\nexec "$@"', "sh"]

    def copy(name, *words):
        before = sent()
        done = subprocess.run([*shell, *command(name, *words)], env=env, capture_output=True, text=True)
        return {"sent": sent() - before, "status": done.returncode, "said": done.stderr}

    tree, large, to = place / "tree", place / "large", ["--parents", "--dest", f"{place}/to/%h/"]
    told = {"first": copy("ensync", *to, tree, large)}
    told["again"] = copy("ensync", "-v", *to, tree, large)
    told["dry run"] = copy("ensync", "--dry-run", *to, tree, large)
    told["checksum"] = copy("ensync", "--checksum", *to, tree, large)
    told["by content"] = copy("ensync", "--checksum-compare", *to, tree, large)
    os.utime(large, ns=(1, 1))
    large.chmod(0o600)
    told["touched"] = copy("ensync", "-v", *to, tree, large)
    (tree / "7").write_bytes(os.urandom(100_000))
    told["one changed"] = copy("ensync", "-v", *to, tree, large)
    fetched = ["-n", "0", "-v", "--fetch", tree, "--fetch", large, "--to", place / "from"]
    told["fetch"] = copy("gexec", *fetched)
    told["fetch again"] = copy("gexec", *fetched)
    print(json.dumps(told))
finally:
    subprocess.run(command("gexecctl", "cluster", "down"), env=env, check=True, stdout=subprocess.DEVNULL)
"""
FILES = 1000
#: What one entry of a list and its answer may take on each node.
ENTRY_BYTES = 170
LARGE_BYTES = 24 << 20


@pytest.fixture
def place() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="gxb", dir="/tmp"))
    (place / "tree").mkdir()
    for number in range(FILES):
        (place / "tree" / str(number)).write_bytes(os.urandom(400))
    (place / "large").write_bytes(os.urandom(LARGE_BYTES))
    yield place
    shutil.rmtree(place)


def test_only_what_is_lacking_is_sent(place: Path) -> None:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-n", "true"]).returncode:
        pytest.skip("no network namespace can be made here")
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", _PROGRAM, place, BIN],
        capture_output=True,
        text=True,
        timeout=4 * DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {name: each["status"] for name, each in told.items()} == dict.fromkeys(told, 0), told
    sent = {name: each["sent"] for name, each in told.items()}
    assert sent["first"] > 8 * LARGE_BYTES
    assert sent["fetch"] > 8 * LARGE_BYTES
    for name in ("again", "dry run", "checksum", "by content", "touched", "fetch again"):
        assert sent[name] < 8 * FILES * ENTRY_BYTES, sent
    assert f"0 files written on 8 of 8 nodes, {8 * (FILES + 1)} were right already" in told["again"]["said"]
    assert f"8 files written on 8 of 8 nodes, {8 * FILES} were right already" in told["touched"]["said"]
    assert f"8 files written on 8 of 8 nodes, {8 * FILES} were right already" in told["one changed"]["said"]
    assert 8 * 100_000 < sent["one changed"] < 8 * (100_000 + FILES * ENTRY_BYTES), sent
    assert (place / "from" / "node008").is_dir()
