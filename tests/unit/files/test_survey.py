"""What a node already has of a list: each state, doubts and how they are settled, and the answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from descriptors import open_now
from file_contents import digest
from file_streams import MTIME_NS, meta
from gexec.files.entries import Directory, File, Meta, StreamEntry, Symlink
from gexec.files.metadata import Judge
from gexec.files.options import DRY_RUN, VERIFY, WRITE, CopyOptions
from gexec.files.owners import FileOwners
from gexec.files.survey import ATTRIBUTES, DOUBT, LACKS, OWN, RIGHT, UNKNOWN, Survey


class Here:
    """A directory, and surveys of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps = 0
        self.surveys: list[Survey] = []
        (path / "file").write_bytes(b"12345")
        (path / "file").chmod(0o644)
        os.utime(path / "file", ns=(1, MTIME_NS))

    def survey(
        self,
        *,
        may_ask: bool = True,
        is_source: Callable[[Meta, os.stat_result], bool] = lambda meta, status: False,
        **options: int,
    ) -> Survey:
        asked = CopyOptions(**options)  # type: ignore[arg-type]
        judge = Judge(asked, FileOwners(keep=asked.keep_owner, numeric=asked.numeric_ids))
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        survey = Survey(descriptor, asked, judge, is_source, on_step=self._step)
        survey.may_ask = may_ask
        self.surveys.append(survey)
        return survey

    def _step(self) -> None:
        self.steps += 1


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    before = open_now()
    here = Here(tmp_path)
    yield here
    for survey in here.surveys:
        survey.close()
    assert open_now() == before


def states(survey: Survey, *entries: StreamEntry) -> list[int]:
    return [finding.state for finding in survey.look(entries).values()]


TOUCHED = meta(mtime_ns=MTIME_NS + 1)
OTHER_MODE = meta(0o600)


@pytest.mark.parametrize(
    ("entry", "told", "asked"),
    [
        (File(b"file", meta(), 5), RIGHT, RIGHT),
        (File(b"none", meta(), 5), LACKS, LACKS),
        (File(b"file", meta(), 6), LACKS, LACKS),
        (File(b"file", TOUCHED, 5), LACKS, DOUBT),
        (File(b"file", TOUCHED, 6), LACKS, LACKS),
        (File(b"file", OTHER_MODE, 5), ATTRIBUTES, ATTRIBUTES),
        (File(b"file", OTHER_MODE, 6), LACKS, LACKS),
        (File(b"file", meta(), 5, is_unsized=True), LACKS, LACKS),
        (File(b"d/none", meta(), 5), LACKS, LACKS),
    ],
)
def test_what_a_receiver_has(here: Here, entry: File, told: int, asked: int) -> None:
    assert states(here.survey(may_ask=False), entry) == [told]
    assert states(here.survey(), entry) == [asked]


@pytest.mark.parametrize("task", [WRITE, DRY_RUN, VERIFY])
def test_contents_are_compared_where_that_is_wanted(here: Here, task: int) -> None:
    for may_ask in (False, True):
        survey = here.survey(may_ask=may_ask, task=task, compare_content=task != VERIFY)
        assert states(survey, File(b"file", meta(), 5), File(b"file", TOUCHED, 5)) == [DOUBT, DOUBT]
        assert states(survey, File(b"file", meta(), 6)) == [LACKS]


def test_a_dry_run_takes_size_and_time_for_contents(here: Here) -> None:
    assert states(here.survey(task=DRY_RUN), File(b"file", TOUCHED, 5)) == [LACKS]


def test_where_a_link_or_special_file_is_contents_are_lacking(here: Here) -> None:
    (here.path / "link").symlink_to("file")
    os.mkfifo(here.path / "pipe")  # which nobody waits for
    entries = [File(name, TOUCHED, 5) for name in (b"link", b"pipe")]
    assert states(here.survey(compare_content=True), *entries) == [LACKS] * 2


@pytest.mark.parametrize(("task", "state"), [(WRITE, UNKNOWN), (VERIFY, LACKS), (DRY_RUN, LACKS)])
def test_for_a_directory_in_the_way_no_contents_are_asked(here: Here, task: int, state: int) -> None:
    (here.path / "dir").mkdir()
    survey = here.survey(task=task)
    findings = survey.look([File(b"dir", meta(), 5)])
    assert findings[0].state == state
    assert survey.answer(0, 0, findings).lacks == 0


def test_the_source_itself_is_known_before_anything_else(here: Here) -> None:
    own = (here.path / "file").stat().st_ino
    survey = here.survey(is_source=lambda meta, status: status.st_ino == own)
    assert states(survey, File(b"file", OTHER_MODE, 77), File(b"none", meta(), 5)) == [OWN, LACKS]


@pytest.mark.parametrize("target", [".", "nowhere"])
def test_below_a_link_nothing_is_looked_at(here: Here, target: str) -> None:
    (here.path / "d").symlink_to(target)
    survey = here.survey()
    [found] = survey.look([File(b"d/file", meta(), 5)]).values()
    assert (found.state, found.why) == (
        UNKNOWN,
        "d is a symbolic link (none is followed) here, not a directory",
    )


def test_below_a_directory_of_the_stream_that_is_something_else_nothing_is_needed(here: Here) -> None:
    (here.path / "link").symlink_to(".")
    entries = (
        Directory(b"file", meta()),
        File(b"file/f", meta(), 5),
        Directory(b"link", meta()),
        File(b"link/file", meta(), 5),
    )
    assert states(here.survey(), *entries) == [UNKNOWN, UNKNOWN]
    assert states(here.survey(task=VERIFY), *entries) == [LACKS, LACKS]


def test_what_the_system_refuses_is_unknown_with_its_reason(here: Here) -> None:
    name = b"n" * 300
    [found] = here.survey().look([File(name, meta(), 5)]).values()
    assert (found.state, found.why) == (UNKNOWN, "the name is too long for this file system; shorten it")


@pytest.mark.root
@pytest.mark.parametrize("name", [b"file", b"none"])
def test_an_owner_who_is_refused_is_refused_before_contents_are_sent(here: Here, name: bytes) -> None:
    refused = Meta(0o644, 1, 0, MTIME_NS, b"no such user", b"")
    survey = here.survey()
    findings = survey.look([File(name, refused, 5)])
    assert findings[0].state == UNKNOWN
    assert findings[0].why.startswith("its owner no such user")
    answer = survey.answer(0, 0, findings)
    assert (answer.lacks, answer.doubts) == (0, 0)


@pytest.mark.parametrize(
    ("content", "known", "state"),
    [
        (b"12345", meta(), RIGHT),
        (b"12345", TOUCHED, ATTRIBUTES),
        (b"12345", OTHER_MODE, ATTRIBUTES),
        (b"54321", meta(), LACKS),
        (b"54321", TOUCHED, LACKS),
    ],
)
def test_a_doubt_is_settled_by_a_digest(here: Here, content: bytes, known: Meta, state: int) -> None:
    survey = here.survey(compare_content=True)
    entries = [Symlink(b"a", meta(), b"x"), File(b"file", known, 5)]
    findings = survey.look(entries)
    asked = survey.answer(3, 0, findings)
    assert (asked.number, asked.phase, asked.lacks, asked.doubts) == (3, 0, 0, 0b10)
    survey.compare(entries, findings, {1: digest(content)})
    assert (findings[1].state, findings[1].is_other) == (state, state == LACKS)
    settled = survey.answer(3, 1, findings)
    assert (settled.phase, settled.lacks, settled.doubts) == (1, 0b10 * (state == LACKS), 0)


@pytest.mark.parametrize(("task", "state"), [(WRITE, LACKS), (DRY_RUN, DOUBT), (VERIFY, DOUBT)])
def test_without_a_digest_contents_are_wanted_only_to_be_written(here: Here, task: int, state: int) -> None:
    survey = here.survey(task=task, compare_content=True)
    entries = [File(b"file", meta(), 5)]
    findings = survey.look(entries)
    survey.compare(entries, findings, {})
    assert findings[0].state == state
    assert survey.answer(0, 1, findings).lacks == (task == WRITE)


@pytest.mark.parametrize("task", [DRY_RUN, VERIFY])
def test_where_nothing_is_written_nothing_is_lacking(here: Here, task: int) -> None:
    survey = here.survey(task=task)
    answer = survey.answer(0, 0, survey.look([File(b"none", meta(), 5), File(b"file", meta(), 6)]))
    assert (answer.lacks, answer.doubts) == (0, 0)


def test_the_indexes_of_an_answer_are_those_in_the_list(here: Here) -> None:
    entries = [
        Directory(b"d", meta(0o755)),
        File(b"d/none", meta(), 5),
        File(b"file", meta(), 5),
        Symlink(b"link", meta(), b"x"),
        File(b"none", meta(), 0),
    ]
    survey = here.survey()
    findings = survey.look(entries)
    assert list(findings) == [1, 2, 4]
    assert survey.answer(7, 0, findings).words() == "7.0 12 0"


def test_a_survey_changes_nothing_and_steps_for_each_entry(here: Here) -> None:
    before = (here.path / "file").stat()
    entries = [Directory(b"a", meta()), File(b"a/b", meta(), 1), File(b"file", OTHER_MODE, 5)]
    here.survey(make_parents=True).look(entries)
    after = (here.path / "file").stat()
    assert os.listdir(here.path) == ["file"]
    assert (after.st_mode, after.st_ctime_ns) == (before.st_mode, before.st_ctime_ns)
    assert here.steps >= 3


def test_an_error_of_a_step_passes_through_while_a_file_is_read(here: Here) -> None:
    class EndedError(Exception):
        pass

    def end() -> None:
        raise EndedError

    survey = here.survey(compare_content=True)
    survey._on_step = end
    before = open_now()
    with pytest.raises(EndedError):
        survey.look([File(b"file", meta(), 5)])
    assert open_now() == before
