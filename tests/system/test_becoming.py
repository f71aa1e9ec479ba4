"""How tasks become their user: groups, limits and keys of real accounts, in a real spawner."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gexec.posix import session
from gexec.security.policy import Limit, Policy, Rule, Terms
from gexec.wire import jobspec
from gexec.wire.messages import ProcessRefused
from gexec.wire.outcome import DENIED, EXITED, NOT_STARTED, Outcome

from .etc import Etc
from .rig import Rig, gone, rigs, signed
from .rig import job as job_of


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    # Account facts are read for each job, so that changes count at once.
    with rigs(tmp_path, account_s=0.0, policy=Policy()) as making:
        yield making


@pytest.mark.root
def test_attack_28_groups_of_an_earlier_job_are_not_left_over(make: Callable[..., Rig], etc: Etc) -> None:
    """The user leaves a group between two jobs, in the account database itself."""
    ann = etc.add_user("ann", groups=("crew", "oldcrew"))
    rig = make(etc=etc)
    long = rig.sh("echo up; read line; id -Gn", user=ann)
    assert long.line() == b"up"
    assert set(rig.sh("id -Gn", user=ann).output().split()) == {b"ann", b"crew", b"oldcrew"}
    etc.set_groups("ann", ("crew", "newcrew"))
    assert set(rig.sh("id -Gn; id -Gn ann", user=ann).output().split()) == {b"ann", b"crew", b"newcrew"}
    parents = {rig.sh("echo $PPID", user=ann).output() for _ in range(3)}
    assert len(parents) == 1
    os.write(long.stdin, b"go\n")  # what runs has kept what it was started with, and is not ended
    assert set(long.output().split()) == {b"ann", b"crew", b"oldcrew"}
    assert long.outcome() == Outcome(EXITED, 0)


@pytest.mark.root
def test_a_helper_with_old_groups_ends_with_its_last_task(make: Callable[..., Rig], etc: Etc) -> None:
    ann = etc.add_user("ann", groups=("oldcrew",))
    rig = make(etc=etc)
    long = rig.sh("echo $PPID; read line", user=ann)
    helper = int(long.line())
    etc.set_groups("ann", ())
    assert int(rig.sh("echo $PPID", user=ann).output()) != helper
    os.write(long.stdin, b"go\n")
    assert long.outcome() == Outcome(EXITED, 0)
    assert gone(helper)


# -- accounts ---------------------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"password": "!$6$x"}, "the account ann is locked on this node"),
        ({"expires_day": "1"}, "the account ann has expired on this node"),
        ({"shell": "/usr/sbin/nologin"}, "may not log in on this node (its shell is /usr/sbin/nologin)"),
        ({"shell": "/bin/false"}, "may not log in on this node (its shell is /bin/false)"),
    ],
)
def test_attack_81_locked_expired_and_nologin_accounts(
    make: Callable[..., Rig], etc: Etc, changes: dict[str, Any], words: str
) -> None:
    ann, bob = etc.add_user("ann", **changes), etc.add_user("bob", expires_day="99999")
    rig = make(etc=etc)
    outcome = rig.sh("true", user=ann).outcome()
    assert outcome.kind == DENIED
    assert words in outcome.text
    assert rig.sh("true", user=bob).outcome().ok


@pytest.mark.root
def test_attack_81_an_account_that_is_locked_between_two_jobs(make: Callable[..., Rig], etc: Etc) -> None:
    ann = etc.add_user("ann")
    rig = make(etc=etc)
    assert rig.sh("true", user=ann).outcome().ok
    etc.set_shadow("ann", password="!$6$x")
    assert "is locked on this node" in rig.sh("true", user=ann).outcome().text


@pytest.mark.root
def test_attack_82_root_when_it_is_off_also_under_another_name(make: Callable[..., Rig], etc: Etc) -> None:
    toor = etc.add_user("toor", uid=0)
    ann = etc.add_user("ann", groups=("root",))
    rig = make(etc=etc, policy=Policy(allow_root=False, uid_min=1))
    outcome = rig.sh("true").outcome()
    assert (outcome.kind, "policy.root is off" in outcome.text) == (DENIED, True)
    assert rig.sh("true", user=toor).outcome().kind == DENIED
    assert rig.sh("id -u", user=ann).output() == b"%d\n" % ann.pw_uid


@pytest.mark.root
def test_attack_71_variables_of_the_loader_are_read_by_no_process_of_root(
    make: Callable[..., Rig], etc: Etc, place: Path
) -> None:
    """With LD_DEBUG_OUTPUT, each process whose loader reads them writes a file of its own."""
    ann = etc.add_user("ann")
    place.chmod(0o1777)
    rig = make(etc=etc)
    env = [b"PATH=/usr/bin:/bin", b"LD_DEBUG=files", b"LD_DEBUG_OUTPUT=%s/loader" % os.fsencode(place)]
    assert rig.sh("/bin/true; /bin/true", user=ann, env=env).outcome().ok
    assert rig.run(*signed(job_of(["/no/such"], env=env), uid=ann)).outcome().kind == NOT_STARTED
    owners = [path.stat().st_uid for path in place.glob("loader.*")]
    assert len(owners) >= 2
    assert set(owners) == {ann.pw_uid}


@pytest.mark.root
def test_attack_72_directory_and_program_that_only_root_can_use(
    make: Callable[..., Rig], etc: Etc, place: Path
) -> None:
    """Neither as owner nor by the groups of gexecd: the same works as soon as the user may."""
    ann = etc.add_user("ann")
    rig = make(etc=etc)
    closed = place / "closed"
    closed.mkdir()
    program = closed / "true"
    shutil.copy("/bin/true", program)
    program.chmod(0o755)

    def outcomes() -> list[Outcome]:
        specs = [job_of(["/bin/true"], cwd=os.fsencode(closed)), job_of([str(program)])]
        return [rig.run(*signed(spec, uid=ann)).outcome() for spec in specs]

    for mode in (0o700, 0o750, 0o770):
        closed.chmod(mode)
        for outcome in outcomes():
            assert outcome.kind == NOT_STARTED
            assert "Permission denied" in outcome.text
    closed.chmod(0o755)
    assert [outcome.kind for outcome in outcomes()] == [EXITED, EXITED]


# -- limits, nice and umask -------------------------------------------------------------------


LIMITS = "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Ht; nice; umask"


def of(terms: Terms, *rules: Rule) -> Policy:
    return Policy(allow_nologin=True, terms=terms, rules=rules)


def _limit(value: int) -> bytes:
    return b"unlimited" if value == resource.RLIM_INFINITY else b"%d" % value


def _nice(added: int) -> bytes:
    return b"%d" % min(19, os.nice(0) + added)


@pytest.mark.root
def test_a_user_has_the_limits_of_the_policy_and_root_has_gexecds(make: Callable[..., Rig], etc: Etc) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = (Limit("nofile", 70, 90), Limit("core", 0, 0), Limit("cpu", 100, 200))
    ann = etc.add_user("ann")
    rig = make(etc=etc, policy=of(Terms(limits=limits, nice=3, umask=0o27)))
    lines = rig.sh(LIMITS, user=ann, umask=0o002).output().split()
    assert lines == [b"70", b"90", b"0", b"200", _nice(3), b"0027"]
    lines = rig.sh(LIMITS, umask=0o002).output().split()
    assert lines[:2] == [_limit(soft), _limit(hard)]
    assert lines[4:] == [_nice(0), b"0002"]


@pytest.mark.root
def test_a_rule_changes_the_limits_of_its_users_also_of_root(make: Callable[..., Rig], etc: Etc) -> None:
    ann, bob = etc.add_user("ann", groups=("students",)), etc.add_user("bob")
    rig = make(
        etc=etc,
        policy=of(
            Terms(limits=(Limit("nofile", 100, 200), Limit("core", 0, 0))),
            Rule(groups=frozenset({"students"}), limits=(Limit("nofile", 80, 80),), nice=19),
            Rule(users=frozenset({"root"}), limits=(Limit("nofile", 90, 300),)),
        ),
    )
    script = "ulimit -Sn; ulimit -Hn; nice"
    assert rig.sh(script, user=ann).output().split() == [b"80", b"80", _nice(19)]
    assert rig.sh(script, user=bob).output().split() == [b"100", b"200", _nice(0)]
    assert rig.sh(script).output().split() == [b"90", b"300", _nice(0)]


def test_the_gexecd_of_an_ordinary_user_applies_limits_too(make: Callable[..., Rig]) -> None:
    rule = Rule(users=frozenset({"root"}), limits=(Limit("nofile", 80, 90),), umask=0o77)
    rig = make(policy=of(Terms(limits=(Limit("nofile", 80, 90),), umask=0o77), rule))
    assert rig.sh("ulimit -Sn; ulimit -Hn; umask").output().split() == [b"80", b"90", b"0077"]


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user: root may raise limits")
def test_a_limit_that_cannot_be_set_refuses_the_process_and_is_named(make: Callable[..., Rig]) -> None:
    rig = make(policy=of(Terms(limits=(Limit("nofile", 100, 2**40),))))
    refused = rig.sh("true").outcome()
    assert "limit nofile = 100:1099511627776 cannot be set" in refused.text
    rig.close()


@pytest.mark.root
def test_attack_102_no_user_gets_beyond_the_limits(make: Callable[..., Rig], etc: Etc) -> None:
    """Neither by raising them, nor by a fork bomb that leaves its session; others are not disturbed."""
    ann, bob = etc.add_user("ann"), etc.add_user("bob")
    rig = make(etc=etc, policy=of(Terms(limits=(Limit("nproc", 40, 40), Limit("nofile", 100, 100)))))
    raised = rig.sh("ulimit -n 101; ulimit -Hn", user=ann)
    assert raised.output().split() in ([], [b"100"])
    bomb = rig.sh(
        "echo up; trap '' TERM HUP; i=0; while [ $i -lt 100 ]; do setsid sleep 1000 & i=$((i+1)); done; wait",
        user=ann,
    )
    assert bomb.line() == b"up"
    assert rig.sh("for i in 1 2 3 4 5; do sleep 0.01 & done; wait; echo ok", user=bob).output() == b"ok\n"
    assert _processes_of(ann.pw_uid) <= 40
    refused = rig.sh("true", user=ann).outcome()  # it may be its turn, or not
    assert refused.ok or "no room for one more process of this user" in refused.text
    rig.relay.kill(bomb.number, True)
    bomb.outcome()


def _processes_of(uid: int) -> int:
    found = 0
    for path in Path("/proc").iterdir():
        try:
            found += path.name.isdigit() and path.stat().st_uid == uid
        except OSError:
            continue
    return found


@pytest.mark.root
def test_a_helper_outlives_its_own_limit_of_cpu_time(make: Callable[..., Rig], etc: Etc) -> None:
    """A helper starts a number of tasks that fits into the limit; then there is another one."""
    ann = etc.add_user("ann")
    rig = make(etc=etc, policy=of(Terms(limits=(Limit("cpu", 1, 60),))))
    parents = {rig.sh("echo $PPID", user=ann).output() for _ in range(101)}
    assert len(parents) == 2


# -- commands ---------------------------------------------------------------------------------


@pytest.fixture
def tools() -> Iterator[Path]:
    """A directory that only root can change, and that all users can enter."""
    directory = Path(tempfile.mkdtemp(prefix="gexec-test-", dir="/opt"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def _script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.root
def test_attack_103_only_allowed_commands_run_whatever_the_path(
    make: Callable[..., Rig], etc: Etc, tools: Path, tmp_path: Path
) -> None:
    ann = etc.add_user("ann")
    allowed = _script(tools / "tool", "echo $(id -un) ran: $*")
    bob = etc.add_user("bob", groups=("crew",))
    free = Rule(groups=frozenset({"crew"}), allow_commands=())
    rig = make(etc=etc, policy=of(Terms(allow_commands=(f"{tools}/*", "/usr/bin/id")), free))
    assert rig.run(*signed(job_of([str(allowed), "a"]), uid=ann)).output() == b"ann ran: a\n"
    assert rig.sh("echo bob", user=bob).output() == b"bob\n"
    place = Path(tempfile.mkdtemp(prefix="gx", dir="/tmp"))
    try:
        place.chmod(0o777)
        os.symlink("/bin/sh", place / "id")
        os.symlink("/usr/bin/id", place / "good")
        refused = [
            job_of(["/bin/sh", "-c", "echo no"]),
            job_of([str(place / "id"), "-c", "echo no"]),
            job_of(["id", "-c", "echo no"], env=[b"PATH=" + os.fsencode(place)], flags=jobspec.REMOTE_PATH,
                   program=b"./id", cwd=os.fsencode(place)),
            job_of([f"{tools}/../../bin/sh", "-c", "echo no"]),
        ]  # fmt: skip
        for spec in refused:
            outcome = rig.run(*signed(spec, uid=ann)).outcome()
            assert outcome.kind == DENIED, outcome.text
            assert "none of the allowed commands of this node's policy" in outcome.text
            raw, blob = signed(spec, uid=ann)
            rig.relay.check(700, 0, raw, blob)
            assert rig.wait(700, ProcessRefused).outcome.kind == DENIED
        # The name is looked up in the node's own PATH, not in the job's.
        spec = job_of(["id", "-u"], env=[b"PATH=" + os.fsencode(place)], flags=jobspec.REMOTE_PATH)
        assert rig.run(*signed(spec, uid=ann)).output() == b"%d\n" % ann.pw_uid
        assert rig.run(*signed(job_of([str(place / "good"), "-un"]), uid=ann)).output() == b"ann\n"
    finally:
        shutil.rmtree(place)
    # Root is bound by the commands, too.
    assert rig.sh("true").outcome().kind == DENIED
    assert rig.run(*signed(job_of(["/usr/bin/id", "-u"]))).output() == b"0\n"


@pytest.mark.root
def test_attack_103_a_program_that_its_user_can_replace_is_never_allowed(
    make: Callable[..., Rig], etc: Etc, tools: Path
) -> None:
    """Not even for a moment, while the user exchanges it: only root's files are executed."""
    ann = etc.add_user("ann")
    theirs = tools / "theirs"
    theirs.mkdir()
    program = _script(theirs / "tool", "echo no")
    os.chown(theirs, ann.pw_uid, ann.pw_gid)
    rig = make(etc=etc, policy=of(Terms(allow_commands=(f"{tools}/*/*", f"{tools}/*"))))
    outcome = rig.run(*signed(job_of([str(program)]), uid=ann)).outcome()
    assert outcome.kind == DENIED
    assert f"not only root can change {theirs}" in outcome.text
    link = tools / "link"
    link.symlink_to(theirs / "tool")
    assert rig.run(*signed(job_of([str(link)]), uid=ann)).outcome().kind == DENIED


@pytest.mark.root
def test_attack_104_variables_do_not_make_an_allowed_program_run_another(
    make: Callable[..., Rig], etc: Etc, tools: Path
) -> None:
    ann = etc.add_user("ann")
    place = Path(tempfile.mkdtemp(prefix="gx", dir="/tmp"))
    try:
        place.chmod(0o755)
        _script(place / "date", "echo evil >&1")
        _script(place / "rc", "echo evil")
        tool = tools / "tool"
        tool.write_text("#!/bin/bash\ndate >/dev/null && echo $PATH ${LD_PRELOAD-none}\n")
        tool.chmod(0o755)
        rig = make(etc=etc, policy=of(Terms(allow_commands=(str(tool),))))
        env = [
            b"PATH=%s:/bin" % os.fsencode(place),
            b"BASH_ENV=%s/rc" % os.fsencode(place),
            b"LD_PRELOAD=/x.so",
        ]
        task = rig.run(*signed(job_of([str(tool)], env=env), uid=ann))
        assert task.output() == b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin none\n"
    finally:
        shutil.rmtree(place)


# -- keys -------------------------------------------------------------------------------------


_ADD_KEY = 248
#: Searches a key of the session, and tries to read one by its number.
_SEARCH = """
import ctypes, sys
call = ctypes.CDLL(None, use_errno=True).syscall
print(call(250, 10, -3, b"user", b"gexec-test", 0) >= 0, call(250, 11, int(sys.argv[1]), None, 0) >= 0)
"""


def _add_key() -> int:
    session.join_new_keyring()
    libc = ctypes.CDLL(None, use_errno=True)
    number: int = libc.syscall(_ADD_KEY, b"user", b"gexec-test", b"secret", ctypes.c_size_t(6), -3)
    return number


@pytest.mark.root
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="has the system calls of x86_64")
def test_attack_101_keys_of_root_are_out_of_reach(make: Callable[..., Rig], etc: Etc) -> None:
    try:
        key = _add_key()
    except OSError as error:
        pytest.skip(f"no keyrings here: {error}")
    ann, bob = etc.add_user("ann"), etc.add_user("bob")
    rig = make(etc=etc)
    session.join_new_keyring()
    for user in (ann, bob):
        spec = job_of(["/usr/bin/python3", "-c", _SEARCH, str(key)])
        assert rig.run(*signed(spec, uid=user)).output() == b"False False\n"
    # Each helper has its own: what one user adds is not there for another.
    add = 'import ctypes; print(ctypes.CDLL(None).syscall(248, b"user", b"gexec-test", b"x", 1, -3) > 0)'
    assert rig.run(*signed(job_of(["/usr/bin/python3", "-c", add]), uid=ann)).output() == b"True\n"
    found = [
        rig.run(*signed(job_of(["/usr/bin/python3", "-c", _SEARCH, str(key)]), uid=user)).output()
        for user in (ann, bob)
    ]
    assert found == [b"True False\n", b"False False\n"]
    # Tasks of root have no key of the session that gexecd was started in either.
    spec = job_of(["/usr/bin/python3", "-c", _SEARCH, str(key)])
    assert rig.run(*signed(spec)).output().startswith(b"False")
