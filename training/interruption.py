"""How a person or a scheduler stops a training: after the step under way, with a checkpoint."""

from __future__ import annotations

import os
import signal
from types import FrameType


class Interruption:
    """Ctrl-C and SIGTERM ask for a stop after the step under way; a second Ctrl-C stops at once.

    A second SIGTERM does not: systemd signals each process, and torchrun passes its own signal on to them.
    """

    def __init__(self, *, tell: bool) -> None:
        """Listen from now on, and tell the person at the terminal what was understood if tell is true."""
        self.asked, self._tell = False, tell
        signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        asked_before, self.asked = self.asked, True
        if asked_before and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._tell and not asked_before:  # os.write: print may be in the middle of a line of its own
            os.write(2, b"\nstopping after the next step, with a checkpoint; Ctrl-C again stops at once\n")
