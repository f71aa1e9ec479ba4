"""The project agrees with itself: versions, documents and the tables that repeat the code."""

from __future__ import annotations

import argparse
import configparser
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gexec import limits
from gexec.cli import authd as authd_command
from gexec.cli import gexecctl as gexecctl_command
from gexec.cli import gexecd as gexecd_command
from gexec.cli.command import Command
from gexec.cli.enexec import ENEXEC
from gexec.cli.ensh import ENSH
from gexec.cli.ensync import ENSYNC
from gexec.cli.gexec import GEXEC
from gexec.settings.config import read_authd, read_gexecd
from gexec.version import VERSION
from gexec.wire import frames, outcome
from gexec.wire.frames import Frame

ROOT = Path(__file__).resolve().parents[2]
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def table(header: str) -> list[list[str]]:
    """Return the cells of the rows of the one table of protocol.md that begins with this header."""
    lines = PROTOCOL.splitlines()
    [start] = [number for number, line in enumerate(lines) if line.startswith(header)]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION


def test_the_changelog_opens_with_what_is_not_released_or_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    [first, *_] = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    assert first.startswith(("Unreleased", VERSION))


SENDERS = {
    "any": frames.FROM_ANY,
    "parent": frames.FROM_PARENT,
    "client": frames.FROM_CLIENT,
    "child": frames.FROM_CHILD,
    "root": frames.FROM_ROOT,
    "authd": frames.FROM_AUTHD,
    "authd's caller": frames.TO_AUTHD,
}


def frame_classes() -> dict[int, type[Frame]]:
    classes: dict[int, type[Frame]] = {}
    for allowed in SENDERS.values():
        classes |= allowed
    return dict(sorted(classes.items()))


def test_protocol_document_has_every_frame_as_it_is() -> None:
    told = [(int(row[0]), row[1], int(row[4])) for row in table("| type | name | said by |")]
    assert told == [(kind, item.__name__, item.MAX_BYTES) for kind, item in frame_classes().items()]


def test_protocol_document_says_who_may_say_what() -> None:
    rows = table("| type | name | said by |")
    assert len(rows) == len(frame_classes())
    for number, name, said_by, *_ in rows:
        told = set(said_by.split(", "))
        if told == {"any"}:
            told = {"any", "parent", "client", "child", "root"}
        allowed = {sender for sender, classes in SENDERS.items() if int(number) in classes}
        assert told == allowed, name


def test_protocol_document_has_every_limit_as_it_is() -> None:
    units = {"bytes": 1, "KiB": 1024, "MiB": 1024**2, "s": 1}
    told = {}
    for name, value, _ in table("| name | value | of what |"):
        number, _, unit = value.partition(" ")
        told[name] = float(number) * (units[unit] if unit else 1)
    assert told == {
        name: value for name, value in vars(limits).items() if name.isupper() and name != "TYPE_CHECKING"
    }


def test_protocol_document_has_every_outcome_as_it_is() -> None:
    rows = table("| kind | name | value | meaning |")
    assert [row[1] for row in rows] == list(outcome.NAMES)
    assert [int(row[0]) for row in rows] == list(range(len(outcome.NAMES)))
    for row, (low, high) in zip(rows, outcome.VALUES, strict=True):
        numbers = [int(number) for number in re.findall(r"\d+", row[2])]
        assert (numbers[0], numbers[1] if len(numbers) > 1 else numbers[0]) == (low, high)


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text))


def section(document: str, heading: str) -> str:
    """Return what stands below a heading of a document, up to the next one of its level."""
    text = (ROOT / document).read_text(encoding="utf-8")
    [found] = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found)


def offered_by(parser: argparse.ArgumentParser) -> set[str]:
    """Return the long options of a parser and of those below it."""
    names: set[str] = set()
    for action in parser._actions:
        names.update(name for name in action.option_strings if name.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                names |= offered_by(below)
    return names


def options_of(*commands: Command) -> set[str]:
    return {f"--{option.long}" for command in commands for option in command.options}


@pytest.mark.parametrize("command", [GEXEC, ENEXEC, ENSH, ENSYNC], ids=lambda command: command.name)
def test_the_options_of_a_manual_are_those_of_the_command(command: Command) -> None:
    told = options_in((ROOT / "docs" / f"{command.name}.md").read_text(encoding="utf-8"))
    assert options_of(command) <= told
    assert told <= options_of(command, GEXEC)


def manuals(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    script = root / "packaging" / "manuals.py"
    return subprocess.run([sys.executable, script, *words], capture_output=True, text=True, timeout=60)


def test_the_option_sections_of_the_manuals_are_what_the_table_of_options_makes() -> None:
    done = manuals(ROOT, "--check")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_manual_that_differs_from_the_table_is_named_and_made_anew(tmp_path: Path) -> None:
    for folder in ("packaging", "docs", "src/gexec/cli"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for name in ("__init__.py", "errors.py", "limits.py"):
        shutil.copy(ROOT / "src/gexec" / name, tmp_path / "src/gexec")
    table = tmp_path / "src/gexec/cli/table.py"
    table.write_text(table.read_text(encoding="utf-8").replace("N random nodes", "so many"), encoding="utf-8")
    done = manuals(tmp_path, "--check")
    assert done.returncode == 1
    assert "docs/gexec.md does not have the options of gexec.cli.table: run make docs" in done.stderr
    assert "docs/files.md" not in done.stderr
    assert manuals(tmp_path).returncode == 0
    assert manuals(tmp_path, "--check").returncode == 0
    assert "| `--pick=N` | so many |" in (tmp_path / "docs/gexec.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", ["docs/nodes.md", "docs/output.md", "docs/gexec.md"])
def test_documents_show_options_that_there_are(document: str) -> None:
    told = options_in((ROOT / document).read_text(encoding="utf-8"))
    assert told
    assert told <= options_of(GEXEC)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


def test_the_readme_shows_options_that_there_are() -> None:
    told = section("README.md", "Options")
    assert "--help-all" in told
    assert options_in(told) <= options_of(GEXEC)
    letters = dict(re.findall(r"-(\w), --([a-z-]+)", told))
    assert letters.items() <= {option.short: option.long for option in GEXEC.options}.items()


@pytest.mark.parametrize(
    ("parser", "document", "heading"),
    [
        (gexecd_command._parser(), "docs/gexecd.md", "gexecd"),
        (authd_command._parser(), "docs/gexecd.md", "authd"),
    ],
    ids=["gexecd", "authd"],
)
def test_manuals_of_the_daemons_have_every_option(
    parser: argparse.ArgumentParser, document: str, heading: str
) -> None:
    assert options_in(section(document, heading)) == offered_by(parser)


def test_manual_of_gexecctl_has_every_option() -> None:
    text = (ROOT / "docs/gexecctl.md").read_text(encoding="utf-8")
    # Those of background jobs come from the table of options.
    text = re.sub(r"<!-- options of .*?<!-- end of options -->", "", text, flags=re.DOTALL)
    assert options_in(text) == offered_by(gexecctl_command._parser()) - {"--version"}


def heading_names(path: Path) -> set[str]:
    """Return the anchors of a document's headings as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_documents_lead_somewhere(document: Path) -> None:
    for link in LINK.findall(document.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name} links to {link}"
        if anchor:
            assert anchor in heading_names(target), f"{document.name} links to {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_wrap_at_100_characters(document: Path) -> None:
    """Tables, code blocks and links that are longer by themselves are exempt."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "    ", "#"))]
    assert [line for line in lines if len(line) > 102 and "](" not in line] == []


def test_every_decision_is_in_the_list() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = set(LINK.findall((folder / "README.md").read_text(encoding="utf-8")))
    assert {path.name for path in folder.glob("[0-9]*.md")} == {name for name in listed if name[0].isdigit()}


def test_dependencies_have_a_reason_and_a_pinned_version_with_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    reasons = (ROOT / "docs" / "decisions" / "0002-dependencies.md").read_text(encoding="utf-8")
    for lock, wanted in (
        ("runtime.txt", project["project"]["dependencies"]),
        ("dev.txt", project["project"]["dependencies"] + project["dependency-groups"]["dev"]),
        ("fuzz.txt", project["dependency-groups"]["fuzz"]),
    ):
        text = (ROOT / "requirements" / lock).read_text(encoding="utf-8")
        pinned = re.findall(r"^([\w.-]+)==\S+.*\\$", text, re.MULTILINE)
        for requirement in wanted:
            name = re.split(r"[<>=~! ]", requirement)[0]
            assert name.lower() in pinned, f"{name} is not in requirements/{lock}"
            assert f"`{name}`" in reasons, f"{name} has no reason in 0002-dependencies.md"
        entries = re.split(r"\n(?=\S)", text.split("\n", 1)[1].strip())
        assert len(entries) == len(pinned)
        assert all("--hash=sha256:" in entry for entry in entries)
        assert "://" not in text


def test_every_package_is_in_a_layer() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / ".importlinter", encoding="utf-8")
    layers = set(re.findall(r"gexec\.(\w+)", config["importlinter:contract:layers"]["layers"]))
    source = ROOT / "src" / "gexec"
    there = {path.parent.name for path in source.glob("*/__init__.py")}
    there |= {path.stem for path in source.glob("*.py") if path.stem not in ("__init__", "__main__")}
    assert there == layers


def test_architecture_document_has_every_module() -> None:
    told: dict[str, set[str]] = {}
    for row in section("docs/architecture.md", "Rooms").splitlines():
        cells = row.split("|")
        for package in re.findall(r"`(\w+)`", cells[1]) if len(cells) > 4 else ():
            told[package] = set(re.findall(r"`(\w+)`", cells[3]))
    for folder in (path.parent for path in (ROOT / "src" / "gexec").glob("*/__init__.py")):
        modules = {path.stem for path in folder.glob("*.py")} - {"__init__"}
        assert modules == told[folder.name], folder.name


def test_example_configurations_are_accepted_and_hold_the_defaults(tmp_path: Path) -> None:
    etc = ROOT / "packaging" / "etc"
    for name, read in (("gexecd.toml", read_gexecd), ("authd.toml", read_authd)):
        example = (etc / name).read_text(encoding="utf-8")
        empty = tmp_path / "empty.toml"
        empty.write_text("")
        as_shown, uncommented = tmp_path / name, tmp_path / f"all-{name}"
        as_shown.write_text(example)
        # A line `# key = value` shows a default: with all of them set nothing may change.
        uncommented.write_text(re.sub(r"^# (?=\w+ = )", "", example, flags=re.MULTILINE))
        for path in (empty, as_shown, uncommented):
            path.chmod(0o644)
        defaults = read(str(empty), {})
        assert read(str(as_shown), {}) == defaults
        assert read(str(uncommented), {}) == defaults


def test_services_come_back_after_any_failure() -> None:
    for name in ("authd", "gexecd"):
        # Keys of systemd may stand more than once.
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.read(ROOT / "packaging" / "systemd" / f"{name}.service", encoding="utf-8")
        assert unit["Unit"]["StartLimitIntervalSec"] == "0"
        assert (unit["Service"]["Restart"], unit["Service"]["RestartSec"]) == ("on-failure", "1")
    soft, hard = map(int, unit["Service"]["LimitNOFILE"].split(":"))
    assert soft == 1024  # what programs that use select() can do with
    assert hard >= 65_536  # what gexecd raises its own limit to


ATTACK = re.compile(r"def test_attack_((?:\d{2,3}_)+)(?:to_(\d{2,3})_)?")


def attacks_tested() -> dict[int, set[str]]:
    """Return the files that have tests of each attack."""
    found: dict[int, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for match in ATTACK.finditer(path.read_text(encoding="utf-8")):
            numbers = [int(number) for number in match[1].strip("_").split("_")]
            for number in range(numbers[0], int(match[2]) + 1) if match[2] else numbers:
                name = path.relative_to(ROOT / "tests").with_suffix("").as_posix()
                found.setdefault(number, set()).add(name)
    return found


def test_the_list_of_attacks_is_that_of_the_tests() -> None:
    text = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE)
    listed = {int(number): set(re.findall(r"`([^`]+)`", files)) for number, _, _, files in rows}
    assert len(rows) == len(listed), "a number has two rows"
    assert list(listed) == sorted(listed)
    assert listed == attacks_tested()
    assert set(range(1, 86)) - set(listed) == {55}
