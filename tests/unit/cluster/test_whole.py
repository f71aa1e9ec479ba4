"""Files that are replaced as a whole, alone or with others."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from gexec.cluster.whole import write_all, write_whole


def test_the_old_file_is_kept_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, b"old", 0o640)
    with pytest.raises(TypeError):
        write_whole(path, None, 0o640)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_no_file_is_replaced_if_one_of_them_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_all([(first, b"1", 0o600), (second, b"2", 0o644)])
    written = []

    def fsync(descriptor: int) -> None:
        written.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        if len(written) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left") as failed:
        write_all([(first, b"3", 0o600), (second, b"4", 0o644)])
    assert failed.value.filename == str(second)
    assert (first.read_bytes(), second.read_bytes()) == (b"1", b"2")
    assert sorted(os.listdir(tmp_path)) == ["first", "second"]


def test_content_and_names_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: kept.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    )
    write_whole(tmp_path / "file", b"x", 0o600)
    assert kept == [f"{tmp_path}/.file.{os.getpid()}", str(tmp_path)]
