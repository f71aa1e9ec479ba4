"""`gexecctl doctor`: the host's part of the security: the relay's user, processes, files, units, clock.

Each function yields its findings, does not raise for them, and changes nothing.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import stat
import struct
import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from gexec.cluster.findings import OK, PROBLEM, WARNING, Finding
from gexec.errors import ConfigError
from gexec.gexecd.relay_user import DEFAULT, overflow_uids, relay_identity
from gexec.posix import cgroups
from gexec.posix.trusted import check_directories

RELAY: Final = "gexecd-relay"
_STARTER: Final = "gexecd-starter"
#: Where systemd looks for units, the first one counts.
UNITS: Final = (
    "/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system",
    "/lib/systemd/system",
)  # fmt: skip
#: What each unit must have, lower case; "" = it must be there and be empty.
EXPECTED: Final = {
    "gexecd.service": {"Type": "notify", "KillMode": "process", "Restart": "on-failure"},
    "authd.service": {
        "Type": "notify", "Restart": "on-failure", "NoNewPrivileges": "yes", "CapabilityBoundingSet": "",
        "PrivateNetwork": "yes", "ProtectSystem": "strict", "ProtectHome": "yes",
        "SystemCallFilter": "@system-service",
    },
}  # fmt: skip
#: Jobs would inherit these from gexecd.service.
INHERITED: Final = (
    "CapabilityBoundingSet", "IPAddressDeny", "LockPersonality", "MemoryDenyWriteExecute", "NoNewPrivileges",
    "PrivateDevices", "PrivateMounts", "PrivateNetwork", "PrivateTmp", "PrivateUsers", "ProtectClock",
    "ProtectControlGroups", "ProtectHome", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules",
    "ProtectKernelTunables", "ProtectProc", "ProtectSystem", "RestrictAddressFamilies", "RestrictNamespaces",
    "RestrictRealtime", "RestrictSUIDSGID", "SystemCallArchitectures", "SystemCallFilter",
)  # fmt: skip
_NO_SHELLS: Final = ("nologin", "false")
_SHOWN_MAX: Final = 8
_DESCRIPTORS_MIN: Final = 4096
_STATUS_AT: Final = 40  # of struct timex, adjtimex(2)
_TIMEX_BYTES: Final = 256
_STA_UNSYNC: Final = 0x40


def is_installed(units: Sequence[str] = UNITS) -> bool:
    """Tell whether this host has daemons of root, as far as any user can see."""
    return os.path.isdir("/etc/gexec") or any(os.path.lexists(f"{place}/gexecd.service") for place in units)


def relay_user(configured: str) -> Iterator[Finding]:
    """Check the account that the relay of root's gexecd becomes: it must be the relay's alone."""
    try:
        uid, _ = relay_identity(configured)
    except ConfigError as error:
        yield Finding(PROBLEM, str(error))
        return
    entry = pwd.getpwnam(configured or DEFAULT)
    wrong = []
    if os.path.basename(entry.pw_shell) not in _NO_SHELLS:
        wrong.append(("can log in", f"run `usermod --shell /usr/sbin/nologin {entry.pw_name}`"))
    if _owner(entry.pw_dir) == uid:
        wrong.append((f"owns its home directory {entry.pw_dir}", f"run `chown root: {entry.pw_dir}`"))
    if others := sorted({name for name, status in _processes() if _is_foreign(name, status, uid)}):
        shown = ", ".join(others[:_SHOWN_MAX]) + (" ..." if len(others) > _SHOWN_MAX else "")
        wrong.append((f"also runs {shown}", "give the relay a user of its own with relay_user"))
    for what, fix in wrong:
        yield Finding(WARNING, f"the relay's user {entry.pw_name} {what}", fix)
    if not wrong:
        yield Finding(OK, f"the relay's user {entry.pw_name} (uid {uid}) has nothing else")


def relays(spawners: Container[int] | None = None) -> Iterator[Finding]:
    """Check how running relays are confined: those of these spawners' pids, or all of this host."""
    good: list[str] = []
    wrong: dict[tuple[str, str, str], list[str]] = {}
    for name, status in list(_processes()):
        if name != RELAY or not (spawners is None or int(status["PPid"]) in spawners):
            continue
        if text := _why_loose(status):
            key = (PROBLEM, text, "restart its gexecd, and see its log")
        elif (soft := _descriptors(status["Pid"])) < _DESCRIPTORS_MIN:
            text = f"may open only {soft} descriptors"
            key = (WARNING, text, "set LimitNOFILE=1024:524288 in gexecd.service, or raise `ulimit -H -n`")
        else:
            good.append(status["Pid"])
            continue
        wrong.setdefault(key, []).append(status["Pid"])
    for (level, text, fix), pids in wrong.items():
        shown = ", ".join(pids[:_SHOWN_MAX]) + (" ..." if len(pids) > _SHOWN_MAX else "")
        yield Finding(level, f"running relay (pid {shown}) {text}", fix)
    if good and not wrong:
        yield Finding(OK, f"running relays are confined: {len(good)}")


def _why_loose(status: dict[str, str]) -> str:
    """Return what a relay has that it should not have, "" if nothing."""
    wrong = []
    uid, parents = int(status["Uid"].split()[0]), _status(status["PPid"])
    is_roots = parents.get("Uid", "").split()[:1] == ["0"]
    if uid == 0:
        wrong.append("runs as root")
    elif is_roots and uid in overflow_uids():
        wrong.append("runs as nobody")
    if status.get("NoNewPrivs") != "1":
        wrong.append("may gain privileges (no_new_privs is not set)")
    if status.get("Seccomp") != "2" and os.uname().machine in ("x86_64", "aarch64"):
        wrong.append("has no filter of system calls")
    if is_roots and any(int(status.get(name, "0"), 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")):
        wrong.append("has capabilities")
    return ", ".join(wrong)


def files(paths: Iterable[str]) -> Iterator[Finding]:
    """Check that only root can change the program, its settings, sockets, logs and spool, and all above."""
    program = [os.path.dirname(os.path.dirname(os.path.abspath(__file__))), os.path.realpath(sys.executable)]
    found = False
    for path in (*program, *paths):
        if os.path.lexists(path):
            for finding in _changeable(path):
                found = True
                yield finding
    if not found:
        yield Finding(OK, "only root can change gexec's program, settings, sockets, logs and spool")


def _changeable(path: str) -> Iterator[Finding]:
    status = os.lstat(path)
    if status.st_uid != 0:
        yield Finding(
            PROBLEM, f"{path} belongs to uid {status.st_uid}, not to root", f"run `chown root {path}`"
        )
    elif status.st_mode & 0o022 and not (stat.S_ISSOCK(status.st_mode) or stat.S_ISLNK(status.st_mode)):
        yield Finding(PROBLEM, f"other users may write to {path}", f"run `chmod go-w {path}`")
    try:
        # Without a name at the end, a directory itself is among those that are checked.
        check_directories(os.path.join(path, "") if stat.S_ISDIR(status.st_mode) else path, "", ConfigError)
    except ConfigError as error:
        yield Finding(PROBLEM, str(error).strip())


def units(places: Sequence[str] = UNITS) -> Iterator[Finding]:
    """Check the units of systemd that are in force, with their drop-ins; nothing without such units."""
    for name, expected in EXPECTED.items():
        paths = [os.path.join(place, name) for place in places]
        path = next((path for path in paths if os.path.lexists(path)), "")
        if not path:
            continue
        settings = read_unit(path, [f"{one}.d" for one in reversed(paths)])
        wrong = [
            f"{key}={value}"
            for key, value in expected.items()
            if settings.get(key, "-" if not value else "").lower() != value
        ]
        if name == "gexecd.service" and not _is_on(settings.get("Delegate", "no") or "on"):
            wrong.append("Delegate=pids")
        if wrong:
            yield Finding(WARNING, f"{path} lacks {', '.join(wrong)}", f"copy packaging/systemd/{name} again")
        inherited = [key for key in INHERITED if name == "gexecd.service" and _is_on(settings.get(key, "no"))]
        if inherited:
            yield Finding(
                WARNING,
                f"{path} sets {', '.join(inherited)}, which all jobs inherit",
                "remove these settings",
            )
        if not (wrong or inherited):
            yield Finding(OK, f"{path} is as expected")
        program = settings.get("ExecStart", "").lstrip("-@:+!").partition(" ")[0]
        if program.startswith("/") and os.path.exists(program):
            yield from _changeable(os.path.realpath(program))


def read_unit(path: str, drop_ins: Iterable[str] = ()) -> dict[str, str]:
    """Return the settings of a unit file and of the files *.conf in directories; the last one counts."""
    found: dict[str, str] = {}
    more = [file for place in drop_ins if os.path.isdir(place) for file in sorted(Path(place).glob("*.conf"))]
    for file in (Path(path), *more):
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            key, equals, value = line.partition("=")
            if equals and not line.startswith(("#", ";")):
                found[key.strip()] = value.strip()
    return found


def _is_on(value: str) -> bool:
    return value.lower() not in ("no", "false", "off", "0", "")


def cells(setting: str) -> Iterator[Finding]:
    """Check whether running gexecds of root put each command in a control group.

    Args:
        setting: ``control_group`` of gexecd.toml.
    """
    for name, status in list(_processes()):
        pid = int(status["Pid"])
        if name != _STARTER or not status.get("Uid", "").startswith("0\t") or not _is_executed(pid):
            continue
        if cgroups.is_divided(pid):
            yield Finding(OK, "each command is in a control group of its own")
        elif setting == cgroups.NONE:
            yield Finding(OK, "commands have no control groups of their own (control_group = none)")
        else:
            yield Finding(
                WARNING,
                "commands have no control groups of their own, so what hides from its command may outlive it",
                "set Delegate=pids in gexecd.service, or control_group in gexecd.toml, and restart gexecd"
                f" (pid {status['PPid']}); its log has the reason",
            )


def _is_executed(pid: int) -> bool:
    """Tell whether a starter is not a local cluster's, which has no control groups."""
    try:
        return b"\0gexec.spawner.boot\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def clock() -> Iterator[Finding]:
    """Check whether something keeps the kernel's clock right: credentials last a minute."""
    libc = ctypes.CDLL(None, use_errno=True)
    timex = ctypes.create_string_buffer(_TIMEX_BYTES)
    if libc.adjtimex(timex) < 0:
        return
    if struct.unpack_from("=i", timex.raw, _STATUS_AT)[0] & _STA_UNSYNC:
        yield Finding(
            WARNING,
            "this host's clock is not synchronised",
            "run an NTP client on every node, such as chrony",
        )
    else:
        yield Finding(OK, "this host's clock is synchronised")


def _processes() -> Iterator[tuple[str, dict[str, str]]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (status := _status(entry)):
            yield status.get("Name", ""), status


def _status(pid: str) -> dict[str, str]:
    """Return /proc/PID/status, {} if the process is gone."""
    try:
        with open(f"/proc/{pid}/status", errors="replace") as file:
            pairs = [line.partition(":") for line in file]
    except OSError:
        return {}
    return {key: value.strip() for key, _, value in pairs}


def _is_foreign(name: str, status: dict[str, str], uid: int) -> bool:
    return name != RELAY and status.get("Uid", "").split()[:1] == [str(uid)]


def _descriptors(pid: str) -> int:
    """Return how many descriptors a process may have; a large number if that cannot be read."""
    try:
        with open(f"/proc/{pid}/limits") as file:
            for line in file:
                if line.startswith("Max open files"):
                    return int(line.split()[3])
    except (OSError, ValueError):
        pass
    return sys.maxsize


def _owner(path: str) -> int:
    try:
        return os.stat(path).st_uid
    except OSError:
        return -1
