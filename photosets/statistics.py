"""What is in a set of photographs: counts by class and split, and sizes of pictures and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from detection.detections import Classes
from photosets.report import DatasetReport
from photosets.samples import SPLITS, Sample, Split, shows_weapon


def split_summary(samples: Sequence[Sample], class_names: Sequence[str]) -> dict[str, object]:
    """Return counts of images, images without objects, and boxes per class; class_names: background first."""
    labels = [int(label) for sample in samples for label in sample.labels]
    boxes = {name: labels.count(index) for index, name in enumerate(class_names) if index}
    return {
        "images": len(samples),
        "without_objects": sum(not len(s.labels) for s in samples),
        "boxes": boxes,
    }


def count_table(
    samples: dict[Split, list[Sample]], reports: dict[Split, DatasetReport], classes: Classes
) -> Table:
    """Tell how many pictures, recordings and boxes of each class each split has."""
    table = _table("Counts", "", *SPLITS)
    rows: dict[str, list[int]] = {
        "images": [reports[split].images for split in SPLITS],
        "images without objects": [reports[split].negatives for split in SPLITS],
        "recordings": [len({sample.recording for sample in samples[split]}) for split in SPLITS],
    }
    with_weapon = {
        split: {s.recording for s in samples[split] if shows_weapon(s, classes)} for split in SPLITS
    }
    free = {split: [s for s in samples[split] if s.recording not in with_weapon[split]] for split in SPLITS}
    rows["images of weapon-free recordings"] = [len(free[split]) for split in SPLITS]
    rows["weapon-free recordings"] = [len({sample.recording for sample in free[split]}) for split in SPLITS]
    rows |= {f"{name} boxes": [reports[split].boxes[name] for split in SPLITS] for name in classes.names[1:]}
    for heading, numbers in rows.items():
        table.add_row(heading, *(f"{number:,}" for number in numbers))
    return table


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    return table


def size_table(samples: Sequence[Sample], class_names: Sequence[str]) -> Table:
    """Tell how large pictures and boxes are: what decides the network's input size."""
    table = _table("Sizes in pixels (boxes: square root of the area)", "", "smallest", "median", "largest")
    sizes = np.array([sample.size_wh for sample in samples]).reshape(-1, 2)
    rows = {"picture width": sizes[:, 0], "picture height": sizes[:, 1]}
    rows |= {f"{name} box": sides for name, sides in box_sides(samples, class_names).items()}
    for heading, values in rows.items():
        if len(values):
            numbers = (values.min(), float(np.median(values)), values.max())
            table.add_row(heading, *(f"{number:,.0f}" for number in numbers))
    return table


def box_sides(
    samples: Sequence[Sample], class_names: Sequence[str], *, relative: bool = False
) -> dict[str, NDArray[np.float64]]:
    """Return the square root of each box's area by class: pixels, or a share of the picture's."""
    sides: dict[str, list[float]] = {name: [] for name in class_names[1:]}
    for sample in samples:
        whole = float(np.sqrt(np.prod(sample.size_wh))) if relative else 1.0
        areas = np.prod(sample.boxes[:, 2:] - sample.boxes[:, :2], axis=1)
        for label, area in zip(sample.labels, areas, strict=True):
            sides[class_names[label]].append(float(np.sqrt(area)) / whole)
    return {name: np.array(values) for name, values in sides.items()}


def class_counts(samples: Sequence[Sample], class_names: Sequence[str]) -> dict[str, int]:
    """Return how many boxes there are of each class."""
    labels = np.concatenate([sample.labels for sample in samples])
    return {name: int((labels == index).sum()) for index, name in enumerate(class_names) if index}


def plot_boxes(
    samples: Sequence[Sample],
    counts: dict[Split, dict[str, int]],
    sides: dict[str, NDArray[np.float64]],
    path: Path,
) -> None:
    """Draw classes, sizes and places of the boxes into one PNG file."""
    from matplotlib.figure import Figure  # half a second and 40 MB that only this command needs

    figure = Figure(figsize=(15, 9), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    names = list(sides)
    places = np.arange(len(names))
    for number, split in enumerate(counts):
        bars = axes[0].bar(places + 0.27 * number, [counts[split][name] for name in names], 0.27, label=split)
        axes[0].bar_label(bars, fontsize=7, rotation=90, padding=3)
    axes[0].set(title="Boxes per class", xticks=places + 0.27, xticklabels=names)
    axes[0].margins(y=0.2)
    bins = np.linspace(0, 1, 26)
    for name in (name for name in names if len(sides[name])):
        axes[1].hist(sides[name], bins, histtype="step", linewidth=1.5, density=True, label=name)
    axes[1].set(title="Box size by class", xlabel="square root of box area / picture area", ylabel="density")
    ratios = _aspect_ratios(samples, names)
    axes[2].boxplot([ratios[name] for name in names], tick_labels=names, showfliers=False)
    axes[2].set(title="Box shape", ylabel="width / height", yscale="log")
    centres = np.concatenate([_centres(sample) for sample in samples])
    axes[3].set(title="Box centres", xlabel="x / width", ylabel="y / height", ylim=(1, 0))
    if len(centres):  # a logarithm of nothing has no scale
        shown = axes[3].hist2d(centres[:, 0], centres[:, 1], 24, range=[[0, 1], [0, 1]], norm="log")
        figure.colorbar(shown[3], ax=axes[3], label="boxes", pad=0.01)
    objects = [len(sample.labels) for sample in samples]
    axes[4].hist(objects, np.arange(max(objects) + 2) - 0.5, color="tab:gray")
    axes[4].set(title="Objects per picture", xlabel="objects", ylabel="pictures", yscale="log")
    sizes = np.array([sample.size_wh for sample in samples])
    axes[5].scatter(sizes[:, 0], sizes[:, 1], s=12, alpha=0.3, edgecolors="none")
    axes[5].set(title="Picture sizes", xlabel="width, pixels", ylabel="height, pixels")
    for axis in axes[:2]:
        if axis.get_legend_handles_labels()[0]:
            axis.legend()
    for axis in (axes[0], axes[2]):
        axis.tick_params(axis="x", rotation=20)
    figure.savefig(path, dpi=110)


def _aspect_ratios(samples: Sequence[Sample], names: Sequence[str]) -> dict[str, list[float]]:
    ratios: dict[str, list[float]] = {name: [] for name in names}
    for sample in samples:
        for label, (x1, y1, x2, y2) in zip(sample.labels, sample.boxes.tolist(), strict=True):
            ratios[names[label - 1]].append((x2 - x1) / (y2 - y1))
    return ratios


def _centres(sample: Sample) -> NDArray[np.float32]:
    """Return the centres of the boxes as shares of width and height: (N, 2)."""
    centres = (sample.boxes[:, :2] + sample.boxes[:, 2:]) / 2
    return (centres / sample.size_wh).astype(np.float32)
