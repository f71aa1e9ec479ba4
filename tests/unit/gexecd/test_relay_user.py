"""The user that a relay becomes."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from gexec.errors import ConfigError
from gexec.gexecd.relay_user import local_identity, overflow_uids, relay_identity, why_unfit


def entry(name: str = "gexec", uid: int = 61183, gid: int = 61183) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, gid, "", "/", "/usr/sbin/nologin"))


def test_a_user_of_its_own_is_fit() -> None:
    assert why_unfit(entry()) == ""
    daemon = pwd.getpwnam("daemon")
    assert relay_identity("daemon") == (daemon.pw_uid, daemon.pw_gid)


@pytest.mark.parametrize(
    ("account", "why"),
    [
        (entry(uid=0), "is root"),
        (entry(gid=0), "has root's group"),
        (entry("nobody", uid=99), "stands for unknown users and is shared with other services"),
        (entry(uid=65534), "stands for unknown users and is shared with other services"),
    ],
)
def test_users_that_are_not_the_relays_alone(account: pwd.struct_passwd, why: str) -> None:
    assert why_unfit(account) == why


def test_the_error_tells_how_to_create_a_missing_user() -> None:
    with pytest.raises(ConfigError, match="there is no user no-such for the relay: create it with `useradd"):
        relay_identity("no-such")
    with pytest.raises(ConfigError, match="relay_user nobody stands for unknown users"):
        relay_identity("nobody")


def test_uids_that_the_kernel_shows_for_unknown_users() -> None:
    assert int(Path("/proc/sys/kernel/overflowuid").read_text()) in overflow_uids()
    assert 65534 in overflow_uids()


def test_a_local_cluster_needs_no_account() -> None:
    assert local_identity("daemon") == relay_identity("daemon")
    uid, gid = local_identity("")
    try:
        gexec = pwd.getpwnam("gexec")
    except KeyError:
        assert uid == gid
        with pytest.raises(KeyError):
            pwd.getpwuid(uid)
    else:
        assert (uid, gid) == (gexec.pw_uid, gexec.pw_gid)
    assert uid not in {0, os.geteuid() or 1, *overflow_uids()}
