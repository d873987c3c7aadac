"""A real network of half a megabyte, for tests that need one and not what it finds."""

from collections.abc import Mapping
from typing import Any

import torch

from detection.architectures import network_config
from detection.detections import CLASS_NAMES
from detection.detector import Detector
from schemas import ModelCard

SMALL = {"min_size": 64, "max_size": 96, "fpn_channels": 16, "box_head_width": 16}


def small_detector(*, seed: int = 0, network: Mapping[str, Any] | None = None, **card: Any) -> Detector:
    """Return an untrained detector.

    Args:
        seed: of its weights.
        network: what is other than SMALL, or other than the light architecture.
        card: the model card's other fields.
    """
    torch.manual_seed(seed)
    given = {"architecture": "fasterrcnn_mobilenet_v2_fpn", **SMALL, **(network or {})}
    config = network_config(given.pop("architecture"), **given)
    return Detector(ModelCard(**{"network": config, "class_names": CLASS_NAMES, **card}))
