"""A bounded queue before the threads that run one model for many callers. No HTTP here.

ServingError
  QueueFull      no place left; says when to come back
  NoModel        (models.py) nothing is loaded yet; says why
"""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

T = TypeVar("T")


class ServingError(RuntimeError):
    """The model cannot answer now."""


class QueueFull(ServingError):
    """No place is left in the queue.

    Attributes:
        retry_after_seconds: when a place should be free.
    """

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"every place in the queue is taken; try again in {retry_after_seconds} s")
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True, slots=True)
class Ran(Generic[T]):
    """What a piece of work returned, and how long it waited and took."""

    value: T
    queue_ms: float
    run_ms: float


class InferenceQueue:
    """A bounded queue in front of a few threads; a place is a request. Used from one event loop only.

    Args:
        workers: threads, so pieces of work at the same time.
        max_waiting: pieces of work that may wait beside those running.
    """

    def __init__(self, workers: int, max_waiting: int) -> None:
        self.workers = workers
        self._places = workers + max_waiting
        self._taken = 0
        self._usual_seconds = 0.5  # a running mean; the start is a guess that the first answers correct
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._begun: dict[int, float] = {}  # thread -> when it began what it is at
        # The interpreter does not wait for daemons: a thread that is stuck keeps no process from ending.
        self._threads = [
            threading.Thread(target=self._run, name=f"inference_{i}", daemon=True) for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        me = threading.get_ident()
        while (work := self._work.get()) is not None:
            self._begun[me] = time.monotonic()
            try:
                work()
            finally:
                del self._begun[me]
            del work  # it holds a picture's bytes

    @property
    def waiting(self) -> int:
        """Pieces of work that nobody has begun."""
        return max(0, self._taken - self.workers)

    @property
    def busy_seconds(self) -> float:
        """For how long the piece of work that was begun first has been running; 0 where none runs."""
        begun = list(self._begun.values())
        return time.monotonic() - min(begun) if begun else 0.0

    def check_room(self, *, full: bool = False) -> None:
        """Raise QueueFull unless a place is free, or if the caller knows that it is full."""
        missing = self._taken + 1 - self._places
        if missing > 0 or full:
            seconds = math.ceil(missing * self._usual_seconds / self.workers)
            raise QueueFull(min(max(seconds, 1), 60))

    def submit(self, piece: Callable[[], T]) -> asyncio.Future[Ran[T]]:
        """Queue a piece of work.

        Cancelling its future drops work that has not begun; begun work keeps its place to the end.

        Raises:
            QueueFull: no place is free.
        """
        self.check_room()
        return self._submit(piece, places=1)

    def run_aside(self, piece: Callable[[], T]) -> asyncio.Future[Ran[T]]:
        """Run work that takes no caller's place, after all that was accepted so far."""
        return self._submit(piece, places=0)

    def _submit(self, piece: Callable[[], T], *, places: int) -> asyncio.Future[Ran[T]]:
        loop = asyncio.get_running_loop()
        future: Future[Ran[T]] = Future()
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(self._release, done, places))
        self._taken += places
        self._work.put(partial(_carry_out, future, piece, time.perf_counter()))
        return asyncio.wrap_future(future)

    def _release(self, done: Future[Ran[T]], places: int) -> None:
        self._taken -= places
        if places and not done.cancelled() and done.exception() is None:
            self._usual_seconds += 0.2 * (done.result().run_ms / 1000 - self._usual_seconds)

    def close(self, seconds: float = 30) -> bool:
        """Finish what was accepted and end the threads; True if they did within that time."""
        end = time.monotonic() + seconds
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


def _carry_out(future: Future[Ran[T]], piece: Callable[[], T], submitted: float) -> None:
    """Run a piece of work and hand its value or its error to the future; not if that was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    began = time.perf_counter()
    try:
        value = piece()
    except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
        future.set_exception(error)
        return
    future.set_result(Ran(value, (began - submitted) * 1000, (time.perf_counter() - began) * 1000))
