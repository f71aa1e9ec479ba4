"""Shares of a resource: nobody takes the last of it from others, root always has some, all is given back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec.security.quota import NOBODY, ROOT, Shares


def fill(shares: Shares, uid: int) -> int:
    """Take one after another until that is refused; return how many it were."""
    taken = 0
    while shares.take(uid):
        taken += 1
    return taken


def test_one_user_gets_half_two_get_a_third_and_there_is_something_for_the_next() -> None:
    shares = Shares(8192)
    assert fill(shares, 1) == 4096
    assert fill(shares, 2) == 2048
    assert fill(shares, 3) == 1024
    fair = Shares(9000)
    taken = {1: 0, 2: 0}
    while fair.take(1) | fair.take(2):
        taken = {uid: fair.used(uid) for uid in taken}
    assert taken == {1: 3000, 2: 3000}
    assert fair.left(3) == 1500


def test_root_gets_its_reserve_when_users_have_taken_all() -> None:
    shares = Shares(8)
    for uid in range(1, 100):
        fill(shares, uid)
    assert shares.used_by_all == 8
    assert shares.left(50) == 0
    assert fill(shares, ROOT) == 1
    assert shares.used_by_all == shares.total == 9


def test_what_root_takes_beyond_its_reserve_is_not_free_for_others() -> None:
    shares = Shares(80)
    shares.charge(ROOT, 60)  # 10 of them are its reserve
    assert shares.left(1) == 15
    shares.give(ROOT, 60)
    assert shares.left(1) == 40


def test_the_only_user_of_a_daemon_gets_all() -> None:
    shares = Shares(10, superuser=1000)
    assert fill(shares, 1000) == shares.total == 10


def test_nodes_are_counted_by_name_and_none_of_them_has_a_reserve() -> None:
    shares = Shares(8, NOBODY)
    assert shares.total == 8
    assert [shares.take("node001", amount) for amount in (4, 1)] == [True, False]
    assert shares.refusal("node001", "links").startswith("node001 has 4 links on this node and gets no more")
    assert "(all nodes have 4 of 8, " in shares.refusal("node001", "links")
    assert shares.left("node002") == 2
    with pytest.raises(ValueError, match="node002 gives back 1, but has 0"):
        shares.give("node002")


def test_a_large_amount_is_taken_whole_or_not_at_all() -> None:
    shares = Shares(100)
    assert not shares.take(1, 51)
    assert shares.used(1) == 0
    assert shares.take(1, 50)
    assert shares.take(1, 0)
    with pytest.raises(ValueError, match="uid 1 gives back 51, but has 50"):
        shares.give(1, 51)


def test_refusals_name_the_user_the_numbers_and_the_setting() -> None:
    shares = Shares(8)
    fill(shares, 7)
    fill(shares, ROOT)
    assert shares.refusal(7, "ranks", "jobs_max") == (
        "uid 7 has 4 ranks on this node and gets no more now (all users have 4 of 8, and each must leave as "
        "many free as it has): wait until some have ended, or raise jobs_max"
    )
    assert shares.refusal(ROOT, "ranks", "jobs_max") == (
        "this node has 9 ranks, and no room for more than 9: wait until some have ended, or raise jobs_max"
    )


users = st.integers(0, 4)
steps = st.lists(st.tuples(st.booleans(), users, st.integers(0, 12)), max_size=120)


@given(st.integers(0, 60), st.sampled_from([ROOT, 3]), steps)
def test_invariants_of_any_order_of_taking_and_giving(
    most: int, superuser: int, done: list[tuple[bool, int, int]]
) -> None:
    shares = Shares(most, superuser)
    have = dict.fromkeys(range(5), 0)
    for takes, uid, amount in done:
        if not takes:
            amount = min(amount, have[uid])
            shares.give(uid, amount)
            have[uid] -= amount
            continue
        left = shares.left(uid)
        ordinary_before = sum(have.values()) - have[superuser]
        taken = shares.take(uid, amount)
        assert taken == (amount <= left)
        if taken:
            have[uid] += amount
        if taken and amount and uid != superuser:
            free = most - (ordinary_before + amount)
            assert have[uid] <= free + 1  # as much is left for others
        assert sum(have.values()) == shares.used_by_all <= shares.total
        # What is left for the superuser, whatever the others do.
        assert shares.left(superuser) >= (shares.total - most) - have[superuser]
        assert all(shares.left(each) >= 0 and shares.used(each) == have[each] for each in have)
    for uid, amount in have.items():
        shares.give(uid, amount)
    assert shares.used_by_all == 0
    assert shares._used == {}
