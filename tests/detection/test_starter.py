"""The model that comes with the clone: whole, small enough, and it finds what it is for."""

import json
from pathlib import Path

import pytest

from detection import detector as detectors
from detection import imaging
from detection.detections import CLASS_NAMES, WEAPONS
from detection.detector import Detector
from schemas import WEIGHTS_FILE, OperatingPoint

ROOT = Path(__file__).parents[2]
STARTER = ROOT / "weights" / "starter"


@pytest.fixture(scope="module")
def starter() -> Detector:
    return detectors.load_folder(STARTER)  # checks the SHA-256 in model.json


def weapons_in(starter: Detector, photo: str) -> set[str]:
    found = starter.detect(imaging.decode_image((ROOT / "photos" / photo).read_bytes()))
    assert starter.card.operating_point is not None
    above = found.above(starter.card.operating_point.score_threshold)
    return {CLASS_NAMES[label] for label in above.labels} & set(WEAPONS)


def test_it_is_small_enough_for_a_clone():
    assert (STARTER / WEIGHTS_FILE).stat().st_size <= 45_000_000


def test_its_operating_point_was_measured(starter):
    point = starter.card.operating_point
    assert point.split == "val"
    assert point.weapon_images > 100
    assert point.weapon_free_images > 100
    assert point.false_alarms_per_1000 <= 50
    assert starter.card.class_names == CLASS_NAMES


def test_the_page_shows_what_the_test_gave(starter):
    tested = starter.card.tested_alarm.operating_point
    measured = json.loads((ROOT / "docs/results.json").read_text())["both"]["measured"]
    assert tested == OperatingPoint.model_validate({**measured, "rule": tested.rule})


def test_its_card_tells_where_it_comes_from(starter):
    card = starter.card
    assert len(card.data_fingerprint) == 64
    assert card.git_commit
    assert card.metrics["val/map_50"] > 0.5
    assert "torch" in card.library_versions


@pytest.mark.parametrize(
    ("photo", "weapon"), [("01-pistol-in-a-hand.jpg", "pistol"), ("02-knife-in-a-hand.jpg", "knife")]
)
def test_it_finds_the_weapon_in_pictures_it_never_saw(starter, photo, weapon):
    assert weapon in weapons_in(starter, photo)


@pytest.mark.parametrize("photo", ["09-mug-nothing-to-find.jpg", "11-coffee-nothing-to-find.jpg"])
def test_it_raises_no_alarm_where_there_is_nothing(starter, photo):
    assert not weapons_in(starter, photo)
