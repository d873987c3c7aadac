"""What a training starts from: network, weights, optimiser and order of the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from commands import TrainConfig
from detection import architectures
from detection import detector as detectors
from detection.card import read_card
from detection.detections import Classes
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
    config: TrainConfig, process: TorchrunSettings, samples: Sequence[Sample], classes: Classes,
    device: torch.device,
) -> tuple[Training, loading.EpochOrder]:  # fmt: skip
    """Build the detector, its optimiser and the order of the epochs."""
    detector = build_detector(config, classes, device)
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


def build_detector(config: TrainConfig, classes: Classes, device: torch.device) -> Detector:
    """Build the network that config asks for; with the weights it starts from, unless it is to go on."""
    folder = Path(config.weights)
    if (folder / CARD_FILE).is_file():
        started_from = read_card(folder).network.model_dump()
        network = NetworkConfig.model_validate({**started_from, **network_overrides(config)})
    else:
        network = architectures.network_config(config.architecture, **network_overrides(config))
    card = ModelCard(network=network, class_names=classes.names, dangerous=classes.dangerous)
    detector = Detector(card, device=device)
    if not config.resume:  # the checkpoint has them
        load_start_weights(detector, config)
    return detector


def load_start_weights(detector: Detector, config: TrainConfig) -> None:
    """Load the weights that training starts from into detector, on its own device.

    Raises:
        DetectorError: there are none, or they are of another network.
    """
    source = Path(config.weights)
    if (source / CARD_FILE).is_file():
        start = detectors.load_folder(source, optimize=False)
        load_weights(detector.network, weights_for(detector, start), str(source))
        tell_new_classes(detector, start)
        return
    if config.weights == "coco":
        load_coco_weights(detector.network, config.architecture)
    elif config.weights != "none":
        load_weights(detector.network, load_state_dict(source), config.weights)
    if config.backbone_weights:
        left_out = load_backbone_weights(detector.network, config.backbone_weights)
        if left_out:
            say(f"{config.backbone_weights}: not used: {', '.join(left_out)}")


def weights_for(detector: Detector, start: Detector) -> dict[str, Tensor]:
    """Return start's weights; of the last layer the rows of the classes that both know, new ones as drawn.

    Args:
        detector: with random weights, whose classes they are for.
        start: what has learnt, maybe to tell other classes apart.
    """
    state: dict[str, Tensor] = start.network.state_dict()
    drawn = detector.network.state_dict()
    shared = [name for name in detector.class_names if name in start.class_names]
    for name, own in drawn.items():
        if name.startswith(architectures.HEAD) and state[name].shape[1:] == own.shape[1:]:
            # one score or four coordinates of each class after the other
            rows: Tensor = own.clone().reshape(len(detector.class_names), -1, *own.shape[1:])
            learnt = state[name].reshape(len(start.class_names), -1, *own.shape[1:])
            for each in shared:
                rows[detector.class_names.index(each)] = learnt[start.class_names.index(each)]
            state[name] = rows.flatten(0, 1)
    return state


def tell_new_classes(detector: Detector, start: Detector) -> None:
    """Say which classes begin anew, which are left out, and that a second look is."""
    new = [name for name in detector.class_names if name not in start.class_names]
    gone = [name for name in start.class_names if name not in detector.class_names]
    if new or gone:
        gone += ["the second look"] if start.second_look is not None else []
        parts = (("new here", new), ("left out", gone))
        told = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)
        say(f"starting from a model of other classes; {told}")


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
