"""Starting, watching and ending tasks as the identity that this process has.

The same code runs in the spawner (for its own identity) and in each user's helper. One thread,
no event loop of its own: the owner calls ``reap`` after SIGCHLD and ``tick`` when
``next_deadline_s`` has come, and gets events through ``emit``.

The process must be a child subreaper (``proc.identity.become_subreaper``): whatever a task leaves
behind then becomes a child of this process, is found among its children, and is ended.
"""

from __future__ import annotations

import errno
import os
import signal
import stat as stat_module
import time
from collections.abc import Callable

from gexec.core import outcome
from gexec.core.outcome import Outcome
from gexec.proc import descendants
from gexec.proc.messages import Event, LaunchSpec, TaskEnded, TaskReady, TaskRefused, TaskStarted

#: How long what a task left behind may live after the task's end.
LINGER_S = 2.0
#: Between two rounds of SIGKILL while something still lives.
SWEEP_S = 0.02
#: Rounds after which what cannot be killed (a set-uid program of another user) is given up.
_ROUNDS_MAX = 250
#: Detached tasks whose leftovers are left alone; the oldest are forgotten first.
_DETACHED_MAX = 4096
_DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"
_ALL_SIGNALS = tuple(sorted(signal.valid_signals()))
_GENTLE = (signal.SIGHUP, signal.SIGTERM, signal.SIGCONT)


def mark_of(job_id: bytes, rank: int) -> tuple[bytes, bytes]:
    """Return the environment entries by which a task's processes are recognised."""
    return b"GEXEC_JOB=" + job_id.hex().encode(), b"GEXEC_MY_VNN=%d" % rank


class _Task:
    __slots__ = ("detached", "ended_s", "hard_at_s", "mark", "number", "pid", "spec")

    def __init__(self, number: int, pid: int, spec: LaunchSpec) -> None:
        self.number = number
        self.pid = pid
        self.spec = spec
        self.mark = mark_of(spec.job_id, spec.rank)
        self.detached = False
        #: When SIGKILL comes; None = nobody wants its end.
        self.hard_at_s: float | None = None
        self.ended_s: float | None = None


class _Orphan:
    __slots__ = ("group", "hard_at_s", "mark", "pid", "rounds", "seen_s", "uid")

    def __init__(self, pid: int, mark: tuple[bytes, ...], group: int, now_s: float) -> None:
        self.pid = pid
        self.uid = descendants.uid_of(pid)
        self.mark = mark
        self.group = group
        self.seen_s = now_s
        self.hard_at_s: float | None = None
        self.rounds = 0


class Launcher:
    """Tasks of one identity.

    Args:
        emit: called with each event.
        other_ended: called with (pid, wait status) of a reaped child that is no task.
        not_orphans: the pids of children that are neither tasks nor theirs (the relay, helpers).
        linger_s: how long leftovers of an ended task may live.
    """

    def __init__(
        self,
        emit: Callable[[Event], None],
        *,
        other_ended: Callable[[int, int], None] | None = None,
        not_orphans: Callable[[], set[int]] = set,
        linger_s: float = LINGER_S,
    ) -> None:
        self._emit = emit
        self._other_ended = other_ended
        self._not_orphans = not_orphans
        self._linger_s = linger_s
        self._tasks: dict[int, _Task] = {}
        self._by_pid: dict[int, _Task] = {}
        #: Ended tasks whose leftovers are still being seen to.
        self._past: dict[tuple[bytes, ...], _Task] = {}
        self._detached: dict[tuple[bytes, ...], None] = {}
        self._orphans: dict[int, _Orphan] = {}
        self._hunted: dict[int, set[tuple[bytes, ...]]] = {}
        self._idle_since_s = time.monotonic()
        self._children = descendants.Children()
        self._uid = os.geteuid()

    @property
    def tasks(self) -> int:
        """How many tasks' processes run, detached ones included."""
        return len(self._by_pid)

    @property
    def attached(self) -> int:
        """How many running tasks somebody waits for."""
        return sum(not task.detached for task in self._by_pid.values())

    @property
    def settled(self) -> bool:
        """True when nothing is left that must be ended before this process may go."""
        return not self.attached and not any(self._owed(orphan) for orphan in self._orphans.values())

    # -- starting ----------------------------------------------------------------------------

    def start(self, number: int, spec: LaunchSpec, fds: tuple[int, ...]) -> None:
        """Start a task; emits TaskStarted or TaskRefused. Closes ``fds`` (stdin, stdout, stderr)."""
        try:
            if number in self._tasks:
                self._emit(TaskRefused(number, outcome.not_started("the task number is in use")))
                return
            pid = self._spawned(spec, fds)
        except _Refusal as refusal:
            self._emit(TaskRefused(number, refusal.outcome))
            return
        finally:
            for fd in fds:
                os.close(fd)
        task = _Task(number, pid, spec)
        self._tasks[number] = self._by_pid[pid] = task
        self._past.pop(task.mark, None)
        self._emit(TaskStarted(number, pid))

    def check(self, number: int, spec: LaunchSpec) -> None:
        """Do what ``start`` does but the start itself; emits TaskReady or TaskRefused."""
        try:
            _enter(spec.cwd)
            _executable(spec)
        except _Refusal as refusal:
            self._emit(TaskRefused(number, refusal.outcome))
        else:
            self._emit(TaskReady(number))
        finally:
            os.chdir("/")

    def _spawned(self, spec: LaunchSpec, fds: tuple[int, ...]) -> int:
        env = {}
        for entry in spec.env:
            name, _, value = entry.partition(b"=")
            env[name] = value
        umask = os.umask(spec.umask)
        try:
            _enter(spec.cwd)
            program = _looked_up(spec, env) if spec.remote_path and b"/" not in spec.program else spec.program
            return os.posix_spawn(
                program,
                spec.argv,
                env,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds)],
                # Own process group, but the launcher's session: in a session of its own the group
                # would be orphaned, and the kernel ignores SIGTSTP for those.
                setpgroup=0,
                setsigmask=(),
                setsigdef=_ALL_SIGNALS,
            )
        except OSError as error:
            raise _spawn_refusal(spec, error) from error
        finally:
            os.umask(umask)
            os.chdir("/")

    # -- signals and ends --------------------------------------------------------------------

    def signal(self, number: int, signum: int) -> None:
        """Send a signal to the task's process group; nothing if it has ended."""
        task = self._tasks.get(number)
        if task is not None:
            _signal_group(task.pid, signum)

    def kill(self, number: int, now: bool) -> None:
        """End a task: HUP, TERM and CONT to all its processes, KILL after its grace; or KILL at once."""
        task = self._tasks.get(number)
        if task is not None:
            self._end(task, now)

    def forget(self, number: int) -> None:
        """Emit no more events of a task and leave it, and what it leaves behind, alone."""
        task = self._tasks.pop(number, None)
        if task is None:
            task = next((past for past in self._past.values() if past.number == number), None)
        if task is None:
            return
        task.detached = True
        task.hard_at_s = None
        self._detached[task.mark] = None
        if len(self._detached) > _DETACHED_MAX:
            self._detached.pop(next(iter(self._detached)))

    def end_all(self, now: bool) -> None:
        """End every attached task."""
        for task in list(self._tasks.values()):
            self._end(task, now)
        if now:
            for orphan in self._orphans.values():
                if self._owed(orphan):
                    orphan.hard_at_s = time.monotonic()
            self.tick()

    def hunt(self, uid: int, spared: set[tuple[bytes, ...]]) -> None:
        """End what a user's dead helper left behind, but for detached tasks (their marks).

        Call it after the helper was reaped: its tasks are then children of this process.
        """
        self._hunted[uid] = spared
        self._survey(time.monotonic())
        self.tick()

    def _end(self, task: _Task, now: bool) -> None:
        now_s = time.monotonic()
        if now:
            task.hard_at_s = now_s
            self._kill_hard(task)
        elif task.hard_at_s is None:
            task.hard_at_s = now_s + task.spec.kill_grace_s
            for signum in _GENTLE:
                _signal_group(task.pid, signum)
            self._signal_outside_group(task)

    def _signal_outside_group(self, task: _Task) -> None:
        queue = [(child, task.pid) for child in descendants.children_of(task.pid)]
        while queue:
            pid, parent = queue.pop()
            queue += [(child, pid) for child in descendants.children_of(pid)]
            stat = descendants.stat_of(pid)
            if stat is not None and stat.group != task.pid:
                for signum in _GENTLE:
                    descendants.send(pid, signum, parent)
        for orphan in self._orphans_of(task):
            if orphan.group != task.pid:
                descendants.send_tree([orphan.pid], _GENTLE)

    def _kill_hard(self, task: _Task) -> None:
        # What lives outside the group first, while it can still be found under the task's process.
        descendants.kill_tree([task.pid, *(orphan.pid for orphan in self._orphans_of(task))])
        _signal_group(task.pid, signal.SIGKILL)

    # -- reaping -----------------------------------------------------------------------------

    def reap(self) -> None:
        """Collect every child that has ended; emits TaskEnded. Call it after SIGCHLD."""
        reaped = False
        now_s = time.monotonic()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            reaped = True
            self._orphans.pop(pid, None)
            task = self._by_pid.pop(pid, None)
            if task is None:
                if self._other_ended is not None:
                    self._other_ended(pid, status)
                continue
            task.ended_s = now_s
            self._past[task.mark] = task
            if not self._by_pid:
                self._idle_since_s = now_s
            if not task.detached:
                del self._tasks[task.number]
                self._emit(TaskEnded(task.number, _outcome(status)))
        if reaped:
            self._survey(now_s)

    def _survey(self, now_s: float) -> None:
        """Note the children that are nobody's: usually none, at the cost of one read."""
        strangers = set(self._children.pids()) - self._by_pid.keys()
        strangers -= self._not_orphans()
        for pid in strangers - self._orphans.keys():
            stat = descendants.stat_of(pid)
            if stat is None:
                continue
            env = descendants.environ_of(pid)
            job = next((entry for entry in env if entry.startswith(b"GEXEC_JOB=")), b"")
            rank = next((entry for entry in env if entry.startswith(b"GEXEC_MY_VNN=")), b"")
            self._orphans[pid] = _Orphan(pid, (job, rank), stat.group, now_s)
        for pid in self._orphans.keys() - strangers:
            del self._orphans[pid]
        if not self._orphans:
            self._past.clear()

    def _owner(self, orphan: _Orphan) -> _Task | None:
        """Return the task that an orphan belongs to: by its environment, else by its group."""
        for task in self._by_pid.values():
            if task.mark == orphan.mark or task.pid == orphan.group:
                return task
        for task in self._past.values():
            if task.mark == orphan.mark or task.pid == orphan.group:
                return task
        return None

    def _orphans_of(self, task: _Task) -> list[_Orphan]:
        return [orphan for orphan in self._orphans.values() if self._owner(orphan) is task]

    def _owed(self, orphan: _Orphan) -> bool:
        """Tell whether the orphan is one that will be ended."""
        return self._due_s(orphan) is not None

    def _due_s(self, orphan: _Orphan) -> float | None:
        if orphan.rounds >= _ROUNDS_MAX:
            return None
        if orphan.hard_at_s is not None:
            return orphan.hard_at_s
        owner = self._owner(orphan)
        if owner is not None:
            if owner.ended_s is None or owner.detached:
                return None
            return owner.ended_s if owner.hard_at_s is not None else owner.ended_s + self._linger_s
        hunted = self._hunted.get(orphan.uid) if orphan.uid is not None else None
        if hunted is not None:
            return None if orphan.mark in hunted else orphan.seen_s
        if orphan.mark in self._detached or self._by_pid:
            return None
        # It hides whose it is; once nothing runs that it could belong to, it goes.
        if orphan.uid != self._uid:
            return None
        return max(orphan.seen_s, self._idle_since_s) + self._linger_s

    # -- time --------------------------------------------------------------------------------

    def next_deadline_s(self) -> float | None:
        """Return the monotonic time at which ``tick`` has something to do, or None."""
        dues = [task.hard_at_s for task in self._by_pid.values() if task.hard_at_s is not None]
        dues += [due for orphan in self._orphans.values() if (due := self._due_s(orphan)) is not None]
        return min(dues, default=None)

    def tick(self) -> None:
        """Do what is due: SIGKILL after the grace, and the ends of what tasks left behind."""
        now_s = time.monotonic()
        for task in list(self._by_pid.values()):
            if task.hard_at_s is not None and task.hard_at_s <= now_s:
                self._kill_hard(task)
                task.hard_at_s = now_s + SWEEP_S
        if self._orphans:
            self._survey(now_s)
        for orphan in list(self._orphans.values()):
            due_s = self._due_s(orphan)
            if due_s is None or due_s > now_s:
                continue
            if orphan.hard_at_s is None:
                owner = self._owner(orphan)
                if owner is not None and owner.hard_at_s is not None:
                    orphan.hard_at_s = max(now_s, owner.hard_at_s)
                else:
                    grace_s = owner.spec.kill_grace_s if owner is not None else self._linger_s
                    orphan.hard_at_s = now_s + grace_s
                    descendants.send_tree([orphan.pid], _GENTLE)
            else:
                descendants.kill_tree([orphan.pid])
                orphan.rounds += 1
                orphan.hard_at_s = now_s + SWEEP_S

    def close(self) -> None:
        """Give up what the launcher itself holds."""
        self._children.close()


class _Refusal(Exception):
    def __init__(self, refused: Outcome) -> None:
        super().__init__(refused.text)
        self.outcome = refused


def _outcome(status: int) -> Outcome:
    code = os.waitstatus_to_exitcode(status)
    return outcome.exited(code) if code >= 0 else outcome.killed(-code)


def _signal_group(group: int, signum: int) -> None:
    # The group's number is the pid of our own unreaped child, so nobody else can have it.
    try:
        os.killpg(group, signum)
    except OSError:
        pass  # it has moved to another group, or belongs to somebody else by now (sudo)


def _shown(path: bytes) -> str:
    return os.fsdecode(path[:300]).encode("utf-8", "backslashreplace").decode()


def _enter(cwd: bytes) -> None:
    try:
        os.chdir(cwd)
    except OSError as error:
        text = f"working directory {_shown(cwd)}: {error.strerror}"
        raise _Refusal(outcome.not_started(text, error.errno or 0)) from error


def _looked_up(spec: LaunchSpec, env: dict[bytes, bytes]) -> bytes:
    """Return the program's path from the job's PATH, as execvp would."""
    forbidden = b""
    for directory in env.get(b"PATH", _DEFAULT_PATH).split(b":"):
        path = (directory or b".") + b"/" + spec.program
        try:
            if not stat_module.S_ISREG(os.stat(path).st_mode):
                continue
        except (OSError, ValueError):
            continue
        if os.access(path, os.X_OK):
            return path
        forbidden = forbidden or path
    if forbidden:
        text = f"program {_shown(forbidden)}: Permission denied: it is not executable for this user"
        raise _Refusal(outcome.not_started(text, errno.EACCES))
    text = f"program {_shown(spec.program)}: not found in the job's PATH on this node"
    raise _Refusal(outcome.not_started(text, errno.ENOENT))


def _executable(spec: LaunchSpec) -> None:
    if spec.remote_path and b"/" not in spec.program:
        env = dict(entry.partition(b"=")[::2] for entry in spec.env)
        _looked_up(spec, env)
        return
    try:
        mode = os.stat(spec.program).st_mode
        if not stat_module.S_ISREG(mode) or not os.access(spec.program, os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _spawn_refusal(spec, error) from error


def _spawn_refusal(spec: LaunchSpec, error: OSError) -> _Refusal:
    number = error.errno or 0
    shown = _shown(spec.program)
    reason = error.strerror or "it cannot be started"
    if number == errno.ENOENT and os.path.exists(spec.program):
        reason += ": the interpreter that it names does not exist on this node"
    elif number == errno.EACCES:
        reason += ": it is not executable for this user"
    elif number == errno.ENOEXEC:
        reason += ": it is neither a program for this machine nor a script with a first line #!"
    elif number == errno.E2BIG:
        size = sum(map(len, spec.argv)) + sum(map(len, spec.env))
        reason += f": {size} bytes of arguments and environment are more than this node's kernel takes"
    elif number in (errno.EAGAIN, errno.ENOMEM):
        reason += ": this node has no room for one more process of this user"
    return _Refusal(outcome.not_started(f"program {shown}: {reason}", number))
