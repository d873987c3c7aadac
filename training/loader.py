"""Batches: which photographs, in which order, read by which processes.

Each draw is seeded by (seed, epoch, place in the epoch): the same whatever worker makes it, which is what
lets an interrupted run go on as if it had not been.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from commands import TrainConfig
from detection import imaging
from photosets import samples as photographs
from photosets.samples import Sample
from settings import TorchrunSettings
from training import transforms
from training.checkpoints import Training
from training.transforms import Batch, Target, mosaic, paste


class TrainingImages(Dataset[tuple[Tensor, Target]]):
    """Augmented images by (epoch, place in the epoch, index of the sample)."""

    def __init__(
        self,
        samples: Sequence[Sample],
        augment: v2.Compose,
        *,
        seed: int,
        read: Callable[[Sample], imaging.Image] = photographs.load_image,
        mosaic_share: float = 0.0,
        mosaic_size: int = 512,
        paste_share: float = 0.0,
    ) -> None:
        """Keep what is needed.

        Args:
            samples: the training split.
            augment: what augmentation returns.
            seed: of all draws.
            read: decodes the image of a sample.
            mosaic_share: share of the images, 0 to 1, that are first joined by three others (see mosaic).
            mosaic_size: longer side of each of the four, pixels.
            paste_share: share of the other images, 0 to 1, that get an object of another image (see paste),
                of every class equally often.
        """
        self.samples, self.augment, self.seed, self.read = samples, augment, seed, read
        self.mosaic_share, self.mosaic_size = mosaic_share, mosaic_size
        self.paste_share = paste_share
        every = [(int(label), i, j) for i, it in enumerate(samples) for j, label in enumerate(it.labels)]
        self.objects = {k: [(i, j) for label, i, j in every if label == k] for k in {it[0] for it in every}}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, Target]:
        """Return the image (3, H, W) uint8, which develop makes the network's input, and its target."""
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
        boxes = target["boxes"].as_subclass(Tensor).float()
        return pixels.as_subclass(Tensor).contiguous(), Target(
            boxes=boxes, labels=target["labels"], image_id=index, look=target.get("look")
        )

    def _paste(self, pixels: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        label = sorted(self.objects)[int(torch.randint(len(self.objects), ()))]
        index, place = self.objects[label][int(torch.randint(len(self.objects[label]), ()))]
        source, other = self._read(index)
        return paste(pixels, target, source, other["boxes"][place].as_subclass(Tensor), label)

    def _read(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        sample = self.samples[index]
        image = self.read(sample)
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(sample.boxes.copy()), format="XYXY", canvas_size=image.shape[:2]
        )
        pixels = tv_tensors.Image(torch.from_numpy(image.copy()).permute(2, 0, 1))
        return pixels, {"boxes": boxes, "labels": torch.from_numpy(sample.labels.copy())}


@contextmanager
def ending_workers(loader: DataLoader[Any]) -> Iterator[DataLoader[Any]]:
    """Give a loader with persistent workers, and end them with the block, whatever happens in it.

    They are deaf to the signal by which the interpreter ends what is left of its children (see one_thread),
    and it would wait for them for ever.
    """
    try:
        yield loader
    finally:
        iterator, loader._iterator = loader._iterator, None
        if iterator is not None:
            iterator._shutdown_workers()  # type: ignore[attr-defined]


def one_thread(_worker: int) -> None:
    """Keep a worker from taking the cores the network computes on, and from ending before the main process.

    Ctrl-C, systemd and torchrun signal every process of a group: a stop is the main process's business, and
    a worker ends when that has no more work for it, or is gone.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


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


MOST_WORKERS = 16


def loader(
    config: TrainConfig, process: TorchrunSettings, training: Training, samples: Sequence[Sample],
    order: EpochOrder,
) -> DataLoader[Any]:  # fmt: skip
    """Return the batches of the training split, read and moved about by processes of their own."""
    network = training.detector.card.network  # not config: weights of a folder bring their own sizes
    augment = transforms.augmentation(
        config.augmentation, min_size=network.min_size, max_size=network.max_size,
        jitter_low=config.jitter_low, jitter_high=config.jitter_high,
    )  # fmt: skip
    images = TrainingImages(
        samples, augment, seed=config.seed, mosaic_share=config.mosaic,
        mosaic_size=min(network.min_size, network.max_size), paste_share=config.paste,
    )  # fmt: skip
    workers = loader_workers(config, process)
    return DataLoader(
        images, batch_sampler=order, num_workers=workers, collate_fn=collate,
        worker_init_fn=one_thread, persistent_workers=bool(workers),
        pin_memory=training.detector.device.type == "cuda",
        generator=torch.Generator(),  # its own: starting an epoch twice must draw nothing from the network's
    )  # fmt: skip


def loader_workers(config: TrainConfig, process: TorchrunSettings) -> int:
    """Return how many processes read images for this one: --workers, or all cores but one, shared fairly.

    More than MOST_WORKERS would fill /dev/shm with batches that no card is waiting for.
    """
    if config.workers is not None:
        return config.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, max(1, cores // process.local_world_size - 1))
