"""Score a model on a split and write the report. See `python evaluate.py --help`."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from tqdm import tqdm

import metrics
from cameras import streams
from cameras.config import one_camera
from commands import EvaluateConfig, evaluate_config
from detection import detector as detectors
from detection import devices, imaging, runtimes
from detection.card import DetectorError, classes_of, read_card, write_card
from detection.confirmation import Rule
from detection.detections import Classes, Detections, GroundTruth, Latency
from detection.names import printable
from detection.runtime import AnyDetector, run_by, warm_up
from detection.tiles import detect_in, frames_of
from evaluation import comparison, fiftyone_format, pictures, tables, video
from evaluation import report as reports
from evaluation.alarms import image_alarms
from evaluation.chosen import Chosen, choose, into_card, uncalibrated, with_reliability
from evaluation.results import Report, SliceResult, build_report, card_tables, flat_metrics
from evaluation.robustness import CHANGES
from photosets import clips as labelled
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
VIDEO_STALL_S = 60.0  # a file on a slow disk
console = Console(markup=False, emoji=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return 0, 1 after a problem said in a sentence, or 130 after Ctrl-C."""
    config = evaluate_config(arguments)
    try:
        if config.data:
            run(config)
        else:
            run_clips(config)
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
        detector = load_detector(config, folder, device)
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
    samples = read_split(config, detector.card)
    films = film(config, samples, classes_of(detector.card)) if config.video or config.clips else []
    warm_up(detector)
    choosing = config.keep and config.split == "val"
    if choosing:
        give_card(detector, uncalibrated(detector.card))
    finder = detector if config.tiles == "1x1" else TiledFinder(detector, config.tiles)
    detections, latency = engine.evaluate(finder, samples)
    choice = None
    if choosing:
        choice = choose_anew(config, samples, detections, detector.card)
        detections = choice.detections
        give_card(detector, choice.onto(detector.card))
    result = score(config, finder, samples, (detections, latency), model, detector.card)
    if choice:
        result = with_reliability(result, choice)
    if films:
        result = dataclasses.replace(result, video=watch(config, films, finder, detector))
    looked = pictures.look_at_pictures(result, samples, detections)
    compared = comparison.Compared(None)
    if other and config.against:
        compared = comparison.compare(looked, other, config.against, config.output)
        result = compared.onto(result)
    page = reports.write_report(result, config.output, samples, looked, compared.model)
    console.print(tables.figures_table(result, other))
    if result.video:
        console.print(tables.video_table(result.video))
    notes = [*result.notes, *(result.video.notes if result.video else ())]
    for note in notes:
        console.print(f"note: {note}", highlight=False)
    if choice:
        keep_choice(choice, result, samples, folder)
    elif config.keep:
        keep_figures(result, folder, of_torch=config.runtime == "torch")
    if config.log:
        log_report(result, config.output, run_id, config.mlflow_tracking_uri)
    if config.fiftyone:
        written = fiftyone_format.write_fiftyone(looked, result.suspects, config.output)
        console.print(fiftyone_format.how_to_open(written), highlight=False, soft_wrap=True)
    console.print(f"report: {page}", highlight=False, soft_wrap=True)
    return result


def run_clips(config: EvaluateConfig) -> video.VideoResult:
    """Load the model, score it on labelled videos alone, write video.json and print its figures."""
    reports.check_writable(config.output)
    device = devices.choose_device(config.device)
    films = labelled.video_clips(config.clips, rate=config.rate, read=read_video)
    with ExitStack() as stack:
        folder, _, _ = find_model(config, stack)
        detector = load_detector(config, folder, device)
    finder = detector if config.tiles == "1x1" else TiledFinder(detector, config.tiles)
    warm_up(detector)
    result = watch(config, films, finder, detector)
    written = reports.write_video(result, config.output)
    console.print(tables.video_table(result))
    for note in result.notes:
        console.print(f"note: {note}", highlight=False)
    console.print(f"report: {written}", highlight=False, soft_wrap=True)
    return result


def load_detector(config: EvaluateConfig, folder: Path, device: torch.device) -> AnyDetector:
    """Load the model with the runtime that is wanted, and with no other.

    Raises:
        DetectorError: it cannot be loaded, and why.
    """
    if config.runtime == "torch":
        return detectors.load_folder(folder, device=device)
    detector = runtimes.load(folder, runtime=config.runtime, device=str(device), threads=config.threads)
    chosen = run_by(detector)
    if chosen and config.runtime not in ("auto", chosen.name):
        raise DetectorError(f"--runtime {config.runtime} cannot run this model: {'; '.join(chosen.notes)}")
    return detector


def give_card(detector: AnyDetector, card: ModelCard) -> None:
    """Let the detector answer by another card; check_keep has refused what is no PyTorch network."""
    assert isinstance(detector, detectors.Detector)
    detector.card = card


def runtime_of(detector: AnyDetector) -> str:
    """Return what runs the network, in words."""
    chosen = run_by(detector)
    return "torch" if chosen is None or chosen.name == "torch" else f"{chosen.name} {chosen.precision}"


@dataclasses.dataclass(frozen=True)
class TiledFinder:
    """A detector that looks at each image's tiles too."""

    detector: AnyDetector
    tiles: Tiles

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        device: torch.device = getattr(self.detector, "device", torch.device("cpu"))
        return device

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


def read_split(config: EvaluateConfig, card: ModelCard) -> list[Sample]:
    """Read the samples, say what was found, and thin them out to config.limit."""
    found = DatasetReport()
    samples = photographs.read_samples(
        config.data, config.split, known=classes_of(card), classes=config.classes,
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
    if config.runtime != "torch" and not (config.video and config.split == "test"):
        raise DetectorError(
            "the card's figures of photographs are PyTorch's: leave out --keep, or --runtime; of --video on "
            "the test split the figures of clips alone are kept"
        )
    whole = config.split != "train" and not config.limit
    if not config.model or not whole or (config.split == "test" and card.operating_point is None):
        raise DetectorError(
            "--keep writes into the model folder named with --model: figures of the whole test split, if it "
            "has an operating point, or with --split val the points, calibration and bands that the whole "
            "validation split chooses; leave out --limit"
        )


def choose_anew(
    config: EvaluateConfig, samples: Sequence[Sample], detections: Sequence[Detections], card: ModelCard
) -> Chosen:
    """Choose calibration, points and bands for a model's raw scores, as train.py does at its end."""
    return choose(
        [sample.truth for sample in samples], detections, classes_of(card),
        groups=[sample.recording for sample in samples],
        max_false_alarms_per_1000=config.max_false_alarms, max_unsure_per_1000=config.max_unsure,
    )  # fmt: skip


def film(config: EvaluateConfig, samples: Sequence[Sample], classes: Classes) -> list[labelled.Clip]:
    """Return the clips to be scored: the split's series, photographs panned over, and labelled videos."""
    clips = labelled.series_clips(samples, classes, rate=config.rate) if config.video else []
    if config.video and config.pan_seconds:
        alone = labelled.without_series(samples)
        clips += labelled.panned_clips(alone, classes, rate=config.rate, seconds=config.pan_seconds)
    return clips + labelled.video_clips(config.clips, rate=config.rate, read=read_video)


def read_video(path: Path) -> Generator[labelled.Frame, None, None]:
    """Yield all pictures of a video file.

    Raises:
        ClipError: it cannot be read.
    """

    def wrong(error: Exception) -> labelled.ClipError:
        return labelled.ClipError(f"{path} cannot be read: {error}")

    def loader(decode: Callable[[], imaging.Image]) -> Callable[[], imaging.Image]:
        def load() -> imaging.Image:
            try:
                return decode()
            except (streams.StreamError, imaging.ImageError) as error:
                raise wrong(error) from error

        return load

    try:
        with closing(streams.read(one_camera("clip", str(path)), stall_s=VIDEO_STALL_S)) as pictures:
            for picture in pictures:
                yield labelled.Frame(picture.time_s, loader(picture.decode))
    except streams.StreamError as error:
        raise wrong(error) from error


def watch(
    config: EvaluateConfig, films: Sequence[labelled.Clip], finder: video.Finder, detector: AnyDetector
) -> video.VideoResult:
    """Look at clips as cameras do, and score what the cameras' rule raises."""
    seen = video.look_at(films, finder, detector.card)
    return video.measure_video(
        seen, Rule.of_card(detector.card), split=config.split if config.video else None,
        runtime=runtime_of(detector), panned=sum(clip.is_panned for clip in films),
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
    classes = classes_of(card)
    result = build_report(
        truths, detections, classes, names=[sample.name for sample in samples],
        groups=[sample.recording for sample in samples], operating_point=card.operating_point,
        unsure_point=card.unsure_point, bands=card.bands, split=config.split, official=official, model=model,
        data=describe_data(samples, config.tiles),
    )  # fmt: skip
    if config.latency:
        result = dataclasses.replace(result, latency=latency)
    if config.compare_to_original:
        result = compare_to_original(result, samples, detections, classes.names)
    if config.robustness:
        slices = robustness(finder, samples, result.score_threshold, classes)
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
    finder: Finder, samples: Sequence[Sample], score_threshold: float, classes: Classes
) -> list[SliceResult]:
    """Score the finder on changed images, one kind after the other."""
    results = []
    for name, change in CHANGES.items():
        truths, found = [], []
        for sample in tqdm(samples, desc=name, unit="image", leave=False, mininterval=1.0):
            image, boxes = change(photographs.load_image(sample), sample.boxes)
            truths.append(GroundTruth(boxes.astype(np.float32), sample.labels))
            found.append(finder.detect(image))
        results.append(measure_slice(name, truths, found, score_threshold, classes))
    return results


def measure_slice(
    name: str, truths: Sequence[GroundTruth], found: Sequence[Detections], score_threshold: float,
    classes: Classes,
) -> SliceResult:  # fmt: skip
    """Return the figures of one kind of change."""
    coco = metrics.coco_summary(truths, found, classes.names)
    alarms = image_alarms(truths, found, classes)
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


def keep_figures(result: Report, folder: Path, *, of_torch: bool) -> None:
    """Write the test's figures into the folder's model card; what validation chose stays as it is.

    Args:
        result: of the test split.
        folder: of the model.
        of_torch: whether PyTorch ran the network; else the figures of clips alone are kept.
    """
    card = read_card(folder)
    assert card.operating_point is not None
    videos = {"video": result.video.figures} if result.video else {}
    if not of_torch:
        write_card(folder, card.model_copy(update=videos))
        console.print(f"figures of clips kept in {folder / CARD_FILE}", highlight=False, soft_wrap=True)
        return
    point, unsure = result.measured.model_copy(update={"rule": card.operating_point.rule}), None
    if card.unsure_point and result.unsure_measured:
        unsure = result.unsure_measured.model_copy(update={"rule": card.unsure_point.rule})
    figures = {
        "tested_alarm": AlarmFigures(operating_point=point, unsure_point=unsure, curve=result.alarm_curve),
        "metrics": card.metrics | flat_metrics(result),
        "tables": card_tables(result),
        **videos,
    }
    write_card(folder, card.model_copy(update=figures))
    console.print(f"kept in {folder / CARD_FILE}", highlight=False, soft_wrap=True)


def keep_choice(choice: Chosen, result: Report, samples: Sequence[Sample], folder: Path) -> None:
    """Write what validation chose into the folder's model card; figures at the old points go."""
    card = into_card(read_card(folder), choice, result, [sample.truth for sample in samples])
    roots = sorted({sample.root.parent.name for sample in samples})
    data = card.data | {"points": {"roots": roots, **split_summary(samples, result.class_names)}}
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
