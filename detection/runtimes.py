"""Chooses what runs a model's network on this machine: PyTorch, or an export that lies in the model folder.

Imports neither PyTorch nor another runtime before one is chosen.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from detection.card import DetectorError, read_card
from detection.exported import ExportedDetector, Graphs
from detection.processor import multiplies_int8
from detection.runtime import AnyDetector
from schemas import Export, ModelCard, RuntimeInfo

NAMES = {"torch": "PyTorch", "openvino": "OpenVINO", "onnx": "ONNX Runtime"}
PACKAGES = {"torch": ("torch", "torchvision", "detecto"), "openvino": ("openvino",), "onnx": ("onnxruntime",)}
SUFFIXES = {"openvino": ".xml", "onnx": ".onnx"}
Wanted = Literal["auto", "torch", "openvino", "onnx"]


class NothingRuns(DetectorError):
    """Nothing on this machine can run a model.

    Attributes:
        why: what was tried, and why it cannot.
    """

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(
            f"{why}. Where PyTorch is installed, make an export: python registry.py export {folder} "
            "--format openvino --data FOLDER_OF_PHOTOS; or serve this model with PyTorch"
        )
        self.why = why


def installed(runtime: str) -> bool:
    """Return whether everything that runtime needs can be imported here; nothing is imported."""
    return all(_is_there(name) for name in PACKAGES[runtime])


def _is_there(package: str) -> bool:
    if package in sys.modules:
        return sys.modules[package] is not None  # None: somebody has shut it out
    return importlib.util.find_spec(package) is not None


def torch_installed() -> bool:
    """Return whether PyTorch can serve here."""
    return installed("torch")


def called(export: Export) -> str:
    """Return how people call an export."""
    return f"the {NAMES[export.runtime]} export ({export.precision})"


def check_export(
    folder: Path, card: ModelCard, export: Export, *, has_int8: Callable[[], bool] = multiplies_int8
) -> None:
    """See that an export can be served from folder on this machine.

    Raises:
        DetectorError: it cannot, and why.
    """
    name = called(export)
    if export.weights_sha256 != card.weights_sha256:
        raise DetectorError(
            f"{name} was made of other weights (SHA-256 {export.weights_sha256[:12]}...) than this model's "
            f"({card.weights_sha256[:12]}...)"
        )
    if export.comparison is None:
        raise DetectorError(f"{name} was never compared with PyTorch, so nobody knows what it misses")
    if not installed(export.runtime):
        raise DetectorError(f"{NAMES[export.runtime]} is not installed here, which {name} needs")
    if export.precision == "int8" and not has_int8():
        raise DetectorError(f"{name} needs a processor that multiplies int8 (VNNI), and this one does not")
    for file, sha256 in export.files.items():
        path = folder / file
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            raise DetectorError(f"{name} should have the file {file} in {folder}, which is not there")
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise DetectorError(
                f"{path} is not the file that model.json was written for: it is damaged, or another model's"
            )


def load_export(
    folder: Path, card: ModelCard, export: Export, *, threads: int = 0, has_int8: bool = True
) -> ExportedDetector:
    """Load one export of a model folder, which check_export has seen; without has_int8 it computes in float.

    Raises:
        DetectorError: its runtime cannot read or compile it.
    """
    suffix = SUFFIXES[export.runtime]
    files = {Path(file).stem: folder / file for file in export.files if file.endswith(suffix)}
    graphs: Graphs
    if export.runtime == "openvino":
        from detection.openvino_runtime import OpenVinoGraphs, read_graphs

        parts, precision = read_graphs(files), export.precision
        graphs = OpenVinoGraphs(parts, precision=precision, threads=threads, has_int8=has_int8)
    else:
        from detection.onnx_runtime import OnnxGraphs

        graphs = OnnxGraphs(files, threads=threads)
    return ExportedDetector(card, export, graphs)


def load(
    folder: Path,
    *,
    runtime: Wanted = "auto",
    device: str = "cpu",
    threads: int = 0,
    has_int8: Callable[[], bool] = multiplies_int8,
) -> AnyDetector:
    """Load a model folder with the runtime that is wanted, or with another that can, and say why.

    Args:
        folder: a model folder.
        runtime: "auto" takes the export that its card measured to be the fastest beside PyTorch, of those
            that fit here; where none is faster, PyTorch.
        device: what devices.choose_device returned, as text; off the processor there is only PyTorch.
        threads: processor threads; 0 for all.
        has_int8: whether the processor multiplies int8.

    Raises:
        NothingRuns: nothing here can run this model; the message says what was tried and what to do.
        DetectorError: it is no model folder.
    """
    card, notes = read_card(folder), list[str]()
    for export in _in_order(card, runtime, device):
        try:
            if export is None:
                return _with_torch(folder, device, threads, notes)
            return _with_export(folder, card, export, threads, notes, has_int8)
        except DetectorError as error:
            notes.append(str(error))
    for export in _in_order(card, runtime, device):
        if export is not None and (export.runtime, export.precision) == ("openvino", "int8"):
            with contextlib.suppress(DetectorError):  # said above
                return _in_float(folder, card, export, threads, notes)
    raise NothingRuns(folder, "; ".join(notes))


def _in_order(card: ModelCard, runtime: Wanted, device: str) -> list[Export | None]:
    """Return what to try, best first; None stands for PyTorch.

    An export that was slower than PyTorch where it was measured comes after PyTorch, and so do those that
    were not asked for.
    """
    if device != "cpu" or runtime == "torch":
        return [None]
    ranked = sorted(card.exports, key=_share_of_torchs_time)
    if runtime != "auto":
        return [*(export for export in ranked if export.runtime == runtime), None]
    faster = [export for export in ranked if _share_of_torchs_time(export) < 1]
    return [*faster, None, *(export for export in ranked if export not in faster)]


def _with_export(
    folder: Path,
    card: ModelCard,
    export: Export,
    threads: int,
    notes: list[str],
    has_int8: Callable[[], bool],
) -> AnyDetector:
    check_export(folder, card, export, has_int8=has_int8)
    detector = load_export(folder, card, export, threads=threads)
    detector.run_by = RuntimeInfo(name=export.runtime, precision=export.precision, notes=notes)
    return detector


def _in_float(folder: Path, card: ModelCard, export: Export, threads: int, notes: list[str]) -> AnyDetector:
    """Load an int8 export where nothing else serves and the processor does not multiply int8."""
    check_export(folder, card, export, has_int8=lambda: True)
    detector = load_export(folder, card, export, threads=threads, has_int8=False)
    told = [*notes, f"{called(export)} is computed in float, which takes longer, since nothing else serves"]
    detector.run_by = RuntimeInfo(name=export.runtime, precision=export.precision, notes=told)
    return detector


def _share_of_torchs_time(export: Export) -> float:
    compared = export.comparison
    return 0.0 if compared is None else compared.exported_ms / compared.torch_ms  # 0: so that it is named


def _with_torch(folder: Path, device: str, threads: int, notes: list[str]) -> AnyDetector:
    if not torch_installed():
        raise DetectorError("PyTorch is not installed here")
    import torch

    from detection.detector import load_folder

    if threads:
        torch.set_num_threads(threads)  # holds for threads that have not computed yet: the inference threads

    detector = load_folder(folder, device=device)
    detector.run_by = RuntimeInfo(name="torch", precision="float", notes=notes)
    return detector
