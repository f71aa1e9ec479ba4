"""gexecd and authd as services: their command lines, signals, identities, and what they remember."""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gexec.authd import authd as authd_service
from gexec.gexecd import gexecd as gexecd_service
from gexec.posix.background import LOG_DIRECTORY, logs_of
from gexec.posix.readiness import announce
from gexec.relay import relay as _relay  # noqa: F401  before a child is somebody who cannot read it
from gexec.settings.config import AuthdSettings, GexecdSettings
from gexec.wire import outcome
from gexec.wire.frames import Refused

from .conftest import DEADLINE_S, wait_until
from .daemons import (
    NODE,
    RELAY_USER,
    Host,
    children_of,
    command,
    ended,
    is_gone,
    make_keys,
    relay_of,
    status_of,
    submit,
    wait_for_file,
)


@pytest.fixture(scope="module")
def _host() -> Iterator[Host]:
    host = Host()
    try:
        host.start_authd()
        yield host
    finally:
        host.close()


@pytest.fixture
def host(_host: Host) -> Iterator[Host]:
    """One authd for all tests; each starts the gexecd that it needs."""
    public = _host.public.read_bytes()
    yield _host
    _host.public.write_bytes(public)
    _host.stop_daemons()
    left = daemons_of(_host)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, "a daemon in the background is left"


@pytest.fixture
def fifo(host: Host) -> Iterator[Path]:
    """A named pipe that a job may wait for, so that it ends exactly when a test wants it."""
    path = host.dir / "fifo"
    os.mkfifo(path)
    path.chmod(0o666)
    yield path
    path.unlink()


def run_to_end(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=DEADLINE_S, **options)  # type: ignore[call-overload,no-any-return]


def hostname_works(host: Host) -> None:
    done = host.gexec("echo", "it works")
    assert (done.returncode, done.stdout) == (0, "0 it works\n"), done.stderr


def running(host: Host, fifo: Path) -> subprocess.Popen[str]:
    """Start a job that says `up`, waits for the fifo, and says what it has read."""
    job = host.begin("-p", "none", "sh", "-c", f"echo up; read answer < {fifo}; echo $answer")
    assert job.stdout is not None
    assert job.stdout.readline() == "up\n"
    return job


def let_end(fifo: Path, answer: str = "done") -> None:
    fd = os.open(fifo, os.O_WRONLY)
    os.write(fd, f"{answer}\n".encode())
    os.close(fd)


# -- the command line --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["-h"], 0, "--daemon"),
        (["--help"], 0, "--inetd"),
        (["-V"], 0, "gexecd "),
        (["--nonsense"], 2, "unrecognized arguments"),
        (["-P", "many"], 2, "invalid int value"),
        (["-i", "-d"], 2, "-i and -d"),
        (["-P", "70000"], 1, "expected 0 to 65535"),
        (["--config", "/nonexistent/gexecd.toml"], 1, "/nonexistent/gexecd.toml"),
        (["--realm", "a cluster"], 1, "realm"),
        (["--bind", "no such address"], 1, "cannot listen on no such address"),
        (["--bind", "192.0.2.77"], 1, "this machine has no such address"),
        (["--socket", "/nonexistent/d.sock"], 1, "there is no /nonexistent for the socket"),
        (["--socket", "/" + "long" * 40], 1, "at most 107"),
        (["--public-key", "/nonexistent/key.pem"], 1, "/nonexistent/key.pem"),
        (["--name", "no/name"], 1, "no/name"),
    ],
)
def test_words(host: Host, words: list[str], status: int, said: str) -> None:
    done = run_to_end(*command("gexecd", *host.words(*words)), env=host.env)
    assert done.returncode == status, done
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "another gexecd" not in done.stderr
    assert not Path("/nonexistent").exists()
    if status:
        assert done.stderr.startswith(("gexecd: ", "usage: "))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = ", "not a TOML file"),
        ("prot = 2875", "'prot' is not a setting"),
        ("port = 'http'", "expected a whole number"),
        ("[policy]\nroot = 1", "expected true or false"),
        ("lost_after_s = 1.0", "heartbeat_s < lost_after_s"),
    ],
)
def test_bad_settings_name_file_and_key(host: Host, text: str, said: str) -> None:
    path = host.config(text)
    done = run_to_end(*command("gexecd", *host.words("--config", path)), env=host.env)
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_settings_that_others_may_write_are_refused(host: Host) -> None:
    path = host.config("")
    path.chmod(0o666)
    done = run_to_end(*command("gexecd", *host.words("--config", path)), env=host.env)
    assert done.returncode == 1
    assert "chmod" in done.stderr


def test_port_in_use_is_told(host: Host) -> None:
    with socket.create_server((host.address, host.port)):
        done = run_to_end(*command("gexecd", *host.words()), env=host.env)
    assert done.returncode == 1
    assert f"cannot listen on {host.address} port {host.port}" in done.stderr
    assert "choose another port with -P" in done.stderr
    assert not host.socket.exists()


def test_second_gexecd_leaves_the_first_alone(host: Host) -> None:
    host.gexecd()
    done = run_to_end(*command("gexecd", *host.words("--bind", "127.0.0.99")), env=host.env)
    assert done.returncode == 1
    hostname_works(host)


def test_listens_on_every_bound_address_and_on_no_other(host: Host) -> None:
    other = host.address.rpartition(".")[0] + ".201"
    host.gexecd("--bind", other)
    for address in (host.address, other):
        socket.create_connection((address, host.port), DEADLINE_S).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host.address.rpartition(".")[0] + ".202", host.port), DEADLINE_S)
    hostname_works(host)


def test_starts_before_its_authd(host: Host) -> None:
    assert host.authd is not None
    host.authd.stop()
    host.services.remove(host.authd)
    gexecd = host.gexecd(ready=False)
    wait_until(host.socket.exists, "gexecd has not come to its client socket")
    host.start_authd()
    gexecd.ready()
    hostname_works(host)


def test_tells_systemd_that_it_is_ready(host: Host) -> None:
    path = host.dir / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(DEADLINE_S)
        before = dict(host.env)
        host.env["NOTIFY_SOCKET"] = str(path)
        try:
            host.gexecd()
        finally:
            host.env = before
        assert notify.recv(100) == b"READY=1"
    path.unlink()


# -- -d ----------------------------------------------------------------------------------------


def daemons_of(host: Host) -> list[int]:
    """Return the spawners in the background that were started with this host's socket."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            name = (entry / "comm").read_text().strip() if words else ""
        except OSError:
            continue
        if os.fsencode(host.socket) in words and b"-d" in words and name == "gexecd-spawner":
            found.append(int(entry.name))
    return found


def test_daemon_returns_when_it_listens_and_keeps_its_log(host: Host) -> None:
    log = host.dir / "gexecd.log"
    words = [word for word in host.words("-d", "--log", log) if word not in ("--audit-log", host.audit)]
    # Were stderr or stdout left open, the pipes of this call would not end.
    done = run_to_end(*command("gexecd", *words), env=host.env)
    assert done.returncode == 0, done.stderr
    (pid,) = daemons_of(host)
    try:
        hostname_works(host)
        status = status_of(pid)
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.getsid(pid) not in (os.getsid(0), pid)  # nor can it get a terminal
        assert status["PPid"] != [str(os.getpid())]
        for process in (pid, relay_of(pid)):
            if os.geteuid() == 0 or process == pid:
                assert os.readlink(f"/proc/{process}/fd/2") == str(log)
                assert os.readlink(f"/proc/{process}/fd/0") == "/dev/null"
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: "reloaded: 1 public keys accepted" in log.read_text(), "SIGHUP is not in the log")
        audit = host.dir / "gexecd-audit.log"
        assert '"event":"exit"' in audit.read_text()
        for path in (log, audit):
            assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: is_gone(pid), "the daemon in the background has not ended")
    assert not host.socket.exists()


def test_daemon_that_cannot_start_says_why_to_the_caller(host: Host) -> None:
    host.gexecd()
    done = run_to_end(*command("gexecd", *host.words("-d", "--log", host.dir / "second.log")), env=host.env)
    assert done.returncode == 1
    assert "is another gexecd running" in done.stderr


def test_daemon_refuses_a_log_that_is_a_link(host: Host) -> None:
    link = host.dir / "link.log"
    link.symlink_to(host.dir / "elsewhere")
    done = run_to_end(*command("gexecd", *host.words("-d", "--log", link)), env=host.env)
    assert done.returncode == 1
    assert f"log {link}: cannot be written" in done.stderr
    assert not (host.dir / "elsewhere").exists()
    link.unlink()


def test_authd_in_the_background_keeps_its_log(host: Host) -> None:
    place = host.dir / "authd"
    (place / "run").mkdir(parents=True)
    words = host.authd_words("-d", "--log", place / "authd.log", "--socket", place / "run" / "authd.sock")
    done = run_to_end(*command("authd", *words), env=host.env)
    assert done.returncode == 0, done.stderr
    line = (place / "authd.log").read_text()
    assert "listens at" in line
    pid = int(line.partition("[")[2].partition("]")[0])
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not (place / "run" / "authd.sock").exists(), "authd has not ended")
    wait_until(lambda: is_gone(pid), "authd has not ended")


def test_logs_have_a_place_without_being_named(host: Host) -> None:
    if os.geteuid() == 0:
        assert logs_of("gexecd", "/x/y").log == f"{LOG_DIRECTORY}/gexecd.log"
    else:
        assert logs_of("gexecd", str(host.socket)).log == str(host.dir / "run" / "gexecd.log")
    named = logs_of("gexecd", "/x/y", log=str(host.dir / "a.log"))
    assert named.audit == (str(host.dir / "gexecd-audit.log"),)
    assert logs_of("authd", "/x/y", log=str(host.dir / "a.log"), audit=("/a/b",)).audit == ("/a/b",)


# -- sockets of others -------------------------------------------------------------------------


def test_inetd_gives_the_listening_socket(host: Host) -> None:
    with socket.create_server((host.address, host.port), backlog=64) as listener:
        gexecd = host.gexecd("-i", bind=False, stdin=listener)
    hostname_works(host)
    assert os.readlink(f"/proc/{gexecd.pid}/fd/0") == "/dev/null"
    gexecd.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host.address, host.port), DEADLINE_S)


def test_inetd_with_one_connection_is_refused(host: Host) -> None:
    with (
        socket.create_server((host.address, 0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as connection,
    ):
        done = run_to_end(*command("gexecd", *host.words("-i", bind=False)), env=host.env, stdin=connection)
    assert done.returncode == 1
    assert "use `wait`" in done.stderr


def test_inetd_without_a_socket_is_refused(host: Host) -> None:
    words = command("gexecd", *host.words("-i", bind=False))
    done = run_to_end(*words, env=host.env, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert "it is no socket" in done.stderr


def activated(host: Host, *sockets: socket.socket) -> list[str]:
    """Return a command line that has these sockets as systemd would give them."""
    moves = " ".join(f"{number}<&{sock.fileno()}" for number, sock in enumerate(sockets, 3))
    script = f'LISTEN_PID=$$ LISTEN_FDS={len(sockets)} LISTEN_FDNAMES=x exec "$@" {moves}'
    return ["bash", "-c", script, "bash", *command("gexecd", *host.words(bind=False))]


def test_systemd_gives_listening_sockets(host: Host) -> None:
    host.socket.parent.mkdir(exist_ok=True)
    host.socket.unlink(missing_ok=True)
    with (
        socket.create_server((host.address, host.port), backlog=64) as links,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as clients,
    ):
        clients.bind(str(host.socket))
        host.socket.chmod(0o666)
        clients.listen()
        # Above the numbers that systemd uses, so that the shell's moves do not get into each other's way.
        high = [
            socket.socket(fileno=fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 30)) for sock in (links, clients)
        ]
        with subprocess.Popen(
            activated(host, *high),
            env=host.env,
            pass_fds=[sock.fileno() for sock in high],
            stderr=subprocess.PIPE,
            text=True,
        ) as gexecd:
            for sock in high:
                sock.close()
            try:
                # The job that makes systemd start the daemon is older than the daemon, so it is refused.
                first = host.gexec("true")
                assert first.returncode == 0 or "before this node's gexecd started" in first.stderr
                # Nothing of systemd's is in the environment of the daemon's tasks.
                done = host.gexec("-p", "none", "env")
                assert done.returncode == 0, done.stderr
                assert "LISTEN_" not in done.stdout
            finally:
                gexecd.terminate()
                assert gexecd.wait(DEADLINE_S) == 0
    # The socket is systemd's: who has not made it does not take it away.
    assert host.socket.exists()
    host.socket.unlink()


def test_systemd_with_accept_is_refused(host: Host) -> None:
    one, two = socket.socketpair()
    with one, two:
        # Above the numbers that the shell's moves use.
        high = fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 30)
        script = f'LISTEN_PID=$$ LISTEN_FDS=1 exec "$@" 3<&{high}'
        words = ["bash", "-c", script, "bash", *command("gexecd", *host.words(bind=False))]
        done = run_to_end(*words, env=host.env, pass_fds=[high])
        os.close(high)
    assert done.returncode == 1
    assert "use Accept=no" in done.stderr


# -- signals -----------------------------------------------------------------------------------


def test_sigterm_lets_the_running_job_end_and_takes_no_new_one(host: Host, fifo: Path) -> None:
    gexecd = host.gexecd()
    job = running(host, fifo)
    gexecd.process.terminate()
    wait_until(lambda: host.gexec("true").returncode == 255, "new jobs are taken")
    refused = host.gexec("true")
    assert (refused.returncode, refused.stderr) == (
        255,
        "gexec: gexecd refused the job: gexecd is shutting down\n",
    )
    socket.create_connection((host.address, host.port), DEADLINE_S).close()  # so are nodes told
    assert gexecd.process.poll() is None
    assert job.poll() is None
    let_end(fifo)
    out, err = job.communicate(timeout=DEADLINE_S)
    assert (job.returncode, out) == (0, "done\n"), err
    assert gexecd.wait() == 0
    assert not host.socket.exists()


def test_second_sigterm_ends_at_once(host: Host, fifo: Path) -> None:
    gexecd = host.gexecd()
    relay = relay_of(gexecd.pid)
    script = f"trap '' TERM HUP; echo $$ > {host.dir}/pid; read x < {fifo}"
    (host.dir / "pid").unlink(missing_ok=True)
    job = host.begin("sh", "-c", script)
    pid = int(wait_for_file(host.dir / "pid"))
    gexecd.process.terminate()
    wait_until(lambda: host.gexec("true").returncode == 255, "new jobs are taken")
    gexecd.process.terminate()
    assert gexecd.wait() == 0
    assert is_gone(pid)
    assert is_gone(relay)
    _, err = job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 255, err


def test_drain_has_an_end(host: Host, fifo: Path) -> None:
    gexecd = host.gexecd("--config", host.config("drain_s = 0.2"))
    job = running(host, fifo)
    gexecd.process.terminate()
    assert gexecd.wait() == 0
    job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 255


def test_sighup_reads_the_policy_again_and_keeps_the_old_one_if_it_is_wrong(host: Host) -> None:
    mine = f"[policy]\ndeny_users = ['{user_name()}']\n"
    path = host.config("")
    # A relative path: the daemon leaves the directory that it was started in.
    gexecd = host.gexecd("--config", path.name, cwd=path.parent)
    hostname_works(host)
    host.config(mine)
    gexecd.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reloaded" in gexecd.errors(), "SIGHUP is not in the log")
    refused = host.gexec("true")
    assert refused.returncode == 255
    assert NODE in refused.stderr
    host.config("[policy")
    gexecd.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "the old settings stay in force" in gexecd.errors(), "the error is not in the log")
    assert host.gexec("true").returncode == 255
    host.config("")
    gexecd.process.send_signal(signal.SIGHUP)
    wait_until(lambda: gexecd.errors().count("reloaded") == 2, "the second reload is not in the log")
    hostname_works(host)


def user_name() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def test_sighup_opens_the_audit_log_anew(host: Host) -> None:
    gexecd = host.gexecd()
    hostname_works(host)
    moved = host.dir / "audit.1"
    host.audit.rename(moved)
    gexecd.process.send_signal(signal.SIGHUP)
    wait_until(host.audit.exists, "the audit log was not opened anew")
    before = moved.read_bytes()
    hostname_works(host)
    assert '"event":"accept"' in host.audit.read_text()
    assert moved.read_bytes() == before


# -- certificates and keys ---------------------------------------------------------------------


def certificate_of(host: Host) -> bytes:
    """Return the certificate that gexecd shows just now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection((host.address, host.port), DEADLINE_S) as raw,
        context.wrap_socket(raw) as tls,
    ):
        return tls.getpeercert(binary_form=True) or b""


def test_daemons_take_more_descriptors_and_commands_get_what_was_configured(host: Host) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 2000))

    gexecd = host.gexecd(preexec_fn=limit)
    for pid in (gexecd.pid, relay_of(gexecd.pid)):
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert re.search(r"^Max open files +2000 +2000 ", limits, re.MULTILINE), limits
    assert host.gexec("-p", "none", "sh", "-c", "ulimit -Sn; ulimit -Hn").stdout == "300\n2000\n"


def test_certificate_is_renewed_in_time(host: Host) -> None:
    assert host.authd is not None
    host.authd.stop()
    host.services.remove(host.authd)
    (host.dir / "authd.toml").write_text("certificate_ttl_s = 4.0\n")
    host.start_authd("--config", host.dir / "authd.toml")
    try:
        gexecd = host.gexecd()
        first = certificate_of(host)
        hostname_works(host)  # its own link is warm now, and stays so
        seen = {first}

        def renewed() -> bool:
            seen.add(certificate_of(host))
            return len(seen) >= 4

        # The first one has run out by the third renewal.
        wait_until(renewed, "the certificate is not renewed")
        assert "certificate renewed" in gexecd.errors()
        hostname_works(host)
    finally:
        host.authd.stop()
        host.services.remove(host.authd)
        host.start_authd()


def test_attack_21_replay_after_a_restart_of_gexecd(host: Host) -> None:
    marker = host.dir / "marker21"
    first = host.gexecd()
    credential, blob = host.signed("sh", "-c", f"echo once >> {marker}")
    assert ended(host.submit(credential, blob)).outcome == outcome.exited(0)
    first.stop()
    host.gexecd()
    assert_denied(host, credential, blob)
    assert marker.read_text() == "once\n"
    marker.unlink()


def test_attack_22_replay_after_the_spawner_was_killed(host: Host) -> None:
    marker = host.dir / "marker22"
    first = host.gexecd()
    relay = relay_of(first.pid)
    credential, blob = host.signed("sh", "-c", f"echo once >> {marker}")
    assert ended(host.submit(credential, blob)).outcome == outcome.exited(0)
    first.stop(signal.SIGKILL)
    wait_until(lambda: is_gone(relay), "the relay has survived its spawner")
    host.gexecd()
    assert_denied(host, credential, blob)
    assert marker.read_text() == "once\n"
    marker.unlink()


def assert_denied(host: Host, credential: bytes, blob: bytes) -> None:
    answers = host.submit(credential, blob)
    refused = [frame.text for frame in answers if isinstance(frame, Refused)]
    if not refused:
        verdict = ended(answers).outcome
        assert verdict.kind == outcome.DENIED, verdict
        refused = [verdict.text]
    assert "before this node's gexecd started" in refused[0]


def test_attack_83_key_withdrawn_mid_job(host: Host, fifo: Path) -> None:
    gexecd = host.gexecd()
    old = host.public.read_bytes()
    new = host.dir / "new"
    new.mkdir()
    make_keys(new / "auth_priv.pem", new / "auth_pub.pem")
    job = running(host, fifo)
    host.public.write_bytes((new / "auth_pub.pem").read_bytes())
    gexecd.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reloaded" in gexecd.errors(), "SIGHUP is not in the log")
    # What was signed with the old key is refused from now on, with a sentence.
    refused = host.gexec("true")
    assert refused.returncode == 255
    assert "key" in refused.stderr
    # What runs was rightly started, and goes on.
    let_end(fifo)
    out, err = job.communicate(timeout=DEADLINE_S)
    assert (job.returncode, out) == (0, "done\n"), err
    # While a key is changed both are accepted.
    host.public.write_bytes((new / "auth_pub.pem").read_bytes() + old)
    gexecd.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reloaded: 2 public keys" in gexecd.errors(), "SIGHUP is not in the log")
    hostname_works(host)
    shutil.rmtree(new)


def test_sighup_takes_a_new_key_in_both_processes(host: Host) -> None:
    """The first step of changing a key: every node learns the new one before anybody signs with it."""
    signing = host.public.read_bytes()
    other = host.dir / "other"
    other.mkdir()
    make_keys(other / "auth_priv.pem", other / "auth_pub.pem")
    host.public.write_bytes((other / "auth_pub.pem").read_bytes())
    gexecd = host.gexecd()
    assert host.gexec("true").returncode == 255
    host.public.write_bytes((other / "auth_pub.pem").read_bytes() + signing)
    gexecd.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "reloaded: 2 public keys" in gexecd.errors(), "SIGHUP is not in the log")
    wait_until(lambda: host.gexec("true").returncode == 0, "the new key is not accepted")
    shutil.rmtree(other)


# -- two processes -----------------------------------------------------------------------------


def test_spawner_has_no_network_socket_that_anything_can_be_read_from(host: Host) -> None:
    gexecd = host.gexecd()
    hostname_works(host)
    listening = network_inodes(gexecd.pid, listening=True)
    assert network_inodes(gexecd.pid) & sockets_of(gexecd.pid) - listening == set()
    assert listening & sockets_of(gexecd.pid), "there is none for the next relay"
    if os.geteuid() == 0:  # an ordinary user may not look: NoNewPrivs and the like do not hinder root
        relay = relay_of(gexecd.pid)
        assert network_inodes(relay) & sockets_of(relay)


def sockets_of(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            link = os.readlink(entry)
        except OSError:
            continue
        if link.startswith("socket:["):
            found.add(link[8:-1])
    return found


def network_inodes(pid: int, listening: bool = False) -> set[str]:
    found = set()
    for name in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
        path = Path(f"/proc/{pid}/net/{name}")
        if path.exists():
            rows = [line.split() for line in path.read_text().splitlines()[1:]]
            found |= {row[9] for row in rows if not listening or row[3] == "0A"}
    return found


def test_relay_gives_up_what_it_does_not_need(host: Host) -> None:
    gexecd = host.gexecd()
    status = status_of(relay_of(gexecd.pid))
    assert status["NoNewPrivs"] == ["1"]
    assert status["Seccomp"] == ["2"]
    if os.geteuid() != 0:
        assert set(status["Uid"]) == {str(os.geteuid())}
        return
    assert "0" not in status["Uid"] + status["Gid"] + status["Groups"]
    assert len(set(status["Uid"])) == len(set(status["Gid"])) == 1
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[capabilities][0], 16) == 0
    assert set(status_of(gexecd.pid)["Uid"]) == {"0"}


@pytest.mark.root
def test_relay_becomes_the_configured_user(host: Host) -> None:
    gexecd = host.gexecd("--relay-user", "bin")
    assert set(status_of(relay_of(gexecd.pid))["Uid"]) == {str(pwd.getpwnam("bin").pw_uid)}
    hostname_works(host)


@pytest.mark.root
@pytest.mark.parametrize(
    ("user", "why"),
    [
        ("root", "is root: choose a user of its own"),
        ("nobody", "stands for unknown users and is shared with other services: choose"),
        ("no-such-user", "there is no user no-such-user for the relay: create it with `useradd --system"),
    ],
)
def test_relay_user_must_be_an_account_of_its_own(host: Host, user: str, why: str) -> None:
    done = run_to_end(*command("gexecd", *host.words("--relay-user", user)), env=host.env)
    assert done.returncode == 1
    assert done.stderr.startswith("gexecd: ")
    assert user in done.stderr
    assert why in done.stderr


@pytest.mark.root
def test_without_a_user_gexec_root_starts_no_relay(host: Host) -> None:
    """In a mount namespace with accounts of its own: there is no fallback to nobody."""
    accounts = host.dir / "passwd"
    lines = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("gexec:")]
    accounts.write_text("\n".join(lines) + "\n")
    script = f'mount --bind {accounts} /etc/passwd && exec "$@"'
    words = [str(word) for word in host.words() if word not in RELAY_USER]
    own = ["unshare", "--mount", "sh", "-c", script, "sh", *command("gexecd", *words)]
    done = run_to_end(*own, env=host.env)
    assert done.returncode == 1
    assert "there is no user gexec for the relay: create it with `useradd --system" in done.stderr
    accounts.write_text("\n".join([*lines, "gexec:x:61183:61183::/:/usr/sbin/nologin"]) + "\n")
    with subprocess.Popen(own, env=host.env, stderr=subprocess.PIPE, text=True) as gexecd:
        try:
            wait_until(lambda: host.gexec("true").returncode == 0, "gexecd with a user gexec does not serve")
            assert set(status_of(relay_of(gexecd.pid))["Uid"]) == {"61183"}
        finally:
            gexecd.terminate()


def test_end_of_the_relay_ends_gexecd_and_its_jobs(host: Host, fifo: Path) -> None:
    gexecd = host.gexecd()
    (host.dir / "pid").unlink(missing_ok=True)
    job = host.begin("sh", "-c", f"echo $$ > {host.dir}/pid; read x < {fifo}")
    pid = int(wait_for_file(host.dir / "pid"))
    os.kill(relay_of(gexecd.pid), signal.SIGKILL)
    assert gexecd.wait() == 1  # so that systemd starts it again
    assert is_gone(pid)
    job.communicate(timeout=DEADLINE_S)
    assert job.returncode == 255


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
@pytest.mark.parametrize("victim", ["relay", "starter", "spawner"])
def test_whichever_of_its_processes_ends_gexecd_fails_and_can_be_started_again(
    host: Host, victim: str, signum: int
) -> None:
    """systemd restarts it (Restart=on-failure) if its status is not 0."""
    gexecd = host.gexecd()
    pids = dict[str, int]()

    def both() -> bool:
        """A child has its name some time after its start."""
        pids.update({status_of(pid)["Name"][0]: pid for pid in children_of(gexecd.pid)})
        return {"gexecd-relay", "gexecd-starter"} <= pids.keys()

    wait_until(both, "relay and starter have no names")
    others = children_of(gexecd.pid)
    os.kill(pids.get(f"gexecd-{victim}", gexecd.pid), signum)
    assert gexecd.wait() not in (0, None)
    wait_until(lambda: all(map(is_gone, others)), "something of it is left")
    assert host.gexecd()
    assert host.gexec("-n", "1", "true").returncode == 0


@pytest.mark.root
def test_attack_29_gexecd_of_a_user_serves_that_user_only(host: Host) -> None:
    """A job of root, rightly signed with the cluster's key, at a gexecd that nobody has started."""
    nobody = pwd.getpwnam("nobody")
    theirs = host.dir / "nobody"
    theirs.mkdir()
    shutil.copy(host.private, theirs / "auth_priv.pem")
    for path in (theirs, theirs / "auth_priv.pem"):
        shutil.chown(path, nobody.pw_uid, nobody.pw_gid)
    authd = AuthdSettings(
        socket=str(theirs / "authd.sock"),
        private_key=str(theirs / "auth_priv.pem"),
        public_keys=(str(host.public),),
        audit_log=(str(theirs / "authd-audit.log"),),
    )
    gexecd = GexecdSettings(
        port=host.port,
        bind=(host.address,),
        socket=str(theirs / "gexecd.sock"),
        authd_socket=authd.socket,
        public_keys=authd.public_keys,
        names=(NODE,),
        audit_log=(str(theirs / "gexecd-audit.log"),),
    )
    with (
        forked(nobody, lambda **life: authd_service.serve(authd, **life)),
        forked(nobody, lambda **life: gexecd_service.serve(gexecd, **life)),
    ):
        credential, blob = host.signed("touch", str(theirs / "of root"))
        answers = submit(theirs / "gexecd.sock", credential, blob)
        assert "serves that user only" in ended(answers).outcome.text
        assert not (theirs / "of root").exists()
    shutil.rmtree(theirs)


@contextmanager
def forked(user: pwd.struct_passwd, body: Callable[..., int]) -> Iterator[None]:
    """Run ``body(ready=, die_with_parent_fd=)`` as a user in a child; its interpreter may be root's."""
    NODE.encode("idna")  # the codec that names are looked up with, also before: it is loaded when used
    life_reading, life_writing = os.pipe()
    ready_reading, ready_writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            os.close(life_writing)
            os.setgroups([])
            os.setresgid(*[user.pw_gid] * 3)
            os.setresuid(*[user.pw_uid] * 3)
            status = body(ready=lambda: announce(ready_writing), die_with_parent_fd=life_reading)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(life_reading)
    os.close(ready_writing)
    try:
        assert os.read(ready_reading, 1) == b"1"
        yield
    finally:
        os.close(life_writing)
        os.close(ready_reading)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status == 0
