"""Our own sshd on 127.0.0.1, with its own keys, for comparison; and ssh and pdsh over it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

_DEADLINE_S = 20.0


def missing() -> str:
    """Return which of sshd, ssh and ssh-keygen are not installed, "" if all are."""
    search = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return ", ".join(name for name in ("sshd", "ssh", "ssh-keygen") if not shutil.which(name, path=search))


class LocalSshd:
    """A context: inside it sshd listens on all of 127.0.0.0/8; afterwards it has ended.

    Args:
        settings: further lines of its configuration.
    """

    def __init__(self, settings: str = "") -> None:
        self._settings = settings

    def __enter__(self) -> LocalSshd:
        self.folder = Path(tempfile.mkdtemp(prefix="gexec-bench-sshd-"))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        for name in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name], check=True
            )
        shutil.copy(self.folder / "user.pub", self.folder / "authorized")
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 0.0.0.0\nHostKey {self.folder}/host\n"
            f"AuthorizedKeysFile {self.folder}/authorized\nStrictModes no\nPermitRootLogin yes\n"
            f"UsePAM no\nPasswordAuthentication no\nMaxStartups 2000\nPidFile none\nLogLevel ERROR\n"
            f"{self._settings}"
        )
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)
        sshd = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        # sshd insists on an absolute path, because it calls itself again.
        self._process = subprocess.Popen(
            [str(sshd), "-D", "-e", "-f", str(config)], stderr=open(self.folder / "log", "wb")
        )
        deadline_s = time.monotonic() + _DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError as error:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    log = (self.folder / "log").read_text().strip()
                    self.__exit__(None, None, None)
                    raise RuntimeError(f"sshd does not start: {log}") from error
                time.sleep(0.05)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """sshd's first process."""
        return self._process.pid

    @property
    def options(self) -> list[str]:
        """ssh's options to log in without prompts."""
        return [
            *("-i", str(self.folder / "user"), "-p", str(self.port), "-l", getpass.getuser()),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-F", "none"),
        ]

    def ssh_s(self, addresses: list[str], command: str, at_once: int) -> float:
        """Return the seconds of ssh to each address, ``at_once`` of them at a time."""
        started_s = time.perf_counter()
        waiting, running = list(addresses), list[subprocess.Popen[bytes]]()
        while waiting or running:
            while waiting and len(running) < at_once:
                words = ["ssh", *self.options, waiting.pop(), command]
                running.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
            if running.pop(0).wait():
                raise RuntimeError("ssh failed")
        return time.perf_counter() - started_s

    def pdsh_s(self, addresses: list[str], command: str) -> float:
        """Return the seconds of one pdsh over all the addresses, with its default fan-out of 32."""
        environ = os.environ | {"PDSH_SSH_ARGS": " ".join(["-2", "-a", "-x", "%h", *self.options])}
        started_s = time.perf_counter()
        words = ["pdsh", "-S", "-R", "ssh", "-w", ",".join(addresses), command]
        done = subprocess.run(words, env=environ, stdin=subprocess.DEVNULL, capture_output=True)
        taken_s = time.perf_counter() - started_s
        if done.returncode or done.stdout.count(b"\n") not in (0, len(addresses)):
            raise RuntimeError(f"pdsh failed: {done.stderr.decode(errors='replace')[:500]}")
        return taken_s
