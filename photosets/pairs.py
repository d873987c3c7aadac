"""A picture and its annotation, wherever a layout keeps the two; and what can be wrong with either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from photosets.annotations import RepairKind, Source
from photosets.layout import Side

ProblemKind = Literal[
    "missing image",
    "unreadable image",
    "broken annotation",
    "unknown class",
    "size differs",
    "image without annotation",
    "no box left",
    RepairKind,
]
# The sample is lost, or its annotation cannot be trusted: a person should look. The others are repairs.
ERRORS: frozenset[ProblemKind] = frozenset(
    ("missing image", "unreadable image", "broken annotation", "unknown class", "size differs", "no box left")
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that was wrong with a file, and what was done about it."""

    kind: ProblemKind
    path: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture and its annotation, or the one of them that is there.

    Attributes:
        stem: what the picture is called, without suffix and with the folders it lies in: its recording and
            its side are found by it.
        image_path: of the picture.
        annotation: where its annotation stands.
        side: of its root; in a root without validation pictures, train is divided later.
        problem: why it cannot be used, where the layout's own lists say so.
    """

    stem: str
    image_path: Path | None
    annotation: Source | None
    side: Side
    problem: Problem | None = None

    def is_whole(self, *, negatives: bool) -> bool:
        """Whether this is a sample."""
        there = self.image_path is not None and self.problem is None
        return there and (self.annotation is not None or negatives)


def paired(side: Side, images: Mapping[str, Path], annotations: Mapping[str, Source]) -> list[Pair]:
    """Return the pictures and annotations of one side, put together by stem and sorted by it."""
    return [
        Pair(stem, images.get(stem), annotations.get(stem), side)
        for stem in sorted(images.keys() | annotations.keys())
    ]
