"""A real sshd for tests: its own keys, configuration and port, and no file of the system's.

Neither side reads /etc/ssh, ~/.ssh or an agent, so it is the same on every machine.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from .conftest import DEADLINE_S, wait_until

#: Where its nodes are: node1 is 127.0.87.1 and so on; not where other tests have theirs.
NETWORK = "127.0.87"
SSHD = shutil.which("sshd", path="/usr/sbin:/sbin:/usr/bin:/usr/local/sbin")

_SERVER = """
Port {port}
HostKey {dir}/host_key
HostKey {dir}/second_host_key
AuthorizedKeysFile {dir}/authorized
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups {startups}
AcceptEnv none
PermitUserRC no
PermitUserEnvironment no
PrintMotd no
{listen}
Match LocalAddress {network}.101
    ForceCommand echo some noise; echo more noise >&2; eval "$SSH_ORIGINAL_COMMAND"
Match LocalAddress {network}.102
    ForceCommand echo This account is not available.; exit 1
"""
_CLIENT = """
Host node*
    IdentityFile {dir}/user_key
Host stranger
    HostName {network}.1
    IdentityFile {dir}/other_key
Host unknown
    HostName {network}.1
    UserKnownHostsFile {dir}/no_hosts
    IdentityFile {dir}/user_key
{hosts}
Host *
    Port {port}
    User {user}
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {dir}/known_hosts
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
"""
_OTHERS = {"noisy": 101, "nologin": 102}


class Sshd:
    """A running sshd. ``ssh`` are the words that call ssh with this one's configuration.

    ``node1`` to ``node8`` are its nodes by ssh's own aliases; ``stranger`` is one that does not know our key,
    ``unknown`` one whose key we do not know, ``noisy`` prints before every command, ``nologin`` runs none.

    Args:
        startups: MaxStartups: a connection beyond so many that have not logged in is dropped.
    """

    def __init__(self, startups: int = 200) -> None:
        if SSHD is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
            pytest.skip("needs OpenSSH: sshd, ssh and ssh-keygen")
        if os.geteuid() == 0:
            # sshd of root insists on it; Debian makes it only when the service is started.
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        self.dir = Path(tempfile.mkdtemp(prefix="gx", dir="/tmp"))
        self.port = _free_port()
        self.ssh = ["ssh", "-F", str(self.dir / "ssh_config")]
        for name in ("host_key", "second_host_key", "user_key", "other_key"):
            kind = "ecdsa" if name.startswith("second") else "ed25519"  # which nobody knows
            command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(self.dir / name)]
            subprocess.run(command, check=True, timeout=DEADLINE_S)
        self._write(startups)
        with (self.dir / "log").open("wb") as log:
            command = [SSHD, "-D", "-e", "-f", str(self.dir / "sshd_config")]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end_s = time.monotonic() + DEADLINE_S
        while not _listens(self.port):
            if self.process.poll() is not None or time.monotonic() > end_s:
                self.stop()
                pytest.fail(f"sshd does not come up: {self.log()}")
            time.sleep(0.02)
        self._skip_unless_this_user_may_log_in()

    def configured(self, folder: Path, lines: str) -> list[str]:
        """Return the words that call ssh with these lines ahead of this one's configuration.

        They apply to every node, as a user's own ~/.ssh/config would: of two values ssh takes the first.
        """
        path = folder / "user_config"
        path.write_text(f"Host *\n{lines}\nMatch all\nInclude {self.dir}/ssh_config\n")
        path.chmod(0o600)
        return ["ssh", "-F", str(path)]

    def _skip_unless_this_user_may_log_in(self) -> None:
        command = [*self.ssh, "-o", "BatchMode=yes", "node1", "exit 0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        if done.returncode != 0:
            self.stop()
            pytest.skip(f"needs an account that may log in over ssh: {done.stdout}{done.stderr}")

    def _write(self, startups: int) -> None:
        hosts = {f"node{number}": number for number in range(1, 9)} | _OTHERS
        place = {
            "startups": startups,
            "dir": self.dir,
            "network": NETWORK,
            "port": self.port,
            "user": pwd.getpwuid(os.geteuid()).pw_name,
            "listen": "\n".join(f"ListenAddress {NETWORK}.{number}" for number in hosts.values()),
            "hosts": "\n".join(
                f"Host {name}\n    HostName {NETWORK}.{number}\n    IdentityFile {self.dir}/user_key"
                for name, number in hosts.items()
            ),
        }
        (self.dir / "sshd_config").write_text(_SERVER.format(**place))
        (self.dir / "ssh_config").write_text(_CLIENT.format(**place))
        shutil.copy(self.dir / "user_key.pub", self.dir / "authorized")
        key = (self.dir / "host_key.pub").read_text()
        known = (f"[{NETWORK}.{number}]:{self.port} {key}" for number in hosts.values())
        (self.dir / "known_hosts").write_text("".join(known))

    def log(self) -> str:
        """Return what sshd has said."""
        return (self.dir / "log").read_text(errors="replace")

    def check_idle(self) -> None:
        """Fail unless soon nothing of ours but the server itself runs."""
        own = {self.process.pid, os.getpid()}
        wait_until(lambda: not set(processes_with(str(self.dir))) - own, "an ssh is left")

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(DEADLINE_S)
        finally:
            self.process.kill()
            shutil.rmtree(self.dir, ignore_errors=True)


def processes_with(word: str) -> list[int]:
    """Return the processes that have ``word`` in their command line."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                words = Path("/proc", name, "cmdline").read_bytes()
            except OSError:
                continue
            if word.encode() in words:
                found.append(int(name))
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((f"{NETWORK}.1", 0))
        return int(probe.getsockname()[1])


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((f"{NETWORK}.{max(_OTHERS.values())}", port)) == 0
