"""Trains an epoch, and runs a detector over a split."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from detection import imaging
from detection.detections import Detections, Latency
from detection.detector import Detector
from photosets import samples as photographs
from photosets.samples import Sample
from training import loader as loading
from training import processes, transforms
from training.checkpoints import Training

TOGETHER = 16  # images that a card looks at at once


class NonFiniteLoss(RuntimeError):
    """A loss became nan or infinite; the message names every loss and the images of the batch."""


def train_one_epoch(
    training: Training,
    batches: Iterable[transforms.Batch],
    *,
    names: Sequence[str],
    after_step: Callable[[dict[str, float]], bool],
) -> dict[str, float]:
    """Update the network once per batch and return the mean of each loss over the images seen.

    Args:
        training: its progress is moved on after every step.
        batches: what is left of the epoch.
        names: name of each sample, for messages, by image_id.
        after_step: told the losses of each step; a true answer stops in the middle of the epoch.

    Raises:
        NonFiniteLoss: a loss is nan or infinite, in this process or another: all of them raise it.
    """
    progress, device = training.progress, training.detector.device
    training.network.train()
    stopped = False
    for images, targets in batches:
        losses = _losses(training, images, targets, device)
        means = processes.mean(torch.stack([loss.detach().float() for loss in losses.values()])).tolist()
        values = dict(zip(losses, means, strict=True))
        if not all(math.isfinite(value) for value in means):
            files = processes.gathered(", ".join(names[target["image_id"]] for target in targets))
            raise NonFiniteLoss(
                f"a loss is not finite: {values}. Images of the batch: {', '.join(files)}. "
                "Lower --lr or set --clip-norm; check these images with dataset.py check."
            )
        _update(training, sum(losses.values()))
        progress.batch, progress.step = progress.batch + 1, progress.step + 1
        seen = len(images) * processes.count()  # each process has the same share of a batch
        progress.images += seen
        progress.epoch_images += seen
        for name, value in values.items():
            progress.sums[name] = progress.sums.get(name, 0.0) + value * seen
        stopped = after_step(values)
        if stopped:
            break
    epoch_means = {name: total / max(1, progress.epoch_images) for name, total in progress.sums.items()}
    if not stopped:
        progress.epoch, progress.batch, progress.epoch_images, progress.sums = progress.epoch + 1, 0, 0, {}
    return epoch_means


def _losses(
    training: Training, images: list[Tensor], targets: list[transforms.Target], device: torch.device
) -> dict[str, Tensor]:
    images = [
        transforms.develop(image.to(device, non_blocking=True), target["look"])
        for image, target in zip(images, targets, strict=True)
    ]
    on_device = [
        {
            "boxes": it["boxes"].to(device, non_blocking=True),
            "labels": it["labels"].to(device, non_blocking=True),
        }
        for it in targets
    ]
    with torch.autocast(device.type, training.precision, enabled=training.precision != torch.float32):
        losses: dict[str, Tensor] = training.network(images, on_device)
    return losses


def _update(training: Training, loss: Any) -> None:
    factor = training.schedule(training.progress)
    for group in training.optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
    training.optimizer.zero_grad(set_to_none=True)
    training.scaler.scale(loss).backward()
    if training.clip_norm:
        training.scaler.unscale_(training.optimizer)
        nn.utils.clip_grad_norm_(training.network.parameters(), training.clip_norm)
    training.scaler.step(training.optimizer)
    training.scaler.update()
    if training.average is not None:
        training.average.follow(training.detector.network)


class Finder(Protocol):
    """Whatever finds objects in an image; a Detector does."""

    def detect(self, image: imaging.Image) -> Detections:
        """Return every detection in an upright RGB image."""


def evaluate(
    finder: Finder, samples: Sequence[Sample], *, description: str = "evaluate", progress: bool = True
) -> tuple[list[Detections], Latency]:
    """Run the serving path on every sample, one image at a time, and time it.

    Args:
        finder: its detect() sees each whole upright photograph.
        samples: any split; not none.
        description: what the progress bar says.
        progress: draw one.

    Returns:
        One Detections per sample, in order; and the milliseconds they took.

    Raises:
        ImageError: with the file's name, where a picture cannot be decoded.
    """
    found, decode_ms, detect_ms = [], [], []
    for sample in tqdm(
        samples, desc=description, unit="image", disable=not progress, leave=False, mininterval=1.0
    ):
        start = time.perf_counter()
        image = photographs.load_image(sample)
        decoded = time.perf_counter()
        found.append(finder.detect(image))
        decode_ms.append(1000 * (decoded - start))
        detect_ms.append(1000 * (time.perf_counter() - decoded))
    return found, Latency.of(decode_ms, detect_ms, _machine(finder))


class Photographs(Dataset[Tensor]):
    """Decoded images (3, H, W) uint8 of samples."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        """Keep samples; each is decoded when it is asked for."""
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(photographs.load_image(self.samples[index]).copy()).permute(2, 0, 1)


def detect_all(
    detector: Detector,
    samples: Sequence[Sample],
    *,
    workers: int = 0,
    batch_size: int = 0,
    description: str = "detect",
    progress: bool = True,
) -> list[Detections]:
    """Return what evaluate finds, sooner: others decode, and images of one batched size go in together.

    Args:
        detector: what is looked at with.
        samples: any split.
        workers: processes that decode; 0 for this one.
        batch_size: images at once; 0 for as many as pay: one, and TOGETHER on a card.
        description: what the progress bar says.
        progress: draw one.

    Raises:
        ImageError: with the file's name, where a picture cannot be decoded.
    """
    device = detector.device
    together = batch_size or (TOGETHER if device.type == "cuda" else 1)
    batches = batches_of_one_size(detector, samples, together)
    loader = DataLoader(
        Photographs(samples), sampler=[i for batch in batches for i in batch], batch_size=None,
        num_workers=workers, worker_init_fn=loading.one_thread, persistent_workers=bool(workers),
        pin_memory=device.type == "cuda", generator=torch.Generator(),  # its own, as in training
    )  # fmt: skip
    found: dict[int, Detections] = {}
    bar = tqdm(
        total=len(samples), desc=description, unit="image", disable=not progress, leave=False, mininterval=1.0
    )
    with bar, _benchmark_off(), loading.ending_workers(loader):
        photographs = iter(loader)
        for batch in batches:
            images = [next(photographs).to(device, non_blocking=True) for _ in batch]
            every = detector.detect_together([transforms.develop(image, None) for image in images])
            found.update(zip(batch, every, strict=True))
            bar.update(len(batch))
    return [found[i] for i in range(len(samples))]


@contextmanager
def _benchmark_off() -> Iterator[None]:
    """Keep cuDNN from trying out its convolutions: where sizes differ, that takes longer than they do."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def batches_of_one_size(detector: Detector, samples: Sequence[Sample], batch_size: int) -> list[list[int]]:
    """Return the indices of samples in batches of at most batch_size that the network sees at one size."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, sample in enumerate(samples):
        sizes.setdefault(detector.batched_size(sample.size_wh[::-1]), []).append(i)
    return [
        alike[start : start + batch_size]
        for _, alike in sorted(sizes.items())
        for start in range(0, len(alike), batch_size)
    ]


def _machine(finder: Finder) -> str:
    """Name what the finder computes on."""
    device = getattr(finder, "device", torch.device("cpu"))
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
