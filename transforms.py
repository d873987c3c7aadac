"""From samples on disk to the batches the network trains on: reading, augmenting, sampling.

Augmentation is torchvision's transforms v2 on tv_tensors, so boxes move with their pixels. Each
draw is seeded by (seed, epoch, place in the epoch): the same whatever worker makes it, which is what
lets an interrupted run go on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import dataset
import imaging
from dataset import Sample


class Target(TypedDict):
    """Ground truth of one image, as torchvision's detection networks take it.

    boxes: (N, 4) float32, xyxy pixels of the tensor it comes with, 0 <= x1 < x2 <= W and likewise y.
    labels: (N,) int64, indices into class_names, never 0.
    image_id: position in the list of samples.

    A negative image has N = 0: boxes of shape (0, 4), labels of shape (0,).

    Source:
        torchvision.models.detection.fasterrcnn_resnet50_fpn, input contract.
    """

    boxes: Tensor
    labels: Tensor
    image_id: int


Batch = tuple[list[Tensor], list[Target]]


# --- augmentation -----------------------------------------------------------------------------------


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


def augmentation(name: str, *, size: int, jitter_low: float = 0.5, jitter_high: float = 1.6) -> v2.Compose:
    """Return the named augmentation of (image uint8, target), ending with clean boxes.

    Args:
        name: none, flip, original, large_scale_jitter, or surveillance: the same in poorer light, less sharp.
        size: side of the square that the last two make, pixels.
        jitter_low: smallest zoom of the last two.
        jitter_high: largest.

    Raises:
        ValueError: no augmentation has this name.
    """
    steps: dict[str, list[v2.Transform]] = {
        "none": [],
        "flip": [v2.RandomHorizontalFlip(0.5)],
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
        ],
        "large_scale_jitter": [
            LargeScaleJitter(size, jitter_low, jitter_high),
            *_camera(brightness=(0.875, 1.125), grey=0.05, kernel=5, sigma=(0.3, 1.5), quality=30, poor=0.1),
        ],
        "surveillance": [
            LargeScaleJitter(size, jitter_low, jitter_high),
            *_camera(brightness=(0.4, 1.3), grey=0.1, kernel=13, sigma=(0.5, 3.0), quality=20, poor=0.2),
        ],
    }
    if name not in steps:
        raise ValueError(f"unknown augmentation {name!r}; known: {', '.join(steps)}")
    clean = [
        v2.ClampBoundingBoxes(),
        v2.SanitizeBoundingBoxes(min_size=2, labels_getter=_labels),
    ]
    return v2.Compose([*steps[name], *clean])


def _labels(inputs: tuple[Tensor, dict[str, Any]]) -> Tensor:  # no lambda: a worker's start may pickle it
    labels: Tensor = inputs[1]["labels"]
    return labels


def _camera(
    *,
    brightness: tuple[float, float],
    grey: float,
    kernel: int,
    sigma: tuple[float, float],
    quality: int,
    poor: float,
) -> list[v2.Transform]:
    """Return flips, and what cameras do to colour (grey: share without), sharpness and JPEG (poor: share)."""
    return [
        v2.RandomHorizontalFlip(0.5),
        v2.RandomPhotometricDistort(brightness=brightness, p=0.5),
        v2.RandomGrayscale(grey),
        v2.RandomApply([v2.GaussianBlur(kernel, sigma)], poor),
        v2.RandomApply([Recompress(quality, 90)], poor),
    ]


# --- samples to batches -----------------------------------------------------------------------------


def load_image(sample: Sample, longest: int = 0) -> imaging.Image:
    """Decode the sample's image, its longer side cut to at most longest pixels if that is not 0."""
    image = dataset.load_image(sample)
    scale = longest / max(image.shape[:2]) if longest else 1.0
    if scale >= 1:
        return image
    new_hw = [max(1, round(side * scale)) for side in image.shape[:2]]
    small = F.resize(torch.from_numpy(image.copy()).permute(2, 0, 1), new_hw, antialias=True)
    return np.ascontiguousarray(small.permute(1, 2, 0).numpy())


class ImageCache:
    """Decoded images, laid end to end in one tensor.

    A worker that is not forked gets what it needs pickled. PyTorch then moves the tensor to shared memory
    and sends a handle on it, where each of many arrays would be copied into every worker.
    """

    def __init__(self, images: Iterable[imaging.Image]) -> None:
        """Copy images, each (H, W, 3) uint8; at least one."""
        pixels = bytearray()
        self.shapes: list[tuple[int, ...]] = []
        self.starts: list[int] = []
        for image in images:
            self.starts.append(len(pixels))
            self.shapes.append(image.shape)
            pixels += image.tobytes()
        self.pixels = torch.frombuffer(pixels, dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> imaging.Image:
        start, shape = self.starts[index], self.shapes[index]
        image: imaging.Image = self.pixels[start : start + math.prod(shape)].numpy().reshape(shape)
        return image


class TrainingImages(Dataset[tuple[Tensor, Target]]):
    """Augmented images by (epoch, place in the epoch, index of the sample)."""

    def __init__(
        self,
        samples: Sequence[Sample],
        augment: v2.Compose,
        *,
        seed: int,
        cache: Sequence[imaging.Image] | ImageCache = (),
        mosaic_share: float = 0.0,
        mosaic_size: int = 512,
        paste_share: float = 0.0,
    ) -> None:
        """Keep what is needed.

        Args:
            samples: the training split.
            augment: what augmentation returns.
            seed: of all draws.
            cache: the decoded image of each sample, or nothing.
            mosaic_share: share of the images, 0 to 1, that are first joined by three others (see mosaic).
            mosaic_size: longer side of each of the four, pixels.
            paste_share: share of the other images, 0 to 1, that get an object of another image (see paste),
                of every class equally often.
        """
        self.samples, self.augment, self.seed, self.cache = samples, augment, seed, cache
        self.mosaic_share, self.mosaic_size = mosaic_share, mosaic_size
        self.paste_share = paste_share
        every = [(int(label), i, j) for i, it in enumerate(samples) for j, label in enumerate(it.labels)]
        self.objects = {k: [(i, j) for label, i, j in every if label == k] for k in {it[0] for it in every}}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, Target]:
        """Return the image (3, H, W) float32 in [0, 1] and its target."""
        epoch, place, index = key
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(hash((self.seed, epoch, place)) % 2**63)
            if self.mosaic_share and torch.rand(()) < self.mosaic_share:
                others = torch.randint(len(self.samples), (3,)).tolist()
                pixels, target = mosaic([self._read(i) for i in (index, *others)], self.mosaic_size)
            else:
                pixels, target = self._read(index)
                if self.paste_share and torch.rand(()) < self.paste_share:
                    pixels, target = self._paste(pixels, target)
            pixels, target = self.augment(pixels, target)
        chw = imaging.to_chw(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
        boxes = target["boxes"].as_subclass(Tensor).float()
        return torch.from_numpy(chw), Target(boxes=boxes, labels=target["labels"], image_id=index)

    def _paste(self, pixels: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        label = sorted(self.objects)[int(torch.randint(len(self.objects), ()))]
        index, place = self.objects[label][int(torch.randint(len(self.objects[label]), ()))]
        source, other = self._read(index)
        return paste(pixels, target, source, other["boxes"][place].as_subclass(Tensor), label)

    def _read(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        sample = self.samples[index]
        image = self.cache[index] if len(self.cache) else load_image(sample)
        pixels = tv_tensors.Image(torch.from_numpy(image.copy()).permute(2, 0, 1))
        return pixels, {"boxes": _boxes(sample, image), "labels": torch.from_numpy(sample.labels.copy())}


def _boxes(sample: Sample, image: imaging.Image) -> tv_tensors.BoundingBoxes:
    height, width = image.shape[:2]
    scale = np.array([width / sample.size_wh[0], height / sample.size_wh[1]] * 2, np.float32)
    boxes = torch.from_numpy(sample.boxes * scale).reshape(-1, 4)
    return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width))


def collate(items: Sequence[tuple[Tensor, Target]]) -> Batch:
    """Turn a list of pairs into a pair of lists: images differ in size."""
    images, targets = zip(*items, strict=True)
    return list(images), list(targets)


def repeat_factors(
    samples: Sequence[Sample], threshold: float, *, negatives: float = 1.0
) -> NDArray[np.float64]:
    """Return how often to show each image in an epoch so that rare classes are seen more.

    Args:
        samples: the training split.
        threshold: a class in a smaller share of the images than this is repeated; 0 repeats none.
        negatives: factor of an image without objects, at least 1.

    Returns:
        (N,) factors, at least 1: the largest over an image's classes of sqrt(threshold / share).

    Source:
        Gupta et al., LVIS, CVPR 2019, appendix B.2 (repeat factor sampling).
    """
    present = [np.unique(sample.labels) for sample in samples]
    counts = np.bincount(np.concatenate(present)) if samples else np.zeros(1)
    shares = counts / max(1, len(samples))
    factor = np.maximum(1.0, np.sqrt(threshold / np.maximum(shares, 1e-12)))
    return np.array([factor[labels].max() if len(labels) else negatives for labels in present])


class EpochOrder(Sampler[list[tuple[int, int, int]]]):
    """Batches of (epoch, place, index), shuffled anew each epoch, the same for the same seed.

    Set epoch and first_batch before iterating: a resumed run starts its epoch in the middle.
    """

    def __init__(
        self, factors: NDArray[np.float64], batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
        """batch_size counts the images of all processes together; each takes its share."""
        self.factors, self.batch_size, self.seed = factors, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.first_batch = 0

    def __len__(self) -> int:
        """Return the batches of an epoch, from its beginning."""
        return max(1, int(self.factors.sum()) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        random = np.random.default_rng((self.seed, self.epoch))
        whole = np.floor(self.factors).astype(int)
        times = whole + (random.random(len(whole)) < self.factors - whole)
        order = random.permutation(np.repeat(np.arange(len(times)), times))
        wanted = len(self) * self.batch_size  # rounding up by chance must not change the epoch's length
        order = np.resize(order, wanted)
        for batch in range(self.first_batch, len(self)):
            places = range(batch * self.batch_size, (batch + 1) * self.batch_size)
            yield [(self.epoch, place, int(order[place])) for place in places][self.rank :: self.world_size]
