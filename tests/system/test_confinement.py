"""A captured relay: what an attacker can do who runs code in the process with the network.

The code is real, and runs in the real relay of a real gexecd: Python reads a ``sitecustomize`` at its start,
which waits for a signal in the relay.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from gexec.cluster import inspection
from gexec.gexecd.relay_user import local_identity

from .conftest import Cluster, wait_until
from .daemons import Host, relay_of, status_of

#: Each line of _ATTEMPTS is one attempt; what it raises or returns is written into the relay's log.
_CAPTURED = """
import ctypes, errno, json, os, signal, socket, threading
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *words):
    ctypes.set_errno(0)
    value = libc.syscall(number, *words)
    return errno.errorcode[ctypes.get_errno()] if value < 0 else value

def thread():
    worked = []
    one = threading.Thread(target=worked.append, args=(1,))
    one.start()
    one.join()
    return worked

def memfd():
    fd = os.memfd_create("x")
    os.write(fd, b"abc")
    with open(f"/proc/self/fd/{fd}") as file:
        return file.read()

def dumpable():
    return libc.prctl(3, 0, 0, 0, 0)

def attack(*_):
    told = {}
    for name, source in ATTEMPTS.items():
        try:
            told[name] = eval(source)
        except BaseException as error:
            told[name] = type(error).__name__
    os.write(2, ("captured " + json.dumps(told, default=str) + "\\n").encode())

signal.signal(signal.SIGUSR2, attack)
"""
_ATTEMPTS = {
    "program": "os.execv('/bin/true', ['true'])",
    "fork": "os.fork()",
    "posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "signal to its parent": "os.kill(os.getppid(), 0)",
    "signal to all": "os.kill(-1, 0)",
    "a handle of its parent": "os.pidfd_open(os.getppid())",
    "user namespace": "call(272, 0x10000000)",
    "clone3": "call(435, 0, 0)",
    "io_uring": "call(425, 1, 0)",
    "ptrace": "call(101, 16, os.getppid(), 0, 0)",
    "a call of the future": "call(470)",
    "x32": "call(0x40000000 + 39)",
    "keys": "call(250, 0, -3, 1)",
    "bpf": "call(321, 0, 0, 0)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "packets": "socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)",
    "read": "open('/etc/passwd').read()",
    "write": "open('/tmp/gexec-captured', 'w')",
    "directory": "os.listdir('/')",
    "root": "os.setuid(0)",
    # what it does need
    "signal to itself": "os.kill(os.getpid(), 0)",
    "thread": "thread()",
    "null": "os.write(os.open('/dev/null', os.O_WRONLY), b'x')",
    "memfd": "memfd()",
    "IPv6": "socket.socket(socket.AF_INET6).close()",
    "dumpable": "dumpable()",
}
_REFUSED = "PermissionError"

needs_x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of calls are those of x86_64")


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    host.start_authd()
    yield host
    host.close()


@needs_x86
def test_attack_106_captured_relay_starts_and_reaches_nothing(host: Host) -> None:
    folder = host.dir / "captured"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"ATTEMPTS = {_ATTEMPTS!r}\n{_CAPTURED}")
    host.env["PYTHONPATH"] = str(folder)
    gexecd = host.gexecd()
    del host.env["PYTHONPATH"]
    assert host.gexec("echo", "before").stdout == "0 before\n"
    # Another job runs, and is not harmed.
    fifo = host.dir / "fifo"
    os.mkfifo(fifo)
    job = host.begin("-p", "none", "sh", "-c", f"echo up; cat {fifo}")
    assert job.stdout is not None
    assert job.stdout.readline() == "up\n"
    os.kill(relay_of(gexecd.pid), signal.SIGUSR2)
    assert host.gexec("true").returncode == 0  # wakes the loop, which runs the handler
    wait_until(lambda: "captured {" in gexecd.errors(), "the captured relay has written nothing")
    told = json.loads(gexecd.errors().partition("captured ")[2].splitlines()[0])
    is_root = os.geteuid() == 0
    assert told == {
        "program": _REFUSED,
        "fork": _REFUSED,
        "posix_spawn": _REFUSED,
        "signal to its parent": _REFUSED,
        "signal to all": _REFUSED,
        "a handle of its parent": _REFUSED,
        "user namespace": "EPERM",
        "clone3": "ENOSYS",
        "io_uring": "ENOSYS",
        "ptrace": "EPERM",
        "a call of the future": "ENOSYS",
        "x32": "ENOSYS",
        "keys": "EPERM",
        "bpf": "EPERM",
        "netlink": "OSError",
        "packets": "OSError",
        "read": _REFUSED,
        "write": _REFUSED,
        "directory": _REFUSED,
        "root": _REFUSED,
        "signal to itself": None,
        "thread": [1],
        "null": 1,
        "memfd": "abc",
        "IPv6": None,
        "dumpable": 0 if is_root else 1,
    }
    fifo.write_text("after\n")
    assert job.communicate(timeout=60)[0] == "after\n"
    assert job.returncode == 0


@pytest.mark.root
def test_a_local_cluster_of_root_needs_no_account(cluster: Cluster) -> None:
    wanted = {str(number) for number in local_identity("")}
    for name in cluster.names[:2]:
        [relay] = [one.pid for one in cluster.daemon(name) if "relay" in status_of(one.pid)["Name"][0]]
        assert set(status_of(relay)["Uid"] + status_of(relay)["Gid"]) == wanted
        assert status_of(relay)["Seccomp"] == ["2"]


def test_the_doctor_finds_the_relay_confined(host: Host) -> None:
    gexecd = host.gexecd()
    [finding] = inspection.relays({gexecd.pid})
    assert str(finding) == "ok       running relays are confined: 1"
