"""The spawner's places for processes, which its users share: checked ranks, tasks, and detached tasks.

A rank of a strict job takes its place when it is checked, and keeps it when it is started. The list holds
only what identifies a checked rank, not its job: the request to start contains the job again. The relay
cancels the checks of ranks that will not start; other checks expire with their credential.
"""

from __future__ import annotations

from typing import Any, Final

from gexec.security.quota import ROOT, Shares

_WHAT: Final = "processes of jobs"
_SETTING: Final = "jobs_max in gexecd.toml"


class _Place:
    __slots__ = ("claimed", "uid", "until_s")

    def __init__(self, uid: int, claimed: tuple[bytes, int], until_s: float | None) -> None:
        self.uid = uid
        self.claimed = claimed
        #: Of a rank that is only checked: when that expires (UNIX time).
        self.until_s = until_s


class Places:
    """Who has how many places, and for how many jobs.

    Args:
        most: places of all ordinary users together.
        superuser: as for ``security.quota.Shares``.
    """

    def __init__(self, most: int, superuser: int = ROOT) -> None:
        self._shares = Shares(most, superuser)
        self._by_task: dict[int, _Place] = {}
        self._checked = 0
        #: By user and job: how many places the job has.
        self._jobs: dict[int, dict[bytes, int]] = {}

    def __len__(self) -> int:
        return len(self._by_task)

    @property
    def checked(self) -> int:
        """How many ranks are checked and not started yet."""
        return self._checked

    def refusal(self, uid: int) -> str | None:
        """Return why there is no place for one more process of a user, None if there is one."""
        return None if self._shares.left(uid) else self._shares.refusal(uid, _WHAT, _SETTING)

    def claimed(self, task: int) -> tuple[bytes, int] | None:
        """Return the (job key, rank) of a rank that is checked and not started; None if there is none."""
        place = self._by_task.get(task)
        return None if place is None or place.until_s is None else place.claimed

    def take(self, task: int, uid: int, claimed: tuple[bytes, int], until_s: float | None = None) -> None:
        """A rank, (job key, rank), is started, or with ``until_s`` checked; ``refusal`` was None.

        It keeps the place that it has.
        """
        self.give(task)
        self._by_task[task] = _Place(uid, claimed, until_s)
        self._checked += until_s is not None
        self._shares.charge(uid, 1)
        jobs = self._jobs.setdefault(uid, {})
        jobs[claimed[0]] = jobs.get(claimed[0], 0) + 1

    def give(self, task: int) -> None:
        """The process has ended, or will not start; nothing if it has no place."""
        place = self._by_task.pop(task, None)
        if place is None:
            return
        uid, job_id = place.uid, place.claimed[0]
        self._checked -= place.until_s is not None
        self._shares.give(uid)
        jobs = self._jobs[uid]
        jobs[job_id] -= 1
        if not jobs[job_id]:
            del jobs[job_id]
            if not jobs:
                del self._jobs[uid]

    def give_check(self, task: int) -> None:
        """A rank that is only checked will not start; nothing if it was started or has no place."""
        if self.claimed(task) is not None:
            self.give(task)

    def save(self) -> list[Any]:
        """Return the places in types that JSON can represent, for ``restore``."""
        return [
            (task, place.uid, place.claimed[0].hex(), place.claimed[1], place.until_s)
            for task, place in self._by_task.items()
        ]

    def restore(self, saved: list[Any]) -> None:
        """Take the places that ``save`` returned."""
        for task, uid, job_key, rank, until_s in saved:
            self.take(task, uid, (bytes.fromhex(job_key), rank), until_s)

    def jobs_of(self, uid: int, but: bytes) -> int:
        """Return how many jobs of a user have a place here, without the job ``but``."""
        jobs = self._jobs.get(uid, {})
        return len(jobs) - (but in jobs)

    def expire(self, now_s: float) -> None:
        """Give back the places of checks that have expired (``now_s``: UNIX time)."""
        for task, place in list(self._by_task.items()):
            if place.until_s is not None and place.until_s < now_s:
                self.give(task)
