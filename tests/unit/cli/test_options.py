"""The option parser, and the help of gexec, enexec and ensh."""

from __future__ import annotations

import re

import pytest

from gexec.cli.command import Command
from gexec.cli.enexec import ENEXEC
from gexec.cli.ensh import ENSH
from gexec.cli.ensync import ENSYNC
from gexec.cli.gexec import GEXEC, OPTIONS
from gexec.cli.manual import page
from gexec.cli.options import integer, one_of, parse, seconds
from gexec.errors import UsageError


@pytest.mark.parametrize(
    "words",
    [
        ["-n4", "hostname"],
        ["-n", "4", "hostname"],
        ["--nprocs=4", "hostname"],
        ["--nprocs", "4", "hostname"],
        ["--np=4", "hostname"],
        ["-vn4", "hostname"],
        ["-vn", "4", "--", "hostname"],
    ],
)
def test_all_spellings_of_a_value_are_equal(words: list[str]) -> None:
    parsed = parse("gexec", words, OPTIONS)
    assert parsed.last("nprocs") == "4"
    assert parsed.rest == ["hostname"]


def test_the_first_word_that_is_no_option_ends_them() -> None:
    parsed = parse("gexec", ["-v", "ls", "-l", "-n", "4", "--", "-p"], OPTIONS)
    assert parsed.rest == ["ls", "-l", "-n", "4", "--", "-p"]
    assert parsed.flag("verbose")
    assert parsed.last("nprocs") is None


def test_two_dashes_end_options_and_one_dash_is_a_word() -> None:
    assert parse("gexec", ["--", "-v"], OPTIONS).rest == ["-v"]
    assert parse("gexec", ["-", "-v"], OPTIONS).rest == ["-", "-v"]


def test_the_last_value_counts_and_all_are_kept() -> None:
    parsed = parse("gexec", ["-w", "a", "-wb,c", "--nodes=d"], OPTIONS)
    assert parsed.all("nodes") == ["a", "b,c", "d"]
    assert parsed.last("nodes") == "d"


def test_an_empty_value_is_a_value() -> None:
    assert parse("gexec", ["--chdir=", "x"], OPTIONS).last("chdir") == ""


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-z"], "unknown option -z: gexec -h lists the options"),
        (["--frobnicate"], "unknown option --frobnicate: gexec -h lists the options"),
        (["--no"], "option --no is ambiguous: --no-progress, --no-stdin, --nodelist, --nodes"),
        (["-n"], "option -n needs a value"),
        (["--nprocs"], "option --nprocs needs a value"),
        (["--help=x"], "option --help takes no value"),
        (["--=x"], "option -- is ambiguous"),
    ],
)
def test_errors_name_the_option(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse("gexec", words, OPTIONS)
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize("text", ["", "-1", "x", "1.5", "65537", "9" * 30, "٣", " 4"])
def test_whole_numbers_are_checked(text: str) -> None:
    with pytest.raises(UsageError, match="-n: expected a whole number from 0 to 65536"):
        integer("-n", text, 0, 65536)


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e3", "1.2.3", "4000001", "."])
def test_seconds_are_checked(text: str) -> None:
    with pytest.raises(UsageError, match="--timeout: expected seconds"):
        seconds("--timeout", text)


def test_numbers_are_read() -> None:
    assert integer("-n", "0004", 0, 10) == 4
    assert seconds("--timeout", "2.5") == 2.5


def test_words_may_be_cut_short_in_any_case() -> None:
    words = ("none", "vnn", "host", "ip")
    assert [one_of("-p", text, words) for text in ("N", "vn", "HOST", "i")] == ["none", "vnn", "host", "ip"]
    for text in ("", "x", "hostx"):
        with pytest.raises(UsageError, match="expected one of none, vnn, host, ip"):
            one_of("-p", text, words)


def letters_in(text: str) -> dict[str, str]:
    """Return the letters with which a page shows each long option."""
    shown = re.findall(r"(?<![\w-])((?:-\w, )*)--([a-z][a-z-]*)", text)
    return {long: re.sub("[-, ]", "", letters) for letters, long in shown}


COMMANDS = pytest.mark.parametrize("command", [GEXEC, ENEXEC, ENSH, ENSYNC], ids=lambda command: command.name)


@COMMANDS
def test_help_fits_one_screen_and_shows_options_as_they_are(command: Command) -> None:
    lines = command.help.splitlines()
    assert lines[0].startswith(f"Usage: {command.name} ")
    assert len(lines) <= 24
    assert max(len(line) for line in lines) <= 80
    there = {option.long: option.short for option in command.options}
    shown = letters_in(command.help)
    assert shown.items() <= there.items()
    assert {"nodes", "exclude" if command is GEXEC else "not-here", "help", "help-all"} <= shown.keys()


@COMMANDS
def test_help_all_has_every_option(command: Command) -> None:
    text = page(command)
    assert max(len(line) for line in text.splitlines()) <= 100
    lines = re.findall(r"^ +((?:-\w, )*--.*)$", text, re.MULTILINE)
    shown = {}
    for line in lines:
        shown.update(letters_in(line.partition("  ")[0]))
    assert shown == {option.long: option.short for option in command.options}
    assert len(lines) == len(shown)
    assert "{" not in text


@COMMANDS
def test_no_letter_stands_for_two_options(command: Command) -> None:
    letters = "".join(option.short for option in command.options)
    assert len(set(letters)) == len(letters)
