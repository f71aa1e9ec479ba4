"""Files and directories that another user could have written, given to the commands of root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import DEADLINE_S
from .daemons import RELAY_USER, command

SOMEBODY = 54321
pytestmark = pytest.mark.root


@pytest.fixture
def place() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="gxt", dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def run(name: str, *words: object, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GEXEC_")}
    return subprocess.run(
        command(name, *words), env=clean | env, capture_output=True, text=True, timeout=DEADLINE_S
    )


def test_attack_108_gexecd_of_root_takes_no_names_from_another_users_file(place: Path) -> None:
    """As in a shell of root with the environment of a user's cluster."""
    keys = run("gexecctl", "keys", "init", "--dir", place, "--type", "ed25519")
    assert keys.returncode == 0, keys.stderr
    hosts = place / "hosts"
    hosts.write_text("127.0.0.1 another\n")
    os.chown(hosts, SOMEBODY, SOMEBODY)
    words = [*RELAY_USER, "-P", 0, "--public-key", place / "auth_pub.pem", "--socket", place / "g.sock"]
    done = run("gexecd", *words, GEXEC_HOSTS=str(hosts))
    assert done.returncode == 1
    assert done.stderr.startswith(f"gexecd: hosts file {hosts}: belongs to uid {SOMEBODY}, expected root")
    assert not (place / "g.sock").exists()


def test_attack_109_log_of_root_is_no_file_of_another_user(place: Path) -> None:
    run("gexecctl", "keys", "init", "--dir", place, "--type", "ed25519")
    log = place / "log"
    words = [*RELAY_USER, "-d", "-P", 0, "--public-key", place / "auth_pub.pem", "--socket", place / "g.sock"]
    for make in (os.mkfifo, Path.touch):
        make(log)
        os.chown(log, SOMEBODY, SOMEBODY)
        done = run("gexecd", *words, "--log", log)
        assert done.returncode == 1
        assert str(log) in done.stderr
        assert log.lstat().st_size == 0
        log.unlink()


@pytest.mark.parametrize("action", ["up", "down", "status", "env", "pids", "addresses"])
def test_attack_109_cluster_of_root_in_another_users_directory(place: Path, action: str) -> None:
    """The directory has a state that names a process of root, and links to files of root."""
    theirs, victim = place / "theirs", place / "victim"
    victim.write_text("precious")
    for name in ("", "keys", "run", "logs", "audit"):
        (theirs / name).mkdir()
    (theirs / "logs" / "supervisor.log").symlink_to(victim)
    (theirs / "hosts").symlink_to(victim)
    with subprocess.Popen(["sleep", "600"]) as process:
        try:
            started = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()[19]
            one = f"[{process.pid}, {started}]"
            (theirs / "state.json").write_text(
                f'{{"format": 1, "port": 2875, "complete": true, "supervisor": {one}, "guard": {one}, '
                f'"authd": {one}, "private": [], "nodes": [["node001", "127.0.1.1", {one}]]}}'
            )
            for path in (theirs, *theirs.rglob("*")):
                os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
            words = {"up": ["1"], "pids": ["node001"]}.get(action, [])
            done = run("gexecctl", "cluster", action, *words, "--dir", theirs)
            assert done.returncode == 1, done.stdout
            assert done.stdout == ""
            assert f"belongs to uid {SOMEBODY}" in done.stderr
            assert process.poll() is None
            # Its owner lays hands on it again after root has taken over the file only.
            os.chown(theirs / "state.json", 0, 0)
            again = run("gexecctl", "cluster", action, *words, "--dir", theirs)
            assert again.returncode == 1
            assert f"the directory {theirs} belongs to uid {SOMEBODY}" in again.stderr
            assert process.poll() is None
        finally:
            process.kill()
    assert victim.read_text() == "precious"
    assert sorted(path.name for path in theirs.iterdir()) == [
        "audit", "hosts", "keys", "logs", "run", "state.json"
    ]  # fmt: skip
