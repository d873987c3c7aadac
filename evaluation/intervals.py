"""How sure a figure is: confidence intervals that draw recordings, not pictures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from detection.detections import SIX, Classes, Detections, GroundTruth
from evaluation.alarms import ImageAlarms, image_alarms
from evaluation.matching import ClassMatches, match_class
from metrics import COCO_IOUS, Bools, Floats, Ints, check_pairs

RECALL_POINTS: Floats = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


def average_precision(matches: ClassMatches, weights: Ints) -> Floats:
    """Return COCO's AP (area over 101 recall points) for weighted images; all weights 1 is COCO's own.

    Args:
        matches: of one class at T IoU thresholds.
        weights: (B, I) how often each image counts, in each of B draws.

    Returns:
        (B, T); nan in draws without a truth box.
    """
    boxes = (weights @ matches.boxes).astype(np.float64)
    seen = np.cumsum(weights[:, matches.images], axis=1, dtype=np.int64)
    result = np.full((len(weights), len(matches.hits)), np.nan)
    for t, hits in enumerate(matches.hits):
        where = np.flatnonzero(hits)
        right = np.cumsum(weights[:, matches.images[where]], axis=1, dtype=np.int64)
        precision = right / np.maximum(seen[:, where], 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        envelope = np.hstack([envelope, np.zeros((len(weights), 1))])  # beyond the last recall
        for b in np.flatnonzero(boxes):
            result[b, t] = envelope[b, np.searchsorted(right[b] / boxes[b], RECALL_POINTS)].mean()
    return result


def bootstrap_intervals(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Classes = SIX,
    *,
    score_threshold: float,
    groups: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return 95 % intervals from drawing the recordings again, with replacement.

    Frames of one recording look alike, so a recording is drawn whole: drawing its frames singly would take
    them for so many independent pictures, and the intervals would be too narrow. Matching happens once;
    only the weight of each image differs between draws.

    Args:
        truths: one per image.
        detections: one per image.
        classes: what labels mean, and which are weapons.
        score_threshold: of the alarm.
        groups: each image's recording; by default each image is one of its own.
        draws: how many times.
        seed: of the drawing.

    Returns:
        map, map_50, ap/NAME, ap50/NAME as in coco_summary, image_recall and false_alarms_per_1000; without
        what is in no recording, or in one only, which says nothing of others.

    Raises:
        ValueError: groups and truths differ in number.
    """
    check_pairs(truths, detections, classes.names)
    if not truths:
        return {}
    group_of = group_indices(groups, len(truths))
    drawn = _drawn(group_of, draws, seed)
    values = _bootstrap_ap(truths, detections, classes.names, drawn[:, group_of], group_of)
    spans = {key: _interval(value) for key, value in values.items()}
    alarms = image_alarms(truths, detections, classes)
    return spans | _alarm_intervals(alarms, score_threshold, drawn, group_of)


def alarm_intervals(
    alarms: ImageAlarms,
    groups: Sequence[str] | None,
    *,
    score_threshold: float,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return bootstrap_intervals' image_recall and false_alarms_per_1000 alone, for one more threshold."""
    group_of = group_indices(groups, len(alarms.scores))
    return _alarm_intervals(alarms, score_threshold, _drawn(group_of, draws, seed), group_of)


def _alarm_intervals(
    alarms: ImageAlarms, score_threshold: float, drawn: Ints, group_of: Ints
) -> dict[str, Interval]:
    raised, spans = alarms.scores >= score_threshold, {}
    for key, among, per in (
        ("image_recall", alarms.armed, 1),
        ("false_alarms_per_1000", ~alarms.armed, 1000),
    ):
        span = _share_interval(raised, among, drawn, group_of)
        if span:
            spans[key] = Interval(per * span.low, per * span.high)
    return spans


class FalseAlarmBound:
    """How many false alarms per 1,000 weapon-free images a threshold must be expected to cost at most.

    That is the upper end of a 95 % interval, the larger of two. One draws the recordings again, as
    bootstrap_intervals does: a street that raises one alarm raises it in frame after frame, so counting
    frames alone would take one observation for many. The other is Wilson's, each image counting once:
    drawing again makes too little of rare alarms (1 in 100 images: 30 per 1,000 instead of 54).
    """

    def __init__(
        self, alarms: ImageAlarms, groups: Sequence[str] | None = None, *, draws: int = 1000, seed: int = 0
    ) -> None:
        """Draw once for all thresholds.

        Args:
            alarms: at least one image weapon-free.
            groups: each image's recording; by default each image is one of its own.
            draws: how many times.
            seed: of the drawing; the report's by default, so that both name the same number.
        """
        self._alarms, self._free = alarms, ~alarms.armed
        self._group_of = group_indices(groups, len(alarms.scores))
        self._drawn = _drawn(self._group_of, draws, seed)
        self.images = int(self._free.sum())
        self.recordings = len(np.unique(self._group_of[self._free]))

    def at(self, score_threshold: float) -> float:
        """Return the bound at a threshold: 1000 where all weapon-free images come from one recording."""
        raised = self._alarms.scores >= score_threshold
        span = _share_interval(raised, self._free, self._drawn, self._group_of)
        if span is None or self.recordings < 2:
            return 1000.0
        count = int((raised & self._free).sum())
        wilson = binomtest(count, self.images).proportion_ci(method="wilson").high
        return 1000 * float(max(span.high, wilson))


def ratio_interval(
    counts: Sequence[float], amounts: Sequence[float], *, draws: int = 1000, seed: int = 0
) -> Interval | None:
    """Return the interval of sum(counts) / sum(amounts) from drawing recordings again.

    Args:
        counts: of each recording: alarmed events, false alarms.
        amounts: of each recording, in the same order: events, hours; none negative.
        draws: how many times.
        seed: of the drawing.

    Returns:
        None where fewer than two recordings have an amount, which say nothing of others.
    """
    pairs = np.array([(count, amount) for count, amount in zip(counts, amounts, strict=True) if amount > 0])
    if len(pairs) < 2:
        return None
    sums = _drawn(np.arange(len(pairs)), draws, seed) @ pairs
    return _interval(sums[:, 0] / sums[:, 1])


def group_indices(groups: Sequence[str] | None, images: int) -> Ints:
    """Return each image's group as an index, in order of first appearance; without groups its own place."""
    if groups is None:
        return np.arange(images)
    if len(groups) != images:
        raise ValueError(f"want one group per image: {images} images, {len(groups)} groups")
    order = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    return np.array([order[group] for group in groups], np.int64)


def _drawn(group_of: Ints, draws: int, seed: int) -> Ints:
    """Return (draws, G) how often each group counts when as many groups as there are are drawn."""
    count = int(group_of.max()) + 1
    return np.random.default_rng(seed).multinomial(count, [1 / count] * count, draws)


def _share_interval(raised: Bools, among: Bools, drawn: Ints, group_of: Ints) -> Interval | None:
    """Return the interval of the share of raised among some images; None if they say nothing of others.

    Where all or none are raised, drawing again could only show the same: there it is Wilson's interval for
    n of n, each recording counting once.

    Args:
        raised: (I,).
        among: (I,).
        drawn: (B, G), of _drawn.
        group_of: (I,) index of each image's group.
    """
    recordings = len(np.unique(group_of[among]))
    hits = int((among & raised).sum())
    if hits in (0, int(among.sum())):
        if not recordings:
            return None
        edge = 1.96**2 / (recordings + 1.96**2)
        return Interval(0.0, edge) if hits == 0 else Interval(1 - edge, 1.0)
    if recordings < 2:
        return None
    groups = drawn.shape[1]
    images = (drawn @ np.bincount(group_of[among], minlength=groups)).astype(np.float64)
    count = drawn @ np.bincount(group_of[among & raised], minlength=groups)
    return _interval(np.divide(count, images, where=images > 0, out=images * np.nan))


def _bootstrap_ap(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str],
    weights: Ints, group_of: Ints,
) -> dict[str, Floats]:  # fmt: skip
    every, values, holding = [], {}, np.zeros(len(truths), bool)
    for label, name in enumerate(class_names[1:], start=1):
        matches = match_class(truths, detections, label, COCO_IOUS)
        holding |= matches.boxes > 0
        if matches.boxes.any():
            chunks = np.array_split(weights, max(1, weights.size // 250_000))  # keeps memory under 100 MB
            ap = np.concatenate([average_precision(matches, chunk) for chunk in chunks])
            every.append(ap)
            if len(np.unique(group_of[matches.boxes > 0])) > 1:
                values[f"ap/{name}"], values[f"ap50/{name}"] = ap.mean(axis=1), ap[:, 0]
    if len(np.unique(group_of[holding])) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a draw without any truth box has no mean
            values["map"] = np.nanmean(np.stack(every).mean(axis=2), axis=0)
            values["map_50"] = np.nanmean(np.stack(every)[:, :, 0], axis=0)
    return values


def _interval(values: Floats) -> Interval:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))
