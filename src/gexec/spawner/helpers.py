"""The processes that start tasks: the starter for gexecd's own identity, a helper for each other user.

The starter (``spawner.starter``) forks, signals and reaps the helpers (``spawner.helper``); each has its
own channel to the spawner. The starter is treated as helper 0, which is never retired.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

from gexec.core.deadlines import earlier
from gexec.errors import ProtocolError
from gexec.posix import channel, clock
from gexec.posix.channel import MessageLost, Port
from gexec.posix.loop import PollLoop
from gexec.spawner.launching import STARTER, Helper, Saved
from gexec.wire.launches import (
    FROM_HELPER,
    FROM_STARTER,
    TO_HELPER,
    TO_STARTER,
    Becoming,
    HelperEvent,
    HelperGone,
    LostTasks,
    NewHelper,
    StarterNote,
)
from gexec.wire.messages import U32_MAX, ProcessLeft, ProcessStarted, Table

#: A helper gets no new tasks after this time.
_AGE_MAX_S: Final = 600.0
#: With PAM: for so long its check of the account counts, as other facts about accounts do.
_PAM_AGE_MAX_S: Final = 30.0


class Helpers:
    """All helpers of one spawner, and the starter that forks them.

    Args:
        loop: the spawner's.
        start: returns the channel to the starter; called once, at the first use.
        on_event: called with each event that a helper reports of one of its tasks.
        on_gone: called when a helper has ended and its last messages were read, with the reason if it
            could not begin, and whether it was denied; returns the helper's tasks, for the starter.
        on_starter_gone: called with the reason when the starter has ended: no task can be started.
        note: called with sentences of the starter for the log.
        is_clean: the starter starts no tasks of root, so that helpers, its forks, hold nothing of them.
    """

    def __init__(
        self,
        loop: PollLoop,
        start: Callable[[], socket.socket],
        on_event: Callable[[HelperEvent], None],
        on_gone: Callable[[Helper, str, bool], LostTasks],
        on_starter_gone: Callable[[str], None],
        note: Callable[[str], None],
        is_clean: bool = False,
    ) -> None:
        self._loop = loop
        self._start = start
        self._on_event = on_event
        self._on_gone = on_gone
        self._on_starter_gone = on_starter_gone
        self._note = note
        self._is_clean = is_clean
        self._by_number: dict[int, Helper] = {}
        self._current: dict[int, Helper] = {}  # by uid: the one that takes new tasks
        self._last = STARTER
        self._starter: Helper | None = None
        self._identity = (os.geteuid(), os.getegid(), frozenset(os.getgroups()) | {os.getegid()})

    def __len__(self) -> int:
        return len(self._by_number)

    # -- for the program that continues this one ---------------------------------------------

    def save(self) -> Saved:
        """Return all helpers in types that JSON can represent; their channels are inherited."""
        return {
            "starter": None if self._starter is None else self._starter.save(),
            "helpers": [helper.save() for helper in self._by_number.values()],
            "current": [helper.number for helper in self._current.values()],
            "last": self._last,
        }

    def restore(self, saved: Saved) -> dict[int, Helper]:
        """Continue with what ``save`` returned; return starter and helpers by their numbers."""
        self._last = saved["last"]
        if saved["starter"] is None:
            return {}
        port = _port_of(saved["starter"]["fd"], FROM_STARTER, TO_STARTER)
        self._starter = starter = Helper(STARTER, port, _becoming_of(saved["starter"]["becoming"]), port)
        if port.endpoint.fileno() >= 0:
            self._loop.watch(port.endpoint.fileno(), self._from_starter)
        known = {STARTER: starter}
        for each in saved["helpers"]:
            port = _port_of(each["fd"], FROM_HELPER, TO_HELPER)
            helper = Helper(each["number"], port, _becoming_of(each["becoming"]), starter.port)
            known[helper.number] = self._by_number[helper.number] = helper
            if each["number"] in saved["current"]:
                self._current[helper.uid] = helper
            if port.endpoint.fileno() >= 0:
                self._loop.watch(port.endpoint.fileno(), partial(self._heard, helper))
        for each in (saved["starter"], *saved["helpers"]):
            known[each["number"]].restore(each, known)
        return known

    def begin(self) -> Helper:
        """Return the starter; start it if it does not run yet."""
        return self._starter or self._started()

    def for_tasks(self, becoming: Becoming) -> Helper:
        """Return the helper that gets new tasks of a user; a new one if no current one is the same.

        Raises:
            OSError, ProtocolError: no helper can be made now.
        """
        starter = self.begin()
        if self._is_own(becoming):
            return starter
        helper = self._current.get(becoming.uid)
        if helper is not None and (
            helper.becoming != becoming
            or helper.launches_left <= 0
            or clock.now_s() - helper.made_s > (_PAM_AGE_MAX_S if becoming.pam else _AGE_MAX_S)
        ):
            self._retire(becoming.uid)
            helper = None
        return helper or self._made(becoming, starter.port)

    def _is_own(self, becoming: Becoming) -> bool:
        if not becoming.is_plain:
            return False
        uid, gid, groups = self._identity
        if uid != 0:
            return True  # the admission has refused all other users
        if self._is_clean or becoming.uid != 0:
            return False
        return becoming.gids[0] == gid and frozenset(becoming.gids) == groups

    def _started(self) -> Helper:
        port = Port(self._start(), hears=FROM_STARTER, says=TO_STARTER, bounded=True)
        uid, gid, _ = self._identity
        self._starter = starter = Helper(STARTER, port, Becoming(uid, (gid,)), port)
        self._loop.watch(port.endpoint.fileno(), self._from_starter)
        return starter

    def _made(self, becoming: Becoming, starter: Port) -> Helper:
        # Its channel can be used at once: the helper reads the requests when it runs.
        self._last = number = (self._last + 1) & U32_MAX
        ours, theirs = channel.pair()
        try:
            starter.say(NewHelper(number, becoming, (theirs.fileno(),)))
        except (OSError, ProtocolError):
            ours.close()
            raise
        finally:
            theirs.close()
        port = Port(ours, hears=FROM_HELPER, says=TO_HELPER, bounded=True)
        helper = Helper(number, port, becoming, starter)
        self._by_number[number] = self._current[becoming.uid] = helper
        self._loop.watch(ours.fileno(), lambda: self._heard(helper))
        return helper

    def _from_starter(self) -> None:
        starter = self._starter
        if starter is None:
            return
        try:
            said: HelperEvent | HelperGone | StarterNote | None = starter.port.receive()
        except (ConnectionError, ProtocolError, MessageLost) as error:
            self.close_starter()
            for helper in (*list(self._by_number.values()), starter):
                self._gone(helper)
            self._on_starter_gone(str(error))
            return
        if isinstance(said, HelperGone):
            gone = self._by_number.get(said.task)
            if gone is not None:
                starter.ask(self._gone(gone, said.why, said.denied))
        elif isinstance(said, StarterNote):
            self._note(said.text)
        elif said is not None:
            self._take(starter, said)

    def _gone(self, helper: Helper, why: str = "", denied: bool = False) -> LostTasks:
        """Handle the end of a helper; return the helper's tasks, for the starter."""
        self._by_number.pop(helper.number, None)
        while self._loop.watches(helper.port.endpoint.fileno()) and self._heard(helper):
            pass
        self._dismiss(helper)
        return self._on_gone(helper, why, denied)

    def close_starter(self) -> None:
        """Close the channel to the starter, which then ends its attached tasks and exits."""
        if self._starter is not None:
            self._dismiss(self._starter)

    def wake_s(self) -> float | None:
        """Return when ``wake`` is due, or None."""
        due_s: float | None = None
        for helper in self._by_number.values():
            due_s = earlier(due_s, helper.wake_s)
        return due_s

    def wake(self) -> None:
        """Continue the helpers that do not answer: their users may have stopped them."""
        now_s = clock.now_s()
        for helper in self._by_number.values():
            due_s = helper.wake_s
            if due_s is not None and due_s <= now_s:
                helper.wake()

    def flush(self) -> None:
        """Send the queued messages, as far as the helpers and the starter read."""
        for helper in self._by_number.values():
            self._flush(helper)
        if self._starter is not None and self._starter.port.endpoint.fileno() >= 0:
            self._flush(self._starter)

    def _flush(self, helper: Helper) -> None:
        endpoint = helper.port.endpoint
        if endpoint.wants_write:
            try:
                endpoint.flush()
            except OSError:
                helper.end()  # a message to it is lost, so it cannot continue
        self._loop.want_write(endpoint.fileno(), endpoint.wants_write)

    def retire_all(self) -> None:
        """Give new tasks to new helpers; the existing ones end when their tasks have ended."""
        for uid in list(self._current):
            self._retire(uid)

    def dismiss_all(self) -> None:
        """Close every helper's channel: each helper ends its attached tasks and exits."""
        for helper in self._by_number.values():
            self._dismiss(helper)

    def kill_all(self) -> None:
        """End all helpers with SIGKILL."""
        for helper in self._by_number.values():
            helper.end()

    def of_number(self, number: int) -> Helper | None:
        """Return the helper with this number if its channel is open, or None."""
        helper = self._starter if number == STARTER else self._by_number.get(number)
        return helper if helper is not None and helper.port.endpoint.fileno() >= 0 else None

    def _heard(self, helper: Helper) -> bool:
        """Handle the helper's next message; False if there is none now, or its channel has failed."""
        try:
            event: HelperEvent | None = helper.port.receive()
        except (ConnectionError, ProtocolError, MessageLost, OSError):
            # The helper was idle, or its user ended it; ``_gone`` does the rest when it is reaped.
            self._loop.unwatch(helper.port.endpoint.fileno())
            self._forsake(helper)
            if helper.number in self._by_number:
                helper.end()
            return False
        if event is None:
            return False
        self._take(helper, event)
        if helper is not self._current.get(helper.uid):
            self._dismiss_idle(helper)
        return True

    def _take(self, helper: Helper, event: HelperEvent) -> None:
        """Handle an event that a helper reports of a task."""
        if isinstance(event, ProcessLeft):
            if helper.told_left(event):
                self._on_event(event)
        elif event.task in helper.detached:
            if not isinstance(event, ProcessStarted):
                helper.detached_ended(event.task)
                self._on_event(event)
        elif event.task in helper.tasks:
            helper.unanswered.pop(event.task, None)
            if not isinstance(event, ProcessStarted):
                helper.tasks.discard(event.task)
            self._on_event(event)

    def _retire(self, uid: int) -> None:
        helper = self._current.pop(uid, None)
        if helper is not None:
            self._dismiss_idle(helper)

    def _dismiss_idle(self, helper: Helper) -> None:
        if helper.tasks or helper.detached or helper.number not in self._by_number:
            return
        if clock.now_s() < helper.quiet_s:
            self._loop.call_at(helper.quiet_s, lambda: self._dismiss_idle(helper))
        else:
            self._dismiss(helper)

    def _forsake(self, helper: Helper) -> None:
        if self._current.get(helper.uid) is helper:
            del self._current[helper.uid]

    def _dismiss(self, helper: Helper) -> None:
        self._forsake(helper)
        endpoint = helper.port.endpoint
        if endpoint.fileno() >= 0:
            with contextlib.suppress(OSError):
                endpoint.flush()
            self._loop.unwatch(endpoint.fileno())
            endpoint.close()


def _port_of(fd: int, hears: Table, says: Table) -> Port:
    """Return the port of an inherited channel; a closed one if there is none."""
    if fd >= 0:
        return Port(socket.socket(fileno=fd), hears, says, bounded=True)
    ours, theirs = channel.pair()
    theirs.close()
    port = Port(ours, hears, says, bounded=True)
    port.endpoint.close()
    return port


def _becoming_of(saved: Saved) -> Becoming:
    """Return what a helper has become, from ``Helper.save``."""
    given: Saved = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}
    given["limits"] = tuple([(name, soft, hard) for name, soft, hard in saved["limits"]])
    return Becoming(**given)
