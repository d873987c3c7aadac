"""How often an object is known again in the next picture of its recording, by nearness and by overlap.

    python bench/follow.py WEAPONS

WEAPONS is a data set root with pictures called RECORDINGframeNUMBER. Printed too: how often three flickers at
places drawn by chance pass for one object.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from detection.confirmation import Confirmation, Rule
from detection.overlaps import box_iou
from schemas import Box, Detection

Corners = tuple[float, float, float, float]
GAPS = ((1, 6), (7, 12), (13, 20))  # pictures of a recording between two that are compared
SIDES = (0.05, 0.1, 0.2)  # of a flicker's box, shares of the picture's
FRAME = re.compile(r"(.*?)frame(\d+)")
CORNERS = ("xmin", "ymin", "xmax", "ymax")
DRAWN = 2000


def recordings(root: Path) -> dict[str, list[tuple[int, list[Corners]]]]:
    """Return (number, boxes of weapons) of each recording's pictures, in order."""
    found = defaultdict(list)
    for path in sorted(root.glob("annotations*/xmls/*.xml")):
        if match := FRAME.match(path.stem):
            objects = ElementTree.parse(path).iter("object")
            boxes = [corners(each) for each in objects if each.findtext("name") in ("pistol", "knife")]
            found[match[1]].append((int(match[2]), boxes))
    return {name: sorted(pictures) for name, pictures in found.items()}


def corners(element: ElementTree.Element) -> Corners:
    """Return an object's box, xyxy pixels."""
    x1, y1, x2, y2 = (
        float(element.findtext(f"bndbox/{key}", "0")) for key in ("xmin", "ymin", "xmax", "ymax")
    )
    return x1, y1, x2, y2


def is_one(boxes: list[Corners]) -> bool:
    """Say whether boxes in successive frames are one object."""
    confirmation = Confirmation(Rule(0.5, 0.3, needed=len(boxes), window=len(boxes)))
    risen = []
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        box = Box(x1=x1, y1=y1, x2=x2, y2=y2)
        risen = confirmation.look(i * 0.5, [Detection(label="knife", dangerous=True, score=0.9, box=box)])
    return bool(risen)


def main(root: Path) -> None:
    """Print both tables."""
    pictures = recordings(root).values()
    for least, most in GAPS:
        pairs = [
            [a[0], b[0]]
            for frames in pictures
            for (i, a), (j, b) in pairwise(frames)
            if least <= j - i <= most and len(a) == len(b) == 1
        ]
        overlaps = np.array([box_iou(np.array([a]), np.array([b]))[0, 0] for a, b in pairs])
        near = np.mean([is_one(pair) for pair in pairs])
        print(
            f"{least} to {most} pictures apart, {len(pairs)} pairs: near enough {near:.2f}, "
            f"IoU 0.3 {np.mean(overlaps >= 0.3):.2f}, IoU 0.1 {np.mean(overlaps >= 0.1):.2f}"
        )
    rng = np.random.default_rng(0)
    for side in SIDES:
        drawn = [[flicker(rng, side) for _ in range(3)] for _ in range(DRAWN)]
        print(f"three flickers of side {side:g}: {np.mean([is_one(boxes) for boxes in drawn]):.3f}")


def flicker(rng: np.random.Generator, side: float) -> Corners:
    """Return a box of about that side somewhere in a picture of 1000 x 1000."""
    width, height = side * 1000 * rng.uniform(0.7, 1.4, 2)
    x, y = rng.uniform(0, 1000 - width), rng.uniform(0, 1000 - height)
    return x, y, x + width, y + height


if __name__ == "__main__":
    main(Path(sys.argv[1]))
