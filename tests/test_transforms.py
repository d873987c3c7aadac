"""Augmentation, sampling and batches."""

from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

import transforms
from dataset import Sample
from transforms import EpochOrder, LargeScaleJitter, QuarterTurn, TrainingImages, augmentation, repeat_factors

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


def pair(image: np.ndarray, one: Sample):
    pixels = tv_tensors.Image(torch.from_numpy(image.copy()).permute(2, 0, 1))
    return pixels, {"boxes": transforms._boxes(one, image), "labels": torch.from_numpy(one.labels)}


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


@pytest.mark.parametrize("name", ["flip", "original", "large_scale_jitter", "surveillance"])
@pytest.mark.parametrize("seed", range(12))
def test_boxes_stay_on_their_object(name, seed):
    """The red rectangle's own extent after augmentation is its box, within blur and rounding."""
    torch.manual_seed(seed)
    image, target = augmentation(name, size=96)(*pair(red_box_image(), sample()))
    # grey-scale and colour changes keep the object apart from its dull surroundings by brightness
    brightness = image.float().amax(0)
    bright = brightness > (brightness.max() + brightness.median()) / 2
    if len(target["boxes"]) == 0:  # jittered out of the picture
        assert name in ("large_scale_jitter", "surveillance")
        return
    ys, xs = torch.where(bright)
    seen = torch.tensor([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
    assert (seen - target["boxes"][0].as_subclass(torch.Tensor)).abs().max() <= 6


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
        [sample((), ())], augmentation("large_scale_jitter", size=64), seed=0, cache=[red_box_image()]
    )
    image, target = images[(0, 0, 0)]
    assert image.shape == (3, 64, 64)
    assert target["boxes"].shape == (0, 4)
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].shape == (0,)
    assert target["labels"].dtype == torch.int64


def test_an_image_is_the_same_whatever_was_drawn_before():
    images = TrainingImages(
        [sample()], augmentation("large_scale_jitter", size=64), seed=5, cache=[red_box_image()]
    )
    first, _ = images[(3, 17, 0)]
    state = torch.get_rng_state()
    torch.rand(100)
    again, _ = images[(3, 17, 0)]
    assert torch.equal(first, again)
    assert not torch.equal(first, images[(4, 17, 0)][0]), "another epoch, another draw"
    torch.set_rng_state(state)


def test_boxes_follow_a_cached_image_that_was_made_smaller():
    small = red_box_image()[::2, ::2]
    images = TrainingImages([sample()], augmentation("none", size=0), seed=0, cache=[small])
    _, target = images[(0, 0, 0)]
    torch.testing.assert_close(target["boxes"], torch.tensor([[20.0, 15.0, 40.0, 30.0]]))


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
        samples, augmentation("none", size=0), seed=2, cache=[red_box_image()] * 3,
        mosaic_share=1.0, mosaic_size=64,
    )  # fmt: skip
    drawn = [images[(0, place, 0)] for place in range(12)]
    assert {label for _, target in drawn for label in target["labels"].tolist()} == {1, 2, 3}
    assert torch.equal(drawn[5][0], images[(0, 5, 0)][0])
    half = TrainingImages(
        samples, augmentation("none", size=0), seed=2, cache=[red_box_image()] * 3, mosaic_share=0.5
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
        samples, augmentation("none", size=0), seed=4, cache=[red_box_image()] * 20, paste_share=1.0
    )
    labels = [images[(0, place, 0)][1]["labels"].tolist() for place in range(60)]
    assert set(map(len, labels)) == {1}
    assert 18 < labels.count([6]) < 42
    assert torch.equal(images[(0, 7, 0)][0], images[(0, 7, 0)][0])


def test_an_unknown_augmentation_lists_the_known():
    with pytest.raises(ValueError, match="known: none, flip, original, large_scale_jitter, surveillance"):
        augmentation("twist", size=64)


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


def test_the_cache_gives_back_every_image_as_it_was():
    images = [np.full((2, 3, 3), 7, np.uint8), np.arange(60, dtype=np.uint8).reshape(5, 4, 3)]
    cache = transforms.ImageCache(images)
    assert len(cache) == 2
    for i, image in enumerate(images):
        np.testing.assert_array_equal(cache[i], image)


def test_a_worker_gets_a_handle_on_the_cache_and_not_its_pixels():
    image = np.zeros((1000, 1000, 3), np.uint8)
    cache = transforms.ImageCache([image] * 4)
    images = TrainingImages([sample()] * 4, augmentation("flip", size=96), seed=0, cache=cache)
    assert len(ForkingPickler.dumps(images)) < 100_000  # of 12,000,000
