"""Owners: by name, else by a number that is nobody else's here."""

from __future__ import annotations

import grp
import pwd

import pytest

from gexec.files import owners
from gexec.files.directories import RefusedError
from gexec.files.entries import Meta
from gexec.files.owners import UNCHANGED, FileOwners

USER, GROUP = pwd.getpwall()[1], grp.getgrall()[1]


def meta(owner: str = "", uid: int = 0, group: str = "", gid: int = 0) -> Meta:
    return Meta(0o644, uid, gid, 0, owner.encode(), group.encode())


def free_number(taken: set[int]) -> int:
    return next(number for number in range(54321, 99999) if number not in taken)


FREE_UID = free_number({entry.pw_uid for entry in pwd.getpwall()})
FREE_GID = free_number({entry.gr_gid for entry in grp.getgrall()})


def test_owners_that_are_not_kept_are_nobodys_concern() -> None:
    kept = FileOwners(keep=False, numeric=False)
    assert kept.wanted(meta("no such user", USER.pw_uid)) == (UNCHANGED, UNCHANGED)


def test_a_name_counts_and_not_its_number_elsewhere() -> None:
    kept = FileOwners(keep=True, numeric=False)
    assert kept.wanted(meta(USER.pw_name, 4711, GROUP.gr_name, 4712)) == (USER.pw_uid, GROUP.gr_gid)


def test_numbers_count_if_that_is_wanted_or_there_is_no_name() -> None:
    by_number = FileOwners(keep=True, numeric=True)
    assert by_number.wanted(meta(USER.pw_name, 4711, GROUP.gr_name, 4712)) == (4711, 4712)
    by_name = FileOwners(keep=True, numeric=False)
    assert by_name.wanted(meta("", 4711, "", 4712)) == (4711, 4712)


def test_an_unknown_name_is_its_number_if_that_is_nobodys_here() -> None:
    kept = FileOwners(keep=True, numeric=False)
    assert kept.wanted(meta("no such user", FREE_UID, "no such group", FREE_GID)) == (FREE_UID, FREE_GID)


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (
            meta("no such user", USER.pw_uid),
            f"its owner no such user ({USER.pw_uid}) is not known here, and {USER.pw_uid} is {USER.pw_name}: "
            "add no such user, or use --numeric-ids",
        ),
        (
            meta("", 0, "no such group", GROUP.gr_gid),
            f"its group no such group ({GROUP.gr_gid}) is not known here, and {GROUP.gr_gid} is "
            f"{GROUP.gr_name}: add no such group, or use --numeric-ids",
        ),
    ],
    ids=["owner", "group"],
)
def test_a_file_does_not_become_another_users(entry: Meta, text: str) -> None:
    kept = FileOwners(keep=True, numeric=False)
    for _ in range(2):  # a refusal is not remembered as an answer
        with pytest.raises(RefusedError) as refused:
            kept.wanted(entry)
        assert str(refused.value) == text


def test_a_name_of_a_stream_is_any_bytes() -> None:
    kept = FileOwners(keep=True, numeric=False)
    entry = Meta(0o644, USER.pw_uid, 0, 0, b"\xff\n", b"")
    with pytest.raises(RefusedError, match=r"its owner \S+ \("):
        kept.wanted(entry)


def test_one_name_with_two_numbers_is_looked_at_for_each() -> None:
    kept = FileOwners(keep=True, numeric=False)
    assert kept.wanted(meta("no such user", FREE_UID))[0] == FREE_UID
    with pytest.raises(RefusedError):
        kept.wanted(meta("no such user", USER.pw_uid))


def test_a_stream_of_many_names_does_not_fill_the_memory() -> None:
    kept = FileOwners(keep=True, numeric=False)
    for number in range(owners._REMEMBERED + 10):
        kept.wanted(meta("", number, "", 0))
    assert len(kept._users) == owners._REMEMBERED
    assert kept.wanted(meta("", 999_999, "", 0)) == (999_999, 0)  # looked up each time
