"""One sentence for each kind of note, whatever the number of files."""

from __future__ import annotations

from gexec.files.notes import COPIED_LINKS, SET_ID, Notes


def test_nothing_to_note_is_no_sentence() -> None:
    assert Notes().sentences(b"/srv") == []


def test_one_sentence_for_each_kind() -> None:
    notes = Notes()
    for path in (b"a/b", b"c", b"d"):
        notes.add(SET_ID, path)
    notes.add(COPIED_LINKS, b"li\x1bnk")
    assert notes.sentences(b"/srv") == [
        "hard links that are not possible here are separate files, 1 file: /srv/li\\x1bnk",
        "set-uid and set-gid bits of 3 files are left out (--setuid keeps them): /srv/a/b and 2 more",
    ]


def test_refused_attributes_are_counted_by_namespace() -> None:
    notes = Notes()
    notes.add_refused([b"user.a", b"user.b", b"system.posix_acl_access"], b"one")
    notes.add_refused([b"user.a"], b"two")
    notes.add_refused([b"security.capability", b"system.posix_acl_default", b"trusted.x"], b"three")
    notes.add_refused([], b"four")
    assert notes.sentences(b"") == [
        "attributes trusted.* of 1 entry cannot be kept here: /three",
        "attributes user.* of 2 entries cannot be kept here: /one and 1 more",
        "the ACLs of 1 entry cannot be kept here: /one",
        "the capabilities of 1 entry cannot be kept here: /three",
        "the default ACLs of 1 entry cannot be kept here: /three",
    ]


def test_the_sentences_do_not_depend_on_the_order_of_the_kinds() -> None:
    first, second = Notes(), Notes()
    first.add(SET_ID, b"a")
    first.add(COPIED_LINKS, b"b")
    second.add(COPIED_LINKS, b"b")
    second.add(SET_ID, b"a")
    assert first.sentences(b"") == second.sentences(b"")
