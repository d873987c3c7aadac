"""The detector: torchvision's network, detecto's interface, our folder."""

import copy
import json
from pathlib import Path

import detecto.core
import detecto.utils
import detecto.visualize
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from torchvision.ops.misc import FrozenBatchNorm2d

from detection import architectures, imaging
from detection import detector as detectors
from detection.card import DetectorError
from detection.detections import BACKGROUND, CLASS_NAMES
from detection.detector import Detector
from detection.weights import COCO_WEIGHTS, load_backbone_weights, load_coco_weights, load_state_dict
from schemas import WEIGHTS_FILE, Calibration, ModelCard

ROOT = Path(__file__).parents[2]
LIGHT = "fasterrcnn_mobilenet_v2_fpn"


def make(architecture: str = LIGHT, **overrides) -> Detector:
    torch.manual_seed(3)
    settings = {"box_score_thresh": 0.01, "rpn_post_nms_top_n": 60, **overrides}
    config = architectures.network_config(architecture, **settings)
    return Detector(ModelCard(network=config, class_names=CLASS_NAMES))


@pytest.fixture(scope="module")
def light() -> Detector:
    return make(min_size=128, max_size=128)


@pytest.fixture
def image() -> imaging.Image:
    return np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)


@pytest.mark.parametrize("architecture", sorted(architectures.ARCHITECTURES))
def test_detect_answers_what_torchvisions_own_forward_answers(architecture, image):
    detector = make(architecture, min_size=96, max_size=128)
    with torch.inference_mode():
        expected = detector.network.eval()([torch.from_numpy(imaging.to_chw(image))])[0]
    found = detector.detect(image)
    assert len(found) > 0
    np.testing.assert_allclose(found.boxes, expected["boxes"], atol=1e-3)
    np.testing.assert_allclose(found.scores, expected["scores"], atol=1e-5)
    np.testing.assert_array_equal(found.labels, expected["labels"])


def test_probabilities_belong_to_their_boxes(light, image):
    found = light.detect(image, probabilities=True)
    np.testing.assert_allclose(found.probabilities.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found.probabilities[np.arange(len(found)), found.labels], found.scores)


def test_a_card_with_a_calibration_changes_scores_and_their_order_and_nothing_else(light, image):
    raw = light.detect(image, probabilities=True)
    given = {name: Calibration(slope=0.5, offset=i - 3.0) for i, name in enumerate(CLASS_NAMES)}
    card = light.card
    light.card = card.model_copy(update={"calibration": given})
    try:
        found = light.detect(image, probabilities=True)
    finally:
        light.card = card
    assert np.all(np.diff(found.scores) <= 0)
    expected = 1 / (1 + np.sqrt(1 / raw.scores - 1) * np.exp(3.0 - raw.labels))
    order = np.argsort(-expected, kind="stable")
    assert order.tolist() != sorted(order), "classes that keep their order would tell nothing"
    assert found.scores == pytest.approx(expected[order], abs=1e-6)
    assert np.array_equal(found.labels, raw.labels[order])
    assert np.array_equal(found.boxes, raw.boxes[order])
    assert np.array_equal(found.probabilities, raw.probabilities[order])


def test_boxes_lie_in_the_picture_as_given(light, image):
    found = light.detect(image)
    assert found.boxes.min() >= 0
    assert found.boxes[:, [0, 2]].max() <= 160
    assert found.boxes[:, [1, 3]].max() <= 90


def test_fewer_detections_and_stricter_suppression_on_request(light, image):
    everything = light.detect(image)
    assert len(light.detect(image, max_detections=2)) == 2
    strict = light.detect(image, nms_iou=0.01, max_detections=1000)
    loose = light.detect(image, nms_iou=0.99, max_detections=1000)
    assert len(strict) < len(loose)
    assert len(light.detect(image)) == len(everything), "a request changes nothing for the next"


def test_colour_order_reaches_the_network(light, image):
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    chw = torch.from_numpy(imaging.to_chw(red))
    images, _ = light.network.transform([chw])
    middle = images.tensors[0, :, 50, 50]
    np.testing.assert_allclose(middle, [1, -1, -1], atol=1e-5)  # (x - .5) / .5 of pure red, once


def test_shrinking_a_large_photo_averages_instead_of_skipping(light):
    stripes = np.zeros((1280, 1280, 3), np.uint8)
    stripes[:, ::2] = 255  # one-pixel stripes: grey from afar
    images, _ = light.network.transform([torch.from_numpy(imaging.to_chw(stripes))])
    assert images.tensors[0, :, 20:100, 20:100].abs().max() < 0.1


def test_integer_images_are_refused_at_the_networks_door(light):
    with pytest.raises(TypeError, match=r"float image in \[0, 1\]"):
        light.network.transform([torch.zeros(3, 64, 64, dtype=torch.uint8)])


# --- folders ----------------------------------------------------------------------------------------


def test_a_folder_rebuilds_the_same_detector(light, image, tmp_path):
    light.save_folder(tmp_path / "model")
    again = detectors.load_folder(tmp_path / "model", optimize=False)
    before, after = light.detect(image), again.detect(image)
    np.testing.assert_array_equal(before.boxes, after.boxes)
    np.testing.assert_array_equal(before.scores, after.scores)
    assert again.class_names == CLASS_NAMES
    assert again.card == light.card


@pytest.mark.parametrize("architecture", [LIGHT, "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2"])
def test_the_rearranged_network_computes_the_same(architecture, image, tmp_path):
    detector = make(architecture, min_size=96, max_size=128)
    for module in detector.network.modules():  # statistics that folding could get wrong
        if hasattr(module, "running_mean"):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    detector.save_folder(tmp_path)
    plain = detectors.load_folder(tmp_path, optimize=False).detect(image)
    fast = detectors.load_folder(tmp_path, precision=torch.float32).detect(image)
    assert len(plain) == len(fast) > 0
    np.testing.assert_allclose(plain.scores, fast.scores, atol=2e-4)


def test_bfloat16_finds_the_same_objects():
    photo = imaging.decode_image((ROOT / "photos/07-pistol-smartphone-and-wallet.jpg").read_bytes())
    full, fast = (
        detectors.load_folder(ROOT / "weights/starter", precision=precision).detect(photo).above(0.5)
        for precision in (torch.float32, torch.bfloat16)
    )
    # one object of each class: scores a hair apart may change places
    one, other = full.labels.argsort(), fast.labels.argsort()
    assert len(full) == len(set(full.labels)) > 0
    assert full.labels[one].tolist() == fast.labels[other].tolist()
    np.testing.assert_allclose(full.scores[one], fast.scores[other], atol=0.06)
    np.testing.assert_allclose(full.boxes[one], fast.boxes[other], atol=0.01 * max(photo.shape))


def test_a_card_without_bfloat16_computes_in_float16_and_finds_the_same_objects():
    """float16 on the processor, which takes long, stands for the card."""
    photo = imaging.decode_image((ROOT / "photos/07-pistol-smartphone-and-wallet.jpg").read_bytes())
    full, fast = (
        detectors.load_folder(ROOT / "weights/starter", precision=precision).detect(photo).above(0.5)
        for precision in (torch.float32, torch.float16)
    )
    one, other = full.labels.argsort(), fast.labels.argsort()
    assert full.labels[one].tolist() == fast.labels[other].tolist()
    np.testing.assert_allclose(full.scores[one], fast.scores[other], atol=0.02)


def test_a_card_gets_a_pictures_bytes_and_makes_the_processors_floats_of_them(image):
    read_only = np.frombuffer(image.tobytes(), np.uint8).reshape(image.shape)  # as decoders hand it over
    pixels = detectors.to_unit(torch.tensor(read_only).permute(2, 0, 1))
    np.testing.assert_array_equal(pixels.numpy(), imaging.to_chw(image))


def test_half_precision_halves_the_file(light, tmp_path):
    light.save_folder(tmp_path / "full")
    light.save_folder(tmp_path / "half", half=True)
    full, half = ((tmp_path / name / WEIGHTS_FILE).stat().st_size for name in ("full", "half"))
    assert half < 0.52 * full
    assert (
        detectors.load_folder(tmp_path / "half").network.roi_heads.box_predictor.cls_score.weight.dtype
        == torch.float32
    )


def test_class_order_is_the_folders_not_the_codes(tmp_path, image):
    names = (BACKGROUND, "tarjeta", "knife", "pistol")
    config = architectures.network_config(LIGHT, min_size=64, max_size=64)
    Detector(ModelCard(network=config, class_names=names)).save_folder(tmp_path)
    assert detectors.load_folder(tmp_path).class_names == names


def break_card(folder: Path) -> None:
    (folder / "model.json").write_text('{"format": 1}')


def break_weights(folder: Path) -> None:
    (folder / "weights.safetensors").write_bytes(b"not tensors")


def mix_up(folder: Path) -> None:
    make(min_size=64, max_size=64, box_head_width=64).save_folder(folder / "other")
    (folder / "other" / "weights.safetensors").replace(folder / "weights.safetensors")


def lose_hash(folder: Path) -> None:
    mix_up(folder)
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, "weights_sha256": ""}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_card, "is not a model card"),
        (break_weights, "is not the file model.json was written for"),
        (mix_up, "is not the file model.json was written for"),
        (lose_hash, r"(?s)6 mismatches.*shape: roi_heads.box_head.fc6.weight is \(64, 6272\)"),
        (lambda folder: (folder / "model.json").unlink(), "expected a model folder"),
        (lambda folder: (folder / "weights.safetensors").unlink(), "expected weights.safetensors"),
    ],
)
def test_a_damaged_folder_is_a_sentence(damage, message, light, tmp_path):
    light.save_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(DetectorError, match=message):
        detectors.load_folder(tmp_path)


def test_an_optimised_detector_refuses_to_be_saved(light, tmp_path):
    light.save_folder(tmp_path)
    fast = detectors.load_folder(tmp_path)
    with pytest.raises(DetectorError, match="optimize=False"):
        fast.save_folder(tmp_path / "again")


# --- detecto ----------------------------------------------------------------------------------------


def test_detectos_predict_normalises_once(light, image):
    labels, boxes, scores = light.predict(image)
    found = light.detect(image)
    np.testing.assert_allclose(scores, found.scores, atol=1e-5)
    np.testing.assert_allclose(boxes, found.boxes, atol=1e-3)
    assert labels == [CLASS_NAMES[label] for label in found.labels]


def test_detectos_predict_top_is_best_per_class(light, image):
    labels, _, scores = light.predict_top(image)
    best = light.detect(image).best_per_class()
    assert sorted(labels) == sorted(CLASS_NAMES[label] for label in best.labels)
    np.testing.assert_allclose(sorted(scores), sorted(best.scores), atol=1e-5)


DETECTO_SIZES = [
    (60, 800),
    (150, 2000),
]  # strips, which cost little at detecto's 800 x 1333: enlarged, shrunk


def strip(height: int, width: int) -> imaging.Image:
    """A picture with edges of one pixel and patches of twenty, so that it matters how it is shrunk."""
    rng = np.random.default_rng(height)
    patches = rng.integers(0, 256, (height // 10, width // 20, 3), dtype=np.uint8).repeat(10, 0).repeat(20, 1)
    patches[:, ::2] //= 2
    return patches


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """detecto's own Model of our classes, made by its own constructor from weights where it looks for them.

    The weights are random, and made so that the network tells one place of a picture from another.
    """
    default = detectors.DETECTO_DEFAULT
    home = tmp_path_factory.mktemp("torch")
    (home / "hub/checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    coco = architectures.ARCHITECTURES[default](architectures.network_config(default), 91)
    torch.save(coco.state_dict(), home / "hub/checkpoints" / Path(COCO_WEIGHTS[default].url).name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        model = detecto.core.Model(list(CLASS_NAMES[1:]))
    settle(model.get_internal_model(), strip(*DETECTO_SIZES[0]))
    return model


def settle(network, image: imaging.Image) -> None:
    """Make a random network find several things: its norms get image's statistics, its head calms down."""

    def measure(norm, inputs):
        norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
        norm.running_var.copy_(inputs[0].var((0, 2, 3)))

    norms = [module for module in network.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.inference_mode():
        network.eval()([torch.from_numpy(imaging.to_chw(image))])
        network.rpn.head.cls_logits.weight.mul_(20)
        network.roi_heads.box_predictor.cls_score.weight.mul_(0.3)
        network.roi_heads.box_predictor.bbox_pred.weight.mul_(0.1)
    for hook in hooks:
        hook.remove()


def assert_same_detections(detections, predicted) -> None:
    """Assert that Detections are what detecto's predict answered; a few may cross a threshold."""
    labels, boxes, scores = predicted
    assert len(labels) > 10
    assert len(set(labels)) > 1
    pixels = np.abs(boxes.numpy()[:, None] - detections.boxes[None]).max(axis=2)
    score = np.abs(scores.numpy()[:, None] - detections.scores[None])
    name = np.array(CLASS_NAMES)[detections.labels]
    same = (pixels < 1) & (score < 0.01) & (np.array(labels)[:, None] == name[None])
    assert same.any(axis=1).mean() > 0.95
    assert same.any(axis=0).mean() > 0.95


@pytest.mark.parametrize("size", DETECTO_SIZES)
def test_weights_saved_by_detecto_find_in_ours_what_they_find_in_detecto(theirs, size, tmp_path):
    photo = strip(*size)
    theirs.save(str(tmp_path / "theirs.pth"))
    ours = Detector.load(tmp_path / "theirs.pth", CLASS_NAMES[1:])
    expected = theirs.predict(photo)
    assert_same_detections(ours.detect(photo), expected)
    assert_same_detections(ours.detect(photo), ours.predict(photo))
    ours.save_folder(tmp_path / "folder")
    assert_same_detections(
        detectors.load_folder(tmp_path / "folder", precision=torch.float32).detect(photo), expected
    )


def test_weights_saved_by_ours_find_in_detecto_what_they_find_in_ours(theirs, tmp_path):
    photo = strip(*DETECTO_SIZES[1])
    config = architectures.detectos_input(architectures.network_config(detectors.DETECTO_DEFAULT))
    ours = Detector(ModelCard(network=config, class_names=CLASS_NAMES))
    ours.network.load_state_dict(theirs.get_internal_model().state_dict())
    with torch.no_grad():  # other weights than theirs
        ours.network.roi_heads.box_predictor.cls_score.weight.neg_()
    ours.save(tmp_path / "ours.pth")
    back = copy.deepcopy(theirs)
    back.get_internal_model().load_state_dict(torch.load(tmp_path / "ours.pth", weights_only=True))
    assert_same_detections(ours.detect(photo), back.predict(photo))


@pytest.mark.parametrize(
    ("architecture", "overrides", "named"),
    [
        ("fasterrcnn_resnet50_fpn", {}, "differs in antialias, image_mean, image_std"),
        ("fasterrcnn_resnet50_fpn", {"antialias": False}, "differs in image_mean, image_std"),
        (LIGHT, {}, "differs in antialias, image_mean, image_std"),
        ("fasterrcnn_resnet50_fpn_v2", {"antialias": False}, "differs in image_mean, image_std"),
    ],
)
def test_weights_that_detecto_would_feed_other_numbers_are_not_saved_for_it(
    architecture, overrides, named, tmp_path
):
    config = architectures.network_config(architecture, **overrides)
    detector = Detector(ModelCard(network=config, class_names=CLASS_NAMES))
    with pytest.raises(DetectorError, match=rf"{named}\. Use save_folder"):
        detector.save(tmp_path / "ours.pth")
    assert not (tmp_path / "ours.pth").exists()


def test_a_network_that_detecto_cannot_build_is_not_saved_for_it(tmp_path):
    config = architectures.detectos_input(architectures.network_config(LIGHT))
    with pytest.raises(DetectorError, match=f"differs in architecture {LIGHT}"):
        Detector(ModelCard(network=config, class_names=CLASS_NAMES)).save(tmp_path / "ours.pth")


def test_normalising_once_by_the_doubled_numbers_is_normalising_twice():
    # (0.8 - 0.5) / 0.25 = 1.2; (1.2 - 0.5) / 0.25 = 2.8
    once = architectures.network_config(LIGHT, image_mean=(0.5,) * 3, image_std=(0.25,) * 3)
    twice = architectures.detectos_input(once)
    assert (0.8 - twice.image_mean[0]) / twice.image_std[0] == pytest.approx(2.8)


def test_detectos_pictures_can_be_drawn_of_ours(light, image, monkeypatch):
    shown = []
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: shown.append(pyplot.gcf()))
    labels, boxes, scores = light.predict_top(image)
    detecto.visualize.show_labeled_image(image, boxes, labels)
    detecto.visualize.plot_prediction_grid(light, [image, image], dim=(1, 2), score_filter=scores.min())
    assert [len(axes.patches) for axes in shown[0].axes] == [len(labels)]
    drawn = int((light.detect(image).scores >= scores.min().item()).sum())
    assert [len(axes.patches) for axes in shown[1].axes] == [drawn, drawn]
    pyplot.close("all")


def test_detectos_fit_is_refused(light):
    with pytest.raises(DetectorError, match=r"use train\.py"):
        light.fit(None)


# --- weights ----------------------------------------------------------------------------------------


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    torch.save({"weight": torch.zeros(1), "callback": print}, tmp_path / "evil.pth")
    with pytest.raises(DetectorError, match="could run foreign code"):
        load_state_dict(tmp_path / "evil.pth")


def test_backbone_weights_load_and_what_is_left_out_is_named(tmp_path):
    from torchvision.models import mobilenet_v2

    source = mobilenet_v2(weights=None)
    torch.save(source.state_dict(), tmp_path / "backbone.pth")
    detector = make()
    left_out = load_backbone_weights(detector.network, tmp_path / "backbone.pth")
    assert left_out == ["classifier.1.weight", "classifier.1.bias"]
    torch.testing.assert_close(detector.network.backbone.body["0"][0].weight, source.features[0][0].weight)


def test_a_foreign_backbone_is_refused_with_the_names(tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pth")
    with pytest.raises(DetectorError, match=r"does not fit this network: \d+ mismatches"):
        load_backbone_weights(make().network, tmp_path / "resnet.pth")


def test_coco_weights_come_from_torch_home_without_a_download(tmp_path, monkeypatch):
    architecture = "fasterrcnn_mobilenet_v3_large_320_fpn"
    coco = architectures.ARCHITECTURES[architecture](architectures.network_config(architecture), 91)
    weights = COCO_WEIGHTS[architecture]
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(coco.state_dict(), folder / Path(weights.url).name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    detector = make(architecture)
    load_coco_weights(detector.network, architecture)
    torch.testing.assert_close(detector.network.rpn.head.cls_logits.weight, coco.rpn.head.cls_logits.weight)
    assert detector.network.roi_heads.box_predictor.cls_score.out_features == len(CLASS_NAMES)


def test_without_network_the_message_says_what_to_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens on the discard port
    with pytest.raises(DetectorError, match="--weights none"):
        load_coco_weights(make("fasterrcnn_resnet50_fpn").network, "fasterrcnn_resnet50_fpn")


def test_the_light_network_has_no_coco_weights():
    with pytest.raises(DetectorError, match="--backbone-weights FILE"):
        load_coco_weights(make().network, LIGHT)


@pytest.mark.parametrize(
    ("architecture", "layers", "first_learning"),
    [
        ("fasterrcnn_resnet50_fpn", 3, "layer2"),
        ("fasterrcnn_resnet50_fpn", 5, "conv1"),
        (LIGHT, 6, "0"),
        (LIGHT, 4, "4"),  # stages begin at blocks 0 2 4 7 14 18
        ("fasterrcnn_mobilenet_v3_large_fpn", 0, None),
    ],
)
def test_only_the_last_stages_of_the_backbone_learn(architecture, layers, first_learning):
    network = make(architecture).network
    architectures.freeze_backbone(network, layers)
    learning = [
        name
        for name, block in network.backbone.body.named_children()
        if any(parameter.requires_grad for parameter in block.parameters())
    ]
    assert (learning or [None])[0] == first_learning


def test_too_many_trainable_layers_is_a_sentence():
    with pytest.raises(DetectorError, match="between 0 and 5, got 6"):
        architectures.freeze_backbone(make("fasterrcnn_resnet50_fpn").network, 6)


def test_an_unknown_architecture_lists_the_known():
    with pytest.raises(DetectorError, match=r"unknown architecture 'yolo'; known: fasterrcnn_resnet50_fpn, "):
        architectures.network_config("yolo")
