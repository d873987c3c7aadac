"""Boxes on pictures: colours, line styles, captions inside the frame and off the weapons, and files out."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from detection import drawing, imaging
from detection.drawing import LOOKALIKE, UNSURE_WEAPON, WEAPON

GREY = 128
STYLES = [WEAPON, LOOKALIKE, UNSURE_WEAPON, WEAPON._replace(line="dashes")]


def grey(width: int, height: int) -> imaging.Image:
    return np.full((height, width, 3), GREY, np.uint8)


def boxes(*rows: tuple[float, float, float, float]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def is_color(image: imaging.Image, color: tuple[int, int, int]) -> np.ndarray:
    return np.asarray((image == np.array(color, np.uint8)).all(axis=2))


def test_a_weapon_has_a_solid_line_and_a_lookalike_gaps():
    image = drawing.draw_boxes(
        grey(800, 600),
        boxes((100, 100, 300, 500), (450, 100, 650, 500)),
        ["pistol", "wallet"],
        [WEAPON, LOOKALIKE],
    )
    weapon_side = is_color(image, drawing.DANGEROUS_COLOR)[110:490, 98:103].any(axis=1)
    lookalike_side = np.asarray(is_color(image, drawing.HARMLESS_COLOR)[100:500, 448:453].any(axis=1))
    assert weapon_side.all()
    assert lookalike_side.mean() == pytest.approx(0.5, abs=0.02)
    assert not lookalike_side[110:290].any()  # corners only


def test_what_only_a_slider_shows_is_dashed():
    style = WEAPON._replace(line="dashes")
    image = drawing.draw_boxes(grey(800, 600), boxes((100, 100, 300, 500)), [""], [style])
    side = is_color(image, drawing.DANGEROUS_COLOR)[110:490, 98:103].any(axis=1)
    assert 0.4 < side.mean() < 0.8
    assert np.diff(side.astype(int)).clip(min=0).sum() > 5


def test_lines_are_thin():
    image = drawing.draw_boxes(grey(1600, 1200), boxes((400, 300, 1200, 900)), [""], [WEAPON])
    across = is_color(image, drawing.DANGEROUS_COLOR)[600, 380:420]
    assert across.sum() <= 4  # two pixels where the picture is shown at half its size


@given(
    corners=st.lists(st.tuples(*[st.integers(0, 799), st.integers(0, 599)] * 2), min_size=1, max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_no_caption_lies_on_a_weapon(corners):
    """What is inside each weapon's box is the photo, whatever is written beside it."""
    found = boxes(*((min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners))
    styles = [WEAPON] * len(found)
    words = ["1 банковская карта"] * len(found)
    with_captions = drawing.draw_boxes(grey(800, 600), found, words, styles, mat=True)
    without = drawing.draw_boxes(grey(800, 600), found, [""] * len(found), styles)
    strip = with_captions.shape[0] - 600
    for x1, y1, x2, y2 in found.astype(int):
        inside = np.s_[y1 + 1 : y2, x1 + 1 : x2]
        assert (with_captions[strip:][inside] == without[inside]).all()


def test_a_caption_for_which_there_is_no_room_goes_onto_a_mat():
    whole = boxes((0, 0, 799, 599))
    assert drawing.draw_boxes(grey(800, 600), whole, ["pistol"], [WEAPON]).shape == (600, 800, 3)
    matted = drawing.draw_boxes(grey(800, 600), whole, ["pistol"], [WEAPON], mat=True)
    assert matted.shape[0] > 600
    assert is_color(matted[: matted.shape[0] - 600], drawing.DANGEROUS_COLOR).any()


def test_the_two_colours_stay_apart_without_colour_vision():
    def luminance(color: tuple[int, int, int]) -> float:
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color)
        ]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    assert (luminance(drawing.UNSURE_COLOR) + 0.05) / 0.05 >= 4.5  # black on it
    for color in (drawing.DANGEROUS_COLOR, drawing.HARMLESS_COLOR):
        assert 1.05 / (luminance(color) + 0.05) >= 3  # WCAG 2.2, 1.4.3: white on it, large bold letters


def test_the_picture_given_is_not_changed():
    image = grey(640, 480)
    drawing.draw_boxes(image, boxes((10, 10, 200, 200)), ["knife"], [WEAPON])
    assert (image == GREY).all()


def test_no_boxes_draw_nothing():
    assert (drawing.draw_boxes(grey(640, 480), boxes(), [], []) == GREY).all()


def test_cyrillic_captions_have_letters():
    """A font without Cyrillic draws the same empty frame for every letter."""
    drawn = [
        drawing.draw_boxes(grey(640, 480), boxes((50, 200, 600, 400)), [word], [WEAPON])
        for word in ("нож", "жон")
    ]
    assert (drawn[0] != drawn[1]).any()


@given(
    corners=st.tuples(*[st.integers(0, 799), st.integers(0, 599)] * 2),
    size=st.tuples(st.integers(10, 400), st.integers(10, 60)),
    taken=st.lists(st.sampled_from([(0, 0, 800, 100), (100, 100, 500, 400), (0, 560, 800, 600)])),
)
def test_a_caption_stays_inside_the_frame(corners, size, taken):
    (x1, x2), (y1, y2) = sorted(corners[::2]), sorted(corners[1::2])
    left, top, right, bottom = drawing.caption_place((x1, y1, x2, y2), size, (800, 600), taken)
    assert (right - left, bottom - top) == size
    assert 0 <= left < right < 800
    assert 0 <= top < bottom < 600


@pytest.mark.parametrize(
    ("frame", "place", "reason"),
    [
        ((100, 200, 400, 300), (100, 170, 250, 200), "above, where there is room"),
        ((100, 10, 400, 300), (100, 300, 250, 330), "below, where there is none above"),
        ((100, 10, 400, 590), (400, 10, 550, 40), "beside, where there is neither"),
        ((0, 10, 799, 590), (0, 10, 150, 40), "inside, where there is none at all"),
        ((700, 200, 799, 300), (649, 170, 799, 200), "moved left at the right edge"),
    ],
)
def test_where_a_caption_goes(frame, place, reason):
    assert drawing.caption_place(frame, (150, 30), (800, 600), []) == place, reason


def test_captions_of_a_crowd_are_all_readable():
    """Five boxes on one small object: none of the captions covers another."""
    taken: list[tuple[float, float, float, float]] = []
    for _ in range(5):
        taken.append(drawing.caption_place((380, 300, 420, 340), (150, 30), (800, 600), taken))
    covered = np.zeros((600, 800), int)
    for x1, y1, x2, y2 in taken:
        covered[int(y1) : int(y2), int(x1) : int(x2)] += 1
    assert covered.max() == 1


def test_captions_of_one_place_do_not_cover_each_other():
    found = boxes((200, 200, 500, 400), (205, 205, 505, 405))
    image = drawing.draw_boxes(grey(800, 600), found, ["pistol 90%", "wallet 80%"], [WEAPON, LOOKALIKE])
    for color, name in ((drawing.DANGEROUS_COLOR, "pistol"), (drawing.HARMLESS_COLOR, "wallet")):
        alone = drawing.draw_boxes(
            grey(800, 600), boxes((200, 200, 500, 400)), [f"{name} 90%"], drawing.styles_of([color[0] > 100])
        )
        assert is_color(image, color).sum() > 0.5 * is_color(alone, color).sum()


@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    corners=st.lists(st.tuples(*[st.floats(-500, 900)] * 4), max_size=6),
    mat=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_any_box_on_any_picture_draws(width, height, corners, mat):
    count = len(corners)
    image = drawing.draw_boxes(
        grey(width, height),
        boxes(*corners),
        ["банковская карта 99 %"] * count,
        [STYLES[i % len(STYLES)] for i in range(count)],
        mat=mat,
    )
    scale = image.shape[1] // width
    assert image.shape[1:] == (width * scale, 3)
    assert image.shape[0] == height * scale or (mat and image.shape[0] > height * scale)


def test_a_small_picture_is_enlarged_so_that_its_caption_can_be_read():
    image = drawing.draw_boxes(grey(60, 40), boxes((10, 10, 50, 30)), ["knife 91%"], [WEAPON])
    assert image.shape == (320, 480, 3)


def test_letters_grow_with_the_picture():
    def height_of_plate(width: int) -> int:
        image = drawing.draw_boxes(
            grey(width, width),
            boxes((width * 0.4, width * 0.4, width * 0.6, width * 0.6)),
            ["l"],
            [LOOKALIKE],
        )
        return int(is_color(image, drawing.HARMLESS_COLOR)[:, round(width * 0.402)].sum())

    assert height_of_plate(3000) > 2 * height_of_plate(600)


def test_as_many_captions_as_boxes():
    with pytest.raises(ValueError, match="as many captions"):
        drawing.draw_boxes(grey(100, 100), boxes((0, 0, 10, 10)), [], [WEAPON])


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_an_encoded_picture_decodes_to_itself(image_format):
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = (250, 20, 10)
    content = imaging.encode_image(image, image_format)
    assert PillowImage.open(io.BytesIO(content)).format == image_format
    decoded = imaging.decode_image(content).astype(int)
    assert np.abs(decoded - image)[:, [0, 10, 50, 59]].max() <= (0 if image_format == "PNG" else 12)


def test_a_crop_is_the_box_with_a_margin_where_there_is_one():
    image = np.arange(100 * 200 * 3, dtype=np.uint32).astype(np.uint8).reshape(100, 200, 3)
    crops = drawing.crop_boxes(image, boxes((20, 30, 60, 50), (0, 0, 200, 100), (199, 99, 199, 99)))
    np.testing.assert_array_equal(crops[0], image[27:53, 14:66])  # 15 % of 40 x 20 on each side
    assert crops[1].shape == (100, 200, 3)
    assert crops[2].shape == (1, 1, 3)


def test_shrink_keeps_the_shape_and_never_enlarges():
    assert imaging.shrink(grey(400, 200), 100).shape == (50, 100, 3)
    assert imaging.shrink(grey(40, 20), 100).shape == (20, 40, 3)
    assert imaging.shrink(grey(5000, 2), 100).shape == (1, 100, 3)
