"""A second look at weapon candidates: what is cut out, and what becomes of the scores."""

import math

import numpy as np
import pytest
import torch

from detection.card import DetectorError
from detection.detections import CLASS_NAMES
from detection.detector import Detector, load_folder
from detection.second_look import CropClassifier, cut_out, look_twice
from detection.second_scores import LONGEST_LOGIT, evidence
from schemas import ModelCard, NetworkConfig, SecondLookConfig

CONFIG = SecondLookConfig(size_px=64, context=2.0, most=2)


class Says(torch.nn.Module):
    """Gives each crop the next of some logits, and remembers how many crops it was asked about."""

    def __init__(self, *odds: float) -> None:
        super().__init__()
        self.odds, self.asked = odds, 0

    def forward(self, crops):
        self.asked += len(crops)
        return torch.tensor([[0.0, odds, -50.0] for odds in self.odds[: len(crops)]])


def log_odds(score: float) -> float:
    return math.log(score / (1 - score))


def test_a_crop_is_the_square_around_a_box_and_black_beyond_the_picture():
    image = torch.zeros(3, 100, 200)
    image[0, 40:60, 90:110] = 1.0  # red, 20 x 20 in the middle
    crops = cut_out(image, torch.tensor([[90.0, 45, 110, 55], [0, 0, 40, 40]]), CONFIG)
    assert crops.shape == (2, 3, 64, 64)
    red = crops[0, 0]
    assert red[32, 32] == pytest.approx(1)
    assert red.mean() == pytest.approx(0.25, abs=0.01)  # 20 x 20 of 40 x 40
    assert crops[1].abs().max() == 0
    white = cut_out(torch.ones(3, 100, 200), torch.tensor([[0.0, 0, 40, 40]]), CONFIG)[0]
    assert white[:, 20:, 20:].min() == pytest.approx(1)
    assert white[:, :12].max() == pytest.approx(0)  # a quarter of the crop lies above the picture


def test_a_tiny_box_is_cut_out_with_what_is_around_it():
    crops = cut_out(torch.rand(3, 50, 50), torch.tensor([[20.0, 20, 22, 22]]), CONFIG)
    assert torch.isfinite(crops).all()
    assert crops.std() > 0.05


def test_without_a_box_nothing_is_cut_out():
    assert cut_out(torch.rand(3, 50, 50), torch.zeros(0, 4), CONFIG).shape == (0, 3, 64, 64)


def test_evidence_is_the_log_odds_of_any_weapon_within_limits():
    logits = np.array([[0, 1, 1], [0, 90, 0], [90, 0, 0]], np.float32)
    expected = [1 + math.log(2), LONGEST_LOGIT, -LONGEST_LOGIT]
    np.testing.assert_allclose(evidence(logits), expected, rtol=1e-6)


def look(scores, is_weapon, says, config=CONFIG):
    boxes = torch.tensor([[5.0, 5, 25, 25]]).repeat(len(scores), 1)
    arguments = torch.rand(3, 40, 40), boxes, torch.tensor(scores), torch.tensor(is_weapon)
    return look_twice(says, config, *arguments).tolist()


def test_scores_move_by_the_crops_evidence():
    moved = look([0.8, 0.5], [True, True], Says(-2.0, 1.0))
    assert log_odds(moved[0]) == pytest.approx(log_odds(0.8) - 2, abs=1e-4)
    assert log_odds(moved[1]) == pytest.approx(1, abs=1e-4)


def test_its_weight_is_the_cards():
    [moved] = look([0.8], [True], Says(-2.0), CONFIG.model_copy(update={"weight": 0.5}))
    assert log_odds(moved) == pytest.approx(log_odds(0.8) - 1, abs=1e-4)


def test_look_alikes_and_what_is_too_weak_keep_their_scores():
    says = Says(3.0, 3.0, 3.0)
    assert look([0.9, 0.04], [False, True], says) == pytest.approx([0.9, 0.04])
    assert says.asked == 0


def test_more_candidates_than_are_looked_at_never_gain():
    says = Says(2.0, -3.0)
    moved = look([0.9, 0.8, 0.7, 0.6], [True] * 4, says)
    assert says.asked == 2
    assert [log_odds(score) for score in moved[2:]] == pytest.approx(
        [log_odds(0.7) - 3, log_odds(0.6) - 3], abs=1e-4
    )
    assert look([0.9, 0.8, 0.7], [True] * 3, Says(2.0, 1.0))[2] == pytest.approx(0.7, abs=1e-4)


def test_a_crop_of_each_size_that_the_card_allows_is_classified():
    classifier = CropClassifier(3).eval()
    with torch.inference_mode():
        for size in (32, 96):
            assert classifier(torch.rand(2, 3, size, size)).shape == (2, 3)


# --- in a model ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def card() -> ModelCard:
    network = NetworkConfig(
        architecture="fasterrcnn_mobilenet_v2_fpn", min_size=96, max_size=128, box_head_width=64,
        fpn_channels=16, rpn_post_nms_top_n=50, box_score_thresh=0.0, roi_sampling_ratio=1,
    )  # fmt: skip
    config = SecondLookConfig(size_px=32, score_from=0.0)
    return ModelCard(network=network, class_names=CLASS_NAMES, second_look=config)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)


def sure(detector: Detector, odds: float) -> Detector:
    """Let the second look of a detector say the same of every crop."""
    assert detector.second_look is not None
    with torch.no_grad():
        detector.second_look.head.weight.zero_()
        detector.second_look.head.bias.copy_(torch.tensor([0.0, odds, -50.0]))
    return detector


def test_the_second_look_travels_with_the_model(card, image, tmp_path):
    torch.manual_seed(0)
    detector = sure(Detector(card), -3.0)
    found = detector.detect(image)
    detector.save_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"weights.safetensors", "model.json"}
    again = load_folder(tmp_path, optimize=False).detect(image)
    np.testing.assert_array_equal(again.scores, found.scores)
    served = load_folder(tmp_path, precision=torch.float32).detect(image)
    np.testing.assert_allclose(served.scores, found.scores, atol=1e-4)


def test_a_model_without_one_finds_what_it_found(card, image):
    torch.manual_seed(0)
    plain = Detector(card.model_copy(update={"second_look": None}))
    torch.manual_seed(0)
    looking = sure(Detector(card), 0.0)  # as much for as against
    np.testing.assert_allclose(looking.detect(image).scores, plain.detect(image).scores, atol=1e-5)


def test_only_weapons_move_and_the_best_score_comes_first(card, image):
    torch.manual_seed(0)
    plain = Detector(card.model_copy(update={"second_look": None})).detect(image)
    torch.manual_seed(0)
    found = sure(Detector(card), -3.0).detect(image)
    weapons = [CLASS_NAMES.index(name) for name in ("pistol", "knife")]
    assert np.all(np.diff(found.scores) <= 0)
    assert len(found) == len(plain)
    others = ~np.isin(found.labels, weapons)
    np.testing.assert_array_equal(
        np.sort(found.scores[others]), np.sort(plain.scores[~np.isin(plain.labels, weapons)])
    )
    assert found.of(weapons).scores.max() < plain.of(weapons).scores.max()


def test_weights_that_lack_it_are_refused(card, tmp_path):
    plain = Detector(card.model_copy(update={"second_look": None}))
    plain.card = plain.card.model_copy(update={"second_look": card.second_look})
    plain.save_folder(tmp_path)
    with pytest.raises(DetectorError, match="does not fit"):
        load_folder(tmp_path)
