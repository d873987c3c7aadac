"""All figures of one model on one split, in one object."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import numpy as np

from detection.detections import SIX, WEAPONS, Classes, Detections, GroundTruth, Latency
from evaluation.alarms import alarm_curve, measure_operating_point
from evaluation.calibration import Reliability, measure_bands, measure_reliability
from evaluation.intervals import Interval, bootstrap_intervals
from evaluation.matching import Corners, class_thresholds, corners, match_class, score_curve
from evaluation.mistakes import (
    Diagnosis,
    ErrorCounts,
    ErrorKind,
    LookalikeCell,
    confusion_matrix,
    diagnose,
    error_counts,
    lookalike_table,
)
from evaluation.points import choose_operating_point
from evaluation.suspects import Suspect, find_suspects
from evaluation.video import VideoResult
from metrics import ORIGINAL_PUBLISHED, check_pairs, coco_summary, original_protocol
from schemas import AlarmPoint, Band, ClassThreshold, MeasuredTables, OperatingPoint

CURVE_POINTS = 150
CARD_CURVE_STEP = 4  # of those, every fourth goes into model.json: enough to draw


@dataclass(frozen=True)
class CurvePoint:
    """Precision, recall and F1 of one class at one score threshold, from raw counts."""

    score_threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ClassResult:
    """One class: how much of it there is, COCO's numbers, and raw counts at the report's threshold.

    ap, ap50 and ar are None without truth boxes; precision without detections; recall without truth boxes.
    best is the threshold of best F1 on this split; curve runs from low to high score.
    """

    name: str
    boxes: int
    images: int
    ap: float | None
    ap50: float | None
    ar: float | None
    right: int
    detections: int
    precision: float | None
    recall: float | None
    best: ClassThreshold | None
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class ExampleBox:
    """One box to draw.

    Attributes:
        label: class name.
        box: xyxy pixels of the upright image.
        score: of a detection; None for a truth box.
        kind: of a detection; for a truth box "correct" if it was found, else None.
    """

    label: str
    box: Corners
    score: float | None = None
    kind: ErrorKind | None = None


@dataclass(frozen=True)
class ImageResult:
    """How well one image went at the report's threshold.

    Attributes:
        name: file stem.
        index: place among the images of the report.
        quality: panoptic quality, sum of IoU over right detections / (right + half of false and missed);
            1 is perfect, and stands for a negative with nothing detected.
        problems: sentences; empty when nothing is wrong.
        truth: the boxes of the truth.
        found: the detections, best score first.
    """

    name: str
    index: int
    quality: float
    problems: tuple[str, ...]
    truth: tuple[ExampleBox, ...]
    found: tuple[ExampleBox, ...]


@dataclass(frozen=True)
class SliceResult:
    """The same images, changed, at the same threshold."""

    name: str
    map: float | None
    map_50: float | None
    image_recall: float
    false_alarms_per_1000: float


@dataclass(frozen=True)
class Report:
    """Everything measured of one model on one split.

    Attributes:
        title: what the figures are to be called: "official test" or "local test", "local val".
        split: train, val or test.
        model: name and version, or folder.
        images: how many; negatives: without any object; recordings: how many they come from, None if unknown.
        class_names: background first.
        weapons: those of them that are dangerous.
        coco: keys of coco_summary, 100 detections per image and class.
        original: the same keys on the single best box of each class in each image.
        original_subset: the same on the images that the original project's loader kept; empty if not asked.
        published: the original's own figures, where they may be compared with; else empty.
        intervals: 95 %, by key of coco, and image_recall, false_alarms_per_1000; from drawing recordings
            again, or pictures where recordings are unknown.
        classes: one per class.
        operating_point: as chosen, on the split it names; the threshold of all counts in this report.
        measured: the same threshold on this split.
        unsure_point: as chosen; None for a model without one.
        unsure_measured: the same threshold on this split.
        bands: the model's, with what was right in them on this split; empty for a model without any.
        reliability: of each kind of score measured; empty without a detection of a weapon.
        alarm_curve: thresholds 0.00 to 1.00 on this split.
        confusion: (C, C) counts, row = truth, column = detection, background first.
        lookalikes: weapon x look-alike.
        errors: by class of the detection, missed by class of the truth.
        worst: images that went worst, worst first; best: best first.
        suspects: labels that are probably wrong, the most certain first.
        latency: None if not measured.
        robustness: changed images, the unchanged first; empty if not measured.
        video: what the cameras' rule makes of clips; None if not measured.
        data: roots, fingerprint, and whatever else says what was measured.
        notes: sentences on what these figures cannot tell.
    """

    title: str
    split: str
    model: str
    created_at: str
    images: int
    negatives: int
    recordings: int | None
    class_names: tuple[str, ...]
    coco: dict[str, float]
    original: dict[str, float]
    original_subset: dict[str, float]
    published: dict[str, float]
    intervals: dict[str, Interval]
    classes: tuple[ClassResult, ...]
    operating_point: OperatingPoint
    measured: OperatingPoint
    alarm_curve: tuple[AlarmPoint, ...]
    confusion: tuple[tuple[int, ...], ...]
    lookalikes: tuple[LookalikeCell, ...]
    errors: tuple[ErrorCounts, ...]
    worst: tuple[ImageResult, ...]
    best: tuple[ImageResult, ...]
    suspects: tuple[Suspect, ...] = ()
    weapons: tuple[str, ...] = WEAPONS
    unsure_point: OperatingPoint | None = None
    unsure_measured: OperatingPoint | None = None
    bands: tuple[Band, ...] = ()
    reliability: tuple[Reliability, ...] = ()
    latency: Latency | None = None
    robustness: tuple[SliceResult, ...] = ()
    video: VideoResult | None = None
    data: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def score_threshold(self) -> float:
        """The threshold of all counts."""
        return self.operating_point.score_threshold


def build_report(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Classes = SIX,
    *,
    names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    operating_point: OperatingPoint | None = None,
    unsure_point: OperatingPoint | None = None,
    bands: Sequence[Band] = (),
    split: str = "val",
    official: bool = False,
    model: str = "",
    data: Mapping[str, str] | None = None,
    draws: int = 1000,
    examples: int = 12,
) -> Report:
    """Measure everything that can be measured from truths and detections alone.

    Args:
        truths: one per image.
        detections: one per image, down to a low score.
        classes: what labels mean, and which are weapons.
        names: file stems, for the best and worst images.
        groups: each image's recording, for the intervals; see bootstrap_intervals.
        operating_point: the model's; by default one is chosen on these very images, and a note says so.
        unsure_point: the model's, if it has one.
        bands: the model's, if it has any.
        split: train, val or test.
        official: the images are the official test split, all of it; else the title says local.
        model: name and version, or folder.
        data: what says which data it was: roots, fingerprint.
        draws: of the bootstrap.
        examples: how many worst images, and half as many best.

    Raises:
        ValueError: no image, or lists of different length, or a label outside class_names.
    """
    class_names = classes.names
    check_pairs(truths, detections, class_names)
    if not truths:
        raise ValueError(f"expected at least one image in the {split} split, got none")
    point = operating_point or choose_operating_point(truths, detections, classes, groups=groups, split=split)
    found = [one.above(point.score_threshold) for one in detections]
    diagnoses = [diagnose(truth, one) for truth, one in zip(truths, found, strict=True)]
    stems = names or [f"image {i}" for i in range(len(truths))]
    ranked = rank_images(stems, truths, found, diagnoses, classes)
    coco = coco_summary(truths, detections, class_names)
    thresholds = class_thresholds(truths, detections, class_names)
    measured, unsure_measured = (
        measure_operating_point(
            one.score_threshold, truths, detections, classes, rule=f"chosen on {one.split}", split=split
        )
        if one
        else None
        for one in (point, unsure_point)
    )
    assert measured is not None
    reliability = measure_reliability(truths, detections, classes, scores="served")
    return Report(
        title=f"{'official' if official else 'local'} {split}",
        split=split,
        model=model,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        images=len(truths),
        negatives=sum(not len(truth.labels) for truth in truths),
        recordings=len(set(groups)) if groups else None,
        class_names=class_names,
        weapons=classes.dangerous,
        coco=coco,
        original=original_protocol(truths, detections, class_names),
        original_subset={},
        published=dict(ORIGINAL_PUBLISHED) if official else {},
        intervals=bootstrap_intervals(
            truths, detections, classes, score_threshold=point.score_threshold, groups=groups, draws=draws
        ),
        classes=tuple(
            _class_result(label, class_names, truths, detections, coco, thresholds, point.score_threshold)
            for label in range(1, len(class_names))
        ),
        operating_point=point,
        measured=measured,
        alarm_curve=alarm_curve(truths, detections, classes),
        unsure_point=unsure_point,
        unsure_measured=unsure_measured,
        bands=measure_bands(bands, truths, detections, classes),
        reliability=(reliability,) if reliability else (),
        confusion=tuple(tuple(row) for row in confusion_matrix(truths, found, class_names).tolist()),
        lookalikes=lookalike_table(truths, found, classes),
        errors=error_counts(truths, diagnoses, found, class_names),
        worst=tuple(one for one in ranked if one.problems)[:examples],
        best=tuple(one for one in reversed(ranked) if len(truths[one.index].labels))[: examples // 2],
        suspects=find_suspects(stems, truths, found, diagnoses, classes),
        data=dict(data or {}),
        notes=tuple(
            _notes(
                coco,
                point,
                measured,
                groups=groups,
                chosen_here=operating_point is None or point.split == split,
            )
        ),
    )


def _class_result(
    label: int, class_names: Sequence[str], truths: Sequence[GroundTruth], detections: Sequence[Detections],
    coco: Mapping[str, float], thresholds: Mapping[str, ClassThreshold], score_threshold: float,
) -> ClassResult:  # fmt: skip
    name = class_names[label]
    matches = match_class(truths, detections, label)
    curve = score_curve([matches])
    boxes, above = int(matches.boxes.sum()), matches.scores >= score_threshold
    right, count = int(matches.hits[0][above].sum()), int(above.sum())
    keep = np.unique(np.linspace(0, len(curve.scores) - 1, CURVE_POINTS).astype(int))[::-1]
    points = [
        (curve.scores[i], curve.precision[i], curve.recall[i], curve.f1[i]) for i in keep if len(curve.f1)
    ]
    return ClassResult(
        name=name,
        boxes=boxes,
        images=int((matches.boxes > 0).sum()),
        ap=coco.get(f"ap/{name}"),
        ap50=coco.get(f"ap50/{name}"),
        ar=coco.get(f"ar/{name}"),
        right=right,
        detections=count,
        precision=right / count if count else None,
        recall=right / boxes if boxes else None,
        best=thresholds.get(name),
        curve=tuple(CurvePoint(*map(float, point)) for point in points) if boxes else (),
    )


def _notes(
    coco: Mapping[str, float], point: OperatingPoint, measured: OperatingPoint, *, chosen_here: bool,
    groups: Sequence[str] | None,
) -> Iterator[str]:  # fmt: skip
    if chosen_here:
        yield (
            "The operating point was chosen on these very images, so its recall and false alarms are "
            "flattering; on new images expect worse."
        )
    if groups and len(set(groups)) == 1:
        yield (
            f"All images come from one recording ({groups[0]}), which says nothing of others: there are no "
            "intervals."
        )
    if not measured.weapon_free_images:
        yield "No image here is free of weapons, so false alarms could not be measured."
    elif measured.weapon_free_images < 100:
        yield (
            f"Only {measured.weapon_free_images} images are free of weapons: one false alarm more or less "
            f"moves the rate by {1000 / measured.weapon_free_images:.0f} per 1,000."
        )
    if not measured.weapon_images:
        yield "No image here shows a weapon, so weapon recall could not be measured."
    if "map_small" not in coco:
        yield (
            "No object here is smaller than 32 x 32 pixels: nothing can be said about small or distant "
            "weapons."
        )
    if point.score_threshold >= 1:
        yield "The model found nothing right at any score, so no threshold could be chosen."


def rank_images(
    names: Sequence[str],
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    diagnoses: Sequence[Diagnosis],
    classes: Classes = SIX,
) -> list[ImageResult]:
    """Return the images, worst first: by quality, then by missed weapons and how sure a false weapon was."""
    weapons = classes.weapons
    keyed = []
    for i, (truth, found, one) in enumerate(zip(truths, detections, diagnoses, strict=True)):
        right = np.array([kind == "correct" for kind in one.kinds], bool)
        lost = int(np.isin(truth.labels[~one.found], weapons).sum())
        false_score = float(found.take(~right).of(weapons).scores.max(initial=0.0))
        result = _image_result(names[i], i, truth, found, one, classes.names)
        keyed.append(((result.quality, -lost, -false_score, i), result))
    return [result for _, result in sorted(keyed, key=lambda pair: pair[0])]


def _image_result(
    name: str, index: int, truth: GroundTruth, found: Detections, one: Diagnosis, class_names: Sequence[str]
) -> ImageResult:
    right = np.array([kind == "correct" for kind in one.kinds], bool)
    total = right.sum() + 0.5 * (~right).sum() + 0.5 * (~one.found).sum()
    called = [class_names[label] for label in found.labels]
    return ImageResult(
        name=name,
        index=index,
        quality=float(one.iou[right].sum() / total) if total else 1.0,
        problems=tuple(_problems(truth, found, one, class_names)),
        truth=tuple(
            ExampleBox(class_names[label], corners(box), kind="correct" if right else None)
            for box, label, right in zip(truth.boxes, truth.labels, one.found, strict=True)
        ),
        found=tuple(
            ExampleBox(label, corners(box), float(score), kind)
            for label, box, score, kind in zip(called, found.boxes, found.scores, one.kinds, strict=True)
        ),
    )


def _problems(
    truth: GroundTruth, found: Detections, one: Diagnosis, class_names: Sequence[str]
) -> Iterator[str]:
    for d, kind in enumerate(one.kinds):
        said = f"{class_names[found.labels[d]]} {found.scores[d]:.2f}"
        really = class_names[truth.labels[one.truth_of[d]]] if one.truth_of[d] >= 0 else ""
        if kind == "class":
            yield f"{said} is a {really}"
        elif kind == "localisation":
            yield f"{said} is badly placed (IoU {one.iou[d]:.2f})"
        elif kind == "duplicate":
            yield f"{said} is a second box on one {really}"
        elif kind == "background":
            yield f"{said} is nothing"
    for label in truth.labels[one.missed]:
        yield f"{class_names[label]} missed"


def card_tables(report: Report) -> MeasuredTables | None:
    """Return what the model card keeps of the report's curves and tables; None for the training split."""
    if report.split not in ("val", "test"):
        return None
    return MeasuredTables.model_validate({
        "split": report.split,
        "precision_recall": {
            result.name: [
                {"score_threshold": p.score_threshold, "precision": p.precision, "recall": p.recall}
                for p in result.curve[::CARD_CURVE_STEP]
            ]
            for result in report.classes if result.curve
        },
        "confusion": report.confusion,
        "lookalikes": [asdict(cell) for cell in report.lookalikes],
    })  # fmt: skip


def flat_metrics(report: Report) -> dict[str, float]:
    """Return the report's main figures by MLflow name: split/word; what could not be measured is left out."""
    point = report.measured
    values: dict[str, float | None] = {
        "recordings": report.recordings,
        **report.coco,
        **{
            f"original_protocol/{key}": value
            for key, value in report.original.items()
            if key.startswith("ma")
        },
        "alarm/score_threshold": point.score_threshold,
        "alarm/image_recall": point.image_recall if point.weapon_images else None,
        "alarm/false_alarms_per_1000": point.false_alarms_per_1000 if point.weapon_free_images else None,
        "alarm/precision": point.precision,
        "alarm/recall": point.recall if point.weapon_images else None,
    }
    unsure = report.unsure_measured
    if unsure:
        values["unsure/score_threshold"] = unsure.score_threshold
        values["unsure/image_recall"] = unsure.image_recall if unsure.weapon_images else None
        if unsure.weapon_free_images:
            values["unsure/false_alarms_per_1000"] = unsure.false_alarms_per_1000
    values |= {f"calibration_error/{one.scores}": one.error for one in report.reliability}
    for cell in report.lookalikes:
        if cell.weapon == cell.lookalike == "any":
            values["lookalike_alarm_rate"] = cell.called_weapon_share
            values["weapon_as_lookalike_rate"] = cell.called_lookalike_share
    for key, interval in report.intervals.items():
        name = f"alarm/{key}" if f"alarm/{key}" in values else key
        if values.get(name) is not None and math.isfinite(interval.low + interval.high):
            values[f"{name}/low"], values[f"{name}/high"] = interval.low, interval.high
    if report.video:
        for key in ("alarmed_share", "time_to_alarm_s", "false_alarms_per_hour"):
            values[f"video/{key}"] = getattr(report.video.figures, key)
    if report.latency:
        values["latency/detect_median_ms"] = report.latency.detect_median_ms
        values["latency/detect_p95_ms"] = report.latency.detect_p95_ms
    return {f"{report.split}/{key}": value for key, value in values.items() if value is not None}
