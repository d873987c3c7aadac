"""A network exported for another runtime, with what lies between its graphs; needs no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from detection import preparation, selection
from detection.calibration import calibrate
from detection.card import classes_of
from detection.detections import Detections
from detection.imaging import Image
from detection.second_scores import candidates, evidence, moved
from schemas import Export, ModelCard, RuntimeInfo

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the first graph says of a picture.

    Attributes:
        table: a row of features for each place of each level that RoIAlign reads, (S, C), finest level
            first; in whatever form the runtime keeps it.
        objectness: of each level of the pyramid, (1, A, H, W) logits.
        deltas: of each, (1, 4 A, H, W).
    """

    table: object
    objectness: Sequence[Floats]
    deltas: Sequence[Floats]


class Graphs(Protocol):
    """The parts of a network that a runtime runs, for several threads at once."""

    def look(self, batch: Floats) -> Seen:
        """Run backbone, pyramid and RPN head on (1, 3, H, W)."""

    def head(self, table: object, index: NDArray[np.int32], weight: Floats) -> tuple[Floats, Floats]:
        """Sum rows of the table as selection.points says, and run the box head.

        Returns:
            logits (P, C) and deltas (P, 4 C).
        """

    def second_look(self, crops: Floats) -> Floats:
        """Return logits (N, O) for crops (N, 3, S, S) in [0, 1]."""


class ExportedDetector:
    """An export with its model card: it answers as detector.Detector does, without PyTorch.

    Attributes:
        card: what model.json holds.
        export: which of the card's exports this is.
        run_by: what /model says of it, where runtimes.load chose it.
    """

    run_by: RuntimeInfo | None = None

    def __init__(self, card: ModelCard, export: Export, graphs: Graphs) -> None:
        self.card, self.export = card, export
        self.graphs = graphs

    def detect(
        self,
        image: Image,
        *,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        probabilities: bool = False,
    ) -> Detections:
        """Return every detection in image, best first; see detector.Detector.detect."""
        network, geometry = self.card.network, self.export.geometry
        batch, size_hw = preparation.prepare(image, network, geometry.size_divisible)
        seen = self.graphs.look(batch)
        input_hw = (batch.shape[2], batch.shape[3])
        proposals = selection.propose(
            seen.objectness, seen.deltas, geometry, input_hw, size_hw, network.rpn_post_nms_top_n
        )
        if not len(proposals):
            return Detections.empty()
        grids = [(one.shape[2], one.shape[3]) for one in seen.objectness[: len(geometry.pool_strides)]]
        index, weight = selection.points(
            proposals, geometry, grids, network.roi_sampling_ratio, network.rpn_post_nms_top_n
        )
        every = self.graphs.head(seen.table, index, weight)
        logits, deltas = (one[: len(proposals)] for one in every)  # the rest belong to no proposal
        shares = selection.softmax(logits)
        boxes, scores, labels, proposal = selection.select(
            shares, deltas, proposals, size_hw,
            box_weights=geometry.box_weights,
            score_threshold=network.box_score_thresh,
            nms_iou=network.box_nms_thresh if nms_iou is None else nms_iou,
            voting_iou=network.box_voting_iou,
            most=network.box_detections_per_img if max_detections is None else max_detections,
        )  # fmt: skip
        ratios = np.array([image.shape[1] / size_hw[1], image.shape[0] / size_hw[0]], np.float32)
        found = Detections(
            boxes * np.tile(ratios, 2), scores, labels, shares[proposal] if probabilities else None
        )
        return calibrate(self._look_twice(image, found), self.card.calibration, self.card.class_names)

    def _look_twice(self, image: Image, found: Detections) -> Detections:
        """Return detections with the scores that the second look gives them, best first."""
        config = self.card.second_look
        if config is None:
            return found
        is_weapon = np.isin(found.labels, classes_of(self.card).weapons)
        every = candidates(found.scores, is_weapon, config)
        if not len(every):
            return found
        crops = preparation.cut_out(image, found.boxes[every[: config.most]], config)
        seen = evidence(self.graphs.second_look(crops))
        scores = moved(found.scores, every, seen, config)
        changed = Detections(found.boxes, scores, found.labels, found.probabilities)
        return changed.take(np.argsort(-scores, kind="stable"))
