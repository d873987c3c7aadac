"""Exports answer as PyTorch does: alone, in batches, for pictures of any shape."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image as PillowImage
from small_network import small_detector
from torchvision.ops import batched_nms, box_iou
from torchvision.ops.poolers import MultiScaleRoIAlign

from detection import export as exports
from detection import preparation, second_look, selection
from detection.architectures import network_config
from detection.detections import CLASS_NAMES, Detections
from detection.detector import Detector, load_folder
from detection.exported import ExportedDetector
from detection.onnx_runtime import OnnxGraphs
from schemas import Calibration, Export, ModelCard, NetworkGeometry, SecondLookConfig

SMALL = {"min_size": 128, "max_size": 160, "box_score_thresh": 0.01, "fpn_channels": 32, "box_head_width": 64}
EVERY: dict[str, Any] = {"max_detections": 1_000}
LOOK = SecondLookConfig(size_px=64, score_from=0.01, weight=0.5)
SHAPES = {
    "landscape": (90, 160), "portrait": (160, 90), "square": (128, 128), "tiny": (9, 14), "strip": (20, 300),
    "huge": (1500, 2100),
}  # fmt: skip


def photo(size_hw, seed=0):
    """Return a picture with something in it at every scale."""
    y, x = np.mgrid[0 : size_hw[0], 0 : size_hw[1]] / max(size_hw)
    rng = np.random.default_rng(seed)
    waves = sum(
        np.sin(rng.uniform(3, 90) * x + rng.uniform(3, 90) * y + k)[..., None] * rng.uniform(-1, 1, 3)
        for k in range(6)
    )
    return (128 + 60 * waves).clip(0, 255).astype(np.uint8)


def model(folder, second_look=LOOK, **config):
    """Write a model of random weights that says something of everything, with all that a card can hold."""
    calibration = {
        "knife": Calibration(slope=1.2, offset=0.1),
        "tarjeta": Calibration(slope=0.7, offset=-0.2),
    }
    detector = small_detector(
        seed=3, network={**SMALL, **config}, second_look=second_look, calibration=calibration
    )
    with torch.no_grad():
        predictor = detector.network.roi_heads.box_predictor
        if "mobilenet" in detector.card.network.architecture:  # random features of ResNets are large anyway
            predictor.cls_score.weight.mul_(40)
            detector.network.rpn.head.cls_logits.weight.mul_(30)
    detector.save_folder(folder)
    return folder


@dataclasses.dataclass
class Exported:
    torch: Detector
    openvino: ExportedDetector
    onnx: ExportedDetector


def exported(folder, tmp_path) -> Exported:
    """Return a folder's model, and its exports in float32."""
    exact = load_folder(folder, optimize=False)
    pieces = exports.take_apart(exact)
    export = Export(
        runtime="openvino", precision="int8", files={}, weights_sha256="", geometry=pieces.geometry
    )  # int8: what is not quantised is computed in float32, and here nothing is
    openvino = exports.in_memory(exports.to_openvino(pieces), exact.card, export)
    exports.write_onnx(pieces, tmp_path)
    graphs = OnnxGraphs({part: tmp_path / f"{part}.onnx" for part in pieces.modules})
    return Exported(exact, openvino, ExportedDetector(exact.card, export, graphs))


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Exported:
    return exported(model(tmp_path_factory.mktemp("model")), tmp_path_factory.mktemp("onnx"))


@pytest.fixture(scope="module")
def one_look(tmp_path_factory) -> Exported:
    folder = model(tmp_path_factory.mktemp("model"), second_look=None)
    return exported(folder, tmp_path_factory.mktemp("onnx"))


def assert_same(found: Detections, expected: Detections, *, pixels: float, score: float):
    """See that each of the expected boxes was found, and no other, but for those of the lowest scores."""
    strong = expected.above(0.05)
    assert len(strong), "the network has nothing to say, so that this test cannot fail"
    assert abs(len(found) - len(expected)) <= max(2, len(expected) // 20)
    for label, box, expected_score in zip(strong.labels, strong.boxes, strong.scores, strict=True):
        mine = found.of([label])
        near = np.abs(mine.boxes - box).max(axis=1) <= pixels
        assert (np.abs(mine.scores[near] - expected_score) <= score).any(), (label, box, expected_score)


@pytest.mark.parametrize("runtime", ["openvino", "onnx"])
@pytest.mark.parametrize("size_hw", [(128, 128), (90, 160), (160, 100)])
def test_a_picture_that_need_not_be_resized_gets_the_same_boxes_to_a_hundredth_of_a_pixel(
    three, runtime, size_hw
):
    image = photo(size_hw)
    assert preparation.input_size(size_hw, 128, 160) == list(size_hw)
    expected, found = three.torch.detect(image, **EVERY), getattr(three, runtime).detect(image, **EVERY)
    assert_same(found, expected, pixels=0.01, score=1e-4)


def at_network_size(detector, image, config):
    """Return what PyTorch finds in a picture resized as exports resize it, in the picture's pixels."""
    size_hw = preparation.input_size(image.shape[:2], config.min_size, config.max_size)
    resized = PillowImage.fromarray(image).resize(size_hw[::-1], PillowImage.Resampling.BILINEAR)
    found = detector.detect(np.asarray(resized), **EVERY)
    ratios = np.array(image.shape[1::-1]) / size_hw[::-1]
    return dataclasses.replace(found, boxes=(found.boxes * np.tile(ratios, 2)).astype(np.float32))


@pytest.mark.parametrize("runtime", ["openvino", "onnx"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_picture_of_any_shape_gets_the_same_boxes(one_look, runtime, shape):
    image = photo(SHAPES[shape], seed=1)
    expected = at_network_size(one_look.torch, image, one_look.torch.card.network)
    found = getattr(one_look, runtime).detect(image, **EVERY)
    assert_same(found, expected, pixels=1e-4 * max(image.shape), score=1e-3)


@pytest.mark.parametrize("runtime", ["openvino", "onnx"])
def test_pictures_in_several_threads_do_not_mix(three, runtime):
    detector = getattr(three, runtime)
    images = [photo((90, 160), seed) for seed in range(8)]
    alone = [detector.detect(image, **EVERY) for image in images]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda image: detector.detect(image, **EVERY), images * 5))
    for found, expected in zip(together, alone * 5, strict=True):
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_both_runtimes_say_the_same(three):
    for shape in SHAPES.values():
        image = photo(shape, seed=2)
        assert_same(
            three.onnx.detect(image, **EVERY), three.openvino.detect(image, **EVERY), pixels=0.05, score=1e-3
        )


@pytest.mark.parametrize("options", [{"nms_iou": 1.0}, {"nms_iou": 0.1}, {"max_detections": 2}])
def test_what_a_caller_asks_for_is_kept(three, options):
    image = photo((128, 128))
    expected, found = three.torch.detect(image, **options), three.openvino.detect(image, **options)
    np.testing.assert_allclose(found.scores[:20], expected.scores[:20], atol=1e-4)
    assert abs(len(found) - len(expected)) <= len(expected) // 50


def test_probabilities_are_the_networks_own_and_sum_to_one(three):
    found = three.openvino.detect(photo((128, 128)), probabilities=True)
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        {"architecture": "fasterrcnn_resnet50_fpn_v2", "rpn_post_nms_top_n": 50},
        {"roi_sampling_ratio": 2, "fpn_min_stride": 4},
        {"antialias": False},
    ],
    ids=lambda config: "-".join(map(str, config.values())),
)
def test_every_network_can_be_exported(tmp_path, config):
    three = exported(model(tmp_path / "model", **config), tmp_path)
    image = photo(
        preparation.input_size(
            (100, 130), *(getattr(three.torch.card.network, side) for side in ("min_size", "max_size"))
        )
    )
    expected = three.torch.detect(image, **EVERY)
    assert_same(three.openvino.detect(image, **EVERY), expected, pixels=0.05, score=1e-3)
    assert_same(three.onnx.detect(image, **EVERY), expected, pixels=0.05, score=1e-3)


# --- the parts in numpy -----------------------------------------------------------------------------


@st.composite
def some_boxes(draw, most=60, side=300.0) -> NDArray[np.float32]:
    count = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    corners = rng.uniform(0, side, (count, 2))
    sizes = rng.exponential(draw(st.sampled_from([3, 40, 150])), (count, 2)) + 0.1
    return np.concatenate((corners, corners + sizes), axis=1).astype(np.float32)


@given(some_boxes(most=300), st.floats(0.05, 0.95), st.integers(1, 5), st.integers(1, 300))
def test_suppression_keeps_what_torchvision_keeps(boxes, iou, groups, limit):
    rng = np.random.default_rng(len(boxes))
    scores = (rng.permutation(len(boxes)) / len(boxes)).astype(np.float32)
    group = rng.integers(0, groups, len(boxes))
    overlaps = box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes)).numpy()
    iou += 0.001 * bool((np.abs(overlaps - iou) < 1e-4).any())  # not on the edge, where rounding decides
    expected = batched_nms(torch.from_numpy(boxes), torch.from_numpy(scores), torch.from_numpy(group), iou)
    assert selection.suppress(boxes, scores, group, iou, limit).tolist() == expected[:limit].tolist()


@given(some_boxes(), st.sampled_from([1, 2]), st.integers(0, 2**32 - 1))
def test_points_sum_up_to_torchvisions_roi_align(boxes, ratio, seed):
    torch.manual_seed(seed)
    features = {
        str(i): torch.rand(1, 5, 320 // stride, 320 // stride) for i, stride in enumerate((8, 16, 32))
    }
    pool = MultiScaleRoIAlign(list(features), 7, ratio)
    boxes = boxes.clip(0, 320)
    expected = pool(features, [torch.from_numpy(boxes)], [(320, 320)])
    geometry = NetworkGeometry(cell_anchors=(), pool_strides=(8, 16, 32))
    grids = [(one.shape[2], one.shape[3]) for one in features.values()]
    index, weight = selection.points(boxes, geometry, grids, ratio, len(boxes) + 2)
    table = torch.cat([one[0].flatten(1).T for one in features.values()]).numpy()
    rows = (
        (table[index] * weight[..., None]).sum(axis=1).reshape(len(boxes) + 2, 7, 7, 5).transpose(0, 3, 1, 2)
    )
    np.testing.assert_allclose(rows[: len(boxes)], expected, atol=2e-4)
    assert not rows[len(boxes) :].any()


def test_a_box_in_the_middle_of_four_places_is_their_mean():
    geometry = NetworkGeometry(cell_anchors=(), pool_strides=(8,), pool_size=1)
    index, weight = selection.points(np.array([[8, 8, 16, 16]], np.float32), geometry, [(4, 4)], 1, 1)
    assert (index.tolist(), weight.tolist()) == ([[5, 6, 9, 10]], [[0.25, 0.25, 0.25, 0.25]])


def test_suppression_of_nothing_is_nothing():
    empty = np.zeros((0, 4), np.float32)
    assert selection.suppress(empty, empty[:, 0], empty[:, 0].astype(np.int64), 0.5, 10).tolist() == []


@pytest.mark.parametrize("box", [(4, 4, 30, 20), (0, 0, 5, 5), (50, 20, 64, 48), (10, 10, 60, 12)])
def test_crops_are_cut_out_as_in_pytorch(box):
    image = photo((48, 64))
    boxes = np.array([box], np.float32)
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1) / 255
    expected = second_look.cut_out(pixels, torch.from_numpy(boxes), LOOK)
    np.testing.assert_allclose(preparation.cut_out(image, boxes, LOOK), expected, atol=1.6 / 255)


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size_hw", [(128, 128), (90, 160), (700, 500), (30, 41), (33, 500)])
def test_a_picture_is_prepared_as_the_network_does_it(size_hw, antialias):
    config = network_config("fasterrcnn_mobilenet_v2_fpn", **SMALL, antialias=antialias)
    transform = Detector(ModelCard(network=config, class_names=CLASS_NAMES)).network.transform.eval()
    image = photo(size_hw)
    expected, _ = transform([torch.from_numpy(image.copy()).permute(2, 0, 1) / 255])
    batch, filled = preparation.prepare(image, config, 32)
    assert filled == tuple(expected.image_sizes[0])
    rounding = 1.6 / 255 / min(config.image_std)  # Pillow rounds after each direction
    np.testing.assert_allclose(batch, expected.tensors, atol=rounding if antialias else 1e-4)


def settled(voting_iou: float | None, nms_iou: float = 0.5) -> list[list[float]]:
    boxes = np.array(
        [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8.5], [0, 0, 10, 6], [50, 50, 60, 60]], np.float32
    )
    scores, labels = np.array([0.9, 0.3, 0.8, 0.7, 0.6], np.float32), np.array([1, 1, 2, 1, 1])
    moved = selection.settle(np.array([0, 4]), boxes, scores, labels, nms_iou=nms_iou, voting_iou=voting_iou)
    return [[round(float(side), 4) for side in box] for box in moved]


def test_a_box_moves_to_the_mean_of_those_of_its_class_on_it_by_score():
    # 10 with 0.9 and 9 with 0.3; the third is another class, the fourth overlaps by 0.6 only
    assert settled(0.8) == [[0, 0, 10, 9.75], [50, 50, 60, 60]]


@pytest.mark.parametrize(("voting_iou", "nms_iou"), [(None, 0.5), (0.8, 1.0), (0.8, 0.8)])
def test_no_box_moves_without_a_vote_or_where_none_was_taken_away(voting_iou, nms_iou):
    assert settled(voting_iou, nms_iou) == [[0, 0, 10, 10], [50, 50, 60, 60]]
