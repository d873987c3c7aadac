"""Which photographs a training reads, and which of them choose the points."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from commands import TrainConfig
from detection.detections import Classes
from photosets import layout
from photosets import samples as photographs
from photosets.found import find_roots
from photosets.report import DatasetReport
from photosets.samples import Sample
from settings import TorchrunSettings
from training.terminal import say


def read_data(
    config: TrainConfig, classes: Classes, process: TorchrunSettings
) -> tuple[list[Sample], list[Sample]]:
    """Return the training and validation samples, and say what was left out.

    Args:
        config: of the training.
        classes: of the model that is trained.
        process: this one; the first decodes every picture once.

    Raises:
        DatasetError: they cannot be used, down to the last picture.
    """
    splits = []
    splits_wanted: tuple[photographs.Split, ...] = ("train", "val")
    for split in splits_wanted:
        found = DatasetReport()
        samples = photographs.read_samples(
            config.data, split, known=classes, classes=config.classes, val_fraction=config.val_fraction,
            negative_val_fraction=config.negative_val_fraction, negatives=config.negatives, report=found,
        )  # fmt: skip
        splits.append(samples)
        for line in found.lines(split):
            say(line)
    train_samples, val_samples = splits
    point_samples(config, val_samples)  # now, not after the last epoch
    if config.limit:
        train_samples = train_samples[:: max(1, len(train_samples) // config.limit)][: config.limit]
    if process.rank == 0:
        samples = [*train_samples, *val_samples]
        with tqdm(total=len(samples), desc="check images", unit="image", leave=False, mininterval=2.0) as bar:
            photographs.check_images(samples, bar.update)
    return train_samples, val_samples


def point_samples(config: TrainConfig, val_samples: Sequence[Sample]) -> list[Sample]:
    """Return the validation samples that choose points, calibration and bands.

    Raises:
        DatasetError: one of their roots is none of --data, or they are none.
    """
    roots = {root.path for root in find_roots(config.point_data or config.data)}
    unknown = sorted(map(str, roots - {root.path for root in find_roots(config.data)}))
    if unknown:
        raise layout.DatasetError(
            f"expected folders of --data at --point-data, got {', '.join(unknown)}: write them alike"
        )
    samples = [sample for sample in val_samples if sample.root in roots]
    if not samples:
        raise layout.DatasetError(
            "expected validation pictures in --point-data, found none: name a root that has some"
        )
    return samples
