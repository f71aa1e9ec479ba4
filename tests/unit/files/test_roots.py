"""The roots of a user's paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gexec import limits
from gexec.errors import UsageError
from gexec.files.roots import roots_of


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/link").symlink_to("nowhere")
    return tree


def test_roots_that_bring_each_other_along(tree: Path) -> None:
    roots = roots_of([str(tree / "sub" / "link"), str(tree), str(tree / "sub")])
    assert [os.fsdecode(root.path) for root in roots] == [str(tree)]
    assert os.fsdecode(roots[0].name) == str(tree)[1:]
    with pytest.raises(UsageError, match="both become"):
        roots_of([str(tree / "sub"), str(tree / "x" / "sub")], "base")
    with pytest.raises(UsageError, match="as a whole"):
        roots_of(["/"])


def test_links_above_a_root_are_resolved(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "alias").symlink_to(tree)
    [root] = roots_of([str(tmp_path / "alias" / "sub" / "link")])
    assert os.fsdecode(root.name) == str(tree / "sub" / "link")[1:]
    assert root.place == root.path == os.fsencode(tree / "sub" / "link")


# -- as they are asked for ------------------------------------------------------------------------


def asked(*paths: object, expands: bool = False) -> dict[str, tuple[str, str]]:
    """Return place and reason of each root by the path that messages have."""
    roots = roots_of([str(path) for path in paths], "asked", expands=expands)
    assert all(root.name in (b"", root.path[1:]) for root in roots)
    return {os.fsdecode(root.path): (os.fsdecode(root.place), root.reason) for root in roots}


def test_a_link_that_is_asked_for_is_followed_and_keeps_its_name(tree: Path) -> None:
    (tree / "sub/f").touch()
    (tree / "way").symlink_to("sub")
    (tree / "file").symlink_to("way/f")
    for path in (tree / "file", tree / "way/f", f"{tree}/./sub/..//way/f"):
        plain = os.path.normpath(path)
        assert asked(path) == {plain: (f"{tree}/sub/f", "")}
    for written in ("way", "way/", "way/.", "sub/../way//"):
        assert asked(f"{tree}/{written}") == {f"{tree}/way": (f"{tree}/sub", "")}


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("none", "there is no such file"),
        ("none/x", "there is no such file"),
        ("sub/link", "it is a symbolic link to nowhere, and nothing is there"),
        ("circle", "its symbolic links lead in a circle"),
        ("f/x", "a part of its path is a file, not a directory"),
        ("f/", "it is not a directory, as the / at its end requires"),
        ("f/.", "it is not a directory, as the / at its end requires"),
        ("top", "it leads to the directory /; / cannot be copied as a whole: name what is in it"),
    ],
)
def test_why_what_is_asked_for_cannot_be_sent(tree: Path, written: str, reason: str) -> None:
    (tree / "f").touch()
    (tree / "circle").symlink_to("circle")
    (tree / "top").symlink_to("/")
    ((_, found),) = asked(f"{tree}/{written}").values()
    assert found == reason


def test_the_root_directory_is_not_sent() -> None:
    for path in ("/", "//", "/usr/.."):
        ((_, reason),) = asked(path).values()
        assert "/ cannot be copied as a whole" in reason


def test_what_is_asked_for_twice_is_sent_once(tree: Path) -> None:
    (tree / "sub/f").touch()
    (tree / "way").symlink_to("sub")
    assert list(asked(tree, tree / "sub/f", tree / "sub", f"{tree}/.")) == [str(tree)]
    assert list(asked(tree / "way", tree / "way/f", tree / "way")) == [f"{tree}/way"]
    # Both names are asked for.
    assert list(asked(tree / "way/f", tree / "sub/f")) == [f"{tree}/sub/f", f"{tree}/way/f"]
    # In the directory it would be a link.
    assert list(asked(tree, tree / "way")) == [str(tree), f"{tree}/way"]
    # What is missing is told, also below something that is sent.
    found = asked(tree, tree / "sub/none", tree / "none", tree / "none")
    assert [path for path, (_, reason) in found.items() if reason] == [f"{tree}/none", f"{tree}/sub/none"]
    found = asked(f"{tree}/sub/f/", f"{tree}/sub/f")
    assert found == {f"{tree}/sub/f": (f"{tree}/sub/f", "")}


def test_one_name_for_two_things_is_refused(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "else/b").mkdir(parents=True)
    (tmp_path / "else/f").touch()
    (tree / "f").touch()
    (tree / "way").symlink_to("../else/b")
    with pytest.raises(UsageError, match="would both become"):
        asked(tree / "f", f"{tree}/way/../f")


def test_patterns_are_expanded_unless_something_has_that_name(tree: Path) -> None:
    for name in ("a.log", "b.log", "[a].log", "c"):
        (tree / name).touch()
    assert list(asked(f"{tree}/*.log", f"{tree}/a*", expands=True)) == [
        f"{tree}/{name}.log" for name in ("[a]", "a", "b")
    ]
    assert list(asked(f"{tree}/[a].log", expands=True)) == [f"{tree}/[a].log"]
    assert asked(f"{tree}/*.txt", tree / "c", expands=True) == {
        f"{tree}/*.txt": (f"{tree}/*.txt", "no file matches there"),
        f"{tree}/c": (f"{tree}/c", ""),
    }
    ((_, reason),) = asked(f"{tree}/*.log").values()
    assert reason == "there is no such file"


def test_too_many_matches_are_told(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ARCHIVE_MATCHES_MAX", 1)
    for name in ("a", "b"):
        (tree / name).touch()
    assert asked(f"{tree}/[ab]", expands=True) == {
        f"{tree}/[ab]": (f"{tree}/[ab]", "more than 1 files match; fetch their directory")
    }


def test_relative_paths_have_the_name_that_the_shell_shows(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "way").symlink_to(tree)
    (tree / "f").touch()
    monkeypatch.chdir(tmp_path / "way")
    monkeypatch.setenv("PWD", f"{tmp_path}/way")
    assert asked("f", "./sub") == {
        f"{tmp_path}/way/f": (f"{tree}/f", ""),
        f"{tmp_path}/way/sub": (f"{tree}/sub", ""),
    }
    assert list(asked("*", expands=True)) == [f"{tmp_path}/way/f", f"{tmp_path}/way/sub"]
    for other in ("/usr", "relative", "/none", ""):
        monkeypatch.setenv("PWD", other)
        assert list(asked("f")) == [f"{tree}/f"]
