"""Every kept input of the fuzzer: what once reached new code, and what once was a finding."""

from __future__ import annotations

import pytest

from gexec import native
from laboratory.fuzz.run import CORPORA, main
from laboratory.fuzz.targets import TARGETS

#: A part of each target's parser.
PARSERS = {
    "frames": ["gexec.wire.frames.Hello.unpack"],
    "jobspec": ["gexec.wire.jobspec.JobSpec.check"],
    "credential": ["gexec.security.credential._parsed"],
    "gmond": ["gexec.select.ganglia._Document._finish"],
    "authd": ["gexec.wire.frames.Certify.unpack"],
    "channel": ["gexec.wire.messages.decode"],
    "archive": ["gexec.files.decoder.unpacked_list"],
}


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_kept_inputs_find_nothing(name: str) -> None:
    inputs = [path.read_bytes() for path in sorted((CORPORA / name).iterdir())]
    assert len(inputs) > 3, f"no kept inputs of {name}"
    for data in [*inputs, *TARGETS[name].seeds(), b""]:
        TARGETS[name].run(data)


def test_each_target_has_kept_inputs_and_the_other_way_round() -> None:
    assert sorted(TARGETS) == sorted(path.name for path in CORPORA.iterdir())


@pytest.mark.parametrize("name", ["frames", "jobspec", "credential", "gmond", "authd", "channel", "archive"])
def test_a_target_raises_what_its_parser_does_not_handle(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that swallowed everything would find nothing."""

    def broken(*arguments: object, **options: object) -> object:
        raise ZeroDivisionError("a defect")

    if name in ("jobspec", "credential") and native.in_use():
        pytest.skip("compiled code takes no stand-in for a part of its parser")
    seeds = TARGETS[name].seeds()
    for where in PARSERS[name]:
        monkeypatch.setattr(where, broken)
    found = []
    for data in seeds:
        try:
            TARGETS[name].run(data)
        except ZeroDivisionError as defect:
            found.append(defect)
    assert found


def test_an_unknown_target_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["frame"])
    assert ended.value.code == 2
    assert "there is no target frame: choose from archive, authd" in capsys.readouterr().err
