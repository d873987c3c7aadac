"""A small drawn data set with the six classes, for trying training out in minutes and for tests.

Each class has its own shape and colour, held by something like a hand before a cluttered background. What is
learned from it says nothing about photographs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFilter

from detection.detections import CLASS_NAMES
from photosets import voc

Draw = ImageDraw.ImageDraw
Box = tuple[int, int, int, int]  # xyxy pixels
Colour = tuple[int, int, int]

SHARE_EMPTY = 0.15
SHARE_TWO = 0.25
SIZES_WH = ((320, 240), (240, 320), (288, 288))
TILE = 256  # objects are drawn this large, then shrunk: smooth edges
NUMBER_STEP = 50  # the block of numbers that a split keeps together: each picture is its own recording
SKIN: tuple[Colour, ...] = ((241, 194, 160), (198, 134, 96), (141, 85, 54), (92, 56, 38))


def draw_synthetic(root: Path, *, train: int, test: int, seed: int) -> None:
    """Draw a data set into root, in the layout of OD-WeaponDetection. The same seed draws the same files.

    Args:
        root: folder to write to; created if absent.
        train: pictures in images/, of which a split takes validation as well.
        test: pictures in images_test/.
        seed: any integer.

    Raises:
        FileExistsError: root already holds pictures that this would not overwrite.
    """
    sides = (("images", "annotations/xmls", train), ("images_test", "annotations_test/xmls", test))
    for images_name, xmls_name, count in sides:
        _refuse_strangers(root / images_name, count)
        (root / images_name).mkdir(parents=True, exist_ok=True)
        (root / xmls_name).mkdir(parents=True, exist_ok=True)
    for side, (images_name, xmls_name, count) in enumerate(sides):
        rng = np.random.default_rng([seed, side])
        for stem, labels in zip(_stems(count), _plan(count, rng), strict=True):
            picture, names, boxes = _draw_scene(labels, rng)
            picture.save(root / images_name / f"{stem}.jpg", quality=90)
            write_voc(root / xmls_name / f"{stem}.xml", f"{stem}.jpg", picture.size, names, boxes)


def write_voc(
    path: Path, image_name: str, size_wh: tuple[int, int], names: Sequence[str], boxes: Sequence[Box]
) -> None:
    """Write the boxes of one picture as a Pascal VOC file."""
    path.write_bytes(voc.annotation_xml(image_name, size_wh, names, boxes))


def _stems(count: int) -> list[str]:
    """Names with a space and parentheses, as most of the original's have."""
    return [f"drawn ({number * NUMBER_STEP})" for number in range(count)]


def _refuse_strangers(folder: Path, count: int) -> None:
    mine = {f"{stem}.jpg" for stem in _stems(count)}
    strangers = sorted(path.name for path in folder.glob("*") if path.name not in mine)
    if strangers:
        raise FileExistsError(
            f"{folder} already holds other files ({', '.join(strangers[:3])}): draw into a new folder"
        )


def _plan(count: int, rng: np.random.Generator) -> Iterator[list[str]]:
    """Yield the class names of each picture: mostly one, sometimes two or none; classes take turns."""
    turns = iter([name for _ in range(count) for name in rng.permutation(CLASS_NAMES[1:]).tolist()])
    for _ in range(count):
        chance = rng.random()
        yield [next(turns) for _ in range(0 if chance < SHARE_EMPTY else 2 if chance > 1 - SHARE_TWO else 1)]


def _draw_scene(
    labels: Sequence[str], rng: np.random.Generator
) -> tuple[PillowImage.Image, list[str], list[Box]]:
    size_wh = SIZES_WH[rng.integers(len(SIZES_WH))]
    picture = _background(size_wh, rng)
    names: list[str] = []
    boxes: list[Box] = []
    for name in labels:
        tile, hand = _tile(name, rng)
        place = _free_place(size_wh, tile.size, boxes, rng)
        if place is None:
            continue
        picture.paste(hand, place, hand)
        picture.paste(tile, place, tile)
        left, top, right, bottom = _visible(tile)
        boxes.append((place[0] + left, place[1] + top, place[0] + right, place[1] + bottom))
        names.append(name)
    noise = rng.normal(0, rng.uniform(2, 8), (size_wh[1], size_wh[0], 3))
    noisy = (np.asarray(picture, np.float32) + noise).clip(0, 255).astype(np.uint8)
    return PillowImage.fromarray(noisy), names, boxes


def _visible(tile: PillowImage.Image) -> Box:
    """Return the box around what is more opaque than not."""
    rows, columns = np.nonzero(np.asarray(tile.getchannel("A")) > 127)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _free_place(
    size_wh: tuple[int, int], tile_wh: tuple[int, int], taken: Sequence[Box], rng: np.random.Generator
) -> tuple[int, int] | None:
    """Return a corner at which a tile lies inside the picture and on no box, or None after 50 tries."""
    for _ in range(50):
        x, y = (
            int(rng.integers(0, max(1, side - tile))) for side, tile in zip(size_wh, tile_wh, strict=True)
        )
        right, bottom = x + tile_wh[0], y + tile_wh[1]
        if all(x >= box[2] or right <= box[0] or y >= box[3] or bottom <= box[1] for box in taken):
            return x, y
    return None


def _background(size_wh: tuple[int, int], rng: np.random.Generator) -> PillowImage.Image:
    """A colour gradient with circles, polygons and lines in muted colours, slightly out of focus."""
    width, height = size_wh
    corners = rng.integers(60, 200, (2, 2, 3)).astype(np.uint8)
    picture = PillowImage.fromarray(corners).resize(size_wh, PillowImage.Resampling.BILINEAR)
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(8, 22))):
        colour = tuple(rng.integers(70, 190, 3).tolist())
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(5, 50)
        kind = rng.integers(3)
        if kind == 0:
            draw.ellipse((x - radius, y - radius * 0.7, x + radius, y + radius * 0.7), fill=colour)
        elif kind == 1:
            angles = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 7))))
            draw.polygon([(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles], fill=colour)
        else:
            end = (rng.uniform(0, width), rng.uniform(0, height))
            draw.line((x, y, *end), fill=colour, width=int(rng.integers(1, 6)))
    return picture.filter(ImageFilter.GaussianBlur(1))


def _tile(name: str, rng: np.random.Generator) -> tuple[PillowImage.Image, PillowImage.Image]:
    """Return the object, turned a little and sized at random, and the hand behind it, both RGBA."""
    thing = PillowImage.new("RGBA", (TILE, TILE))
    DRAWINGS[name](ImageDraw.Draw(thing), rng)
    hand = PillowImage.new("RGBA", (TILE, TILE))
    _draw_hand(ImageDraw.Draw(hand), rng)
    angle, mirrored = rng.uniform(-25, 25), rng.random() < 0.5
    side = int(rng.uniform(80, 140))
    turned = []
    for layer in (thing, hand):
        layer = layer.transpose(PillowImage.Transpose.FLIP_LEFT_RIGHT) if mirrored else layer
        layer = layer.rotate(angle, PillowImage.Resampling.BICUBIC)
        turned.append(layer.resize((side, side), PillowImage.Resampling.LANCZOS))
    brightness = rng.uniform(0.8, 1.1)
    shaded = turned[0].convert("RGB").point(lambda value: min(255, int(value * brightness)))
    shaded.putalpha(turned[0].getchannel("A"))
    return shaded, turned[1]


def _draw_hand(draw: Draw, rng: np.random.Generator) -> None:
    """A palm low in the tile, behind whatever it holds, with four fingers to the side."""
    colour = SKIN[rng.integers(len(SKIN))]
    draw.ellipse((50, 130, 160, 250), fill=colour)
    for number in range(4):
        top = 128 + 26 * number
        draw.rounded_rectangle((100, top, 200 - 6 * number, top + 22), 11, fill=colour)


def _draw_pistol(draw: Draw, rng: np.random.Generator) -> None:
    grey = int(rng.integers(20, 55))
    metal = (grey, grey, grey + 6)
    draw.rectangle((30, 70, 226, 116), fill=metal)
    draw.polygon([(40, 110), (100, 110), (82, 212), (26, 212)], fill=metal)
    draw.arc((90, 100, 142, 152), 0, 180, fill=metal, width=9)
    draw.line((36, 84, 220, 84), fill=(grey + 45,) * 3, width=4)
    draw.rectangle((208, 60, 218, 70), fill=metal)


def _draw_knife(draw: Draw, rng: np.random.Generator) -> None:
    steel = int(rng.integers(195, 235))
    handle = ((60, 35, 20), (25, 25, 25), (120, 25, 25))[rng.integers(3)]
    draw.polygon([(96, 112), (248, 142), (96, 146)], fill=(steel, steel, steel + 10))
    draw.line((100, 118, 236, 140), fill=(steel - 60,) * 3, width=3)
    draw.rounded_rectangle((10, 112, 98, 146), 12, fill=handle)


def _draw_billete(draw: Draw, rng: np.random.Generator) -> None:
    green = int(rng.integers(125, 165))
    paper, ink = (70, green, 85), (25, green - 65, 40)
    draw.rectangle((14, 74, 242, 182), fill=paper, outline=(210, 230, 205), width=6)
    draw.ellipse((96, 88, 160, 168), fill=(190, 220, 185), outline=ink, width=5)
    for x in (30, 44, 58, 178, 192, 206):
        draw.line((x, 90, x + 14, 166), fill=ink, width=4)


def _draw_monedero(draw: Draw, rng: np.random.Generator) -> None:
    red = int(rng.integers(110, 150))
    leather, seam = (red, red // 2 + 6, red // 4), (225, 190, 130)
    draw.rounded_rectangle((46, 50, 210, 206), 30, fill=leather)
    draw.line((46, 118, 210, 118), fill=(red // 2, red // 4, red // 8), width=7)
    for step in range(60, 196, 20):
        draw.line((step, 62, step + 10, 62), fill=seam, width=4)
        draw.line((step, 194, step + 10, 194), fill=seam, width=4)
    draw.ellipse((116, 106, 140, 130), fill=(235, 205, 90))


def _draw_smartphone(draw: Draw, rng: np.random.Generator) -> None:
    screen = ((150, 225, 255), (240, 245, 255), (170, 255, 235))[rng.integers(3)]
    draw.rounded_rectangle((74, 20, 182, 236), 18, fill=(12, 12, 16))
    draw.rectangle((84, 42, 172, 214), fill=screen)
    for row in range(3):
        for column in range(3):
            x, y = 92 + 27 * column, 56 + 34 * row
            draw.rectangle((x, y, x + 16, y + 16), fill=(60, 110, 220))
    draw.ellipse((122, 219, 134, 231), fill=(90, 90, 90))


def _draw_tarjeta(draw: Draw, rng: np.random.Generator) -> None:
    plastic = ((30, 60, 190), (120, 30, 160), (215, 60, 40), (235, 120, 20))[rng.integers(4)]
    draw.rounded_rectangle((26, 66, 230, 194), 14, fill=plastic)
    draw.rectangle((26, 80, 230, 98), fill=tuple(value // 3 for value in plastic))
    draw.rounded_rectangle((46, 112, 88, 146), 6, fill=(230, 195, 80), outline=(140, 110, 30), width=3)
    for group in range(4):
        draw.line((48 + 44 * group, 170, 78 + 44 * group, 170), fill=(245, 245, 245), width=8)


DRAWINGS: dict[str, Callable[[Draw, np.random.Generator], None]] = {
    "pistol": _draw_pistol,
    "knife": _draw_knife,
    "billete": _draw_billete,
    "monedero": _draw_monedero,
    "smartphone": _draw_smartphone,
    "tarjeta": _draw_tarjeta,
}
