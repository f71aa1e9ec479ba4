"""The failures of a whole request, as exceptions with one clear sentence each.

The failure of one node is never an exception: it is an :class:`gexec.wire.outcome.Outcome`.

    GexecError
    +-- UsageError           the caller's arguments or files are wrong; exit status 2
    +-- ConfigError          a configuration file or setting is wrong
    +-- KeyFileError         a key file has the wrong owner, mode, size or kind
    +-- AuthError            authd refused, or does not answer
    +-- CredentialError      a credential is not acceptable (carries a code)
    +-- DaemonError          the local gexecd refused, or does not answer
    +-- ProtocolError        a peer violated the protocol (docs/protocol.md)

Imports nothing: every layer, including the thin client, may use it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class GexecError(Exception):
    """A failure of the whole request. ``str(error)`` is one sentence for a person."""


class UsageError(GexecError):
    """The request itself is wrong (an option, a value, an environment variable, a name).

    ``sentence`` says what is wrong; each of ``details`` is a line below it.
    """

    def __init__(self, sentence: str, details: Iterable[str] = ()) -> None:
        self.sentence = sentence
        self.details = tuple(details)
        super().__init__("\n  ".join([sentence, *self.details]))


class ConfigError(GexecError):
    """A configuration file or setting is wrong; the sentence names it."""


class KeyFileError(GexecError):
    """A key file has the wrong owner, mode, size or kind; the sentence says what to do."""


class AuthError(GexecError):
    """authd refused to sign, or does not answer."""


class CredentialError(GexecError):
    """A credential is refused. ``code`` is one short word for logs and tests, e.g. ``expired``."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class DaemonError(GexecError):
    """The local gexecd refused the job, or does not answer."""


class ProtocolError(GexecError):
    """The peer violated the protocol: the connection must be closed."""
