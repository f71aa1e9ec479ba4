"""The last line of a receiver: counts of what it did, for programs. Pure."""

from __future__ import annotations

#: The beginning of every such line; the number is the format's version.
MARK = "gexec-files 1"
COUNTS = ("files", "links", "directories", "bytes", "unchanged", "differing", "deleted", "failed")


class Report:
    """Counts of one receiver.

    Attributes:
        is_complete: the stream came to its end, intact.
        files, links, directories: number written (in a dry run: that would be written); only new directories
            count.
        bytes: contents of the files written, holes included.
        unchanged: files and links that were already correct.
        differing: with verification or in a dry run, the number of lines printed.
        deleted: entries removed, including those in removed directories.
        failed: entries that could not be written, sent, compared or removed.
    """

    __slots__ = ("is_complete", *COUNTS)

    def __init__(self) -> None:
        self.is_complete = False
        self.files = 0
        self.links = 0
        self.directories = 0
        self.bytes = 0
        self.unchanged = 0
        self.differing = 0
        self.deleted = 0
        self.failed = 0

    def fields(self) -> dict[str, bool | int]:
        """Return ``complete`` and all counts by their names."""
        return {"complete": self.is_complete} | {name: getattr(self, name) for name in COUNTS}

    def line(self) -> str:
        """Return ``gexec-files 1 complete files=3 links=0 ...`` (or ``incomplete``), without a newline."""
        counts = " ".join(f"{name}={getattr(self, name)}" for name in COUNTS)
        return f"{MARK} {'complete' if self.is_complete else 'incomplete'} {counts}"


def parse(line: str) -> Report | None:
    """Parse a report; None if the line is not one. Unknown counts are ignored."""
    words = line.strip().split(" ")
    if words[:2] != MARK.split() or len(words) < 3 or words[2] not in ("complete", "incomplete"):
        return None
    report = Report()
    report.is_complete = words[2] == "complete"
    for word in words[3:]:
        name, equals, number = word.partition("=")
        if not equals or not (number.isascii() and number.isdigit() and len(number) <= 20):
            return None
        if name in COUNTS:
            setattr(report, name, int(number))
    return report
