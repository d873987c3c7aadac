"""Score a model on a split and write the report. See `python evaluate.py --help`."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import metrics
from commands import EvaluateConfig, evaluate_config
from detection import detector as detectors
from detection import devices, imaging
from detection.card import DetectorError, read_card, write_card
from detection.detections import Detections, GroundTruth, Latency
from detection.detector import Detector
from detection.names import printable
from detection.runtime import warm_up
from detection.tiles import detect_in, frames_of
from evaluation import plots
from evaluation import report as reports
from evaluation.alarms import image_alarms
from evaluation.chosen import Chosen, choose, into_card, uncalibrated, with_reliability
from evaluation.results import Report, SliceResult, build_report, card_tables, flat_metrics
from evaluation.robustness import CHANGES
from photosets import layout
from photosets import samples as photographs
from photosets.report import DatasetReport
from photosets.samples import Sample
from photosets.statistics import split_summary
from schemas import CARD_FILE, AlarmFigures, ModelCard, Tiles
from tracking import provenance, tracker
from tracking.versions import download_version, find_version
from training import engine
from training.engine import Finder

PROBLEMS = (
    layout.DatasetError, DetectorError, devices.NoSuchDevice, imaging.ImageError,
    reports.ReportError, tracker.RegistryError,
)  # fmt: skip
console = Console(markup=False, emoji=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return 0, 1 after a problem said in a sentence, or 130 after Ctrl-C."""
    config = evaluate_config(arguments)
    try:
        run(config)
    except PROBLEMS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; no report was written", file=sys.stderr)
        return 130
    return 0


def run(config: EvaluateConfig) -> Report:
    """Load the model, score it, write the report, print the figures, log them if asked."""
    reports.check_writable(config.output)
    other = reports.read_report(config.against) if config.against else None
    device = devices.choose_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    with ExitStack() as stack:
        folder, model, run_id = find_model(config, stack)
        detector = detectors.load_folder(folder, device=device)
    if config.keep:
        check_keep(config, detector.card)
    if config.tiles != "1x1" and (config.keep or config.log):
        raise DetectorError(
            f"the model's card and run hold figures of whole pictures: leave out --tiles {config.tiles}, or "
            "--keep and --log"
        )
    if config.log:  # before the work, not after it
        if not run_id:
            raise tracker.RegistryError(f"{model} does not say which MLflow run made it: leave out --log")
        tracker.check_tracker(config.mlflow_tracking_uri)
    samples = read_split(config, detector.class_names)
    warm_up(detector)
    choosing = config.keep and config.split == "val"
    if choosing:
        detector.card = uncalibrated(detector.card)
    finder = detector if config.tiles == "1x1" else TiledFinder(detector, config.tiles)
    detections, latency = engine.evaluate(finder, samples)
    choice = None
    if choosing:
        choice = choose_anew(config, samples, detections, detector.class_names)
        detections, detector.card = choice.detections, choice.onto(detector.card)
    result = score(config, finder, samples, (detections, latency), model, detector.card)
    if choice:
        result = with_reliability(result, choice)
    page = reports.write_report(result, config.output, samples)
    console.print(figures_table(result, other))
    notes = list(result.notes)
    if other and other.data.get("Fingerprint") != result.data["Fingerprint"]:
        notes.append(
            f"{config.against} is of other images ({other.title}, {other.images} images): the two columns do "
            "not say which model is better."
        )
    for note in notes:
        console.print(f"note: {note}", highlight=False)
    if choice:
        keep_choice(choice, result, samples, folder)
    elif config.keep:
        keep_figures(result, folder)
    if config.log:
        log_report(result, config.output, run_id, config.mlflow_tracking_uri)
    console.print(f"report: {page}", highlight=False, soft_wrap=True)
    return result


@dataclasses.dataclass(frozen=True)
class TiledFinder:
    """A detector that looks at each image's tiles too."""

    detector: Detector
    tiles: Tiles

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.detector.device

    def detect(self, image: imaging.Image) -> Detections:
        """Return every detection in an upright RGB image."""
        size_hw = image.shape[0], image.shape[1]
        return detect_in(self.detector, image, frames_of(size_hw, self.tiles, self.detector.card.network))


def find_model(config: EvaluateConfig, stack: ExitStack) -> tuple[Path, str, str]:
    """Return the model's folder, what to call it, and the run that made it ("" if unknown).

    A model from the registry is downloaded to a folder that stack removes.
    """
    if config.model:
        return config.model, str(config.model), read_card(config.model).run_id
    found = find_version(
        config.model_name, config.model_version, config.model_alias, tracking_uri=config.mlflow_tracking_uri
    )
    destination = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    folder = download_version(found, destination)
    return folder, f"{found.name} version {found.version}", found.run_id


def read_split(config: EvaluateConfig, class_names: Sequence[str]) -> list[Sample]:
    """Read the samples, say what was found, and thin them out to config.limit."""
    found = DatasetReport()
    samples = photographs.read_samples(
        config.data, config.split, class_names=class_names, classes=config.classes,
        val_fraction=config.val_fraction, negative_val_fraction=config.negative_val_fraction,
        negatives=config.negatives, report=found,
    )  # fmt: skip
    for line in found.lines(config.split):
        console.print(line, highlight=False, soft_wrap=True)
    if config.limit and config.limit < len(samples):
        keep = np.linspace(0, len(samples) - 1, config.limit).astype(int)
        samples = [samples[i] for i in keep]
        console.print(f"{len(samples)} of them, evenly spread (--limit)", highlight=False)
    return samples


def check_keep(config: EvaluateConfig, card: ModelCard) -> None:
    """Raise DetectorError unless --keep can write what it measures, before the work and not after it."""
    whole = config.split != "train" and not config.limit
    if not config.model or not whole or (config.split == "test" and card.operating_point is None):
        raise DetectorError(
            "--keep writes into the model folder named with --model: figures of the whole test split, if it "
            "has an operating point, or with --split val the points, calibration and bands that the whole "
            "validation split chooses; leave out --limit"
        )


def choose_anew(
    config: EvaluateConfig, samples: Sequence[Sample], detections: Sequence[Detections],
    class_names: Sequence[str],
) -> Chosen:  # fmt: skip
    """Choose calibration, points and bands for a model's raw scores, as train.py does at its end."""
    return choose(
        [sample.truth for sample in samples], detections, class_names,
        groups=[sample.recording for sample in samples],
        max_false_alarms_per_1000=config.max_false_alarms, max_unsure_per_1000=config.max_unsure,
    )  # fmt: skip


def score(
    config: EvaluateConfig, finder: Finder, samples: Sequence[Sample],
    found: tuple[Sequence[Detections], Latency], model: str, card: ModelCard,
) -> Report:  # fmt: skip
    """Measure all that the report holds; the finder looks at changed images only.

    Args:
        config: what is wanted.
        finder: what made the detections.
        samples: the images.
        found: of engine.evaluate: one per image, and how long it took.
        model: what to call it.
        card: of the model: classes, points and bands.
    """
    detections, latency = found
    truths = [sample.truth for sample in samples]
    official = is_official(samples, config.split)
    class_names = card.class_names
    result = build_report(
        truths, detections, class_names, names=[sample.name for sample in samples],
        groups=[sample.recording for sample in samples], operating_point=card.operating_point,
        unsure_point=card.unsure_point, bands=card.bands, split=config.split, official=official, model=model,
        data=describe_data(samples, config.tiles),
    )  # fmt: skip
    if config.latency:
        result = dataclasses.replace(result, latency=latency)
    if config.compare_to_original:
        result = compare_to_original(result, samples, detections, class_names)
    if config.robustness:
        slices = robustness(finder, samples, result.score_threshold, class_names)
        result = dataclasses.replace(result, robustness=(slice_of("unchanged", result), *slices))
    return result


def describe_data(samples: Sequence[Sample], tiles: Tiles) -> dict[str, str]:
    """Return what says later which images, looked at how, and which code gave the figures."""
    roots = sorted({printable(str(sample.root)) for sample in samples})
    difficult = sum(sample.difficult for sample in samples)
    versions = provenance.library_versions()
    return {
        "Data": ", ".join(roots),
        "Fingerprint": photographs.fingerprint(samples),
        "Code": provenance.git_commit() or "not under git",
        "Libraries": ", ".join(f"{name} {version}" for name, version in versions.items()),
        **({"Tiles": tiles} if tiles != "1x1" else {}),
        **({"Boxes marked difficult": f"{difficult}, counted like the others"} if difficult else {}),
    }


def is_official(samples: Sequence[Sample], split: str) -> bool:
    """Return whether these are the official test split: one root, all 857 images, the official names.

    The number alone would be true of other people's pictures, and of other divisions of the same ones.
    """
    one_root = len({sample.root for sample in samples}) == 1
    names = {sample.name for sample in samples}
    whole = len(samples) == metrics.OFFICIAL_TEST_IMAGES
    return split == "test" and one_root and whole and names >= metrics.OFFICIAL_TEST_NAMES


def compare_to_original(
    result: Report, samples: Sequence[Sample], detections: Sequence[Detections], class_names: Sequence[str]
) -> Report:
    """Add the original's protocol on the images that its loader kept, or say why that makes no sense here."""
    if not result.published:
        note = (
            "The original project's figures are of the official test split of "
            f"{metrics.OFFICIAL_TEST_IMAGES} images in one folder. These are {len(samples)} others, by "
            "number or by name, so its figures are left out."
        )
        return dataclasses.replace(result, notes=(*result.notes, note))
    kept = [i for i, sample in enumerate(samples) if original_kept(sample)]
    subset = metrics.original_protocol(
        [samples[i].truth for i in kept], [detections[i] for i in kept], class_names
    )
    return dataclasses.replace(result, original_subset={"images": float(len(kept)), **subset})


def original_kept(sample: Sample) -> bool:
    """Return whether the original's loader kept this test image.

    It took the picture's name from the annotation's <filename> and dropped what it did not find in the
    folder, so that its published figures are of 829 to 832 of the 857 images.
    """
    images, annotations = layout.FOLDERS["test"]
    xml = sample.root / annotations / f"{sample.image_path.stem}.xml"
    try:
        name = ElementTree.parse(xml).findtext("filename", "")
    except (OSError, ElementTree.ParseError):
        return False
    return bool(name) and (sample.root / images / name).is_file()


def robustness(
    finder: Finder, samples: Sequence[Sample], score_threshold: float, class_names: Sequence[str]
) -> list[SliceResult]:
    """Score the finder on changed images, one kind after the other."""
    results = []
    for name, change in CHANGES.items():
        truths, found = [], []
        for sample in tqdm(samples, desc=name, unit="image", leave=False, mininterval=1.0):
            image, boxes = change(photographs.load_image(sample), sample.boxes)
            truths.append(GroundTruth(boxes.astype(np.float32), sample.labels))
            found.append(finder.detect(image))
        results.append(measure_slice(name, truths, found, score_threshold, class_names))
    return results


def measure_slice(
    name: str, truths: Sequence[GroundTruth], found: Sequence[Detections], score_threshold: float,
    class_names: Sequence[str],
) -> SliceResult:  # fmt: skip
    """Return the figures of one kind of change."""
    coco = metrics.coco_summary(truths, found, class_names)
    alarms = image_alarms(truths, found, class_names)
    return SliceResult(
        name=name, map=coco.get("map"), map_50=coco.get("map_50"),
        image_recall=alarms.recall(score_threshold),
        false_alarms_per_1000=alarms.false_alarms_per_1000(score_threshold),
    )  # fmt: skip


def slice_of(name: str, result: Report) -> SliceResult:
    """Return the report's own figures in the form of a slice."""
    point = result.measured
    return SliceResult(
        name,
        result.coco.get("map"),
        result.coco.get("map_50"),
        point.image_recall,
        point.false_alarms_per_1000,
    )


def figures_table(result: Report, other: Report | None = None) -> Table:
    """Return the main figures as a table, those of another report beside them if given."""
    shown = [result] if other is None else [result, other]
    table = Table(title=f"{result.title}, {result.images} images", title_justify="left")
    table.add_column("")
    for one in shown:
        table.add_column(one.model or one.title, justify="right")
    for key, label in FIGURES.items():
        values = [flat(one).get(key) for one in shown]
        if any(value is not None for value in values):
            table.add_row(
                label, *(plots.figure(value, 1 if "1000" in key or "ms" in key else 4) for value in values)
            )
    return table


FIGURES = {
    "map": "mAP, COCO",
    "map_50": "mAP at IoU 0.50, COCO",
    "map_75": "mAP at IoU 0.75, COCO",
    "original_protocol/map": "mAP, best box per class",
    "original_protocol/map_50": "mAP at IoU 0.50, best box per class",
    "original_subset/map": "the same on the original's images: mAP",
    "original_subset/map_50": "the same on the original's images: mAP at IoU 0.50",
    "published/map": "published by the original: mAP, best box per class",
    "published/map_50": "published by the original: mAP at IoU 0.50",
    "ap/pistol": "pistol AP",
    "ap/knife": "knife AP",
    "alarm/score_threshold": "alarm from score",
    "alarm/image_recall": "weapon images that raise an alarm",
    "alarm/false_alarms_per_1000": "false alarms per 1,000 weapon-free images",
    "unsure/score_threshold": "unsure from score",
    "unsure/image_recall": "weapon images at least unsure",
    "unsure/false_alarms_per_1000": "unsure or alarms per 1,000 weapon-free images",
    "calibration_error/raw": "calibration error, the network's scores",
    "calibration_error/calibrated": "calibration error, calibrated on other recordings",
    "calibration_error/served": "calibration error",
    "lookalike_alarm_rate": "look-alikes taken for a weapon",
    "weapon_as_lookalike_rate": "weapons taken for a look-alike",
    "latency/detect_median_ms": "ms per image, median",
}


def flat(result: Report) -> dict[str, float]:
    """Return the figures of a report by the keys of FIGURES."""
    measured = {key.partition("/")[2]: value for key, value in flat_metrics(result).items()}
    beside = {"original_subset": result.original_subset, "published": result.published}
    return measured | {f"{name}/{key}": value for name, part in beside.items() for key, value in part.items()}


def keep_figures(result: Report, folder: Path) -> None:
    """Write the test's figures into the folder's model card; what validation chose stays as it is."""
    card = read_card(folder)
    assert card.operating_point is not None
    point, unsure = result.measured.model_copy(update={"rule": card.operating_point.rule}), None
    if card.unsure_point and result.unsure_measured:
        unsure = result.unsure_measured.model_copy(update={"rule": card.unsure_point.rule})
    figures = {
        "tested_alarm": AlarmFigures(operating_point=point, unsure_point=unsure, curve=result.alarm_curve),
        "metrics": card.metrics | flat_metrics(result),
        "tables": card_tables(result),
    }
    write_card(folder, card.model_copy(update=figures))
    console.print(f"kept in {folder / CARD_FILE}", highlight=False, soft_wrap=True)


def keep_choice(choice: Chosen, result: Report, samples: Sequence[Sample], folder: Path) -> None:
    """Write what validation chose into the folder's model card; figures at the old points go."""
    card = into_card(read_card(folder), choice, result, [sample.truth for sample in samples])
    roots = sorted({sample.root.parent.name for sample in samples})
    data = card.data | {"points": {"roots": roots, **split_summary(samples)}}
    write_card(folder, card.model_copy(update={"data": data}))
    console.print(
        f"points, calibration and bands kept in {folder / CARD_FILE}; what the test measured at the old ones "
        "is gone: run evaluate.py --keep on the test split again",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def log_report(result: Report, folder: Path, run_id: str, tracking_uri: str) -> None:
    """Add figures and report to the MLflow run that made the model."""
    with tracker.connection(tracking_uri) as client:
        for key, value in flat_metrics(result).items():
            client.log_metric(run_id, key, value)
        what = f"{result.title}, {result.images} images, {result.data['Fingerprint'][:8]}"
        client.set_tag(run_id, f"evaluation.{result.split}", what)
        client.log_artifacts(run_id, str(folder), f"evaluation/{result.split}")
    console.print(f"logged to run {run_id}", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
