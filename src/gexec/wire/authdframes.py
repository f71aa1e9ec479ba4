"""Frames to and from authd. wire/frames.py exports them, and lists which side may send them."""

from __future__ import annotations

from gexec import limits
from gexec.errors import ProtocolError
from gexec.wire.codec import U16, Frame, unpack_sized, unpack_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class Sign(Frame):
    """To authd: sign a credential for ``audience`` that is bound to ``blob``."""

    TYPE: ClassVar[int] = 64
    MAX_BYTES: ClassVar[int] = limits.JOB_FRAME_MAX_BYTES
    __slots__ = ("audience", "blob")

    def __init__(self, audience: bytes, blob: bytes) -> None:
        self.audience = audience
        self.blob = blob

    def pack(self) -> bytes:
        return bytes((len(self.audience),)) + self.audience + self.blob

    @classmethod
    def unpack(cls, payload: bytes) -> Sign:
        length = payload[0] if payload else 0
        if not 1 <= length < len(payload) or length > 64:
            raise ProtocolError("Sign: the audience is empty, too long or cut short")
        return cls(payload[1 : 1 + length], payload[1 + length :])


class Signed(Frame):
    """authd's answer to Sign: the credential."""

    TYPE: ClassVar[int] = 65
    MAX_BYTES: ClassVar[int] = limits.CREDENTIAL_MAX_BYTES
    __slots__ = ("credential",)

    def __init__(self, credential: bytes) -> None:
        self.credential = credential

    def pack(self) -> bytes:
        return self.credential

    @classmethod
    def unpack(cls, payload: bytes) -> Signed:
        return cls(payload)


class Certify(Frame):
    """gexecd to authd: a certificate for this public key (DER) and these names and addresses."""

    TYPE: ClassVar[int] = 66
    MAX_BYTES: ClassVar[int] = 32 * 1024
    __slots__ = ("names", "public_key")

    def __init__(self, public_key: bytes, names: tuple[str, ...]) -> None:
        self.public_key = public_key
        self.names = names

    def pack(self) -> bytes:
        names = "\0".join(self.names).encode()
        return U16.pack(len(self.public_key)) + self.public_key + names

    @classmethod
    def unpack(cls, payload: bytes) -> Certify:
        public_key, rest = unpack_sized(payload, 0, 2048, "public key")
        names = tuple(unpack_text(rest).split("\0"))
        if not rest or len(names) > 256:
            raise ProtocolError(f"Certify: {len(names)} names: expected 1 to 256")
        return cls(public_key, names)


class Certified(Frame):
    """authd's answer to Certify: the leaf certificate and the cluster's CA certificate, both in DER."""

    TYPE: ClassVar[int] = 67
    MAX_BYTES: ClassVar[int] = 32 * 1024
    __slots__ = ("authority", "certificate")

    def __init__(self, certificate: bytes, authority: bytes) -> None:
        self.certificate = certificate
        self.authority = authority

    def pack(self) -> bytes:
        return U16.pack(len(self.certificate)) + self.certificate + self.authority

    @classmethod
    def unpack(cls, payload: bytes) -> Certified:
        certificate, authority = unpack_sized(payload, 0, cls.MAX_BYTES, "certificate")
        if not authority:
            raise ProtocolError("Certified is cut short")
        return cls(certificate, authority)
