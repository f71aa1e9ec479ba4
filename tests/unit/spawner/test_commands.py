"""Which programs a policy of commands permits, on real files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gexec.spawner.commands import PATH, CommandDenied, Permitted

ID, ENV = (os.path.realpath(path) for path in ("/usr/bin/id", "/usr/bin/env"))


def denied(commands: Permitted, program: str) -> str:
    with pytest.raises(CommandDenied) as caught:
        commands.checked(os.fsencode(program))
    return str(caught.value)


@pytest.mark.parametrize(
    "pattern", [ID, "/usr/bin/*", "/usr/*/id", "/usr/bin/i?", "/usr/bin/[i]d", "/bin/id", "/bin/*"]
)
def test_what_a_path_or_pattern_allows(pattern: str) -> None:
    """Also if a directory of the pattern is a link, as /bin often is."""
    assert Permitted(["/no/such", pattern], []).checked(b"/usr/bin/id") == os.fsencode(ID)


@pytest.mark.parametrize(
    "pattern", ["/usr/bin/env", "/usr/*", "/usr/bin/id/*", "/*", "/usr/bin/i", "/usr/bin/ID"]
)
def test_what_a_pattern_does_not_allow(pattern: str) -> None:
    assert "none of the allowed commands" in denied(Permitted([pattern], []), "/usr/bin/id")


def test_deny_has_precedence_and_applies_to_links_in_both_directions(tmp_path: Path) -> None:
    link = tmp_path / "innocent"
    link.symlink_to("/usr/bin/env")
    for program in ("/usr/bin/env", str(link)):
        assert "denied by the policy" in denied(Permitted(["/usr/bin/*"], ["/usr/bin/env"]), program)
    assert "denied by the policy" in denied(Permitted([], [f"{tmp_path.resolve()}/*"]), str(link))
    assert Permitted([], ["/usr/bin/env"]).checked(b"/usr/bin/id") == os.fsencode(ID)


def test_attack_103_a_link_to_an_allowed_program_is_executed_by_its_own_path(tmp_path: Path) -> None:
    link = tmp_path / "id"
    link.symlink_to("/usr/bin/id")
    assert Permitted(["/usr/bin/id"], []).checked(os.fsencode(link)) == os.fsencode(ID)
    link.unlink()
    link.symlink_to("/usr/bin/env")
    assert f"({ENV})" in denied(Permitted(["/usr/bin/id"], []), str(link))


def test_attack_103_what_others_can_change_is_not_allowed_by_any_pattern(tmp_path: Path) -> None:
    program = tmp_path.resolve() / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = denied(Permitted([str(program), "/tmp/*/*/*"], []), str(program))
    assert "but not only root can change /" in text


def test_a_program_that_does_not_exist_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Permitted(["/usr/bin/*"], []).checked(b"/usr/bin/no-such-program")


def test_attack_104_an_allowed_program_gets_only_harmless_variables() -> None:
    env = {
        b"LD_PRELOAD": b"/tmp/x.so", b"BASH_ENV": b"/tmp/x", b"PYTHONPATH": b"/tmp", b"PATH": b"/tmp",
        b"HOME": b"/home/ann", b"LC_ALL": b"C", b"GEXEC_NODE": b"n", b"TERM": b"xterm",
    }  # fmt: skip
    kept = Permitted(["/usr/bin/*"], []).environment(env)
    assert kept == {
        b"HOME": b"/home/ann", b"LC_ALL": b"C", b"GEXEC_NODE": b"n", b"TERM": b"xterm", b"PATH": PATH,
    }  # fmt: skip
    assert Permitted([], ["/usr/bin/su"]).environment(env) == env
