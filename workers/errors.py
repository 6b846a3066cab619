"""What interrupts or postpones work; each class is a different reaction of the runner."""

from __future__ import annotations


class WorkError(Exception):
    """Work did not come to its end. The text names no person and quotes no message: it may be stored."""


class Overtaken(WorkError):
    """A person took the conversation while the assistant was at work: nothing more of it may be said."""


class LaneLost(WorkError):
    """Another worker has the lane, or the item is done: leave no trace and let go."""


class Stopped(WorkError):
    """This process ends: hand the lane back, so that another worker goes on at once."""


class Cancelled(WorkError):
    """A client asked to end the run: nothing more of it may be said."""


class TryAgain(WorkError):
    """Not now; the policy of the handler says when and how often, but not before `after_s`."""

    def __init__(self, why: str, after_s: float = 0.0) -> None:
        super().__init__(why)
        self.after_s = after_s


class Busy(TryAgain):
    """Whoever was asked takes nothing from anybody now: time helps, and not the number of attempts. `code` is for
    whoever gives up waiting."""

    def __init__(self, code: str, why: str, after_s: float = 0.0) -> None:
        super().__init__(why, after_s)
        self.code = code


class TooEarly(WorkError):
    """There is nothing to do before a time, or before the lane is hastened: wait without a worker, and without counting
    this as an attempt."""

    def __init__(self, why: str, pause_ms: int) -> None:
        super().__init__(why)
        self.pause_ms = pause_ms


class Rejected(WorkError):
    """Whoever was asked will never do this: the run fails with this code, without another attempt."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code
