"""From what a network says of every place in a picture to boxes, in numpy: anchors, proposals, suppression.

What torchvision's RPN and box head do between their layers. Boxes are xyxy pixels of the network's input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas import NetworkGeometry

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
LARGEST_GROWTH = math.log(1000 / 16)  # of a side, as torchvision's BoxCoder has it
CHUNK = 128  # candidates of suppression that are compared at once
SMALLEST = 1e-2  # pixels; torchvision removes smaller detections


def decode(deltas: Floats, boxes: Floats, weights: Sequence[float]) -> Floats:
    """Return boxes moved and grown by deltas, (N, 4) all.

    Source:
        Girshick et al., R-CNN, CVPR 2014, appendix C.
    """
    dx, dy, dw, dh = (deltas / np.asarray(weights, np.float32)).T
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    centre_x = boxes[:, 0] + widths / 2 + dx * widths
    centre_y = boxes[:, 1] + heights / 2 + dy * heights
    half_width = np.exp(np.minimum(dw, LARGEST_GROWTH)) * widths / 2
    half_height = np.exp(np.minimum(dh, LARGEST_GROWTH)) * heights / 2
    sides = (centre_x - half_width, centre_y - half_height, centre_x + half_width, centre_y + half_height)
    return np.stack(sides, axis=1, dtype=np.float32)


def clip(boxes: Floats, size_hw: tuple[int, int]) -> Floats:
    """Return boxes cut off at the edges of a picture of size_hw."""
    height, width = size_hw
    clipped: Floats = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    return clipped


def not_smaller(boxes: Floats, side: float) -> NDArray[np.bool_]:
    """Return which boxes have both sides of at least side."""
    large: NDArray[np.bool_] = (boxes[:, 2] - boxes[:, 0] >= side) & (boxes[:, 3] - boxes[:, 1] >= side)
    return large


def suppress(boxes: Floats, scores: Floats, groups: Ints, iou: float, limit: int) -> Ints:
    """Return which boxes stay, best score first, when a better one of their group overlaps the others.

    Args:
        boxes: (N, 4), coordinates of at least 0.
        scores: (N,); of equal ones the first is the better.
        groups: (N,) small whole numbers; boxes of different groups do not touch each other.
        iou: overlap above which the lower one goes.
        limit: how many at most.
    """
    order = np.argsort(-scores, kind="stable")
    if not len(order):
        return order
    apart = boxes + (groups * (boxes.max() + 1)).astype(np.float32)[:, None]  # each group in its own place
    kept = order[:0]
    for start in range(0, len(order), CHUNK):
        some = order[start : start + CHUNK]
        some = some[~(_overlaps(apart[some], apart[kept]) > iou).any(axis=1)]
        over = _overlaps(apart[some], apart[some]) > iou
        alive = np.ones(len(some), bool)
        for i in np.flatnonzero(np.triu(over, 1).any(axis=1)):
            if alive[i]:
                alive[i + 1 :] &= ~over[i, i + 1 :]
        kept = np.concatenate((kept, some[alive]))
        if len(kept) >= limit:
            break
    return kept[:limit]


def settle(
    kept: Ints, boxes: Floats, scores: Floats, labels: Ints, *, nms_iou: float, voting_iou: float | None
) -> Floats:
    """Return the boxes that stay, (K, 4), each moved to the mean of those of its class that lie on it.

    Source:
        Gidaris and Komodakis, Object detection via a multi-region and semantic segmentation-aware CNN model,
        ICCV 2015, section 5: boxes vote, weighted by their scores.

    Args:
        kept: (K,) which of the candidates stay after suppression.
        boxes: (N, 4) of all candidates.
        scores: (N,), above 0.
        labels: (N,).
        nms_iou: of the suppression; where it took none of those that would vote, nothing moves.
        voting_iou: overlap with the kept one from which a candidate has a voice; None for no vote.
    """
    if voting_iou is None or nms_iou >= voting_iou:
        return boxes[kept]
    heard = (_overlaps(boxes[kept], boxes) >= voting_iou) & (labels[kept][:, None] == labels)
    heard[np.arange(len(kept)), kept] = True  # a box always hears itself
    weights = heard * scores
    moved: Floats = (weights @ boxes / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return moved


def _overlaps(a: Floats, b: Floats) -> Floats:
    """Return the (N, M) intersection over union; single precision and few passes, for thousands of boxes."""
    width = np.minimum(a[:, None, 2], b[None, :, 2]) - np.maximum(a[:, None, 0], b[None, :, 0])
    height = np.minimum(a[:, None, 3], b[None, :, 3]) - np.maximum(a[:, None, 1], b[None, :, 1])
    common = np.maximum(width, 0) * np.maximum(height, 0)
    area_a, area_b = ((one[:, 2] - one[:, 0]) * (one[:, 3] - one[:, 1]) for one in (a, b))
    union = area_a[:, None] + area_b[None, :] - common
    shares: Floats = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return shares


def propose(
    objectness: Sequence[Floats], deltas: Sequence[Floats], geometry: NetworkGeometry,
    input_hw: tuple[int, int], size_hw: tuple[int, int], most: int,
) -> Floats:  # fmt: skip
    """Return the places worth a closer look, (P, 4), best first; P is at most most.

    Args:
        objectness: of each level of the pyramid, (1, A, H, W) logits.
        deltas: of each level, (1, 4 A, H, W).
        geometry: anchors, and how many of each level are looked at.
        input_hw: height and width of the network's input.
        size_hw: of the picture in it.
        most: how many to keep.
    """
    found = [
        _best_of_level(*level, geometry, input_hw)
        for level in zip(objectness, deltas, geometry.cell_anchors, strict=True)
    ]
    logits = np.concatenate([scores for scores, _ in found])
    boxes = clip(np.concatenate([level for _, level in found]), size_hw)
    levels = np.repeat(np.arange(len(found)), [len(scores) for scores, _ in found])
    lowest = geometry.rpn_score_thresh
    good = not_smaller(boxes, geometry.rpn_min_size)
    if lowest > 0:
        good &= logits >= math.log(lowest / (1 - lowest))
    boxes, logits, levels = boxes[good], logits[good], levels[good]
    return boxes[suppress(boxes, logits, levels, geometry.rpn_nms_thresh, most)]


def _best_of_level(
    objectness: Floats, deltas: Floats, cell_anchors: Sequence[Sequence[float]], geometry: NetworkGeometry,
    input_hw: tuple[int, int],
) -> tuple[Floats, Floats]:  # fmt: skip
    """Return objectness (K,) and boxes (K, 4) of a level's best anchors, not in order."""
    _, anchors, height, width = objectness.shape
    logits = objectness.ravel()
    count = min(geometry.rpn_pre_nms_top_n, logits.size)
    best = np.argpartition(-logits, count - 1)[:count] if count < logits.size else np.arange(logits.size)
    anchor, y, x = np.unravel_index(best, (anchors, height, width))
    shift_y, shift_x = y * (input_hw[0] // height), x * (input_hw[1] // width)
    places = np.stack((shift_x, shift_y, shift_x, shift_y), axis=1).astype(np.float32)
    places += np.asarray(cell_anchors, np.float32)[anchor]
    moved = deltas.reshape(anchors, 4, height, width)[anchor, :, y, x]
    return logits[best], decode(moved, places, geometry.rpn_box_weights)


def level_of(boxes: Floats, geometry: NetworkGeometry) -> Ints:
    """Return which level RoIAlign reads for each of (N, 4) boxes, as an index into pool_strides.

    Source:
        Lin et al., Feature Pyramid Networks, CVPR 2017, equation 1.
    """
    finest, coarsest = (int(math.log2(geometry.pool_strides[i])) for i in (0, -1))
    sides = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    with np.errstate(divide="ignore"):
        wanted = np.floor(geometry.canonical_level + np.log2(sides / geometry.canonical_scale) + 1e-6)
    return np.clip(wanted, finest, coarsest).astype(np.int64) - finest


def points(
    boxes: Floats, geometry: NetworkGeometry, grids: Sequence[tuple[int, int]], sampling_ratio: int, rows: int
) -> tuple[NDArray[np.int32], Floats]:
    """Return RoIAlign of boxes as weighted sums of the features' rows.

    Each bin of a box is the mean of sampling_ratio x sampling_ratio points, each of which lies between four
    places of the box's level.

    Args:
        boxes: (P, 4).
        geometry: strides, bins, and which level a box reads.
        grids: height and width of each level's features; they lie one after the other in one table of rows,
            a row for a place.
        sampling_ratio: points on each side of a bin.
        rows: the results are as for so many boxes: beyond P, of no weight.

    Returns:
        index (rows B, K) into the table and weight (rows B, K), for B bins of a box and K places of a bin.

    Source:
        He et al., Mask R-CNN, ICCV 2017, section 3; boxes are not moved by half a pixel (torchvision:
        aligned=False).
    """
    level, side = level_of(boxes, geometry), geometry.pool_size * sampling_ratio
    heights, widths = np.array(grids, np.int64).T
    scale = (1 / np.array(geometry.pool_strides)).astype(np.float32)[level][:, None]
    down, down_weight = _along(boxes[:, 1::2] * scale, heights[level], side)
    across, across_weight = _along(boxes[:, 0::2] * scale, widths[level], side)
    starts = np.concatenate(([0], np.cumsum(heights * widths)))[level]
    down = down * widths[level][:, None, None] + starts[:, None, None]
    index = down[:, :, None, :, None] + across[:, None, :, None, :]  # (P, side, side, 2, 2)
    weight = down_weight[:, :, None, :, None] * across_weight[:, None, :, None, :]
    places = sampling_ratio**2 * 4
    every_index = np.zeros((rows * geometry.pool_size**2, places), np.int32)
    every_weight = np.zeros(every_index.shape, np.float32)
    filled = len(boxes) * geometry.pool_size**2
    every_index[:filled] = _by_bin(index, geometry.pool_size, sampling_ratio)
    every_weight[:filled] = _by_bin(weight, geometry.pool_size, sampling_ratio) / sampling_ratio**2
    return every_index, every_weight


def _along(edges: Floats, sizes: Ints, side: int) -> tuple[Ints, Floats]:
    """Return the two places that each point along a side of a box lies between, and their shares.

    Args:
        edges: (P, 2) where boxes begin and end, in places.
        sizes: (P,) how many places there are.
        side: points.

    Returns:
        (P, side, 2) and (P, side, 2).
    """
    length = np.maximum(edges[:, 1:] - edges[:, :1], 1)
    at = edges[:, :1] + length * ((np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side))
    last = sizes[:, None] - 1
    inside = (at >= -1) & (at <= sizes[:, None])
    at = np.clip(at, 0, last).astype(np.float32)
    first = at.astype(np.int64)
    share = at - first
    places = np.stack((first, np.minimum(first + 1, last)), axis=-1)
    shares = np.stack((1 - share, share), axis=-1) * inside[..., None]
    return places, shares.astype(np.float32)


def _by_bin(values: NDArray[Any], bins: int, ratio: int) -> NDArray[Any]:
    """Turn (P, bins ratio, bins ratio, 2, 2) into (P bins bins, ratio ratio 4)."""
    if ratio > 1:
        split = values.reshape(len(values), bins, ratio, bins, ratio, 2, 2)
        values = split.transpose(0, 1, 3, 2, 4, 5, 6)
    return values.reshape(-1, ratio**2 * 4)


def softmax(logits: Floats) -> Floats:
    """Return (N, C) shares of each row."""
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = grown / grown.sum(axis=1, keepdims=True)
    return shares


def select(
    shares: Floats, deltas: Floats, proposals: Floats, size_hw: tuple[int, int], *,
    box_weights: Sequence[float], score_threshold: float, nms_iou: float, voting_iou: float | None, most: int,
) -> tuple[Floats, Floats, Ints, Ints]:  # fmt: skip
    """Turn what the box head says of proposals into detections, best first.

    Args:
        shares: (P, C) softmax.
        deltas: (P, 4 C).
        proposals: (P, 4).
        size_hw: of the picture in the network's input.
        box_weights: of deltas.
        score_threshold: lower ones are none.
        nms_iou: overlap above which the lower of two boxes of a class goes.
        voting_iou: see settle.
        most: how many to keep.

    Returns:
        boxes (N, 4), scores (N,), labels (N,) and the proposal (N,) of each.
    """
    proposal, label = np.nonzero(shares[:, 1:] > score_threshold)
    label = label + 1
    moved = deltas.reshape(len(deltas), -1, 4)[proposal, label]
    boxes = clip(decode(moved, proposals[proposal], box_weights), size_hw)
    large = not_smaller(boxes, SMALLEST)
    boxes, proposal, label = boxes[large], proposal[large], label[large]
    scores = shares[proposal, label]
    kept = suppress(boxes, scores, label, nms_iou, most)
    stayed = settle(kept, boxes, scores, label, nms_iou=nms_iou, voting_iou=voting_iou)
    return stayed, scores[kept], label[kept], proposal[kept]
