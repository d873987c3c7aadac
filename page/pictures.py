"""The pictures of an answer: the photo with thin boxes, a closer look, cut-outs and thumbnails."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detection import drawing, imaging
from detection.faces import without_faces
from detection.names import class_name
from page.session import THUMBNAILS, Page, Photo
from page.verdict import is_alarm, shown_at_first, signs
from schemas import Box, Detection, ImageResult

CROP_MARGIN = 0.25  # of the box's sides, around it: a little of what is there helps a person judge
CROP_SIDE = 192  # of a cut-out: 96 CSS pixels on a fine screen
THUMBNAIL_SIDE = 400
ZOOM = 3.0  # times as large as in the whole photo, or so close that the object is a third of the view
ZOOM_MARGIN = 1.25  # sides of the view at least, in sides of the object
Frame = tuple[int, int, int, int]  # left, top, right, bottom in whole pixels


def styles(page: Page, shown: Sequence[Detection], first: Sequence[Detection]) -> list[drawing.Style]:
    """Return how each box is drawn: in the answer's colours, and dashed where only the slider shows it."""
    made = []
    for detection in shown:
        style = drawing.LOOKALIKE
        if detection.dangerous:
            style = drawing.WEAPON if is_alarm(page, detection) else drawing.UNSURE_WEAPON
        made.append(style if detection in first else style._replace(line="dashes"))
    return made


def captions(page: Page, shown: Sequence[Detection]) -> list[str]:
    """Return what stands beside each box: the object's number in the list, and its name."""
    return [f"{i} {class_name(d.label, page.language)}" for i, d in enumerate(shown, start=1)]


def marked(
    page: Page, image: imaging.Image, result: ImageResult, shown: Sequence[Detection],
    frame: Frame | None = None, *, mat: bool = False, no_faces: bool = False,
) -> imaging.Image:  # fmt: skip
    """Return image, the photo at some size, with the boxes of shown; frame cuts a part out of it.

    Drawn after cutting, lines and captions have the size that suits the part, and none is cut off.
    """
    if no_faces:
        image = faceless(page, image, result, shown)
    scaled_boxes = drawing.boxes_of(scaled(shown, result, image))
    words, looks = captions(page, shown), styles(page, shown, shown_at_first(page, result))
    if frame is not None:
        left, top, right, bottom = frame
        image = image[top:bottom, left:right]
        scaled_boxes = scaled_boxes - np.array([left, top, left, top], np.float32)
        inside = [i for i, box in enumerate(scaled_boxes) if _meets(box, image.shape)]
        scaled_boxes = scaled_boxes[inside]
        words, looks = [words[i] for i in inside], [looks[i] for i in inside]
    return drawing.draw_boxes(image, scaled_boxes, words, looks, mat=mat)


def faceless(
    page: Page, image: imaging.Image, result: ImageResult, shown: Sequence[Detection]
) -> imaging.Image:
    """Return image, the photo at some size, with blurred faces; whatever may be a weapon stays as it is."""
    weapons = [d for d in (*signs(page, result.detections or ()), *shown) if d.dangerous]
    return without_faces(image, drawing.boxes_of(scaled(weapons, result, image))).image


def _meets(box: NDArray[np.float32], shape: tuple[int, ...]) -> bool:
    return bool(box[0] < shape[1] and box[2] > 0 and box[1] < shape[0] and box[3] > 0)


def zoom_frame(size_wh: tuple[int, int], box: Box) -> Frame:
    """Return the part of a photo of that size in which box is seen ZOOM times as large, or closer.

    Closer for small objects: until box is a third of the view; less close for large ones, so that all of
    the object stays in view with something around it.
    """
    width, height = size_wh
    share = max((box.x2 - box.x1) / width, (box.y2 - box.y1) / height)  # of the view, unzoomed
    part = min(1.0, max(ZOOM_MARGIN * share, min(1 / ZOOM, 3 * share)))
    wide, high = max(1.0, part * width), max(1.0, part * height)
    left = min(max((box.x1 + box.x2 - wide) / 2, 0), width - wide)
    top = min(max((box.y1 + box.y2 - high) / 2, 0), height - high)
    return int(left), int(top), min(width, int(np.ceil(left + wide))), min(height, int(np.ceil(top + high)))


def scaled(detections: Sequence[Detection], result: ImageResult, image: imaging.Image) -> list[Detection]:
    """Return detections with their boxes in pixels of image, the photo at another size."""
    factor = image.shape[1] / result.image_size.width if result.image_size else 1.0
    return [
        d.model_copy(
            update={"box": d.box.model_copy(update={k: v * factor for k, v in d.box.model_dump().items()})}
        )
        for d in detections
    ]


def cutout(image: imaging.Image, detection: Detection) -> imaging.Image:
    """Return a square around an object, with a margin; on a dark ground where the photo ends before it does.

    Args:
        image: (H, W, 3) uint8 RGB.
        detection: its box in pixels of image.
    """
    box = detection.box
    side = (1 + 2 * CROP_MARGIN) * max(box.x2 - box.x1, box.y2 - box.y1, 8)
    left, top = round((box.x1 + box.x2 - side) / 2), round((box.y1 + box.y2 - side) / 2)
    side = max(1, round(side))
    height, width = image.shape[:2]
    square = np.full((side, side, 3), drawing.MAT_COLOR, np.uint8)
    x1, y1, x2, y2 = max(0, left), max(0, top), min(width, left + side), min(height, top + side)
    square[y1 - top : y2 - top, x1 - left : x2 - left] = image[y1:y2, x1:x2]
    return imaging.shrink(square, CROP_SIDE)


def thumbnail(page: Page, photo: Photo, result: ImageResult, session_id: str) -> bytes:
    """Return a small picture of photo with its boxes, as a JPEG file; drawn once.

    Raises:
        imaging.ImageError: the page's image library cannot read the photo.
    """

    def make() -> bytes:
        small = imaging.shrink(imaging.decode_image(photo.content), THUMBNAIL_SIDE)
        shown = shown_at_first(page, result)
        boxes = drawing.boxes_of(scaled(shown, result, small))
        drawn = drawing.draw_boxes(small, boxes, [""] * len(shown), styles(page, shown, shown))
        return imaging.encode_image(drawn, quality=80)

    return THUMBNAILS.get(session_id, f"{photo.digest} {page.model_key}", make)
