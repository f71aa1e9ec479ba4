"""What `gexecctl doctor` reports."""

from __future__ import annotations

import json
from dataclasses import dataclass

OK = "ok"
WARNING = "warning"
PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One line: ``level`` is OK, WARNING or PROBLEM; ``fix`` says what to do, if anything.

    ``check`` is one word for what was checked.
    """

    level: str
    text: str
    fix: str = ""
    check: str = "settings"

    def __str__(self) -> str:
        return f"{self.level:<8} {self.text}" + (f": {self.fix}" if self.fix else "")

    def as_json(self) -> str:
        """Return it as one JSON object in one line."""
        return json.dumps(
            {"level": self.level, "check": self.check, "text": self.text, "fix": self.fix or None}
        )
