"""The audit log and the plain log: one line each, whatever they are given."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gexec.posix import clock
from gexec.posix.audit import AuditLog
from gexec.posix.log import Log, printable


def wait_until_s(due_s: float) -> None:
    """Return when the daemons' clock has this time."""
    while clock.now_s() <= due_s:
        time.sleep(0.05)


def test_attack_80_every_control_character_is_escaped(tmp_path: Path) -> None:
    audit = AuditLog((str(tmp_path / "audit"),))
    nasty = bytes(range(256)) + "\x9b\u2028\u202e".encode()
    audit.write("accept", argv=[nasty, "\x1b]0;x\x07\n"], user="a\nb", rank=3)
    audit.close()
    raw = (tmp_path / "audit").read_bytes()
    assert raw.count(b"\n") == 1
    assert all(32 <= byte < 127 for byte in raw[:-1])
    entry = json.loads(raw)
    assert entry["event"] == "accept"
    assert entry["rank"] == 3
    assert all(text.isprintable() for text in [*entry["argv"], entry["user"]])


#: What a line can be given.
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda values: st.lists(values, max_size=4) | st.lists(values, max_size=4).map(tuple),
    max_leaves=8,
)


def _plainly(value: object) -> object:
    """Return what json is to write for a value."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, (list, tuple)):
        return [_plainly(item) for item in value]
    return value


@given(st.dictionaries(st.sampled_from(["task", "job", "argv", "reason"]), _VALUES))
@example({"argv": [b'a"b\\', "\x7f\u2028\U0001f600\udc80"], "reason": 'say "no"', "task": 2**70})
def test_a_line_is_what_json_writes(fields: dict[str, object]) -> None:
    with tempfile.NamedTemporaryFile() as file:
        audit = AuditLog((file.name,))
        audit.write("exec", **fields)
        audit.close()
        raw = file.read()
    entry = {"time": json.loads(raw)["time"], "event": "exec", "seq": 1}
    entry |= {name: _plainly(value) for name, value in fields.items()}
    assert raw == json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def test_attack_64_full_disk_is_told_once_and_never_raises() -> None:
    read, write = os.pipe()
    audit = AuditLog(("/dev/full",), Log("test", write))
    for _ in range(3):
        audit.write("exit", rank=1)
    assert not audit.is_writable()
    assert audit.trouble == "/dev/full: No space left on device"
    audit.close()
    os.close(write)
    told = os.read(read, 65536)
    os.close(read)
    assert told.count(b"\n") == 1
    assert b"lines are being lost" in told


def test_lines_that_were_lost_are_counted_in_the_log_that_has_lost_them(tmp_path: Path) -> None:
    """Two destinations: a FIFO that nobody reads at first, and a file."""
    fifo, path = tmp_path / "fifo", tmp_path / "audit"
    os.mkfifo(fifo)
    audit = AuditLog((str(fifo), str(path)), Log("test", os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)))
    assert not audit.write("exec", rank=1)
    assert not audit.write("exec", rank=2)
    assert (audit.is_writable(), audit.trouble) == (False, f"{fifo}: no program reads this FIFO")
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert audit.is_writable()
    assert audit.write("exec", rank=3)
    assert audit.trouble == ""
    got = [json.loads(line) for line in os.read(reading, 65536).splitlines()]
    assert [(line["event"], line["seq"]) for line in got] == [("lost", 3), ("exec", 4)]
    assert (got[0]["destination"], got[0]["lines"]) == (str(fifo), 2)
    assert got[0]["reason"] == "no program reads this FIFO"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["event"], line["seq"]) for line in lines] == [
        ("exec", 1), ("exec", 2), ("lost", 3), ("exec", 4),
    ]  # fmt: skip
    told = (tmp_path / "log").read_text().splitlines()
    assert ["lines are being lost" in line for line in told] == [True, False]
    assert "takes lines again; 2 lines were lost" in told[1]
    os.close(reading)
    audit.close()


def test_what_was_lost_is_reported_without_a_further_line(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "audit"
    audit = AuditLog((str(path),), Log("test", os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)))
    audit.write("exec")
    due_s = audit.next_deadline_s()
    assert due_s is not None
    assert due_s <= clock.now_s() + 5
    path.parent.mkdir()
    wait_until_s(due_s)
    audit.tick()
    (line,) = map(json.loads, path.read_text().splitlines())
    assert (line["event"], line["lines"], line["reason"]) == ("lost", 1, "No such file or directory")
    assert audit.next_deadline_s() is None
    audit.close()


def test_all_lines_have_the_common_fields_and_a_number(tmp_path: Path) -> None:
    audit = AuditLog((str(tmp_path / "a"),), common={"daemon": "gexecd", "node": 'n"1'})
    for _ in range(2):
        audit.write("exec", uid=5)
    audit.close()
    first, second = map(json.loads, (tmp_path / "a").read_text().splitlines())
    assert (first["seq"], second["seq"]) == (1, 2)
    assert (first["daemon"], first["node"]) == ("gexecd", 'n"1')
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first["time"])


def test_reopen_follows_rotation(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    audit = AuditLog((str(path),))
    audit.write("one")
    path.rename(tmp_path / "audit.1")
    audit.reopen()
    audit.write("two")
    audit.close()
    assert json.loads(path.read_text())["event"] == "two"


def test_audit_log_is_not_a_link(tmp_path: Path) -> None:
    (tmp_path / "audit").symlink_to(tmp_path / "victim")
    read, write = os.pipe()
    AuditLog((str(tmp_path / "audit"),), Log("test", write)).write("exec")
    os.close(write)
    assert b"lines are being lost" in os.read(read, 65536)
    os.close(read)
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    ("text", "shown"), [("plain ü", "plain ü"), ("a\x1b[0m", "a\\x1b[0m"), ("\n", "\\n")]
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@pytest.mark.parametrize(
    "value", [b"/" * 3_000_219, "x" * 3_000_219, [b"x" * 70_000] * 3000, ["\0" * 9999] * 99]
)
def test_every_field_of_a_line_is_bounded(tmp_path: Path, value: object) -> None:
    path = tmp_path / "audit.log"
    audit = AuditLog((str(path),))
    audit.write("accept", cwd=value, rank=3)
    audit.close()
    line = json.loads(path.read_text())
    assert line["rank"] == 3
    assert path.stat().st_size < 500_000
    assert "..." in str(line["cwd"])


def test_a_line_of_the_log_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        Log("gexecd", file.fileno()).warning("x" * 3_000_000)
    assert path.stat().st_size < 5000
    assert path.read_text().endswith("... (3000000 characters)\n")
