"""What a starting supervisor tells whoever started the cluster."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable


class StartReport:
    """Progress and result of a start, for a client in another process or for the terminal.

    Args:
        client: the socket of the process that waits; None = this process has the terminal.
        count: the cluster's nodes.
        progress: called with the ready daemons and how many there are, authd included.
    """

    def __init__(
        self, client: socket.socket | None, count: int, progress: Callable[[int, int], None]
    ) -> None:
        self._client = client
        self._of = count + 1
        self._progress = progress

    def step(self, ready: int) -> None:
        """So many daemons are ready."""
        self._tell(event="progress", ready=ready, of=self._of)
        self._progress(ready, self._of)

    def up(self, sentence: str) -> None:
        """All are; the client is told no more."""
        if self._client is None:
            print(sentence, flush=True)
        else:
            self._tell(event="up")
            self._client.close()

    def failed(self, error: Exception) -> None:
        """The cluster does not come up, or has ended; stderr is the terminal, or the supervisor's log."""
        self._tell(event="failed", sentence=str(error))
        print(f"gexecctl: {error}", file=sys.stderr)

    def _tell(self, **event: object) -> None:
        if self._client is not None:
            try:
                self._client.sendall(json.dumps(event).encode() + b"\n")
            except OSError:
                pass  # the client is gone; the watch on its socket ends the cluster
