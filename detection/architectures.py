"""The networks: built from a configuration, with their layers frozen or not. No weights are loaded here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2
from torchvision.models.detection import (
    FasterRCNN,
    fasterrcnn_mobilenet_v3_large_320_fpn,
    fasterrcnn_mobilenet_v3_large_fpn,
    fasterrcnn_resnet50_fpn,
    fasterrcnn_resnet50_fpn_v2,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.ops.misc import FrozenBatchNorm2d

from detection.card import DetectorError
from schemas import NetworkConfig

HEAD = "roi_heads.box_predictor."  # what the names of the last layer's weights begin with


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
    predictor = FastRCNNPredictor(config.box_head_width, num_classes)
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
# What each architecture wants unless told otherwise: torchvision's own defaults, or what measured better.
NETWORK_DEFAULTS: dict[str, dict[str, Any]] = {
    "fasterrcnn_resnet50_fpn": {"norm_eps": 0.0},
    "fasterrcnn_resnet50_fpn_v2": {"norm": "batch"},
    "fasterrcnn_mobilenet_v3_large_fpn": {},
    "fasterrcnn_mobilenet_v3_large_320_fpn": {"min_size": 320, "max_size": 640, "rpn_post_nms_top_n": 150},
    "fasterrcnn_mobilenet_v2_fpn": {
        "min_size": 416, "max_size": 416, "rpn_post_nms_top_n": 300, "roi_sampling_ratio": 1,
        "fpn_channels": 128, "box_head_width": 512, "box_voting_iou": 0.8,
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
