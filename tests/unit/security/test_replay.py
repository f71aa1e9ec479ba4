"""At most once, bounded, and never forgetful in the wrong direction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec.errors import CredentialError
from gexec.security.replay import ReplayCache

KEY = bytes(8)
JOB = bytes(16)


def test_attack_20_second_claim_is_refused() -> None:
    cache = ReplayCache()
    cache.claim(KEY, JOB, 0, uid=1, expires_s=100, now_s=0)
    cache.claim(KEY, JOB, 1, uid=1, expires_s=100, now_s=0)
    with pytest.raises(CredentialError) as caught:
        cache.claim(KEY, JOB, 0, uid=1, expires_s=100, now_s=100)
    assert caught.value.code == "replayed"


def test_attack_63_full_cache_fails_closed_and_recovers() -> None:
    cache = ReplayCache(entries_max=3)
    cache.claim(KEY, JOB, 0, uid=1, expires_s=10, now_s=0)
    cache.claim(KEY, JOB, 1, uid=1, expires_s=10, now_s=0)
    with pytest.raises(CredentialError) as caught:
        cache.claim(KEY, JOB, 2, uid=1, expires_s=20, now_s=0)
    assert caught.value.code == "replay-full"
    cache.claim(KEY, JOB, 2, uid=2, expires_s=20, now_s=0)
    with pytest.raises(CredentialError, match="1 of uid 2"):
        cache.claim(KEY, JOB, 3, uid=2, expires_s=20, now_s=0)
    cache.claim(KEY, JOB, 3, uid=0, expires_s=20, now_s=0)  # root's reserve
    cache.claim(KEY, JOB, 4, uid=1, expires_s=30, now_s=11)
    assert len(cache) == 3


def test_clock_that_goes_back_makes_nothing_new() -> None:
    cache = ReplayCache()
    cache.claim(KEY, JOB, 0, uid=1, expires_s=100, now_s=0)
    cache.claim(KEY, bytes(15) + b"1", 0, uid=1, expires_s=300, now_s=200)
    with pytest.raises(CredentialError) as caught:
        cache.claim(KEY, JOB, 0, uid=1, expires_s=100, now_s=50)
    assert caught.value.code == "forgotten"


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 50), st.integers(0, 60))))
def test_no_key_is_ever_claimed_twice_for_one_credential(
    claims: list[tuple[int, int, int, int]],
) -> None:
    cache = ReplayCache(entries_max=6)
    taken: set[tuple[int, int]] = set()
    for job, rank, _, now_s in claims:
        # One credential has one expiry, whatever the clock does meanwhile.
        expires_s = 10 + 13 * job
        if now_s > expires_s:
            continue  # verify refuses it first
        try:
            cache.claim(KEY, bytes([job]) * 16, rank, uid=job % 2, expires_s=expires_s, now_s=now_s)
        except CredentialError:
            continue
        assert (job, rank) not in taken
        taken.add((job, rank))
        assert len(cache) <= 5
