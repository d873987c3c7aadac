"""Tiles: where they lie, what becomes of boxes at their edges, and what a detector finds in them."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from fake_detector import KNIFE, PISTOL, FakeDetector, make_card
from hypothesis import given
from hypothesis import strategies as st

from detection import imaging
from detection.detections import Detections
from detection.detector import Detector, load_folder
from detection.runtime import BatchDetector
from detection.tiles import OVERLAP, Stopped, detect_in, frames_of, merge
from schemas import NetworkConfig

ROOT = Path(__file__).parents[2]
NETWORK = NetworkConfig(architecture="fake", min_size=512, max_size=512)
FLAGSHIP = NetworkConfig(architecture="fake", min_size=800, max_size=1333)


# --- where they lie ---------------------------------------------------------------------------------


def test_the_whole_picture_and_tiles_by_hand():
    # 900 / 1.8 = 500 wide, the second begins at 400; 450 / 1.8 = 250 high, the second at 200
    assert frames_of((450, 900), "2x2", NETWORK).tolist() == [
        [0, 0, 900, 450],
        [0, 0, 500, 250],
        [400, 0, 900, 250],
        [0, 200, 500, 450],
        [400, 200, 900, 450],
    ]
    assert frames_of((260, 1300), "3x3", NETWORK)[1:4].tolist() == [
        [0, 0, 500, 100], [400, 0, 900, 100], [800, 0, 1300, 100],
    ]  # fmt: skip
    assert frames_of((450, 900), "1x1", NETWORK).tolist() == [[0, 0, 900, 450]]


sides = st.integers(1, 3000)


@given(sides, sides, st.sampled_from(["2x2", "3x3"]))
def test_tiles_of_one_size_cover_the_picture_and_overlap(height, width, tiles):
    whole, *rest = frames_of((height, width), tiles, NETWORK).tolist()
    assert whole == [0, 0, width, height]
    assert len({(x2 - x1, y2 - y1) for x1, y1, x2, y2 in rest}) <= 1
    for low, high, end in ((0, 2, width), (1, 3, height)):
        spans = sorted({(frame[low], frame[high]) for frame in rest} or {(0, end)})
        assert (spans[0][0], max(last for _, last in spans)) == (0, end)
        for (start, first_end), (second, _) in itertools.pairwise(spans):
            assert first_end - second >= OVERLAP * (first_end - start) - 1.5  # whole pixels


@pytest.mark.parametrize(
    ("size_hw", "network", "views"),
    [
        ((416, 416), NETWORK, 1),
        ((600, 921), NETWORK, 1),
        ((600, 922), NETWORK, 5),  # 922 / 1.8 is 512 and more
        ((1331, 600), NETWORK, 5),
        ((1332, 600), NETWORK, 10),  # 1332 / 2.6 is 512 and more
        ((4000, 6000), NETWORK, 10),
        ((1439, 2000), FLAGSHIP, 1),
        ((1440, 2000), FLAGSHIP, 5),  # the shorter side decides here
        ((1, 1), NETWORK, 1),
    ],
)
def test_auto_takes_the_most_tiles_that_are_not_enlarged(size_hw, network, views):
    assert len(frames_of(size_hw, "auto", network)) == views


@pytest.mark.parametrize(("size_hw", "views"), [((1, 1), 1), ((2, 2), 1), ((1, 3), 3), ((3, 3), 5)])
def test_no_tile_of_a_picture_of_a_few_pixels_comes_twice(size_hw, views):
    frames = frames_of(size_hw, "2x2", NETWORK)
    assert len(frames) == views
    assert (frames[:, 2:] > frames[:, :2]).all()


# --- boxes ------------------------------------------------------------------------------------------

FRAMES = frames_of((450, 900), "2x2", NETWORK)  # seams: x 400 to 500, y 200 to 250
NOTHING = Detections.empty()


def boxes(*boxes_labels_scores) -> Detections:
    box, labels, scores = (np.array(each) for each in zip(*boxes_labels_scores, strict=True))
    return Detections(box.astype(np.float32), scores.astype(np.float32), labels)


def merged(*found) -> list[tuple[list[float], int, float]]:
    one = merge(FRAMES, [*found, *[NOTHING] * (len(FRAMES) - len(found))], nms_iou=0.5)
    scores = one.scores.round(4).astype(float).round(4).tolist()
    return list(zip(one.boxes.tolist(), one.labels.tolist(), scores, strict=True))


def test_boxes_come_back_in_the_pictures_pixels():
    last_tile = boxes(([20, 10, 70, 60], PISTOL, 0.9))
    found = merge(FRAMES, [NOTHING, NOTHING, NOTHING, NOTHING, last_tile], nms_iou=0.5)
    assert found.boxes.tolist() == [[420, 210, 470, 260]]


def test_an_object_on_a_seam_is_one_whoever_cuts_it():
    whole = boxes(([300, 50, 600, 150], PISTOL, 0.7))
    left = boxes(([300, 50, 500, 150], PISTOL, 0.9))  # the tile ends at 500
    right = boxes(([0, 50, 200, 150], PISTOL, 0.95))  # and the next begins at 400
    assert merged(whole, left, right) == [([300, 50, 600, 150], PISTOL, 0.7)]


def test_an_object_on_a_seam_that_one_tile_has_whole_is_that_tiles():
    left = boxes(([410, 50, 480, 90], PISTOL, 0.8))  # ends 20 pixels before the tile does
    right = boxes(([0, 50, 80, 90], PISTOL, 0.9))  # begins where the tile begins: cut
    assert merged(NOTHING, left, right) == [([410, 50, 480, 90], PISTOL, 0.8)]


def test_what_two_tiles_have_whole_is_one_object_with_the_better_score():
    left = boxes(([420, 50, 480, 90], PISTOL, 0.8))
    right = boxes(([22, 50, 82, 90], PISTOL, 0.9))
    assert merged(NOTHING, left, right) == [([422, 50, 482, 90], PISTOL, 0.9)]


def test_the_edge_of_the_picture_cuts_nothing():
    assert len(merged(NOTHING, boxes(([0, 0, 60, 40], KNIFE, 0.8)))) == 1


@pytest.mark.parametrize("score", [0.6, 0.9])
def test_a_small_object_seen_coarsely_in_the_whole_is_one_with_the_better_score(score):
    coarse = boxes(([90, 90, 150, 150], PISTOL, 0.8))
    fine = boxes(([100, 100, 130, 130], PISTOL, score))  # IoU 900 / 3600 = 0.25, but all of it inside
    best = coarse if score < 0.8 else fine
    assert merged(coarse, fine) == [(best.boxes[0].tolist(), PISTOL, max(score, 0.8))]


def test_classes_are_merged_apart():
    whole, tile = boxes(([90, 90, 150, 150], PISTOL, 0.8)), boxes(([100, 100, 130, 130], KNIFE, 0.7))
    assert [label for _, label, _ in merged(whole, tile)] == [PISTOL, KNIFE]


def test_what_the_network_told_apart_in_one_view_stays_apart():
    both = boxes(([90, 90, 150, 150], PISTOL, 0.8), ([100, 100, 130, 130], PISTOL, 0.7))
    assert len(merged(both)) == 2


def test_probabilities_follow_their_boxes():
    rows = np.array([[0.1, 0.9], [0.2, 0.8]], np.float32)
    parts = [
        Detections(np.array([[x, 10, x + 20, 40]], np.float32), row[1:], np.array([1]), row[None])
        for x, row in ((10, rows[1]), (200, rows[0]))
    ]
    found = merge(FRAMES[:2], parts, nms_iou=0.5)
    assert found.probabilities is not None
    assert found.probabilities.tolist() == rows.tolist()


# --- a detector in tiles ----------------------------------------------------------------------------


class FarSighted:
    """Sees red things that are at least a tenth of the view wide."""

    card = make_card()

    def detect(self, image, *, nms_iou=None, max_detections=None, probabilities=False) -> Detections:
        rows, columns = np.nonzero(image[..., 0] > 200)
        if not len(rows) or np.ptp(columns) + 1 < image.shape[1] / 10:
            return NOTHING
        return boxes(([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], PISTOL, 0.9))


def picture_with(x: int, y: int, side: int) -> imaging.Image:
    image = np.zeros((450, 900, 3), np.uint8)
    image[y : y + side, x : x + side, 0] = 255
    return image


def test_a_thing_too_small_for_the_whole_picture_is_found_in_a_tile():
    detector, image = FarSighted(), picture_with(600, 300, 50)
    assert len(detect_in(detector, image, frames_of((450, 900), "1x1", NETWORK))) == 0
    found = detect_in(detector, image, FRAMES)
    assert found.boxes.tolist() == [[600, 300, 650, 350]]


@pytest.mark.parametrize("x", range(380, 500, 10))
def test_a_thing_anywhere_on_a_seam_is_one(x):
    assert len(detect_in(FarSighted(), picture_with(x, 170, 60), FRAMES)) == 1


def test_every_option_reaches_each_view_and_the_best_of_all_are_kept():
    detector = FakeDetector(boxes(([30, 30, 60, 60], PISTOL, 0.9), ([100, 100, 130, 130], KNIFE, 0.8)))
    found = detect_in(detector, picture_with(0, 0, 1), FRAMES, nms_iou=0.4, max_detections=3)
    assert found.scores.round(2).tolist() == [np.float32(0.9)] * 3
    assert [call["shape"][:2] for call in detector.calls] == [(450, 900)] + [(250, 500)] * 4
    assert {(call["nms_iou"], call["max_detections"]) for call in detector.calls} == {(0.4, 3)}
    most = detector.card.network.box_detections_per_img
    assert len(detect_in(detector, picture_with(0, 0, 1), FRAMES)) == most


def test_boxes_without_number_on_one_thing_crowd_out_no_other_class():
    crowd = [([30, 30, 60 + i % 9, 60 + i // 9], PISTOL, 0.9) for i in range(300)]
    detector = FakeDetector(boxes(*crowd, ([100, 100, 130, 130], KNIFE, 0.5)))
    found = detect_in(detector, picture_with(0, 0, 1), FRAMES, nms_iou=1, max_detections=1_000_000)
    most = detector.card.network.box_detections_per_img  # of a class in a view
    assert KNIFE in found.labels
    assert most <= len(found) <= 2 * most * len(FRAMES)


def test_nobody_waiting_any_more_ends_it_between_two_views():
    detector = FakeDetector()
    with pytest.raises(Stopped):
        detect_in(detector, picture_with(0, 0, 1), FRAMES, stopped=lambda: len(detector.calls) == 2)
    assert len(detector.calls) == 2


class Batched(Detector):
    at_once = 3  # of four tiles: three together and one


def test_tiles_together_find_what_they_find_one_by_one():
    photo = imaging.decode_image((ROOT / "photos/07-pistol-smartphone-and-wallet.jpg").read_bytes())
    one_by_one = load_folder(ROOT / "weights/starter", optimize=False)
    together = Batched(one_by_one.card)
    together.network.load_state_dict(one_by_one.network.state_dict())
    together.second_look = one_by_one.second_look
    assert isinstance(together, BatchDetector)
    frames = frames_of((photo.shape[0], photo.shape[1]), "2x2", one_by_one.card.network)
    ours, theirs = (detect_in(one, photo, frames).above(0.3) for one in (together, one_by_one))
    assert len(ours) == len(theirs) > 2
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.1)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-3)
