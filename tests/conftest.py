"""For all tests: property tests try the same examples everywhere, and are never failed by a slow machine.

HYPOTHESIS_PROFILE=nightly (`make nightly`) tries other examples each time, and more of them.

No test sees the configuration of the machine: its HOME, its environment or /etc/clustershell.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("gexec", deadline=None, derandomize=True, print_blob=True)
# What fails is printed with the line that tries it again; nothing of it is kept on disk.
settings.register_profile("nightly", deadline=None, print_blob=True, max_examples=1000, database=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or "gexec")


# A runner that was itself started by nohup or in the background of a script has some signals ignored,
# and every process inherits that; commands under test are to see what a shell gives them.
for _signum in (
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGTSTP,
    signal.SIGUSR1,
    signal.SIGUSR2,
):
    signal.signal(_signum, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


#: What a test may see of the environment: how programs are found and run, never what they work on. None of
#: Python's variables: PYTHONUNBUFFERED hides what is lost when a stream is flushed at the end.
_KEPT = {"LANG", "LOGNAME", "PATH", "SHELL", "TERM", "TMPDIR", "USER", "VIRTUAL_ENV"}
_KEPT |= {"GEXEC_NATIVE", "GEXEC_SIMULATED_SEEDS"}
_KEPT_PREFIXES = ("LC_", "PYTEST", "COV", "GEXEC_TEST", "HYPOTHESIS", "DEBIAN_")

for _name in list(os.environ):
    if _name not in _KEPT and not _name.startswith(_KEPT_PREFIXES):
        del os.environ[_name]
_home = tempfile.mkdtemp(prefix="gexec-home-")
os.chmod(_home, 0o755)  # tests that run as root start processes of others
os.environ["HOME"] = _home
atexit.register(shutil.rmtree, _home, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs root for everybody else: the marker alone says so."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root")


def pytest_report_header() -> str:
    """Say which gexec is tested: the sources, or the wheel that was built of them."""
    import gexec

    return f"gexec: {os.path.dirname(gexec.__file__)}"


@pytest.fixture(scope="session", autouse=True)
def no_groups_of_this_machine() -> Iterator[None]:
    """Keep the node groups of the machine's own ClusterShell out of the tests."""
    from gexec.client import groups

    patch = pytest.MonkeyPatch()
    patch.setattr(groups, "SYSTEM_FOLDER", f"{_home}/nothing")
    yield
    patch.undo()
