"""Fine-tune the weapon detector, log the run to MLflow, register the best model.

    python train.py --preset original --data PATH/TO/Sohas_weapon-Detection
    python train.py --preset cpu --data A B --backbone-weights FILE --minutes 60 --output runs/light
    python train.py ... --resume            # go on after an interruption, with the same flags
    torchrun --nproc-per-node 2 train.py ... # several processes; the batch is shared among them

Every knob: python train.py --help
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console
from torch.utils.data import DataLoader
from tqdm import tqdm

import dataset
import detector as detectors
import devices
import engine
import metrics
import processes
import registry
import report
import tracker
import transforms
from dataset import Sample
from detections import CLASS_NAMES
from detector import Detector
from engine import Progress, Training
from schemas import CARD_FILE, ModelCard, NetworkConfig
from settings import TorchrunSettings, TrainConfig, fix_cublas_workspace, train_config

MOST_WORKERS = 16
TIMED_IMAGES = 50  # how many photographs the latency of a finished model is measured on

console = Console(stderr=True, soft_wrap=True, markup=False, emoji=False)


class Interruption:
    """Ctrl-C and SIGTERM ask for a stop after the step under way; a second Ctrl-C stops at once.

    A second SIGTERM does not: systemd signals each process, and torchrun passes its own signal on to them.
    """

    def __init__(self, *, tell: bool) -> None:
        """Listen from now on, and tell the person at the terminal what was understood if tell is true."""
        self.asked, self._tell = False, tell
        signal.signal(signal.SIGINT, self._ask)
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        asked_before, self.asked = self.asked, True
        if asked_before and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self._tell and not asked_before:  # os.write: print may be in the middle of a line of its own
            os.write(2, b"\nstopping after the next step, with a checkpoint; Ctrl-C again stops at once\n")


def main() -> None:
    """Train as the command line says."""
    config = train_config()
    process = TorchrunSettings()
    known = (
        dataset.DatasetError, detectors.DetectorError, devices.NoSuchDevice, tracker.RegistryError,
        engine.WrongCheckpoint, engine.NonFiniteLoss, UnusableBatch, UnusableOutput,
    )  # fmt: skip
    try:
        train(config, process)
    except known as error:
        raise SystemExit(f"error: {error}") from error
    except processes.FailedElsewhere as error:
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        say(f"stopped at once; --resume goes on from {checkpoint_of(config)}, if there is one")
        raise SystemExit(130) from None
    finally:
        processes.leave()


def train(config: TrainConfig, process: TorchrunSettings) -> None:
    """Run the whole training; the last lines printed say what came of it."""
    interruption = Interruption(tell=process.rank == 0)
    device = set_up_machine(config, process)
    processes.from_first(lambda: check_surroundings(config))
    train_samples, val_samples = processes.together(lambda: read_data(config, process))
    training, order = processes.together(lambda: build_training(config, process, train_samples, device))
    splits = {"train": train_samples, "val": val_samples}
    data = {split: dataset.fingerprint(samples) for split, samples in splits.items()}  # reads every file
    check_same_data(data)
    identity = run_identity(config, training, data)
    if config.resume:
        engine.load_checkpoint(training, checkpoint_of(config), identity=identity)
    training.network = processes.averaged(training.network, device)
    logged = {
        **config.model_dump(mode="json"),
        "mlflow_tracking_uri": tracker.shown(config.mlflow_tracking_uri),
    }
    with tracker.training_run(
        config.mlflow_tracking_uri, config.experiment, config.run_name, logged,
        resume_run_id=training.progress.run_id or None, folder=config.output, active=process.rank == 0,
    ) as run:  # fmt: skip
        training.progress.run_id = run.run_id
        log_data(run, splits, data)
        keeper = Keeper(config, training, run, interruption, identity=identity)
        names = [sample.name for sample in train_samples]
        with transforms.ending_workers(loader(config, process, training, train_samples, order)) as batches:
            keeper.restart_clock()
            keeper.agree()  # the clock sets the rate of the very first step too
            whole = fit(keeper, order, batches, val_samples, names)
        if not whole:
            run.interrupted()
            if run.active:
                say(f"stopped after {training.progress.step} steps; go on with the same flags and --resume")
        elif run.active:
            finish(config, training, train_samples, val_samples, run, workers=batches.num_workers)


# --- before -----------------------------------------------------------------------------------------


class UnusableOutput(OSError):
    """The output folder cannot be used."""


def check_surroundings(config: TrainConfig) -> None:
    """See that output folder and tracker can be used: now, not after the last epoch.

    Raises:
        UnusableOutput: the folder cannot be written, or holds another training.
        RegistryError: the tracker does not answer, or the model's name is none.
    """
    prepare_output(config)
    tracker.check_tracker(config.mlflow_tracking_uri)
    if config.register_model:
        registry.check_name(config.model_name, tracking_uri=config.mlflow_tracking_uri)


def prepare_output(config: TrainConfig) -> None:
    """Make the output folder and see that it can be written and holds no other training."""
    try:
        config.output.mkdir(parents=True, exist_ok=True)
        probe = config.output / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise UnusableOutput(f"expected a folder to write to at --output {config.output}: {error}") from error
    if checkpoint_of(config).exists() and not config.resume:
        raise UnusableOutput(
            f"{config.output} holds an unfinished training. Go on with --resume, choose another "
            "--output, or delete the folder."
        )


class UnusableBatch(ValueError):
    """The images of a step cannot be shared among the processes."""


def set_up_machine(config: TrainConfig, process: TorchrunSettings) -> torch.device:
    """Seed, set threads, join the other processes and return the device of this one.

    Raises:
        NoSuchDevice: it is not in this machine.
        UnusableBatch: the processes cannot share it.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = devices.choose_device(config.device, local_rank=process.local_rank)
    if config.deterministic:
        fix_cublas_workspace()
        devices.make_deterministic(device)
    if process.world_size > 1:
        if config.batch_size % process.world_size:
            raise UnusableBatch(
                f"expected a --batch-size that {process.world_size} processes can share alike, got "
                f"{config.batch_size}: give a multiple of {process.world_size}"
            )
        processes.join(device)
    torch.manual_seed(config.seed)
    return device


def read_data(config: TrainConfig, process: TorchrunSettings) -> tuple[list[Sample], list[Sample]]:
    """Return the training and validation samples, and say what was left out.

    Raises:
        DatasetError: they cannot be used, down to the last picture.
    """
    splits = []
    splits_wanted: tuple[dataset.Split, ...] = ("train", "val")
    for split in splits_wanted:
        found = dataset.DatasetReport()
        samples = dataset.read_samples(
            config.data, split, val_fraction=config.val_fraction,
            negative_val_fraction=config.negative_val_fraction, negatives=config.negatives, report=found,
        )  # fmt: skip
        splits.append(samples)
        for divided in found.divisions if split == "train" else ():
            say(f"train and val of {divided}")
            for warning in divided.warnings:
                say(f"warning: {warning}")
        say(f"{split}: {found.summary()}")
        for problem in found.errors:
            say(f"  {problem}")
    train_samples, val_samples = splits
    if config.limit:
        train_samples = train_samples[:: max(1, len(train_samples) // config.limit)][: config.limit]
    if process.rank == 0:
        samples = [*train_samples, *val_samples]
        with tqdm(total=len(samples), desc="check images", unit="image", leave=False, mininterval=2.0) as bar:
            dataset.check_images(samples, bar.update)
    return train_samples, val_samples


def build_training(
    config: TrainConfig, process: TorchrunSettings, samples: Sequence[Sample], device: torch.device
) -> tuple[Training, transforms.EpochOrder]:
    """Build the detector, its optimiser and the order of the epochs."""
    detector = build_detector(config, device)
    network = detector.network
    detectors.freeze_backbone(network, config.trainable_layers)
    set_training_budgets(network, config)
    if config.channels_last:
        network.backbone.to(memory_format=torch.channels_last)
    # With pictures of one size it pays to try cuDNN's convolutions out once.
    torch.backends.cudnn.benchmark = config.augmentation in transforms.JITTERS and not config.deterministic
    order = transforms.EpochOrder(
        transforms.repeat_factors(samples, config.repeat_threshold, negatives=config.repeat_negatives),
        config.batch_size,
        seed=config.seed, rank=process.rank, world_size=process.world_size,
    )  # fmt: skip
    steps = config.epochs * len(order)

    def schedule(progress: Progress) -> float:
        spent = progress.seconds / (60 * config.minutes) if config.minutes else 0.0
        return engine.learning_rate_factor(
            config.schedule, max(progress.step / steps, spent), step=progress.step, epoch=progress.epoch,
            warmup_steps=config.warmup_steps, lr_step_epochs=config.lr_step_epochs, lr_gamma=config.lr_gamma,
        )  # fmt: skip

    training = Training(
        detector, network,
        engine.build_optimizer(
            network, config.optimizer, lr=config.lr, backbone_lr_factor=config.backbone_lr_factor,
            momentum=config.momentum, weight_decay=config.weight_decay,
        ),
        schedule,
        average=engine.MovingAverage(network, config.ema_decay) if config.ema_decay else None,
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
    if device.type == "cuda":  # cards before Ampere only emulate bfloat16, slowly
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.bfloat16 if detectors.has_fast_bf16() else torch.float32


def build_detector(config: TrainConfig, device: torch.device) -> Detector:
    """Build the network that config asks for; with the weights it starts from, unless it is to go on."""
    folder = Path(config.weights)
    if (folder / CARD_FILE).is_file():
        started_from = detectors.read_card(folder).network.model_dump()
        network = NetworkConfig.model_validate({**started_from, **network_overrides(config)})
    else:
        network = detectors.network_config(config.architecture, **network_overrides(config))
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
        detectors.load_weights(detector.network, state, str(source))
        return
    if config.weights == "coco":
        detectors.load_coco_weights(detector.network, config.architecture)
    elif config.weights != "none":
        detectors.load_weights(detector.network, detectors.load_state_dict(source), config.weights)
    if config.backbone_weights:
        left_out = detectors.load_backbone_weights(detector.network, config.backbone_weights)
        if left_out:
            say(f"{config.backbone_weights}: not used: {', '.join(left_out)}")


def network_overrides(config: TrainConfig) -> dict[str, object]:
    """Return the fields of NetworkConfig that config sets."""
    given = {
        name: getattr(config, name, None) for name in NetworkConfig.model_fields if name != "architecture"
    }
    if config.double_normalise:
        once = detectors.network_config(config.architecture, **given)
        given |= detectors.detectos_input(once).model_dump(include={"image_mean", "image_std", "antialias"})
    return {name: value for name, value in given.items() if value is not None}


def set_training_budgets(network: Any, config: TrainConfig) -> None:
    """Set how many anchors and proposals the losses look at; detection has budgets of its own."""
    network.rpn.fg_bg_sampler.batch_size_per_image = config.rpn_batch
    network.rpn._pre_nms_top_n["training"] = config.train_proposals
    network.rpn._post_nms_top_n["training"] = config.train_proposals
    network.roi_heads.fg_bg_sampler.batch_size_per_image = config.roi_batch


def loader(
    config: TrainConfig, process: TorchrunSettings, training: Training, samples: Sequence[Sample],
    order: transforms.EpochOrder,
) -> DataLoader[Any]:  # fmt: skip
    """Return the batches of the training split, read and moved about by processes of their own."""
    network = training.detector.card.network  # not config: weights of a folder bring their own sizes
    augment = transforms.augmentation(
        config.augmentation, min_size=network.min_size, max_size=network.max_size,
        jitter_low=config.jitter_low, jitter_high=config.jitter_high,
    )  # fmt: skip
    images = transforms.TrainingImages(
        samples, augment, seed=config.seed, mosaic_share=config.mosaic,
        mosaic_size=min(network.min_size, network.max_size), paste_share=config.paste,
    )  # fmt: skip
    workers = loader_workers(config, process)
    return DataLoader(
        images, batch_sampler=order, num_workers=workers, collate_fn=transforms.collate,
        worker_init_fn=transforms.one_thread, persistent_workers=bool(workers),
        pin_memory=training.detector.device.type == "cuda",
        generator=torch.Generator(),  # its own: starting an epoch twice must draw nothing from the network's
    )  # fmt: skip


def loader_workers(config: TrainConfig, process: TorchrunSettings) -> int:
    """Return how many processes read images for this one: --workers, or all cores but one, shared fairly.

    More than MOST_WORKERS would fill /dev/shm with batches that no card is waiting for.
    """
    if config.workers is not None:
        return config.workers
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, max(1, cores // process.local_world_size - 1))


def check_same_data(fingerprints: Mapping[str, str]) -> None:
    """See that every process, on whatever machine, has read the same photographs and boxes."""
    for other, theirs in enumerate(processes.gathered(dict(fingerprints))):
        if theirs != dict(fingerprints):
            raise dataset.DatasetError(
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
        "preset", "data",
    }  # fmt: skip
    settings = config.model_dump(mode="json", exclude=free) | {
        "device": training.detector.device.type,
        "precision": str(training.precision).removeprefix("torch."),
        "weights": _place(config.weights),
        "backbone_weights": config.backbone_weights and _place(str(config.backbone_weights)),
        "network": training.detector.card.network.model_dump(mode="json"),
    }
    return {name: json.dumps(value) for name, value in settings.items()} | {
        f"{split} data": fingerprint for split, fingerprint in data.items()
    }


def _place(weights: str) -> str:
    """Return the whole path of a file or folder of weights; a word such as "coco" stays."""
    return weights if weights in ("coco", "none") else str(Path(weights).resolve())


def log_data(
    run: tracker.TrainingRun, splits: Mapping[str, Sequence[Sample]], fingerprints: Mapping[str, str]
) -> None:
    """Log which images were trained and validated on, and how many boxes of what."""
    for split, samples in splits.items():
        folders = sorted({str(sample.image_path.parent.resolve()) for sample in samples})
        run.log_dataset(split, fingerprints[split], split_summary(samples), folders=folders)
        run.log_text("\n".join(sample.name for sample in samples), f"splits/{split}.txt")


def split_summary(samples: Sequence[Sample]) -> dict[str, object]:
    """Return counts of images, images without objects, and boxes per class."""
    labels = [int(label) for sample in samples for label in sample.labels]
    boxes = {name: labels.count(index) for index, name in enumerate(CLASS_NAMES) if index}
    return {
        "images": len(samples),
        "without_objects": sum(not len(s.labels) for s in samples),
        "boxes": boxes,
    }


# --- the loop ---------------------------------------------------------------------------------------


def fit(
    keeper: Keeper, order: transforms.EpochOrder, batches: DataLoader[Any], val_samples: Sequence[Sample],
    names: Sequence[str],
) -> bool:  # fmt: skip
    """Train to the end; return False if somebody asked for a stop before it."""
    config, training = keeper.config, keeper.training
    progress = training.progress
    while not over(config, progress):
        order.epoch, order.first_batch = progress.epoch, progress.batch
        with keeper.bar(len(order)):
            means = engine.train_one_epoch(training, batches, names=names, after_step=keeper.after_step)
        if keeper.interrupted:
            keeper.save()
            return False
        keeper.run.log_metrics({f"train/epoch_{name}": value for name, value in means.items()}, progress.step)
        if progress.epoch % config.eval_epochs == 0 or over(config, progress):
            validate(config, training, val_samples, keeper.run, workers=batches.num_workers)
            keeper.restart_clock()
            keeper.agree()
        keeper.save()
    return True


def over(config: TrainConfig, progress: Progress) -> bool:
    """Return whether the epochs, the minutes or the patience are used up."""
    late = config.minutes is not None and progress.seconds >= 60 * config.minutes
    tired = bool(config.patience) and progress.stale >= config.patience
    return late or tired or progress.epoch >= config.epochs


class Keeper:
    """What happens after every step: the clock, the bar, the live curves, the checkpoint, a wish to stop.

    Attributes:
        interrupted: somebody asked for a stop.
    """

    def __init__(
        self, config: TrainConfig, training: Training, run: tracker.TrainingRun, interruption: Interruption,
        *, identity: Mapping[str, str],
    ) -> None:  # fmt: skip
        """Start the clock."""
        self.config, self.training, self.run = config, training, run
        self.interruption, self.identity = interruption, identity
        self.interrupted = False
        self.now = self.saved = time.monotonic()

    def bar(self, steps: int) -> tqdm[Any]:
        """Return a progress bar over the epoch under way, of that many steps."""
        progress = self.training.progress
        self._bar = tqdm(
            total=steps, initial=progress.batch, unit="step", disable=not self.run.active, mininterval=2.0,
            desc=f"epoch {progress.epoch + 1}/{self.config.epochs}",
        )  # fmt: skip
        return self._bar

    def after_step(self, losses: dict[str, float]) -> bool:
        """Move clock and bar on, log now and then; return whether to stop in the middle of the epoch."""
        progress, config = self.training.progress, self.config
        seconds = self.restart_clock()
        save = self.agree()
        live = {
            "train/loss": sum(losses.values()),
            "train/lr": self.training.optimizer.param_groups[-1]["lr"],
            "train/images_per_s": config.batch_size / seconds,
        }
        self._bar.set_postfix(
            loss=f"{live['train/loss']:.3f}", lr=f"{live['train/lr']:.1e}",
            images_s=f"{live['train/images_per_s']:.1f}", refresh=False,
        )  # fmt: skip
        self._bar.update()
        if progress.step % 20 == 0 or progress.step == 1:  # the first, so that a short run has curves too
            parts = {f"train/{name}": value for name, value in losses.items()}
            self.run.log_metrics({**parts, **live}, progress.step)
        if save:
            self.save()
        return self.interrupted or (config.minutes is not None and progress.seconds >= 60 * config.minutes)

    def agree(self) -> bool:
        """Let all processes have one clock and one wish to stop; return whether to save, alike in all.

        The clock sets the learning rate and ends the training, and saving takes all of them: a process
        that saw either by itself would wait for the others for good.
        """
        progress, device = self.training.progress, self.training.detector.device
        due = self.now - self.saved > 60 * self.config.checkpoint_minutes
        stop, save, progress.seconds = processes.largest(
            [self.interruption.asked, due, progress.seconds], device
        )
        self.interrupted = bool(stop)
        return bool(save)

    def restart_clock(self) -> float:
        """Count the time since the last call as spent, and return it in seconds."""
        last, self.now = self.now, time.monotonic()
        self.training.progress.seconds += self.now - last
        return self.now - last

    def save(self) -> None:
        """Write the checkpoint, in all processes at once."""
        engine.save_checkpoint(self.training, checkpoint_of(self.config), identity=self.identity)
        self.saved = time.monotonic()


def checkpoint_of(config: TrainConfig) -> Path:
    """Return where the checkpoint of this training is."""
    return config.output / "checkpoint.pt"


def validate(
    config: TrainConfig, training: Training, samples: Sequence[Sample], run: tracker.TrainingRun, *,
    workers: int,
) -> None:  # fmt: skip
    """Score the averaged weights on the validation split and keep them if they are the best so far."""
    progress = training.progress
    if run.active:
        averaged = training.average.module if training.average is not None else training.detector.network
        candidate, served = (Detector(training.detector.card, device=training.detector.device) for _ in "ab")
        for one in (candidate, served):
            one.network.load_state_dict(averaged.state_dict())
        detectors.arrange_for_speed(served)
        found = engine.detect_all(served, samples, workers=workers, description="validate")
        scores = metrics.coco_summary([s.truth for s in samples], found, CLASS_NAMES)
        run.log_metrics({f"val/{name}": value for name, value in scores.items()}, progress.step)
        say(
            f"epoch {progress.epoch}: val map {scores.get('map', 0):.4f} map_50 {scores.get('map_50', 0):.4f}"
        )
        if scores.get("map", 0.0) > progress.best_map:  # without a single truth box there is no mAP
            progress.best_map, progress.best_epoch = scores.get("map", 0.0), progress.epoch
            progress.stale = 0
            candidate.save_folder(config.output / "best", half=config.half)
        else:
            progress.stale += 1
    progress.stale = processes.from_first(lambda: progress.stale)  # all must stop at the same epoch


# --- after ------------------------------------------------------------------------------------------


def finish(
    config: TrainConfig, training: Training, train_samples: Sequence[Sample], val_samples: Sequence[Sample],
    run: tracker.TrainingRun, *, workers: int,
) -> None:  # fmt: skip
    """Choose the operating point on the validation split, write report and model, register it.

    All figures are those of the model as it is served: its folder, loaded as the API loads it.
    """
    folder = config.output / "best"
    served = detectors.load_folder(folder, device=training.detector.device)
    found = engine.detect_all(served, val_samples, workers=workers, description="choose the operating point")
    truths = [sample.truth for sample in val_samples]
    point = metrics.choose_operating_point(
        truths, found, CLASS_NAMES, split="val", max_false_alarms_per_1000=config.max_false_alarms
    )
    results = metrics.build_report(
        truths, found, CLASS_NAMES, names=[sample.name for sample in val_samples],
        groups=[sample.recording for sample in val_samples], operating_point=point, split="val",
        model=config.run_name or config.output.name,
        data={
            "Data": ", ".join(map(str, config.data)),
            "Fingerprint": dataset.fingerprint(val_samples),
            "Code": tracker.git_commit() or "not under git",
            "MLflow run": run.run_id,
        },
    )  # fmt: skip
    results = dataclasses.replace(results, latency=measure_latency(served, val_samples))
    report.write_report(results, config.output / "report", samples=val_samples)
    run.log_artifacts(config.output / "report", "report")
    numbers = metrics.flat_metrics(results)
    run.log_metrics(
        {name.replace("val/", "best/val/"): value for name, value in numbers.items()}, training.progress.step
    )
    card = served.card.model_copy(
        update={
            "operating_point": point,
            "class_thresholds": metrics.class_thresholds(truths, found, CLASS_NAMES),
            "alarm_curve": metrics.alarm_curve(truths, found, CLASS_NAMES),
            "metrics": numbers,
            "tables": metrics.card_tables(results),
            **provenance(config, train_samples, val_samples, run.run_id),
        }
    )
    detectors.write_card(folder, card)
    where = str(folder)
    if config.register_model:
        where = str(
            registry.log_and_register(
                folder, name=config.model_name, tracking_uri=config.mlflow_tracking_uri, run_id=run.run_id
            )
        )
    checkpoint_of(config).unlink(missing_ok=True)
    print(
        f"{where}: val map {numbers.get('val/map', 0):.4f}, "
        f"map_50 {numbers.get('val/map_50', 0):.4f}; at score "
        f"{point.score_threshold:.2f} weapon image recall {point.image_recall:.3f} with "
        f"{point.false_alarms_per_1000:.0f} false alarms per 1,000 weapon-free images (validation split)"
    )


def measure_latency(served: Detector, samples: Sequence[Sample]) -> metrics.Latency:
    """Time the model as it is served, on a few photographs."""
    detectors.warm_up(served)
    return engine.evaluate(served, samples[:TIMED_IMAGES], progress=False)[1]


def provenance(
    config: TrainConfig, train_samples: Sequence[Sample], val_samples: Sequence[Sample], run_id: str
) -> dict[str, object]:
    """Return the fields of the model card that say where a model comes from."""
    return {
        "data_fingerprint": dataset.fingerprint([*train_samples, *val_samples]),
        "data": {
            "roots": [dataset.find_root(root).parent.name for root in config.data],
            "train": split_summary(train_samples),
            "val": split_summary(val_samples),
        },
        "library_versions": tracker.library_versions(),
        "git_commit": tracker.git_commit(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "run_id": run_id,
    }


def say(sentence: str) -> None:
    """Tell the person at the terminal something, beside the progress bar."""
    console.print(sentence, highlight=False)


if __name__ == "__main__":
    main()
