"""Which metadata of an entry differ, as the options require."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from file_streams import meta
from filesystems import needs_user_attributes
from gexec.files.directories import Place, RefusedError
from gexec.files.entries import Meta
from gexec.files.metadata import Judge
from gexec.files.options import VERIFY, CopyOptions
from gexec.files.owners import FileOwners


def judge(**options: bool) -> Judge:
    asked = CopyOptions(**options)
    return Judge(asked, FileOwners(keep=asked.keep_owner, numeric=asked.numeric_ids))


@pytest.fixture
def above(tmp_path: Path) -> Iterator[Place]:
    (tmp_path / "f").touch()
    (tmp_path / "f").chmod(0o644)
    place = Place(b"", os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY), above=None)
    yield place
    os.close(place.descriptor)


def differences(judge: Judge, above: Place, known: Meta, *, is_directory: bool = False) -> list[str]:
    status = os.lstat(b"f", dir_fd=above.descriptor)
    return judge.differences(above, b"f", known, status, is_directory=is_directory)


def test_mode_and_owner(above: Place) -> None:
    assert differences(judge(), above, meta()) == []
    assert differences(judge(), above, meta(0o600)) == ["mode"]
    theirs = meta(0o600, uid=54321)
    assert differences(judge(keep_owner=True, numeric_ids=True), above, theirs) == ["mode", "owner"]
    assert differences(judge(keep_owner=False), above, theirs) == ["mode"]
    assert judge(keep_owner=True, numeric_ids=True).owner_differs(theirs, os.fstat(above.descriptor))


@pytest.mark.parametrize(
    ("keep_set_id", "has", "differs"),
    [
        (False, 0o755, []),
        (False, 0o6755, []),
        (False, 0o4755, ["mode"]),
        (True, 0o755, ["mode"]),
        (True, 0o6755, []),
    ],
)
def test_set_id_bits(above: Place, tmp_path: Path, keep_set_id: bool, has: int, differs: list[str]) -> None:
    (tmp_path / "f").chmod(has)
    asked = judge(keep_set_id=keep_set_id)
    assert differences(asked, above, meta(0o6755)) == differs
    assert asked.mode(meta(0o6755)) == (0o6755 if keep_set_id else 0o755)


def test_set_id_bits_of_a_directory_always_count(above: Place, tmp_path: Path) -> None:
    (tmp_path / "f").unlink()
    (tmp_path / "f").mkdir()
    (tmp_path / "f").chmod(0o755)
    assert differences(judge(), above, meta(0o2755), is_directory=True) == ["mode"]
    assert differences(judge(), above, meta(0o755), is_directory=True) == []


@pytest.mark.root
def test_an_owner_who_is_somebody_else_here_is_refused(above: Place) -> None:
    unknown = Meta(0o644, 1, 0, 1, b"no such user", b"")
    with pytest.raises(RefusedError, match="its owner no such user"):
        differences(judge(), above, unknown)


@pytest.mark.parametrize("task", ["write", "verify"])
def test_extended_attributes(above: Place, tmp_path: Path, task: str) -> None:
    needs_user_attributes(tmp_path)
    os.setxattr(tmp_path / "f", "user.a", b"1")
    status = {"task": VERIFY} if task == "verify" else {}
    for wanted, differs in (
        (None, []),  # they were not read: they stay
        ((), ["attributes"]),
        (((b"user.a", b"1"),), []),
        (((b"user.a", b"2"),), ["attributes"]),
    ):
        known = Meta(0o644, os.geteuid(), os.getegid(), 1, b"", b"", attributes=wanted)
        asked = judge(**status)  # type: ignore[arg-type]
        assert differences(asked, above, known) == differs
        assert asked.extended(known) == wanted
        without = judge(keep_attributes=False, **status)  # type: ignore[arg-type]
        assert differences(without, above, known) == []
        assert without.extended(known) is None
