"""`make docs`: write the option sections of the manuals from the table of options (gexec.cli.table).

With --check it writes nothing and ends with status 1 if a manual is not as the table has it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from gexec.cli.manual import shown  # noqa: E402
from gexec.cli.options import Option  # noqa: E402
from gexec.cli.table import options_of  # noqa: E402

MANUALS = ("gexec.md", "enexec.md", "ensh.md", "ensync.md", "files.md", "gexecctl.md")
#: What explains the options below a heading.
_SEE = {
    "Which nodes": " ([choosing nodes](nodes.md))",
    "What is shown": " ([output](output.md))",
    "When something fails": " ([rolling changes](gexec.md#rolling-changes))",
}
_SECTION = re.compile(
    r"(<!-- options of ([\w-]+), written by `make docs` -->\n).*?(<!-- end of options -->)", re.S
)


def _row(option: Option) -> str:
    names = [f"`-{letter}`" for letter in option.short] + [f"`{shown(option)}`"]
    meaning = re.sub(r"--[a-z][a-z0-9-]*(=\w+)?", r"`\g<0>`", option.meaning)
    return f"| {', '.join(names)} | {meaning} |".replace("N|P%", r"N\|P%")


def section(command: str) -> str:
    """Return the tables of a command's options; one table for those that have few."""
    lines: list[str] = []
    heading = ""
    for option in options_of(command):
        if option.heading != heading and not (heading and command.startswith("gexec-")):
            heading = option.heading
            if not command.startswith("gexec-"):
                lines += ["", f"**{heading}**{_SEE.get(heading, '')}"]
            lines += ["", "| option | meaning |", "|---|---|"]
        lines.append(_row(option))
    return "\n".join([*lines, "", ""])


def main(words: list[str]) -> int:
    """Write or check the manuals; return the exit status."""
    status = 0
    for name in MANUALS:
        path = ROOT / "docs" / name
        text = path.read_text(encoding="utf-8")
        wanted, count = _SECTION.subn(lambda found: found[1] + section(found[2]) + found[3], text)
        if not count:
            print(f"docs/{name} has no section of options: put its two comments back", file=sys.stderr)
            status = 1
        elif wanted != text and words == ["--check"]:
            print(f"docs/{name} does not have the options of gexec.cli.table: run make docs", file=sys.stderr)
            status = 1
        elif wanted != text:
            path.write_text(wanted, encoding="utf-8")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
