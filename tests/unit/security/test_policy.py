"""Who may run here, as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gexec.security.policy import Account, Policy, disagreement

ANN = Account(name="ann", uid=1000, gid=100, groups=("users", "dev"), shell="/bin/sh", password="$6$x")
ROOT = Account(name="root", uid=0, gid=0, groups=("root",), shell="/bin/bash", password="*")


@pytest.mark.parametrize(
    ("policy", "account", "words"),
    [
        ({}, {}, None),
        ({"uid_min": 1000}, {}, None),
        ({"uid_min": 1001}, {}, "uids from 1001"),
        ({"allow_users": {"bob"}}, {}, "none of this node's lists"),
        ({"allow_users": {"bob"}, "allow_groups": {"dev"}}, {}, None),
        ({"allow_users": {"ann"}, "deny_groups": {"dev"}}, {}, "group dev"),
        ({"deny_users": {"ann"}, "allow_users": {"ann"}}, {}, "denied users"),
        ({"jobs_per_user_max": 3}, {}, "at most 3"),
        ({}, {"password": "!$6$x"}, "locked"),
        ({}, {"password": "!"}, None),
        ({}, {"password": "!!"}, None),
        ({}, {"password": None}, None),
        ({}, {"expires_day": 10}, "expired"),
        ({}, {"expires_day": 12}, None),
        ({}, {"shell": "/usr/sbin/nologin"}, "may not log in"),
        ({}, {"shell": "/bin/false"}, "may not log in"),
        ({"allow_nologin": True}, {"shell": "/bin/false"}, None),
    ],
)
def test_attack_81_policy_table(policy: dict[str, Any], account: dict[str, Any], words: str | None) -> None:
    fields: dict[str, Any] = {k: frozenset(v) if isinstance(v, set) else v for k, v in policy.items()}
    rules = Policy(**fields)
    refusal = rules.refusal(replace(ANN, **account), jobs_running=3, now_s=10.5 * 86400)
    if words is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert words in refusal


def test_attack_82_root_is_a_guest_only_if_allowed() -> None:
    assert Policy(uid_min=1000).refusal(ROOT, jobs_running=0, now_s=0) is None
    refusal = Policy(allow_root=False).refusal(ROOT, jobs_running=0, now_s=0)
    assert refusal is not None
    assert "root" in refusal


def test_attack_26_27_credential_and_account_must_agree() -> None:
    assert disagreement(ANN, uid=1000, gid=100, user="ann") is None
    assert "no account" in str(disagreement(None, uid=1000, gid=100, user="ann"))
    assert "ann on this node" in str(disagreement(ANN, uid=1000, gid=100, user="bob"))
    assert "primary group" in str(disagreement(ANN, uid=1000, gid=0, user="ann"))
