"""Targets of pure parsers: frames, job blobs, credentials, gmond's XML."""

from __future__ import annotations

from typing import Final

from gexec.errors import CredentialError, ProtocolError
from gexec.security import credential as credentials
from gexec.select import ganglia
from gexec.wire import frames
from gexec.wire.codec import Decoder, encode
from gexec.wire.jobspec import JobSpec
from laboratory.fuzz.keypair import KEY, KEYS

_FRAME_TABLES: Final = (
    frames.FROM_PARENT,
    frames.FROM_CLIENT,
    frames.FROM_CHILD,
    frames.FROM_ROOT,
    frames.TO_AUTHD,
    frames.FROM_AUTHD,
)


def check_sentence(error: Exception) -> None:
    """Check what a refusal says: one bounded line."""
    text = str(error)
    assert 0 < len(text) < 2000
    assert "\n" not in text


# -- frames ------------------------------------------------------------------------------------


def fuzz_frames(data: bytes) -> None:
    """Byte 0: who sends; byte 1: the size of the pieces; the rest: what is sent."""
    if len(data) < 2:
        return
    table = _FRAME_TABLES[data[0] % len(_FRAME_TABLES)]
    step = data[1] * 8 or 1
    decoder = Decoder(table)
    try:
        for begin in range(2, len(data), step):
            for channel, frame in decoder.feed(data[begin : begin + step]):
                again = encode(channel, frame)
                ((_, same),) = Decoder(table).feed(again)
                assert encode(channel, same) == again, f"{type(frame).__name__} is read as something else"
    except ProtocolError:
        return
    assert decoder.buffered < len(data)


def frame_seeds() -> list[bytes]:
    job = job_of().encode()
    said: list[tuple[int, list[frames.Frame]]] = [
        (0, [frames.Hello(1, "gexec 1"), frames.Start(1, 0, 3, b"credential", job), frames.Stdin(0, b"abc")]),
        (0, [frames.Resync(3), frames.Signal(15), frames.Ack(((1, 1, 9),)), frames.Kill(True), frames.Go()]),
        (0, [frames.Close(), frames.Release(), frames.Ping(1), frames.Goodbye("end")]),
        (1, [frames.Submit(b"credential", job), frames.Stdin(3, b"", eof=True)]),
        (
            2,
            [
                frames.Accepted(bytes(16)),
                frames.Refused(2, "no", 6),
                frames.RanksStarted(((0, 3),)),
                frames.NotResponding(((1, 2),)),
            ],
        ),
        (2, [frames.Ready(((0, 1), (4, 6))), frames.Output(((0, 2),), 1, 0, b"a\n"), frames.StdinTaken(4)]),
        (3, [frames.Done(), frames.Pong(7)]),
        (4, [frames.Sign(b"gexec", job), frames.Certify(b"key", ("node1", "10.0.0.1"))]),
        (5, [frames.Signed(b"credential"), frames.Certified(b"leaf", b"authority")]),
    ]
    return [
        bytes((number, 200)) + b"".join([encode(number % 2, frame) for frame in sent])
        for number, sent in said
    ]


# -- job blobs ---------------------------------------------------------------------------------


def job_of(**options: float) -> JobSpec:
    return JobSpec(
        names=[b"node1", b"node2"],
        addresses=[b"10.0.0.1:2875", b"[fe80::1%eth0]:2875,10.0.0.2:2875"],
        program=b"/bin/echo",
        argv=[b"echo", b"one", b""],
        env=[b"PATH=/bin", b"A="],
        **options,  # type: ignore[arg-type]
    )


def fuzz_jobspec(data: bytes) -> None:
    try:
        job = JobSpec.decode(data)
    except ProtocolError:
        job = None
    try:
        packed = JobSpec.decode(data, words=False)
    except ProtocolError:
        assert job is None, "what the spawner accepts, the relay refuses"
        return
    assert packed.ranks >= 1
    if job is not None:
        assert job.encode() == data, "a job has a second form"


def job_seeds() -> list[bytes]:
    return [job_of().encode(), job_of(stall_s=30.0, timeout_s=1.5, flags=20).encode()]


# -- credentials -------------------------------------------------------------------------------


def fuzz_credential(data: bytes) -> None:
    """Byte 0: the bytes are a credential, or a body that is signed here."""
    raw = data[1:]
    if data[:1] == b"\1":
        signed = credentials.HEAD.pack(credentials.MAGIC, KEY.key_id, KEY.algorithm, len(raw)) + raw
        raw = signed + KEY.sign(credentials.DOMAIN + signed)
    try:
        found = credentials.verify(raw, KEYS, realm="gexec", audience="gexec", now_s=1_000_000.0)
    except CredentialError as refused:
        check_sentence(refused)
        return
    assert data[:1] == b"\1", "bytes without a signature of the key are accepted"
    assert found.realm == found.audience == "gexec"
    assert -30 <= 1_000_000.0 - found.issued_s <= found.ttl_s + 30


def _body(*texts: bytes) -> bytes:
    body = credentials.BODY.pack(10**12, 6 * 10**7, 1000, 1000, bytes(16), bytes(32))
    return body + b"".join([bytes((len(text),)) + text for text in texts])


def credential_seeds() -> list[bytes]:
    body = _body(b"gexec", b"gexec", b"node1", b"ann")
    signed = credentials.HEAD.pack(credentials.MAGIC, KEY.key_id, KEY.algorithm, len(body)) + body
    return [b"\1" + body, b"\0" + signed + bytes(64), b"\1" + _body(b"\xff", b"", b"x" * 255, b"ann")]


# -- gmond's XML -------------------------------------------------------------------------------


def fuzz_gmond(data: bytes) -> None:
    """Byte 0: the size of the pieces."""
    step = (data[0] if data else 0) * 16 or 1
    try:
        hosts = ganglia.parse(data[begin : begin + step] for begin in range(1, len(data), step))
    except ganglia.AnswerError as error:
        check_sentence(error)
        return
    for host in hosts.hosts:
        assert ganglia.is_name(host.name)
        assert ganglia.is_address(host.address)
    assert len(hosts.usable()) <= hosts.entries
    assert hosts.lack()
    assert isinstance(ganglia.down(hosts.hosts), set)


def gmond_seeds() -> list[bytes]:
    metric = '<METRIC NAME="{}" VAL="{}" TYPE="float" UNITS="" TN="9" TMAX="70"/>'
    told = "".join(
        [metric.format(name, value) for name, value in (("load_one", 0.5), ("cpu_num", 2), ("gexec", "ON"))]
    )
    hosts = "".join(
        [
            f'<HOST NAME="node{n}" IP="10.0.0.{n}" REPORTED="1" TN="{n}" TMAX="20">{told}</HOST>'
            for n in range(3)
        ]
    )
    cluster = f'<CLUSTER NAME="c" LOCALTIME="9" OWNER="" URL="">{hosts}</CLUSTER>'
    head = b'<?xml version="1.0" encoding="ISO-8859-1" standalone="yes"?>'
    return [
        b"\x40" + head + f'<GANGLIA_XML VERSION="3" SOURCE="gmond">{cluster}</GANGLIA_XML>'.encode(),
        b"\x40" + f'<GANGLIA_XML SOURCE="gmetad"><GRID NAME="g">{cluster}</GRID></GANGLIA_XML>'.encode(),
        b'\1<!DOCTYPE x [<!ELEMENT GRID ANY><!ENTITY a "b">]><GANGLIA_XML>&a;</GANGLIA_XML>',
    ]
