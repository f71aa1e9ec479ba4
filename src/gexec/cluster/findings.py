"""What `gexecctl doctor` reports."""

from __future__ import annotations

from dataclasses import dataclass

OK = "ok"
WARNING = "warning"
PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One line: ``level`` is OK, WARNING or PROBLEM; ``fix`` says what to do, if anything."""

    level: str
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.level:<8} {self.text}" + (f": {self.fix}" if self.fix else "")
