"""Key files: whoever could have written or read one wrongly is found, and told what to do."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gexec import limits
from gexec.errors import ConfigError, GexecError, KeyFileError
from gexec.posix import sockets
from gexec.settings.keyfiles import read_pair, read_signing_key, read_verify_keys

SOMEBODY = 4242


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, str]:
    """The pair as the seed's manual makes it."""
    directory = tmp_path / "keys"
    directory.mkdir(mode=0o755)
    private, public = str(directory / "auth_priv.pem"), str(directory / "auth_pub.pem")
    for command in (
        ["openssl", "genrsa", "-out", private],
        ["chmod", "600", private],
        ["openssl", "rsa", "-in", private, "-pubout", "-out", public],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return private, public


def refused(path: str, *words: str) -> str:
    with pytest.raises(KeyFileError) as caught:
        read_signing_key(path)
    sentence = str(caught.value)
    assert path in sentence
    assert "\n" not in sentence
    for word in words:
        assert word in sentence
    return sentence


def test_the_seeds_commands(keys: tuple[str, str]) -> None:
    signing = read_pair(keys[0], [keys[1]])
    assert list(read_verify_keys([keys[1]])) == [signing.key_id]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o666, 0o610])
def test_attack_31_private_key_open_to_others(keys: tuple[str, str], mode: int) -> None:
    os.chmod(keys[0], mode)
    refused(keys[0], f"{mode:04o}", f"chmod 600 {keys[0]}")


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o622])
def test_attack_31_public_key_writable_by_others(keys: tuple[str, str], mode: int) -> None:
    os.chmod(keys[1], mode)
    with pytest.raises(KeyFileError, match=f"chmod 644 {keys[1]}"):
        read_verify_keys([keys[1]])


def test_public_key_may_be_read_by_all(keys: tuple[str, str]) -> None:
    os.chmod(keys[1], 0o644)
    assert len(read_verify_keys([keys[1]])) == 1


def test_attack_31_symbolic_link(keys: tuple[str, str], tmp_path: Path) -> None:
    link = tmp_path / "link.pem"
    link.symlink_to(keys[0])
    refused(str(link), "symbolic link")


@pytest.mark.root
def test_attack_31_another_users_file(keys: tuple[str, str]) -> None:
    os.chown(keys[0], SOMEBODY, -1)
    refused(keys[0], f"uid {SOMEBODY}", "chown")


@pytest.mark.root
def test_attack_31_another_users_directory(keys: tuple[str, str]) -> None:
    os.chown(os.path.dirname(keys[0]), SOMEBODY, -1)
    refused(keys[0], f"uid {SOMEBODY}", "directory")


@pytest.mark.parametrize("levels", [1, 2], ids=["parent", "grandparent"])
def test_attack_31_directory_that_others_may_write_to(keys: tuple[str, str], levels: int) -> None:
    directory = Path(keys[0]).parents[levels - 1]
    before = stat.S_IMODE(directory.stat().st_mode)
    directory.chmod(0o777)
    try:
        refused(keys[0], f"chmod go-w {directory}")
    finally:
        directory.chmod(before)


def test_attack_31_directory_behind_a_link_is_judged_itself(keys: tuple[str, str], tmp_path: Path) -> None:
    directory = Path(keys[0]).parent
    (tmp_path / "short").symlink_to(directory)
    through = str(tmp_path / "short" / "auth_priv.pem")
    read_signing_key(through)
    directory.chmod(0o770)
    refused(through, "chmod go-w")


@pytest.mark.root
def test_attack_108_link_of_another_user_on_the_way(keys: tuple[str, str], tmp_path: Path) -> None:
    """Whoever owns a link in /tmp chooses the directory, also while the file is checked."""
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "short").symlink_to(Path(keys[0]).parent)
    through = str(shared / "short" / "auth_priv.pem")
    read_signing_key(through)
    os.chown(shared / "short", SOMEBODY, SOMEBODY, follow_symlinks=False)
    refused(through, f"{shared / 'short'} is a symbolic link of uid {SOMEBODY}")


def test_attack_108_link_in_a_directory_that_others_may_write_to(
    keys: tuple[str, str], tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "short").symlink_to(Path(keys[0]).parent)
    (tmp_path / "first").symlink_to("shared/../shared/short")
    through = str(tmp_path / "first" / "auth_priv.pem")
    read_signing_key(through)
    shared.chmod(0o777)
    refused(through, f"chmod go-w {shared}")


def test_not_regular(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    refused(str(tmp_path / "fifo"), "regular file")
    refused(str(tmp_path), "regular file")
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
        refused(str(tmp_path / "socket"), "cannot be opened")


def test_size(tmp_path: Path) -> None:
    for size, word in ((0, "PEM"), (limits.KEY_FILE_MAX_BYTES + 1, "larger than")):
        path = tmp_path / f"{size}.pem"
        path.write_bytes(b"x" * size)
        path.chmod(0o600)
        refused(str(path), word)


def test_missing_says_how_to_make_it(tmp_path: Path) -> None:
    refused(str(tmp_path / "no.pem"), "openssl genrsa", "chmod 600")
    with pytest.raises(KeyFileError, match="-pubout"):
        read_verify_keys([str(tmp_path / "no.pem")])


def test_pair_that_does_not_match(keys: tuple[str, str], tmp_path: Path) -> None:
    other = str(tmp_path / "other.pem")
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", other], check=True)
    os.chmod(other, 0o600)
    with pytest.raises(KeyFileError, match="does not match"):
        read_pair(other, [keys[1]])


def test_rotation_by_files_and_by_blocks(keys: tuple[str, str], tmp_path: Path) -> None:
    other, public = str(tmp_path / "other.pem"), str(tmp_path / "other_pub.pem")
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", other], check=True)
    subprocess.run(["openssl", "pkey", "-in", other, "-pubout", "-out", public], check=True)
    both = read_verify_keys([keys[1], public])
    assert len(both) == 2
    with open(keys[1], "ab") as file:
        file.write(Path(public).read_bytes())
    assert set(read_verify_keys([keys[1]])) == set(both)


# -- the daemons' unix sockets ------------------------------------------------------------------


def refused_socket(path: Path, *words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sockets.listen(str(path), what="authd")
    for word in words:
        assert word in str(caught.value)
    assert isinstance(caught.value, GexecError)


def test_socket_is_made_but_not_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run" / "authd.sock"
    with pytest.raises(ConfigError, match=r"there is no .*/run for the socket: make it"):
        sockets.listen(str(path), what="authd")
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(sockets, "RUN_DIRECTORY", str(path.parent))  # as /run/gexec after a boot
    with sockets.listen(str(path), what="authd"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o666 if os.geteuid() == 0 else 0o600)
        assert stat.S_IMODE(path.parent.stat().st_mode) & 0o022 == 0


def test_attack_30_live_socket_is_not_replaced_and_a_dead_one_is(tmp_path: Path) -> None:
    path = tmp_path / "authd.sock"
    first = sockets.listen(str(path), what="authd")
    refused_socket(path, "already runs", "--socket")
    sockets.remove(str(path), "authd")
    assert path.exists()
    first.close()
    second = sockets.listen(str(path), what="authd")
    second.close()
    sockets.remove(str(path), "authd")
    assert not path.exists()


def test_attack_30_live_socket_with_a_full_queue_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "authd.sock"
    with sockets.listen(str(path), what="authd", backlog=0):
        waiting: list[socket.socket] = []

        def fill() -> None:
            for _ in range(64):
                sock = socket.socket(socket.AF_UNIX)
                sock.setblocking(False)
                waiting.append(sock)
                sock.connect(str(path))

        with pytest.raises(BlockingIOError):
            fill()
        refused_socket(path, "already runs")
        for sock in waiting:
            sock.close()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_attack_30_directory_that_others_may_write_to(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    directory.chmod(mode)
    refused_socket(directory / "authd.sock", "chmod go-w")
    assert not (directory / "authd.sock").exists()


def test_attack_30_symbolic_link_or_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    refused_socket(tmp_path / "link", "no socket")
    refused_socket(tmp_path / "target", "no socket")
    assert (tmp_path / "target").read_text() == "kept"
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    refused_socket(tmp_path / "linked" / "authd.sock", "expected a directory")


@pytest.mark.root
def test_attack_30_another_users_socket_or_directory(tmp_path: Path) -> None:
    path = tmp_path / "run" / "authd.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as squatter:
        squatter.bind(str(path))
    os.chown(path, SOMEBODY, -1)
    refused_socket(path, f"belongs to uid {SOMEBODY}")
    path.unlink()
    os.chown(path.parent, SOMEBODY, -1)
    refused_socket(path, f"uid {SOMEBODY}")


def test_path_over_the_kernels_limit(tmp_path: Path) -> None:
    refused_socket(tmp_path / ("x" * 108), "107 bytes")
