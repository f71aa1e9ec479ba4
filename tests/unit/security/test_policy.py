"""Who may run here, as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gexec.security.policy import Account, Limit, Policy, Rule, Terms, disagreement

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
        ({"terms": Terms(jobs_max=3)}, {}, "at most 3"),
        ({"rules": (Rule(users=frozenset({"ann"}), jobs_max=3),)}, {}, "at most 3"),
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


NOFILE = (Limit("nofile", 10, 20), Limit("core", 0, 0))
TERMS = Terms(("/bin/ls",), ("/bin/su",), NOFILE, 5, 0o27, 9, "gexec")


def test_the_first_rule_that_names_a_user_changes_what_it_sets() -> None:
    policy = Policy(
        terms=TERMS,
        rules=(
            Rule(users=frozenset({"bob"}), nice=19),
            Rule(groups=frozenset({"dev"}), allow_commands=(), limits=(Limit("nofile", 30, 30),), umask=0),
            Rule(users=frozenset({"ann"}), jobs_max=1),
        ),
    )
    limits = (Limit("core", 0, 0), Limit("nofile", 30, 30))
    assert policy.terms_of(ANN) == replace(TERMS, allow_commands=(), limits=limits, umask=0)
    assert policy.terms_of(replace(ANN, groups=())) == replace(TERMS, jobs_max=1)
    assert policy.terms_of(replace(ANN, name="eve", groups=("users",))) == TERMS


def test_root_has_the_commands_but_not_the_limits_unless_a_rule_names_root() -> None:
    general = replace(TERMS, limits=(), nice=0, umask=0)
    assert Policy(terms=TERMS).terms_of(ROOT) == general
    by_group = Rule(groups=frozenset({"root"}), nice=7)
    assert Policy(terms=TERMS, rules=(by_group,)).terms_of(ROOT) == general
    by_name = Rule(users=frozenset({"root"}), limits=NOFILE[:1], allow_commands=())
    expected = replace(general, limits=NOFILE[:1], allow_commands=())
    assert Policy(terms=TERMS, rules=(by_group, by_name)).terms_of(ROOT) == expected


def test_each_rule_gives_its_verdict_and_the_first_refusal_counts() -> None:
    policy = Policy(uid_min=2000, deny_groups=frozenset({"dev"}))
    verdicts = list(policy.verdicts(ANN, jobs_running=0, now_s=0))
    assert [verdict.rule for verdict in verdicts if verdict.refusal] == ["uid_min", "deny_groups"]
    assert len(verdicts) == 8
    assert policy.refusal(ANN, jobs_running=0, now_s=0) == verdicts[0].refusal
