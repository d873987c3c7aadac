"""Build, save, load and run the network. The only file that imports detecto.

detecto is what we train with; what it gets wrong is corrected here: it normalises twice, downloads a
backbone even with pretrained=False, keeps no record of architecture and class order, and loads pickles.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import URLError

import detecto.core
import numpy as np
import pydantic
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.models import mobilenet_v2
from torchvision.models.detection import (
    FasterRCNN,
    FasterRCNN_MobileNet_V3_Large_320_FPN_Weights,
    FasterRCNN_MobileNet_V3_Large_FPN_Weights,
    FasterRCNN_ResNet50_FPN_V2_Weights,
    FasterRCNN_ResNet50_FPN_Weights,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops import boxes as box_ops
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d

import imaging
from detections import BACKGROUND, CLASS_NAMES, Detections
from schemas import CARD_FILE, WEIGHTS_FILE, ModelCard, NetworkConfig

HEAD = "roi_heads.box_predictor."  # what the names of the last layer's weights begin with


class DetectorError(ValueError):
    """A model cannot be built, loaded or saved; the message says why and what to do."""


# --- the network ------------------------------------------------------------------------------------


def to_unit(pixels: Tensor) -> Tensor:
    """Turn pixels (3, H, W) uint8 into float32 in [0, 1] on their device, as imaging.to_chw does."""
    return pixels.float().div_(imaging.WHITE)


def input_size(size_hw: Sequence[int], min_size: int, max_size: int) -> list[int]:
    """Return the height and width at which the network sees an image of size_hw.

    Its shorter side becomes min_size, or less where its longer side would be more than max_size.
    """
    scale = min(min_size / min(size_hw), max_size / max(size_hw))
    return [max(1, round(side * scale)) for side in size_hw]


class InputTransform(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's resize and normalise, with antialiasing and at the smaller size.

    torchvision shrinks without antialiasing, which turns a phone photograph of 12 megapixels into
    noise at a network input of a few hundred pixels; and it normalises before it shrinks.
    """

    def normalize(self, image: Tensor) -> Tensor:
        """Check image; resize() normalises, when there are fewer pixels to do."""
        if not image.is_floating_point():
            raise TypeError(f"want a float image in [0, 1], got {image.dtype}; see imaging.to_chw")
        return image

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Resize to min_size on the shorter side, at most max_size on the longer; boxes follow."""
        size_hw = image.shape[-2:]
        new_hw = input_size(size_hw, self.min_size[-1], self.max_size)
        if new_hw != list(size_hw):
            image = F.interpolate(image[None], size=new_hw, mode="bilinear", antialias=True)[0]
        if target is not None:
            target["boxes"] = resize_boxes(target["boxes"], size_hw, new_hw)
        return super().normalize(image), target


class FrozenNorm(FrozenBatchNorm2d):  # type: ignore[misc]
    """Frozen batch norm through the native kernel: torchvision's own multiplies and adds in two passes."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, H, W) by the stored statistics."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def _mobilenet_v2_fpn(config: NetworkConfig, num_classes: int) -> FasterRCNN:
    """Build the light network: MobileNetV2 with a pyramid fine enough for things in hands.

    torchvision's own MobileNet-FPN sees only strides 32 and 64.
    """
    taps = {4: ("3", 24), 8: ("6", 32), 16: ("13", 96), 32: ("18", 1280)}  # stride -> layer, channels
    strides = [stride for stride in taps if stride >= config.fpn_min_stride]
    backbone = BackboneWithFPN(
        mobilenet_v2(weights=None).features,
        return_layers={taps[stride][0]: str(i) for i, stride in enumerate(strides)},
        in_channels_list=[taps[stride][1] for stride in strides],
        out_channels=config.fpn_channels,
        extra_blocks=LastLevelMaxPool(),
    )
    anchor_strides = [*strides, 64]
    anchors = AnchorGenerator(
        tuple((4 * stride, 6 * stride) for stride in anchor_strides), ((0.4, 1.0, 2.5),) * len(anchor_strides)
    )
    levels = [str(i) for i in range(len(strides))]
    pool = MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=config.roi_sampling_ratio)
    head = TwoMLPHead(config.fpn_channels * 7 * 7, config.box_head_width)
    predictor = detecto.core.FastRCNNPredictor(config.box_head_width, num_classes)
    return FasterRCNN(
        backbone, rpn_anchor_generator=anchors, box_roi_pool=pool, box_head=head, box_predictor=predictor
    )


def _stock(build: Callable[..., FasterRCNN]) -> Callable[[NetworkConfig, int], FasterRCNN]:
    def build_without_download(_config: NetworkConfig, num_classes: int) -> FasterRCNN:
        return build(weights=None, weights_backbone=None, num_classes=num_classes)

    return build_without_download


ARCHITECTURES: dict[str, Callable[[NetworkConfig, int], FasterRCNN]] = {
    "fasterrcnn_resnet50_fpn": _stock(fasterrcnn_resnet50_fpn),
    "fasterrcnn_resnet50_fpn_v2": _stock(fasterrcnn_resnet50_fpn_v2),
    "fasterrcnn_mobilenet_v3_large_fpn": _stock(fasterrcnn_mobilenet_v3_large_fpn),
    "fasterrcnn_mobilenet_v3_large_320_fpn": _stock(fasterrcnn_mobilenet_v3_large_320_fpn),
    "fasterrcnn_mobilenet_v2_fpn": _mobilenet_v2_fpn,
}
COCO_WEIGHTS = {
    "fasterrcnn_resnet50_fpn": FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
    "fasterrcnn_resnet50_fpn_v2": FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1,
    "fasterrcnn_mobilenet_v3_large_fpn": FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1,
    "fasterrcnn_mobilenet_v3_large_320_fpn": FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1,
}
DETECTO_DEFAULT: str = detecto.core.Model.DEFAULT
DETECTO_NAMES = (DETECTO_DEFAULT, detecto.core.Model.MOBILENET, detecto.core.Model.MOBILENET_320)
# What each architecture wants unless told otherwise: torchvision's own defaults.
NETWORK_DEFAULTS: dict[str, dict[str, Any]] = {
    "fasterrcnn_resnet50_fpn": {"norm_eps": 0.0},
    "fasterrcnn_resnet50_fpn_v2": {"norm": "batch"},
    "fasterrcnn_mobilenet_v3_large_fpn": {},
    "fasterrcnn_mobilenet_v3_large_320_fpn": {"min_size": 320, "max_size": 640, "rpn_post_nms_top_n": 150},
    "fasterrcnn_mobilenet_v2_fpn": {
        "min_size": 416, "max_size": 416, "rpn_post_nms_top_n": 300, "roi_sampling_ratio": 1,
        "fpn_channels": 128, "box_head_width": 512,
        "image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5),
    },
}  # fmt: skip


def network_config(architecture: str, **overrides: Any) -> NetworkConfig:
    """Return the architecture's defaults with overrides laid over them.

    Raises:
        DetectorError: the architecture is unknown; the message lists those there are.
    """
    if architecture not in NETWORK_DEFAULTS:
        raise DetectorError(f"unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}")
    given = {key: value for key, value in overrides.items() if value is not None}
    return NetworkConfig(architecture=architecture, **{**NETWORK_DEFAULTS[architecture], **given})


def detectos_input(config: NetworkConfig) -> NetworkConfig:
    """Return config with its pictures prepared as detecto prepares them for a model with classes of its own.

    detecto normalises, torchvision's network once more: ((x - m) / s - m) / s == (x - (m + s m)) / s^2, so
    that one normalisation by m + s m and s^2 gives the network the same numbers. Neither averages when it
    shrinks a picture.
    """
    pairs = list(zip(config.image_mean, config.image_std, strict=True))
    return config.model_copy(
        update={
            "image_mean": tuple(m + s * m for m, s in pairs),
            "image_std": tuple(s * s for _, s in pairs),
            "antialias": False,
        }
    )


def build_network(config: NetworkConfig, num_classes: int) -> FasterRCNN:
    """Build the network that config describes, with random weights; nothing is downloaded.

    Args:
        config: architecture, sizes and budgets.
        num_classes: classes including the background.
    """
    if config.architecture not in ARCHITECTURES:
        raise DetectorError(
            f"unknown architecture {config.architecture!r}; known: {', '.join(ARCHITECTURES)}"
        )
    network = ARCHITECTURES[config.architecture](config, num_classes)
    transform = InputTransform if config.antialias else GeneralizedRCNNTransform
    network.transform = transform(
        config.min_size, config.max_size, list(config.image_mean), list(config.image_std)
    )
    network.rpn._post_nms_top_n["testing"] = config.rpn_post_nms_top_n
    heads = network.roi_heads
    heads.box_roi_pool.sampling_ratio = config.roi_sampling_ratio
    heads.score_thresh, heads.nms_thresh = config.box_score_thresh, config.box_nms_thresh
    heads.detections_per_img = config.box_detections_per_img
    network.rpn.head.register_forward_hook(_in_float32)
    if config.norm == "frozen":
        _freeze_norms(network, config.norm_eps)
    return network


def _in_float32(
    _head: nn.Module, _inputs: tuple[Any, ...], output: tuple[list[Tensor], list[Tensor]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Give the RPN head's objectness and deltas on in float32, whatever they were computed in.

    torchvision decodes proposals in the deltas' type and rounds the truth boxes to the proposals': in
    bfloat16, which has steps of 2 pixels from 256 on, regression would be asked for boxes pixels away.
    """
    return [level.float() for level in output[0]], [level.float() for level in output[1]]


def _freeze_norms(module: nn.Module, eps: float) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenNorm(child.num_features, eps=eps))
        else:
            _freeze_norms(child, eps)


def freeze_backbone(network: FasterRCNN, trainable_layers: int) -> None:
    """Let only the last trainable_layers stages of the backbone learn; the pyramid and heads always do.

    Args:
        network: any of ARCHITECTURES.
        trainable_layers: 0 to 5 for ResNet, 0 to 6 for MobileNet; torchvision's default is 3.

    Raises:
        DetectorError: trainable_layers is out of range.
    """
    children = list(network.backbone.body.named_children())
    names = [name for name, _ in children]
    if "layer1" in names:
        first_of_stage = [0, *(names.index(f"layer{i}") for i in range(1, 5))]
    else:  # MobileNet: a stage begins at each strided block
        strided = [i for i, (_, block) in enumerate(children) if getattr(block, "_is_cn", False)]
        first_of_stage = [0, *strided, len(children) - 1]
    if not 0 <= trainable_layers <= len(first_of_stage):
        raise DetectorError(
            f"want trainable_layers between 0 and {len(first_of_stage)}, got {trainable_layers}"
        )
    kept = len(first_of_stage) - trainable_layers
    learns_from = first_of_stage[kept] if trainable_layers else len(children)
    for i, (_, block) in enumerate(children):
        block.requires_grad_(i >= learns_from)


# --- weights ----------------------------------------------------------------------------------------


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors or a torch file, without running any code from it.

    Raises:
        DetectorError: the file is absent, damaged, or holds more than tensors.
    """
    if not path.is_file():
        raise DetectorError(f"expected a weights file at {path}, found none")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise DetectorError(f"{path} is no readable weights file: {error}") from error
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        raise DetectorError(
            f"{path} holds more than tensors, and loading it could run foreign code. "
            "Save a plain state dict (detecto's Model.save does) and pass that."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DetectorError(f"expected a state dict (names to tensors) in {path}, got something else")
    return state


def load_weights(network: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load state into network; every name and shape must fit.

    Raises:
        DetectorError: a tensor is missing, unknown or of another shape; the message lists them.
    """
    own = network.state_dict()
    state = {name: value for name, value in state.items() if name in own or not _is_counter(name)}
    wrong = [f"missing: {name}" for name in own if name not in state and not _is_counter(name)]
    wrong += [f"unknown: {name}" for name in state if name not in own]
    wrong += [
        f"shape: {name} is {tuple(value.shape)}, the network has {tuple(own[name].shape)}"
        for name, value in state.items()
        if name in own and value.shape != own[name].shape
    ]
    if wrong:
        raise DetectorError(
            f"{source} does not fit this network: {len(wrong)} mismatches, the first being\n  "
            + "\n  ".join(wrong[:12])
        )
    network.load_state_dict(state, strict=False)


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")  # frozen batch norm has none


def load_backbone_weights(network: FasterRCNN, path: Path) -> list[str]:
    """Load a classifier's or detector's backbone into network.backbone.body.

    Args:
        network: any of ARCHITECTURES.
        path: a state dict with torchvision's names: "features.0...", "layer1..." or "backbone.body...".

    Returns:
        The names in the file that have no place here, such as a classifier's last layer.

    Raises:
        DetectorError: a tensor of the backbone is missing in the file or has another shape.
    """
    body = network.backbone.body
    own = body.state_dict()
    state = {
        name.removeprefix("backbone.").removeprefix("body.").removeprefix("features."): value
        for name, value in load_state_dict(path).items()
    }
    left_out = [name for name in state if name not in own and not _is_counter(name)]
    load_weights(body, {name: value for name, value in state.items() if name in own}, str(path))
    return left_out


def load_coco_weights(network: FasterRCNN, architecture: str) -> None:
    """Load torchvision's COCO weights, all but the last layer, downloading them once.

    Raises:
        DetectorError: there are none for this architecture, or they cannot be downloaded.
    """
    if architecture not in COCO_WEIGHTS:
        raise DetectorError(
            f"there are no COCO weights for {architecture}; pass --weights none and --backbone-weights FILE"
        )
    try:
        state = COCO_WEIGHTS[architecture].get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise DetectorError(
            f"the COCO weights of {architecture} could not be downloaded ({error}). Put the file "
            f"{Path(COCO_WEIGHTS[architecture].url).name} into {folder}, or pass --weights FILE, or "
            "--weights none to start from nothing."
        ) from error
    state = {name: value for name, value in state.items() if not name.startswith(HEAD)}
    kept = {name: value for name, value in network.state_dict().items() if name.startswith(HEAD)}
    load_weights(network, {**state, **kept}, f"the COCO weights of {architecture}")


def weights_in_order(detector: Detector, class_names: Sequence[str]) -> dict[str, Tensor]:
    """Return detector's weights with the outputs of its last layer in the order of class_names.

    Args:
        detector: of the same classes, in any order.
        class_names: with the background, as in a model card.

    Raises:
        DetectorError: the detector knows other classes.
    """
    own = detector.class_names
    if sorted(own) != sorted(class_names):
        raise DetectorError(
            f"expected weights of a model with the classes {', '.join(class_names[1:])}, got one with "
            f"{', '.join(own[1:])}: start from another model, or from coco"
        )
    rows = [own.index(name) for name in class_names]
    return {
        # one score or four coordinates of each class after the other
        name: value.unflatten(0, (len(own), -1))[rows].flatten(0, 1) if name.startswith(HEAD) else value
        for name, value in detector.network.state_dict().items()
    }


# --- the detector -----------------------------------------------------------------------------------


class Detector(detecto.core.Model):  # type: ignore[misc]
    """A network with its model card: detecto's Model, corrected.

    detecto's predict, predict_top, save, load, get_internal_model and visualize functions work on it, except
    visualize.detect_video, which OpenCV 5 refuses on detecto's own models too ("Can't parse 'pt1'"); predict
    takes a picture as it is, or a tensor in [0, 1] that nothing has normalised. For our own use, detect()
    answers one image with every box it finds.

    Attributes:
        card: what model.json holds.
    """

    def __init__(self, card: ModelCard, *, device: str | torch.device = "cpu") -> None:
        """Build the card's network with random weights. Nothing is downloaded."""
        if not card.class_names or card.class_names[0] != BACKGROUND:
            raise DetectorError(f"want {BACKGROUND!r} as the first class name, got {card.class_names[:1]}")
        # detecto's own constructor would download a backbone, so its fields are set here.
        self.card = card
        self._device = torch.device(device)
        self._model = build_network(card.network, len(card.class_names)).to(self._device)
        self._classes = list(card.class_names)
        self._int_mapping = {label: index for index, label in enumerate(self._classes)}
        self._disable_normalize = True  # the network normalises; detecto would do it once more
        self._optimized = self._bf16 = False
        self._lock = threading.Lock()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names by label; index 0 is the background."""
        return self.card.class_names

    @property
    def network(self) -> FasterRCNN:
        """The torchvision network inside."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._device

    def fit(self, *_args: Any, **_kwargs: Any) -> None:
        """Refuse: detecto's fit normalises twice and its losses depend on the batch size."""
        raise DetectorError("use train.py: detecto's own fit would normalise the images twice")

    @classmethod
    def load(
        cls, file: str | Path, classes: Sequence[str] = CLASS_NAMES[1:], model_name: str = DETECTO_DEFAULT
    ) -> Detector:
        """Load what detecto's Model.save wrote; it finds what it finds in detecto.

        Args:
            file: the state dict.
            classes: without the background, in the order in which the model was made.
            model_name: as it was given to detecto's Model.

        Raises:
            DetectorError: there is no such file, or it is of another network or number of classes.
        """
        network = detectos_input(network_config(model_name))
        detector = cls(ModelCard(network=network, class_names=(BACKGROUND, *classes)))
        load_weights(detector.network, load_state_dict(Path(file)), str(file))
        return detector

    def save(self, file: str | Path) -> None:
        """Save the bare state dict for detecto's Model.load; save_folder keeps all that is needed anywhere.

        Raises:
            DetectorError: detecto would build another network around these weights, or feed it other
                numbers, and find other things.
        """
        if self._optimized:
            raise DetectorError("this detector was rearranged for speed; load it with optimize=False to save")
        network = self.card.network
        theirs = detectos_input(network_config(network.architecture))
        differing = [name for name, value in network if value != getattr(theirs, name)]
        if network.architecture not in DETECTO_NAMES or differing:
            what = ", ".join(differing) or f"architecture {network.architecture}"
            raise DetectorError(
                f"detecto would find other things with these weights: it keeps no record of a network and "
                f"builds its own, which differs in {what}. Use save_folder, which keeps all of it; for the "
                "bare weights, torch.save(detector.get_internal_model().state_dict(), FILE)."
            )
        super().save(file)

    def detect(
        self,
        image: imaging.Image,
        *,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        probabilities: bool = False,
    ) -> Detections:
        """Return every detection in image, unfiltered.

        Boxes are in pixels of image as given, whatever size the network works at.

        Args:
            image: (H, W, 3) uint8 RGB, upright.
            nms_iou: overlap above which the lower of two boxes of a class goes; the card's by default.
            max_detections: how many to keep; the card's number by default.
            probabilities: fill in Detections.probabilities.
        """
        pixels = torch.from_numpy(imaging.to_chw(image)).to(self._device)
        [found] = self.detect_together(
            [pixels], nms_iou=nms_iou, max_detections=max_detections, probabilities=probabilities
        )
        return found

    def detect_together(
        self,
        images: Sequence[Tensor],
        *,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        probabilities: bool = False,
    ) -> list[Detections]:
        """Return what detect finds in each image, from one forward pass.

        Images that batched_size says the same of get the very boxes that detect gives them; others are
        padded to the largest, which moves boxes near an edge a little. One forward pass at a time: callers
        in other threads wait.

        Args:
            images: each (3, H, W) float32 in [0, 1] on this detector's device.
            nms_iou: see detect, and so the others.
            max_detections: likewise.
            probabilities: likewise.
        """
        with self._lock, torch.inference_mode():
            self._model.eval()
            every = self._forward(images, nms_iou, max_detections)
        found = ((value.cpu().numpy() for value in one) for one in every)
        return [
            Detections(boxes, scores, labels, softmax if probabilities else None)
            for boxes, scores, labels, softmax in found
        ]

    def batched_size(self, size_hw: Sequence[int]) -> tuple[int, ...]:
        """Return height and width of the batch in which the network sees an image of size_hw alone."""
        transform = self._model.transform
        size = input_size(size_hw, transform.min_size[-1], transform.max_size)
        return tuple(-(-side // transform.size_divisible) * transform.size_divisible for side in size)

    def _forward(
        self, pixels: Sequence[Tensor], nms_iou: float | None, max_detections: int | None
    ) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        network, heads = self._model, self._model.roi_heads
        images, _ = network.transform(list(pixels))
        if self._optimized:
            images = ImageList(images.tensors.to(memory_format=torch.channels_last), images.image_sizes)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            features = network.backbone(images.tensors)
        features = {name: value.float() for name, value in features.items()}
        proposals, _ = network.rpn(images, features)
        pooled = heads.box_roi_pool(features, proposals, images.image_sizes)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        counts = [len(some) for some in proposals]
        boxes = torch.split(heads.box_coder.decode(deltas, proposals), counts)
        found = []
        for decoded, softmax, size, image in zip(
            boxes, torch.split(F.softmax(logits, -1), counts), images.image_sizes, pixels, strict=True
        ):
            inside = box_ops.clip_boxes_to_image(decoded, size)
            kept, *rest = select_boxes(inside, softmax, heads, nms_iou, max_detections)
            found.append((resize_boxes(kept, size, image.shape[-2:]), *rest))
        return found

    def save_folder(self, folder: Path, *, half: bool = False) -> None:
        """Write weights.safetensors and model.json into folder; each file appears whole or not at all.

        Args:
            folder: made if absent.
            half: store float16, for half the size; loading gives float32 again.

        Raises:
            DetectorError: the folder cannot be written, or the detector was loaded with optimize=True.
        """
        if self._optimized:
            raise DetectorError("this detector was rearranged for speed; load it with optimize=False to save")
        state = {name: value.detach().cpu().contiguous() for name, value in self._model.state_dict().items()}
        if half:
            state = {name: v.half() if v.is_floating_point() else v for name, v in state.items()}
        weights = safetensors.torch.save(state)
        self.card = self.card.model_copy(update={"weights_sha256": hashlib.sha256(weights).hexdigest()})
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / WEIGHTS_FILE, weights)
        except OSError as error:
            raise DetectorError(f"the model cannot be written to {folder}: {error}") from error
        write_card(folder, self.card)


def select_boxes(
    boxes: Tensor, softmax: Tensor, heads: RoIHeads, nms_iou: float | None, max_detections: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Turn the head's output for one image into detections, best first.

    Source:
        torchvision's RoIHeads.postprocess_detections, which keeps no class probabilities.

    Args:
        boxes: (P, C, 4) xyxy, one box per proposal and class.
        softmax: (P, C).
        heads: where the score threshold and the defaults of the next two come from.
        nms_iou: see Detector.detect.
        max_detections: likewise.

    Returns:
        boxes (N, 4), scores (N,), labels (N,), softmax (N, C).
    """
    proposal, label = torch.where(softmax[:, 1:] > heads.score_thresh)
    label = label + 1
    candidates, scores = boxes[proposal, label], softmax[proposal, label]
    big = box_ops.remove_small_boxes(candidates, min_size=1e-2)
    proposal, label, candidates, scores = proposal[big], label[big], candidates[big], scores[big]
    overlap = heads.nms_thresh if nms_iou is None else nms_iou
    limit = heads.detections_per_img if max_detections is None else max_detections
    keep = box_ops.batched_nms(candidates, scores, label, overlap)[:limit]
    return candidates[keep], scores[keep], label[keep], softmax[proposal[keep]]


def load_folder(
    folder: Path, *, device: str | torch.device = "cpu", optimize: bool = True, bf16: bool | None = None
) -> Detector:
    """Load a model folder: build the network from model.json, fill it from weights.safetensors.

    Args:
        folder: what save_folder wrote.
        device: what devices.choose_device returned.
        optimize: rearrange the network for speed; it can then neither be saved nor trained.
        bf16: compute the rearranged backbone in bfloat16; by default where the processor multiplies it.

    Raises:
        DetectorError: a file is absent or damaged, or the two do not belong together.
    """
    card = read_card(folder)
    weights_path = folder / WEIGHTS_FILE
    if not weights_path.is_file():
        raise DetectorError(f"expected {WEIGHTS_FILE} beside {CARD_FILE} in {folder}, found none")
    sha256 = hashlib.sha256(weights_path.read_bytes()).hexdigest()
    if card.weights_sha256 and sha256 != card.weights_sha256:
        raise DetectorError(
            f"{weights_path} is not the file {CARD_FILE} was written for (SHA-256 {sha256[:12]}..., "
            f"expected {card.weights_sha256[:12]}...). Copy the whole folder again."
        )
    detector = Detector(card, device=device)
    state = {
        name: value.float() if value.is_floating_point() else value
        for name, value in load_state_dict(weights_path).items()
    }
    load_weights(detector.network, state, str(weights_path))
    detector.network.eval()
    if optimize:
        arrange_for_speed(detector, bf16=bf16)
    return detector


def read_card(folder: Path) -> ModelCard:
    """Read folder/model.json.

    Raises:
        DetectorError: it is absent or not a model card.
    """
    path = folder / CARD_FILE
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DetectorError(f"expected a model folder with {CARD_FILE} at {folder}: {error}") from error
    except pydantic.ValidationError as error:
        raise DetectorError(f"{path} is not a model card: {error}") from error


def write_card(folder: Path, card: ModelCard) -> None:
    """Write folder/model.json, whole or not at all.

    Raises:
        DetectorError: it cannot be written.
    """
    try:
        write_atomically(folder / CARD_FILE, card.model_dump_json(indent=2).encode() + b"\n")
    except OSError as error:
        raise DetectorError(f"the model cannot be written to {folder}: {error}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write content so that path holds either the old file or the whole new one."""
    with whole_file(path) as file:
        file.write(content)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write: path holds the old one until the block has ended, then the whole new one."""
    temporary = path.with_name(path.name + ".part")
    with temporary.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


# --- speed ------------------------------------------------------------------------------------------


def has_fast_bf16() -> bool:
    """Return whether this processor multiplies bfloat16 in hardware; where it does not, it is far slower."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def arrange_for_speed(detector: Detector, *, bf16: bool | None = None) -> None:
    """Rearrange the network as it is served; on a processor it can then neither be saved nor trained.

    Folds batch norm into the convolutions and lays the weights out for channels-last; see load_folder for
    bf16.
    """
    if detector.device.type != "cpu":
        return
    _fold_norms(detector.network)
    detector.network.backbone.to(memory_format=torch.channels_last)
    detector._optimized, detector._bf16 = True, has_fast_bf16() if bf16 is None else bf16


def _fold_norms(module: nn.Module) -> None:
    """Fold every norm that directly follows a convolution among module's children into it."""
    children = list(module.named_children())
    for (_, conv), (norm_name, norm) in itertools.pairwise(children):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
            statistics: Any = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
            setattr(module, norm_name, nn.Identity())
    for _, child in module.named_children():
        _fold_norms(child)


def warm_up(detector: Detector) -> None:
    """Run once on grey, so that the first person does not wait for lazy set-up."""
    detector.detect(
        np.full((detector.card.network.min_size, detector.card.network.max_size, 3), 128, np.uint8)
    )
