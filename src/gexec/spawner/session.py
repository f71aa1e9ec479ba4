"""A PAM session: the process that checks the account, opens the session, and is the helper's parent.

The starter forks it for a user if the policy names a PAM service. It stays root, because a session is closed
as root, and it reads nothing that its user can write. Limits, keyring and namespaces that modules set are the
helper's by inheritance.
"""

from __future__ import annotations

import os
import signal
from typing import Final, NoReturn

from gexec import limits
from gexec.posix import identity, session
from gexec.posix.pam import Pam, PamError
from gexec.spawner.helper import be_helper
from gexec.wire.launches import DENIED_MARK, Becoming

#: SIGCONT and SIGTERM of the starter are for the helper; SIGTERM stands for SIGKILL.
SIGNALS: Final = (signal.SIGCHLD, signal.SIGCONT, signal.SIGTERM)


def be_session(fd: int, becoming: Becoming, why_fd: int, cells_fd: int) -> NoReturn:
    """Run a session and its helper in a process that was just forked; never returns.

    The caller has blocked ``SIGNALS``.

    Args:
        fd, why_fd, cells_fd: as for ``be_helper``; a refusal of PAM begins with DENIED_MARK in ``why_fd``.
    """
    status = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for signum in (signal.SIGHUP, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)
        identity.close_inherited([each for each in (fd, why_fd, cells_fd) if each >= 0])
        identity.null_stdio()
        os.chdir("/")
        os.umask(0o077)
        identity.forbid_tracing()
        identity.set_title("gexecd-session")
        os.setsid()
        session.leave_keyring()
        status = _serve(fd, becoming, why_fd, cells_fd)
    except OSError as error:
        os.write(why_fd, (error.strerror or str(error)).encode("utf-8", "backslashreplace"))
    finally:
        os._exit(status)


def _serve(fd: int, becoming: Becoming, why_fd: int, cells_fd: int) -> int:
    try:
        pam = Pam(becoming.pam, becoming.user)
        pam.check_account()
        pam.open_session()
    except PamError as refusal:
        os.write(why_fd, DENIED_MARK + str(refusal).encode("utf-8", "backslashreplace"))
        return 1
    env = {name: value for name, value in pam.environment().items() if not name.startswith(b"GEXEC_")}
    me = os.getpid()
    pid = os.fork()
    if pid == 0:
        be_helper(fd, becoming, why_fd, cells_fd, env, session_pid=me)
    for each in (fd, why_fd, cells_fd):
        if each >= 0:
            os.close(each)
    _wait(pid)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(limits.PAM_S))  # a module that does not answer is given up
    try:
        pam.close_session()
    except PamError:
        pass  # the helper has ended: nobody is left to whom it matters
    pam.end()
    return 0


def _wait(pid: int) -> None:
    """Return when the helper has ended; pass signals on to it."""
    while True:
        signum = signal.sigwait(SIGNALS)
        if signum == signal.SIGCONT:
            os.kill(pid, signal.SIGCONT)
        elif signum == signal.SIGTERM:
            os.kill(pid, signal.SIGKILL)
        while True:
            try:
                ended, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if ended == pid:
                return
            if ended == 0:
                break
