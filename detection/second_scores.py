"""What a second look makes of scores, in numpy: which boxes it looks at, and how far it moves them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas import SecondLookConfig

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
LONGEST_LOGIT = 9.0  # of the second look: no crop outvotes a detector by more
NEAREST = 1e-6  # to 0 and 1


def candidates(scores: Floats, is_weapon: NDArray[np.bool_], config: SecondLookConfig) -> Ints:
    """Return the places of weapon candidates, best first; the first config.most of them are looked at.

    Args:
        scores: (N,), best first.
        is_weapon: (N,) whether the box is named as a weapon.
        config: of the model card.
    """
    return np.flatnonzero(is_weapon & (scores >= config.score_from))


def evidence(logits: Floats) -> Floats:
    """Return how much a crop speaks for a weapon, of whatever kind: log odds, (N,) within LONGEST_LOGIT.

    Args:
        logits: (N, O), "no weapon" first.
    """
    weapon = np.logaddexp.reduce(logits[:, 1:], axis=1)
    seen: Floats = np.clip(weapon - logits[:, 0], -LONGEST_LOGIT, LONGEST_LOGIT).astype(np.float32)
    return seen


def moved(scores: Floats, every: Ints, seen: Floats, config: SecondLookConfig) -> Floats:
    """Return the scores after the second look, (N,), in the order given.

    To the log odds of a candidate config.weight times its crop's evidence is added. Candidates past those
    looked at get what the least convincing of those got, so that none overtakes them unseen.

    Args:
        scores: (N,).
        every: of candidates, (K,).
        seen: the evidence of the first of them, (at most config.most,).
        config: of the model card.
    """
    steps = np.full(len(every), min(float(seen.min()), 0.0), np.float32)
    steps[: len(seen)] = seen
    inside = np.clip(scores[every], np.float32(NEAREST), np.float32(1 - NEAREST))
    odds = np.log(inside) - np.log1p(-inside) + np.float32(config.weight) * steps
    result = scores.copy()
    result[every] = 1 / (1 + np.exp(-odds))
    return result
