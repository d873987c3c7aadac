"""Photographs and their boxes on disk -> samples of fixed splits."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detection import imaging
from detection.detections import CLASS_NAMES, WEAPONS, GroundTruth
from detection.names import first_few, printable
from photosets import recordings, voc
from photosets.layout import FOLDERS, DatasetError, Pair, find_pairs, find_root
from photosets.recordings import VAL_FRACTION, Division
from photosets.voc import BrokenAnnotation, RepairKind, UnknownName, WrongSize

log = logging.getLogger(__name__)

Split = Literal["train", "val", "test"]
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


class EmptySplit(DatasetError):
    """The split has no picture."""


class DamagedImages(DatasetError):
    """Pictures look sound from outside but cannot be decoded."""


class UnknownClass(DatasetError):
    """An annotation names a class that is not one of class_names."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One picture and what a person says is in it.

    Attributes:
        image_path: the picture's file.
        size_wh: pixels of the upright picture.
        boxes: (N, 4) float32, xyxy pixels of the upright picture, inside it, sides of at least 1 pixel.
        labels: (N,) int64, indices into class_names, never 0. N = 0 for a negative.
        recording: the video or series the picture comes from; never on both sides of its root's train and
            val. A part's name where a recording had to be cut.
        root: the folder it was read from.
        difficult: how many of the boxes a person marked as hard to recognise. They count like the others.
    """

    image_path: Path
    size_wh: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    recording: str
    root: Path
    difficult: int = 0

    @property
    def name(self) -> str:
        """The file stem, as it can be shown and written anywhere (see printable)."""
        return printable(self.image_path.stem)

    @property
    def shows_weapon(self) -> bool:
        """Whether a person says that there is a weapon in it, class_names being CLASS_NAMES."""
        return any(CLASS_NAMES[label] in WEAPONS for label in self.labels)

    @property
    def truth(self) -> GroundTruth:
        """What a detector should find."""
        return GroundTruth(self.boxes, self.labels)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that was wrong with a file, and what was done about it."""

    kind: ProblemKind
    path: Path
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.detail}"


@dataclass
class DatasetReport:
    """What reading a split found: how much there is, and every file that was repaired, dropped or lost."""

    images: int = 0
    negatives: int = 0
    difficult: int = 0  # boxes marked so; scored like the others
    boxes: Counter[str] = field(default_factory=Counter)  # class name -> boxes
    problems: list[Problem] = field(default_factory=list)
    divisions: list[FolderDivision] = field(default_factory=list)  # of train and val, one for each root

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


RULES: dict[recordings.Rule, str] = {
    "by name": "whole recordings, chosen by name",
    "nearest share": "whole recordings, as many as come nearest: the names alone miss the share",
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


def read_samples(
    roots: Sequence[Path],
    split: Split,
    *,
    class_names: Sequence[str] = CLASS_NAMES,
    val_fraction: float = VAL_FRACTION,
    negative_val_fraction: float | None = None,
    negatives: bool = False,
    report: DatasetReport | None = None,
) -> list[Sample]:
    """Return the samples of a split, sorted by file name.

    train and val share the folder images/: whole recordings go to val, chosen by the recording's name alone,
    so that adding pictures never moves another one. Where the names would leave val or train empty or far
    from its share, another rule divides the folder, and then adding pictures can move others: see
    recordings.py. report.divisions tells which. test is the folder images_test/.

    Args:
        roots: one or more folders; the same stem in two roots is two pictures.
        split: which split.
        class_names: background first; a box's label is its class's index here.
        val_fraction: share of the recordings that go to val, 0 to less than 1.
        negative_val_fraction: another share for the recordings without a picture of a weapon; a larger one
            only adds pictures to val. As val_fraction if None.
        negatives: take pictures without an annotation as pictures without objects; otherwise leave them out.
        report: filled with what was found; without one the problems are logged.

    Raises:
        WrongLayout: a root does not exist or has another layout.
        EmptySplit: there is no usable picture.
        DuplicateStem: two pictures of one folder share a stem.
        UnknownClass: an annotation names a class not in class_names.
    """
    shares = (val_fraction, val_fraction if negative_val_fraction is None else negative_val_fraction)
    if not all(0 <= share < 1 for share in shares):
        raise ValueError(f"expected val_fraction of at least 0 and less than 1, got {shares}")
    found = DatasetReport() if report is None else report
    samples = collect_samples(
        roots, split, class_names, found,
        val_fraction=val_fraction, negative_val_fraction=negative_val_fraction, negatives=negatives,
    )  # fmt: skip
    if found.count("unknown class"):
        raise UnknownClass(_unknown_message(found, class_names))
    if not samples:
        raise EmptySplit(_empty_message(roots, split, found))
    if report is None:
        _log_problems(found, split)
    return samples


def load_image(sample: Sample) -> imaging.Image:
    """Decode the sample's file.

    Raises:
        ImageError: with the file's name, where it cannot be decoded.
    """
    try:
        return imaging.decode_image(sample.image_path.read_bytes())
    except (imaging.ImageError, OSError) as error:
        raise imaging.ImageError(f"{sample.image_path}: {error}") from error


def check_images(samples: Sequence[Sample], on_image: Callable[[], object] = lambda: None) -> None:
    """Decode every picture, on all cores, so that a damaged one does not end a training in the middle.

    Args:
        samples: any.
        on_image: called after each picture.

    Raises:
        DamagedImages: some cannot be decoded; the message names the first of them.
    """
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter
        damaged = []
        for problem in pool.map(_damage, samples):
            damaged += [problem] if problem else []
            on_image()
    if damaged:
        raise DamagedImages(
            f"{len(damaged)} pictures cannot be decoded: {first_few(damaged)}. Repair or remove them; "
            "dataset.py check lists all that is wrong with the data"
        )


def _damage(sample: Sample) -> str:
    try:
        load_image(sample)
    except imaging.ImageError as error:
        return str(error)
    return ""


def collect_samples(
    roots: Sequence[Path],
    split: Split,
    class_names: Sequence[str],
    report: DatasetReport,
    *,
    val_fraction: float,
    negative_val_fraction: float | None,
    negatives: bool,
) -> list[Sample]:
    """Read what can be read of a split; whatever is wrong with a file goes to report."""
    side = "test" if split == "test" else "train"
    pairs = {
        root: list(find_pairs(root, side, negatives=negatives))
        for root in dict.fromkeys(map(find_root, dict.fromkeys(roots)))
    }
    whole = {
        root: [pair for pair in of_root if pair.is_whole(negatives=negatives)]
        for root, of_root in pairs.items()
    }
    if side == "train":
        report.divisions = _divide(whole, val_fraction, negative_val_fraction)
    divisions = {divided.root: divided.division for divided in report.divisions}
    samples: list[Sample] = []
    for root, of_root in pairs.items():
        for pair in of_root:
            place = _place(pair.stem, split, divisions.get(root), val_fraction)
            if place.side != split:
                continue
            if pair.image_path is None or not pair.is_whole(negatives=negatives):
                _note_half(pair, report)
                continue
            sample = _read_sample(
                root, pair.image_path, pair.xml_path, place.recording, tuple(class_names), report
            )
            if sample is not None:
                samples.append(sample)
    samples.sort(key=lambda sample: (sample.name, str(sample.image_path)))
    _count(samples, class_names, report)
    return samples


def _divide(
    whole: Mapping[Path, Sequence[Pair]], val_fraction: float, negative_val_fraction: float | None
) -> list[FolderDivision]:
    """Divide the pictures of each root into train and val."""
    free = set() if negative_val_fraction is None else _weapon_free(whole.values())
    divided = []
    for root, of_root in whole.items():
        if not of_root:
            continue
        stems = [pair.stem for pair in of_root]
        shares = {"pictures": (val_fraction, stems)}
        if negative_val_fraction is not None:
            without = [stem for stem in stems if recordings.recording_of(stem) in free]
            others = sorted(set(stems) - set(without))
            shares = {
                "pictures of recordings without a weapon": (negative_val_fraction, without),
                "pictures of the other recordings": (val_fraction, others),
            }
        division = recordings.divide(
            stems, val_fraction, negative_val_fraction=negative_val_fraction, weapon_free=free
        )
        divided.append(FolderDivision(root, division, shares))
    return divided


def _weapon_free(whole: Iterable[Sequence[Pair]]) -> set[str]:
    """Return the recordings of which no picture, in any root, shows a weapon."""
    everything, armed = set(), set()
    for pair in (pair for of_root in whole for pair in of_root):
        recording = recordings.recording_of(pair.stem)
        everything.add(recording)
        with suppress(BrokenAnnotation, OSError):  # it will be no sample
            if pair.xml_path is not None and voc.read_names(pair.xml_path) & set(WEAPONS):
                armed.add(recording)
    return everything - armed


def _place(stem: str, split: Split, division: Division | None, val_fraction: float) -> recordings.Place:
    """Return where a picture goes; half a pair goes where its name alone would put it."""
    recording = recordings.recording_of(stem)
    if split == "test":
        return recordings.Place("test", recording)
    if division is not None and stem in division.places:
        return division.places[stem]
    return recordings.Place("val" if recordings.in_val(recording, val_fraction) else "train", recording)


def _note_half(pair: Pair, report: DatasetReport) -> None:
    if pair.xml_path is not None:
        report.add("missing image", pair.xml_path, "there is no picture of that name; left out")
    elif pair.image_path is not None:
        report.add(
            "image without annotation",
            pair.image_path,
            "there is no .xml of that name; left out. If it shows no object, give it an .xml without "
            "objects, or use --negatives",
        )


def _read_sample(
    root: Path,
    image_path: Path,
    xml_path: Path | None,
    recording: str,
    class_names: tuple[str, ...],
    report: DatasetReport,
) -> Sample | None:
    try:
        header = imaging.read_header(image_path)
        if header.size_wh[0] * header.size_wh[1] > imaging.MAX_PIXELS:
            raise imaging.ImageTooLarge(f"{header.size_wh} is more than {imaging.MAX_PIXELS:,} pixels")
    except (imaging.ImageError, OSError) as error:
        report.add("unreadable image", image_path, f"{error}; left out")
        return None
    if xml_path is None:
        return Sample(
            image_path, header.size_wh, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), recording, root
        )
    try:
        annotation = voc.read_annotation(xml_path, class_names, header)
    except UnknownName as error:
        report.add("unknown class", xml_path, str(error))
        return None
    except WrongSize as error:
        report.add("size differs", xml_path, f"{error}; left out")
        return None
    except (BrokenAnnotation, OSError) as error:
        report.add("broken annotation", xml_path, f"{error}; left out")
        return None
    for kind, detail in annotation.repairs:
        report.add(kind, xml_path, detail)
    if annotation.objects and not len(annotation.labels):  # it shows an object, so it is no negative
        report.add("no box left", xml_path, "none of its boxes covers a pixel; left out")
        return None
    return Sample(
        image_path, header.size_wh, annotation.boxes.astype(np.float32), annotation.labels, recording, root,
        difficult=int(annotation.difficult.sum()),
    )  # fmt: skip


def _count(samples: Sequence[Sample], class_names: Sequence[str], report: DatasetReport) -> None:
    report.images += len(samples)
    report.negatives += sum(len(sample.labels) == 0 for sample in samples)
    report.difficult += sum(sample.difficult for sample in samples)
    for sample in samples:
        report.boxes.update(class_names[label] for label in sample.labels)


def _log_problems(report: DatasetReport, split: Split) -> None:
    for problem in report.errors:
        log.warning("%s: %s", split, problem)
    log.info("%s: %s", split, report.summary())


def _unknown_message(report: DatasetReport, class_names: Sequence[str]) -> str:
    unknown = [problem for problem in report.problems if problem.kind == "unknown class"]
    names = first_few(sorted({problem.detail for problem in unknown}))
    return (
        f"{len(unknown)} annotations name an object that is none of {', '.join(class_names[1:])}: {names}, "
        f"first in {unknown[0].path}; correct the names or remove the objects"
    )


def _empty_message(roots: Sequence[Path], split: Split, report: DatasetReport) -> str:
    folder = FOLDERS["test" if split == "test" else "train"][0]
    where = ", ".join(str(root) for root in roots) or "no folder at all"
    hint = f"; the first of {len(report.problems)} problems: {report.problems[0]}" if report.problems else ""
    return (
        f"expected pictures with annotations for the {split} split ({folder}/) in {where}, found none{hint}"
    )


def fingerprint(samples: Sequence[Sample]) -> str:
    """Return the SHA-256 of the samples' file names, bytes, boxes and labels, whatever their order.

    A file's bytes are read once in a process, as long as it does not change on the disk.
    """
    digests = []
    for sample in samples:
        digest = hashlib.sha256(sample.image_path.name.encode(errors="surrogatepass") + b"\0")
        state = sample.image_path.stat()
        digest.update(_content_digest(sample.image_path, state.st_mtime_ns, state.st_size))
        digest.update(sample.boxes.astype("<f4").tobytes() + sample.labels.astype("<i8").tobytes())
        digests.append(digest.digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


@functools.cache
def _content_digest(path: Path, _changed_ns: int, _size: int) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


SPLITS: tuple[Split, ...] = ("train", "val", "test")
