"""Photographs and their boxes on disk -> samples of fixed splits."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from detection import imaging
from detection.detections import Classes, GroundTruth
from detection.names import first_few, printable
from photosets import recordings
from photosets.annotations import Annotation, BrokenAnnotation, WrongSize, annotate
from photosets.classes import ClassRule, UnknownName, class_rule, unknown_message
from photosets.found import Root, find_roots
from photosets.layout import FOLDERS, SIDES, DatasetError, Side
from photosets.pairs import Pair
from photosets.recordings import VAL_FRACTION, Division
from photosets.report import DatasetReport, FolderDivision, FoundFolder

log = logging.getLogger(__name__)

Split: TypeAlias = Side
SPLITS: tuple[Split, ...] = SIDES


class EmptySplit(DatasetError):
    """The split has no picture."""


class DamagedImages(DatasetError):
    """Pictures look sound from outside but cannot be decoded."""


class UnknownClass(DatasetError):
    """An annotation names a class that is none of those known."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One picture and what a person says is in it.

    Attributes:
        image_path: the picture's file.
        size_wh: pixels of the upright picture.
        boxes: (N, 4) float32, xyxy pixels of the upright picture, inside it, sides of at least 1 pixel.
        labels: (N,) int64, indices into the names of the classes, never 0. N = 0 for a negative.
        recording: the video or series the picture comes from; never on both sides of its root's train and
            val, unless the root brings a val of its own. A part's name where a recording had to be cut.
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
    def truth(self) -> GroundTruth:
        """What a detector should find."""
        return GroundTruth(self.boxes, self.labels)


def shows_weapon(sample: Sample, classes: Classes) -> bool:
    """Return whether one of the objects in a picture is dangerous."""
    return bool(np.isin(sample.labels, classes.weapons).any())


def read_samples(
    roots: Sequence[Path],
    split: Split,
    *,
    known: Classes | None = None,
    classes: str = "",
    dangerous: Sequence[str] | None = None,
    val_fraction: float = VAL_FRACTION,
    negative_val_fraction: float | None = None,
    negatives: bool = False,
    report: DatasetReport | None = None,
) -> list[Sample]:
    """Return the samples of a split, sorted by file name.

    How a root is laid out is found by looking (photosets/found.py); report.found tells. A root with
    validation pictures of its own keeps them. In another one train and val share the pictures: whole
    recordings go to val, chosen by the recording's name alone, so that adding pictures never moves another
    one. Where the names would leave val or train empty or far from its share, another rule divides the
    folder, and then adding pictures can move others: see recordings.py. report.divisions tells which.

    Args:
        roots: one or more folders; the same stem in two roots is two pictures.
        split: which split.
        known: of a model that is there already; a box's label is its class's index in these names. By
            default those that class_rule makes of the next two.
        classes: what the names in the data mean, "pistol=handgun,gun -other": see photosets/classes.py.
        dangerous: which of the classes are weapons, where classes makes them; by default pistol and knife.
        val_fraction: share of the recordings that go to val, 0 to less than 1.
        negative_val_fraction: another share for the recordings without a picture of a weapon; a larger one
            only adds pictures to val. As val_fraction if None.
        negatives: take pictures without an annotation as pictures without objects; otherwise leave them out.
        report: filled with what was found; without one the problems are logged.

    Raises:
        WrongLayout: a root does not exist, or is laid out in no way that is known.
        UnusableRule: classes is no rule.
        EmptySplit: there is no usable picture.
        DuplicateStem: two pictures of one folder share a stem.
        UnknownClass: an annotation names an object that is no class.
    """
    shares = (val_fraction, val_fraction if negative_val_fraction is None else negative_val_fraction)
    if not all(0 <= share < 1 for share in shares):
        raise ValueError(f"expected val_fraction of at least 0 and less than 1, got {shares}")
    found, rule = DatasetReport() if report is None else report, class_rule(classes, known, dangerous)
    samples = collect_samples(
        roots, split, rule, found,
        val_fraction=val_fraction, negative_val_fraction=negative_val_fraction, negatives=negatives,
    )  # fmt: skip
    refuse_unknown(roots, rule, found)
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
    rule: ClassRule,
    report: DatasetReport,
    *,
    val_fraction: float,
    negative_val_fraction: float | None,
    negatives: bool,
) -> list[Sample]:
    """Read what can be read of a split; whatever is wrong with a file goes to report."""
    sides: tuple[Split, ...] = ("test",) if split == "test" else ("train", "val")
    found = find_roots(roots)
    pairs = {root.path: root.find_pairs(sides, negatives=negatives) for root in found}
    if split != "test":
        whole = {
            path: [pair for pair in of_root if pair.is_whole(negatives=negatives)]
            for path, of_root in pairs.items()
        }
        report.divisions = _divide(whole, rule, val_fraction, negative_val_fraction)
    divisions = {divided.root: divided.division for divided in report.divisions}
    samples: list[Sample] = []
    for path, of_root in pairs.items():
        for pair in of_root:
            place = _place(pair, divisions.get(path), val_fraction)
            if place.side != split:
                continue
            if pair.image_path is None or not pair.is_whole(negatives=negatives):
                _note_half(pair, report)
                continue
            sample = _read_sample(path, pair.image_path, pair, place.recording, rule, report)
            if sample is not None:
                samples.append(sample)
    samples.sort(key=lambda sample: (sample.name, str(sample.image_path)))
    _count(samples, rule.class_names, report)
    for root in found:
        shown = (sample for sample in samples if sample.root == root.path)
        seen = {rule.class_names[label] for sample in shown for label in sample.labels}
        report.found.append(_found(root, pairs[root.path], seen))
    return samples


def _found(root: Root, pairs: Sequence[Pair], seen: set[str]) -> FoundFolder:
    """Say how a root is laid out; the classes are its own list's, else those that were seen."""
    pictures = sum(pair.image_path is not None for pair in pairs)
    return FoundFolder(root.path, root.kind, frozenset(root.class_names() or seen), pictures)


def _divide(
    whole: Mapping[Path, Sequence[Pair]],
    rule: ClassRule,
    val_fraction: float,
    negative_val_fraction: float | None,
) -> list[FolderDivision]:
    """Divide the pictures of each root into train and val, where it does not do so itself."""
    free = set() if negative_val_fraction is None else _weapon_free(whole.values(), rule)
    divided = []
    for root, of_root in whole.items():
        if not of_root:
            continue
        if any(pair.side == "val" for pair in of_root):
            places = {f"{pair.side}/{pair.stem}": recordings.Place(pair.side, pair.stem) for pair in of_root}
            divided.append(FolderDivision(root, Division("own", places), {}))
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


def _weapon_free(whole: Iterable[Sequence[Pair]], rule: ClassRule) -> set[str]:
    """Return the recordings of which no picture, in any root, shows a weapon."""
    everything, armed = set(), set()
    for pair in (pair for of_root in whole for pair in of_root):
        recording = recordings.recording_of(pair.stem)
        everything.add(recording)
        with suppress(BrokenAnnotation, OSError):  # it will be no sample
            for name in pair.annotation.names() if pair.annotation is not None else ():
                if not rule.unknown([name]) and rule.meaning(name) in rule.classes.dangerous:
                    armed.add(recording)
    return everything - armed


def _place(pair: Pair, division: Division | None, val_fraction: float) -> recordings.Place:
    """Return where a picture goes; half a pair goes where its name alone would put it."""
    recording = recordings.recording_of(pair.stem)
    if pair.side == "test" or (division is not None and division.rule == "own"):
        return recordings.Place(pair.side, recording)
    if division is not None and pair.stem in division.places:
        return division.places[pair.stem]
    return recordings.Place("val" if recordings.in_val(recording, val_fraction) else "train", recording)


def _note_half(pair: Pair, report: DatasetReport) -> None:
    if pair.problem is not None:
        report.problems.append(pair.problem)
    elif pair.annotation is not None:
        called = f"called {pair.annotation.within}" if pair.annotation.within else "of that name"
        report.add("missing image", pair.annotation.path, f"there is no picture {called}; left out")
    elif pair.image_path is not None:
        report.add(
            "image without annotation",
            pair.image_path,
            "nothing says what is in it; left out. If it shows no object, give it an annotation without "
            "objects, or use --negatives",
        )


def _read_sample(
    root: Path, image_path: Path, pair: Pair, recording: str, rule: ClassRule, report: DatasetReport
) -> Sample | None:
    read = _read_pair(image_path, pair, rule, report)
    if read is None:
        return None
    size_wh, annotation = read
    return Sample(
        image_path, size_wh, annotation.boxes.astype(np.float32), annotation.labels, recording, root,
        difficult=int(annotation.difficult.sum()),
    )  # fmt: skip


def _read_pair(
    image_path: Path, pair: Pair, rule: ClassRule, report: DatasetReport
) -> tuple[tuple[int, int], Annotation] | None:
    """Return a picture's upright size and its annotation, None if either cannot be used."""
    try:
        header = imaging.read_header(image_path)
        if header.size_wh[0] * header.size_wh[1] > imaging.MAX_PIXELS:
            raise imaging.ImageTooLarge(f"{header.size_wh} is more than {imaging.MAX_PIXELS:,} pixels")
    except (imaging.ImageError, OSError) as error:
        report.add("unreadable image", image_path, f"{error}; left out")
        return None
    if pair.annotation is None:
        return header.size_wh, Annotation(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.bool_), 0)
    path, where = pair.annotation.path, f"{pair.annotation.within}: " if pair.annotation.within else ""
    try:
        annotation = annotate(pair.annotation, rule, header)
    except UnknownName as error:
        report.add("unknown class", path, f"{where}{error}")
        return None
    except WrongSize as error:
        report.add("size differs", path, f"{where}{error}; left out")
        return None
    except (BrokenAnnotation, OSError) as error:
        report.add("broken annotation", path, f"{where}{error}; left out")
        return None
    for kind, detail in annotation.repairs:
        report.add(kind, path, f"{where}{detail}")
    if annotation.objects and not len(annotation.labels):  # it shows an object, so it is no negative
        report.add("no box left", path, f"{where}none of its boxes covers a pixel; left out")
        return None
    return header.size_wh, annotation


@dataclass(frozen=True, slots=True, eq=False)
class Annotated:
    """One picture as its root has it: not yet divided, nor its boxes rounded.

    Attributes:
        side: of the root; train where it has no validation pictures of its own.
        stem: as Pair's.
        image_path: the picture's file.
        size_wh: pixels of the upright picture.
        annotation: what a person says is in it.
    """

    side: Split
    stem: str
    image_path: Path
    size_wh: tuple[int, int]
    annotation: Annotation


def read_undivided(
    roots: Sequence[Path], rule: ClassRule, report: DatasetReport, *, negatives: bool
) -> Iterator[Annotated]:
    """Yield every picture that can be used; whatever is wrong with a file goes to report.

    Raises:
        DatasetError: as read_samples, also for a name that is no class.
    """
    for root in find_roots(roots):
        pairs = root.find_pairs(SPLITS, negatives=negatives)
        seen: set[str] = set()
        for pair in pairs:
            if pair.image_path is None or not pair.is_whole(negatives=negatives):
                _note_half(pair, report)
                continue
            read = _read_pair(pair.image_path, pair, rule, report)
            if read is not None:
                report.images += 1
                report.negatives += not len(read[1].labels)
                report.difficult += int(read[1].difficult.sum())
                names = [rule.class_names[label] for label in read[1].labels]
                report.boxes.update(names)
                seen.update(names)
                yield Annotated(pair.side, pair.stem, pair.image_path, *read)
        report.found.append(_found(root, pairs, seen))
    refuse_unknown(roots, rule, report)


def refuse_unknown(roots: Sequence[Path], rule: ClassRule, report: DatasetReport) -> None:
    """Raise UnknownClass if reading met names that are no class; the message lists those of all splits."""
    if told := told_unknown(roots, rule, [report]):
        raise UnknownClass(told)


def told_unknown(roots: Sequence[Path], rule: ClassRule, reports: Iterable[DatasetReport]) -> str:
    """Return which names that reading met are no class, and the flags that would map them; "" if none."""
    problems = (problem for report in reports for problem in report.problems)
    unknown = [problem for problem in problems if problem.kind == "unknown class"]
    if not unknown:
        return ""
    everywhere: Counter[str] = Counter()
    for root in find_roots(roots):
        for pair in root.find_pairs(SPLITS, negatives=True):
            with suppress(BrokenAnnotation, OSError):
                everywhere.update(rule.unknown(pair.annotation.names() if pair.annotation else ()))
    return unknown_message(everywhere, str(unknown[0].path), rule)


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
