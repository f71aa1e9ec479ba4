"""Nodes that lack something: space on a disk, descriptors, processes, or the right time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from laboratory.network.groups import Group
from laboratory.network.nodes import BIN, DEADLINE_S
from laboratory.network.numbered import NumberedJob
from laboratory.network.scenarios import PLACES, FaultScenario, Run, Trial

#: Debian's package libfaketime; a clock that a program sees through it is wrong by FAKETIME.
_FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
_RANK = PLACES["inner"]
_COPY_BYTES = 1 << 20


def clock_missing() -> str:
    """Return why no node can have a wrong clock here, or ""."""
    return "" if _FAKETIME else "needs libfaketime (Debian: apt-get install libfaketime)"


# -- space ----------------------------------------------------------------------------------------


def _full_disk(trial: Trial) -> list[str]:
    """A copy to a node whose disk is full fails only there, with the reason, and leaves nothing."""
    nodes = trial.nodes
    source = nodes.dir / "file"
    source.write_bytes(os.urandom(_COPY_BYTES))
    name = nodes.names[_RANK]
    filler = nodes.owned(name) / "filler"
    with trial.job() as job:
        if not job.all_started():
            return ["not all began"]
        _fill(filler, spare_bytes=_COPY_BYTES // 2)
        findings = []
        done = _copy(trial, source)
        told = done.stderr.decode(errors="replace")
        if done.returncode == 0 or f"{name} " not in told or "the disk is full" not in told:
            findings.append(f"a copy to a full disk: status {done.returncode}, {done.stderr!r}")
        for other in nodes.names:
            copies = [path.name for path in nodes.owned(other).iterdir() if path != filler]
            if copies != ([] if other == name else ["file"]):
                findings.append(f"{other} has {copies} after a copy")
        filler.unlink()
        done = _copy(trial, source)
        if done.returncode:
            findings.append(f"a copy when there is space again: {done.stderr!r}")
        return findings + trial.judged(job)


def _fill(path: Path, spare_bytes: int) -> None:
    with path.open("wb") as file:
        try:
            while True:
                file.write(bytes(65536))
                file.flush()
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
    os.truncate(path, path.stat().st_size - spare_bytes)


def _copy(trial: Trial, source: Path) -> subprocess.CompletedProcess[bytes]:
    words = ["-w", ",".join(trial.nodes.names), "--dest", f"{trial.nodes.own}/file", str(source)]
    return subprocess.run(
        [sys.executable, str(BIN / "ensync"), *words],
        env=trial.nodes.env, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S,
    )  # fmt: skip


# -- descriptors and processes --------------------------------------------------------------------


def _few_descriptors(role: str) -> Run:
    """A role of a node may open nothing more: a job that runs goes on, further ones are refused there."""

    def run(trial: Trial) -> list[str]:
        name = trial.nodes.names[_RANK]
        with trial.job() as job:
            if not job.all_started():
                return ["not all began"]
            (process,) = trial.nodes.daemon(name, role)
            before = _allowed_descriptors(process.pid)
            _allow_descriptors(process.pid, len(os.listdir(f"/proc/{process.pid}/fd")) + 1)
            with trial.job(2) as further:
                findings = _refused_there(trial, further)
            _allow_descriptors(process.pid, before)
            return findings + trial.judged(job) + trial.again()

    return run


def _allowed_descriptors(pid: int) -> int:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(int(line.split()[3]) for line in lines if line.startswith("Max open files"))


def _allow_descriptors(pid: int, count: int) -> None:
    """Change the soft limit of a process as its own user: root may lack the capability for others."""
    owner = os.stat(f"/proc/{pid}")
    words = ["prlimit", "--pid", str(pid), f"--nofile={count}:"]
    subprocess.run(words, user=owner.st_uid, group=owner.st_gid, extra_groups=[], check=True)


def _few_processes(trial: Trial) -> list[str]:
    """A node may have no more processes: a job that runs goes on, further ones do not start there."""
    name = trial.nodes.names[_RANK]
    with trial.job() as job, Group("pids") as group:
        if not job.all_started():
            return ["not all began"]
        group.take(trial.nodes.below(name))
        group.bound(group.current())
        with trial.job(2) as further:
            findings = _refused_there(trial, further)
        group.bound(None)
        return findings + trial.judged(job) + trial.again()


def _refused_there(trial: Trial, job: NumberedJob) -> list[str]:
    findings = trial.judged(job, [_RANK])
    rank = job.ranks[_RANK]
    if rank.outcome not in ("not_started", "denied") or not rank.text:
        findings.append(f"a further job ended there as {rank.outcome}: {rank.text}")
    return findings


# -- the clock ------------------------------------------------------------------------------------


def _wrong_clock(offset_s: int, reason: str = "") -> Run:
    """A node's clock is wrong by so much: it takes a job, or says why not, and the others run it."""

    def run(trial: Trial) -> list[str]:
        name = trial.nodes.names[_RANK]
        trial.nodes.kill(name)
        env = {
            "LD_PRELOAD": str(_FAKETIME[0]),
            "FAKETIME": f"{offset_s:+d}",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        trial.nodes.restart(name, env)
        with trial.job(20) as job:
            if not reason:
                return trial.judged(job)
            findings = trial.judged(job, [_RANK])
            rank = job.ranks[_RANK]
            if reason not in rank.text:
                findings.append(f"{rank.outcome}: {rank.text}")
            return findings

    return run


def shortages() -> Iterator[FaultScenario]:
    """Return the scenarios."""
    yield FaultScenario("full disk", _full_disk, last=False)
    for role in ("relay", "spawner", "starter"):
        yield FaultScenario(f"no descriptors for {role}", _few_descriptors(role), last=False)
    yield FaultScenario("no processes", _few_processes, ("pids",), last=False)
    # What was signed before a node's start, as it sees it, may have run there already.
    before_start = "before this node's gexecd started, so it may have run already"
    no_certificate = "the log of its gexecd has the reason"
    for offset_s, reason in ((-20, ""), (20, before_start), (-3600, "check NTP"), (10**8, no_certificate)):
        yield FaultScenario(f"a clock {offset_s:+d} s off", _wrong_clock(offset_s, reason), ("faketime",))
