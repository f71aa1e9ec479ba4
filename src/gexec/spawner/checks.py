"""Ranks of strict jobs that were checked and wait to be started, in the spawner.

Of each only what tells it from others is kept, never its job: the start brings that again. A relay
gives up what is not to start; what it does not give up ends with the credential, which is no good then.
"""

from __future__ import annotations

from typing import Final

#: Checked ranks of one user that may wait at a time: twice what one node may stand for in one job.
CHECKS_OF_USER_MAX: Final = 8192


class _Check:
    __slots__ = ("claimed", "uid", "until_s")

    def __init__(self, claimed: tuple[bytes, int], uid: int, until_s: float) -> None:
        self.claimed = claimed
        self.uid = uid
        self.until_s = until_s


class Checks:
    """Which tasks were checked and not started yet."""

    def __init__(self) -> None:
        self._by_task: dict[int, _Check] = {}
        self._of_uid: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._by_task)

    def is_full(self, uid: int) -> bool:
        """Tell whether a user has as many as are allowed."""
        return self._of_uid.get(uid, 0) >= CHECKS_OF_USER_MAX

    def add(self, task: int, claimed: tuple[bytes, int], uid: int, until_s: float) -> None:
        """A task was checked: its (job id, rank), whose it is, and the UNIX time when that ends."""
        self.pop(task)
        self._by_task[task] = _Check(claimed, uid, until_s)
        self._of_uid[uid] = self._of_uid.get(uid, 0) + 1

    def pop(self, task: int) -> tuple[bytes, int] | None:
        """Forget a check and return its (job id, rank); None if there is none."""
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
        """Forget those whose time is over."""
        for task in [task for task, check in self._by_task.items() if check.until_s < now_s]:
            self.pop(task)
