"""How a camera's watching does, in figures: counted by its watcher's thread, read by others."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cameras.events import LensTrouble
from schemas import Verdict

RATE_OVER_S = 10.0
HOUR_S = 3600.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What was counted of one camera since the start, and lately.

    Attributes:
        looks: pictures that the API has looked at.
        looks_per_second: over the last RATE_OVER_S seconds.
        delay_s: between the last such picture's coming and the API's answer; None before the first.
        refusals: pictures that the API would not look at, by its status (429, 503).
        confirmed, in_last_hour: objects by the verdict that they reached.
        troubles: of the lens, by kind.
    """

    looks: int = 0
    looks_per_second: float = 0.0
    delay_s: float | None = None
    refusals: Mapping[int, int] = field(default_factory=dict)
    confirmed: Mapping[Verdict, int] = field(default_factory=dict)
    in_last_hour: Mapping[Verdict, int] = field(default_factory=dict)
    troubles: Mapping[LensTrouble, int] = field(default_factory=dict)


class Tally:
    """Counts; safe to share between threads.

    Args:
        clock: a monotonic one, seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._looks = 0
        self._delay_s: float | None = None
        self._refusals: Counter[int] = Counter()
        self._confirmed: Counter[Verdict] = Counter()
        self._troubles: Counter[LensTrouble] = Counter()
        self._looked_at: deque[float] = deque()
        self._confirmed_at: deque[tuple[float, Verdict]] = deque()
        self._began = clock()

    def looked(self, delay_s: float) -> None:
        """Count a picture that the API answered so many seconds after it came."""
        with self._lock:
            self._looks, self._delay_s = self._looks + 1, delay_s
            self._looked_at.append(self._clock())
            self._forget()

    def refused(self, status: int) -> None:
        """Count a picture that the API would not look at."""
        with self._lock:
            self._refusals[status] += 1

    def confirmed(self, verdict: Verdict) -> None:
        """Count an object whose verdict rose to this."""
        with self._lock:
            self._confirmed[verdict] += 1
            self._confirmed_at.append((self._clock(), verdict))
            self._forget()

    def troubled(self, kind: LensTrouble) -> None:
        """Count a lens that began to see nothing."""
        with self._lock:
            self._troubles[kind] += 1

    def now(self) -> Figures:
        """Return what is counted so far."""
        with self._lock:
            self._forget()
            over_s = min(RATE_OVER_S, max(1.0, self._clock() - self._began))
            return Figures(
                looks=self._looks, looks_per_second=len(self._looked_at) / over_s, delay_s=self._delay_s,
                refusals=dict(self._refusals), confirmed=dict(self._confirmed),
                in_last_hour=dict(Counter(verdict for _, verdict in self._confirmed_at)),
                troubles=dict(self._troubles),
            )  # fmt: skip

    def _forget(self) -> None:
        now = self._clock()
        while self._looked_at and self._looked_at[0] <= now - RATE_OVER_S:
            self._looked_at.popleft()
        while self._confirmed_at and self._confirmed_at[0][0] <= now - HOUR_S:
            self._confirmed_at.popleft()
