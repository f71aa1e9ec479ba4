"""The upgrades of one gexecd: when there is one, its steps, and the report about it.

    keys, policy and the code's digest are read ─► the new spawner's code is tried ─► the relay is upgraded
    (spawner.upgrading) ─► the spawner executes itself anew (spawner.again)

Every step before the last one leaves the running code as it was if it fails. Source:
docs/decisions/0030-upgrades.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

from gexec.posix import clock
from gexec.posix.log import Log
from gexec.spawner.handover import Handover
from gexec.spawner.spawner import Spawner
from gexec.wire.upgrades import UpgradeEnded

#: The form of the spawner's saved state: raise it when it changes.
STATE: Final = 3
#: How long the spawner waits for programs that it has asked for something.
_SETTLE_S: Final = 30.0
_STEP_S: Final = 0.05
_SHOWN: Final = 8


class Upgrades:
    """Decides about upgrades and carries them out.

    Args:
        ask: starts a program, and passes on what it has written.
        execute: executes the spawner's installed code with a report; it returns, or raises OSError, only if
            that cannot be done.
    """

    def __init__(
        self,
        spawner: Spawner,
        handed: Handover,
        log: Log,
        ask: Callable[[list[str], Callable[[bytes], None]], None],
        execute: Callable[[str], None],
    ) -> None:
        self._spawner = spawner
        self._handed = handed
        self._log = log
        self._ask = ask
        self._execute = execute
        self._is_busy = False
        self._is_forced = False
        #: Somebody waits for the report.
        self._is_awaited = False
        self._code = self._version = ""

    @property
    def is_busy(self) -> bool:
        """True while an upgrade is under way."""
        return self._is_busy

    def want(self, forced: bool) -> None:
        """Somebody asks for an upgrade, and waits for the report; ``installed`` or ``fail`` follows."""
        self._is_awaited = True
        self._is_forced |= forced

    def installed(self, version: str, code: str) -> bool:
        """Settings were read, by code of this version and digest; return whether an upgrade begins."""
        handed = self._handed
        if self._is_busy or self._spawner.is_ending:
            self._end(False, "an upgrade is under way" if self._is_busy else "gexecd is shutting down")
        elif not handed.succession:
            if self._is_awaited:
                self._end(
                    False, "a local cluster shares its code: use `gexecctl cluster down`, then `cluster up`"
                )
        elif code == handed.code and not self._is_forced:
            if self._is_awaited:
                self._end(True, f"nothing to do: {_named(version, code)} runs already")
        else:
            self._is_busy = True
            self._code, self._version = code, version
            try:
                self._ask([*handed.again, "trial"], self._tried)
            except OSError as error:
                self._end(False, f"the new spawner cannot be tried: {error.strerror}")
            return self._is_busy
        return False

    def fail(self, why: str) -> None:
        """The wish for an upgrade cannot be fulfilled."""
        if self._is_awaited:
            self._end(False, why)

    def resumed(self, told: str) -> None:
        """This is the spawner's new code: report it."""
        self._log.info(f"upgraded: {told}")
        self._spawner.tell(UpgradeEnded(True, told))

    # -- the steps ---------------------------------------------------------------------------

    def _tried(self, answer: bytes) -> None:
        """The code of the new spawner was loaded, or not."""
        try:
            told: dict[str, Any] = json.loads(answer)
            state = told["state"]
        except (ValueError, KeyError, TypeError):
            self._end(False, "the new spawner's code cannot be used: see the log")
            return
        if state != STATE:
            self._end(
                False,
                f"the new spawner needs state of the form {state}, the running one has {STATE}: "
                "stop gexecd and start it again",
            )
            return
        from gexec.spawner.upgrading import RelayUpgrade  # loaded only when there is an upgrade

        handed = self._handed
        upgrade = self._spawner.upgrade = RelayUpgrade(self._spawner, self._relay_ended)
        given = json.loads(handed.relay) | {"trust": handed.trust, "certificate": handed.renewal[-1]}
        try:
            upgrade.begin(handed.succession, json.dumps(given).encode())
        except (OSError, ValueError) as error:
            self._end(False, f"the new relay cannot be started: {error}")

    def _relay_ended(self, why: str, jobs: int, pause_s: float) -> None:
        if why:
            self._end(False, why)
            return
        before, after = _named(self._handed.version, self._handed.code), _named(self._version, self._code)
        told = f"{before} -> {after}; jobs carried over: {jobs}; pause of the relay: {pause_s:.2f} s"
        self._handed.version, self._handed.code = self._version, self._code
        if self._spawner.upgrade is not None:
            self._handed.expires_s = float(self._spawner.upgrade.expires_s)
        self._settle(told, time.monotonic() + _SETTLE_S)

    def _settle(self, told: str, until_s: float) -> None:
        """Execute the spawner anew, as soon as no program owes it an answer."""
        if self._spawner.is_ending:
            return
        if not self._spawner.is_settled and time.monotonic() < until_s:
            self._spawner.loop.call_at(clock.now_s() + _STEP_S, lambda: self._settle(told, until_s))
            return
        try:
            self._execute(told)
            why = "it is busy"
        except (OSError, ValueError) as error:
            why = str(error)
        self._end(False, f"the relay was upgraded, but the spawner not ({why}): {told}")

    def _end(self, done: bool, text: str) -> None:
        self._is_busy = self._is_forced = False
        if not done:
            self._log.error(f"no upgrade: {text}")
        if self._is_awaited:
            self._is_awaited = False
            self._spawner.tell(UpgradeEnded(done, text))


def _named(version: str, code: str) -> str:
    """Return the name of some code, for people."""
    return f"gexec {version} ({code[:_SHOWN]})"
