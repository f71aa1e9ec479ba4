"""Real gexecd and authd by their own command lines, for the tests of them as services."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gexec.client.authd import obtain_credential
from gexec.client.job import Request, build
from gexec.limits import PROTOCOL_VERSION
from gexec.wire.frames import FROM_ROOT, Decoder, Done, Ended, Frame, Hello, Refused, Submit, encode

from .conftest import BIN, DEADLINE_S

NODE = "node1"
#: Machines of developers have no user gexec.
RELAY_USER = ["--relay-user", "daemon"] if os.geteuid() == 0 else []


class Service:
    """A started daemon: the process that was called, and what it says on stderr.

    Args:
        package: the code that it runs, a directory gexec; None = that of its command.
    """

    def __init__(
        self, name: str, words: list[object], place: Path, package: Path | None = None, **options: Any
    ) -> None:
        self.name = name
        self.err = Path(tempfile.mkstemp(prefix=f"{name}.err", dir=place)[1])
        reading, writing = os.pipe()
        options.setdefault("stdin", subprocess.DEVNULL)
        if name == "gexecd" and "--relay-user" not in words:
            words = [*RELAY_USER, *words]
        argv = command(name, *words)
        if package is not None:
            runner = package / "posix" / "runner.py"
            argv = [sys.executable, "-I", "-X", "utf8", str(runner), f"gexec.cli.{name}", *map(str, words)]
        with self.err.open("ab") as err:
            self.process = subprocess.Popen(
                [*argv, "--ready-fd", str(writing)],
                pass_fds=[writing, *options.pop("pass_fds", ())],
                stderr=options.pop("stderr", err),
                **options,
            )
        os.close(writing)
        self._reading = reading

    def ready(self) -> Service:
        """Wait until it listens."""
        try:
            assert select.select([self._reading], [], [], DEADLINE_S)[0], f"{self.name} is not ready"
            assert os.read(self._reading, 1) == b"1", f"{self.name} ended: {self.errors()}"
        finally:
            os.close(self._reading)
        return self

    @property
    def pid(self) -> int:
        """Its pid."""
        return self.process.pid

    def errors(self) -> str:
        """What it has said on stderr."""
        return self.err.read_text(errors="replace")

    def wait(self) -> int:
        """Return its exit status, when it has ended."""
        return self.process.wait(DEADLINE_S)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """End it; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
            try:
                return self.wait()
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise
        return self.process.returncode


class Host:
    """A machine of one node: keys, one authd, one gexecd at a time, and gexec itself."""

    def __init__(self) -> None:
        # Not pytest's tmp_path: other users must reach it, and sockets' paths may have 107 bytes.
        self.dir = Path(tempfile.mkdtemp(prefix="gxd", dir="/tmp"))
        self.dir.chmod(0o755)
        self.private, self.public = self.dir / "auth_priv.pem", self.dir / "auth_pub.pem"
        make_keys(self.private, self.public)
        self.address = f"127.{77 + os.getpid() % 50}.{os.getpid() // 50 % 250}.{1 + os.getpid() % 7}"
        with socket.create_server((self.address, 0)) as free:
            self.port = free.getsockname()[1]
        self.hosts = self.dir / "hosts"
        self.hosts.write_text(f"{self.address} {NODE}\n")
        (self.dir / "run").mkdir()
        (self.dir / "run").chmod(0o755)
        self.socket = self.dir / "run" / "gexecd.sock"
        self.authd_socket = self.dir / "run" / "authd.sock"
        self.audit = self.dir / "audit"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("GEXEC_")}
        self.env = clean | {
            "GEXEC_SOCKET": str(self.socket),
            "GEXEC_AUTHD_SOCKET": str(self.authd_socket),
            "GEXEC_HOSTS": str(self.hosts),
            "GEXEC_PORT": str(self.port),
            "GEXEC_SVRS": NODE,
        }
        self.services: list[Service] = []
        self.begun: list[subprocess.Popen[str]] = []
        self.authd: Service | None = None

    def start_authd(self, *words: object) -> Service:
        """Start authd."""
        self.authd = self._service("authd", self.authd_words(*words)).ready()
        return self.authd

    def authd_words(self, *words: object) -> list[object]:
        """Return the words of authd's command line."""
        return [
            "--socket", self.authd_socket, "--private-key", self.private, "--public-key", self.public, *words
        ]  # fmt: skip

    def words(self, *words: object, bind: bool = True, audit: bool = True) -> list[object]:
        """Return the words of gexecd's command line."""
        place = ["-P", self.port, "--bind", self.address] if bind else []
        return [
            *place, *RELAY_USER, "--socket", self.socket, "--authd-socket", self.authd_socket,
            "--public-key", self.public, "--name", NODE, "--hosts", self.hosts,
            *(["--audit-log", self.audit] if audit else []), *words,
        ]  # fmt: skip

    def gexecd(
        self, *words: object, ready: bool = True, bind: bool = True, audit: bool = True, **options: Any
    ) -> Service:
        """Start gexecd."""
        service = self._service("gexecd", self.words(*words, bind=bind, audit=audit), **options)
        return service.ready() if ready else service

    def _service(self, name: str, words: list[object], **options: Any) -> Service:
        service = Service(name, words, self.dir, env=self.env, **options)
        self.services.append(service)
        return service

    def config(self, text: str) -> Path:
        """Write gexecd's settings; return the path."""
        path = self.dir / "gexecd.toml"
        path.write_text(text)
        path.chmod(0o644)
        return path

    def gexec(self, *words: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run gexec to its end."""
        return subprocess.run(
            [*command("gexec"), *map(str, words)],
            env=self.env,
            cwd="/",
            text=True,
            capture_output=True,
            timeout=DEADLINE_S,
            stdin=subprocess.DEVNULL,
            **options,
        )

    def begin(self, *words: object) -> subprocess.Popen[str]:
        """Start gexec; the caller waits for it, or the end of the test ends it."""
        process = subprocess.Popen(
            [*command("gexec"), *map(str, words)],
            env=self.env,
            cwd="/",
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.begun.append(process)
        return process

    def signed(self, *argv: str, authd_socket: str = "") -> tuple[bytes, bytes]:
        """Return a credential and the job that it is for, as gexec would send them."""
        request = Request(argv)
        request.nodes = [NODE]
        request.env = {"PATH": "/usr/bin:/bin"}
        request.chdir = "/"
        request.port = self.port
        request.stdin = False
        before = os.environ.get("GEXEC_HOSTS")
        os.environ["GEXEC_HOSTS"] = str(self.hosts)
        try:
            job, _ = build(request)
        finally:
            os.environ.pop("GEXEC_HOSTS")
            if before is not None:
                os.environ["GEXEC_HOSTS"] = before
        blob = job.encode()
        return obtain_credential(blob, socket_path=authd_socket or str(self.authd_socket)), blob

    def submit(self, credential: bytes, blob: bytes) -> list[Frame]:
        """Send these very bytes to gexecd; return all that it says about the job."""
        return submit(self.socket, credential, blob)

    def stop_daemons(self) -> None:
        """End every gexecd, and every gexec, that a test has left."""
        while self.begun:
            process = self.begun.pop()
            if process.returncode is None:
                process.kill()
                process.communicate()
        for service in list(self.services):
            if service is not self.authd:
                self.services.remove(service)
                service.stop()
                service.stop(signal.SIGKILL)

    def close(self) -> None:
        """End everything and take the folder away."""
        self.stop_daemons()
        if self.authd is not None:
            self.authd.stop()
        shutil.rmtree(self.dir)


def submit(path: Path, credential: bytes, blob: bytes) -> list[Frame]:
    """Send a job to the gexecd that listens at this socket, whoever it is; return all that it says."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(DEADLINE_S)
        sock.connect(str(path))
        sock.sendall(encode(0, Hello(PROTOCOL_VERSION, "test")) + encode(1, Submit(credential, blob)))
        decoder, answers = Decoder(FROM_ROOT), list[Frame]()
        while data := sock.recv(65536):
            answers += [frame for channel, frame in decoder.feed(data) if channel]
            if any(isinstance(frame, Done | Refused) for frame in answers):
                break
    return answers


def command(name: str, *words: object) -> list[str]:
    """Return the argv of one of our commands."""
    return [sys.executable, str(BIN / name), *map(str, words)]


def make_keys(private: Path, public: Path) -> None:
    """Make a key pair with the seed's own commands."""
    for words in (
        ["openssl", "genrsa", "-out", private],
        ["chmod", "600", private],
        ["openssl", "rsa", "-in", private, "-pubout", "-out", public],
    ):
        subprocess.run([str(word) for word in words], check=True, capture_output=True)


def ended(frames: list[Frame]) -> Ended:
    """Return the one outcome among what was said."""
    (frame,) = (frame for frame in frames if isinstance(frame, Ended))
    return frame


def status_of(pid: int) -> dict[str, list[str]]:
    """Return /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def children_of(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int(status_of(int(entry.name))["PPid"][0]) == pid:
                found.append(int(entry.name))
        except (OSError, KeyError):
            continue
    return found


def relay_of(pid: int) -> int:
    """Return the relay's pid of a gexecd's."""
    (relay,) = (child for child in children_of(pid) if status_of(child)["Name"] == ["gexecd-relay"])
    return relay


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended (it may not have been reaped)."""
    try:
        return status_of(pid)["State"][0] == "Z"
    except OSError:
        return True


def wait_for_file(path: Path) -> str:
    """Return a file's whole first line, as soon as it is there."""
    end_s = time.monotonic() + DEADLINE_S
    while not (path.exists() and path.read_text().endswith("\n")):
        assert time.monotonic() < end_s, f"{path} has not been written"
        time.sleep(0.02)
    return path.read_text().strip()
