"""PAM's account check and session, by ctypes (why no library: docs/decisions/0024-becoming-the-user.md).

Modules of PAM may block, change limits and the environment of the process, and start threads: use it in a
process of its own.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

from gexec.posix.log import printable

_LIBRARY: Final = "libpam.so.0"
#: Where the files of services are: of the administrator, and of the distribution.
DIRECTORIES: Final = ("/etc/pam.d", "/usr/lib/pam.d", "/usr/etc/pam.d")
_SUCCESS: Final = 0
_BUF_ERR: Final = 5
_CONV_ERR: Final = 19
_TTY: Final = 3
_TEXTS: Final = (3, 4)  # PAM_ERROR_MSG, PAM_TEXT_INFO; the others are questions, which nobody can answer
#: Maximum of messages of modules that are kept, and of characters of each.
_MESSAGES_MAX: Final = 8
_MESSAGE_MAX: Final = 200


class PamError(Exception):
    """The account or its session was refused; the text is one sentence for the user."""


class _Message(ctypes.Structure):
    _fields_ = [("style", ctypes.c_int), ("text", ctypes.c_char_p)]


class _Response(ctypes.Structure):
    _fields_ = [("text", ctypes.c_void_p), ("code", ctypes.c_int)]


_CONVERSE: Final = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(ctypes.POINTER(_Message)),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)


class _Conversation(ctypes.Structure):
    _fields_ = [("converse", _CONVERSE), ("data", ctypes.c_void_p)]


class Pam:
    """One user's dealings with PAM.

    Args:
        service: the name of a file in /etc/pam.d.
        user: the login name.

    Raises:
        PamError: PAM cannot be used here.
    """

    def __init__(self, service: str, user: str) -> None:
        self._about = f"PAM of this node (service {service}) refuses {user}"
        self._messages: list[str] = []
        self._handle = ctypes.c_void_p()
        try:
            self._library: Any = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise PamError(f"{self._about}: {_LIBRARY} cannot be loaded: {error}") from error
        self._library.pam_strerror.restype = ctypes.c_char_p
        self._library.pam_getenvlist.restype = ctypes.POINTER(ctypes.c_char_p)
        self._calloc: Any = ctypes.CDLL(None).calloc
        self._calloc.restype = ctypes.c_void_p
        self._conversation = _Conversation(_CONVERSE(self._converse), None)
        self._call("start", service.encode(), user.encode(), ctypes.byref(self._conversation),
                   ctypes.byref(self._handle), first=False)  # fmt: skip
        self._call("set_item", ctypes.c_int(_TTY), b"gexec")

    def check_account(self) -> None:
        """Check whether the account may be used now.

        Raises:
            PamError: it may not; the text has the reason, and what modules said.
        """
        self._call("acct_mgmt", ctypes.c_int(0))

    def open_session(self) -> None:
        """Open the session: modules set limits of this process, and variables for ``environment``.

        Raises:
            PamError: it cannot be opened.
        """
        self._call("open_session", ctypes.c_int(0))

    def environment(self) -> dict[bytes, bytes]:
        """Return the variables that modules have set for the session."""
        found: dict[bytes, bytes] = {}
        entries = self._library.pam_getenvlist(self._handle)
        index = 0
        while entries and entries[index]:
            name, _, value = entries[index].partition(b"=")
            found[name] = value
            index += 1
        return found

    def close_session(self) -> None:
        """Close the session.

        Raises:
            PamError: a module failed.
        """
        self._call("close_session", ctypes.c_int(0))

    def end(self) -> None:
        """Release what modules hold."""
        self._library.pam_end(self._handle, ctypes.c_int(_SUCCESS))

    def _call(self, name: str, *arguments: Any, first: bool = True) -> None:
        given = (self._handle, *arguments) if first else arguments
        code = getattr(self._library, f"pam_{name}")(*given)
        if code != _SUCCESS:
            why = self._library.pam_strerror(self._handle, ctypes.c_int(code)) or b""
            raise PamError(": ".join([self._about, _shown(why), *self._messages]))

    def _converse(self, count: int, messages: Any, responses: Any, data: Any) -> int:
        for index in range(count):
            message = messages[index].contents
            if message.style not in _TEXTS:
                return _CONV_ERR
            if message.text and len(self._messages) < _MESSAGES_MAX:
                self._messages.append(_shown(message.text))
        # PAM frees the answers, which are empty.
        responses[0] = self._calloc(ctypes.c_size_t(count), ctypes.c_size_t(ctypes.sizeof(_Response)))
        return _SUCCESS if responses[0] else _BUF_ERR


def _shown(text: bytes) -> str:
    return printable(text[: 4 * _MESSAGE_MAX].decode(errors="backslashreplace").strip()[:_MESSAGE_MAX])
