"""Options of other tools: the error says what to write instead, and only where gexec has no such option."""

from __future__ import annotations

import pytest

from gexec.cli import habits
from gexec.cli.habits import instead
from gexec.cli.options import parse
from gexec.cli.table import options_of
from gexec.errors import UsageError


@pytest.mark.parametrize("option", sorted(habits._INSTEAD))
@pytest.mark.parametrize("command", ["gexec", "enexec"])
def test_options_of_other_tools(command: str, option: str) -> None:
    with pytest.raises(UsageError, match=f"unknown option {option}: ") as told:
        parse(command, [option, "x"], options_of(command))
    assert instead(command, option) in str(told.value)


@pytest.mark.parametrize("option", sorted(habits._COPIERS))
def test_options_of_other_copiers(option: str) -> None:
    with pytest.raises(UsageError, match=f"unknown option {option}: "):
        parse("ensync", [option, "x"], options_of("ensync"))


def test_options_that_it_names_exist() -> None:
    options = options_of("gexec")
    names = {f"--{option.long}" for option in options} | {f"-{letter}" for o in options for letter in o.short}
    for text in habits._INSTEAD.values():
        assert {word.strip(",;") for word in text.split() if word.startswith("-")} <= names


@pytest.mark.parametrize("command", ["ensh", "ensync", "gexec-send", "gexec-receive"])
def test_others_refer_to_their_help(command: str) -> None:
    with pytest.raises(UsageError, match=f"unknown option --no-such-option: {command} -h lists the options"):
        parse(command, ["--no-such-option"], options_of(command))
