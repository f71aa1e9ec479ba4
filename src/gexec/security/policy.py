"""Who may run jobs on this node, and on which terms: rules over an account (attacks 26, 27, 81, 82).

Pure: facts about the account are arguments (``spawner.accounts`` reads them); a refusal is one sentence for
the refused user. ``gexecctl policy check`` shows what these functions decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from gexec.limits import JOBS_PER_UID_MAX

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


class Limit(NamedTuple):
    """A resource limit of a job's processes: the name of an RLIMIT in lower case; -1 = unlimited."""

    name: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class Terms:
    """What an account's jobs may run here, and with what.

    Attributes:
        allow_commands, deny_commands: paths and patterns of programs; an empty allow list allows all.
        limits: resource limits; others are those of gexecd.
        nice: added to the nice value of gexecd.
        umask: bits that are added to the job's umask.
        jobs_max: maximum of the user's jobs at a time.
        pam: the PAM service that checks the account and opens a session; "" = none.
    """

    allow_commands: tuple[str, ...] = ()
    deny_commands: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    nice: int = 0
    umask: int = 0
    jobs_max: int = JOBS_PER_UID_MAX
    pam: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """Terms of some accounts. None: as without the rule; limits replace those of the same name."""

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    allow_commands: tuple[str, ...] | None = None
    deny_commands: tuple[str, ...] | None = None
    limits: tuple[Limit, ...] = ()
    nice: int | None = None
    umask: int | None = None
    jobs_max: int | None = None

    def applies(self, account: Account) -> bool:
        """True if it names the account's user or one of the groups; root only by ``users``."""
        return account.name in self.users or (account.uid != 0 and not self.groups.isdisjoint(account.groups))

    def changed(self, terms: Terms) -> Terms:
        """Return the terms with what this rule sets."""
        named = {limit.name for limit in self.limits}
        kept = [limit for limit in terms.limits if limit.name not in named]
        return replace(
            terms,
            allow_commands=terms.allow_commands if self.allow_commands is None else self.allow_commands,
            deny_commands=terms.deny_commands if self.deny_commands is None else self.deny_commands,
            limits=(*kept, *self.limits),
            nice=terms.nice if self.nice is None else self.nice,
            umask=terms.umask if self.umask is None else self.umask,
            jobs_max=terms.jobs_max if self.jobs_max is None else self.jobs_max,
        )


class Verdict(NamedTuple):
    """One rule's answer: its name, what it examined, and why it refuses ("" = it does not)."""

    rule: str
    text: str
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Policy:
    """The node's rules. Deny lists take precedence; an allow list, if any, must name the user.

    ``uid_min`` does not apply to root; ``allow_root`` does. ``leave_leftovers``: leftovers of a task that
    ended by itself are not ended. ``terms``: of all accounts; root has their commands, jobs and PAM service,
    but not their limits, nice and umask. ``rules``: the first that names an account changes its terms.
    """

    allow_users: frozenset[str] = frozenset()
    deny_users: frozenset[str] = frozenset()
    allow_groups: frozenset[str] = frozenset()
    deny_groups: frozenset[str] = frozenset()
    uid_min: int = 0
    allow_root: bool = True
    allow_nologin: bool = False
    leave_leftovers: bool = True
    terms: Terms = field(default_factory=Terms)
    rules: tuple[Rule, ...] = ()

    def rule_of(self, account: Account) -> int | None:
        """Return the index of the rule that applies to an account, or None."""
        for index, rule in enumerate(self.rules):
            if rule.applies(account):
                return index
        return None

    def terms_of(self, account: Account) -> Terms:
        """Return the terms of an account's jobs."""
        terms = self.terms if account.uid else replace(self.terms, limits=(), nice=0, umask=0)
        index = self.rule_of(account)
        return terms if index is None else self.rules[index].changed(terms)

    def refusal(self, account: Account, *, jobs_running: int, now_s: float) -> str | None:
        """Return why this account may not start one more job here, or None if it may."""
        for _, refusal in self._answers(account, jobs_running, now_s):
            if refusal:
                return refusal
        return None

    def verdicts(self, account: Account, *, jobs_running: int, now_s: float) -> Iterator[Verdict]:
        """Yield the verdict of each rule about the account, in the order in which they are applied."""
        for rule, refusal in self._answers(account, jobs_running, now_s):
            yield Verdict(rule, self._examined(rule, account), refusal)

    def _answers(self, account: Account, jobs_running: int, now_s: float) -> Iterator[tuple[str, str]]:
        """Yield each rule and why it refuses; "" if it does not. Run for each task, so it makes no texts."""
        name, uid, groups = account.name, account.uid, account.groups
        if uid == 0:
            yield "root", "" if self.allow_root else "root may not run jobs here (policy.root is off)"
        else:
            no = uid < self.uid_min
            text = (
                f"{name} has uid {uid}: this node accepts uids from {self.uid_min} on (policy)" if no else ""
            )
            yield "uid_min", text
        no = name in self.deny_users
        yield "deny_users", f"{name} is in this node's list of denied users" if no else ""
        no = not self.deny_groups.isdisjoint(groups)
        text = (
            f"{name} is in the group {min(self.deny_groups & set(groups))}, which is denied here"
            if no
            else ""
        )
        yield "deny_groups", text
        no = bool(self.allow_users or self.allow_groups) and not (
            name in self.allow_users or not self.allow_groups.isdisjoint(groups)
        )
        text = f"{name} is in none of this node's lists of allowed users and groups" if no else ""
        yield "allow_users, allow_groups", text
        yield "locked", f"the account {name} is locked on this node" if account.locked else ""
        no = account.expires_day is not None and now_s >= account.expires_day * 86400
        yield "expired", f"the account {name} has expired on this node" if no else ""
        no = uid != 0 and not account.has_login and not self.allow_nologin
        text = f"the account {name} may not log in on this node (its shell is {account.shell})" if no else ""
        yield "shell", text
        most = self.terms_of(account).jobs_max
        no = jobs_running >= most
        text = f"{name} has {jobs_running} jobs on this node: at most {most} are allowed" if no else ""
        yield "jobs_per_user_max", text

    def _examined(self, rule: str, account: Account) -> str:
        """Return what a rule examines, for a verdict."""
        listed = bool(self.allow_users or self.allow_groups)
        allowed = f"users {_shown(self.allow_users)}; groups {_shown(self.allow_groups)}"
        day = account.expires_day
        return {
            "root": f"root = {str(self.allow_root).lower()}",
            "uid_min": f"uid {account.uid}, uid_min = {self.uid_min}",
            "deny_users": _shown(self.deny_users),
            "deny_groups": _shown(self.deny_groups),
            "allow_users, allow_groups": allowed if listed else "everyone",
            "locked": "its password is locked" if account.locked else "not locked",
            "expired": "no expiry" if day is None else f"expires {day} days after 1970-01-01",
            "shell": account.shell or "none",
            "jobs_per_user_max": f"at most {self.terms_of(account).jobs_max} at a time",
        }[rule]


def _shown(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"


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
