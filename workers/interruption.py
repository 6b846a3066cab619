"""Breaking off work from outside, with a reason: what asyncio.timeout does for time."""

from __future__ import annotations

import asyncio
from types import TracebackType

from workers.errors import WorkError


class Interruption:
    """A scope that another task may break off; leaving it then raises the reason instead of CancelledError.

    A cancellation from anywhere else passes through untouched, and inside the scope's cleanup still runs.
    """

    _task: asyncio.Task[object] | None = None
    _cancelling = 0
    _why: WorkError | None = None

    def interrupt(self, why: WorkError) -> None:
        """Outside the scope, or a second time, this does nothing: what is appended next is fenced anyway."""
        if self._task is None or self._why is not None:
            return
        self._why = why
        self._task.cancel()

    def __enter__(self) -> Interruption:
        self._task = asyncio.current_task()
        assert self._task is not None
        self._cancelling = self._task.cancelling()
        self._why = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._why is None or task is None:
            return
        if task.uncancel() <= self._cancelling and error is not None:
            raise self._why from error
