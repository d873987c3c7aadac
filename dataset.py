"""Photographs and Pascal VOC boxes on disk -> samples of fixed splits. Pictures go through imaging; no torch.

    python dataset.py download data         fetch OD-WeaponDetection's photographs
    python dataset.py check data more/data  what is wrong with them; exit status 1 on errors
    python dataset.py stats data            plots of classes, sizes and places
    python dataset.py synth drawn           a small drawn set, to try training out

A root is laid out as OD-WeaponDetection's Sohas_weapon-Detection: images/, annotations/xmls/, images_test/,
annotations_test/xmls/. Picture and annotation belong together by file stem.

DatasetError
  WrongLayout       the folder is not a root
  EmptySplit        nothing to train or score on
  DuplicateStem     two pictures of one folder share a stem, so an annotation could mean either
  UnknownClass      an annotation names a class that the model does not know
  DamagedImages     pictures cannot be decoded
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import unicodedata
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
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

import duplicates
import imaging
from detections import CLASS_NAMES, GroundTruth
from download import DownloadError, download_folder
from settings import CheckCommand, DownloadCommand, StatsCommand, SynthCommand, dataset_command
from synthetic import draw_synthetic

log = logging.getLogger(__name__)

Split = Literal["train", "val", "test"]
ProblemKind = Literal[
    "missing image",
    "unreadable image",
    "broken annotation",
    "unknown class",
    "image without annotation",
    "dropped box",
    "no box left",
    "clipped box",
    "swapped corners",
    "turned boxes",
    "size differs",
]
# The sample is lost, or its annotation cannot be trusted: a person should look. The others are repairs.
ERRORS: frozenset[ProblemKind] = frozenset(
    ("missing image", "unreadable image", "broken annotation", "unknown class", "no box left")
)

FOLDER_NAME = "Sohas_weapon-Detection"
DOWNLOADED_IN = "Weapons and similar handled objects"  # where the original repository keeps that folder
FOLDERS = {  # side -> (pictures, annotations)
    "train": ("images", "annotations/xmls"),
    "test": ("images_test", "annotations_test/xmls"),
}
VAL_FRACTION = 0.12
MIN_BOX_SIDE = 1.0  # pixels; a thinner box holds no pixel


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
        recording: the video or series the picture comes from; never on both sides of train and val.
        root: the folder it was read from.
    """

    image_path: Path
    size_wh: tuple[int, int]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    recording: str
    root: Path

    @property
    def name(self) -> str:
        """The file stem."""
        return self.image_path.stem

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
    boxes: Counter[str] = field(default_factory=Counter)  # class name -> boxes
    problems: list[Problem] = field(default_factory=list)

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
        return f"{self.images} images ({self.negatives} without objects), boxes: {boxes}{problems}"


# --- reading ----------------------------------------------------------------------------------------


def read_samples(
    roots: Sequence[Path],
    split: Split,
    *,
    class_names: Sequence[str] = CLASS_NAMES,
    val_fraction: float = VAL_FRACTION,
    negatives: bool = False,
    report: DatasetReport | None = None,
) -> list[Sample]:
    """Return the samples of a split, sorted by file name.

    train and val share the folder images/: whole recordings go to val, chosen by the recording's name alone,
    so that adding pictures never moves another one. test is the folder images_test/.

    Args:
        roots: one or more folders; the same stem in two roots is two pictures.
        split: which split.
        class_names: background first; a box's label is its class's index here.
        val_fraction: share of the recordings that go to val, 0 to less than 1.
        negatives: take pictures without an annotation as pictures without objects; otherwise leave them out.
        report: filled with what was found; without one the problems are logged.

    Raises:
        WrongLayout: a root does not exist or has another layout.
        EmptySplit: there is no usable picture.
        DuplicateStem: two pictures of one folder share a stem.
        UnknownClass: an annotation names a class not in class_names.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"expected val_fraction of at least 0 and less than 1, got {val_fraction}")
    found = DatasetReport() if report is None else report
    samples = _collect(roots, split, class_names, val_fraction, found, negatives=negatives)
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


def check_images(samples: Iterable[Sample]) -> None:
    """Decode every picture, so that a damaged one does not end a training in the middle.

    Raises:
        DamagedImages: some cannot be decoded; the message names the first of them.
    """
    damaged = []
    for sample in samples:
        try:
            load_image(sample)
        except imaging.ImageError as error:
            damaged.append(str(error))
    if damaged:
        raise DamagedImages(
            f"{len(damaged)} pictures cannot be decoded: {_some(damaged)}. Repair or remove them; dataset.py "
            "check lists all that is wrong with the data"
        )


def _collect(
    roots: Sequence[Path],
    split: Split,
    class_names: Sequence[str],
    val_fraction: float,
    report: DatasetReport,
    *,
    negatives: bool,
) -> list[Sample]:
    """Read what can be read of a split; whatever is wrong with a file goes to report."""
    side = "test" if split == "test" else "train"
    samples: list[Sample] = []
    for root in map(find_root, dict.fromkeys(roots)):
        for stem, image_path, xml_path in _pairs(root, side, negatives=negatives):
            recording = recording_of(stem)
            if side == "train" and in_val(recording, val_fraction) != (split == "val"):
                continue
            if image_path is None or (xml_path is None and not negatives):
                _note_half(image_path, xml_path, report)
                continue
            sample = _read_sample(root, image_path, xml_path, recording, tuple(class_names), report)
            if sample is not None:
                samples.append(sample)
    samples.sort(key=lambda sample: (sample.name, str(sample.image_path)))
    _count(samples, class_names, report)
    return samples


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


def _pairs(root: Path, side: str, *, negatives: bool) -> Iterator[tuple[str, Path | None, Path | None]]:
    """Yield (stem, picture, annotation) of one side of a root, sorted by stem; either may be missing."""
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
        yield stem, images.get(stem), xmls.get(stem)


def _note_half(image_path: Path | None, xml_path: Path | None, report: DatasetReport) -> None:
    if xml_path is not None:
        report.add("missing image", xml_path, "there is no picture of that name; left out")
    elif image_path is not None:
        report.add("image without annotation", image_path, "there is no .xml of that name; left out")


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
    boxes, labels = np.zeros((0, 4)), np.zeros(0, np.int64)
    if xml_path is not None:
        try:
            boxes, labels, annotated_wh = _parse_xml(xml_path, class_names)
        except UnknownClass as error:
            report.add("unknown class", xml_path, str(error))
            return None
        except (ElementTree.ParseError, ValueError, OSError) as error:
            report.add("broken annotation", xml_path, f"{error}; left out")
            return None
        boxes = _turn(boxes, annotated_wh, header, xml_path, report)
        repaired, kept = _repair(boxes, labels, header.size_wh, xml_path, report)
        if len(labels) and not len(kept):  # it shows an object, so it is no negative
            report.add("no box left", xml_path, "none of its boxes covers a pixel; left out")
            return None
        boxes, labels = repaired, kept
    return Sample(image_path, header.size_wh, boxes.astype(np.float32), labels, recording, root)


def _parse_xml(
    path: Path, class_names: tuple[str, ...]
) -> tuple[NDArray[np.float64], NDArray[np.int64], tuple[int, int] | None]:
    """Return boxes (N, 4), labels (N,) and the (width, height) the file states, None where it states none."""
    tree = ElementTree.parse(path).getroot()
    boxes, labels = [], []
    for number, element in enumerate(tree.iter("object"), 1):
        name = (element.findtext("name") or "").strip()
        if name not in class_names[1:]:
            raise UnknownClass(repr(name))
        corners = [element.findtext(f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")]
        if None in corners:
            raise ValueError(f"object {number} ({name}) has no complete bndbox")
        box = [float(corner or "") for corner in corners]
        if not np.isfinite(box).all():
            raise ValueError(f"object {number} ({name}) has a corner that is no finite number")
        boxes.append(box)
        labels.append(class_names.index(name))
    width, height = (tree.findtext(f"size/{key}", "0").strip() for key in ("width", "height"))
    stated = (int(width), int(height)) if width.isdecimal() and height.isdecimal() else (0, 0)
    return (
        np.reshape(boxes, (-1, 4)).astype(float),
        np.array(labels, np.int64),
        stated if all(stated) else None,
    )


def _turn(
    boxes: NDArray[np.float64],
    annotated_wh: tuple[int, int] | None,
    header: imaging.ImageHeader,
    path: Path,
    report: DatasetReport,
) -> NDArray[np.float64]:
    """Turn boxes upright if they were drawn on the stored picture of a photograph taken on its side."""
    if annotated_wh is None or annotated_wh == header.size_wh:
        return boxes
    if header.orientation < 5 or annotated_wh != header.size_wh[::-1]:
        report.add(
            "size differs",
            path,
            f"says {annotated_wh}, the picture is {header.size_wh}; boxes kept as they are",
        )
        return boxes
    report.add("turned boxes", path, "were drawn before the EXIF orientation was applied; turned upright")
    width, height = header.size_wh
    x1, y1, x2, y2 = boxes.T
    turned = {  # EXIF orientation -> the same corners in the upright picture
        5: (y1, x1, y2, x2),
        6: (width - y2, x1, width - y1, x2),
        7: (width - y2, height - x2, width - y1, height - x1),
        8: (y1, height - x2, y2, height - x1),
    }
    return np.stack(turned[header.orientation], axis=1)


def _repair(
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    size_wh: tuple[int, int],
    path: Path,
    report: DatasetReport,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Put corners in order, clip to the picture, drop what is then thinner than a pixel; note each."""
    ordered = np.concatenate(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1
    )
    clipped = ordered.clip(0, [*size_wh, *size_wh])
    keep = (clipped[:, 2:] - clipped[:, :2] >= MIN_BOX_SIDE).all(axis=1)
    for was, in_order, now, kept in zip(boxes, ordered, clipped, keep, strict=True):
        numbers = was.tolist()
        if not kept:
            report.add(
                "dropped box", path, f"{numbers} covers no pixel of the {size_wh[0]} x {size_wh[1]} picture"
            )
            continue
        if (in_order != was).any():
            report.add("swapped corners", path, f"{numbers} has a minimum above its maximum; put in order")
        if (now != in_order).any():
            report.add(
                "clipped box", path, f"{numbers} reaches outside the {size_wh[0]} x {size_wh[1]} picture"
            )
    return clipped[keep], labels[keep]


def _count(samples: Sequence[Sample], class_names: Sequence[str], report: DatasetReport) -> None:
    report.images += len(samples)
    report.negatives += sum(len(sample.labels) == 0 for sample in samples)
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


# --- recordings and splits --------------------------------------------------------------------------

# What perceptual hashes say of OD-WeaponDetection and its names do not: which numbers are one scene.
SCENES = (
    (re.compile(r"[AHLM]B[bms]frame\d+"), "office"),  # one person, one wall, four lights, three distances
    (re.compile(r"(pistola|smartphone)_z\d+v\d+_\d+"), "rooms"),
    (re.compile(r"DSC_\d+"), "DSC"),
)
RUNS = {  # prefix -> first and last number of each video among its stills
    "knife_": ((605, 1016), (1017, 1267), (1268, 1350)),
    "pistol_": ((5000, 5199),),
}
# Numbered stills (armas (12), billete_0031) have no recording in their name. Neighbours in number often come
# from one series, so a block of numbers stays together; 50 is the least that keeps most such series whole.
BLOCK = 50
LONG_BLOCKS = {"img": 1000}  # numbered by video frame
# Of 20,000 seeds this one gives every class of OD-WeaponDetection 10 to 15 % of its boxes in val.
VAL_SEED = 19198
GOLDEN = 0.6180339887498949  # multiples of it spread evenly over [0, 1), however many there are

_EXPORT = re.compile(r"(_(jpe?g|png|bmp|webp))*(\.rf\.[0-9a-f]+)?$", re.IGNORECASE)  # Roboflow's renaming
_DAY = re.compile(r"^.*?(?<!\d)(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])(?=\D|\d{6}(\D|$)|$)")
_VIDEO = re.compile(r"[a-z][A-Z]|frame|_f$")  # KravMagaTraining626, cam1_frame_00154, clip_f000003
_NUMBERED = re.compile(r"^(?P<prefix>.*?[ _(-]*)(?P<number>\d+)\)?(v\d)?$")


def recording_of(stem: str) -> str:
    """Return the video, day or series that a picture's name says it comes from.

    The name of a still's series ends in "#" and the number of its block.
    """
    stem = _EXPORT.sub("", stem)
    for pattern, scene in SCENES:
        if pattern.fullmatch(stem):
            return scene
    if day := _DAY.match(stem):
        return day[0]
    numbered = _NUMBERED.match(stem)
    if numbered is None:
        return stem
    prefix, number = numbered["prefix"], int(numbered["number"])
    if _VIDEO.search(prefix):
        return prefix
    for first, last in RUNS.get(prefix, ()):
        if first <= number <= last:
            return f"{prefix}{first}-{last}"
    series = re.sub(r"\d+", "0", prefix)  # mkd_1000_note15 and mkd_50_note15 lie on the same table
    return f"{series}#{number // LONG_BLOCKS.get(prefix, BLOCK)}"


def in_val(recording: str, val_fraction: float = VAL_FRACTION) -> bool:
    """Say whether a recording belongs to val: by its name alone, the same on every machine.

    A hash of the name decides; the blocks of one series follow each other in steps of the golden ratio, so
    that a long series gives val its share whatever the hash.
    """
    block = re.search(r"#(\d+)$", recording)
    series = recording[: block.start()] if block else recording
    digest = hashlib.sha256(f"{VAL_SEED}/{series}".encode()).digest()
    start = int.from_bytes(digest[:8], "big") / 2**64
    return (start + int(block[1] if block else 0) * GOLDEN) % 1 < val_fraction


# --- fingerprint ------------------------------------------------------------------------------------


def fingerprint(samples: Sequence[Sample]) -> str:
    """Return the SHA-256 of the samples' file names, bytes, boxes and labels, whatever their order."""
    digests = []
    for sample in samples:
        digest = hashlib.sha256(sample.image_path.name.encode() + b"\0")
        digest.update(hashlib.sha256(sample.image_path.read_bytes()).digest())
        digest.update(sample.boxes.astype("<f4").tobytes() + sample.labels.astype("<i8").tobytes())
        digests.append(digest.digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


# --- commands ---------------------------------------------------------------------------------------

SPLITS: tuple[Split, ...] = ("train", "val", "test")
console = Console(highlight=False, soft_wrap=True)


@dataclass
class Findings:
    """What a check found. Errors cost pictures or falsify the numbers; warnings are for a person to weigh."""

    errors: dict[str, list[str]] = field(default_factory=dict)  # heading -> one line per finding
    warnings: dict[str, list[str]] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)


def check(roots: Sequence[Path], *, negatives: bool, near: int, show: int) -> bool:
    """Print what is in the data and what is wrong with it; return whether there is no error.

    Raises:
        WrongLayout, DuplicateStem: nothing else can be said then.
        EmptySplit: there is no usable picture in any split.
    """
    reports = {split: DatasetReport() for split in SPLITS}
    samples = {
        split: _collect(roots, split, CLASS_NAMES, VAL_FRACTION, reports[split], negatives=negatives)
        for split in SPLITS
    }
    everything = [(split, sample) for split in SPLITS for sample in samples[split]]
    problems = [problem for split in SPLITS for problem in reports[split].problems]
    if not everything and not problems:
        raise EmptySplit(f"there is no picture with an annotation in {', '.join(map(str, roots))}")
    with _progress("looking at pictures", len(everything)) as advance:
        looks = duplicates.look_at([sample.image_path for _, sample in everything], advance=advance)
    findings = Findings()
    _file_findings(problems, findings)
    _duplicate_findings(everything, looks, near, findings)
    _recording_findings(samples, findings)
    console.print(_count_table(samples, reports))
    console.print(_size_table([sample for _, sample in everything]))
    _print_findings(findings, show)
    return not findings.errors


def _file_findings(problems: Sequence[Problem], findings: Findings) -> None:
    for problem in problems:
        kind = findings.errors if problem.kind in ERRORS else findings.warnings
        kind.setdefault(problem.kind, []).append(f"{problem.path}: {problem.detail}")


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
    counts = {split: Counter(sample.recording for sample in samples[split]) for split in SPLITS}
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
            console.print(f"[{style}]{word}[/]: {heading}: {len(lines):,}")
            for line in lines[: show or None]:
                console.print(f"    {line}", markup=False)
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
    return Progress(*columns, console=Console(stderr=True))


def fetch(command: DownloadCommand) -> None:
    """Download the data set and say what to do with it."""
    with _bar() as bar:
        task = bar.add_task("asking what there is", total=None)

        def progress(present: int, wanted: int) -> None:
            bar.update(task, description="files", completed=present, total=wanted)

        folder = download_folder(command.url, command.name, command.folder, progress=progress)
    console.print(f"All files are in {folder}", markup=False)
    console.print(
        "Licence and citation: its README.md (CC BY-SA 4.0, University of Granada).\n"
        f"Next: python dataset.py check {command.folder}, then python train.py --data {command.folder}",
        markup=False,
    )


def stats(roots: Sequence[Path], output: Path) -> None:
    """Write stats.png and stats.json: classes, sizes and places of the boxes of every split."""
    samples: dict[Split, list[Sample]] = {}
    for split in SPLITS:
        with suppress(EmptySplit):  # a small set may have no val or test
            samples[split] = read_samples(roots, split)
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
    console.print(f"Wrote {output / 'stats.png'} and {output / 'stats.json'}", markup=False)


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
    shown = axes[3].hist2d(centres[:, 0], centres[:, 1], 24, range=[[0, 1], [0, 1]], norm="log")
    axes[3].set(title="Box centres", xlabel="x / width", ylabel="y / height", ylim=(1, 0))
    figure.colorbar(shown[3], ax=axes[3], label="boxes", pad=0.01)
    objects = [len(sample.labels) for sample in samples]
    axes[4].hist(objects, np.arange(max(objects) + 2) - 0.5, color="tab:gray")
    axes[4].set(title="Objects per picture", xlabel="objects", ylabel="pictures", yscale="log")
    sizes = np.array([sample.size_wh for sample in samples])
    axes[5].scatter(sizes[:, 0], sizes[:, 1], s=12, alpha=0.3, edgecolors="none")
    axes[5].set(title="Picture sizes", xlabel="width, pixels", ylabel="height, pixels")
    for axis in axes[:2]:
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
            sound = check(command.data, negatives=command.negatives, near=command.near, show=command.show)
            return 0 if sound else 1
        case DownloadCommand():
            fetch(command)
        case StatsCommand():
            stats(command.data, command.output)
        case SynthCommand():
            draw_synthetic(command.folder, train=command.train, test=command.test, seed=command.seed)
            console.print(f"Drew {command.train} + {command.test} pictures in {command.folder}", markup=False)
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
