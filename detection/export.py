"""A model's network as graphs for other runtimes: OpenVINO, in int8 too, and ONNX. Needs PyTorch.

Three graphs: "look" (backbone, pyramid, RPN head), "head" (RoIAlign, box head, class scores) and, where the
model has one, "second_look". What lies between them is numpy's: detection.exported.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from detection.card import DetectorError
from detection.detector import Detector
from detection.exported import ExportedDetector, Seen
from detection.imaging import Image
from detection.openvino_runtime import OpenVinoGraphs
from schemas import Export, ModelCard, NetworkGeometry

Floats = NDArray[np.float32]
PARTS = ("look", "head", "second_look")
EXAMPLE_HW = (256, 320)  # of the picture with which the network is traced; multiples of every stride
OPSET = 17
# What int8 leaves in float when accuracy suffers: the parts that decide, the most telling first.
IN_FLOAT: tuple[tuple[str, ...], ...] = ((), ("head",), ("head", "second_look", "rpn"))
RPN_LAYERS = ".*rpn_head.*"


class Look(nn.Module):
    """Backbone, pyramid and RPN head as one module: (1, 3, H, W) -> table, objectness, deltas by level.

    The table has a row for each place of each level that RoIAlign reads, one level after the other.
    """

    def __init__(self, network: FasterRCNN) -> None:
        super().__init__()
        self.backbone, self.rpn_head = network.backbone, network.rpn.head
        self.names = list(network.roi_heads.box_roi_pool.featmap_names)

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        """Return the table (S, C), then objectness, then deltas of every level."""
        features = self.backbone(batch)
        objectness, deltas = self.rpn_head(list(features.values()))
        rows = [
            level.permute(0, 2, 3, 1).flatten(0, 2) for name, level in features.items() if name in self.names
        ]
        return (torch.cat(rows), *objectness, *deltas)


class BoxLayers(nn.Module):
    """The box head as one module, behind RoIAlign: rows (P bins bins, C) -> logits, deltas."""

    def __init__(self, network: FasterRCNN) -> None:
        super().__init__()
        heads = network.roi_heads
        self.bins = heads.box_roi_pool.output_size[0]
        self.box_head, self.box_predictor = heads.box_head, heads.box_predictor
        self.reads_rows = isinstance(self.box_head, TwoMLPHead)
        if self.reads_rows:  # its first layer takes what lies row after row, so that nothing is laid out anew
            first = self.box_head.fc6
            rows_first = first.weight.unflatten(1, (-1, self.bins**2)).transpose(1, 2).flatten(1)
            self.first = nn.Linear(first.in_features, first.out_features)
            self.first.weight, self.first.bias = nn.Parameter(rows_first.detach()), first.bias

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (P, C) and deltas (P, 4 C)."""
        if self.reads_rows:
            hidden = F.relu(self.first(rows.reshape(-1, self.first.in_features)))
            hidden = F.relu(self.box_head.fc7(hidden))
        else:
            pooled = rows.reshape(-1, self.bins, self.bins, rows.shape[-1]).permute(0, 3, 1, 2)
            hidden = self.box_head(pooled)
        logits, deltas = self.box_predictor(hidden)
        return logits, deltas


class Head(nn.Module):
    """RoIAlign by selection.points and box head as one module: table, index, weight -> logits, deltas."""

    def __init__(self, layers: BoxLayers) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, table: Tensor, index: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (P, C) and deltas (P, 4 C)."""
        rows = table[index[:, 0].long()] * weight[:, :1]
        for place in range(1, index.shape[1]):
            rows = rows + table[index[:, place].long()] * weight[:, place : place + 1]
        logits, deltas = self.layers(rows)
        return logits, deltas


@dataclass(frozen=True, eq=False)
class Pieces:
    """A network taken apart.

    Attributes:
        modules: by part, in float32.
        examples: of each part's inputs.
        geometry: what lies between them.
    """

    modules: dict[str, nn.Module]
    examples: dict[str, tuple[Tensor, ...]]
    geometry: NetworkGeometry


def take_apart(detector: Detector) -> Pieces:
    """Return the parts of a detector's network.

    Args:
        detector: in float32, not rearranged for speed, on the processor.
    """
    network, config = detector.network.eval(), detector.card.network
    look = Look(network).eval()
    batch = torch.zeros(1, 3, *EXAMPLE_HW)
    with torch.inference_mode():
        table = look(batch)[0]
        features = network.backbone(batch)
    read = [name for name in features if name in look.names]
    if read != list(features)[: len(read)]:
        raise DetectorError(
            "expected RoIAlign to read the first levels of the pyramid; this network cannot be exported"
        )
    strides = [EXAMPLE_HW[0] // features[name].shape[2] for name in read]
    geometry = geometry_of(network, strides)
    bins = config.rpn_post_nms_top_n * geometry.pool_size**2
    places = 4 * config.roi_sampling_ratio**2
    modules: dict[str, nn.Module] = {"look": look, "head": Head(BoxLayers(network)).eval()}
    index, weight = torch.zeros(bins, places, dtype=torch.int32), torch.zeros(bins, places)
    examples = {"look": (batch,), "head": (table.clone(), index, weight)}
    if detector.second_look is not None and detector.card.second_look is not None:
        side = detector.card.second_look.size_px
        modules["second_look"] = detector.second_look.eval()
        examples["second_look"] = (torch.zeros(2, 3, side, side),)
    return Pieces(modules, examples, geometry)


def geometry_of(network: FasterRCNN, pool_strides: Sequence[int]) -> NetworkGeometry:
    """Return what lies between the graphs of a network."""
    rpn, pool = network.rpn, network.roi_heads.box_roi_pool
    return NetworkGeometry(
        cell_anchors=tuple(tuple(map(tuple, level.tolist())) for level in rpn.anchor_generator.cell_anchors),
        pool_strides=tuple(pool_strides),
        pool_size=pool.output_size[0],
        canonical_scale=pool.canonical_scale,
        canonical_level=pool.canonical_level,
        size_divisible=network.transform.size_divisible,
        rpn_pre_nms_top_n=rpn._pre_nms_top_n["testing"],
        rpn_nms_thresh=rpn.nms_thresh,
        rpn_score_thresh=rpn.score_thresh,
        rpn_min_size=rpn.min_size,
        rpn_box_weights=rpn.box_coder.weights,
        box_weights=network.roi_heads.box_coder.weights,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what tracing and quantising say to developers from whoever runs them."""
    loggers = [logging.getLogger(name) for name in ("nncf", "torch.onnx")]
    before = [one.level for one in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in loggers:
            one.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for one, level in zip(loggers, before, strict=True):
                one.setLevel(level)


def to_openvino(pieces: Pieces) -> dict[str, Any]:
    """Return the parts as OpenVINO's models, for pictures of any size."""
    import openvino as ov

    models = {}
    with quiet(), torch.no_grad():
        for part, module in pieces.modules.items():
            if part == "head":
                models[part] = _openvino_head(pieces)
                continue
            models[part] = ov.convert_model(module, example_input=pieces.examples[part])
            models[part].reshape(ov.PartialShape(_shapes(pieces)[part][0]))
    return models


def _openvino_head(pieces: Pieces) -> Any:
    """Return RoIAlign and box head; EmbeddingBag sums rows 20 times as fast as OpenVINO's ROIAlign does."""
    import openvino as ov
    from openvino import opset15 as ops

    table, index, weight = pieces.examples["head"]
    layers = pieces.modules["head"].layers
    behind = ov.convert_model(layers, example_input=(torch.zeros(len(index), table.shape[1]),))
    (rows,) = behind.get_parameters()
    inputs = [
        ops.parameter([-1, table.shape[1]], np.float32, "table"),
        ops.parameter(list(index.shape), np.int32, "index"),
        ops.parameter(list(weight.shape), np.float32, "weight"),
    ]
    rows.output(0).replace(ops.embedding_bag_packed(*inputs, "sum").output(0))
    return ov.Model(behind.get_results(), inputs, "head")


def _shapes(pieces: Pieces) -> dict[str, list[list[int]]]:
    """Return the shapes of each part's inputs, with -1 for what differs from picture to picture."""
    shapes = {part: [list(one.shape) for one in example] for part, example in pieces.examples.items()}
    shapes["look"][0][2:] = [-1, -1]
    shapes["head"][0][0] = -1
    if "second_look" in shapes:
        shapes["second_look"][0][0] = -1
    return shapes


def write_openvino(models: Mapping[str, Any], folder: Path) -> None:
    """Write models to folder: an .xml and a .bin for each part, weights that are no int8 as float16."""
    import openvino as ov

    for part, model in models.items():
        ov.save_model(model, folder / f"{part}.xml", compress_to_fp16=True)


def write_onnx(pieces: Pieces, folder: Path) -> None:
    """Write the parts to folder as ONNX files, for pictures of any size."""
    with quiet(), torch.no_grad():
        for part, module in pieces.modules.items():
            shapes = _shapes(pieces)[part]
            names = [f"in{i}" for i in range(len(shapes))]
            free = {
                name: {axis: f"{name}_{axis}" for axis, side in enumerate(shape) if side == -1}
                for name, shape in zip(names, shapes, strict=True)
            }
            torch.onnx.export(
                module, pieces.examples[part], folder / f"{part}.onnx", input_names=names, dynamic_axes=free,
                opset_version=OPSET, dynamo=False,
            )  # fmt: skip


class _Calls:
    """What one part is given when photos are looked at, made anew each time it is gone through.

    Not kept: the features of a photo take up to 35 MB.
    """

    def __init__(self, detector: ExportedDetector, images: Sequence[Callable[[], Image]], part: str) -> None:
        self._detector, self._images, self._part = detector, images, part

    def __iter__(self) -> Iterator[list[Any]]:
        for load in self._images:
            graphs = _Recording(self._detector.graphs)
            detector = ExportedDetector(self._detector.card, self._detector.export, graphs)
            detector.detect(load())
            if graphs.given.get(self._part):
                yield graphs.given[self._part]


class _Recording:
    """Graphs that keep what they are given."""

    def __init__(self, graphs: Any) -> None:
        self._graphs = graphs
        self.given: dict[str, list[Any]] = {}

    def look(self, batch: Floats) -> Seen:
        self.given["look"] = [batch]
        seen: Seen = self._graphs.look(batch)
        return seen

    def head(self, table: Any, index: NDArray[np.int32], weight: Floats) -> tuple[Floats, Floats]:
        self.given["head"] = [table.data.copy(), index, weight]
        logits, deltas = self._graphs.head(table, index, weight)
        return logits, deltas

    def second_look(self, crops: Floats) -> Floats:
        self.given["second_look"] = [crops]
        logits: Floats = self._graphs.second_look(crops)
        return logits


def to_int8(
    models: Mapping[str, Any], detector: ExportedDetector, images: Sequence[Callable[[], Image]],
    in_float: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Return the models with their layers in int8, scaled by what photos give them.

    Args:
        models: of to_openvino; they stay as they are.
        detector: runs them in float.
        images: calibration photos, of the training split; each is loaded when it is looked at.
        in_float: parts to leave in float: head, second_look, or rpn of look.
    """
    import nncf

    quantised = {}
    for part, model in models.items():
        calls = (
            list(_Calls(detector, images, part)) if part == "second_look" else _Calls(detector, images, part)
        )
        if part in in_float or (part == "second_look" and not calls):
            quantised[part] = model
            continue
        ignored = nncf.IgnoredScope()
        if part == "look" and "rpn" in in_float:
            ignored = nncf.IgnoredScope(patterns=[RPN_LAYERS], validate=False)
        with quiet():
            quantised[part] = nncf.quantize(
                model.clone(),
                nncf.Dataset(calls),
                subset_size=len(images),
                ignored_scope=ignored,
                preset=nncf.QuantizationPreset.MIXED,  # the pyramid's values have two signs
                fast_bias_correction=False,  # layer by layer, on the pictures: boxes stay where they are
            )
    return quantised


def in_memory(
    models: Mapping[str, Any], card: ModelCard, export: Export, *, threads: int = 0
) -> ExportedDetector:
    """Return a detector that runs OpenVINO's models, without files."""
    return ExportedDetector(card, export, OpenVinoGraphs(models, precision=export.precision, threads=threads))
