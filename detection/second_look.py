"""A second look at what the detector takes for a weapon: the crop, enlarged, through a small classifier.

The detector sees the whole photograph shrunk to its input. A crop comes out of the photograph's own pixels,
so that keys, tools and hands look like themselves again. It moves scores, never boxes or names.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from detection import second_scores
from schemas import SecondLookConfig

# Kernel, stride, expansion, channels, repeats of each stage.
STAGES = (
    (3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1),
)  # fmt: skip
STEM, LAST = 32, 1280
NORM = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)


class CropClassifier(nn.Module):
    """EfficientNet-Lite0 with one output for "no weapon" and one for each weapon.

    Source:
        Tan and Le, EfficientNet, ICML 2019, table 1; Lite (Google, 2020): no squeeze-and-excitation, ReLU6,
        stem and last layer of fixed width. Padding as in TensorFlow, as its published weights want it.
    """

    def __init__(self, outputs: int) -> None:
        """Build it with random weights."""
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, STEM, 3, stride=2)]
        width = STEM
        for kernel, stride, expansion, channels, repeats in STAGES:
            for repeat in range(repeats):
                layers.append(_Block(width, channels, kernel, 1 if repeat else stride, expansion))
                width = channels
        layers.append(_convolution(width, LAST, 1))
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(LAST, outputs)

    def forward(self, crops: Tensor) -> Tensor:
        """Return logits (N, outputs) for crops (N, 3, S, S), float in [0, 1]; S a multiple of 32."""
        features = self.features((crops - 127 / 255) * (255 / 128))
        logits: Tensor = self.head(self.dropout(features.float().mean((2, 3))))
        return logits


class _Block(nn.Module):
    """An inverted bottleneck: wider, depthwise, narrower; added to its input where the shape stays."""

    def __init__(self, width: int, channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        wider = [_convolution(width, inner, 1)] if expansion > 1 else []
        depthwise = _convolution(inner, inner, kernel, stride=stride, groups=inner)
        narrower = Conv2dNormActivation(inner, channels, 1, norm_layer=NORM, activation_layer=None)
        self.layers = nn.Sequential(*wider, depthwise, narrower)
        self.is_residual = stride == 1 and width == channels

    def forward(self, values: Tensor) -> Tensor:
        found: Tensor = self.layers(values)
        return values + found if self.is_residual else found


def _convolution(width: int, channels: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Module:
    make = partial(
        Conv2dNormActivation,
        width,
        channels,
        kernel,
        groups=groups,
        norm_layer=NORM,
        activation_layer=nn.ReLU6,
    )
    if stride == 1:
        return nn.Sequential(make())
    before, after = (kernel - 2) // 2, (kernel - 1) // 2  # TensorFlow's "same" for even sides
    return nn.Sequential(nn.ZeroPad2d((before, after, before, after)), make(stride=stride, padding=0))


def cut_out(image: Tensor, boxes: Tensor, config: SecondLookConfig) -> Tensor:
    """Return the surroundings of each box as a square crop, (N, 3, size_px, size_px).

    Its side is config.context times the box's longer side; what lies beyond the picture is black.

    Args:
        image: (3, H, W) float in [0, 1].
        boxes: (N, 4) xyxy pixels of image.
        config: size_px and context.
    """
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = ((boxes[:, 2:] - boxes[:, :2]).amax(1) * config.context).clamp(min=config.smallest_px)
    corners = torch.cat((centres - sides[:, None] / 2, centres + sides[:, None] / 2), 1).round().long()
    height, width = image.shape[-2:]
    crops = []
    for x1, y1, x2, y2 in corners.tolist():
        inside = image[:, max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)]
        padding = (max(0, -x1), max(0, x2 - width), max(0, -y1), max(0, y2 - height))
        square = F.pad(inside, padding)[None]
        size = (config.size_px, config.size_px)
        crops.append(F.interpolate(square, size, mode="bilinear", antialias=True, align_corners=False))
    return torch.cat(crops) if crops else image.new_zeros((0, 3, config.size_px, config.size_px))


def look_twice(
    classifier: CropClassifier, config: SecondLookConfig, image: Tensor, boxes: Tensor, scores: Tensor,
    is_weapon: Tensor,
) -> Tensor:  # fmt: skip
    """Return the scores after the second look, (N,), in the order of boxes.

    What is looked at and how far it moves scores, second_scores says.

    Args:
        classifier: in eval mode, on image's device.
        config: of the model card.
        image: (3, H, W) float in [0, 1].
        boxes: (N, 4) xyxy pixels of image, best score first.
        scores: (N,) in [0, 1].
        is_weapon: (N,) whether the box is named as a weapon.
    """
    as_given = scores.cpu().numpy()
    every = second_scores.candidates(as_given, is_weapon.cpu().numpy(), config)
    if not len(every):
        return scores
    looked_at = torch.from_numpy(every[: config.most]).to(boxes.device)
    logits = classifier(cut_out(image, boxes[looked_at], config)).float().cpu().numpy()
    moved = second_scores.moved(as_given, every, second_scores.evidence(logits), config)
    return torch.from_numpy(moved).to(scores.device)
