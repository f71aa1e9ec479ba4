"""A receiver for nodes that have Python 3.11 but no gexec: sent before the files, through the same stdin.

The remote command is Python with a few lines that read an archive of the receiver's modules and run the
receiver from it; the rest of stdin is the stream of files.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: What a receiver imports, and nothing else.
MODULES = (
    "gexec/__init__.py", "gexec/errors.py", "gexec/limits.py", "gexec/version.py",
    "gexec/cli/__init__.py", "gexec/cli/options.py", "gexec/cli/receive.py", "gexec/cli/standard.py",
    "gexec/cli/table.py",
    "gexec/render/__init__.py", "gexec/render/text.py",
    "gexec/files/*.py",
)  # fmt: skip

#: Number of digits of the archive's length in bytes, which precedes it.
_DIGITS = 8
# The archive is kept in a memfd, so that only the files are written to the node's disk.
_LOADER = f"""\
import os,sys,_signal
_signal.signal(2,_signal.SIG_DFL)
if sys.version_info<(3,11):sys.exit('gexec-receive: Python here is older than 3.11')
def read(n):
 d=b''
 while len(d)<n:
  p=os.read(0,n-len(d))
  if not p:sys.exit(3)
  d+=p
 return d
f=os.memfd_create('gexec')
with open(f,'wb',closefd=False) as a:a.write(read(int(read({_DIGITS}))))
sys.path.insert(0,'/proc/self/fd/%d'%f)
from gexec.cli.receive import main
sys.exit(main(sys.argv[1:]))
"""


def archive() -> bytes:
    """Return the bytes that precede the stream of files: the modules as a zip file, after its length."""
    top = Path(__file__).parent.parent.parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
        for pattern in MODULES:
            for path in sorted(top.glob(pattern)):
                # Without a date, so that equal modules are equal bytes.
                info = zipfile.ZipInfo(str(path.relative_to(top)))
                packed.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return b"%0*d" % (_DIGITS, buffer.tell()) + buffer.getvalue()


def words(options: Sequence[str]) -> list[str]:
    """Return the remote command: Python, its script, and the receiver's options."""
    return ["python3", "-I", "-c", _LOADER, *options]
