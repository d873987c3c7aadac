"""From a photograph with boxes to what the network trains on: cut, scaled, pasted, changed in colour.

Augmentation is torchvision's transforms v2 on tv_tensors, so boxes move with their pixels. What moves pixels
is done by the loader's processes, on uint8. What changes colours and sharpness is only drawn there (a Look)
and done where the network is, by develop: it costs a processor several times the rest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from detection import architectures, imaging
from detection import detector as detectors


class Look(NamedTuple):
    """How the colours and the sharpness of one image are to change; see develop.

    Attributes:
        colour: (2, 3, 3) float32; the first matrix multiplies each RGB pixel, the second the mean pixel of
            the image, and both are added.
        sigma: of a Gaussian blur, pixels; 0 for none.
    """

    colour: Tensor
    sigma: float


class Target(TypedDict):
    """Ground truth of one image, as torchvision's detection networks take it, and the look it is to get.

    boxes: (N, 4) float32, xyxy pixels of the tensor it comes with, 0 <= x1 < x2 <= W and likewise y.
    labels: (N,) int64, indices into class_names, never 0.
    image_id: position in the list of samples.
    look: what develop does to the image; None for nothing.

    A negative image has N = 0: boxes of shape (0, 4), labels of shape (0,).

    Source:
        torchvision.models.detection.fasterrcnn_resnet50_fpn, input contract.
    """

    boxes: Tensor
    labels: Tensor
    image_id: int
    look: Look | None


Batch = tuple[list[Tensor], list[Target]]


class Fit(v2.Transform):  # type: ignore[misc]
    """Resize to what the network would resize to, so that large photographs travel small."""

    def __init__(self, min_size: int, max_size: int) -> None:
        """Set the shorter side, pixels, and the longer side at most."""
        super().__init__()
        self.min_size, self.max_size = min_size, max_size

    def forward(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return the image (3, h, w) and its target at the network's size."""
        new_hw = architectures.input_size(F.get_size(image), self.min_size, self.max_size)
        boxes = F.resize(target["boxes"], new_hw)
        return F.resize(image, new_hw, antialias=True), {**target, "boxes": boxes}


class LargeScaleJitter(v2.Transform):  # type: ignore[misc]
    """Zoom, stretch a little, and cut or pad to a square; boxes that are mostly cut off go.

    Part of the training images were stretched to a square by whoever published them, hence the
    change of aspect.

    Source:
        Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation Method, CVPR 2021, section 3
        (large scale jittering); the aspect change is ours.
    """

    def __init__(
        self, size: int, low: float, high: float, *, aspect: float = 1.35, keep: float = 0.25
    ) -> None:
        """Set size (pixels), zoom range, largest stretch and least visible share of a kept box."""
        super().__init__()
        self.size, self.low, self.high, self.aspect, self.keep = size, low, high, aspect, keep

    def forward(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return the new image (3, size, size) and its target."""
        height, width = F.get_size(image)
        zoom, stretch, down, right = torch.rand(4).tolist()
        scale = self.low * (self.high / self.low) ** zoom * self.size / max(height, width)
        aspect = math.sqrt(self.aspect ** (2 * stretch - 1))
        new_hw = [max(16, round(height * scale * aspect)), max(16, round(width * scale / aspect))]
        top, left = (round(u * (side - self.size)) for u, side in zip((down, right), new_hw, strict=True))
        image = F.resize(image, new_hw, antialias=True)
        target = {**target, "boxes": F.resize(target["boxes"], new_hw)}
        return _cut(image, target, top, left, self.size, self.keep)


def _cut(
    image: Tensor, target: dict[str, Any], top: int, left: int, size: int, keep: float
) -> tuple[Tensor, dict[str, Any]]:
    """Return a square of size pixels from (left, top) on; boxes of which less than keep is in it go."""
    before = _areas(target["boxes"])
    boxes = F.clamp_bounding_boxes(F.crop(target["boxes"], top, left, size, size))
    seen = _areas(boxes) >= keep * before
    boxes = tv_tensors.wrap(boxes[seen], like=boxes)
    return F.crop(image, top, left, size, size), {**target, "boxes": boxes, "labels": target["labels"][seen]}


def mosaic(
    pieces: Sequence[tuple[Tensor, dict[str, Any]]], size: int, *, keep: float = 0.25
) -> tuple[Tensor, dict[str, Any]]:
    """Lay four images around a point and cut out a square that has this point in its middle half.

    Objects are seen without the scene they usually come with, beside other scenes and objects.

    Args:
        pieces: four pairs of image (3, H, W) uint8 and target.
        size: longer side of each piece, pixels; the square's side is one to two times that.
        keep: least visible share of a kept box.

    Returns:
        Image (3, S, S) and its target, size <= S <= 2 * size.

    Source:
        Bochkovskiy et al., YOLOv4, 2020, section 3.3 (mosaic).
    """
    canvas = torch.zeros(3, 2 * size, 2 * size, dtype=torch.uint8)
    boxes, labels = [], []
    for i, (image, target) in enumerate(pieces):
        height, width = F.get_size(image)
        scale = size / max(height, width)
        new_hw = [max(1, round(height * scale)), max(1, round(width * scale))]
        top, left = (size if i >= 2 else size - new_hw[0]), (size if i % 2 else size - new_hw[1])
        canvas[:, top : top + new_hw[0], left : left + new_hw[1]] = F.resize(image, new_hw, antialias=True)
        boxes.append(F.resize(target["boxes"], new_hw).as_subclass(Tensor) + torch.tensor([left, top] * 2))
        labels.append(target["labels"])
    zoom, down, right = torch.rand(3).tolist()
    side = round(size * (1 + zoom))
    top, left = (round(size - side * (0.25 + 0.5 * u)) for u in (down, right))
    every = tv_tensors.BoundingBoxes(torch.cat(boxes), format="XYXY", canvas_size=(2 * size, 2 * size))
    target = {"boxes": every, "labels": torch.cat(labels)}
    return _cut(tv_tensors.Image(canvas), target, top, left, side, keep)


def paste(
    image: Tensor, target: dict[str, Any], source: Tensor, box: Tensor, label: int, *, keep: float = 0.5
) -> tuple[Tensor, dict[str, Any]]:
    """Lay an object of another image, with a soft edge, on this one: half the time over an object of it.

    What an object usually comes with stops telling what it is: cards turn up in robberies, knives on
    shop counters, and a scene with a pistol in it becomes one without.

    Args:
        image: (3, H, W) uint8, to lay it on.
        target: its boxes and labels.
        source: (3, h, w) uint8, which shows the object.
        box: (4,) xyxy of the object there.
        label: of the object.
        keep: least visible share of an object that keeps its box.

    Returns:
        Image (3, H, W) and its target, the new object last.

    Source:
        Dwibedi et al., Cut, Paste and Learn, ICCV 2017, sections 4 and 5, with boxes instead of masks.
    """
    patch, inner, edge = _cut_out(source, box)
    new_hw, (y, x) = _spot(image, target["boxes"], patch, inner)
    scale = [new / old for new, old in zip(new_hw, F.get_size(patch), strict=True)]
    inner = inner * torch.tensor([scale[1], scale[0]] * 2)
    down, across = (_ramp(new_hw[i], inner[1 - i :: 2], edge * scale[i]) for i in range(2))
    pixels = image.as_subclass(Tensor).clone()
    window = pixels[:, y : y + new_hw[0], x : x + new_hw[1]]
    change = down[:, None] * across * (F.resize(patch, new_hw, antialias=True) - window.float())
    window.copy_((window + change).round())
    new, old = inner + torch.tensor([x, y, x, y]), target["boxes"].as_subclass(Tensor)
    shared = torch.cat([old[:, :2].maximum(new[:2]), old[:, 2:].minimum(new[2:])], dim=1)
    seen = _areas(shared) <= (1 - keep) * _areas(old)
    boxes = tv_tensors.wrap(torch.cat([old[seen], new[None]]), like=target["boxes"])
    labels = torch.cat([target["labels"][seen], torch.tensor([label])])
    return tv_tensors.Image(pixels), {**target, "boxes": boxes, "labels": labels}


def _cut_out(source: Tensor, box: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return what is in box and an edge around it, the box in that, and how wide the edge is, pixels."""
    height, width = F.get_size(source)
    x1, y1, x2, y2 = torch.cat([box[:2].floor(), box[2:].ceil()]).int().tolist()
    edge = max(2, round(0.15 * max(x2 - x1, y2 - y1)))
    left, top = max(0, x1 - edge), max(0, y1 - edge)
    patch = source[:, top : min(height, y2 + edge), left : min(width, x2 + edge)].as_subclass(Tensor)
    return patch, torch.tensor([x1 - left, y1 - top, x2 - left, y2 - top]), edge


def _spot(image: Tensor, boxes: Tensor, patch: Tensor, inner: Tensor) -> tuple[list[int], tuple[int, int]]:
    """Draw (height, width) and (y, x) for patch, which shows an object in box inner."""
    (height, width), (h, w) = F.get_size(image), F.get_size(patch)
    inner_w, inner_h = (inner[2:] - inner[:2]).tolist()
    over, size, across, down = torch.rand(4).tolist()
    covered: list[float] = []
    scale = (0.08 + 0.32 * size) * max(height, width) / max(inner_w, inner_h)
    if over < 0.5 and len(boxes):
        covered = boxes[int(torch.randint(len(boxes), ()))].tolist()
        scale = (1 + 0.3 * size) * max(
            (covered[2] - covered[0]) / inner_w, (covered[3] - covered[1]) / inner_h
        )
    scale = min(scale, 0.9 * height / h, 0.9 * width / w)
    new_h, new_w = max(2, round(h * scale)), max(2, round(w * scale))
    y, x = down * (height - new_h), across * (width - new_w)
    if covered:
        y, x = (covered[1] + covered[3] - new_h) / 2, (covered[0] + covered[2] - new_w) / 2
    return [new_h, new_w], (
        round(min(max(0, y), height - new_h)), round(min(max(0, x), width - new_w)),
    )  # fmt: skip


def _ramp(length: int, box_side: Tensor, edge: float) -> Tensor:
    """Return (length,) weights: 1 from box_side[0] to box_side[1], falling to 0 at edge pixels outside."""
    at = torch.arange(length) + 0.5
    return (1 - torch.maximum(box_side[0] - at, at - box_side[1]) / edge).clamp(0, 1)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]).clamp(min=0) * (boxes[:, 3] - boxes[:, 1]).clamp(min=0)


class QuarterTurn(v2.Transform):  # type: ignore[misc]
    """Turn by 90 degrees counter-clockwise, exactly."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ARG002
        """Turn an image or boxes; pass everything else through."""
        return F.rotate(inpt, 90.0, expand=True) if isinstance(inpt, Tensor | tv_tensors.TVTensor) else inpt

    _transformed_types = (tv_tensors.Image, tv_tensors.BoundingBoxes)


class Recompress(v2.Transform):  # type: ignore[misc]
    """Save as JPEG of a random quality and open again: what messengers and cheap cameras do."""

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, low: int, high: int) -> None:
        """Set the range of qualities, 1 to 100."""
        super().__init__()
        self.low, self.high = low, high

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:  # noqa: ARG002
        """Recompress an image (3, H, W) uint8."""
        quality = int(torch.randint(self.low, self.high + 1, ()))
        image = np.ascontiguousarray(inpt.permute(1, 2, 0).numpy())
        again = imaging.decode_image(imaging.encode_image(image, "JPEG", quality=quality))
        return tv_tensors.Image(torch.from_numpy(again.copy()).permute(2, 0, 1))


JITTERS = ("large_scale_jitter", "surveillance")  # augmentations whose pictures are all of one size


def augmentation(
    name: str, *, min_size: int, max_size: int, jitter_low: float = 0.5, jitter_high: float = 1.6
) -> v2.Compose:
    """Return the named augmentation of (image uint8, target), ending with clean boxes, at the network's size.

    Args:
        name: none, flip, original, large_scale_jitter, or surveillance: the same in poorer light, less sharp.
        min_size: shorter side of the network's input, pixels.
        max_size: its longer side at most. The last two make squares of the smaller of both.
        jitter_low: smallest zoom of the last two.
        jitter_high: largest.

    Raises:
        ValueError: no augmentation has this name.
    """
    fit, jitter = Fit(min_size, max_size), LargeScaleJitter(min(min_size, max_size), jitter_low, jitter_high)
    steps: dict[str, list[v2.Transform]] = {
        "none": [fit],
        "flip": [v2.RandomHorizontalFlip(0.5), fit],
        # Median blur does not exist in torchvision; a Gaussian of the same sizes stands in for it.
        "original": [
            v2.RandomApply(
                [v2.RandomChoice([v2.RandomHorizontalFlip(1), QuarterTurn(), v2.RandomVerticalFlip(1)])], 0.5
            ),
            v2.RandomApply(
                [
                    v2.RandomChoice(
                        [v2.ColorJitter(0.2, 0.2), v2.ColorJitter(0.2, 0.2, 0.2, 0.2), v2.Grayscale(3)]
                    )
                ],
                0.3,
            ),
            v2.RandomApply([v2.RandomChoice([v2.GaussianBlur(7), v2.GaussianBlur(11)])], 0.2),
            fit,
        ],
        "large_scale_jitter": [
            jitter,
            *_camera(brightness=(0.875, 1.125), grey=0.05, sigma=(0.3, 1.5), quality=30, poor=0.1),
        ],
        "surveillance": [
            jitter,
            *_camera(brightness=(0.4, 1.3), grey=0.1, sigma=(0.5, 3.0), quality=20, poor=0.2),
        ],
    }
    if name not in steps:
        raise ValueError(f"unknown augmentation {name!r}; known: {', '.join(steps)}")
    clean = [v2.ClampBoundingBoxes(), v2.SanitizeBoundingBoxes(min_size=2, labels_getter=_labels)]
    return v2.Compose([*steps[name], *clean])


def _labels(inputs: tuple[Tensor, dict[str, Any]]) -> Tensor:
    labels: Tensor = inputs[1]["labels"]  # a lambda could not be sent to a worker that is not forked
    return labels


def _camera(
    *,
    brightness: tuple[float, float],
    grey: float,
    sigma: tuple[float, float],
    quality: int,
    poor: float,
) -> list[v2.Transform]:
    """Return flips, and what cameras do to JPEG, sharpness (poor: share) and colour (grey: share without)."""
    return [
        v2.RandomHorizontalFlip(0.5),
        v2.RandomApply([Recompress(quality, 90)], poor),
        DrawLook(brightness=brightness, grey=grey, sigma=sigma, blurred=poor),
    ]


GREY = torch.tensor([0.299, 0.587, 0.114])  # ITU-R BT.601: how bright each colour looks
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])  # NTSC


class DrawLook(v2.Transform):  # type: ignore[misc]
    """Draw the look that develop gives the image; the image itself stays as it is.

    Brightness, contrast, saturation, hue and the order of the colours change in half of the images each,
    by as much as in torchvision's RandomPhotometricDistort.

    Source:
        Haeberli, Matrix Operations for Image Processing, 1993: one matrix for all changes of colour, with
        the hue turned in YIQ; NVIDIA DALI's ColorTwist does the same.
    """

    def __init__(
        self,
        *,
        brightness: tuple[float, float],
        grey: float,
        sigma: tuple[float, float],
        blurred: float,
    ) -> None:
        """Set the range of brightness, the share without colour, the range of blur and its share."""
        super().__init__()
        self.brightness, self.grey, self.sigma, self.blurred = brightness, grey, sigma, blurred

    def forward(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        """Return image and target, with its look."""
        saturation = _sometimes(0.5, 0.5, 1.5, otherwise=1.0)
        turn = 2 * math.pi * _sometimes(0.5, -0.05, 0.05, otherwise=0.0)
        brightness = _sometimes(0.5, *self.brightness, otherwise=1.0)
        contrast = _sometimes(0.5, 0.5, 1.5, otherwise=1.0)
        colour = brightness * hue_matrix(turn) @ saturation_matrix(saturation)
        if torch.rand(()) < 0.5:
            colour = colour[torch.randperm(3)]
        if torch.rand(()) < self.grey:
            colour = saturation_matrix(0.0) @ colour
        sigma = _sometimes(self.blurred, *self.sigma, otherwise=0.0)
        return image, {**target, "look": Look(with_contrast(contrast, colour), sigma)}


def _sometimes(share: float, low: float, high: float, *, otherwise: float) -> float:
    """Draw a number between low and high in that share of the calls."""
    wanted, where = torch.rand(2).tolist()
    return float(low + (high - low) * where) if wanted < share else otherwise


def saturation_matrix(factor: float) -> Tensor:
    """Return the (3, 3) matrix that moves colours away from their grey: 0 gives grey, 1 changes nothing."""
    return factor * torch.eye(3) + (1 - factor) * GREY.expand(3, 3)


def hue_matrix(turn: float) -> Tensor:
    """Return the (3, 3) matrix that turns every hue by that many radians and keeps how bright it looks."""
    sine, cosine = math.sin(turn), math.cos(turn)
    turned = torch.tensor([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    matrix: Tensor = torch.linalg.solve(YIQ, turned @ YIQ)
    return matrix


def with_contrast(factor: float, colour: Tensor) -> Tensor:
    """Return Look.colour: colour, (3, 3), and then factor on the distance from the mean grey."""
    return torch.stack([factor * colour, (1 - factor) * GREY.expand(3, 3) @ colour])


def develop(pixels: Tensor, look: Look | None) -> Tensor:
    """Turn an image as the loader gives it into what the network takes, with its look.

    Args:
        pixels: (3, H, W) uint8, on any device.
        look: see Look; None changes nothing.

    Returns:
        (3, H, W) float32 in [0, 1] on the same device.
    """
    image = detectors.to_unit(pixels)
    if look is None:
        return image
    each, mean = look.colour.to(image.device, non_blocking=True)
    flat = image.reshape(3, -1)
    image = torch.addmm((mean @ flat.mean(1))[:, None], each, flat).clamp_(0, 1).view_as(image)
    if look.sigma:
        side = 2 * math.ceil(2 * look.sigma) + 1  # beyond two sigmas there is a twentieth of the weight
        image = F.gaussian_blur(image, [side, side], [look.sigma, look.sigma])
    return image
