"""Two models on the same pictures: where they differ, as a page."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from detection.overlaps import box_iou
from evaluation import looking
from evaluation.looking import Finding
from evaluation.matching import Corners
from evaluation.pictures import FoundBox, Pictures, PicturesError, SeenPicture, read_pictures
from evaluation.report import COMPARE_FILE, writing
from evaluation.results import Report
from evaluation.suspects import Suspect
from metrics import IOU

# A weapon found by one alone comes before a look-alike, an alarm before a box.
COMPARE_KINDS = (
    ("all", "every difference"), ("false_alarm", "false alarms"), ("alarm", "alarms on weapons"),
    ("found", "objects found"), ("wrong", "wrong detections"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Compared:
    """What came of comparing with another report.

    Attributes:
        pictures: of the other; None where they cannot be compared.
        note: why not, "" if they can.
    """

    pictures: Pictures | None
    note: str = ""

    @property
    def model(self) -> str:
        """What to call the other model, "" where it cannot be compared."""
        return (self.pictures.model or self.pictures.title) if self.pictures else ""

    def onto(self, report: Report) -> Report:
        """Return the report with what the other model says of its suspected labels, or with the note."""
        if not self.pictures:
            return dataclasses.replace(report, notes=(*report.notes, self.note))
        return dataclasses.replace(report, suspects=agree(report.suspects, self.pictures))


def compare(mine: Pictures, other: Report, against: Path, folder: Path) -> Compared:
    """Write compare.html into the folder of a report, if the other report is of the same pictures.

    Args:
        mine: the pictures of the report.
        other: the other report.
        against: where that lies: it, or its folder.
        folder: of the report.
    """
    if other.data.get("Fingerprint") != mine.fingerprint or other.images != len(mine.pictures):
        return Compared(
            None,
            f"{against} is of other images ({other.title}, {other.images} images): the two columns do not "
            "say which model is better.",
        )
    if other.class_names != mine.class_names:
        return Compared(None, f"{against} is of other classes, so pictures are not compared one by one.")
    try:
        pictures = read_pictures(against)
    except PicturesError as error:
        return Compared(None, f"pictures are not compared one by one: {error}.")
    write_comparison(mine, pictures, folder)
    return Compared(pictures)


def differences(first: Pictures, second: Pictures) -> dict[int, list[Finding]]:
    """Return what one of two models alone says, each at its own alarm point, by index of the picture.

    An object is found by one alone if it has a right detection of that one only; a wrong detection is of one
    alone if the other has no wrong detection of that class there (IoU at least 0.5). Pictures without a
    difference are left out.
    """
    weapons = set(first.weapons)
    found = {}
    for index, pair in enumerate(zip(first.pictures, second.pictures, strict=True)):
        above = [one.above(side.score_threshold) for one, side in zip(pair, (first, second), strict=True)]
        here = [*_alarms(pair[0], above, weapons), *_objects(pair[0], above), *_wrong(above)]
        if here:
            found[index] = here
    return found


def _alarms(
    picture: SeenPicture, above: Sequence[Sequence[FoundBox]], weapons: set[str]
) -> Iterator[Finding]:
    best = [next((one for one in found if one.label in weapons), None) for found in above]
    shown = next((box.label for box in picture.truth if box.label in weapons), "")
    for side, one in enumerate(best):
        if one and not best[1 - side]:
            yield Finding("alarm" if shown else "false_alarm", shown, one.label, one.score, side)


def _objects(picture: SeenPicture, above: Sequence[Sequence[FoundBox]]) -> Iterator[Finding]:
    right = [{one.truth: one for one in found if one.kind == "correct"} for found in above]
    for side in (0, 1):
        for index in sorted(right[side].keys() - right[1 - side].keys()):
            label = picture.truth[index].label
            yield Finding("found", label, label, right[side][index].score, side)


def _wrong(above: Sequence[Sequence[FoundBox]]) -> Iterator[Finding]:
    wrong = [[one for one in found if one.kind != "correct"] for found in above]
    for side in (0, 1):
        for one in wrong[side]:
            if not any(
                one.label == other.label and _same_place(one.box, other.box) for other in wrong[1 - side]
            ):
                yield Finding("wrong", "", one.label, one.score, side)


def _same_place(a: Corners, b: Corners) -> bool:
    return bool(box_iou(np.array([a], np.float32), np.array([b], np.float32))[0, 0] >= IOU)


def agree(suspects: Sequence[Suspect], other: Pictures) -> tuple[Suspect, ...]:
    """Return the suspected labels with whether another model says the same, those where it does first."""
    judged = [dataclasses.replace(one, agreed=_agrees(one, other)) for one in suspects]
    return tuple(sorted(judged, key=lambda one: not one.agreed))


def _agrees(suspect: Suspect, other: Pictures) -> bool:
    if suspect.doubt == "two boxes":
        return True  # no model is needed to see it
    picture = other.pictures[suspect.index]
    called = [one for one in picture.above(other.score_threshold) if one.label == suspect.called]
    if suspect.doubt == "badly placed":
        return any(
            one.kind == "localisation" and picture.truth[one.truth].box == suspect.box for one in called
        )
    found = any(
        one.kind == "correct" and picture.truth[one.truth].box == suspect.box
        for one in picture.above(other.score_threshold)
    )
    return not found and any(_same_place(one.box, suspect.box) for one in called)


def worst_differences(found: Mapping[int, Sequence[Finding]], weapons: Sequence[str]) -> list[int]:
    """Return the indices of pictures, those that matter most first: alarms, then weapons, then the rest."""

    def key(index: int) -> tuple[int, float, int]:
        ranks = [_rank(one, weapons) for one in found[index]]
        best = min(ranks)
        return (
            best,
            -max(one.score for one, rank in zip(found[index], ranks, strict=True) if rank == best),
            index,
        )

    return sorted(found, key=key)


def _rank(finding: Finding, weapons: Sequence[str]) -> int:
    if finding.kind in ("alarm", "false_alarm"):
        return 0
    return 1 if {finding.truth, finding.called} & set(weapons) else 2


def write_comparison(mine: Pictures, other: Pictures, folder: Path) -> Path:
    """Write compare.html into the folder of a report and return its path.

    Args:
        mine: the pictures of the report.
        other: what another model said of the same pictures.
        folder: of the report.

    Raises:
        evaluation.report.ReportError: the folder cannot be written.
    """
    sides = [mine, other]
    names = [side.model or side.title for side in sides]
    if names[0] == names[1]:
        names = [f"{names[0]}, this report", f"{names[1]}, the other report"]
    found = differences(mine, other)
    order = worst_differences(found, mine.weapons)
    small = looking.small_pictures(mine.pictures, order[: looking.MOST_PICTURES])
    page = (
        looking.page_environment()
        .get_template("compare_template.html")
        .render(
            sides=sides,
            names=names,
            differing=len(found),
            rows=difference_rows(found, mine.class_names),
            kinds=COMPARE_KINDS,
            **looking.look_context(looking.look_data(sides, names, order, small, found)),
        )
    )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / COMPARE_FILE).write_text(page, encoding="utf-8")
    return folder / COMPARE_FILE


def difference_rows(
    found: Mapping[int, Sequence[Finding]], class_names: Sequence[str]
) -> list[tuple[str, str, tuple[int, int]]]:
    """Return (kind, class name, how many of each model alone); alarms have no class, and stand first."""
    counts = Counter[tuple[str, str, int]](
        (one.kind, "" if "alarm" in one.kind else one.called, one.side)
        for each in found.values()
        for one in each
    )
    wanted = [("alarm", ""), ("false_alarm", "")]
    wanted += [(kind, name) for kind in ("found", "wrong") for name in class_names[1:]]
    return [(kind, name, (counts[kind, name, 0], counts[kind, name, 1])) for kind, name in wanted]
