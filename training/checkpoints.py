"""The state of a training: what an interrupted one needs to go on as if nothing had happened."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from commands import TrainConfig
from detection.detector import Detector
from detection.files import whole_file
from photosets import layout
from training import processes
from training.schedule import MovingAverage


class WrongCheckpoint(ValueError):
    """A checkpoint does not belong to the run that wants to go on from it."""


@dataclass
class Progress:
    """How far a training has come. Counts from 0.

    Attributes:
        epoch: epochs completed.
        batch: batches completed in the epoch under way.
        step: optimiser updates in all.
        images: images seen in all, by every process.
        seconds: time spent training and evaluating, over all sittings.
        best_map: best validation mAP so far; -1 before the first.
        stale: evaluations since then.
        sums: sum of each loss over the images of the epoch under way.
        run_id: the MLflow run.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    images: int = 0
    epoch_images: int = 0
    seconds: float = 0.0
    best_map: float = -1.0
    best_epoch: int = -1
    stale: int = 0
    run_id: str = ""
    sums: dict[str, float] = field(default_factory=dict)


@dataclass
class Training:
    """The parts of a training under way.

    Attributes:
        detector: what is trained.
        network: its network, or the same wrapped for several processes.
        optimizer: every group carries its own highest rate as "peak_lr".
        schedule: Progress -> factor in (0, 1] on every peak_lr.
        average: exponential moving average of the weights, if wanted.
        clip_norm: largest gradient norm; 0 for none.
        precision: what convolutions and matrix products are computed in.
        scaler: keeps the gradients of float16 from vanishing; does nothing in any other precision.
    """

    detector: Detector
    network: nn.Module
    optimizer: Optimizer
    schedule: Callable[[Progress], float]
    average: MovingAverage | None = None
    clip_norm: float = 0.0
    precision: torch.dtype = torch.float32
    progress: Progress = field(default_factory=Progress)
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        """Make the scaler that the precision needs."""
        self.scaler = torch.amp.GradScaler(self.detector.device.type, enabled=self.precision == torch.float16)


def save_checkpoint(training: Training, path: Path, *, identity: Mapping[str, str]) -> None:
    """Write all that is needed to go on; path holds the old checkpoint or the whole new one.

    Every process must call this at the same step: the first writes, with the random numbers of all.

    Args:
        training: what is under way.
        path: a file; its folder exists.
        identity: everything that must not change between sittings, by name (data and configuration).
    """
    random_states = processes.gathered(_random_state(training.detector.device))
    if processes.rank() > 0:
        return
    state = {
        "identity": dict(identity),
        "progress": asdict(training.progress),
        "network": training.detector.network.state_dict(),
        "average": training.average.state_dict() if training.average is not None else {},
        "optimizer": training.optimizer.state_dict(),
        "scaler": training.scaler.state_dict(),
        "random": random_states,
    }
    with whole_file(path) as file:
        torch.save(state, file)


def load_checkpoint(training: Training, path: Path, *, identity: Mapping[str, str]) -> None:
    """Put training back to where save_checkpoint left it, random numbers included.

    The first process reads; the others, on this machine or another, get everything from it. Where there
    are more processes than before, the new ones draw random numbers of their own.

    Raises:
        WrongCheckpoint: there is none, it is damaged, or it is of other data or another configuration.
        FailedElsewhere: the same, in every process but the first.
    """
    state = processes.from_first(lambda: _read_checkpoint(path, identity))
    training.detector.network.load_state_dict(state["network"])
    if training.average is not None:
        training.average.load_state_dict(state["average"])
    training.optimizer.load_state_dict(state["optimizer"])
    training.scaler.load_state_dict(state["scaler"])
    training.progress.__dict__.update(state["progress"])
    if processes.rank() < len(state["random"]):
        _set_random_state(state["random"][processes.rank()], training.detector.device)


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """Return the state of each generator that training draws from; NumPy's are made anew each epoch."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _read_checkpoint(path: Path, identity: Mapping[str, str]) -> dict[str, Any]:
    if not path.is_file():
        raise WrongCheckpoint(f"expected a checkpoint at {path}, found none; leave --resume out to start")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:
        raise WrongCheckpoint(
            f"{path} is no readable checkpoint ({type(error).__name__}: {error}). Delete it to start anew, "
            "or choose another --output."
        ) from error
    if not isinstance(state, dict) or not {"progress", "identity"} <= state.keys():
        raise WrongCheckpoint(f"{path} is not a checkpoint of this train.py but another torch file")
    kept: dict[str, str] = state["identity"]
    differing = [
        f"{name} was {kept.get(name, 'not set')}, now {identity.get(name, 'not set')}"
        for name in sorted(kept.keys() | identity.keys())
        if kept.get(name) != identity.get(name)
    ]
    if differing:
        raise WrongCheckpoint(
            f"{path} belongs to other data or another configuration: {'; '.join(differing[:5])}. Give the "
            "flags of that run, or leave --resume out and choose another --output."
        )
    return state


def check_same_data(fingerprints: Mapping[str, str]) -> None:
    """See that every process, on whatever machine, has read the same photographs and boxes."""
    for other, theirs in enumerate(processes.gathered(dict(fingerprints))):
        if theirs != dict(fingerprints):
            raise layout.DatasetError(
                f"expected the same photographs and annotations in every process, but process {other} has "
                f"others than process {processes.rank()}: copy the data anew to every machine"
            )


def run_identity(config: TrainConfig, training: Training, data: Mapping[str, str]) -> dict[str, str]:
    """Return, by name, all that must stay the same between the sittings of one training.

    It is what things are that counts, not how they are spelt: data by its fingerprint, files by their
    place, device and precision by what was chosen.

    Args:
        config: of the training; what may change between sittings is left out.
        training: built from it.
        data: fingerprint of each split.
    """
    free = {
        "resume", "threads", "workers", "checkpoint_minutes", "mlflow_tracking_uri", "output",
        "preset", "data", "classes", "dangerous",
        "point_data", "max_unsure",  # at the very end only
    }  # fmt: skip
    settings = config.model_dump(mode="json", exclude=free) | {
        "device": training.detector.device.type,
        "precision": str(training.precision).removeprefix("torch."),
        "weights": _place(config.weights),
        "backbone_weights": config.backbone_weights and _place(str(config.backbone_weights)),
        "network": training.detector.card.network.model_dump(mode="json"),
        "the model's classes": training.detector.card.class_names,
        "weapons": training.detector.card.dangerous,
    }
    return {name: json.dumps(value) for name, value in settings.items()} | {
        f"{split} data": fingerprint for split, fingerprint in data.items()
    }


def _place(weights: str) -> str:
    """Return the whole path of a file or folder of weights; a word such as "coco" stays."""
    return weights if weights in ("coco", "none") else str(Path(weights).resolve())
