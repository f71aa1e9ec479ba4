"""For all tests: property tests try the same examples everywhere, and are never failed by a slow machine.

HYPOTHESIS_PROFILE=nightly (`make nightly`) tries other examples each time, and more of them.
"""

from __future__ import annotations

import os
import signal

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
