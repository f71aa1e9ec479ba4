"""The background part of a job blob: what goes in comes out, and nothing else is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_jobspec import job

from gexec import limits
from gexec.errors import ProtocolError, UsageError
from gexec.wire import jobspec
from gexec.wire.background import Background
from gexec.wire.jobspec import JobSpec
from gexec.wire.launches import Keeping, LaunchSpec


def fields_of(background: Background) -> tuple[bytes, int, float, bool]:
    return background.name, background.keep_bytes, background.lease_s, background.holds


@given(
    st.from_regex(rb"([A-Za-z0-9_][A-Za-z0-9_.+@:-]{0,63})?", fullmatch=True),
    st.integers(limits.KEEP_MIN_BYTES, limits.KEEP_MAX_BYTES),
    st.integers(1, int(limits.LEASE_MAX_S)),
    st.booleans(),
)
def test_what_goes_in_comes_out(name: bytes, keep: int, lease_s: int, holds: bool) -> None:
    background = Background(name, keep, lease_s, holds)
    assert fields_of(Background.decode(background.encode())) == fields_of(background)


@pytest.mark.parametrize(
    "name", [b"-x", b".x", b"a b", b"a/b", b"x" * 65, b"\xff", b"a\0", b"a\n", "\u00e4".encode(), b"*"]
)
def test_strange_names_are_refused(name: bytes) -> None:
    with pytest.raises(UsageError, match="letters, digits"):
        Background(name).encode()


@pytest.mark.parametrize(("keep", "lease_s"), [(0, 1), (65535, 1), (2**41, 1), (65536, 0), (65536, 3e6)])
def test_values_have_bounds(keep: int, lease_s: float) -> None:
    with pytest.raises(UsageError):
        Background(b"", keep, lease_s).encode()


@given(st.binary(max_size=100))
def test_anything_else_is_refused(raw: bytes) -> None:
    try:
        assert Background.decode(raw).encode() == raw
    except ProtocolError:
        pass


def test_bytes_of_a_background_job() -> None:
    background = Background(b"build", 65536, 60.0, True).encode()
    assert background == bytes.fromhex("01 0000000000010000 0000003c") + b"build"
    spec = job(flags=jobspec.DETACHED | jobspec.NO_STDIN, background=background)
    blob = spec.encode()
    assert blob.startswith(b"GXJ3" + (32 + 18).to_bytes(4))
    assert JobSpec.decode(blob).background == background


def test_only_detached_jobs_without_stall_time_are_kept() -> None:
    background = Background().encode()
    for changed in ({"flags": 0}, {"flags": jobspec.DETACHED, "stall_s": 5.0}):
        with pytest.raises(UsageError, match="only a detached job"):
            job(background=background, **changed).encode()
    with pytest.raises(UsageError, match="over the limit"):
        job(flags=jobspec.DETACHED, background=b"x" * 200).encode()
    with pytest.raises(ProtocolError, match="wrong size"):
        JobSpec.decode(b"GXJ3" + job().encode()[4:])


def test_a_launch_has_what_its_keeper_needs() -> None:
    keeping = Keeping("/spool", 1, 2, "n", 3, 4.0, False, 0.0, "node\udcff", 5, "ann")
    spec = LaunchSpec(b"/p", [b"p"], [b"A=b"], b"/", 0o22, False, 5.0, b"j" * 16, 1, True, keeping)
    assert LaunchSpec.unpack(spec.pack()) == spec
    with pytest.raises(ProtocolError, match="malformed"):
        Keeping.decode(b"{}")
