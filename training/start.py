"""What a training starts from: network, weights, optimiser and order of the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from commands import TrainConfig
from detection import architectures
from detection import detector as detectors
from detection.card import read_card
from detection.detections import CLASS_NAMES
from detection.detector import Detector
from detection.devices import fast_precision
from detection.weights import load_backbone_weights, load_coco_weights, load_state_dict, load_weights
from photosets.samples import Sample
from schemas import CARD_FILE, ModelCard, NetworkConfig
from settings import TorchrunSettings
from training import loader as loading
from training import transforms
from training.checkpoints import Progress, Training
from training.schedule import MovingAverage, build_optimizer, learning_rate_factor
from training.terminal import say


def build_training(
    config: TrainConfig, process: TorchrunSettings, samples: Sequence[Sample], device: torch.device
) -> tuple[Training, loading.EpochOrder]:
    """Build the detector, its optimiser and the order of the epochs."""
    detector = build_detector(config, device)
    network = detector.network
    architectures.freeze_backbone(network, config.trainable_layers)
    set_training_budgets(network, config)
    if config.channels_last:
        network.backbone.to(memory_format=torch.channels_last)
    # With pictures of one size it pays to try cuDNN's convolutions out once.
    torch.backends.cudnn.benchmark = config.augmentation in transforms.JITTERS and not config.deterministic
    order = loading.EpochOrder(
        loading.repeat_factors(samples, config.repeat_threshold, negatives=config.repeat_negatives),
        config.batch_size,
        seed=config.seed, rank=process.rank, world_size=process.world_size,
    )  # fmt: skip
    steps = config.epochs * len(order)

    def schedule(progress: Progress) -> float:
        spent = progress.seconds / (60 * config.minutes) if config.minutes else 0.0
        return learning_rate_factor(
            config.schedule, max(progress.step / steps, spent), step=progress.step, epoch=progress.epoch,
            warmup_steps=config.warmup_steps, lr_step_epochs=config.lr_step_epochs, lr_gamma=config.lr_gamma,
        )  # fmt: skip

    training = Training(
        detector, network,
        build_optimizer(
            network, config.optimizer, lr=config.lr, backbone_lr_factor=config.backbone_lr_factor,
            momentum=config.momentum, weight_decay=config.weight_decay,
        ),
        schedule,
        average=MovingAverage(network, config.ema_decay) if config.ema_decay else None,
        clip_norm=config.clip_norm,
        precision=training_precision(config.precision, device),
    )  # fmt: skip
    if process.world_size > 1:
        torch.manual_seed(config.seed + 1000 * (process.rank + 1))  # each process samples other proposals
    return training, order


def training_precision(wanted: str, device: torch.device) -> torch.dtype:
    """Return what to compute in: wanted, or for "auto" the fastest that device multiplies in hardware."""
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[wanted]
    return fast_precision(device)


def build_detector(config: TrainConfig, device: torch.device) -> Detector:
    """Build the network that config asks for; with the weights it starts from, unless it is to go on."""
    folder = Path(config.weights)
    if (folder / CARD_FILE).is_file():
        started_from = read_card(folder).network.model_dump()
        network = NetworkConfig.model_validate({**started_from, **network_overrides(config)})
    else:
        network = architectures.network_config(config.architecture, **network_overrides(config))
    detector = Detector(ModelCard(network=network, class_names=CLASS_NAMES), device=device)
    if not config.resume:  # the checkpoint has them
        load_start_weights(detector, config)
    return detector


def load_start_weights(detector: Detector, config: TrainConfig) -> None:
    """Load the weights that training starts from into detector, on its own device.

    Raises:
        DetectorError: there are none, or they are of another network or other classes.
    """
    source = Path(config.weights)
    if (source / CARD_FILE).is_file():
        start = detectors.load_folder(source, optimize=False)
        state = detectors.weights_in_order(start, detector.class_names)
        load_weights(detector.network, state, str(source))
        return
    if config.weights == "coco":
        load_coco_weights(detector.network, config.architecture)
    elif config.weights != "none":
        load_weights(detector.network, load_state_dict(source), config.weights)
    if config.backbone_weights:
        left_out = load_backbone_weights(detector.network, config.backbone_weights)
        if left_out:
            say(f"{config.backbone_weights}: not used: {', '.join(left_out)}")


def network_overrides(config: TrainConfig) -> dict[str, object]:
    """Return the fields of NetworkConfig that config sets."""
    given = {
        name: getattr(config, name, None) for name in NetworkConfig.model_fields if name != "architecture"
    }
    if config.double_normalise:
        once = architectures.network_config(config.architecture, **given)
        given |= architectures.detectos_input(once).model_dump(
            include={"image_mean", "image_std", "antialias"}
        )
    return {name: value for name, value in given.items() if value is not None}


def set_training_budgets(network: Any, config: TrainConfig) -> None:
    """Set how many anchors and proposals the losses look at; detection has budgets of its own."""
    network.rpn.fg_bg_sampler.batch_size_per_image = config.rpn_batch
    network.rpn._pre_nms_top_n["training"] = config.train_proposals
    network.rpn._post_nms_top_n["training"] = config.train_proposals
    network.roi_heads.fg_bg_sampler.batch_size_per_image = config.roi_batch
