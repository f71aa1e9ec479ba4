"""The roots of a user's paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
