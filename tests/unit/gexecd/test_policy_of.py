"""The policy that a gexecd enforces, from its settings and its rights."""

from __future__ import annotations

import os

import pytest

from gexec.gexecd.rereading import policy_of
from gexec.security.policy import Account
from gexec.settings.config import PolicySettings

SERVICE = Account(name="ci", uid=1000, gid=100, groups=("ci",), shell="/usr/sbin/nologin", password=None)


@pytest.mark.parametrize(("euid", "refused"), [(0, True), (1000, False)])
def test_a_service_accounts_own_gexecd_serves_it(
    euid: int, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user without a login shell (nobody, a CI account) has a local cluster, too."""
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    refusal = policy_of(PolicySettings()).refusal(SERVICE, jobs_running=0, now_s=0)
    assert (refusal is not None) == refused
