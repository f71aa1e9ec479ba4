"""Settings of commands, limits, nice and umask: what they become, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from gexec.errors import ConfigError
from gexec.security.policy import Limit
from gexec.settings.config import PolicySettings, _known
from gexec.settings.terms import RuleSettings, limits_of, umask_of


def policy(**values: Any) -> PolicySettings:
    return PolicySettings(**_known(PolicySettings, values, "policy: "))


@pytest.mark.parametrize(
    ("name", "value", "soft", "hard"),
    [
        ("nofile", 1024, 1024, 1024),
        ("nofile", "1024:4096", 1024, 4096),
        ("nofile", "64:unlimited", 64, -1),
        ("core", "unlimited", -1, -1),
        ("as", "4G", 4 * 2**30, 4 * 2**30),
        ("memlock", "64K:1M", 65536, 2**20),
        ("core", 0, 0, 0),
        ("cpu", 60, 60, 60),
    ],
)
def test_limits(name: str, value: Any, soft: int, hard: int) -> None:
    assert limits_of({name: value}) == (Limit(name, soft, hard),)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"limits": {"nofiles": 1}}, "'nofiles' is not a limit; known here: as, core"),
        ({"limits": {"nofile": "4096:1024"}}, "the soft limit is above the hard limit"),
        ({"limits": {"nofile": "unlimited:1024"}}, "the soft limit is above the hard limit"),
        ({"limits": {"nofile": 63}}, "expected at least 64, which gexecd itself needs"),
        ({"limits": {"as": "1M"}}, "expected at least 268435456"),
        ({"limits": {"nofile": "1K"}}, "expected a number, "),
        ({"limits": {"as": "-1"}}, "K, M, G and T are permitted"),
        ({"limits": {"as": "9999999999T"}}, "too large"),
        ({"limits": {"as": True}}, "expected a number"),
        ({"limits": {"as": ""}}, "expected a number"),
        ({"limits": 3}, "expected a table"),
        ({"umask": "28"}, "octal digits"),
        ({"umask": "7777"}, "octal digits"),
        ({"umask": 27}, "text in quotes"),
        ({"nice": 40}, "-20 to 39"),
        ({"allow_commands": ["ls"]}, "absolute path"),
        ({"allow_commands": ["/usr/../bin/ls"]}, "absolute path"),
        ({"deny_commands": ["/usr/bin/"]}, "absolute path"),
        ({"deny_commands": ["//bin/ls"]}, "absolute path"),
        ({"deny_commands": ["/opt/**"]}, r"\*\* is no pattern"),
        ({"deny_commands": ["/opt/**/ls"]}, r"\*\* is no pattern"),
        ({"deny_commands": ["/opt/[ls"]}, "bracket is not closed"),
        ({"allow_commands": ["/opt/[]"]}, "bracket is not closed"),
        ({"allow_commands": ["/opt/[a]x[b/c]"]}, "bracket is not closed"),
        ({"pam": "../x"}, "file in /etc/pam.d"),
        ({"rule": 3}, "expected tables"),
        ({"rule": [3]}, "expected tables"),
        ({"rule": [{}]}, "users or groups"),
        ({"rule": [{"users": ["ann"], "umask": "9"}]}, "octal"),
        ({"rule": [{"users": "ann"}]}, "array of texts"),
        ({"rule": [{"users": ["ann"], "nice": "1"}]}, "whole number"),
        ({"rule": [{"users": ["ann"], "jobs_per_user_max": 0}]}, "1 to"),
        ({"rule": [{"users": ["ann"], "limits": {"x": 1}}]}, "not a limit"),
        ({"rule": [{"users": ["ann"], "root": True}]}, "policy.rule: 'root' is not a setting"),
    ],
)
def test_what_cannot_be_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", "\\(")):
        policy(**values)


def test_brackets_that_are_closed() -> None:
    patterns = ["/usr/bin/[", "/usr/bin/[[]", "/opt/[]x]", "/opt/[!a-c]*", "/opt/a]"]
    assert policy(deny_commands=patterns).deny_commands == tuple(patterns)


def test_a_rule_leaves_open_what_it_does_not_set() -> None:
    made = policy(rule=[{"users": ["ann"], "allow_commands": [], "limits": {"core": 0}}])
    assert made.rule == (RuleSettings(users=("ann",), allow_commands=(), limits=(Limit("core", 0, 0),)),)


def test_umask_is_octal() -> None:
    assert (umask_of("027"), umask_of("77"), umask_of("0")) == (0o27, 0o77, 0)
