"""Signers and policy for the spawner: at the start, and after SIGHUP, when the spawner runs this program.

The spawner does not load modules that read configuration, so it runs this module as a child.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, Final

from gexec.errors import ConfigError, GexecError
from gexec.gexecd.enrolment import CertificateSource
from gexec.posix import programs
from gexec.posix.log import stderr_log
from gexec.posix.pam import DIRECTORIES
from gexec.security.policy import Policy, Rule, Terms
from gexec.settings.config import LEAVE, GexecdSettings, PolicySettings, read_gexecd
from gexec.settings.keyfiles import read_trust
from gexec.settings.terms import RuleSettings, umask_of
from gexec.spawner.handover import policy_fields
from gexec.version import VERSION

#: Settings of whom the node trusts, and as whom it is trusted.
_READ_AGAIN: Final = (
    "public_keys", "signers", "authorities", "node_key", "node_certificate", "authd_socket",
)  # fmt: skip
#: The program ends by SIGALRM after this time.
_WITHIN_S = 30


def main(argv: list[str]) -> int:
    """Read signers and policy and write them to stdout as JSON; return 1 if they cannot be used.

    It also writes the command that gets the next certificate, for which other files may be named now, and
    which code is installed.

    Args:
        argv: one argument, JSON, from ``wanted``.
    """
    wanted = json.loads(argv[0])
    try:
        signal.alarm(_WITHIN_S)  # so that a file system that does not answer delays no later SIGHUP for long
        policy = wanted["policy"]
        settings = GexecdSettings()
        if wanted["config"] is not None:
            settings = read_gexecd(wanted["config"] or None)
            policy = policy_fields(policy_of(settings.policy))
        fixed: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in wanted["fixed"].items()
        }
        settings = replace(settings, **fixed)
        names = tuple(wanted["names"])
        trust = read_trust(settings.public_keys, settings.signers, names)
        told = {
            "trust": trust.encode(),
            "policy": policy,
            "renewal": renewal_command(settings, names),
            "version": VERSION,
            "code": programs.code_digest(),
        }
    except GexecError as error:
        stderr_log("gexecd").error(f"reload: {error}")
        return 1
    finally:
        signal.alarm(0)
    sys.stdout.write(json.dumps(told))
    return 0


def rereading_command(
    settings: GexecdSettings,
    names: Sequence[str],
    policy: dict[str, Any],
    config: str | None,
    given: Collection[str],
) -> list[str]:
    """Return the command that reads signers and policy again.

    Args:
        names: the node's names and addresses.
        policy: to write if it is not read.
        config: the settings' file, "" = the usual one, None = there is none: nothing but files of keys,
            signers and certificates is read again.
        given: the names of the settings that the command line determines, whatever the file says.
    """
    fixed = {name: getattr(settings, name) for name in _READ_AGAIN if config is None or name in given}
    wanted = {"config": config, "policy": policy, "names": list(names), "fixed": fixed}
    return programs.command("gexec.gexecd.rereading", json.dumps(wanted))


def renewal_command(settings: GexecdSettings, names: tuple[str, ...]) -> list[str]:
    """Return the command that gets the next certificate."""
    return programs.command("gexec.gexecd.renewal", CertificateSource.of(settings, names).argument())


def policy_of(settings: PolicySettings, root: bool | None = None) -> Policy:
    """Return the policy that the settings describe.

    Args:
        root: whether it is for a gexecd that is started as root; None = as this process is.

    Raises:
        ConfigError: it needs root, or a file that does not exist.
    """
    if root is None:
        root = os.geteuid() == 0
    if settings.pam and not root:
        raise ConfigError("policy: pam: only a gexecd that is started as root can use PAM")
    if settings.pam and not any(os.path.isfile(f"{place}/{settings.pam}") for place in DIRECTORIES):
        raise ConfigError(
            f"policy: pam: there is no file /etc/pam.d/{settings.pam}: create it (docs/gexecd.md)"
        )
    return Policy(
        allow_users=frozenset(settings.allow_users),
        deny_users=frozenset(settings.deny_users),
        allow_groups=frozenset(settings.allow_groups),
        deny_groups=frozenset(settings.deny_groups),
        uid_min=settings.uid_min,
        allow_root=settings.root,
        # Without the rights of root gexecd serves only its own user, who can already use this node.
        allow_nologin=not root,
        leave_leftovers=settings.leftovers == LEAVE,
        terms=Terms(
            allow_commands=settings.allow_commands,
            deny_commands=settings.deny_commands,
            limits=settings.limits,
            nice=settings.nice,
            umask=umask_of(settings.umask),
            jobs_max=settings.jobs_per_user_max,
            pam=settings.pam,
        ),
        rules=tuple([_rule_of(rule) for rule in settings.rule]),
    )


def _rule_of(settings: RuleSettings) -> Rule:
    return Rule(
        users=frozenset(settings.users),
        groups=frozenset(settings.groups),
        allow_commands=settings.allow_commands,
        deny_commands=settings.deny_commands,
        limits=settings.limits,
        nice=settings.nice,
        umask=None if settings.umask is None else umask_of(settings.umask),
        jobs_max=settings.jobs_per_user_max,
    )
