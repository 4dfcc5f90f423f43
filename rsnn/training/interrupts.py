"""Ctrl-C and termination: the running update is finished and saved first; a second Ctrl-C does not wait."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Takes SIGINT and SIGTERM for the time of a `with` block; `agreed` says whether to stop."""

    def __init__(self) -> None:
        self.asked = False
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._take) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def _take(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def agreed(self, accelerator: Any) -> bool:
        """Tell whether any process was asked to stop; all get the same answer at the same update."""
        if accelerator.num_processes == 1:
            return self.asked
        if self.asked:
            accelerator.set_trigger()
        return bool(accelerator.check_trigger())
