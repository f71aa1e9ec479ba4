"""Confines the calling process: what a relay, the process with the network, never needs is refused.

Three steps (docs/decisions/0025-hardening.md): give up capabilities (as root), then a seccomp filter
that refuses system calls, then Landlock rules that refuse files. Children inherit all of it, and nothing
undoes it. The filter is a list of calls that are refused, so a new libc or interpreter does not end a
daemon; calls that are newer than the list get ENOSYS, for which libraries have a fallback.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_kept: Final[list[object]] = []

_PR_SET_SECCOMP: Final = 22
_PR_CAPBSET_DROP: Final = 24
_PR_SET_SECUREBITS: Final = 28
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_SECCOMP_MODE_FILTER: Final = 2
#: NOROOT, no KEEP_CAPS, no ambient capabilities, and the fixup of capabilities at setuid; all locked.
_SECUREBITS: Final = 0x01 | 0x02 | 0x08 | 0x20 | 0x40 | 0x80
_CAPSET: Final = 0x2008_0522  # _LINUX_CAPABILITY_VERSION_3
_CAPABILITIES_MAX: Final = 64

# linux/filter.h, linux/seccomp.h
_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_GREATER: Final = 0x25
_JUMP_ANY_SET: Final = 0x45
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF_0000
_ERRNO: Final = 0x0005_0000
#: Offsets in struct seccomp_data; of an argument, the lower half (both architectures are little-endian).
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENT_0_AT, _ARGUMENT_1_AT = 0, 4, 16, 24
#: Machine: its AUDIT_ARCH value, and its column in the tables below.
_MACHINES: Final = {"x86_64": (0xC000_003E, 0), "aarch64": (0xC000_00B7, 1)}

#: Refused with EPERM: name, its number on x86_64, on aarch64 (-1: not there).
_REFUSED: Final = (
    # other programs and processes
    ("execve", 59, 221), ("execveat", 322, 281), ("fork", 57, -1), ("vfork", 58, -1),
    ("ptrace", 101, 117), ("process_vm_readv", 310, 270), ("process_vm_writev", 311, 271),
    ("kcmp", 312, 272), ("pidfd_open", 434, 434), ("pidfd_getfd", 438, 438),
    ("pidfd_send_signal", 424, 424), ("process_madvise", 440, 440), ("process_mrelease", 448, 448),
    ("tkill", 200, 130), ("rt_sigqueueinfo", 129, 138), ("rt_tgsigqueueinfo", 297, 240),
    ("move_pages", 279, 239), ("migrate_pages", 256, 238),
    # namespaces and file systems
    ("unshare", 272, 97), ("setns", 308, 268), ("mount", 165, 40), ("umount2", 166, 39),
    ("pivot_root", 155, 41), ("chroot", 161, 51), ("open_tree", 428, 428), ("move_mount", 429, 429),
    ("fsopen", 430, 430), ("fsconfig", 431, 431), ("fsmount", 432, 432), ("fspick", 433, 433),
    ("mount_setattr", 442, 442), ("statmount", 457, 457), ("listmount", 458, 458),
    ("name_to_handle_at", 303, 264), ("open_by_handle_at", 304, 265), ("fanotify_init", 300, 262),
    ("mknod", 133, -1), ("mknodat", 259, 33), ("quotactl", 179, 60), ("quotactl_fd", 443, 443),
    # the kernel, its keys, and parts of it with a history of faults
    ("kexec_load", 246, 104), ("kexec_file_load", 320, 294), ("init_module", 175, 105),
    ("finit_module", 313, 273), ("delete_module", 176, 106), ("bpf", 321, 280),
    ("userfaultfd", 323, 282), ("perf_event_open", 298, 241), ("add_key", 248, 217),
    ("request_key", 249, 218), ("keyctl", 250, 219), ("personality", 135, 92),
    ("iopl", 172, -1), ("ioperm", 173, -1), ("modify_ldt", 154, -1), ("remap_file_pages", 216, 234),
    ("memfd_secret", 447, 447), ("lookup_dcookie", 212, 18), ("nfsservctl", 180, 42),
    # the machine
    ("reboot", 169, 142), ("swapon", 167, 224), ("swapoff", 168, 225), ("syslog", 103, 116),
    ("acct", 163, 89), ("vhangup", 153, 58), ("settimeofday", 164, 170), ("clock_settime", 227, 112),
    ("adjtimex", 159, 171), ("clock_adjtime", 305, 266), ("sethostname", 170, 161),
    ("setdomainname", 171, 162),
)  # fmt: skip
#: As if this kernel did not have them. clone3 has its flags in memory, where no filter sees them: libc then
#: uses clone. libuv then uses epoll instead of io_uring.
_ABSENT: Final = (
    ("clone3", 435, 435), ("io_uring_setup", 425, 425), ("io_uring_enter", 426, 426),
    ("io_uring_register", 427, 427),
)  # fmt: skip
#: Calls with larger numbers (mseal, Linux 6.10) are newer than these tables, or of the x32 ABI.
_NEWEST: Final = 462
_CLONE: Final = (56, 220)
_SOCKET: Final = (41, 198)
_IOCTL: Final = (16, 29)
#: kill and tgkill: the first argument is the process.
_SIGNAL: Final = ((62, 129), (234, 131))
_CLONE_THREAD: Final = 0x0001_0000
_FAMILIES: Final = (1, 2, 10)  # unix, IPv4, IPv6
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # type into a terminal

# linux/landlock.h: the numbers of the calls are the same on all machines.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_VERSION: Final = 1
_LANDLOCK_PATH_BENEATH: Final = 1
_WRITE_FILE, _READ_FILE = 1 << 1, 1 << 2
#: Kinds of access that each version of Landlock can refuse; later ones refuse the last ones, too.
_LANDLOCK_KINDS: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}


def give_up_capabilities() -> list[str]:
    """Empty the sets from which capabilities could come back, and lock the flags of root (securebits).

    To be called as root, before the change of the uid, which empties the other sets.

    Returns:
        What this kernel or container does not permit, as sentences.
    """
    missing = []
    if _prctl(_PR_SET_SECUREBITS, _SECUREBITS):
        missing.append(f"the flags of root cannot be locked ({_reason()})")
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    for capability in range(_CAPABILITIES_MAX):
        if _prctl(_PR_CAPBSET_DROP, capability):
            if ctypes.get_errno() != errno.EINVAL:  # EINVAL: that was the last one
                missing.append(f"the bounding set of capabilities cannot be emptied ({_reason()})")
            break
    return missing


def drop_inheritable() -> None:
    """Empty the set of capabilities that a program would inherit; the change of the uid leaves it alone.

    Raises:
        OSError: the caller must exit.
    """
    header = struct.pack("=Ii", _CAPSET, 0)
    if _libc.capset(header, struct.pack("=6I", 0, 0, 0, 0, 0, 0)):
        raise OSError(ctypes.get_errno(), f"capset: {_reason()}")


def refuse_calls() -> list[str]:
    """Install the seccomp filter; the process must have set no_new_privs.

    Returns:
        Why there is none, as sentences.
    """
    program = filter_for(platform.machine(), os.getpid())
    if not program:
        return [f"no filter of system calls: none is made for {platform.machine()}"]
    buffer = ctypes.create_string_buffer(program, len(program))
    _kept.append(
        buffer
    )  # compiled code frees a local after its last use, which is before the kernel reads it
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    if _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, described):
        return [f"no filter of system calls: this kernel refuses it ({_reason()})"]
    return []


def filter_for(machine: str, pid: int) -> bytes:
    """Return the filter, a classic BPF program, for a process of this pid; b"" for an unknown machine."""
    if machine not in _MACHINES:
        return b""
    architecture, column = _MACHINES[machine]
    eperm, enosys = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    steps = [
        _step(_LOAD, _ARCHITECTURE_AT),
        *_unless(architecture, enosys),  # 32-bit calls have other numbers
        _step(_LOAD, _NUMBER_AT),
        _step(_JUMP_GREATER, _NEWEST, 0, 1),
        _step(_RETURN, enosys),
    ]
    for table, result in ((_REFUSED, eperm), (_ABSENT, enosys)):
        for _, *numbers in table:
            if numbers[column] >= 0:
                steps += [_step(_JUMP_EQUAL, numbers[column], 0, 1), _step(_RETURN, result)]
    allow = _step(_RETURN, _ALLOW)
    for signals in _SIGNAL:
        steps += _only(signals[column], [_step(_LOAD, _ARGUMENT_0_AT), *_unless(pid, eperm), allow])
    threads = [_step(_JUMP_ANY_SET, _CLONE_THREAD, 1, 0), _step(_RETURN, eperm), allow]
    steps += _only(_CLONE[column], [_step(_LOAD, _ARGUMENT_0_AT), *threads])
    families = [part for family in _FAMILIES for part in (_step(_JUMP_EQUAL, family, 0, 1), allow)]
    refusal = _step(_RETURN, _ERRNO | errno.EAFNOSUPPORT)
    steps += _only(_SOCKET[column], [_step(_LOAD, _ARGUMENT_0_AT), *families, refusal])
    typing = [
        part for request in (_TIOCSTI, _TIOCLINUX)
        for part in (_step(_JUMP_EQUAL, request, 0, 1), _step(_RETURN, eperm))
    ]  # fmt: skip
    steps += _only(_IOCTL[column], [_step(_LOAD, _ARGUMENT_1_AT), *typing, allow])
    return b"".join([*steps, allow])


def refuse_files(writable: Sequence[str]) -> list[str]:
    """Let this process open no file by its path any more, except existing ones of these.

    Descriptors that are open stay so, and memfds can be opened by /proc/self/fd. Sockets are no files here.
    The process must have set no_new_privs.

    Returns:
        Why Landlock cannot be used, as sentences.
    """
    version = _libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        return [f"files are not refused: this kernel has no Landlock ({_reason()})"]
    kinds = _LANDLOCK_KINDS[max(known for known in _LANDLOCK_KINDS if known <= version)]
    attributes = struct.pack("=Q", kinds)
    rules = _libc.syscall(
        _LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0)
    )
    if rules < 0:
        return [f"files are not refused: Landlock refuses the rules ({_reason()})"]
    try:
        for path in writable:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", _READ_FILE | _WRITE_FILE, descriptor)
            status = _libc.syscall(_LANDLOCK_ADD_RULE, rules, _LANDLOCK_PATH_BENEATH, rule, ctypes.c_uint(0))
            reason = _reason()
            os.close(descriptor)
            if status:
                return [f"files are not refused: Landlock refuses the rule for {path} ({reason})"]
        if _libc.syscall(_LANDLOCK_RESTRICT_SELF, rules, ctypes.c_uint(0)):
            return [f"files are not refused: Landlock cannot be used ({_reason()})"]
    finally:
        os.close(rules)
    return []


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _unless(value: int, result: int) -> list[bytes]:
    """Return this result unless the accumulator has this value."""
    return [_step(_JUMP_EQUAL, value, 1, 0), _step(_RETURN, result)]


def _only(number: int, steps: list[bytes]) -> list[bytes]:
    """Run these steps, which end the program, for this call; others are skipped over them."""
    return [_step(_JUMP_EQUAL, number, 0, len(steps)), *steps]


def _prctl(option: int, argument: int, further: int | bytes = 0) -> int:
    last = ctypes.c_char_p(further) if isinstance(further, bytes) else ctypes.c_ulong(further)
    zero = ctypes.c_ulong(0)
    status: int = _libc.prctl(option, ctypes.c_ulong(argument), last, zero, zero)
    return status


def _reason() -> str:
    return os.strerror(ctypes.get_errno()).lower()
