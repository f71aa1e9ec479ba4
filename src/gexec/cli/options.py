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
    from collections.abc import Sequence


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
            return one_of(self.spelled, text, self.choices)
        if self.bounds:
            integer(self.spelled, text, *self.bounds)
        elif self.argument == "S":
            seconds(self.spelled, text)
        elif self.argument == "N[kMG]":
            size(self.spelled, text)
        elif not text and self.argument not in ("NAMES", "N|P%", "P"):
            raise UsageError(f"option {self.spelled}: the value is empty; give {self.argument.strip('[=]')}")
        return text


class Parsed:
    """What a command line said.

    Attributes:
        flags: how often each option was given without a value, by long name.
        values: the values of each option that takes one, by long name, in their order.
        rest: the non-option arguments: all from the first one on, or, of a command that takes options
            anywhere, all that are no options.
    """

    __slots__ = ("flags", "rest", "values")

    def __init__(self) -> None:
        self.flags: dict[str, int] = {}
        self.values: dict[str, list[str]] = {}
        self.rest: list[str] = []

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

    def size(self, long: str) -> int:
        """Return the bytes of an option, 0 if it was not given."""
        return size(long, self.values[long][-1]) if long in self.values else 0

    def all(self, long: str) -> list[str]:
        """Return all values given for a repeatable option."""
        return self.values.get(long, [])


def parse(command: str, words: Sequence[str], table: Sequence[Option], anywhere: bool = False) -> Parsed:
    """Parse ``words`` and check the values; UsageError names the option and what to do.

    ``anywhere``: options may follow other arguments; ``--`` ends them.
    """
    parsed = Parsed()
    shorts = {letter: option for option in table for letter in option.short}
    position = 0
    while position < len(words):
        word = words[position]
        if word == "--":
            position += 1
            break
        if len(word) < 2 or word[0] != "-":
            if not anywhere:
                break
            parsed.rest.append(word)
            position += 1
            continue
        position += 1
        if word.startswith("--"):
            position = _long(command, word, words, position, table, parsed)
        else:
            position = _shorts(command, word, words, position, shorts, parsed)
    parsed.rest += words[position:]
    for option in table if parsed.values else ():
        if option.long in parsed.values:
            parsed.values[option.long] = [option.checked(text) for text in parsed.values[option.long]]
    return parsed


def _long(
    command: str, word: str, words: Sequence[str], position: int, table: Sequence[Option], parsed: Parsed
) -> int:
    name, equals, value = word[2:].partition("=")
    option = _find(command, name, table)
    if not option.takes_value and not (option.argument and equals):
        if equals:
            raise UsageError(f"option --{option.long} takes no value")
        parsed.flags[option.long] = parsed.flags.get(option.long, 0) + 1
        return position
    if not equals:
        value, position = _next(f"--{option.long}", words, position)
    parsed.values.setdefault(option.long, []).append(value)
    return position


def _find(command: str, name: str, table: Sequence[Option]) -> Option:
    matches = [option for option in table if option.long.startswith(name)]
    exact = [option for option in matches if option.long == name]
    if exact or (name and len(matches) == 1):
        return (exact or matches)[0]
    if matches:
        names = ", ".join(sorted(f"--{option.long}" for option in matches))
        raise UsageError(f"option --{name[:80]} is ambiguous: {names}")
    raise UsageError(f"unknown option --{name[:80]}: {command} -h lists the options")


def _shorts(
    command: str, word: str, words: Sequence[str], position: int, shorts: dict[str, Option], parsed: Parsed
) -> int:
    for index in range(1, len(word)):
        option = shorts.get(word[index])
        if option is None:
            raise UsageError(f"unknown option -{word[index]}: {command} -h lists the options")
        if not option.takes_value:
            parsed.flags[option.long] = parsed.flags.get(option.long, 0) + 1
            continue
        value = word[index + 1 :]
        if not value:
            value, position = _next(f"-{word[index]}", words, position)
        parsed.values.setdefault(option.long, []).append(value)
        break
    return position


def _next(option: str, words: Sequence[str], position: int) -> tuple[str, int]:
    if position >= len(words):
        raise UsageError(f"option {option} needs a value")
    return words[position], position + 1


def integer(option: str, text: str, low: int, high: int) -> int:
    """Return the whole number of an option's value; UsageError unless it is in [low, high]."""
    if text.isascii() and text.isdigit() and len(text) <= 12 and low <= int(text) <= high:
        return int(text)
    raise UsageError(f"option {option}: expected a whole number from {low} to {high}, not {text[:80]!r}")


def seconds(option: str, text: str, high_s: float = 4_000_000.0) -> float:
    """Return the seconds of an option's value; UsageError unless it is in [0, high_s]."""
    digits = text.replace(".", "", 1)
    if digits.isascii() and digits.isdigit() and len(text) <= 16 and float(text) <= high_s:
        return float(text)
    raise UsageError(f"option {option}: expected seconds from 0 to {high_s:.0f}, not {text[:80]!r}")


def one_of(option: str, text: str, words: Sequence[str]) -> str:
    """Return the one of ``words`` that ``text`` begins, in any case; UsageError if none or several."""
    lowered = text.lower()
    matches = [word for word in words if word.startswith(lowered)]
    if lowered in words:
        return lowered
    if lowered and len(matches) == 1:
        return matches[0]
    raise UsageError(f"option {option}: expected one of {', '.join(words)}, not {text[:80]!r}")


def size(option: str, text: str) -> int:
    """Return the bytes of a value such as ``500``, ``64k``, ``10M`` or ``1G``; UsageError if it is none."""
    digits = text.rstrip("kKmMgG")
    unit = text[len(digits) :].lower()
    if digits.isascii() and digits.isdigit() and len(digits) <= 12 and len(unit) <= 1:
        return int(digits) << {"": 0, "k": 10, "m": 20, "g": 30}[unit]
    raise UsageError(f"option {option}: expected bytes such as 500k, 10M or 1G, not {text[:80]!r}")
