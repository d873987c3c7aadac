"""Overlaps by hand, and one name for each object without losing a weapon."""

import numpy as np
import pytest
from fake_detector import KNIFE, PHONE, PISTOL, make_card
from hypothesis import given
from hypothesis import strategies as st

from detection.detections import CLASS_NAMES, Detections
from detection.overlaps import ONE_OBJECT_IOU, PART, areas, box_iou, intersections, one_name_each

WALLET = CLASS_NAMES.index("monedero")
A = (0, 0, 100, 100)
ON_A = (0, 0, 100, 80)  # IoU 0.8 with A
IN_A = (0, 0, 100, 40)  # IoU 0.4 with A, 0.5 with ON_A
B = (200, 0, 300, 100)
CORNER_OF_A = (50, 50, 150, 150)  # IoU 2500 / 17500 = 0.143 with A
CARD = make_card()  # alarms from score 0.6


def found(*boxes_labels_scores) -> Detections:
    """Detections in the order given, which must be by descending score."""
    boxes = np.array([box for box, _, _ in boxes_labels_scores], np.float32).reshape(-1, 4)
    labels = np.array([label for _, label, _ in boxes_labels_scores], np.int64)
    return Detections(boxes, np.array([score for *_, score in boxes_labels_scores], np.float32), labels)


def test_iou_by_hand():
    boxes = np.array([A, B, IN_A, CORNER_OF_A], np.float32)
    assert box_iou(np.array([A], np.float32), boxes)[0] == pytest.approx([1, 0, 0.4, 1 / 7])


corners = st.tuples(*[st.integers(0, 50)] * 4).map(lambda c: (c[0], c[1], c[0] + c[2], c[1] + c[3]))


@given(st.lists(corners, min_size=1, max_size=6))
def test_iou_is_symmetric_and_within_bounds(boxes):
    iou = box_iou(np.array(boxes, np.float32), np.array(boxes, np.float32))
    assert np.array_equal(iou, iou.T)
    assert 0 <= iou.min() <= iou.max() <= 1


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ([], []),
        ([(A, PHONE, 0.9), (ON_A, WALLET, 0.8)], [0]),  # two look-alikes: the better
        ([(A, PISTOL, 0.9), (ON_A, PHONE, 0.8)], [0]),
        ([(A, PHONE, 0.9), (ON_A, PISTOL, 0.6)], [1]),  # at the alarm threshold a weapon is called
        ([(A, PHONE, 0.9), (ON_A, PISTOL, 0.59)], [0, 1]),  # below it, it is no less there
        ([(A, PISTOL, 0.5), (ON_A, PHONE, 0.4)], [0]),
        ([(A, PISTOL, 0.9), (ON_A, KNIFE, 0.8)], [0]),  # still a weapon
        ([(A, PISTOL, 0.5), (ON_A, KNIFE, 0.4)], [0]),
        ([(A, PHONE, 0.9), (IN_A, PISTOL, 0.8)], [0, 1]),  # IoU 0.4: perhaps one behind the other
        ([(A, PHONE, 0.9), (B, PISTOL, 0.8)], [0, 1]),
        ([(A, PISTOL, 0.9), (CORNER_OF_A, PISTOL, 0.8)], [0, 1]),  # two pistols, one before the other
        ([(A, PISTOL, 0.9), (IN_A, PISTOL, 0.8)], [0]),  # a part of it, such as its barrel
        ([(IN_A, KNIFE, 0.9), (A, KNIFE, 0.8)], [0]),  # or the whole around it
        ([(A, PHONE, 0.9), (IN_A, PHONE, 0.8)], [0, 1]),  # of one look-alike, the network has chosen
        ([(A, PHONE, 0.9), (ON_A, WALLET, 0.8), (IN_A, PISTOL, 0.7)], [0, 2]),  # the pistol is on the wallet
    ],
)
def test_one_name_for_each_object_and_no_weapon_hidden(given, kept):
    assert one_name_each(found(*given), CARD).scores.tolist() == found(*given).scores[kept].tolist()


pieces = st.lists(
    st.tuples(corners, st.sampled_from([PISTOL, KNIFE, PHONE, WALLET]), st.integers(1, 99)), max_size=8
)


@given(pieces)
def test_whatever_is_found_each_weapon_stays_or_a_better_one_in_its_place(given):
    every = found(*sorted(((box, label, n / 100) for box, label, n in given), key=lambda one: -one[2]))
    named = one_name_each(every, CARD)
    weapons, kept = every.of([PISTOL, KNIFE]), named.of([PISTOL, KNIFE])
    smaller = np.minimum.outer(areas(weapons.boxes), areas(kept.boxes))
    part = intersections(weapons.boxes[:, None], kept.boxes[None]) >= PART * smaller
    on = box_iou(weapons.boxes, kept.boxes) >= ONE_OBJECT_IOU
    on |= part & (weapons.labels[:, None] == kept.labels)
    better = kept.scores >= weapons.scores[:, None]
    same = (weapons.boxes[:, None] == kept.boxes).all(-1) & (weapons.scores[:, None] == kept.scores)
    assert (on & better | same).any(axis=1).all()
    called = named.above(CARD.operating_point.score_threshold)
    on_one_place = box_iou(called.boxes, called.boxes) >= ONE_OBJECT_IOU
    assert not (on_one_place & (called.labels[:, None] != called.labels)).any()
