"""What can go wrong in a sweep.

SweepError        the sweep cannot go on
  (RuntimeError)
TrialCrashed      one trial gave no number; the sweep goes on
TrialStopped      somebody stopped one trial; it is taken up again
"""

from __future__ import annotations


class SweepError(RuntimeError):
    """The sweep cannot begin or go on; the message says why and what to do."""


class TrialCrashed(RuntimeError):
    """A trial ended without a validation mAP; the message is what it said last."""


class TrialStopped(RuntimeError):
    """Somebody stopped a trial before its end; its checkpoint waits."""
