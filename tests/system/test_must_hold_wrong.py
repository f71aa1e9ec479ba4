"""What goes wrong gets one clear sentence that names node and cause, and harms nothing else."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

import gexec
from gexec.client.job import Request, build
from gexec.client.session import OVER, JobSession
from gexec.errors import DaemonError
from gexec.posix.unix import connect
from gexec.security.signing import SigningKey, issue
from gexec.wire.outcome import DENIED, Outcome

from .conftest import DEADLINE_S, Cluster
from .daemons import RELAY_USER, Service, command, make_keys
from .must_hold import sorted_lines

STRAY = "stray"


def _said(ended: subprocess.CompletedProcess[bytes]) -> list[str]:
    lines = ended.stderr.decode().splitlines()
    assert all(line.startswith("gexec: ") for line in lines), lines
    return lines


def _enter(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give this process the environment of the cluster."""
    for name, value in cluster.env.items():
        if name.startswith("GEXEC_"):
            monkeypatch.setenv(name, value)


# -- on the client's side -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, "", "  "])
def test_no_nodes(cluster: Cluster, value: str | None) -> None:
    env = {name: text for name, text in cluster.env.items() if name != "GEXEC_SVRS"}
    if value is not None:
        env["GEXEC_SVRS"] = value
    done = subprocess.run(cluster.command("true"), env=env, stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 2
    assert b"no nodes: " in done.stderr.splitlines()[0]
    assert b"GEXEC_SVRS" in done.stderr


def test_no_authd(cluster: Cluster, tmp_path: Path) -> None:
    path = str(tmp_path / "no.sock")
    ended = cluster.gexec("true", env={"GEXEC_AUTHD_SOCKET": path})
    assert ended.returncode == 255
    hint = "start it with `authd -d`, or in hardened mode use a head"
    assert _said(ended) == [f"gexec: authd does not run here: no socket at {path}; {hint}"]


def test_no_gexecd(cluster: Cluster, tmp_path: Path) -> None:
    path = str(tmp_path / "no.sock")
    ended = cluster.gexec("true", env={"GEXEC_SOCKET": path})
    assert ended.returncode == 255
    hint = "start it with `gexecd -d`, or in hardened mode use a head"
    assert _said(ended) == [f"gexec: gexecd does not run here: no socket at {path}; {hint}"]


def test_more_arguments_than_a_job_may_have(cluster: Cluster) -> None:
    ended = cluster.gexec("true", *(["x" * 100_000] * 15))
    assert ended.returncode == 2
    (line,) = _said(ended)
    assert "1048576" in line or "1 MiB" in line, line


def test_two_mebibytes_of_arguments(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel lets no shell start gexec with so many, so they come from Python.
    _enter(cluster, monkeypatch)
    with pytest.raises(gexec.UsageError) as refused:
        gexec.run(["true", *(["x" * 100_000] * 21)])
    assert "1048576" in str(refused.value) or "1 MiB" in str(refused.value)
    with pytest.raises(gexec.UsageError) as refused:
        gexec.run(["true", "x" * 2 * 1024 * 1024])
    assert "131071" in str(refused.value)


def test_one_argument_as_long_as_the_kernel_takes(cluster: Cluster) -> None:
    ended = cluster.gexec("-n2", "sh", "-c", "echo ${#0}", "x" * 131071)
    assert sorted_lines(ended.stdout) == ["0 131071", "1 131071"]


def test_a_name_that_does_not_resolve(cluster: Cluster) -> None:
    names = " ".join([*cluster.names, "no-such-host.invalid"])
    ended = cluster.gexec("-p", "host", "echo", "x", env={"GEXEC_SVRS": names})
    assert ended.returncode == 255
    assert sorted_lines(ended.stdout) == [f"{name} x" for name in cluster.names]
    assert len(_said(ended)) == 1
    assert _said(ended)[0].startswith("gexec: no-such-host.invalid: not started: the name does not resolve")


def test_a_program_that_is_not_found_here(cluster: Cluster, tmp_path: Path) -> None:
    ended = cluster.gexec("no-such-program")
    assert (ended.returncode, len(_said(ended))) == (127, 1)
    (tmp_path / "data").write_text("no program")
    ended = cluster.gexec("data", env={"PATH": str(tmp_path)})
    assert (ended.returncode, len(_said(ended))) == (126, 1)


# -- on some nodes ------------------------------------------------------------------------------


def _stray(cluster: Cluster, folder: Path, *words: object, before: list[str] | None = None) -> Service:
    """Start one more gexecd of the cluster, by its own command line."""
    folder.chmod(0o755)
    (folder / "s").mkdir(mode=0o755, exist_ok=True)
    address = f"127.250.8.{1 + os.getpid() % 200}"
    hosts = folder / "hosts"
    hosts.write_text(Path(cluster.env["GEXEC_HOSTS"]).read_text() + f"{address} {STRAY}\n")
    options: list[object] = [
        "-P", cluster.state.port, "--bind", address, "--socket", folder / "s" / "g.sock",
        "--authd-socket", cluster.place.authd_socket, "--name", STRAY, "--name", address,
        "--hosts", hosts, "--audit-log", folder / "audit", *words,
    ]  # fmt: skip
    if not any(str(word) == "--public-key" for word in words):
        options += ["--public-key", cluster.place.public_key]
    return (_Wrapped(before, options, folder) if before else Service("gexecd", options, folder)).ready()


class _Wrapped(Service):
    """A gexecd behind another program that becomes it."""

    def __init__(self, before: list[str], words: list[object], place: Path) -> None:
        self.name, self.err = "gexecd", place / "wrapped.err"
        self._reading, writing = os.pipe()
        with self.err.open("ab") as err:
            self.process = subprocess.Popen(
                [*before, *command("gexecd", *RELAY_USER, *words), "--ready-fd", str(writing)],
                pass_fds=[writing], stderr=err, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        os.close(writing)


def _with_stray(cluster: Cluster, folder: Path) -> dict[str, str]:
    names = " ".join([*cluster.names[:3], STRAY, *cluster.names[3:]])
    return {"GEXEC_SVRS": names, "GEXEC_HOSTS": str(folder / "hosts")}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path that other users may enter."""
    place = Path(tempfile.mkdtemp(prefix="gxw", dir="/tmp"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place, ignore_errors=True)


def _others(cluster: Cluster) -> list[str]:
    return [f"{name} x" for name in cluster.names]


def _private_mount(over: Path, by: Path) -> list[str]:
    """Return the command that becomes another one which sees ``by`` where others see ``over``."""
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    return ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", str(by), str(over)]


@pytest.fixture
def lacking(cluster: Cluster, folder: Path) -> Iterator[dict[str, str]]:
    """Eight nodes with good programs and a directory, and one, STRAY, with ``here`` being different."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a daemon files of its own (a private mount namespace)")
    here, there = folder / "here", folder / "there"
    for place in (here, there):
        (place / "bin").mkdir(parents=True)
    for place, name, mode in ((here, "missing", 0o755), (here, "locked", 0o755), (there, "locked", 0o644)):
        (place / "bin" / name).write_text('#!/bin/sh\necho "$*"\n')
        (place / "bin" / name).chmod(mode)
    (here / "cwd").mkdir()
    if subprocess.run([*_private_mount(here, there), "true"], capture_output=True).returncode:
        pytest.skip("this root may not make mount namespaces")
    stray = _stray(cluster, folder, before=_private_mount(here, there))
    yield _with_stray(cluster, folder)
    stray.stop()


@pytest.mark.root
@pytest.mark.parametrize(
    ("words", "status", "cause"),
    [
        (
            ["{here}/bin/missing", "x"],
            127,
            "No such file or directory on this node (--remote-path looks for a ",
        ),
        (["{here}/bin/locked", "x"], 126, "Permission denied"),
        (["--remote-path", "missing", "x"], 127, "missing"),
        (["--remote-path", "locked", "x"], 126, "locked"),
        (["--chdir={here}/cwd", "echo", "x"], 255, "{here}/cwd"),
    ],
)
def test_what_is_missing_on_one_node(
    cluster: Cluster, lacking: dict[str, str], folder: Path, words: list[str], status: int, cause: str
) -> None:
    here = str(folder / "here")
    words = [word.format(here=here) for word in words]
    ended = cluster.gexec("-p", "host", *words, env=lacking | {"PATH": f"{here}/bin:{os.environ['PATH']}"})
    assert ended.returncode == status
    assert sorted_lines(ended.stdout) == _others(cluster)
    (line,) = _said(ended)
    assert line.startswith(f"gexec: {STRAY}: not started: "), line
    assert cause.format(here=here) in line


@pytest.mark.root
def test_strict_runs_nothing_when_the_program_is_missing_on_one_node(
    cluster: Cluster, lacking: dict[str, str], folder: Path
) -> None:
    program = folder / "here" / "bin" / "missing"
    witness = folder / "witness"
    program.write_text(f"#!/bin/sh\ntouch {witness}.$GEXEC_MY_VNN\n")
    ended = cluster.gexec("--strict", program, env=lacking)
    assert ended.returncode == 255
    assert not list(folder.glob("witness*"))
    said = _said(ended)
    assert any(line.startswith(f"gexec: {STRAY}: not started: ") and "No such file" in line for line in said)
    assert any("--strict: 1 of 9 nodes cannot start it" in line for line in said)
    ended = cluster.gexec("--strict", program)
    assert (ended.returncode, len(list(folder.glob("witness.*")))) == (0, 8)


def test_a_node_with_another_key(cluster: Cluster, folder: Path) -> None:
    # Its certificate is of this cluster, but it believes another authd.
    public = folder / "pub.pem"
    make_keys(folder / "priv.pem", public)
    stray = _stray(cluster, folder, "--public-key", public)
    try:
        ended = cluster.gexec("-p", "host", "echo", "x", env=_with_stray(cluster, folder))
    finally:
        stray.stop()
    assert ended.returncode == 255
    assert sorted_lines(ended.stdout) == _others(cluster)
    (line,) = _said(ended)
    assert line.startswith(f"gexec: {STRAY}: denied: "), line
    assert "key" in line


def test_ipv6(cluster: Cluster, folder: Path) -> None:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
            port = free.getsockname()[1]
    except OSError:
        pytest.skip("no IPv6 here")
    # Every host is ::1, so only the host that signed the job takes it: this daemon has its name, too.
    host = cluster.names[0]
    stray = _stray(cluster, folder, "--bind", "::1", "-P", port, "--name", "::1", "--name", host)
    try:
        for name in (f"[::1]:{port}", "::1"):
            env = {"GEXEC_SVRS": name, "GEXEC_PORT": str(port)}
            ended = cluster.gexec("-p", "host", "sh", "-c", "echo $GEXEC_NODE", env=env)
            assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"::1 ::1\n", b"")
    finally:
        stray.stop()


def test_a_name_that_stands_thrice_runs_three_processes(cluster: Cluster) -> None:
    names = f"{cluster.names[1]} {cluster.names[0]} {cluster.names[1]} {cluster.names[1]}"
    ended = cluster.gexec(
        "-p", "none", "sh", "-c", "echo $GEXEC_MY_VNN $GEXEC_NODE $GEXEC_NPROCS", env={"GEXEC_SVRS": names}
    )
    assert sorted_lines(ended.stdout) == ["0 node002 4", "1 node001 4", "2 node002 4", "3 node002 4"]


# -- the credential -----------------------------------------------------------------------------


def _submit(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, sign: Callable[[bytes], bytes], *argv: str
) -> list[Outcome]:
    """Submit a job by hand, with the credential that ``sign`` gives; return the outcomes."""
    _enter(cluster, monkeypatch)
    job, _ = build(Request(argv))
    blob = job.encode()
    session = JobSession(job.ranks, job.window)
    session.submit(sign(blob), blob)
    sock = connect(cluster.env["GEXEC_SOCKET"], "gexecd", DaemonError, DEADLINE_S)
    try:
        sock.sendall(session.outgoing())
        while session.state != OVER and (data := sock.recv(65536)):
            session.feed(data)
    finally:
        sock.close()
    return session.ended_outcomes()


def _signed(cluster: Cluster, blob: bytes, *, off_s: float = 0.0, job_id: bytes = b"") -> bytes:
    """Return what this cluster's authd would have signed, its clock being ``off_s`` fast."""
    key = SigningKey.load(cluster.place.private_key.read_bytes())
    account = pwd.getpwuid(os.geteuid())
    return issue(
        key, realm="gexec", audience="gexec", host=cluster.names[0], uid=account.pw_uid, gid=account.pw_gid,
        user=account.pw_name, now_s=time.time() + off_s, ttl_s=60, job_id=job_id or os.urandom(16),
        digest=sha256(blob).digest(),
    )  # fmt: skip


def test_a_credential_made_by_hand_is_good_so_that_the_others_fail_for_their_reason(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    os.chmod(tmp_path, 0o777)
    outcomes = _submit(
        cluster, monkeypatch, lambda blob: _signed(cluster, blob), "touch", str(tmp_path / "w")
    )
    assert all(outcome.ok for outcome in outcomes)
    assert (tmp_path / "w").exists()


@pytest.mark.parametrize(("off_s", "cause"), [(-3600.0, "3600.0 s ago"), (3600.0, "future")])
def test_a_clock_that_is_off_by_an_hour(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, off_s: float, cause: str
) -> None:
    os.chmod(tmp_path, 0o777)
    with pytest.raises(DaemonError) as refused:
        _submit(
            cluster,
            monkeypatch,
            lambda blob: _signed(cluster, blob, off_s=off_s),
            "touch",
            str(tmp_path / "w"),
        )
    assert cause in str(refused.value)
    assert "clock" in str(refused.value)
    assert not (tmp_path / "w").exists()


def test_a_job_that_was_altered_after_it_was_signed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    os.chmod(tmp_path, 0o777)
    with pytest.raises(DaemonError):
        _submit(
            cluster, monkeypatch, lambda blob: _signed(cluster, blob + b"x"), "touch", str(tmp_path / "w")
        )
    assert not (tmp_path / "w").exists()


def test_a_replayed_job(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o777)
    kept: list[tuple[bytes, bytes]] = []

    def sign(blob: bytes) -> bytes:
        kept.append((_signed(cluster, blob), blob))
        return kept[0][0]

    argv = ["sh", "-c", f"echo >>{tmp_path}/w.$GEXEC_MY_VNN"]
    assert all(outcome.ok for outcome in _submit(cluster, monkeypatch, sign, *argv))
    job, _ = build(Request(argv))
    session = JobSession(job.ranks, job.window)
    session.submit(*kept[0])  # to the letter what was sent before
    sock = connect(cluster.env["GEXEC_SOCKET"], "gexecd", DaemonError, DEADLINE_S)
    try:
        sock.sendall(session.outgoing())
        while session.state != OVER and (data := sock.recv(65536)):
            session.feed(data)
    except DaemonError:
        pass
    else:
        assert {outcome.kind for outcome in session.ended_outcomes()} == {DENIED}
    finally:
        sock.close()
    assert [path.read_text() for path in tmp_path.glob("w.*")] == ["\n"] * 8


def test_the_cluster_serves_on_after_all_that(cluster: Cluster) -> None:
    assert cluster.gexec("true").returncode == 0
