"""Keys and policy for the spawner: at the start, and after SIGHUP, when the spawner runs this program.

The spawner does not load modules that read configuration, so it runs this module as a child.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gexec.errors import ConfigError, GexecError
from gexec.posix.log import stderr_log
from gexec.posix.pam import DIRECTORIES
from gexec.security.keys import VerifyKey
from gexec.security.policy import Policy, Rule, Terms
from gexec.settings.config import LEAVE, PolicySettings, read_gexecd
from gexec.settings.keyfiles import read_verify_keys
from gexec.settings.terms import RuleSettings, umask_of
from gexec.spawner.handover import policy_fields

#: The program ends by SIGALRM after this time.
_WITHIN_S = 30


def main(argv: list[str]) -> int:
    """Read keys and policy and write them to stdout as JSON; return 1 if they cannot be used.

    Args:
        argv: one argument, JSON: ``public_keys`` (paths), ``config`` (a path, "" = the usual file, null =
            do not read the policy) and ``policy``, the policy to write if it is not read.
    """
    wanted = json.loads(argv[0])
    try:
        signal.alarm(_WITHIN_S)  # so that a file system that does not answer delays no later SIGHUP for long
        keys = read_verify_keys(wanted["public_keys"])
        policy = wanted["policy"]
        if wanted["config"] is not None:
            policy = policy_fields(policy_of(read_gexecd(wanted["config"] or None).policy))
    except GexecError as error:
        stderr_log("gexecd").error(f"reload: {error}")
        return 1
    finally:
        signal.alarm(0)
    sys.stdout.write(json.dumps({"public_keys": pem_of(keys), "policy": policy}))
    return 0


def pem_of(keys: Mapping[bytes, VerifyKey]) -> str:
    """Return public keys as PEM, one after another."""
    return "".join(
        key.public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        for key in keys.values()
    )


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
