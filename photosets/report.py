"""What reading a set of photographs found: how much there is, what is wrong, how it is divided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from photosets import recordings
from photosets.layout import Side
from photosets.pairs import ERRORS, Problem, ProblemKind
from photosets.recordings import Division


@dataclass
class DatasetReport:
    """What reading a split found: how much there is, and every file that was repaired, dropped or lost."""

    images: int = 0
    negatives: int = 0
    difficult: int = 0  # boxes marked so; scored like the others
    boxes: Counter[str] = field(default_factory=Counter)  # class name -> boxes
    problems: list[Problem] = field(default_factory=list)
    divisions: list[FolderDivision] = field(default_factory=list)  # of train and val, one for each root
    found: list[FoundFolder] = field(default_factory=list)

    def add(self, kind: ProblemKind, path: Path, detail: str) -> None:
        """Note a problem."""
        self.problems.append(Problem(kind, path, detail))

    def count(self, kind: ProblemKind) -> int:
        """Return how many problems of one kind there were."""
        return sum(problem.kind == kind for problem in self.problems)

    @property
    def errors(self) -> list[Problem]:
        """The problems that cost a picture."""
        return [problem for problem in self.problems if problem.kind in ERRORS]

    def summary(self) -> str:
        """Return one line: pictures, boxes per class, problems per kind."""
        boxes = ", ".join(f"{name} {count}" for name, count in sorted(self.boxes.items())) or "none"
        kinds = Counter(problem.kind for problem in self.problems)
        problems = "".join(f"; {kind}: {count}" for kind, count in sorted(kinds.items()))
        difficult = f"; marked difficult, counted like the others: {self.difficult}" if self.difficult else ""
        return f"{self.images} images ({self.negatives} without objects), boxes: {boxes}{difficult}{problems}"

    def lines(self, split: str) -> Iterator[str]:
        """Yield what a person should read: layouts, divisions with their warnings, counts, lost pictures."""
        for folder in self.found:
            yield str(folder)
        for divided in self.divisions:
            yield f"train and val of {divided}"
            yield from (f"warning: {warning}" for warning in divided.warnings)
        yield f"{split}: {self.summary()}"
        yield from (f"  {problem}" for problem in self.errors)


@dataclass(frozen=True)
class FoundFolder:
    """How one root is laid out.

    Attributes:
        root: the folder.
        kind: what people call the layout.
        names: of its classes, as far as they were seen.
        pictures: how many there are, of the sides that were looked at.
    """

    root: Path
    kind: str
    names: frozenset[str]
    pictures: int

    def __str__(self) -> str:
        return f"{self.root}: {self.kind}, {len(self.names)} classes, {self.pictures:,} pictures"


RULES: dict[recordings.Rule, str] = {
    "by name": "whole recordings, chosen by name",
    "nearest share": "whole recordings, as many as come nearest: the names alone miss the share",
    "own": "its own folders say which pictures validate",
    "in time": "each recording cut in time: the names tell too few recordings apart",
}


@dataclass(frozen=True)
class FolderDivision:
    """How the pictures of one root were divided into train and val.

    Attributes:
        root: the folder.
        division: rule and places.
        shares: what was asked for, of which stems: fraction for val by what to call those stems.
    """

    root: Path
    division: Division
    shares: dict[str, tuple[float, list[str]]]

    def __str__(self) -> str:
        train, val, neither = (self.division.count(side) for side in ("train", "val", None))
        total = train + val + neither
        between = f", {neither:,} between the sides to neither" if neither else ""
        return (
            f"{self.root}: {RULES[self.division.rule]}: {val:,} of {total:,} pictures ({val / total:.1%}) "
            f"to val{between}"
        )

    @property
    def warnings(self) -> list[str]:
        """A sentence for each share that is far from what was asked for."""
        found = []
        for what, (fraction, stems) in self.shares.items():
            val = self.division.count("val", stems)
            if stems and not recordings.is_near(val, len(stems), fraction):
                found.append(
                    f"{self.root}: val has {val:,} of the {len(stems):,} {what} ({val / len(stems):.1%}), "
                    f"far from the {fraction:.1%} asked for: its recordings are too large or too few"
                )
        return found


def found_lines(reports: Mapping[Side, DatasetReport]) -> list[str]:
    """Return a line for each root: layout, classes and pictures of all splits."""
    folders: dict[Path, FoundFolder] = {}
    for split, report in reports.items():
        for one in report.found:
            other = folders.get(one.root, FoundFolder(one.root, one.kind, frozenset(), 0))
            pictures = other.pictures + (0 if split == "val" else one.pictures)  # counted with train
            folders[one.root] = FoundFolder(one.root, one.kind, other.names | one.names, pictures)
    return [str(one) for one in folders.values()]
