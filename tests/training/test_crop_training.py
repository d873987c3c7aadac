"""The second look's training: which crops it sees, by which name, and that it learns from them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from torch.utils.data import DataLoader

from detection import imaging
from detection.card import DetectorError
from detection.detections import CLASS_NAMES, SIX, Detections
from detection.second_look import CropClassifier
from photosets.samples import Sample
from schemas import SecondLookConfig
from training import second_look
from training.checkpoints import WrongCheckpoint

CONFIG = SecondLookConfig(size_px=32, most=3, score_from=0.1)
PISTOL, KNIFE, PHONE = (CLASS_NAMES.index(name) for name in ("pistol", "knife", "smartphone"))


def sample(path: Path, boxes, labels) -> Sample:
    return Sample(
        image_path=path, size_wh=(100, 80), root=path.parent,
        boxes=np.array(boxes, np.float32).reshape(-1, 4), labels=np.array(labels, np.int64), recording="r",
    )  # fmt: skip


def found(*each) -> Detections:
    boxes, labels, scores = zip(*each, strict=True)
    return Detections(
        np.array(boxes, np.float32), np.array(scores, np.float32), np.array(labels, np.int64), None
    )


class Finds:
    """A detector that finds the same in every photograph."""

    def __init__(self, detections: Detections) -> None:
        self.detections = detections

    def detect(self, _image) -> Detections:
        return self.detections


def test_candidates_are_named_by_the_weapon_under_them_and_halves_are_left_out():
    truth = sample(Path("x.jpg"), [[0, 0, 20, 20], [50, 0, 70, 20]], [KNIFE, PHONE])
    candidates = found(
        ([0, 0, 20, 20], PISTOL, 0.9),  # on the knife: what it is called does not matter
        ([0, 0, 20, 48], PISTOL, 0.8),  # IoU 0.42: neither one nor none
        ([50, 0, 70, 20], KNIFE, 0.7),  # on the phone
        ([20, 50, 40, 70], KNIFE, 0.6),  # past the three best weapons
    )
    boxes, labels = second_look.labelled_boxes(candidates, truth, SIX.weapons, CONFIG)
    assert labels == [2, 0, 2, 0]  # two candidates, then the knife and the phone themselves
    np.testing.assert_array_equal(boxes, [[0, 0, 20, 20], [50, 0, 70, 20], [0, 0, 20, 20], [50, 0, 70, 20]])


def test_weak_boxes_and_look_alikes_are_no_candidates():
    truth = sample(Path("x.jpg"), [], [])
    candidates = found(([0, 0, 20, 20], PHONE, 0.9), ([0, 0, 9, 9], KNIFE, 0.05))
    boxes, labels = second_look.labelled_boxes(candidates, truth, SIX.weapons, CONFIG)
    assert (boxes.shape, labels) == ((0, 4), [])


def test_crops_are_gathered_from_the_photographs_own_pixels(tmp_path):
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[10:30, 10:30] = (250, 0, 0)
    PillowImage.fromarray(pixels).save(tmp_path / "x.png")
    samples = [sample(tmp_path / "x.png", [[10, 10, 30, 30]], [PISTOL])]
    advanced = []
    detector = Finds(found(([60, 40, 80, 60], KNIFE, 0.9)))
    crops = second_look.gather(detector, samples, SIX.weapons, CONFIG, lambda: advanced.append(1))
    assert (crops.labels, advanced) == ([0, 1], [1])
    black, red = (imaging.decode_image(file) for file in crops.files)
    assert red.shape == (36, 36, 3)  # an eighth more than the classifier takes
    assert red[18, 18, 0] > 200
    assert black.max() < 30


def test_it_learns_to_tell_red_from_blue_and_comes_back_in_eval_mode():
    torch.manual_seed(0)
    colours = {1: (200, 30, 30), 0: (30, 30, 200)}
    crops = second_look.Crops()
    for number in range(64):
        crops.labels.append(number % 2)
        pixels = np.full((36, 36, 3), colours[number % 2], np.uint8)
        crops.files.append(imaging.encode_image(pixels, "JPEG", quality=95))
    images: DataLoader[Any] = DataLoader(second_look.CropImages(crops, 32), batch_size=16, shuffle=True)
    training = second_look.ClassifierTraining(
        CropClassifier(3), epochs=10, steps_per_epoch=len(images), lr=1e-2, precision=torch.float32
    )
    losses = [training.update(*batch) for _ in range(10) for batch in images]
    assert (training.step, training.steps) == (40, 40)
    assert not training.trained().training
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


def test_an_interrupted_training_goes_on_where_it_was(tmp_path):
    def make(seed: int) -> second_look.ClassifierTraining:
        torch.manual_seed(seed)
        return second_look.ClassifierTraining(
            CropClassifier(3), epochs=2, steps_per_epoch=2, lr=1e-2, precision=torch.float32
        )

    batches = [(torch.rand(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])) for _ in range(4)]
    whole = make(0)
    whole.classifier.dropout.p = 0.0  # which draws
    for batch in batches[:2]:
        whole.update(*batch)
    whole.save(tmp_path / "state.pt", "these")
    again = make(1)
    again.classifier.dropout.p = 0.0
    again.load(tmp_path / "state.pt", "these")
    for batch in batches[2:]:
        assert whole.update(*batch) == again.update(*batch)
    torch.testing.assert_close(whole.trained().state_dict(), again.trained().state_dict())


def test_the_state_of_another_training_is_refused(tmp_path):
    training = second_look.ClassifierTraining(
        CropClassifier(3), epochs=1, steps_per_epoch=2, lr=1e-2, precision=torch.float32
    )
    training.save(tmp_path / "state.pt", "these")
    with pytest.raises(WrongCheckpoint, match="other photographs"):
        training.load(tmp_path / "state.pt", "those")


def test_crops_are_kept_for_the_next_sitting_of_the_same_training(tmp_path):
    crops = second_look.Crops([b"one", b"", b"three"], [0, 2, 1])
    crops.save(tmp_path / "crops.npz", "these")
    assert second_look.Crops.load(tmp_path / "crops.npz", "these") == crops
    assert second_look.Crops.load(tmp_path / "crops.npz", "those") is None


def test_augmented_crops_are_of_the_classifiers_size_and_range():
    crops = second_look.Crops([imaging.encode_image(np.full((36, 36, 3), 255, np.uint8), "JPEG")], [1])
    images = second_look.CropImages(crops, 32)
    torch.manual_seed(0)
    for _ in range(30):
        pixels, label = images[0]
        assert (pixels.shape, pixels.dtype, label) == ((3, 32, 32), torch.float32, 1)
        assert pixels.min() >= 0
        assert pixels.max() <= 1


def test_published_weights_fit_by_order_whatever_their_names(tmp_path):
    torch.manual_seed(1)
    theirs, ours = CropClassifier(3), CropClassifier(3)
    state = {
        f"layer{i}": value for i, value in enumerate(theirs.features.state_dict().values()) if value.ndim
    }
    torch.save({**state, "last.weight": torch.zeros(1000, 1280)}, tmp_path / "lite0.pth")
    second_look.load_published_weights(ours, tmp_path / "lite0.pth")
    crops = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(ours.eval().features(crops), theirs.eval().features(crops))
    assert not torch.equal(ours.head.weight, theirs.head.weight)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(DetectorError, match="EfficientNet-Lite0"):
        second_look.load_published_weights(CropClassifier(3), tmp_path / "other.pth")
