"""Augmentation, sampling and batches."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from detection import imaging
from photosets.samples import Sample
from training import transforms
from training.loader import EpochOrder, TrainingImages, repeat_factors
from training.transforms import LargeScaleJitter, QuarterTurn, augmentation

RED = np.array([255, 0, 0], np.uint8)


def sample(boxes=((40, 30, 80, 60),), labels=(1,), size_wh=(120, 90)) -> Sample:
    return Sample(
        image_path=Path("a.png"), size_wh=size_wh,
        boxes=np.array(boxes, np.float32).reshape(-1, 4), labels=np.array(labels, np.int64),
        recording="a", root=Path(),
    )  # fmt: skip


def red_box_image(box=(40, 30, 80, 60), size_wh=(120, 90)) -> np.ndarray:
    image = np.full((size_wh[1], size_wh[0], 3), 40, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = RED
    return image


def red_box(_sample: Sample) -> np.ndarray:
    return red_box_image()


def pair(image: np.ndarray, one: Sample):
    pixels = tv_tensors.Image(torch.from_numpy(image.copy()).permute(2, 0, 1))
    boxes = tv_tensors.BoundingBoxes(torch.from_numpy(one.boxes), format="XYXY", canvas_size=image.shape[:2])
    return pixels, {"boxes": boxes, "labels": torch.from_numpy(one.labels)}


@pytest.mark.parametrize(
    "twice",
    [v2.RandomHorizontalFlip(1), v2.RandomVerticalFlip(1), v2.Compose([QuarterTurn(), QuarterTurn()])],
)
def test_flipping_or_half_turning_twice_is_the_identity(twice):
    image, target = pair(red_box_image(), sample())
    again, moved = twice(*twice(image, target))
    assert torch.equal(again, image)
    torch.testing.assert_close(
        moved["boxes"].as_subclass(torch.Tensor), target["boxes"].as_subclass(torch.Tensor)
    )


def extent(image: torch.Tensor) -> torch.Tensor:
    """Return x1, y1, x2, y2 of the one bright rectangle, to a fraction of a pixel and however blurred.

    How much of a pixel it covers is how bright that is. The middle of all that is covered is the
    rectangle's, and a row through its middle half is covered as long as it is wide.
    """
    bright = image.float().amax(0)
    ground = bright.median()
    covered = (bright - ground) / (bright.max() - ground)
    covered[covered < 0.05] = 0  # what JPEG leaves around
    sides = []
    for axis in (0, 1):  # x, y
        along, across = covered.sum(axis), covered.sum(1 - axis)
        middle = (along * (torch.arange(len(along)) + 0.5)).sum() / along.sum()
        inner_half = max(1, int((across > across.max() / 2).sum()) // 2)
        length = across.topk(inner_half).values.mean()
        sides.append((middle - length / 2, middle + length / 2))
    (x1, x2), (y1, y2) = sides
    return torch.stack([x1, y1, x2, y2])


@pytest.mark.parametrize("name", ["none", "flip", "original", "large_scale_jitter", "surveillance"])
@pytest.mark.parametrize("seed", range(12))
def test_boxes_stay_on_their_object(name, seed):
    """The red rectangle's own extent after augmentation is its box, to less than half a pixel."""
    torch.manual_seed(seed)
    image = np.zeros((90, 120, 3), np.uint8)  # black: what lies around a picture that was made smaller
    image[30:60, 40:80] = RED
    image, target = augmentation(name, min_size=96, max_size=128)(*pair(image, sample()))
    if len(target["boxes"]) == 0:  # jittered out of the picture
        assert name in ("large_scale_jitter", "surveillance")
        return
    off = extent(image) - target["boxes"][0].as_subclass(torch.Tensor)
    assert off.abs().max() < 0.5


# --- colours and sharpness ----------------------------------------------------------------------------


def test_an_image_without_a_look_is_what_serving_makes_of_it():
    every_value = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    pixels = torch.from_numpy(every_value).permute(2, 0, 1)
    developed = transforms.develop(pixels, None)
    assert developed.dtype == torch.float32
    np.testing.assert_array_equal(developed.numpy(), imaging.to_chw(every_value))
    assert int(pixels.max()) == 255, "what came in stays as it was"


def colour(**changes: float) -> torch.Tensor:
    """Return one pixel (0.2, 0.4, 0.6) beside a black one after changes."""
    given = {"saturation": 1.0, "turn": 0.0, "contrast": 1.0, "brightness": 1.0, **changes}
    matrix = transforms.hue_matrix(given["turn"]) @ transforms.saturation_matrix(given["saturation"])
    look = transforms.Look(transforms.with_contrast(given["contrast"], given["brightness"] * matrix), 0.0)
    pixels = torch.tensor([[51, 0], [102, 0], [153, 0]], dtype=torch.uint8).reshape(3, 1, 2)
    return transforms.develop(pixels, look)[:, 0].T


@pytest.mark.parametrize(
    ("changes", "first", "second"),
    [
        ({}, (0.2, 0.4, 0.6), (0, 0, 0)),
        ({"brightness": 0.5}, (0.1, 0.2, 0.3), (0, 0, 0)),
        ({"brightness": 2.0}, (0.4, 0.8, 1.0), (0, 0, 0)),  # no channel beyond white
        # its grey is 0.0598 of red and 0.2348 of green and 0.0684 of blue
        ({"saturation": 0.0}, (0.363, 0.363, 0.363), (0, 0, 0)),
        ({"saturation": 0.5}, (0.2815, 0.3815, 0.4815), (0, 0, 0)),
        # the mean grey is half of 0.363
        ({"contrast": 0.0}, (0.1815, 0.1815, 0.1815), (0.1815, 0.1815, 0.1815)),
        ({"contrast": 0.5}, (0.19075, 0.29075, 0.39075), (0.09075, 0.09075, 0.09075)),
        ({"brightness": 0.5, "contrast": 0.0}, (0.09075, 0.09075, 0.09075), (0.09075, 0.09075, 0.09075)),
    ],
)
def test_colours_by_hand(changes, first, second):
    torch.testing.assert_close(colour(**changes), torch.tensor([first, second]), atol=1e-6, rtol=0)


def test_turning_the_hue_keeps_how_bright_a_colour_looks_and_a_whole_turn_changes_nothing():
    grey = torch.tensor([0.299, 0.587, 0.114])
    third = colour(turn=2 * math.pi / 3)
    assert float(third[0] @ grey) == pytest.approx(0.363, abs=1e-3)
    assert third[0, 0] > third[0, 2], "blue was the strongest, red was the weakest"
    torch.testing.assert_close(colour(turn=2 * math.pi), colour(), atol=1e-5, rtol=0)


def test_a_blur_spreads_a_point_and_keeps_its_light_and_place():
    pixels = torch.zeros(3, 41, 41, dtype=torch.uint8)
    pixels[:, 20, 20] = 255
    blurred = transforms.develop(pixels, transforms.Look(transforms.with_contrast(1.0, torch.eye(3)), 2.0))
    across = blurred[0].sum(0)
    places = torch.arange(41.0)
    middle = (across * places).sum() / across.sum()
    assert float(across.sum()) == pytest.approx(1, abs=1e-4)
    assert float(middle) == pytest.approx(20, abs=1e-4)
    variance = (across * (places - middle) ** 2).sum()
    assert 0.75 * 4 < float(variance) < 4, "sigma squared, less what the kernel leaves out beyond two sigmas"


def test_looks_are_drawn_from_the_seed_and_as_often_as_said():
    samples = [sample()]
    augment = augmentation("large_scale_jitter", min_size=64, max_size=64)
    images = TrainingImages(samples, augment, seed=0, read=red_box)
    every = [images[(0, place, 0)][1]["look"] for place in (*range(300), 7)]
    *looks, again = [look for look in every if look is not None]
    assert len(looks) == 300
    assert torch.equal(again.colour, looks[7].colour)
    grey = [bool((look.colour.sum(0) - look.colour.sum(0)[:1]).abs().max() < 1e-5) for look in looks]
    assert 0.05 < np.mean([look.sigma > 0 for look in looks]) < 0.15
    assert 0.02 < np.mean(grey) < 0.09
    assert all(look.sigma == 0 or 0.3 <= look.sigma <= 1.5 for look in looks)
    assert len({tuple(look.colour.flatten().tolist()) for look in looks}) > 250


def test_what_only_other_augmentations_change_is_left_alone():
    images = TrainingImages([sample()], augmentation("flip", min_size=90, max_size=120), seed=0, read=red_box)
    assert images[(0, 0, 0)][1]["look"] is None


def test_an_object_cut_off_by_the_crop_loses_its_box():
    jitter = LargeScaleJitter(32, 1.6, 1.6, aspect=1.0, keep=0.25)
    kept = []
    for seed in range(60):
        torch.manual_seed(seed)
        image, target = jitter(
            *pair(red_box_image((0, 0, 10, 10), (120, 120)), sample([(0, 0, 10, 10)], size_wh=(120, 120)))
        )
        assert image.shape == (3, 32, 32)
        share = (image[0] > 200).float().sum() / (10 * 10 * (1.6 * 32 / 120) ** 2)
        kept.append(len(target["boxes"]))
        if share < 0.1:
            assert len(target["boxes"]) == 0
    assert 0 < sum(kept) < 60


def test_a_negative_gives_an_empty_target():
    images = TrainingImages(
        [sample((), ())], augmentation("large_scale_jitter", min_size=64, max_size=64), seed=0, read=red_box
    )
    image, target = images[(0, 0, 0)]
    assert image.shape == (3, 64, 64)
    assert target["boxes"].shape == (0, 4)
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].shape == (0,)
    assert target["labels"].dtype == torch.int64


@pytest.mark.parametrize("size_hw", [(90, 120), (300, 90), (30, 400)])
def test_a_picture_leaves_the_loader_at_the_size_the_network_would_give_it(size_hw):
    one = sample(((10, 10, 30, 20),), size_wh=size_hw[::-1])
    read = lambda _sample: np.zeros((*size_hw, 3), np.uint8)  # noqa: E731
    augment = augmentation("none", min_size=64, max_size=128)
    pixels, target = TrainingImages([one], augment, seed=0, read=read)[(0, 0, 0)]
    expected = {(90, 120): (64, 85), (300, 90): (128, 38), (30, 400): (10, 128)}[size_hw]
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, *expected)
    scale = torch.tensor([expected[1] / size_hw[1], expected[0] / size_hw[0]] * 2)
    torch.testing.assert_close(target["boxes"][0], torch.tensor([10.0, 10, 30, 20]) * scale)


def test_an_image_is_the_same_whatever_was_drawn_before():
    images = TrainingImages(
        [sample()], augmentation("large_scale_jitter", min_size=64, max_size=64), seed=5, read=red_box
    )
    first, _ = images[(3, 17, 0)]
    state = torch.get_rng_state()
    torch.rand(100)
    again, _ = images[(3, 17, 0)]
    assert torch.equal(first, again)
    assert not torch.equal(first, images[(4, 17, 0)][0]), "another epoch, another draw"
    torch.set_rng_state(state)


@pytest.mark.parametrize("seed", range(8))
def test_each_box_of_a_mosaic_is_on_its_object(seed):
    torch.manual_seed(seed)
    pieces = [pair(red_box_image(), sample(labels=(label,))) for label in (1, 2, 3, 4)]
    image, target = transforms.mosaic(pieces, 60)
    side = image.shape[1]
    assert image.shape == (3, side, side)
    assert 60 <= side <= 120
    # Half the scale: 20 x 15 pixels around each of the four centres; the corner of the four is (60, 60).
    red = image[0] > 200
    covered = torch.zeros_like(red)
    for x1, y1, x2, y2 in target["boxes"].round().int().tolist():
        covered[y1:y2, x1:x2] = True
        assert red[y1:y2, x1:x2].float().mean() > 0.8
    assert (red & ~covered).sum() <= 0.25 * 300 * (4 - len(target["labels"])) + 80
    assert len(set(target["labels"].tolist())) == len(target["labels"]), "each piece is laid once"


def test_a_mosaic_shows_other_images_too_and_is_drawn_from_the_seed():
    samples = [sample(labels=(label,)) for label in (1, 2, 3)]
    images = TrainingImages(
        samples, augmentation("none", min_size=90, max_size=120), seed=2, read=red_box,
        mosaic_share=1.0, mosaic_size=64,
    )  # fmt: skip
    drawn = [images[(0, place, 0)] for place in range(12)]
    assert {label for _, target in drawn for label in target["labels"].tolist()} == {1, 2, 3}
    assert torch.equal(drawn[5][0], images[(0, 5, 0)][0])
    half = TrainingImages(
        samples, augmentation("none", min_size=90, max_size=120), seed=2, read=red_box, mosaic_share=0.5
    )
    plain = [half[(0, place, 0)][0].shape == (3, 90, 120) for place in range(60)]
    assert 15 < sum(plain) < 45


GREEN = (40, 220, 60)


def green_box_image():
    image = np.zeros((100, 80, 3), np.uint8)
    image[30:60, 20:50] = GREEN
    return image


def pasted(seed, *, keep=0.5):
    """Lay a green square of 30 pixels on the image with the red box (40, 30, 80, 60)."""
    torch.manual_seed(seed)
    image, target = pair(red_box_image(), sample(labels=(1,)))
    source, other = pair(green_box_image(), sample(boxes=((20, 30, 50, 60),), labels=(5,), size_wh=(80, 100)))
    return transforms.paste(image, target, source, other["boxes"][0], 5, keep=keep)


@pytest.mark.parametrize("seed", range(12))
def test_a_pasted_object_has_its_box_and_hides_what_it_covers(seed):
    image, target = pasted(seed)
    assert image.shape == (3, 90, 120)
    assert target["labels"][-1] == 5
    x1, y1, x2, y2 = target["boxes"][-1].round().int().tolist()
    assert 0 <= x1 < x2 <= 120
    assert 0 <= y1 < y2 <= 90
    assert abs((x2 - x1) - (y2 - y1)) <= 1, "the square stays one"
    inside = image[:, y1 + 1 : y2 - 1, x1 + 1 : x2 - 1].float().mean(dim=(1, 2))
    assert inside.numpy() == pytest.approx(np.array(GREEN), abs=12)
    seen = (image[0, 30:60, 40:80] > 150).float().mean()
    assert (len(target["labels"]) == 2) == (seen > 0.5 - 0.1), seen


def test_half_the_pasted_objects_lie_on_an_object_and_it_goes():
    drawn = [pasted(seed)[1] for seed in range(60)]
    gone = sum(target["labels"].tolist() == [5] for target in drawn)
    assert 20 < gone < 50
    assert all(
        target["labels"].tolist() == [1, 5] for target in (pasted(seed, keep=0.0)[1] for seed in range(9))
    )


def test_an_object_is_pasted_on_an_image_without_any():
    torch.manual_seed(0)
    image, target = pair(np.full((60, 60, 3), 90, np.uint8), sample((), (), size_wh=(60, 60)))
    source, other = pair(green_box_image(), sample(boxes=((20, 30, 50, 60),), labels=(5,), size_wh=(80, 100)))
    _, target = transforms.paste(image, target, source, other["boxes"][0], 5)
    assert target["labels"].tolist() == [5]
    side = float(target["boxes"][0, 2] - target["boxes"][0, 0])
    assert 0.08 * 60 - 1 <= side <= 0.4 * 60 + 1


@given(
    side=st.integers(8, 60), left=st.floats(0, 79), top=st.floats(0, 99), size=st.floats(0.2, 60),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_whatever_is_pasted_lies_in_the_image(side, left, top, size, seed):
    torch.manual_seed(seed)
    image, target = pair(np.full((side, 40, 3), 90, np.uint8), sample((), (), size_wh=(40, side)))
    source = torch.from_numpy(green_box_image()).permute(2, 0, 1)
    box = torch.tensor([left, top, min(80, left + size), min(100, top + size)])
    image, target = transforms.paste(image, target, source, box, 5)
    assert image.shape == (3, side, 40)
    x1, y1, x2, y2 = target["boxes"][0].tolist()
    assert 0 <= x1 < x2 <= 40.001
    assert 0 <= y1 < y2 <= side + 0.001


def test_every_class_is_pasted_equally_often_and_drawn_from_the_seed():
    samples = [sample((), ()), *[sample(labels=(1,))] * 18, sample(labels=(6,))]
    images = TrainingImages(
        samples, augmentation("none", min_size=90, max_size=120), seed=4, read=red_box, paste_share=1.0
    )
    labels = [images[(0, place, 0)][1]["labels"].tolist() for place in range(60)]
    assert set(map(len, labels)) == {1}
    assert 18 < labels.count([6]) < 42
    assert torch.equal(images[(0, 7, 0)][0], images[(0, 7, 0)][0])


def test_an_unknown_augmentation_lists_the_known():
    with pytest.raises(ValueError, match="known: none, flip, original, large_scale_jitter, surveillance"):
        augmentation("twist", min_size=64, max_size=64)


def test_repeat_factors_by_hand():
    samples = [sample(labels=(1,))] * 15 + [sample(labels=(6,))] + [sample((), ())] * 84
    # class 6 is in 1 of 100 images: sqrt(0.04 / 0.01) = 2; class 1 in 15 of 100: no repetition
    factors = repeat_factors(samples, 0.04)
    assert factors[15] == pytest.approx(2)
    assert set(np.delete(factors, 15)) == {1.0}


def test_images_without_objects_are_repeated_when_wanted():
    factors = repeat_factors([sample((), ()), sample(labels=(1,)), sample((), ())], 0.0, negatives=2.5)
    assert factors.tolist() == [2.5, 1.0, 2.5]


def test_an_epoch_shows_every_image_and_the_rare_ones_more_often():
    order = EpochOrder(np.array([1.0] * 7 + [3.0]), 5, seed=0)
    shown = [index for batch in order for *_, index in batch]
    assert len(order) == 2
    assert sorted(shown) == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7]


def test_an_epoch_resumed_in_the_middle_shows_the_rest():
    order = EpochOrder(np.ones(40), 4, seed=1)
    order.epoch = 2
    whole = list(order)
    order.first_batch = 6
    assert list(order) == whole[6:]


def test_processes_share_a_batch_without_overlap():
    whole = list(EpochOrder(np.ones(24), 4, seed=1))
    ranks = [list(EpochOrder(np.ones(24), 4, seed=1, rank=rank, world_size=2)) for rank in (0, 1)]
    for batch, left, right in zip(whole, *ranks, strict=True):
        assert sorted(batch) == sorted(left + right)
        assert len(left) == len(right) == 2


def test_epochs_differ():
    order = EpochOrder(np.ones(40), 4, seed=1)
    first = list(order)
    order.epoch = 1
    assert [i for b in order for *_, i in b] != [i for b in first for *_, i in b]
