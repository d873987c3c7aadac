"""Finding pictures that are the same or nearly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from photosets import duplicates
from photosets.duplicates import Look, near_pairs, perceptual_hash, same_bytes


def pattern(seed: int, size=(120, 90)) -> np.ndarray:
    """A coarse random picture: different seeds look nothing alike."""
    coarse = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), np.uint8)
    return np.asarray(PillowImage.fromarray(coarse).resize(size, PillowImage.Resampling.BICUBIC))


def distance(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.bitwise_count(a ^ b).sum())


def test_resizing_darkening_and_noise_change_few_bits():
    first, _ = perceptual_hash(pattern(1))
    noise = np.random.default_rng(0).normal(0, 4, (180, 240, 3))
    changed = (pattern(1, (240, 180)) * 0.6 + 10 + noise).clip(0, 255).astype(np.uint8)
    assert distance(first, perceptual_hash(changed)[0]) < duplicates.NEAR


def test_other_pictures_differ_in_about_half_the_bits():
    hashes = [perceptual_hash(pattern(seed))[0] for seed in range(12)]
    distances = [distance(a, b) for number, a in enumerate(hashes) for b in hashes[:number]]
    assert min(distances) > 64
    assert 115 < np.mean(distances) < 141


@given(st.integers(0, 2**31))
def test_the_second_hash_is_that_of_the_mirror_image(seed):
    image = pattern(seed)
    _, mirrored = perceptual_hash(image)
    assert distance(mirrored, perceptual_hash(image[:, ::-1].copy())[0]) < duplicates.NEAR / 1.5


def look(number: int, sha256: str = "", error: str | None = None) -> Look:
    bits = np.array([number, 0, 0, 0], np.uint64)
    far = np.full(4, 2**64 - 1, np.uint64)
    return Look(sha256 or str(number), bits, far, error)


def test_pairs_are_those_within_the_distance_and_only_once():
    looks = [look(0b0000), look(0b1111), look(0b0001), look(0b11111111_11110000)]
    pairs = {(pair.first, pair.second): pair.distance for pair in near_pairs(looks, near=4)}
    assert pairs == {(0, 1): 4, (0, 2): 1, (1, 2): 3}


def test_pairs_are_found_across_the_blocks_of_the_comparison(monkeypatch):
    looks = [look(number) for number in (1, 2**20 - 1, 2**40 - 1, 1 << 41, 3)]
    whole = list(near_pairs(looks, near=2))
    monkeypatch.setattr(duplicates, "_ROWS_AT_ONCE", 2)
    assert list(near_pairs(looks, near=2)) == whole
    assert (0, 4) in {(pair.first, pair.second) for pair in whole}


def test_same_bytes_are_told_once_and_not_as_near():
    looks = [look(1, "x"), look(2, "y"), look(1, "x")]
    assert same_bytes(looks) == [[0, 2]]
    assert (0, 2) not in {(pair.first, pair.second) for pair in near_pairs(looks)}


def test_pictures_that_cannot_be_decoded_are_near_nothing():
    assert list(near_pairs([look(1, "a", "broken"), look(1, "b", "broken")])) == []
    assert list(near_pairs([])) == []


def test_looking_keeps_the_order_and_tells_what_is_broken(tmp_path):
    paths = []
    for number in range(9):
        paths.append(tmp_path / f"{number}.png")
        PillowImage.fromarray(pattern(number)).save(paths[-1])
    paths[4].write_bytes(b"not a picture")
    paths[7].unlink()
    steps = []
    looks = duplicates.look_at(paths, advance=lambda: steps.append(1))
    assert len(steps) == 9
    assert [number for number, one in enumerate(looks) if one.error] == [4, 7]
    for number in (0, 8):
        np.testing.assert_array_equal(looks[number].bits, perceptual_hash(pattern(number))[0])


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_blank_picture_has_a_hash(grey):
    image = np.full((40, 40, 3), grey, np.uint8)
    assert perceptual_hash(image)[0].shape == (4,)
