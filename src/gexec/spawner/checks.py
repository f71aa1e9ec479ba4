"""The spawner's list of ranks of strict jobs that were checked and are not started yet.

The list holds only what identifies each rank, not its job: the request to start contains the job again.
The relay cancels the checks of ranks that will not start; other checks expire with their credential.
"""

from __future__ import annotations

from typing import Final

#: Maximum of one user's checked ranks at a time: twice the ranks that one node may have in one job.
CHECKS_OF_USER_MAX: Final = 8192


class _Check:
    __slots__ = ("claimed", "uid", "until_s")

    def __init__(self, claimed: tuple[bytes, int], uid: int, until_s: float) -> None:
        self.claimed = claimed
        self.uid = uid
        self.until_s = until_s


class Checks:
    """The tasks that were checked and are not started yet."""

    def __init__(self) -> None:
        self._by_task: dict[int, _Check] = {}
        self._of_uid: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._by_task)

    def is_full(self, uid: int) -> bool:
        """Return whether a user has as many checks as are allowed."""
        return self._of_uid.get(uid, 0) >= CHECKS_OF_USER_MAX

    def add(self, task: int, claimed: tuple[bytes, int], uid: int, until_s: float) -> None:
        """Add a checked task: its (job id, rank), its user, and the UNIX time when the check expires."""
        self.pop(task)
        self._by_task[task] = _Check(claimed, uid, until_s)
        self._of_uid[uid] = self._of_uid.get(uid, 0) + 1

    def pop(self, task: int) -> tuple[bytes, int] | None:
        """Remove a check and return its (job id, rank); None if there is none."""
        check = self._by_task.pop(task, None)
        if check is None:
            return None
        count = self._of_uid[check.uid] - 1
        if count:
            self._of_uid[check.uid] = count
        else:
            del self._of_uid[check.uid]
        return check.claimed

    def expire(self, now_s: float) -> None:
        """Remove the checks that have expired (``now_s``: UNIX time)."""
        for task in [task for task, check in self._by_task.items() if check.until_s < now_s]:
            self.pop(task)
