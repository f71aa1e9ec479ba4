"""Random trees, and that what is neither old nor new is found: a checker that finds nothing shows nothing."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import pytest

from laboratory import trees
from laboratory.copies import FAULTS, CopyPlan
from laboratory.trees import Tree, TreeEntry, TreeRules, older, random_tree


def entry(content: bytes, kind: str = "file", mode: int = 0o644) -> TreeEntry:
    return TreeEntry(kind, content, mode, 10**18)


NEW: Tree = {
    "tree": entry(b"", "directory", 0o755),
    "tree/both": entry(b"new"),
    "tree/fresh": entry(b"fresh"),
    "tree/link": entry(b"there", "link"),
}
OLD: Tree = {"tree": NEW["tree"], "tree/both": entry(b"old"), "tree/gone": entry(b"gone")}


@pytest.mark.parametrize("seed", range(12))
def test_a_seed_is_a_tree_that_can_be_written_and_read(tmp_path: Path, seed: int) -> None:
    tree = random_tree(Random(seed))
    assert tree == random_tree(Random(seed))
    assert sum(len(one.content) for one in tree.values()) <= trees.TREE_MAX_BYTES + 10_000
    old = older(Random(seed), tree)
    for number, version in enumerate((tree, old, {})):
        top = tmp_path / str(number)
        top.mkdir()
        trees.write(version, top)
        found = trees.read(top)
        assert {path: one[:2] for path, one in found.items()} == {
            path: one[:2] for path, one in version.items()
        }
        assert TreeRules().broken(found, old, tree) == [
            f"{path!r} was there and is not any more" for path in old if path not in found
        ]
        assert TreeRules().missing(found, {}, version) == []
    assert TreeRules().missing(trees.read(tmp_path / "1"), old, tree)


def test_what_is_left_by_a_copy_that_ended_anywhere() -> None:
    for found in (OLD, {**OLD, **NEW}, {**OLD, "tree/fresh": NEW["tree/fresh"]}):
        assert TreeRules().broken(found, OLD, NEW) == []
    assert TreeRules(delete=True).broken(NEW, OLD, NEW) == []
    assert TreeRules().broken(NEW, OLD, NEW) == ["'tree/gone' was there and is not any more"]
    without = {path: one for path, one in OLD.items() if path != "tree/both"}
    assert TreeRules(delete=True).broken(without, OLD, NEW) == ["'tree/both' was there and is not any more"]
    for wrong in (b"ne", b"", b"new\0", b"old\n"):
        assert len(TreeRules().broken({**OLD, "tree/both": entry(wrong)}, OLD, NEW)) == 1
    assert len(TreeRules().broken({**OLD, "tree/both": entry(b"new", "link")}, OLD, NEW)) == 1
    assert len(TreeRules().broken({**OLD, "tree/.gexec-12": entry(b"new")}, OLD, NEW)) == 1
    backed = {**OLD, **NEW, "tree/both~": entry(b"old")}
    assert TreeRules(backup=True).broken(backed, OLD, NEW) == []
    assert len(TreeRules().broken(backed, OLD, NEW)) == 1
    assert len(TreeRules(backup=True).broken({**backed, "tree/both~": entry(b"new")}, OLD, NEW)) == 1


def test_what_a_whole_copy_must_have() -> None:
    whole = {**OLD, **NEW}
    assert TreeRules().missing(whole, OLD, NEW) == []
    assert TreeRules(delete=True).missing(whole, OLD, NEW) == ["'tree/gone' is not deleted"]
    assert TreeRules(backup=True).missing(whole, OLD, NEW) == ["'tree/both' was replaced without a backup"]
    assert TreeRules().missing(OLD, OLD, NEW) == [
        f"'tree/{name}' is not the new one" for name in ("both", "fresh", "link")
    ]
    assert TreeRules().missing({**whole, "tree/both": entry(b"new", mode=0o600)}, OLD, NEW) == [
        "'tree/both' has mode 600, not 644"
    ]
    later = {**whole, "tree/both": NEW["tree/both"]._replace(mtime_ns=5)}
    assert TreeRules().missing(later, OLD, NEW) == ["'tree/both' has another time"]


def test_what_a_reader_does_not_change_is_seen_when_it_changes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    before = trees.fingerprint(tmp_path)
    (tmp_path / "f").read_bytes()
    assert trees.fingerprint(tmp_path) == before
    os.utime(tmp_path / "f", ns=(1, 1))
    assert trees.fingerprint(tmp_path) != before


def test_seeds_have_all_faults_and_options() -> None:
    plans = [CopyPlan(seed, 4, [*FAULTS, "stop"]) for seed in range(80)]
    kinds = {fault.kind for plan in plans for fault in plan.faults}
    assert kinds == {*FAULTS, "stop"}
    given = {option.partition("=")[0] for plan in plans for option in plan.options}
    assert given == {
        "--delete", "--backup", "--checksum-compare", "--sync", "--fanout", "--compress", "--stall"
    }  # fmt: skip
    assert str(plans[0].faults) == str(CopyPlan(0, 4, [*FAULTS, "stop"]).faults)
