"""The option parser, and the help of gexec, enexec and ensh."""

from __future__ import annotations

import re

import pytest

from gexec.cli.command import Command
from gexec.cli.enexec import ENEXEC
from gexec.cli.ensh import ENSH
from gexec.cli.ensync import ENSYNC
from gexec.cli.gexec import GEXEC
from gexec.cli.manual import help_page, page
from gexec.cli.options import parse
from gexec.cli.table import EXCLUDES, GROUPS, NEEDS, check_combination, options_of
from gexec.errors import UsageError

OPTIONS = GEXEC.options
NAMES = (
    "gexec",
    "enexec",
    "ensh",
    "ensync",
    "gexec-send",
    "gexec-receive",
    "gexec-job",
    "gexecctl-jobs",
    "gexecctl-job",
)


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


def test_one_node_is_written_without_the_plural() -> None:
    assert parse("gexec", ["--node=n1", "ls"], OPTIONS).all("nodes") == ["n1"]
    assert parse("gexec", ["--nodelist=f", "ls"], OPTIONS).last("nodelist") == "f"


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


def test_an_empty_value_is_a_value_of_names_only() -> None:
    assert parse("gexec", ["--nodes=", "x"], OPTIONS).last("nodes") == ""
    for command in NAMES:
        for option in options_of(command):
            if option.argument not in ("", "NAMES", "N|P%", "P"):
                with pytest.raises(UsageError, match=f"option .*--{option.long}: "):
                    parse(command, [f"--{option.long}="], options_of(command))


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


def checked(long: str, text: str, command: str = "gexec") -> str:
    [option] = [option for option in options_of(command) if option.long == long]
    return option.checked(text)


@pytest.mark.parametrize("text", ["", "-1", "x", "1.5", "65537", "9" * 30, "٣", " 4"])
def test_whole_numbers_are_checked(text: str) -> None:
    with pytest.raises(UsageError, match="option -n/--nprocs: expected a whole number from 0 to 65536, not "):
        checked("nprocs", text)


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "1e3", "1.2.3", "4000001", "."])
def test_seconds_are_checked(text: str) -> None:
    with pytest.raises(UsageError, match="option --timeout: expected seconds from 0 to 4000000, not "):
        checked("timeout", text)


@pytest.mark.parametrize("text", ["", "k", "1kk", "-1", "1.5M", "fast", "9" * 16])
def test_sizes_are_checked(text: str) -> None:
    with pytest.raises(UsageError, match="option --bwlimit: expected bytes such as 500k, 10M or 1G, not "):
        checked("bwlimit", text, "ensync")


def test_numbers_are_read() -> None:
    parsed = parse("ensync", ["--nprocs=0004", "--timeout=2.5", "--bwlimit=3k"], ENSYNC.options)
    assert (parsed.integer("nprocs"), parsed.seconds("timeout"), parsed.size("bwlimit")) == (4, 2.5, 3072)
    assert (parsed.integer("port"), parsed.seconds("connect-timeout", 5), parsed.size("min-rate")) == (
        0,
        5,
        0,
    )
    sizes = {"500": 500, "64K": 65536, "10m": 10 << 20, "1G": 1 << 30}
    for text, wanted in sizes.items():
        assert parse("ensync", ["--bwlimit", text], ENSYNC.options).size("bwlimit") == wanted


def test_choices_may_be_cut_short_in_any_case() -> None:
    spelled = [checked("prefix-type", text) for text in ("N", "vn", "HOST", "i")]
    assert spelled == ["none", "vnn", "host", "ip"]
    for text in ("", "x", "hostx"):
        with pytest.raises(UsageError, match="-p/--prefix-type: expected one of none, vnn, host, ip, not "):
            checked("prefix-type", text)
    with pytest.raises(UsageError, match="expected one of auto, always, never, not 'a'"):
        checked("color", "a")


def letters_in(text: str) -> dict[str, str]:
    """Return the letters with which a page shows each long option."""
    shown = re.findall(r"(?<![\w-])((?:-\w, )*)--([a-z][a-z0-9-]*)", text)
    return {long: re.sub("[-, ]", "", letters) for letters, long in shown}


COMMANDS = pytest.mark.parametrize("command", [GEXEC, ENEXEC, ENSH, ENSYNC], ids=lambda command: command.name)
EVERY = pytest.mark.parametrize("name", NAMES)


@EVERY
def test_help_fits_one_screen_and_shows_options_as_they_are(name: str) -> None:
    lines = help_page(name).splitlines()
    assert lines[0].startswith("Usage: ")
    # Those two are called by programs, and have no longer page.
    assert len(lines) <= (30 if name.startswith("gexec-") else 24)
    assert max(len(line) for line in lines) <= 80
    there = {option.long: option.short for option in options_of(name)}
    shown = letters_in(help_page(name))
    assert shown.items() <= there.items()
    if name.startswith("gexec-"):
        assert shown.keys() == there.keys() - {"help"}
    else:
        own = "exclude" if name == "gexec" or name.startswith("gexecctl") else "not-here"
        assert {"nodes", own, "help", "help-all"} <= shown.keys()


@EVERY
def test_help_all_has_every_option(name: str) -> None:
    text = page(name)
    assert max(len(line) for line in text.splitlines()) <= 80
    lines = re.findall(r"^  +((?:-\w, )*--\w.*)$", text, re.MULTILINE)
    shown = {}
    for line in lines:
        shown.update(letters_in(line.partition("  ")[0]))
    assert shown == {option.long: option.short for option in options_of(name)}


@COMMANDS
def test_no_letter_stands_for_two_options(command: Command) -> None:
    letters = "".join(option.short for option in command.options)
    assert len(set(letters)) == len(letters)


@EVERY
def test_each_option_is_declared_once_for_a_command(name: str) -> None:
    longs = [option.long for option in options_of(name)]
    assert len(set(longs)) == len(longs)


def test_every_row_is_of_commands_that_there_are_and_says_what_it_is_in_one_form() -> None:
    for _, rows in GROUPS:
        for long, _letters, _argument, commands, meaning in rows:
            assert set(commands.split()) <= set(NAMES), long
            assert meaning, long
            assert not meaning.endswith("."), long


# -- combinations -------------------------------------------------------------------------------------


def word(name: str, commands: list[str]) -> str:
    """Return an argument that gives an option, with a value that passes its check."""
    long, equals, value = name.partition("=")
    [option, *_] = [option for command in commands for option in options_of(command) if option.long == long]
    if not equals and option.takes_value:
        value = option.choices[0] if option.choices else "1"
    return f"--{long}={value}" if value else f"--{long}"


def commands_with(*names: str) -> list[str]:
    longs = {name.partition("=")[0] for name in names}
    return [name for name in NAMES if longs <= {option.long for option in options_of(name)}]


PAIRS = [
    (one, other, why) for left, right, why in EXCLUDES for one in left.split() for other in right.split()
]


@pytest.mark.parametrize(("one", "other", "why"), PAIRS, ids=[f"{one}-{other}" for one, other, _ in PAIRS])
def test_what_excludes_each_other_is_reported_in_one_form_in_any_order(
    one: str, other: str, why: str
) -> None:
    commands = commands_with(one, other)
    assert commands
    words = [word(one, commands), word(other, commands)]
    for given in (words, words[::-1]):
        parsed = parse(commands[0], given, options_of(commands[0]))
        with pytest.raises(UsageError) as caught:
            check_combination(parsed)
        assert str(caught.value) == f"options --{one} and --{other}: {why}; give only one of them"


@pytest.mark.parametrize(("one", "needed", "why"), NEEDS, ids=[f"{one}-{needed}" for one, needed, _ in NEEDS])
def test_what_needs_another_names_both(one: str, needed: str, why: str) -> None:
    commands = commands_with(one, needed)
    table = options_of(commands[0])
    with pytest.raises(UsageError) as caught:
        check_combination(parse(commands[0], [word(one, commands)], table))
    assert str(caught.value) == f"option --{one} needs --{needed}: {why}; give both, or neither"
    chain = [one, needed]
    for name in chain:
        chain += [further for begin, further, _ in NEEDS if begin == name and further not in chain]
    check_combination(parse(commands[0], [word(name, commands) for name in chain], table))


def test_what_needs_another_only_does_so_where_that_is_an_option() -> None:
    for long in ("exclude-files", "include-files"):
        check_combination(parse("ensync", [f"--{long}=*.o", "f"], ENSYNC.options))
        with pytest.raises(UsageError, match=f"option --{long} needs --fetch"):
            check_combination(parse("gexec", [f"--{long}=*.o", "f"], OPTIONS))


def test_the_order_of_different_options_is_kept() -> None:
    words = ["--exclude-files=a", "--include-files", "b", "--exclude-files=c", "f"]
    parsed = parse("ensync", words, ENSYNC.options)
    assert parsed.order == [("exclude-files", "a"), ("include-files", "b"), ("exclude-files", "c")]


def test_what_goes_together_is_accepted() -> None:
    for words in (["-b", "--diff"], ["--fetch=/x", "--to=y", "--strict", "--chdir=/"], ["-d", "--json"]):
        parsed = parse("gexec", words, OPTIONS)
        check_combination(parsed)
        assert parsed.rest == []
    parsed = parse("ensync", ["--strict", "--via=g", "f"], ENSYNC.options, anywhere=True)
    check_combination(parsed)
    assert parsed.last("via") == "gexec"
