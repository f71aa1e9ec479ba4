"""Who may run jobs on this node: a policy over facts about an account (attacks 26, 27, 81, 82).

Pure: facts about the account are arguments (``spawner.accounts`` reads them); the result is None, or one
sentence for the refused user.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gexec import limits

_NO_LOGIN_PROGRAMS: Final = frozenset({"nologin", "false"})


@dataclass(frozen=True, slots=True)
class Account:
    """A uid's entry in this node's account database.

    ``password`` is the shadow entry's password field and ``expires_day`` its expiry in days since 1970; both
    are None if they cannot be read (an ordinary user's gexecd) or are not set.
    """

    name: str
    uid: int
    gid: int
    groups: tuple[str, ...] = ()
    gids: tuple[int, ...] = ()
    home: str = "/"
    shell: str = ""
    password: str | None = None
    expires_day: int | None = None

    @property
    def locked(self) -> bool:
        """True for a password that was locked (``usermod -L``: a '!' before the hash).

        A single '!' or '*' means that there never was a password: the usual state of root and of accounts
        that use keys, so it does not count as locked.
        """
        password = self.password or ""
        return password.startswith("!") and password.strip("!*") != ""

    @property
    def has_login(self) -> bool:
        """False if the shell refuses logins (nologin, false)."""
        return self.shell.rpartition("/")[2] not in _NO_LOGIN_PROGRAMS


@dataclass(frozen=True, slots=True)
class Policy:
    """The node's rules. Deny lists take precedence; an allow list, if any, must name the user.

    ``uid_min`` does not apply to root; ``allow_root`` does. ``leave_leftovers``: leftovers of a task that
    ended by itself are not ended.
    """

    allow_users: frozenset[str] = frozenset()
    deny_users: frozenset[str] = frozenset()
    allow_groups: frozenset[str] = frozenset()
    deny_groups: frozenset[str] = frozenset()
    uid_min: int = 0
    allow_root: bool = True
    allow_nologin: bool = False
    jobs_per_user_max: int = limits.JOBS_PER_UID_MAX
    leave_leftovers: bool = True

    def refusal(self, account: Account, *, jobs_running: int, now_s: float) -> str | None:
        """Return why this account may not start one more job here, or None if it may."""
        name = account.name
        if account.uid == 0 and not self.allow_root:
            return "root may not run jobs here (policy.root is off)"
        if account.uid != 0 and account.uid < self.uid_min:
            return f"{name} has uid {account.uid}: this node accepts uids from {self.uid_min} on (policy)"
        denied = self._list_refusal(account)
        if denied:
            return denied
        if account.locked:
            return f"the account {name} is locked on this node"
        if account.expires_day is not None and now_s >= account.expires_day * 86400:
            return f"the account {name} has expired on this node"
        if account.uid != 0 and not account.has_login and not self.allow_nologin:
            return f"the account {name} may not log in on this node (its shell is {account.shell})"
        if jobs_running >= self.jobs_per_user_max:
            return (
                f"{name} has {jobs_running} jobs on this node: at most {self.jobs_per_user_max} are allowed"
            )
        return None

    def _list_refusal(self, account: Account) -> str | None:
        groups = frozenset(account.groups)
        if account.name in self.deny_users:
            return f"{account.name} is in this node's list of denied users"
        if self.deny_groups & groups:
            return f"{account.name} is in the group {min(self.deny_groups & groups)}, which is denied here"
        if (self.allow_users or self.allow_groups) and not (
            account.name in self.allow_users or self.allow_groups & groups
        ):
            return f"{account.name} is in none of this node's lists of allowed users and groups"
        return None


def disagreement(account: Account | None, *, uid: int, gid: int, user: str) -> str | None:
    """Return how the credential's identity differs from this node's account database, or None."""
    if account is None:
        return f"uid {uid} ({user}) has no account on this node"
    if account.name != user:
        return (
            f"uid {uid} is {account.name} on this node, but {user} in the credential: make the accounts equal"
        )
    if account.gid != gid:
        return (
            f"{user} has the primary group {account.gid} on this node, but {gid} in the credential: "
            "make the accounts equal, or start gexec without newgrp"
        )
    return None
