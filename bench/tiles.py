"""What tiles find, and what they cost: small weapons, false alarms and time, for each way of tiling.

    python bench/tiles.py --model weights/starter --stills HARDSET --prefix cctv --split test --data WEAPONS

Two tables: the stills as they are, and nine laid together to a frame of 3 x 3, which the network has to
shrink. A weapon is found by a box of its class at IoU 0.3 or more from the alarm point on; every other
weapon box on a still is wrong. False alarms are counted on weapon-free pictures of the validation split.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from detection.alarm import alarm_threshold
from detection.detections import CLASS_NAMES, WEAPONS, Detections, GroundTruth
from detection.detector import Detector, load_folder
from detection.imaging import Image
from detection.overlaps import box_iou
from detection.tiles import detect_in, frames_of
from evaluation.matching import match_boxes
from photosets.samples import Sample, load_image, read_samples
from schemas import Tiles

WAYS: tuple[Tiles, ...] = ("1x1", "2x2", "3x3", "auto")
FOUND_IOU = 0.3  # a weapon of a few pixels is found by a box that is about there
WEAPON_LABELS = [CLASS_NAMES.index(name) for name in WEAPONS]
SIDE_PX = 416  # of a still in a frame of nine


@dataclass
class Tally:
    """What one way of tiling gave."""

    found: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WEAPONS, 0))
    true: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WEAPONS, 0))
    wrong: int = 0
    seconds: float = 0.0

    def add(self, found: Detections, truth: GroundTruth) -> None:
        """Count one picture."""
        for name, label in zip(WEAPONS, WEAPON_LABELS, strict=True):
            boxes, true = found.of([label]).boxes, truth.boxes[truth.labels == label]
            hits = int((match_boxes(box_iou(boxes, true), np.array([FOUND_IOU])) >= 0).sum())
            self.found[name] += hits
            self.true[name] += len(true)
            self.wrong += len(boxes) - hits


def look(detector: Detector, image: Image, way: Tiles) -> tuple[Detections, float]:
    """Return what raises an alarm in a picture, and the seconds it took."""
    frames = frames_of((image.shape[0], image.shape[1]), way, detector.card.network)
    began = time.perf_counter()
    found = detect_in(detector, image, frames)
    took = time.perf_counter() - began
    return found.of(WEAPON_LABELS).above(alarm_threshold(detector.card)), took


def laid_together(samples: Sequence[Sample]) -> tuple[Image, GroundTruth]:
    """Return nine stills in a frame of 3 x 3, each SIDE_PX wide and high, and their boxes there."""
    frame = np.zeros((3 * SIDE_PX, 3 * SIDE_PX, 3), np.uint8)
    boxes, labels = [], []
    for place, sample in enumerate(samples):
        image = load_image(sample)
        rows, columns = (np.arange(SIDE_PX) * side // SIDE_PX for side in image.shape[:2])
        y, x = SIDE_PX * (place // 3), SIDE_PX * (place % 3)
        frame[y : y + SIDE_PX, x : x + SIDE_PX] = image[rows][:, columns]
        scale = SIDE_PX / np.array([image.shape[1], image.shape[0]] * 2)
        boxes.append(sample.boxes * scale + np.array([x, y, x, y]))
        labels.append(sample.labels)
    return frame, GroundTruth(np.concatenate(boxes).astype(np.float32), np.concatenate(labels))


def measure(detector: Detector, pictures: Iterable[tuple[Image, GroundTruth]]) -> dict[Tiles, Tally]:
    """Look at every picture in every way."""
    tallies = {way: Tally() for way in WAYS}
    for image, truth in pictures:
        for way, tally in tallies.items():
            found, took = look(detector, image, way)
            tally.add(found, truth)
            tally.seconds += took
    return tallies


def false_alarms(detector: Detector, free: Sequence[Sample], way: Tiles) -> str:
    """Return how many in 1,000 weapon-free pictures raise an alarm."""
    raised = sum(len(look(detector, load_image(sample), way)[0]) > 0 for sample in free)
    return f"{1000 * raised / len(free):.0f} per 1,000"


def print_table(title: str, tallies: dict[Tiles, Tally], false_alarms: dict[Tiles, str]) -> None:
    """Print one table in Markdown."""
    print(f"\n{title}\n\n| tiles | pistols found | knives found | wrong weapon boxes | false alarms | time |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for way, tally in tallies.items():
        found = " | ".join(f"{tally.found[name]} of {tally.true[name]}" for name in WEAPONS)
        ratio = tally.seconds / tallies["1x1"].seconds
        print(f"| {way} | {found} | {tally.wrong} | {false_alarms[way]} | {ratio:.1f} |")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--stills", type=Path, required=True, help="data root with small weapons")
    parser.add_argument("--prefix", default="", help="what the names of its stills begin with")
    parser.add_argument("--split", choices=("train", "val", "test"), default="test", help="of the stills")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="roots of weapon-free pictures")
    parser.add_argument("--most", type=int, default=150, help="weapon-free pictures")
    options = parser.parse_args()
    detector = load_folder(options.model)
    stills = [
        sample
        for sample in read_samples([options.stills], options.split)
        if sample.name.startswith(options.prefix) and np.isin(sample.labels, WEAPON_LABELS).any()
    ]
    free = [
        sample
        for sample in read_samples(options.data, "val")
        if not np.isin(sample.labels, WEAPON_LABELS).any()
    ]
    free = [free[i] for i in np.random.default_rng(0).permutation(len(free))[: options.most]]
    if not stills or not free:
        raise SystemExit(
            f"error: expected stills with weapons and pictures without, got {len(stills)} and {len(free)}"
        )
    one_by_one = measure(detector, ((load_image(one), one.truth) for one in stills))
    alarms = {way: false_alarms(detector, free, way) for way in WAYS}
    print_table(f"{len(stills)} stills as they are, {len(free)} weapon-free pictures", one_by_one, alarms)
    nines = [stills[i : i + 9] for i in range(0, len(stills) - 8, 9)]
    free_nines = [free[i : i + 9] for i in range(0, len(free) - 8, 9)]
    frames = measure(detector, map(laid_together, nines))
    none = measure(detector, map(laid_together, free_nines))
    wrong = {way: f"{none[way].wrong} boxes in {len(free_nines)} frames" for way in WAYS}
    print_table(
        f"{len(nines)} frames of nine stills, {len(free_nines)} of weapon-free pictures", frames, wrong
    )


if __name__ == "__main__":
    main()
