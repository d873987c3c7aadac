"""Photographs and Pascal VOC boxes on disk -> samples of fixed splits. Pictures go through imaging; no torch.

    python dataset.py download data         fetch OD-WeaponDetection's photographs
    python dataset.py check data more/data  what is wrong with them; exit status 1 on errors
    python dataset.py stats data            plots of classes, sizes and places
    python dataset.py synth drawn           a small drawn set, to try training out

A root is laid out as OD-WeaponDetection's Sohas_weapon-Detection: images/, annotations/xmls/, images_test/,
annotations_test/xmls/. Picture and annotation belong together by file stem. How an annotation is read and
repaired: voc.py. Which pictures validate: splits.py.

DatasetError
  WrongLayout       the folder is not a root
  EmptySplit        nothing to train or score on
  DuplicateStem     two pictures of one folder share a stem, so an annotation could mean either
  UnknownClass      an annotation names a class that the model does not know
  DamagedImages     pictures cannot be decoded
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

import duplicates
import imaging
import splits
import voc
from detections import CLASS_NAMES, WEAPONS, GroundTruth
from download import DownloadError, download_folder
from settings import CheckCommand, DownloadCommand, StatsCommand, SynthCommand, dataset_command
from splits import VAL_FRACTION, Division
from synthetic import draw_synthetic
from texts import printable
from voc import BrokenAnnotation, RepairKind, UnknownName, WrongSize

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

FOLDER_NAME = "Sohas_weapon-Detection"
DOWNLOADED_IN = "Weapons and similar handled objects"  # where the original repository keeps that folder
FOLDERS = {  # side -> (pictures, annotations)
    "train": ("images", "annotations/xmls"),
    "test": ("images_test", "annotations_test/xmls"),
}


class DatasetError(ValueError):
    """The data on disk cannot be used; the message says what to change."""


class WrongLayout(DatasetError):
    """The folder does not hold images/ and annotations/xmls/."""


class EmptySplit(DatasetError):
    """The split has no picture."""


class DuplicateStem(DatasetError):
    """Two pictures in one folder have the same stem."""


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


RULES: dict[splits.Rule, str] = {
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
            if stems and not splits.is_near(val, len(stems), fraction):
                found.append(
                    f"{self.root}: val has {val:,} of the {len(stems):,} {what} ({val / len(stems):.1%}), "
                    f"far from the {fraction:.1%} asked for: its recordings are too large or too few"
                )
        return found


# --- reading ----------------------------------------------------------------------------------------


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
    from its share, another rule divides the folder, and then adding pictures can move others: see splits.py.
    report.divisions tells which. test is the folder images_test/.

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
    samples = _collect(
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
            f"{len(damaged)} pictures cannot be decoded: {_some(damaged)}. Repair or remove them; dataset.py "
            "check lists all that is wrong with the data"
        )


def _damage(sample: Sample) -> str:
    try:
        load_image(sample)
    except imaging.ImageError as error:
        return str(error)
    return ""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A picture and its annotation, or the one of them that is there."""

    stem: str
    image_path: Path | None
    xml_path: Path | None

    def is_whole(self, *, negatives: bool) -> bool:
        """Whether this is a sample."""
        return self.image_path is not None and (self.xml_path is not None or negatives)


def _collect(
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
        root: list(_pairs(root, side, negatives=negatives))
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
    whole: Mapping[Path, Sequence[_Pair]], val_fraction: float, negative_val_fraction: float | None
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
            without = [stem for stem in stems if splits.recording_of(stem) in free]
            others = sorted(set(stems) - set(without))
            shares = {
                "pictures of recordings without a weapon": (negative_val_fraction, without),
                "pictures of the other recordings": (val_fraction, others),
            }
        division = splits.divide(
            stems, val_fraction, negative_val_fraction=negative_val_fraction, weapon_free=free
        )
        divided.append(FolderDivision(root, division, shares))
    return divided


def _weapon_free(whole: Iterable[Sequence[_Pair]]) -> set[str]:
    """Return the recordings of which no picture, in any root, shows a weapon."""
    everything, armed = set(), set()
    for pair in (pair for of_root in whole for pair in of_root):
        recording = splits.recording_of(pair.stem)
        everything.add(recording)
        with suppress(BrokenAnnotation, OSError):  # it will be no sample
            if pair.xml_path is not None and voc.read_names(pair.xml_path) & set(WEAPONS):
                armed.add(recording)
    return everything - armed


def _place(stem: str, split: Split, division: Division | None, val_fraction: float) -> splits.Place:
    """Return where a picture goes; half a pair goes where its name alone would put it."""
    recording = splits.recording_of(stem)
    if split == "test":
        return splits.Place("test", recording)
    if division is not None and stem in division.places:
        return division.places[stem]
    return splits.Place("val" if splits.in_val(recording, val_fraction) else "train", recording)


def find_root(folder: Path) -> Path:
    """Return the folder that holds images/: folder, Sohas_weapon-Detection/ in it, or a download's folder.

    Raises:
        WrongLayout: neither does.
    """
    if not folder.is_dir():
        raise WrongLayout(
            f"there is no folder {folder}: check the path, or fetch the data with dataset.py download"
        )
    for root in (folder, folder / FOLDER_NAME, folder / DOWNLOADED_IN / FOLDER_NAME):
        if any((root / images).is_dir() for images, _ in FOLDERS.values()):
            return root
    names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise WrongLayout(
        f"expected images/ and annotations/xmls/ in {folder} or in a {FOLDER_NAME} in it; found {names}"
    )


def _pairs(root: Path, side: str, *, negatives: bool) -> Iterator[_Pair]:
    """Yield the pictures and annotations of one side of a root, sorted by stem; either may be missing."""
    images_folder, xmls_folder = (root / name for name in FOLDERS[side])
    if not images_folder.is_dir():
        return
    if not xmls_folder.is_dir() and not negatives:
        raise WrongLayout(
            f"expected the annotations of {images_folder} in {xmls_folder}, which does not exist; "
            "if none of the pictures shows an object, say so with --negatives"
        )
    images = _by_stem(images_folder, imaging.SUFFIXES)
    xmls = _by_stem(xmls_folder, frozenset((".xml",))) if xmls_folder.is_dir() else {}
    for stem in sorted(images.keys() | xmls.keys()):
        yield _Pair(stem, images.get(stem), xmls.get(stem))


def _note_half(pair: _Pair, report: DatasetReport) -> None:
    if pair.xml_path is not None:
        report.add("missing image", pair.xml_path, "there is no picture of that name; left out")
    elif pair.image_path is not None:
        report.add(
            "image without annotation",
            pair.image_path,
            "there is no .xml of that name; left out. If it shows no object, give it an .xml without "
            "objects, or use --negatives",
        )


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """Map each file's stem to its path. Stems are NFC: macOS writes accents decomposed, XML tools do not."""
    paths: dict[str, Path] = {}
    twice: list[str] = []
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        stem, dot, suffix = name.rpartition(".")
        if f"{dot}{suffix.lower()}" not in suffixes or name.startswith("."):
            continue
        stem = unicodedata.normalize("NFC", stem)
        if stem in paths:
            twice.append(f"{paths[stem].name} and {name}")
        paths[stem] = folder / name
    if twice:
        raise DuplicateStem(
            f"{_some(twice)} in {folder} have the same name but for the suffix: an annotation could mean "
            "either; rename or remove one of them"
        )
    return paths


def _some(things: Sequence[str], most: int = 5) -> str:
    """Join the first few things, and say how many more there are."""
    more = f" and {len(things) - most} more" if len(things) > most else ""
    return ", ".join(things[:most]) + more


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
    names = _some(sorted({problem.detail for problem in unknown}))
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


# --- fingerprint ------------------------------------------------------------------------------------


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


# --- commands ---------------------------------------------------------------------------------------

SPLITS: tuple[Split, ...] = ("train", "val", "test")
console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)


@dataclass
class Findings:
    """What a check found. Errors cost pictures or falsify the numbers; warnings are for a person to weigh."""

    errors: dict[str, list[str]] = field(default_factory=dict)  # heading -> one line per finding
    warnings: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)


def check(
    roots: Sequence[Path],
    *,
    negatives: bool = False,
    near: int = duplicates.NEAR,
    show: int = 5,
    val_fraction: float = VAL_FRACTION,
    negative_val_fraction: float | None = None,
) -> bool:
    """Print what is in the data, how it is divided and what is wrong with it; return whether nothing is.

    Args:
        roots: as for read_samples.
        negatives: as for read_samples.
        near: bits of 256 in which near duplicates differ at most.
        show: findings of a kind to list; 0: all.
        val_fraction: as for read_samples.
        negative_val_fraction: as for read_samples.

    Raises:
        WrongLayout, DuplicateStem: nothing else can be said then.
        EmptySplit: there is no usable picture in any split.
    """
    reports = {split: DatasetReport() for split in SPLITS}
    samples = {
        split: _collect(
            roots, split, CLASS_NAMES, reports[split],
            val_fraction=val_fraction, negative_val_fraction=negative_val_fraction, negatives=negatives,
        )
        for split in SPLITS
    }  # fmt: skip
    everything = [(split, sample) for split in SPLITS for sample in samples[split]]
    problems = [problem for split in SPLITS for problem in reports[split].problems]
    if not everything and not problems:
        raise EmptySplit(f"there is no picture with an annotation in {', '.join(map(str, roots))}")
    with _progress("looking at pictures", len(everything)) as advance:
        looks = duplicates.look_at([sample.image_path for _, sample in everything], advance=advance)
    findings = Findings()
    _file_findings(problems, findings)
    _share_findings(samples, reports, findings)
    _duplicate_findings(everything, looks, near, findings)
    _recording_findings(samples, findings)
    console.print(_count_table(samples, reports))
    console.print(_size_table([sample for _, sample in everything]))
    for divided in reports["train"].divisions:
        console.print(f"train and val of {divided}", markup=False)
    _print_findings(findings, show)
    return not findings.errors


def _file_findings(problems: Sequence[Problem], findings: Findings) -> None:
    for problem in problems:
        kind = findings.errors if problem.kind in ERRORS else findings.warnings
        kind.setdefault(problem.kind, []).append(f"{problem.path}: {problem.detail}")


def _share_findings(
    samples: dict[Split, list[Sample]], reports: dict[Split, DatasetReport], findings: Findings
) -> None:
    """Add folders of which val has far more or less than its share, and boxes marked difficult."""
    far = [line for divided in reports["train"].divisions for line in divided.warnings]
    if not far and bool(samples["train"]) != bool(samples["val"]):
        far.append("train or val has no picture: training needs at least two with annotations")
    if far:
        findings.warnings["validation share"] = far
    marked = [
        f"{sample.image_path}: {sample.difficult}"
        for split in SPLITS for sample in samples[split] if sample.difficult
    ]  # fmt: skip
    if marked:
        findings.notes["boxes marked difficult, which count like the others"] = marked


def _duplicate_findings(
    everything: Sequence[tuple[Split, Sample]],
    looks: Sequence[duplicates.Look],
    near: int,
    findings: Findings,
) -> None:
    """Add pictures that cannot be decoded, and those that occur twice: a leak where they cross splits."""
    for (_, sample), look in zip(everything, looks, strict=True):
        if look.error is not None:
            findings.errors.setdefault("unreadable image", []).append(f"{sample.image_path}: {look.error}")
    for group in duplicates.same_bytes(looks):
        splits = sorted({everything[position][0] for position in group}, key=SPLITS.index)
        line = " = ".join(str(everything[position][1].image_path) for position in group)
        if len(splits) > 1:
            findings.errors.setdefault(f"same picture in {' and '.join(splits)}", []).append(line)
        else:
            findings.warnings.setdefault(f"same picture twice in {splits[0]}", []).append(line)
    for pair in sorted(duplicates.near_pairs(looks, near=near), key=lambda pair: pair.distance):
        (first_split, first), (second_split, second) = everything[pair.first], everything[pair.second]
        how = f"{pair.distance} of 256 bits apart{', mirrored' if pair.mirrored else ''}"
        line = f"{first.image_path} ~ {second.image_path}: {how}"
        if first_split == second_split:
            findings.notes.setdefault(f"pairs of nearly the same picture in {first_split}", []).append(line)
        else:
            where = f"{first_split} and {second_split}"
            findings.warnings.setdefault(f"nearly the same picture in {where}", []).append(line)


def _recording_findings(samples: dict[Split, list[Sample]], findings: Findings) -> None:
    """Add recordings on both sides of train and test. Numbered blocks of stills are no evidence of one."""
    counts = {
        split: Counter(splits.recording_of(sample.image_path.stem) for sample in samples[split])
        for split in SPLITS
    }
    for recording in sorted(counts["test"]):
        in_train = counts["train"][recording] + counts["val"][recording]
        if in_train and "#" not in recording:
            line = f"{recording}: {in_train} pictures in train, {counts['test'][recording]} in test"
            findings.warnings.setdefault("recording in train and test", []).append(line)


def _count_table(samples: dict[Split, list[Sample]], reports: dict[Split, DatasetReport]) -> Table:
    table = _table("Counts", "", *SPLITS)
    rows: dict[str, list[int]] = {
        "images": [reports[split].images for split in SPLITS],
        "images without objects": [reports[split].negatives for split in SPLITS],
        "recordings": [len({sample.recording for sample in samples[split]}) for split in SPLITS],
    }
    armed = {split: {s.recording for s in samples[split] if s.shows_weapon} for split in SPLITS}
    free = {split: [s for s in samples[split] if s.recording not in armed[split]] for split in SPLITS}
    rows["images of weapon-free recordings"] = [len(free[split]) for split in SPLITS]
    rows["weapon-free recordings"] = [len({sample.recording for sample in free[split]}) for split in SPLITS]
    rows |= {f"{name} boxes": [reports[split].boxes[name] for split in SPLITS] for name in CLASS_NAMES[1:]}
    for heading, numbers in rows.items():
        table.add_row(heading, *(f"{number:,}" for number in numbers))
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def _size_table(samples: Sequence[Sample]) -> Table:
    """Tell how large pictures and boxes are: what decides the network's input size."""
    table = _table("Sizes in pixels (boxes: square root of the area)", "", "smallest", "median", "largest")
    sizes = np.array([sample.size_wh for sample in samples]).reshape(-1, 2)
    rows = {"picture width": sizes[:, 0], "picture height": sizes[:, 1]}
    sides = _box_sides(samples)
    rows |= {f"{name} box": sides[name] for name in CLASS_NAMES[1:]}
    for heading, values in rows.items():
        if len(values):
            numbers = (values.min(), float(np.median(values)), values.max())
            table.add_row(heading, *(f"{number:,.0f}" for number in numbers))
    return table


def _box_sides(samples: Sequence[Sample], *, relative: bool = False) -> dict[str, NDArray[np.float64]]:
    """Return the square root of each box's area by class: pixels, or a share of the picture's."""
    sides: dict[str, list[float]] = {name: [] for name in CLASS_NAMES[1:]}
    for sample in samples:
        whole = float(np.sqrt(np.prod(sample.size_wh))) if relative else 1.0
        areas = np.prod(sample.boxes[:, 2:] - sample.boxes[:, :2], axis=1)
        for label, area in zip(sample.labels, areas, strict=True):
            sides[CLASS_NAMES[label]].append(float(np.sqrt(area)) / whole)
    return {name: np.array(values) for name, values in sides.items()}


def _print_findings(findings: Findings, show: int) -> None:
    groups = (("note", "cyan", findings.notes), ("warning", "yellow", findings.warnings))
    for word, style, group in (*groups, ("error", "red", findings.errors)):  # the worst ends up in sight
        for heading, lines in group.items():
            console.print(Text.assemble((word, style), f": {heading}: {len(lines):,}"))
            for line in lines[: show or None]:
                console.print(f"    {line}")
            if show and len(lines) > show:
                console.print(f"    ... and {len(lines) - show:,} more (all: --show 0)")
    errors, warnings = (sum(map(len, group.values())) for group in (findings.errors, findings.warnings))
    console.print(f"{errors:,} errors, {warnings:,} warnings")


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show a bar on the terminal while something is done total times; yield what to call each time."""
    with _bar() as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True, markup=False, emoji=False))


def fetch(command: DownloadCommand) -> None:
    """Download the data set and say what to do with it."""
    with _bar() as bar:
        task = bar.add_task("asking what there is", total=None)

        def progress(present: int, wanted: int) -> None:
            bar.update(task, description="files", completed=present, total=wanted)

        folder = download_folder(command.url, command.name, command.folder, progress=progress)
    console.print(f"All files are in {folder}")
    console.print(
        "Licence and citation: its README.md (CC BY-SA 4.0, University of Granada).\n"
        f"Next: python dataset.py check {command.folder}, then python train.py --data {command.folder}"
    )


def stats(roots: Sequence[Path], output: Path, *, negatives: bool = False) -> None:
    """Write stats.png and stats.json: classes, sizes and places of the boxes of every split."""
    samples: dict[Split, list[Sample]] = {}
    for split in SPLITS:
        with suppress(EmptySplit):  # a small set may have no val or test
            samples[split] = read_samples(roots, split, negatives=negatives)
    if not samples:
        raise EmptySplit(f"there is no picture with an annotation in {', '.join(map(str, roots))}")
    output.mkdir(parents=True, exist_ok=True)
    everything = [sample for split in samples for sample in samples[split]]
    counts = {split: _class_counts(samples[split]) for split in samples}
    sides = _box_sides(everything, relative=True)
    summary = {
        "images": {split: len(samples[split]) for split in samples},
        "boxes": counts,
        "relative_box_side_median": {
            name: float(np.median(sides[name])) for name in sides if len(sides[name])
        },
    }
    (output / "stats.json").write_text(json.dumps(summary, indent=2) + "\n")
    _plot(everything, counts, sides, output / "stats.png")
    console.print(f"Wrote {output / 'stats.png'} and {output / 'stats.json'}")


def _class_counts(samples: Sequence[Sample]) -> dict[str, int]:
    labels = np.concatenate([sample.labels for sample in samples])
    return {name: int((labels == index).sum()) for index, name in enumerate(CLASS_NAMES) if index}


def _plot(
    samples: Sequence[Sample],
    counts: dict[Split, dict[str, int]],
    sides: dict[str, NDArray[np.float64]],
    path: Path,
) -> None:
    from matplotlib.figure import Figure  # half a second and 40 MB that only this command needs

    figure = Figure(figsize=(15, 9), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    names = CLASS_NAMES[1:]
    for number, split in enumerate(counts):
        bars = axes[0].bar(
            np.arange(6) + 0.27 * number, [counts[split][name] for name in names], 0.27, label=split
        )
        axes[0].bar_label(bars, fontsize=7, rotation=90, padding=3)
    axes[0].set(title="Boxes per class", xticks=np.arange(6) + 0.27, xticklabels=names)
    axes[0].margins(y=0.2)
    bins = np.linspace(0, 1, 26)
    for name in (name for name in names if len(sides[name])):
        axes[1].hist(sides[name], bins, histtype="step", linewidth=1.5, density=True, label=name)
    axes[1].set(title="Box size by class", xlabel="square root of box area / picture area", ylabel="density")
    ratios = _aspect_ratios(samples)
    axes[2].boxplot([ratios[name] for name in names], tick_labels=names, showfliers=False)
    axes[2].set(title="Box shape", ylabel="width / height", yscale="log")
    centres = np.concatenate([_centres(sample) for sample in samples])
    axes[3].set(title="Box centres", xlabel="x / width", ylabel="y / height", ylim=(1, 0))
    if len(centres):  # a logarithm of nothing has no scale
        shown = axes[3].hist2d(centres[:, 0], centres[:, 1], 24, range=[[0, 1], [0, 1]], norm="log")
        figure.colorbar(shown[3], ax=axes[3], label="boxes", pad=0.01)
    objects = [len(sample.labels) for sample in samples]
    axes[4].hist(objects, np.arange(max(objects) + 2) - 0.5, color="tab:gray")
    axes[4].set(title="Objects per picture", xlabel="objects", ylabel="pictures", yscale="log")
    sizes = np.array([sample.size_wh for sample in samples])
    axes[5].scatter(sizes[:, 0], sizes[:, 1], s=12, alpha=0.3, edgecolors="none")
    axes[5].set(title="Picture sizes", xlabel="width, pixels", ylabel="height, pixels")
    for axis in axes[:2]:
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    for axis in (axes[0], axes[2]):
        axis.tick_params(axis="x", rotation=20)
    figure.savefig(path, dpi=110)


def _aspect_ratios(samples: Sequence[Sample]) -> dict[str, list[float]]:
    ratios: dict[str, list[float]] = {name: [] for name in CLASS_NAMES[1:]}
    for sample in samples:
        for label, (x1, y1, x2, y2) in zip(sample.labels, sample.boxes.tolist(), strict=True):
            ratios[CLASS_NAMES[label]].append((x2 - x1) / (y2 - y1))
    return ratios


def _centres(sample: Sample) -> NDArray[np.float32]:
    """Return the centres of the boxes as shares of width and height: (N, 2)."""
    centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
    return (centres / sample.size_wh).astype(np.float32)


def _run(command: BaseModel) -> int:
    """Do what the command says and return the exit status."""
    match command:
        case CheckCommand():
            sound = check(
                command.data, negatives=command.negatives, near=command.near, show=command.show,
                val_fraction=command.val_fraction, negative_val_fraction=command.negative_val_fraction,
            )  # fmt: skip
            return 0 if sound else 1
        case DownloadCommand():
            fetch(command)
        case StatsCommand():
            stats(command.data, command.output, negatives=command.negatives)
        case SynthCommand():
            draw_synthetic(command.folder, train=command.train, test=command.test, seed=command.seed)
            console.print(f"Drew {command.train} + {command.test} pictures in {command.folder}")
    return 0


def main() -> None:
    """Run one command; say in a sentence what went wrong."""
    command = dataset_command()
    try:
        raise SystemExit(_run(command))
    except (DatasetError, DownloadError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit("stopped; a download goes on where it stopped when started again") from None


if __name__ == "__main__":
    main()
