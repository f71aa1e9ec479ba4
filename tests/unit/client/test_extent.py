"""What is counted of a copy before it begins, and what audit logs get to read of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gexec.client import extent
from gexec.client.extent import Extent, about, extent_of
from gexec.files.roots import roots_of
from gexec.files.walking import walk


def counted(files: int, size: int = 0, is_whole: bool = True) -> Extent:
    found = Extent()
    found.files, found.bytes, found.is_whole = files, size, is_whole
    return found


def test_a_tree_is_counted_without_directories_holes_and_what_links_lead_to(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/e/f").write_bytes(b"seven !")
    (tmp_path / "d/link").symlink_to("/")
    with (tmp_path / "d/sparse").open("wb") as file:
        file.truncate(1 << 30)
    found = extent_of(walk(roots_of([f"{tmp_path}/d"])))
    assert (found.files, found.is_whole) == (3, True)
    assert 7 <= found.bytes < 1 << 20


@pytest.mark.parametrize("nested", [False, True])
def test_a_walk_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool) -> None:
    for number in range(12):
        folder = tmp_path / (str(number // 2) if nested else "d")
        folder.mkdir(exist_ok=True)
        (folder / str(number)).touch()
    roots = roots_of([str(tmp_path)])
    assert extent_of(walk(roots)).files == 12
    monkeypatch.setattr(extent, "COUNTED_MAX", 10)
    found = extent_of(walk(roots))
    assert found.files <= 10
    assert not found.is_whole
    monkeypatch.setattr(extent, "COUNTED_MAX_S", -1.0)
    found = extent_of(walk(roots))
    assert (found.files, found.is_whole) == (0, False)


def test_what_audit_logs_have() -> None:
    paths = [b"/etc/hosts", b"/opt/gexec"]
    assert about(counted(12, 3_250_586), paths) == "12 files, 3.1 MiB: /etc/hosts /opt/gexec"
    assert about(counted(1, 7), paths[:1]) == "1 file, 7 bytes: /etc/hosts"
    assert about(counted(19_999, 1, is_whole=False), paths[:1]) == "over 19999 files: /etc/hosts"
    odd = [b"/with space", b"/\x1b[2J\xff", "/ä".encode()]
    assert about(counted(3), odd) == "3 files, 0 bytes: '/with space' '/\\x1b[2J\\xff' '/ä'"


def test_what_audit_logs_have_fits_into_what_they_keep_of_an_argument() -> None:
    for length in range(1, 300, 7):
        for count in (1, 2, 60, 5000):
            paths = [b"/" + "ä".encode() * length for _ in range(count)]
            text = about(counted(count), paths)
            assert len(f"--about={text}".encode()) <= 256
            named = text.count("/")
            assert named >= 1
            assert named == count or text.endswith((f" and {count - named} more", "..."))
    assert about(counted(5), [b"/" + b"x" * 4000]).endswith("xxx...")
    assert about(counted(5), [b"/" + b"x" * 4000, b"/y"]).endswith("xxx... and 1 more")
