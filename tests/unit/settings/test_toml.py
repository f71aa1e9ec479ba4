"""TOML files: each way in which one cannot be used is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from gexec import limits
from gexec.errors import ConfigError
from gexec.settings.signers import read_signers
from gexec.settings.toml import read_toml


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[", "not a TOML file: "),
        (b"a = 1\n\xff", "byte 6 is not UTF-8"),
        (b"a = " + b"[" * 5000, "nested too deeply"),
        (b"#" * (limits.CONFIG_MAX_BYTES + 1), "larger than"),
    ],
)
def test_what_is_wrong_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    for read in (lambda: read_toml(str(path), what="x", missing="make it"), lambda: read_signers(str(path))):
        with pytest.raises(ConfigError) as told:
            read()
        assert str(path) in str(told.value)
        assert words in str(told.value)


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    assert read_toml(str(path), what="x", missing="") == {"a": 1}


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.toml.*make it"):
        read_toml(str(tmp_path / "no.toml"), what="x", missing="make it")


def test_the_document(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("a = 1\n[b]\nc = ['d']\n")
    assert read_toml(str(path), what="x", missing="make it") == {"a": 1, "b": {"c": ["d"]}}
