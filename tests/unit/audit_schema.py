"""docs/audit.schema.json, against which tests check the lines that daemons have written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SCHEMA: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[2] / "docs/audit.schema.json").read_text(encoding="utf-8")
)
#: The events that it describes.
EVENTS = [each["$ref"].rpartition("/")[2] for each in SCHEMA["oneOf"]]


def check(lines: Iterable[dict[str, Any]]) -> None:
    """Check lines of an audit log; AssertionError: names the first that is not as documented, and why."""
    import jsonschema

    for line in lines:
        assert line["event"] in EVENTS, line
        # Only its own event, so that the message is about one field.
        schema = SCHEMA | {"oneOf": [{"$ref": f"#/$defs/{line['event']}"}]}
        faults = [
            cause.message
            for error in jsonschema.Draft202012Validator(schema).iter_errors(line)
            for cause in error.context or [error]
        ]
        assert faults == [], (faults, line)
