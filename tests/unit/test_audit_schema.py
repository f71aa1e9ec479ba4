"""The schema of the audit log is a schema, and docs/audit.md describes the same events and fields."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import pytest

from audit_schema import EVENTS, SCHEMA, check

DOC = (Path(__file__).resolve().parents[2] / "docs/audit.md").read_text(encoding="utf-8")
DENY = {
    "time": "2026-11-30T16:25:40.123456Z", "event": "deny", "seq": 1,
    "daemon": "gexecd", "node": "n", "realm": "r",
    "by": "relay", "source": "10.0.0.9", "code": "parent", "reason": "not its parent",
}  # fmt: skip


def test_it_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert len(EVENTS) == len(set(EVENTS)) == 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"seq": 0},
        {"event": "denied"},
        {"reason": "x\x1b[0m"},
        {"reason": "x" * 20_000},
        {"pid": 7},
        {"uid": -1},
        {"time": "2026-11-30T16:25:40Z"},
        {"by": "peer"},
        {"code": None},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_it_refuses_what_is_not_documented(wrong: dict[str, object]) -> None:
    check([DENY])
    with pytest.raises(AssertionError):
        check([DENY | wrong])


@pytest.mark.parametrize("event", EVENTS)
def test_the_page_names_each_event_and_its_fields(event: str) -> None:
    (row,) = re.findall(rf"^\| \*{event}\* \|(.*)\|$", DOC, re.M)
    fields = set(re.findall(r"`(\w+)`", row.split("|")[-1]))
    assert fields == set(SCHEMA["$defs"][event]["properties"]) - {"event"}


def test_the_page_explains_each_field() -> None:
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", DOC, re.M)
    explained = {name for row in rows for name in re.findall(r"\w+", row)}
    used = set(SCHEMA["properties"]).union(*(SCHEMA["$defs"][event]["properties"] for event in EVENTS))
    assert used - explained == set()
