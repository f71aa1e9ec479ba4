"""--json: one object a line, from which every byte can be had back."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from gexec import limits
from gexec.render.jsonl import SCHEMA, Jsonl
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import denied, exited, killed, lost, not_started, output_cut, timed_out
from views import Loop, one

PIECE = 64 * 1024


def start(ranks: int = 2) -> Loop:
    return Loop(
        Jsonl([b"n%d" % rank for rank in range(ranks)], [b"127.0.0.%d:1" % rank for rank in range(ranks)])
    )


def events(loop: Loop) -> list[dict[str, Any]]:
    assert loop.text[2] == b""
    assert loop.text[1].isascii()
    assert loop.text[1].endswith(b"\n")
    return [json.loads(line) for line in loop.text[1].splitlines()]


def test_who_does_not_respond_is_an_event() -> None:
    loop = start()
    loop.responding(((0, 2),), False)
    loop.responding(one(1), True)
    assert [(event["event"], event["rank"]) for event in events(loop)[1:]] == [
        ("not_responding", 0), ("not_responding", 1), ("responding", 1),
    ]  # fmt: skip


def said(loop: Loop, rank: int, stream: str = "stdout") -> bytes:
    """Put a stream together again, as docs/output.md says it is done."""
    whole = b""
    for event in events(loop):
        if event["event"] == stream and event["rank"] == rank:
            assert event["offset"] == len(whole)
            whole += event["text"].encode() if "text" in event else base64.b64decode(event["base64"])
            whole += b"\n" * event["newline"]
    return whole


def test_a_job_from_start_to_end() -> None:
    loop = start()
    loop.started(((0, 2),))
    loop.out(((0, 2),), b"a\nb")
    loop.err(1, b"oops\n")
    loop.ended(one(1), exited(7))
    loop.ended(one(0), exited(0))
    loop.finish()
    assert events(loop) == [
        {
            "event": "job",
            "schema": SCHEMA,
            "nodes": [
                {"rank": 0, "node": "n0", "address": "127.0.0.0:1"},
                {"rank": 1, "node": "n1", "address": "127.0.0.1:1"},
            ],
        },
        {"event": "started", "rank": 0, "node": "n0"},
        {"event": "started", "rank": 1, "node": "n1"},
        {"event": "stdout", "rank": 0, "node": "n0", "offset": 0, "text": "a", "newline": True},
        {"event": "stdout", "rank": 1, "node": "n1", "offset": 0, "text": "a", "newline": True},
        {"event": "stderr", "rank": 1, "node": "n1", "offset": 0, "text": "oops", "newline": True},
        {"event": "stdout", "rank": 1, "node": "n1", "offset": 2, "text": "b", "newline": False},
        {"event": "exited", "rank": 1, "node": "n1", "status": 7},
        {"event": "stdout", "rank": 0, "node": "n0", "offset": 2, "text": "b", "newline": False},
        {"event": "exited", "rank": 0, "node": "n0", "status": 0},
        {
            "event": "end",
            "exit_status": 7,
            "succeeded": 1,
            "outcomes": {"exited": 2, "killed": 0, "not_started": 0, "denied": 0, "lost": 0, "timed_out": 0},
        },
    ]
    assert loop.taken == {(STDOUT, 0): 3, (STDOUT, 1): 3, (STDERR, 1): 5}


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (killed(9), {"event": "killed", "signal": 9}),
        (not_started("refused", 111), {"event": "not_started", "reason": "refused"}),
        (denied("who?"), {"event": "denied", "reason": "who?"}),
        (lost("\x1b]gone"), {"event": "lost", "reason": "\x1b]gone"}),
        (timed_out(15, "after 2 s"), {"event": "timed_out", "signal": 15, "reason": "after 2 s"}),
    ],
)
def test_outcomes(outcome: Any, told: dict[str, Any]) -> None:
    loop = start(1)
    loop.ended(one(0), outcome)
    assert events(loop)[1] == {"rank": 0, "node": "n0", **told}


def test_who_has_no_outcome_when_gexec_leaves_is_lost() -> None:
    loop = start(3)
    loop.ended(one(1), exited(0))
    loop.finish()
    last = events(loop)[-1]
    assert (last["exit_status"], last["succeeded"], last["outcomes"]["lost"]) == (255, 1, 2)


def test_the_exit_status_is_the_callers() -> None:
    loop = Loop(Jsonl([b"n"], [b"a"], status=lambda outcomes: 40 + len(outcomes)))
    loop.ended(one(0), exited(0))
    loop.finish()
    assert events(loop)[-1]["exit_status"] == 41


def test_a_rank_that_runs_once_more_does_not_continue_its_line_and_objects_of_a_command_are_whole() -> None:
    view = Jsonl([b"n0"], [b"127.0.0.1:1"])
    view.started(one(0))
    view.output(STDERR, one(0), b"half a li")
    view.writes.clear()
    view.started(one(0))  # in a further job, in which nothing has been sent yet
    assert [credit for _, _, credit in view.writes] == [None, None]
    view.output(STDERR, one(0), b"again\n")
    view.told("report", 0, {"complete": False, "files": 3, "name": 'ä"'})
    told = [json.loads(text) for _, text, _ in view.writes]
    assert told == [
        {"event": "stderr", "rank": 0, "node": "n0", "offset": 0, "text": "half a li", "newline": False},
        {"event": "started", "rank": 0, "node": "n0"},
        {"event": "stderr", "rank": 0, "node": "n0", "offset": 9, "text": "again", "newline": True},
        {"event": "report", "rank": 0, "node": "n0", "complete": False, "files": 3, "name": 'ä"'},
    ]


def test_text_that_is_no_text_and_characters_cut_by_frames() -> None:
    content = "größe €\n".encode() + b"\xff\xfe\n" + b"nul\0\n" + b"\n" + "\u2028\x9b€".encode()
    loop = start(1)
    for byte in content:
        loop.out(0, bytes([byte]))
    loop.ended(one(0), exited(0))
    assert said(loop, 0) == content
    kinds = [
        sorted(event.keys() & {"text", "base64"}) for event in events(loop) if event["event"] == "stdout"
    ]
    assert kinds == [["text"], ["base64"], ["base64"], ["text"], ["text"]]


@pytest.mark.parametrize("chunk", [1000, PIECE, 1 << 20])
def test_a_long_line_comes_in_pieces_between_characters(chunk: int) -> None:
    content = b"x" + "€".encode() * 100_000 + b"\nshort\n"
    loop = start(1)
    for at in range(0, len(content), chunk):
        loop.out(0, content[at : at + chunk])
    loop.ended(one(0), exited(0))
    assert said(loop, 0) == content
    texts = [event for event in events(loop) if event["event"] == "stdout"]
    assert all("text" in event and len(event["text"].encode()) <= PIECE for event in texts)
    assert [event["newline"] for event in texts[-3:]] == [False, True, True]
    assert loop.taken[STDOUT, 0] == len(content)


@pytest.mark.parametrize("ranks", [1, 1000, 65_536])
def test_what_is_kept_untaken_is_at_most_half_a_window(ranks: int) -> None:
    loop = start(ranks)
    window = limits.window_bytes(ranks)
    least = 0
    for count in range(1, 4 * window // 4096):
        loop.out(0, b"x" * 4096)
        least = max(least, 4096 * count - loop.taken.get((STDOUT, 0), 0))
    assert 0 < least <= window // 2


def test_names_and_addresses_that_are_no_text() -> None:
    loop = Loop(Jsonl([b'n\xff"'], [b""]))
    assert events(loop)[0]["nodes"] == [{"rank": 0, "node": 'n\\xff"', "address": ""}]


def test_output_that_was_cut_is_marked_and_no_success() -> None:
    loop = start()
    loop.ended(one(0), output_cut(exited(0), "why"))
    loop.ended(one(1), output_cut(timed_out(9, "late"), "why"))
    loop.finish()
    first, second, end = events(loop)[1:]
    assert (first["event"], first["status"], first["cut"], first["reason"]) == ("exited", 0, True, "why")
    assert (second["event"], second["cut"], second["reason"]) == ("timed_out", True, "late; why")
    assert (end["exit_status"], end["succeeded"]) == (255, 0)
