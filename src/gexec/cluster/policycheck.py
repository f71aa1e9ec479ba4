"""`gexecctl policy check`: whether this node's policy permits a user to run a command, rule by rule.

It decides nothing: it asks what gexecd asks (``security.policy``, ``spawner.starting``, ``posix.pam``),
and tells which rules it could not examine.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from gexec import limits
from gexec.errors import ConfigError, UsageError
from gexec.gexecd.rereading import policy_of
from gexec.posix import identity
from gexec.posix.pam import Pam, PamError
from gexec.security.policy import Account, Policy, Terms
from gexec.settings.config import GEXECD_CONFIG, read_gexecd
from gexec.spawner.accounts import account_of
from gexec.spawner.admission import becoming_of
from gexec.spawner.helper import permitted
from gexec.spawner.starting import Refusal, Ways, check
from gexec.wire.launches import LaunchSpec

_SHADOW = "/etc/shadow"
_SHOWN = {True: "yes", False: "no ", None: "?  "}


class Examined(NamedTuple):
    """What one rule answers: True = permitted, False = refused, None = it could not be examined."""

    rule: str
    permitted: bool | None
    text: str


class Explanation(NamedTuple):
    """The answer of the policy about a user and a command.

    Attributes:
        config: the file that the policy is in.
        account: None = there is none.
        rule: the number of the ``[[policy.rule]]`` that applies, from 1; None = none.
    """

    config: str
    user: str
    account: Account | None
    terms: Terms
    rule: int | None
    findings: list[Examined]

    @property
    def refusal(self) -> str:
        """The first refusal, "" if there is none."""
        return next((finding.text for finding in self.findings if finding.permitted is False), "")

    @property
    def is_complete(self) -> bool:
        """False if rules could not be examined."""
        return all(finding.permitted is not None for finding in self.findings)


def explain(user: str, command: str, config: str | None) -> Explanation:
    """Return what the policy of this node's gexecd answers.

    It is root's gexecd, unless ``config`` belongs to the ordinary user who asks: then it is that user's.

    Args:
        user: a login name or a uid.
        command: an absolute path, or a name that is looked up in PATH.
        config: gexecd.toml; None = the usual file if it exists.

    Raises:
        UsageError: the settings cannot be used, or the command is empty.
    """
    if not command or "\0" in command:
        raise UsageError("expected a command: an absolute path, or a name in PATH")
    if "/" in command and not command.startswith("/"):
        raise UsageError(f"{command}: expected an absolute path, or a name in PATH")
    try:
        settings = read_gexecd(config).policy
        is_roots = os.geteuid() == 0 or config is None or os.stat(config).st_uid == 0
        policy = policy_of(settings, root=is_roots)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    shown = config or (GEXECD_CONFIG if os.path.lexists(GEXECD_CONFIG) else "the defaults")
    account = _account_of(user)
    if account is None:
        missing = Examined("account", False, f"{user} has no account on this node")
        return Explanation(shown, user, None, policy.terms, None, [missing])
    terms, index = policy.terms_of(account), policy.rule_of(account)
    findings = [] if is_roots else [_of_owner(account)]
    findings += [
        *_of_account(policy, account),
        _of_pam(terms, account),
        _of_command(terms, account, command),
    ]
    return Explanation(shown, user, account, terms, None if index is None else index + 1, findings)


def _account_of(user: str) -> Account | None:
    try:
        return account_of(pwd.getpwnam(user).pw_uid)
    except KeyError:
        return account_of(int(user)) if user.isascii() and user.isdigit() else None


def _of_owner(account: Account) -> Examined:
    """Check that an ordinary user's gexecd serves the account."""
    me = os.geteuid()
    return Examined("uid", account.uid == me, f"a gexecd that uid {me} starts serves that user only")


def _of_account(policy: Policy, account: Account) -> Iterator[Examined]:
    hidden = not os.access(_SHADOW, os.R_OK)
    for verdict in policy.verdicts(account, jobs_running=0, now_s=time.time()):
        if verdict.rule in ("locked", "expired") and hidden:
            yield Examined(verdict.rule, None, f"only root can read {_SHADOW}")
        else:
            yield Examined(verdict.rule, not verdict.refusal, verdict.refusal or verdict.text)


def _of_pam(terms: Terms, account: Account) -> Examined:
    if not terms.pam:
        return Examined("pam", True, "PAM is not used")
    if os.geteuid() != 0:
        return Examined("pam", None, f"only root can ask PAM (service {terms.pam})")

    def ask() -> str:
        try:
            Pam(terms.pam, account.name).check_account()
        except PamError as refusal:
            return str(refusal)
        return ""

    answer = _in_child(ask)
    if answer is None:
        return Examined("pam", None, f"PAM does not answer (service {terms.pam})")
    return Examined("pam", not answer, answer or f"service {terms.pam} accepts the account")


def _of_command(terms: Terms, account: Account, command: str) -> Examined:
    """Check the program as a helper does, with the user's rights if this process can have them."""
    becoming = becoming_of(account, terms)
    can_become = os.geteuid() == 0

    def ask() -> str:
        path = os.environb.get(b"PATH", b"")
        spec = LaunchSpec(
            program=os.fsencode(command), argv=[b"x"], env=[b"PATH=" + path], cwd=b"/", umask=0,
            remote_path="/" not in command, kill_grace_s=0, job_id=bytes(16), rank=0,
        )  # fmt: skip
        ways = Ways(permitted(becoming))
        if can_become:
            identity.drop_to(becoming.uid, becoming.gids[0], becoming.gids[1:])
        try:
            check(spec, ways)
        except Refusal as refusal:
            return refusal.outcome.text
        return ""

    answer = _in_child(ask)
    if answer is None:
        return Examined("command", None, f"{command} could not be examined: its file system does not answer?")
    if not can_become and account.uid != os.geteuid():
        answer = answer or "permitted"
        return Examined(
            "command", None, f"{answer}; examined with your rights, not with those of {account.name}"
        )
    lists = "all commands are allowed" if not terms.allow_commands else ", ".join(terms.allow_commands)
    return Examined("command", not answer, answer or f"{command} is permitted ({lists})")


def _in_child(ask: Callable[[], str]) -> str | None:
    """Return what ``ask`` returns in a child process; None if it does not end in time."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            signal.alarm(int(limits.PAM_S))
            text = ask()
            os.write(writing, b"=" + text.encode("utf-8", "backslashreplace")[: limits.TEXT_MAX_BYTES])
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as answer:
        told = answer.read()
    os.waitpid(pid, 0)
    return told[1:].decode(errors="replace") if told else None


def described(explanation: Explanation) -> str:
    """Return the explanation as lines of text."""
    account, terms = explanation.account, explanation.terms
    who = explanation.user
    if account is not None:
        who = f"{account.name}: uid {account.uid}, groups {' '.join(account.groups)}"
    lines = [f"{who} ({explanation.config})"]
    lines += [f"{_SHOWN[each.permitted]} {each.rule}: {each.text}" for each in explanation.findings]
    if account is not None:
        rule = "no [[policy.rule]] applies"
        if explanation.rule is not None:
            rule = f"[[policy.rule]] number {explanation.rule} applies"
        amounts = [f"{each.name} {_amount(each.soft)}:{_amount(each.hard)}" for each in terms.limits]
        lines.append(f"    terms: {rule}; limits {', '.join(amounts) or 'of gexecd'}; nice {terms.nice:+d}, "
                     f"umask {terms.umask:03o} added; at most {terms.jobs_max} jobs")  # fmt: skip
    if explanation.refusal:
        lines.append(f"refused: {explanation.refusal}")
    else:
        lines.append("allowed" if explanation.is_complete else "allowed, as far as this user can examine")
    return "\n".join(lines)


def _amount(value: int) -> str:
    return "unlimited" if value < 0 else str(value)


def as_json(explanation: Explanation) -> str:
    """Return the explanation as one JSON object."""
    account, terms = explanation.account, explanation.terms
    told = {
        "allowed": not explanation.refusal,
        "complete": explanation.is_complete,
        "refusal": explanation.refusal,
        "config": explanation.config,
        "user": explanation.user if account is None else account.name,
        "uid": None if account is None else account.uid,
        "groups": [] if account is None else list(account.groups),
        "rules": [each._asdict() for each in explanation.findings],
        "rule": explanation.rule,
        "limits": {each.name: [each.soft, each.hard] for each in terms.limits},
        "nice": terms.nice,
        "umask": f"{terms.umask:03o}",
        "jobs_per_user_max": terms.jobs_max,
        "pam": terms.pam,
    }
    return json.dumps(told)
