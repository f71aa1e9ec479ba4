"""The job blob: what goes in comes out, and nothing else is taken for a job."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gexec import limits
from gexec.errors import ProtocolError, UsageError
from gexec.wire import jobspec
from gexec.wire import outcome as outcomes
from gexec.wire.jobspec import JobSpec
from gexec.wire.record import field_names


def job(**changed: Any) -> JobSpec:
    fields: dict[str, Any] = {
        "names": [b"node001", b"node002"],
        "addresses": [b"127.0.0.1:2875", b"[::1]:2875"],
        "program": b"/bin/echo",
        "argv": [b"echo", b"hello"],
        "env": [b"PATH=/bin", b"EMPTY="],
    }
    return JobSpec(**(fields | changed))


def fields_of(spec: JobSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in field_names(JobSpec)}


GOLDEN = (
    "47584a31"  # GXJ1
    "00000020 00000004 0010 0012 00001388 00000000 00001388 00100000 0102030405060708"
    "0000000f 6e6f6465303031 00 6e6f6465303032"
    "00000019 3132372e302e302e313a32383735 00 5b3a3a315d3a32383735"
    "00000009 2f62696e2f6563686f"
    "0000000a 6563686f 00 68656c6c6f"
    "00000010 504154483d2f62696e 00 454d5054593d"
    "00000004 2f746d70"
)


def test_bytes_of_a_job() -> None:
    spec = job(cwd=b"/tmp", flags=jobspec.NO_STDIN, salt=0x0102030405060708)
    blob = spec.encode()
    assert blob == bytes.fromhex(GOLDEN)
    assert fields_of(JobSpec.decode(blob)) == fields_of(spec)
    assert spec.ranks == 2


def test_bytes_of_a_job_with_a_stall_time() -> None:
    spec = job(cwd=b"/tmp", flags=jobspec.NO_STDIN, salt=0x0102030405060708, stall_s=30.0)
    golden = bytes.fromhex(GOLDEN)
    options = golden[8:40] + bytes.fromhex("00007530")
    assert spec.encode() == b"GXJ2" + (36).to_bytes(4) + options + golden[40:]
    assert fields_of(JobSpec.decode(spec.encode())) == fields_of(spec)


def test_a_form_that_is_not_known_here_is_refused_with_what_to_do() -> None:
    with pytest.raises(ProtocolError, match=r"form 4: this gexecd reads the forms 1 to 3; install"):
        JobSpec.decode(b"GXJ4" + job().encode()[4:])
    with pytest.raises(ProtocolError, match="options of the wrong size"):
        JobSpec.decode(b"GXJ2" + job().encode()[4:])
    blob = job(stall_s=1.0).encode()
    with pytest.raises(ProtocolError, match="without a stall time has the first form"):
        JobSpec.decode(blob.replace((1000).to_bytes(4), bytes(4)))


names = st.binary(min_size=1, max_size=20).map(lambda raw: bytes(33 + byte % 94 for byte in raw))
words = st.binary(max_size=30).map(lambda raw: raw.replace(b"\0", b"0"))
times = st.integers(0, 4_000_000_000).map(lambda milliseconds: milliseconds / 1000)


ADDRESSES = [
    b"",
    b"?",
    b"?30",
    b"10.0.0.1:1",
    b"10.0.0.1:1,[fe80::1%eth0]:1",
    b",".join([b"[::1]:65535"] * 8),
]


@st.composite
def jobs(draw: Any) -> JobSpec:
    hosts = draw(st.lists(st.tuples(names, st.sampled_from(ADDRESSES)), min_size=1, max_size=9))
    return JobSpec(
        names=[name for name, _ in hosts],
        addresses=[address for _, address in hosts],
        program=b"/" + draw(words),
        argv=[b"name" + draw(words), *draw(st.lists(words, max_size=5))],
        env=draw(st.lists(st.builds(lambda value: b"N=" + value, words), max_size=6)),
        cwd=b"/" + draw(words),
        flags=draw(st.integers(0, 31)),
        fanout=draw(st.integers(limits.FANOUT_MIN, limits.FANOUT_MAX)),
        umask=draw(st.integers(0, 0o777)),
        connect_timeout_s=draw(times),
        timeout_s=draw(times),
        kill_grace_s=draw(st.floats(0, limits.KILL_GRACE_MAX_S).map(lambda s: round(s, 3))),
        stall_s=draw(st.sampled_from([0.0, 1.0, 30.0, 86400.0])),
        window=draw(st.integers(limits.WINDOW_MIN_BYTES, limits.WINDOW_MAX_BYTES)),
        salt=draw(st.integers(0, 2**64 - 1)),
    )


@given(jobs())
def test_encode_and_decode_are_inverse(spec: JobSpec) -> None:
    blob = spec.encode()
    again = JobSpec.decode(blob)
    assert fields_of(again) == fields_of(spec)
    assert again.encode() == blob


@given(st.binary(max_size=300))
def test_garbage_is_a_protocol_error(raw: bytes) -> None:
    for blob in (raw, jobspec.MAGIC + raw):
        with pytest.raises(ProtocolError):
            JobSpec.decode(blob)


def test_a_blob_cut_short_or_lengthened_is_refused() -> None:
    blob = job().encode()
    for length in range(len(blob)):
        with pytest.raises(ProtocolError):
            JobSpec.decode(blob[:length])
    with pytest.raises(ProtocolError, match="after its end"):
        JobSpec.decode(blob + b"\0")


def test_a_changed_byte_is_refused_or_another_job() -> None:
    blob = job().encode()
    for position in range(len(blob)):
        altered = bytearray(blob)
        altered[position] ^= 0xFF
        try:
            changed = JobSpec.decode(bytes(altered))
        except ProtocolError:
            continue
        assert fields_of(changed) != fields_of(job())


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"names": [], "addresses": []}, "0 nodes: a job has 1 to 65536"),
    ({"names": [b"n"] * 65537, "addresses": [b""] * 65537}, "65537 nodes"),
    ({"addresses": [b""]}, "1 addresses for 2 nodes"),
    ({"names": [b"a", b""]}, "node name ''"),
    ({"names": [b"a", b"b" * 256]}, "node name 'bbb"),
    ({"addresses": [b"", b"1" * 80]}, "expected ip:port"),
    ({"addresses": [b"", b"1.2.3.4 :1"]}, "expected ip:port"),
    ({"addresses": [b"", b"1.2.3.4:1,"]}, "expected ip:port"),
    ({"addresses": [b"", b"1.2.3.4:1," + b"1" * 80]}, "expected ip:port"),
    ({"addresses": [b"", b",".join([b"1.2.3.4:1"] * 9)]}, "9 addresses of a node: at most 8"),
    ({"program": b""}, "the program's path"),
    ({"program": b"echo"}, "expected an absolute path"),
    ({"argv": []}, "the argument list is empty"),
    ({"argv": [b""]}, "the program's name, is empty"),
    ({"cwd": b"tmp"}, "expected an absolute path without NUL"),
    ({"cwd": b"/" + b"d" * 4095}, "has 4096 bytes: a path has at most 4095 bytes"),
    ({"cwd": b"/" * 3_000_219}, "has 3000219 bytes: a path has at most 4095 bytes"),
    ({"program": b"/" + b"p" * 4095}, "has 4096 bytes: a path has at most 4095 bytes"),
    ({"env": [b"NOVALUE"]}, "expected NAME=value"),
    ({"env": [b"=x"]}, "expected NAME=value"),
    ({"env": [b""]}, "expected NAME=value"),
    ({"argv": [b"x" * (limits.ARG_MAX_BYTES + 1)]}, "the kernel takes at most 131071"),
    ({"argv": [b"x" * 100_000] * 11}, "put large data into a file or into stdin"),
    ({"flags": 32}, "flags 0x20"),
    ({"flags": -1}, "flags"),
    ({"umask": 0o1000}, "umask 1000"),
    ({"umask": -1}, "umask"),
    ({"connect_timeout_s": -1.0}, "connect timeout -1.0"),
    ({"timeout_s": math.inf}, "timeout inf"),
    ({"kill_grace_s": math.nan}, "kill grace nan"),
    ({"kill_grace_s": 60.5}, "kill grace 60.5: expected 0 to 60 seconds"),
    ({"stall_s": 0.5}, "stall time 0.5"),
    ({"stall_s": -1.0}, "stall time -1"),
    ({"stall_s": 1e6}, "1 to 86400 seconds"),
    ({"stall_s": math.nan}, "stall time nan"),
    ({"window": 1}, "window 1"),
    ({"window": 2**31}, "window"),
    ({"names": [b"n"] * 4096, "addresses": [b""] * 4096, "window": 16385}, "expected 16384 to 16384"),
    ({"salt": 2**64}, "salt"),
]


def test_why_a_rank_has_no_address() -> None:
    assert outcomes.why_unresolved(b"") == "the name does not resolve"
    assert outcomes.why_unresolved(b"?30") == "the name did not resolve within 30 s"
    for entry in (b"?", b"?x", b"?" + b"9" * 5000, b"?\xff"):
        assert outcomes.why_unresolved(entry).endswith("its name server does not answer")
    assert outcomes.why_unresolved(b"10.0.0.1:1,10.0.0.2:1") == ""


@pytest.mark.parametrize(("changed", "sentence"), WRONG, ids=[sentence for _, sentence in WRONG])
def test_a_job_that_cannot_be_says_why(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        job(**changed).encode()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", ["cwd", "program"])
def test_paths_that_no_kernel_takes_are_refused_by_nodes_too(what: str) -> None:
    short, long = b"/a-path-of-this-job", b"/" * 3_000_219
    blob = job(**{what: short}).encode()
    before, after = [len(path).to_bytes(4) + path for path in (short, long)]
    assert blob.count(before) == 1
    with pytest.raises(ProtocolError, match="a path has at most 4095 bytes"):
        JobSpec.decode(blob.replace(before, after))


@pytest.mark.parametrize("fanout", [0, -1, limits.FANOUT_MAX + 1, 10**9])
def test_attack_50_fan_out(fanout: int) -> None:
    with pytest.raises(UsageError, match="fan-out"):
        job(fanout=fanout).encode()


def test_attack_50_fan_out_on_the_wire() -> None:
    blob = bytearray(job().encode())
    for raw in (b"\0\0", b"\xff\xff"):
        blob[12:14] = raw
        with pytest.raises(ProtocolError, match="fan-out"):
            JobSpec.decode(bytes(blob))


@pytest.mark.parametrize("bad", [b"a\0b", b"a\nb", b"a b", b"a\x1bb", b"a\x7fb", b"\t"])
def test_attack_52_control_bytes_in_node_names(bad: bytes) -> None:
    with pytest.raises(UsageError, match="node name"):
        job(names=[b"good", bad]).encode()


@pytest.mark.parametrize("place", ["argv", "env", "program", "cwd"])
def test_attack_52_a_nul_byte_anywhere(place: str) -> None:
    value = b"/x=\0y"
    with pytest.raises(UsageError, match="NUL"):
        job(**{place: [value] if place in ("argv", "env") else value}).encode()


def test_attack_52_newlines_and_bytes_that_are_no_text_pass_unchanged() -> None:
    odd = b"\xff\xfe\n\r\x1b[0m\x80"
    spec = job(argv=[odd, b""], env=[b"A=" + odd], cwd=b"/" + odd)
    again = JobSpec.decode(spec.encode())
    assert (again.argv, again.env, again.cwd) == (spec.argv, spec.env, spec.cwd)


def test_the_largest_job_fits_and_a_larger_blob_is_refused_unread() -> None:
    count = limits.RANKS_MAX
    spec = job(names=[b"node%05d" % i for i in range(count)], addresses=[b"10.0.0.1:2875"] * count)
    assert JobSpec.decode(spec.encode()).ranks == count
    with pytest.raises(UsageError, match="at most 4194304 can be sent"):
        job(names=[b"n" * 200] * count, addresses=[b""] * count).encode()
    with pytest.raises(ProtocolError, match="over the limit"):
        JobSpec.decode(jobspec.MAGIC + bytes(limits.JOB_BLOB_MAX_BYTES))


def test_names_are_kept_to_the_letter() -> None:
    letters = [b"node01", b"node1", b"NODE1", b"node1", "knöten".encode()]
    again = JobSpec.decode(job(names=letters, addresses=[b""] * 5).encode())
    assert again.names == letters


def test_remote_path_takes_a_bare_name() -> None:
    assert JobSpec.decode(job(program=b"echo", flags=jobspec.REMOTE_PATH).encode()).program == b"echo"


@pytest.mark.parametrize("count", [1, 2, 3, 8, 101])
def test_one_entry_of_a_packed_list_is_that_of_the_list(count: int) -> None:
    entries = [b"" if index % 5 == 4 else b"n%d" % index for index in range(count)]
    packed = jobspec.PackedList(b"\0".join(entries))
    for index in [*range(count), *reversed(range(count))]:
        assert packed[index] == entries[index]
    for outside in (-1, count):
        with pytest.raises(IndexError):
            packed[outside]


def test_a_list_of_which_many_entries_are_needed_is_not_searched_each_time() -> None:
    """The root of a job whose nodes do not answer needs every name: that took it minutes, and all users."""
    entries = [b"node%d" % number for number in range(65_536)]
    packed = jobspec.PackedList(b"\0".join(entries))
    assert [packed[number] for number in range(len(packed))] == entries
    assert packed._entries is not None
