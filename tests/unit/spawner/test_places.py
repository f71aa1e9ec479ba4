"""Places for processes: who has how many, when they are given back, and for how many jobs they are."""

from __future__ import annotations

from gexec.spawner.places import Places

JOB = b"a" * 16
OTHER = b"b" * 16
UID = 4242


def test_a_checked_rank_keeps_its_place_when_it_is_started() -> None:
    places = Places(4)
    places.take(1, UID, (JOB, 0), until_s=100.0)
    assert places.claimed(1) == (JOB, 0)
    assert places.checked == 1
    places.take(1, UID, (JOB, 0))
    assert places.claimed(1) is None
    assert (len(places), places.checked) == (1, 0)
    places.expire(200.0)  # it runs
    assert len(places) == 1
    places.give(1)
    places.give(1)
    assert len(places) == 0


def test_checks_that_nobody_starts_expire() -> None:
    places = Places(8)
    places.take(1, UID, (JOB, 0), until_s=100.0)
    places.take(2, UID, (JOB, 1), until_s=200.0)
    places.expire(150.0)
    assert places.claimed(1) is None
    assert places.claimed(2) == (JOB, 1)
    places.expire(200.1)
    assert (len(places), places.checked) == (0, 0)
    assert places.jobs_of(UID, b"") == 0


def test_jobs_are_counted_once_whatever_their_ranks() -> None:
    places = Places(64)
    for number in range(5):
        places.take(number, UID, (JOB, number))
    places.take(5, UID, (OTHER, 0), until_s=1.0)
    assert places.jobs_of(UID, but=b"") == 2
    assert places.jobs_of(UID, but=JOB) == 1
    assert places.jobs_of(UID + 1, but=JOB) == 0
    places.give(5)
    assert places.jobs_of(UID, but=JOB) == 0


def test_one_user_leaves_places_for_others_and_is_told_why() -> None:
    places = Places(8)
    number = 0
    while places.refusal(UID) is None:
        places.take(number, UID, (JOB, number))
        number += 1
    assert number == 4
    refused = places.refusal(UID)
    assert refused is not None
    for words in (f"uid {UID} has 4 processes of jobs", "4 of 8", "raise jobs_max in gexecd.toml"):
        assert words in refused
    assert places.refusal(UID + 1) is None
    assert places.refusal(0) is None
    places.give(0)
    assert places.refusal(UID) is None
