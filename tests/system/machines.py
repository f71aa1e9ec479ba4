"""Machines for the tests of pages: a head and three nodes, with sshd and nothing of gexec.

Each machine is a network namespace with an /etc, /opt, /run and /var/log of its own, and all are in one PID
namespace, so that nothing of them is seen outside and nothing is left when their first process is killed.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gexec

from .conftest import DEADLINE_S
from .sshd import SSHD

ROOT = Path(__file__).resolve().parents[2]


def blocks_of(page: str) -> list[str]:
    """Return the blocks of commands of a page below docs."""
    return re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)


#: What makes the present mount namespace a machine of its own; in it, $PLACE is what the test made.
_MACHINE = """
own() {
    for folder in /opt /run /var/log; do mount -t tmpfs -o mode=0755 machine $folder; done
    mount -t tmpfs -o mode=0755 machine /mnt
    cp -a "$1"/. /mnt
    mount --move /mnt /etc
    mkdir -p /run/sshd /run/netns
    mkdir -m 0700 -p /run/root/.ssh
}
"""
_HEAD = """
set -e
. "$PLACE/machine"
own /etc
rm -rf /etc/gexec /etc/auth_*.pem
sed -i 's,^root:[^:]*:0:0:[^:]*:[^:]*:.*,root:x:0:0:root:/run/root:/bin/sh,' /etc/passwd
sed -i 's,^root:[^:]*:,root:*:,' /etc/shadow
rm -rf /etc/ssh && mkdir /etc/ssh
cp "$PLACE/sshd_config" /etc/ssh/sshd_config
ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/host
ssh-keygen -q -t ed25519 -N '' -f /run/root/.ssh/id_ed25519
cp /run/root/.ssh/id_ed25519.pub /etc/ssh/authorized
hostname head
printf '127.0.0.1 localhost\\n10.87.0.1 head\\n' >/etc/hosts
for number in 1 2 3; do
    echo "10.87.0.1$number node$number" >>/etc/hosts
    echo "node$number,10.87.0.1$number $(cut -d' ' -f1,2 /etc/ssh/host.pub)" >>/run/root/.ssh/known_hosts
done
cp -a /etc "$PLACE/etc"
ip link set lo up
ip link add gexec0 type bridge
ip addr add 10.87.0.1/24 dev gexec0
ip link set gexec0 up
for number in 1 2 3; do
    ip netns add node$number
    ip link add gexec$number type veth peer name eth0 netns node$number
    ip link set gexec$number master gexec0 up
    ip -n node$number addr add 10.87.0.1$number/24 dev eth0
    ip -n node$number link set eth0 up
    ip -n node$number link set lo up
    ip netns exec node$number unshare --mount --uts sh -c \
        '. "$PLACE/machine"; own "$PLACE/etc"; hostname "$0"; exec "$SSHD" -D' node$number &
done
"$PYTHON" -m venv --without-pip /opt/gexec
cp -a "$PLACE"/bin/* /opt/gexec/bin
cp -a "$PLACE"/site/* /opt/gexec/lib/python3*/site-packages
for number in 1 2 3; do
    until ssh -o BatchMode=yes node$number true; do sleep 0.1; done
    ssh node$number 'test ! -e /opt/gexec -a ! -e /etc/auth_priv.pem'
done
"""
_SSHD = """
HostKey /etc/ssh/host
AuthorizedKeysFile /etc/ssh/authorized
PermitRootLogin yes
StrictModes no
UsePAM no
PidFile none
"""


def needs() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, for namespaces")
    for program in ("ip", "unshare", "mount", "ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            pytest.skip(f"needs {program}")
    python = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin")
    if SSHD is None or python is None:
        pytest.skip("needs sshd, and python3 in the PATH of a session by ssh")
    test = "import sys; sys.exit(sys.version_info < (3, 11))"
    if subprocess.run([python, "-c", test], timeout=DEADLINE_S).returncode:
        pytest.skip(f"needs Python 3.11 as {python}")
    script = (
        "mount -t tmpfs t /run && mkdir /run/netns && ip netns add node1 && ip link add gexec0 type bridge"
    )
    done = subprocess.run([*_UNSHARE, "sh", "-c", script], capture_output=True, timeout=DEADLINE_S)
    if done.returncode:
        pytest.skip(f"needs namespaces, which cannot be made here: {done.stderr.decode()}")


_UNSHARE = ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]


def install(place: Path) -> None:
    """Lay out what `pip install` would put into a virtual environment at /opt/gexec."""
    site, scripts = place / "site", place / "bin"
    pinned = (ROOT / "requirements/runtime.txt").read_text()
    for name in re.findall(r"^([\w.-]+)==", pinned, re.MULTILINE):
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another kind of Python
        for file in distribution.files or ():
            if ".." not in file.parts and file.suffix != ".pyc":
                (site / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(str(file.locate())), site / file)
    package = Path(gexec.__file__).parent
    shutil.copytree(package, site / "gexec", ignore=shutil.ignore_patterns("__pycache__"))
    scripts.mkdir()
    for script in (ROOT / "scripts").iterdir():
        shutil.copy(script, scripts / script.name)


def run(place: Path, script: str, timeout_s: float = 2 * DEADLINE_S) -> tuple[int, str]:
    """Run a script on the head; return its status and what it and all machines said."""
    (place / "machine").write_text(_MACHINE)
    (place / "sshd_config").write_text(_SSHD)
    (place / "script").write_text(_HEAD + script)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("GEXEC_", "SSH_"))}
    env = clean | {"PLACE": str(place), "SSHD": str(SSHD), "PYTHON": os.path.realpath(sys.executable)}
    with (place / "log").open("w") as log:
        words = [*_UNSHARE, "sh", str(place / "script")]
        try:
            status = subprocess.run(
                words, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=timeout_s
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
    return status, (place / "log").read_text()
