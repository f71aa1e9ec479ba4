"""The filter of system calls, run by an interpreter of BPF, for the machines that are not this one, too."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable

import pytest

from gexec.posix import identity
from gexec.posix.confinement import filter_for, give_up_capabilities, refuse_calls, refuse_files

PID = 4711
ALLOWED = 0
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_I386 = 0x40000003


def verdict(machine: str, number: int, *arguments: int, architecture: int = 0) -> int:
    """Return the errno that the filter gives for a call, 0 if it lets it pass."""
    words = [*arguments, 0, 0][:2]
    data = struct.pack(
        "=IIQQQ", number, architecture or ARCHITECTURES[machine], 0, *(word & (2**64 - 1) for word in words)
    )
    program = list(struct.iter_unpack("=HBBI", filter_for(machine, PID)))
    assert len(program) < 4096  # BPF_MAXINSNS
    accumulator = at = 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x20:
            [accumulator] = struct.unpack_from("=I", data, value)
        elif code == 0x06:
            if value == 0x7FFF0000:
                return ALLOWED
            assert value & 0xFFFF0000 == 0x00050000
            return int(value & 0xFFFF)
        else:
            holds = {
                0x15: accumulator == value,
                0x25: accumulator > value,
                0x45: bool(accumulator & value),
            }[code]
            at += if_true if holds else if_false


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("execve", (59, 221)), ("ptrace", (101, 117)), ("unshare", (272, 97)), ("mount", (165, 40)),
        ("bpf", (321, 280)), ("keyctl", (250, 219)), ("userfaultfd", (323, 282)), ("pidfd_open", (434, 434)),
    ],
)  # fmt: skip
def test_calls_that_a_relay_never_needs(name: str, numbers: tuple[int, int]) -> None:
    for machine, number in zip(ARCHITECTURES, numbers, strict=True):
        assert verdict(machine, number) == errno.EPERM, (machine, name)


def test_calls_that_a_relay_needs() -> None:
    # read, write, sendmsg, recvmsg, epoll_pwait, accept4, openat, memfd_create, getrandom, exit_group
    for machine, numbers in (
        ("x86_64", (0, 1, 46, 47, 281, 288, 257, 319, 318, 231)),
        ("aarch64", (63, 64, 211, 212, 22, 242, 56, 279, 278, 94)),
    ):
        assert [verdict(machine, number) for number in numbers] == [ALLOWED] * 10


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_threads_sockets_signals_and_terminals_by_their_arguments(machine: str) -> None:
    column = list(ARCHITECTURES).index(machine)
    clone, socket, kill, tgkill, ioctl = ((56, 220), (41, 198), (62, 129), (234, 131), (16, 29))
    assert verdict(machine, clone[column], 0x003D0F00) == ALLOWED  # what libc gives for a thread
    assert verdict(machine, clone[column], 17) == errno.EPERM  # a fork: SIGCHLD
    assert verdict(machine, clone[column], 0x10000000) == errno.EPERM  # a user namespace
    assert [verdict(machine, socket[column], family) for family in (1, 2, 10)] == [ALLOWED] * 3
    for family in (0, 15, 16, 17, 38, 40):  # key, netlink, packet, alg, vsock
        assert verdict(machine, socket[column], family) == errno.EAFNOSUPPORT
    for number in (kill[column], tgkill[column]):
        assert verdict(machine, number, PID, 6) == ALLOWED  # abort()
        for pid in (1, 0, -1, -PID, PID + 1):
            assert verdict(machine, number, pid, 9) == errno.EPERM
    assert verdict(machine, ioctl[column], 0, 0x5413) == ALLOWED
    assert verdict(machine, ioctl[column], 0, 0x5412) == errno.EPERM  # TIOCSTI
    assert verdict(machine, ioctl[column], 0, 0x541C) == errno.EPERM


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_calls_that_are_as_if_they_did_not_exist(machine: str) -> None:
    for number in (435, 425, 426, 427, 463, 2**30, 2**30 + 59, 2**32 - 1):
        assert verdict(machine, number) == errno.ENOSYS
    assert verdict(machine, 11, architecture=_I386) == errno.ENOSYS  # execve of i386


def test_other_machines_have_no_filter() -> None:
    assert filter_for("riscv64", PID) == b""


def test_attack_106_confinement_is_inherited_and_holds_for_another_kernel_or_says_why() -> None:
    """In a child of this process: what is refused, and that nothing is only half in force."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        told = "failed"
        try:
            if os.geteuid() == 0:
                give_up_capabilities()
                os.setresgid(61184, 61184, 61184)
                os.setresuid(61184, 61184, 61184)
            identity.forbid_new_privileges()
            missing = [*refuse_files([os.devnull]), *refuse_calls()]
            told = _attempts() if not missing else "; ".join(missing)
        finally:
            os.write(writing, told.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    if "kernel" in told or "Landlock" in told or "none is made" in told:
        pytest.skip(told)
    assert told == "program PermissionError, read PermissionError, null fine"


def _attempts() -> str:
    attempts: dict[str, Callable[[], object]] = {
        "program": lambda: os.execv("/bin/true", ["true"]),
        "read": lambda: os.open("/etc/passwd", os.O_RDONLY),
        "null": lambda: os.open(os.devnull, os.O_WRONLY),
    }
    told = []
    for name, attempt in attempts.items():
        try:
            attempt()
            told.append(f"{name} fine")
        except OSError as error:
            told.append(f"{name} {type(error).__name__}")
    return ", ".join(told)
