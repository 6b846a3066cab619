"""Whether this machine stood still, as one that is shared does now and then: nothing that has a time limit is shown by
a test that ran meanwhile."""

from __future__ import annotations

import threading
import time

LOOK_S, LATE_S = 0.05, 0.02
STILL_S = 0.4
"""Of about a second, at once or in pieces. A test that computes without a pause delays a thread by half of it."""
KEPT = 0.95
"""What counts at a look of what counted at the one before: a half of it is forgotten in 0.7 s."""


class Standstill:
    """Looks at the clock from a thread of its own."""

    def __init__(self) -> None:
        self._last = 0.0
        self._since = 0.0
        """When the machine was last seen to go on after it had stood still."""

    def watch(self) -> None:
        """From now on, for as long as the process lives."""
        self._last = time.monotonic()
        threading.Thread(target=self._look, name="standstill", daemon=True).start()

    def after(self, began: float) -> bool:
        """Whether it did at any time after this one (of the monotonic clock)."""
        return self._since > began or time.monotonic() - self._last > STILL_S

    def _look(self) -> None:
        lost = 0.0
        while True:
            time.sleep(LOOK_S)
            now = time.monotonic()
            late = now - self._last - LOOK_S
            lost = lost * KEPT + late
            if lost > STILL_S and late > LATE_S:
                self._since = now
            self._last = now
