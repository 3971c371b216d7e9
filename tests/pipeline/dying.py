"""A student of which the second process of a run dies, once, in the middle of its training."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from kdtoolkit_students.bilstm import BiLSTM

DIED = Path("died")


class Dying(BiLSTM):
    """The thirteenth step is the second process's last, unless the file `DIED` is there."""

    steps = 0

    def encode(self, batch):
        if self.training and os.environ.get("RANK") == "1" and not DIED.exists():
            Dying.steps += 1
            if Dying.steps == 13:
                DIED.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(batch)
