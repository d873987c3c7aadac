"""The one alarm rule: alarm, unsure or none, at the model's two points."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fake_detector import KNIFE, OPERATING_POINT, PHONE, PISTOL, found, make_card
from hypothesis import given
from hypothesis import strategies as st

from detection.alarm import verdict_of
from detection.detections import Detections
from detection.imaging import BLANK, PARTLY_MISSING, TOO_DARK, decode_image, encode_image, notes_on
from schemas import ModelCard

HALF = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
HALF[120:] = 128  # where the data ended
CARD = make_card(unsure_point=OPERATING_POINT.model_copy(update={"score_threshold": 0.3}))


@pytest.mark.parametrize(
    ("items", "verdict"),
    [
        ([], "none"),
        ([(PISTOL, 0.6)], "alarm"),
        ([(KNIFE, 0.59)], "unsure"),
        ([(KNIFE, 0.3)], "unsure"),
        ([(KNIFE, 0.29)], "none"),
        ([(PHONE, 0.99)], "none"),
        ([(PHONE, 0.99), (PHONE, 0.95), (PISTOL, 0.31)], "unsure"),
        ([(PHONE, 0.99), (KNIFE, 0.5), (PISTOL, 0.61)], "alarm"),
    ],
)
def test_alarm_from_the_operating_point_unsure_from_the_other(items, verdict):
    items = sorted(items, key=lambda item: -item[1])
    assert verdict_of(found(*items), CARD) == verdict


def test_what_the_card_calls_dangerous_alarms_and_nothing_else():
    mine = make_card(class_names=("__background__", "rifle", "phone", "pistol"), dangerous=("rifle",))
    assert verdict_of(found((1, 0.6)), mine) == "alarm"
    assert verdict_of(found((3, 0.99), (2, 0.9)), mine) == "none"
    with pytest.raises(ValueError, match="expected dangerous to be some of rifle, phone, got axe"):
        make_card(class_names=("__background__", "rifle", "phone"), dangerous=("axe",))


def test_a_card_that_does_not_say_means_pistol_and_knife():
    document = json.loads(make_card().model_dump_json())
    del document["dangerous"]
    assert ModelCard.model_validate(document).dangerous == ("pistol", "knife")
    document["class_names"] = ["__background__", "knife", "phone"]
    assert ModelCard.model_validate(document).dangerous == ("knife",)


def test_a_weapon_under_the_better_score_of_a_lookalike_is_unsure():
    box = np.array([[10, 10, 60, 50]] * 2, np.float32)
    both = Detections(box, np.array([0.95, 0.4], np.float32), np.array([PHONE, PISTOL], np.int64))
    assert verdict_of(both, CARD) == "unsure"


@pytest.mark.parametrize(
    ("image", "note"),
    [
        (np.zeros((40, 40, 3), np.uint8), TOO_DARK),
        (np.full((40, 40, 3), 128, np.uint8), BLANK),
        (HALF, PARTLY_MISSING),
        (decode_image(encode_image(HALF)), PARTLY_MISSING),  # saved anew by another program
    ],
)
def test_a_picture_in_which_little_can_be_seen_is_never_none(image, note):
    notes = notes_on(image)
    assert notes == (note,)
    assert verdict_of(Detections.empty(), CARD, notes) == "unsure"
    assert verdict_of(found((PISTOL, 0.9)), CARD, notes) == "alarm"
    assert verdict_of(Detections.empty(), make_card(), notes) == "unsure"


def test_grey_somewhere_else_is_a_part_of_the_picture():
    whole = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
    assert notes_on(whole) == ()
    whole[:120] = 128
    assert notes_on(whole) == ()
    whole[120:] = 110  # a floor
    assert notes_on(whole[60:]) == ()


def test_a_card_without_an_unsure_point_has_nothing_between_alarm_and_none():
    card = make_card()
    assert [verdict_of(found((PISTOL, score)), card) for score in (0.6, 0.59)] == ["alarm", "none"]
    without = make_card(operating_point=None)  # then the network's floor is the alarm's threshold: .05
    assert [verdict_of(found((PISTOL, score)), without) for score in (0.05, 0.04)] == ["alarm", "none"]


@given(
    st.lists(st.tuples(st.sampled_from([PISTOL, KNIFE, PHONE]), st.floats(0, 1)), max_size=8),
    st.tuples(st.sampled_from([PISTOL, KNIFE, PHONE]), st.floats(0, 1)),
)
def test_one_more_box_never_lowers_the_verdict(items, more):
    order = ("none", "unsure", "alarm")
    before, after = (
        verdict_of(found(*sorted(these, key=lambda item: -item[1])), CARD)
        for these in (items, [*items, more])
    )
    assert order.index(after) >= order.index(before)
