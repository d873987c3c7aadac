"""Pictures that come while a card is busy share its next pass; a small fake stands for the card."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from conftest import LONGEST_S, wait_until
from fake_detector import FakeDetector, api_settings, live_server, png

from detection.detections import Detections
from detection.detector import Detector, load_folder
from serving.app import create_app
from serving.together import Together, for_threads

BROKEN = 7  # of a pixel: the card cannot look at such a picture


def picture(red: int, side: int = 8):
    return np.full((side, side, 3), red, np.uint8)


def answer(red: int) -> Detections:
    return Detections(np.zeros((1, 4), np.float32), np.array([red / 255], np.float32), np.ones(1, np.int64))


class Card(FakeDetector):  # type: ignore[misc]
    """Says how red each picture is; four at once; a pass waits for the gate."""

    at_once = 4

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[list[int]] = []  # the reds of each

    def batched_size(self, size_hw) -> tuple[int, ...]:
        return tuple(size_hw)

    def detect_many(self, images, **_asked) -> list[Detections]:
        reds = [int(image[0, 0, 0]) for image in images]
        assert len({image.shape for image in images}) == 1
        self.passes.append(reds)
        assert self.gate.wait(LONGEST_S)
        if BROKEN in reds:
            raise RuntimeError("the card cannot")
        return [answer(red) for red in reds]


class Callers:
    """Threads that each bring a picture while the card is held with the first one."""

    def __init__(self) -> None:
        self.card = Card()
        self.together = Together(self.card)
        self.pool = ThreadPoolExecutor(16)
        self.futures: dict[int, Future[Detections]] = {}

    def bring(self, image, **asked) -> None:
        waiting = len(self.together._waiting)
        busy = self.together._busy
        red = int(image[0, 0, 0])
        self.futures[red] = self.pool.submit(self.together.detect, image, **asked)
        wait_until(lambda: len(self.together._waiting) > waiting if busy else len(self.card.passes) == 1)

    def answers(self) -> dict[int, float]:
        self.card.gate.set()
        return {
            red: round(float(future.result(LONGEST_S).scores[0]) * 255)
            for red, future in self.futures.items()
        }


@pytest.fixture
def callers():
    found = Callers()
    found.card.gate.clear()
    yield found
    found.card.gate.set()
    found.pool.shutdown()


def test_what_comes_while_the_card_is_busy_goes_together_and_each_gets_its_own_answer(callers):
    for red in (1, 2, 3, 4):
        callers.bring(picture(red))
    assert callers.answers() == {1: 1, 2: 2, 3: 3, 4: 4}
    assert [sorted(reds) for reds in callers.card.passes] == [[1], [2, 3, 4]]


def test_pictures_of_another_size_or_with_other_options_have_passes_of_their_own(callers):
    callers.bring(picture(1))
    callers.bring(picture(2))
    callers.bring(picture(3, side=16))
    callers.bring(picture(4), nms_iou=0.3)
    callers.bring(picture(5))
    callers.answers()
    assert callers.card.passes[0] == [1]
    assert sorted(map(sorted, callers.card.passes[1:])) == [[2, 5], [3], [4]]


def test_a_pass_has_no_more_than_the_card_takes_at_once(callers):
    for red in range(10, 20):
        callers.bring(picture(red))
    assert callers.answers() == {red: red for red in range(10, 20)}
    assert sorted(len(reds) for reds in callers.card.passes) == [1, 1, 4, 4]


def test_one_after_the_other_nobody_waits_for_company():
    card = Card()
    together = Together(card)
    assert [together.detect(picture(red)).scores[0] * 255 for red in (1, 2)] == [1, 2]
    assert card.passes == [[1], [2]]


def test_a_picture_that_breaks_its_pass_costs_the_others_nothing(callers):
    for red in (1, 2, BROKEN, 4):
        callers.bring(picture(red))
    callers.card.gate.set()
    with pytest.raises(RuntimeError, match="the card cannot"):
        callers.futures.pop(BROKEN).result(LONGEST_S)
    assert callers.answers() == {1: 1, 2: 2, 4: 4}
    assert callers.together.detect(picture(9)).scores[0] * 255 == pytest.approx(9)


class OnACard(Detector):
    at_once = 3


def test_a_real_network_gives_a_picture_together_what_it_gives_it_alone(small_model):
    alone = load_folder(small_model, optimize=False)
    card: Any = OnACard(alone.card)
    card.network.load_state_dict(alone.network.state_dict())
    sizes, rng = ((60, 80), (120, 160), (60, 80), (80, 60)), np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    together = for_threads(card)
    assert isinstance(together, Together)
    start = threading.Barrier(len(images))

    def look(image) -> Detections:
        start.wait(LONGEST_S)
        return together.detect(image)

    with ThreadPoolExecutor(len(images)) as pool:
        every = list(pool.map(look, images))
    for image, found in zip(images, every, strict=True):
        expected = alone.detect(image)
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.05)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_on_a_processor_nothing_is_gathered(small_model):
    detector = load_folder(small_model)
    assert for_threads(detector) is detector


def test_requests_that_wait_for_the_card_share_a_pass():
    card = Card()
    together = Together(card)
    with live_server(create_app(api_settings(api_workers=4), lambda _: together)) as (client, _):
        warmed_up = len(card.passes)
        with ThreadPoolExecutor(4) as pool, card.held():
            asked = [pool.submit(client.post, "/predict", files={"file": png()}) for _ in range(4)]
            wait_until(lambda: len(together._waiting) == 3)
            card.gate.set()
            assert [each.result().status_code for each in asked] == [200] * 4
    assert [len(reds) for reds in card.passes[warmed_up:]] == [1, 3]
