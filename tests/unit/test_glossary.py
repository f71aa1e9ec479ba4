"""docs/glossary.md: one word for one thing, in documents, help, errors, docstrings and comments."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
#: What may contain a word that is otherwise not used: (word, file) and the reason.
ALLOWED = {
    ("master", "src/gexec/ssh/settings.py"): "ControlMaster is an option of ssh",
    ("folder", "src/gexec/client/transfer.py"): "the name of an attribute",
    ("folder", "src/gexec/files/unpacker.py"): "the name of an argument",
    ("ticket", "src/gexec/relay/tls.py"): "TLS has session tickets",
}


def words_not_used() -> list[str]:
    """Return the words in the third column of the glossary's table."""
    found = []
    for line in GLOSSARY.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3 and cells[0] != "word" and cells[2]:
            found += cells[2].split(", ")
    return found


def text_of_document(text: str) -> str:
    """Return a document without code in backquotes, in one line per paragraph."""
    return re.sub(r"\s+", " ", re.sub(r"`[^`\n]+`", "", text))


def text_of_module(text: str) -> str:
    """Return the comments and strings of a module, without names in double backquotes."""
    wanted = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    found = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in wanted:
            found.append(re.sub(r"\{[^{}]*\}", "", token.string.lstrip("#")))
    return re.sub(r"\s+", " ", re.sub(r"``[^`]+``", "", " ".join(found)))


def texts() -> Iterator[tuple[str, str]]:
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]):
        if path != GLOSSARY:
            yield str(path.relative_to(ROOT)), text_of_document(path.read_text(encoding="utf-8"))
    for folder in ("src/gexec", "laboratory"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "_native" not in path.parts:
                yield str(path.relative_to(ROOT)), text_of_module(path.read_text(encoding="utf-8"))


def test_words_that_are_not_used_are_not_used() -> None:
    words = words_not_used()
    assert len(words) >= 20
    pattern = re.compile(
        r"(?<![\w-])(" + "|".join(map(re.escape, words)) + r")(?:s|es)?(?![\w-])", re.IGNORECASE
    )
    found = {
        (match[1].lower(), name): text[max(0, match.start() - 30) : match.end() + 30]
        for name, text in texts()
        for match in pattern.finditer(text)
    }
    assert {key: text for key, text in found.items() if key not in ALLOWED} == {}
    assert {key for key in ALLOWED if key not in found} == set()


def test_modules_and_classes_have_names_that_explain_them() -> None:
    empty = re.compile(r"(?i)_?(manners?|trail|vetting|complaints?|entry|misc|utils?|managers?|info)")
    found = []
    for folder in ("src/gexec", "laboratory"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            classes = re.findall(r"^class (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
            found += [f"{path}: {name}" for name in [path.stem, *classes] if empty.fullmatch(name)]
    assert found == []
