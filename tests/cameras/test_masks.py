"""Events that were dismissed at one place suggest the mask that would have kept the camera quiet."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from camera_parts import ROOT, an_event, camera, store
from conftest import LONGEST_S

from cameras.masks import suggested_mask
from schemas import ImageSize
from tests.fake_api import detection

__all__ = ["store"]  # a fixture

CLOCK = [100.0, 50.0, 140.0, 90.0]


def dismissed(*boxes: list[float]):
    return [an_event(str(i), box=box, width=200, height=100) for i, box in enumerate(boxes)]


def test_three_dismissed_at_one_place_give_a_mask_that_hides_it_and_little_else():
    mask = suggested_mask(dismissed(CLOCK, [102, 50, 142, 90], [98, 52, 138, 92], [0, 0, 20, 20]))
    # Middles: 118 to 122 of 200, 70 to 72 of 100; a quarter of 40 pixels around.
    assert mask == ((0.54, 0.6), (0.66, 0.6), (0.66, 0.82), (0.54, 0.82))
    masked, size = camera("unused", masks=(mask,)), ImageSize(width=200, height=100)
    assert not masked.counts(detection("knife", 0.9, *CLOCK), size)
    assert masked.counts(detection("knife", 0.9, 140, 50, 180, 90), size)


@pytest.mark.parametrize("boxes", [[], [CLOCK, CLOCK], [CLOCK, CLOCK, [0.0, 0.0, 20.0, 20.0]]])
def test_fewer_suggest_nothing(boxes):
    assert suggested_mask(dismissed(*boxes)) is None


def test_the_newest_event_says_which_place():
    assert suggested_mask(dismissed([0, 0, 20, 20], CLOCK, CLOCK, CLOCK)) is None


def test_a_mask_stays_within_the_picture():
    mask = suggested_mask(dismissed(*[[0.0, 0.0, 8.0, 4.0]] * 3))
    assert mask == ((0.01, 0.01), (0.03, 0.01), (0.03, 0.03), (0.01, 0.03))
    beyond = suggested_mask(dismissed(*[[190.0, 90.0, 210.0, 110.0]] * 3))
    assert beyond is not None
    assert max(max(corner) for corner in beyond) == 1


def test_whoever_dismisses_the_third_is_told_of_the_mask(store, tmp_path):
    for event in (*dismissed(CLOCK, CLOCK, CLOCK), an_event("elsewhere", camera="door")):
        store.save(event)
    for event_id in ("0", "elsewhere", "2"):
        store.judge(event_id, "dismissed", by="me")
    words = ["--events", str(tmp_path / "events.db"), "review", "1", "dismissed", "--by", "me"]
    said = subprocess.run(
        [sys.executable, "watch.py", *words], cwd=ROOT, env=os.environ, text=True, capture_output=True,
        timeout=LONGEST_S, check=True,
    ).stdout  # fmt: skip
    assert "Event 1 is dismissed." in said
    assert "Camera till was wrong at this place before" in said
    assert "masks = [[[0.55, 0.6], [0.65, 0.6], [0.65, 0.8], [0.55, 0.8]]] keeps it quiet there" in said
