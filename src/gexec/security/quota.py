"""How users share what a daemon has only so much of: ranks, descriptors, bytes, dials (attacks 93 to 99).

What other daemons take of a relay, links and half-sent frames, is shared by them under the same rule; then a
name takes the place of the uid (attack 127).

One rule for each resource: **a user may take no more than is left for all other users afterwards**. One user
alone gets half of it, two who take all they can a third each, n users 1/(n+1) each; so there is something
left for the next user, whatever the others do. Nothing is taken away from who has it. The superuser has a
reserve beside it, which nobody else can use, and is limited only by the total.

Pure: no clock, no I/O. What is taken must be given back once.
"""

from __future__ import annotations

from typing import Final

#: The superuser's reserve of a resource, as a part of what ordinary users share.
_RESERVE: Final = 8
ROOT: Final = 0
#: As superuser: nobody has a reserve.
NOBODY: Final = -1


class Shares:
    """One resource of one daemon.

    Args:
        most: what ordinary users may have together.
        superuser: the uid that has the reserve: root, or the user of a daemon that serves only that user;
            NOBODY for what daemons share.

    Attributes:
        total: what all users may have together, with the reserve.
    """

    __slots__ = ("_most", "_ordinary", "_reserve", "_superuser", "_used", "total")

    def __init__(self, most: int, superuser: int = ROOT) -> None:
        self._superuser = superuser
        self._most = most
        # A daemon of an ordinary user serves nobody else, for whom something would have to be left.
        self._reserve = -(-most // _RESERVE) if superuser == ROOT else 0
        self.total = most + self._reserve
        self._used: dict[int | str, int] = {}
        self._ordinary = 0

    def used(self, uid: int | str) -> int:
        """Return how much this user has."""
        return self._used.get(uid, 0)

    @property
    def used_by_all(self) -> int:
        """How much all users have."""
        return self._ordinary + self.used(self._superuser)

    def left(self, uid: int | str) -> int:
        """Return how much this user may still take; never negative."""
        if uid == self._superuser:
            return max(0, self.total - self.used_by_all)
        free = self._most - self._ordinary - max(0, self.used(self._superuser) - self._reserve)
        # With n more: used + n <= free - n + 1 (the last one of an odd number is for who comes first).
        return max(0, min(free, (free - self.used(uid) + 1) // 2))

    def take(self, uid: int | str, amount: int = 1) -> bool:
        """Take so much for a user; False, and nothing is taken, if that is more than is left for it."""
        if amount > self.left(uid):
            return False
        self.charge(uid, amount)
        return True

    def charge(self, uid: int | str, amount: int) -> None:
        """Take so much for a user in any case: the caller has asked, or cannot refuse it."""
        if amount:
            self._used[uid] = self.used(uid) + amount
            if uid != self._superuser:
                self._ordinary += amount

    def give(self, uid: int | str, amount: int = 1) -> None:
        """Give back what was taken for a user.

        Raises:
            ValueError: the user does not have so much.
        """
        have = self.used(uid) - amount
        if have < 0:
            raise ValueError(f"{_shown(uid)} gives back {amount}, but has {have + amount}")
        if have:
            self._used[uid] = have
        else:
            self._used.pop(uid, None)
        if uid != self._superuser:
            self._ordinary -= amount

    def refusal(self, uid: int | str, what: str, setting: str = "") -> str:
        """Return why a user gets no more, and what to do.

        Args:
            what: what is shared, in the plural.
            setting: the setting that has its number, if there is one.
        """
        remedy = f", or raise {setting}" if setting else ""
        if uid == self._superuser:
            used = f"this node has {self.used_by_all} {what}, and no room for more than {self.total}"
            return f"{used}: wait until some have ended{remedy}"
        others = "users" if isinstance(uid, int) else "nodes"
        return (
            f"{_shown(uid)} has {self.used(uid)} {what} on this node and gets no more now (all {others} have "
            f"{self._ordinary} of {self._most}, and each must leave as many free as it has): wait until some "
            f"have ended{remedy}"
        )


def _shown(uid: int | str) -> str:
    return f"uid {uid}" if isinstance(uid, int) else uid
