"""Exports a model folder for another runtime: makes it, compares it with PyTorch on photographs, keeps it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from detection import detector as detectors
from detection import export as exports
from detection.card import DetectorError, read_card, write_card
from detection.exported import ExportedDetector
from detection.processor import multiplies_int8, processor_name
from detection.runtime import AnyDetector, warm_up
from detection.runtimes import NAMES
from evaluation.export_check import Reference, compare, objections, refer
from photosets.samples import Sample, load_image
from schemas import ComparedFigure, Export, ExportComparison, ModelCard, Precision
from training import engine

CALIBRATION_PHOTOS = 60
TIMED_PHOTOS = 20
SEED = 0
LIBRARIES = {
    "openvino": ("torch", "torchvision", "openvino", "nncf"),
    "onnx": ("torch", "torchvision", "onnx", "onnxruntime"),
}
Say = Callable[[str], None]


class ExportRefused(DetectorError):
    """An export finds less than PyTorch; the message says how much less."""


def export_model(
    folder: Path, runtime: Literal["openvino", "onnx"], train: Sequence[Sample], val: Sequence[Sample], *,
    only_float: bool = False, say: Say = lambda _: None,
) -> Export:  # fmt: skip
    """Export a model folder, see that the export finds what PyTorch finds, and write it into the folder.

    Of int8, the parts that cost too much accuracy are left in float; where that does not help either, all of
    it is. An earlier export of the same runtime and precision goes.

    Args:
        folder: a model folder.
        runtime: what shall run it.
        train: where calibration photos are drawn from, always the same ones.
        val: what it is compared on.
        only_float: no int8.
        say: gets a sentence about what is being done.

    Returns:
        What the card now says of it.

    Raises:
        ExportRefused: it finds less, in float too.
        DetectorError: the folder, or this installation, cannot be used.
    """
    _check_installed(runtime)
    served = detectors.load_folder(folder)
    pieces = exports.take_apart(detectors.load_folder(folder, optimize=False))
    say(f"PyTorch looks at {len(val)} validation photos")
    found = engine.detect_all(served, val)
    reference = refer(
        served.card, [sample.truth for sample in val], [sample.recording for sample in val], found
    )
    candidates = _candidates(served.card, runtime, pieces, train, only_float=only_float)
    chosen, figures = first_that_passes(reference, candidates, val, say)
    torch_ms, exported_ms = time_in_turns((served, chosen.detector), val[:TIMED_PHOTOS])
    comparison = ExportComparison(
        images=len(val), figures=figures, torch_ms=torch_ms, exported_ms=exported_ms, machine=processor_name()
    )
    return _keep(folder, chosen.export.model_copy(update={"comparison": comparison}), chosen.write)


@dataclass(frozen=True)
class Candidate:
    """What may become an export.

    Attributes:
        detector: runs it.
        export: what the card would say of it.
        write: writes its files to a folder.
    """

    detector: AnyDetector
    export: Export
    write: Callable[[Path], None]

    def __str__(self) -> str:
        left = "".join(f", {part} in float" for part in self.export.in_float)
        return f"{NAMES[self.export.runtime]} in {self.export.precision}{left}"


def first_that_passes(
    reference: Reference, candidates: Iterable[Candidate], val: Sequence[Sample], say: Say
) -> tuple[Candidate, dict[str, ComparedFigure]]:
    """Return the first candidate that finds what PyTorch finds, and its figures beside PyTorch's.

    Args:
        reference: what PyTorch finds in val.
        candidates: the fastest first; each is made when those before it were refused.
        val: what they are compared on.
        say: gets a sentence about each.

    Raises:
        ExportRefused: none of them does.
    """
    refused = []
    for candidate in candidates:
        say(f"{candidate}: compared with PyTorch")
        found, _ = engine.evaluate(candidate.detector, val, description="compare")
        figures = compare(reference, found)
        against = objections(figures)
        if not against:
            return candidate, figures
        refused.append(f"{candidate}: {'; '.join(against)}")
        say(f"refused: {refused[-1]}")
    raise ExportRefused(f"no export finds what PyTorch finds. {'. '.join(refused)}")


def try_to_export(folder: Path, train: Sequence[Sample], val: Sequence[Sample], *, say: Say) -> None:
    """Export a model folder for OpenVINO, or say why it can be served with PyTorch only."""
    try:
        for line in told(export_model(folder, "openvino", train, val, say=say)):
            say(line)
    except DetectorError as error:
        say(f"no export, so that only an API with PyTorch can serve this model: {error}")


def _check_installed(runtime: str) -> None:
    missing = [name for name in LIBRARIES[runtime] if not _version(name)]
    if missing:
        raise DetectorError(f"an export for {NAMES[runtime]} needs {' and '.join(missing)}: pip install them")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _candidates(
    card: ModelCard, runtime: Literal["openvino", "onnx"], pieces: exports.Pieces,
    train: Sequence[Sample], *, only_float: bool,
) -> Iterator[Candidate]:  # fmt: skip
    """Yield what may become the export, the fastest first."""

    def described(precision: Precision, in_float: tuple[str, ...] = ()) -> Export:
        return Export(
            runtime=runtime, precision=precision, in_float=in_float, files={},
            weights_sha256=card.weights_sha256, geometry=pieces.geometry,
            library_versions={name: _version(name) for name in LIBRARIES[runtime]},
        )  # fmt: skip

    if runtime == "onnx":
        from detection.onnx_runtime import OnnxGraphs

        with tempfile.TemporaryDirectory(prefix="onnx-") as temporary:
            exports.write_onnx(pieces, Path(temporary))
            graphs = OnnxGraphs({part: Path(temporary) / f"{part}.onnx" for part in pieces.modules})
        export = described("float")
        yield Candidate(ExportedDetector(card, export, graphs), export, partial(exports.write_onnx, pieces))
        return
    models = exports.to_openvino(pieces)
    if not only_float and multiplies_int8():
        exact = exports.in_memory(models, card, described("int8"))  # computes in float32
        chosen = np.random.default_rng(SEED).permutation(len(train))[:CALIBRATION_PHOTOS]
        photos = [partial(load_image, train[i]) for i in sorted(chosen)]
        for in_float in exports.IN_FLOAT:
            quantised = exports.to_int8(models, exact, photos, in_float)
            yield _of_openvino(quantised, card, described("int8", in_float))
    yield _of_openvino(models, card, described("float"))


def _of_openvino(models: Mapping[str, Any], card: ModelCard, export: Export) -> Candidate:
    return Candidate(exports.in_memory(models, card, export), export, partial(exports.write_openvino, models))


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def time_in_turns(finders: Sequence[AnyDetector], samples: Sequence[Sample]) -> list[float]:
    """Return each finder's median milliseconds from pixels to boxes.

    They take turns, so that what else the machine does falls on all alike.
    """
    spent: list[list[float]] = [[] for _ in finders]
    for finder in finders:
        warm_up(finder)
    for sample in samples:
        image = load_image(sample)
        for finder, times in zip(finders, spent, strict=True):
            began = time.perf_counter()
            finder.detect(image)
            times.append(1000 * (time.perf_counter() - began))
    return [statistics.median(times) for times in spent]


def _keep(folder: Path, export: Export, write: Callable[[Path], None]) -> Export:
    """Write an export's files into the model folder, then its card: a folder with a card is whole."""
    name = f"{export.runtime}-{export.precision}"
    arriving = folder / f".{name}.part"
    try:
        _fresh(arriving)
        write(arriving)
        files = {
            f"{name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(arriving.iterdir())
        }
        shutil.rmtree(folder / name, ignore_errors=True)
        arriving.rename(folder / name)
    except OSError as error:
        raise DetectorError(f"the export cannot be written to {folder}: {error}") from error
    export = export.model_copy(update={"files": files})
    card = read_card(folder)
    others = [
        one
        for one in card.exports
        if (one.runtime, one.precision) != (export.runtime, export.precision)
        and one.weights_sha256 == card.weights_sha256
    ]
    write_card(folder, card.model_copy(update={"exports": (*others, export)}))
    return export


def told(export: Export) -> list[str]:
    """Return in sentences what an export is and how it compares."""
    compared = export.comparison
    assert compared is not None, "only compared exports are kept"
    left = f", {' and '.join(export.in_float)} left in float" if export.in_float else ""
    lines = [
        f"{NAMES[export.runtime]} in {export.precision}{left}: {compared.exported_ms:.0f} ms a photo, "
        f"PyTorch {compared.torch_ms:.0f} ({compared.machine})"
    ]
    for name, figure in compared.figures.items():
        interval = "" if figure.low is None else f", 95 % interval {figure.low:.4g} to {figure.high:.4g}"
        lines.append(f"  {name}: {figure.exported:.4f}, PyTorch {figure.torch:.4f}{interval}")
    return lines
