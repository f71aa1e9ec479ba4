"""A table-driven parser of GNU-style options, for commands that must start fast.

argparse and getopt cost a client more than everything else it does before its job is sent
(docs/decisions/0003-thin-client.md). This one knows ``-n4``, ``-n 4``, ``-vn4``, ``--nprocs=4``,
``--nprocs 4``, unambiguous beginnings of long names, ``--``, and that the first non-option argument
ends the options, unless the command takes options between its arguments. Pure; imports only errors.
"""

from __future__ import annotations

from gexec.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


_SECONDS_MAX = 4_000_000
#: Bytes of a size's letter, as a shift.
_UNITS = {"k": 10, "K": 10, "m": 20, "M": 20, "g": 30, "G": 30}
#: Seconds of a time's letter.
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Option:
    """One option, as a row of ``cli.table`` has it.

    Attributes:
        short: its letters, or "".
        long: its name.
        argument: the name of its value; "" if it takes none, in brackets if it is optional, and is
            given as ``--long=VALUE`` only.
        meaning, heading: for pages of help.
        bounds: of a whole number.
        choices: the values that it may have.
    """

    __slots__ = ("argument", "bounds", "choices", "heading", "long", "meaning", "short")

    def __init__(
        self,
        short: str,
        long: str,
        argument: str,
        meaning: str,
        heading: str,
        bounds: tuple[int, int] | None,
        choices: Sequence[str],
    ) -> None:
        self.short = short
        self.long = long
        self.argument = argument
        self.meaning = meaning
        self.heading = heading
        self.bounds = bounds
        self.choices = choices

    @property
    def takes_value(self) -> bool:
        """Tell whether the next argument is its value, unless it has one of its own."""
        return self.argument != "" and self.argument[0] != "["

    @property
    def spelled(self) -> str:
        """Return its letters and name, as errors show it."""
        return "".join([f"-{letter}/" for letter in self.short]) + f"--{self.long}"

    def checked(self, text: str) -> str:
        """Return a value as it counts, a choice in full; UsageError for one that makes no sense.

        NAMES may be empty, and N|P% and P depend on the job: those are checked where they are used.
        """
        if self.choices:
            lowered = text.lower()
            matches = [choice for choice in self.choices if lowered and choice.startswith(lowered)]
            if len(matches) == 1 or lowered in matches:
                return lowered if lowered in matches else matches[0]
            expected = f"one of {', '.join(self.choices)}"
        elif self.bounds:
            low, high = self.bounds
            if _is_decimal(text) and low <= int(text) <= high:
                return text
            expected = f"a whole number from {low} to {high}"
        elif self.argument == "S":
            if _is_decimal(text.replace(".", "", 1)) and float(text) <= _SECONDS_MAX:
                return text
            expected = f"seconds from 0 to {_SECONDS_MAX}"
        elif self.argument == "N[smhd]":
            if _is_decimal(text[:-1] if text[-1:] in _SPANS else text):
                return text
            expected = "a time such as 90, 30m, 24h or 7d"
        elif self.argument == "N[kMG]":
            if _is_decimal(text[:-1] if text[-1:] in _UNITS else text):
                return text
            expected = "bytes such as 500k, 10M or 1G"
        elif text or self.argument in ("NAMES", "N|P%", "P"):
            return text
        else:
            raise UsageError(f"option {self.spelled}: the value is empty; give {self.argument.strip('[=]')}")
        raise UsageError(f"option {self.spelled}: expected {expected}, not {text[:80]!r}")


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15


class Parsed:
    """What a command line said.

    Attributes:
        flags: how often each option was given without a value, by long name.
        values: the values of each option that takes one, by long name, in their order.
        order: long name and value of all options that take one, in their order.
        rest: the non-option arguments: all from the first one on, or, of a command that takes options
            anywhere, all that are no options.
    """

    __slots__ = ("_table", "flags", "order", "rest", "values")

    def __init__(self, table: Sequence[Option]) -> None:
        self._table = table
        self.flags: dict[str, int] = {}
        self.values: dict[str, list[str]] = {}
        self.order: list[tuple[str, str]] = []
        self.rest: list[str] = []

    def add(self, option: Option, value: str | None) -> None:
        """Take an option, with its value if it has one; UsageError if that makes no sense."""
        if value is None:
            self.flags[option.long] = self.flags.get(option.long, 0) + 1
        else:
            self.values.setdefault(option.long, []).append(option.checked(value))
            self.order.append((option.long, self.values[option.long][-1]))

    def knows(self, long: str) -> bool:
        """Tell whether the command has this option."""
        return any(option.long == long for option in self._table)

    def flag(self, long: str) -> bool:
        """Tell whether the option without a value was given."""
        return long in self.flags

    def given(self, long: str) -> bool:
        """Tell whether the option was given, with or without a value."""
        return long in self.flags or long in self.values

    def last(self, long: str) -> str | None:
        """Return the last value given for the option, None if it was not given."""
        values = self.values.get(long)
        return values[-1] if values else None

    def value(self, long: str, default: str) -> str:
        """Return the last value given for the option, also an empty one, else ``default``."""
        values = self.values.get(long)
        return values[-1] if values else default

    def integer(self, long: str, default: int = 0) -> int:
        """Return the whole number of an option that has bounds."""
        return int(self.values[long][-1]) if long in self.values else default

    def seconds(self, long: str, default: float = 0.0) -> float:
        """Return the seconds of an option."""
        return float(self.values[long][-1]) if long in self.values else default

    def span(self, long: str, default: float) -> float:
        """Return the seconds of an option whose value may end in a unit."""
        text = self.last(long)
        if text is None:
            return default
        return float(text[:-1]) * _SPANS[text[-1]] if text[-1] in _SPANS else float(text)

    def size(self, long: str) -> int:
        """Return the bytes of an option, 0 if it was not given."""
        text = self.value(long, "0")
        return int(text[:-1]) << _UNITS[text[-1]] if text[-1] in _UNITS else int(text)

    def all(self, long: str) -> list[str]:
        """Return all values given for a repeatable option."""
        return self.values.get(long, [])


def parse(command: str, words: Sequence[str], table: Sequence[Option], anywhere: bool = False) -> Parsed:
    """Parse ``words`` and check the values; UsageError names the option and what to do.

    ``anywhere``: options may follow other arguments; ``--`` ends them.
    """
    parsed = Parsed(table)
    shorts = {letter: option for option in table for letter in option.short}
    waiting = iter(words)
    for word in waiting:
        if word == "--":
            break
        if len(word) < 2 or word[0] != "-":
            parsed.rest.append(word)
            if not anywhere:
                break
        elif word[1] == "-":
            name, equals, value = word[2:].partition("=")
            option = _find(command, name, table)
            if equals and not option.argument:
                raise UsageError(f"option --{option.long} takes no value")
            if option.takes_value and not equals:
                value = _next(f"--{option.long}", waiting)
            parsed.add(option, value if equals or option.takes_value else None)
        else:
            for index, letter in enumerate(word[1:], 2):
                if letter not in shorts:
                    raise _unknown(command, f"-{letter}")
                option = shorts[letter]
                if option.takes_value:
                    parsed.add(option, word[index:] or _next(f"-{letter}", waiting))
                    break
                parsed.add(option, None)
    parsed.rest += waiting
    return parsed


def _length(option: Option) -> int:
    return len(option.long)


def _find(command: str, name: str, table: Sequence[Option]) -> Option:
    matches = [option for option in table if option.long.startswith(name)]
    # One node is `--node`, which is no mistake though --nodelist begins like that, too.
    exact = sorted([option for option in matches if option.long in (name, f"{name}s")], key=_length)
    if exact or (name and len(matches) == 1):
        return (exact or matches)[0]
    if matches:
        names = ", ".join(sorted(f"--{option.long}" for option in matches))
        raise UsageError(f"option --{name[:80]} is ambiguous: {names}")
    raise _unknown(command, f"--{name[:80]}")


def _unknown(command: str, option: str) -> UsageError:
    if command in ("gexec-send", "gexec-receive"):  # on nodes without gexec
        return UsageError(f"unknown option {option}: {command} -h lists the options")
    from gexec.cli.habits import instead

    return UsageError(f"unknown option {option}: {instead(command, option)}")


def _next(option: str, waiting: Iterator[str]) -> str:
    for value in waiting:
        return value
    raise UsageError(f"option {option} needs a value")
