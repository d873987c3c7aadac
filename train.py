"""Fine-tune the weapon detector, log the run to MLflow, register the best model.

    python train.py --preset original --data PATH/TO/Sohas_weapon-Detection
    python train.py --preset cpu --data A B --backbone-weights FILE --minutes 60 --output runs/light
    python train.py ... --resume            # go on after an interruption, with the same flags
    torchrun --nproc-per-node 2 train.py ... # several processes; the batch is shared among them

Every knob: python train.py --help
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm import tqdm

import metrics
from commands import TrainConfig, fix_cublas_workspace, train_config
from detection import detections, devices
from detection import detector as detectors
from detection.card import DetectorError, classes_of, read_card, write_card
from detection.detections import Classes
from detection.detector import Detector
from detection.runtime import warm_up
from evaluation import chosen
from evaluation import report as reports
from evaluation.pictures import look_at_pictures
from evaluation.results import build_report, flat_metrics
from photosets import layout
from photosets import samples as photographs
from photosets.classes import training_classes
from photosets.found import find_roots
from photosets.samples import Sample
from photosets.statistics import split_summary
from settings import TorchrunSettings
from tracking import logged_model, tracker, versions
from tracking import run as runs
from tracking.provenance import git_commit, library_versions
from training import checkpoints, engine, exporting, processes
from training import loader as loading
from training.checkpoints import Progress, Training, check_same_data, run_identity
from training.interruption import Interruption
from training.loader import loader, loader_workers
from training.reading import point_samples, read_data
from training.second_look import teach
from training.start import build_training
from training.terminal import say

TIMED_IMAGES = 50  # how many photographs the latency of a finished model is measured on


def main() -> None:
    """Train as the command line says."""
    config = train_config()
    process = TorchrunSettings()
    known = (
        layout.DatasetError, DetectorError, devices.NoSuchDevice, tracker.RegistryError,
        checkpoints.WrongCheckpoint, engine.NonFiniteLoss, UnusableBatch, UnusableOutput, NoTimeLeft,
    )  # fmt: skip
    try:
        (train if config.second_look_of is None else train_second_look)(config, process)
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
    started = time.monotonic()
    interruption = Interruption(tell=process.rank == 0)
    classes = training_classes(config.classes, config.dangerous)
    device = set_up_machine(config, process)
    processes.from_first(lambda: check_surroundings(config))
    train_samples, val_samples = processes.together(lambda: read_data(config, classes, process))
    training, order = processes.together(
        lambda: build_training(config, process, train_samples, classes, device)
    )
    splits = {"train": train_samples, "val": val_samples}
    data = {split: photographs.fingerprint(samples) for split, samples in splits.items()}  # reads every file
    check_same_data(data)
    identity = run_identity(config, training, data)
    if config.resume:
        checkpoints.load_checkpoint(training, checkpoint_of(config), identity=identity)
    training.network = processes.averaged(training.network, device)
    with open_run(config, process, training.progress.run_id) as run:
        training.progress.run_id = run.run_id
        log_data(run, splits, data, classes)
        keeper = Keeper(config, training, run, interruption, identity=identity)
        if config.minutes_from == "start":
            keeper.now = started
        names = [sample.name for sample in train_samples]
        with loading.ending_workers(loader(config, process, training, train_samples, order)) as batches:
            keeper.restart_clock()
            keeper.agree()  # the clock sets the rate of the very first step too
            if not training.progress.step and over(config, training.progress):
                raise NoTimeLeft(
                    f"expected --minutes {config.minutes:g} to hold more than reading the data, which took "
                    f"{training.progress.seconds:.0f} s: give more"
                )
            whole = fit(keeper, order, batches, val_samples, names)
        if not whole:
            run.interrupted()
            if run.active:
                say(f"stopped after {training.progress.step} steps; go on with the same flags and --resume")
        elif run.active:
            step = training.progress.step
            finish(config, device, step, train_samples, val_samples, run, workers=batches.num_workers)


def train_second_look(config: TrainConfig, process: TorchrunSettings) -> None:
    """Teach the model of a folder to look at its weapon candidates again; what it finds stays as it is."""
    if process.world_size > 1:
        raise SystemExit("error: a second look is trained by one process: leave out torchrun")
    interruption = Interruption(tell=True)
    device = set_up_machine(config, process)
    check_surroundings(config)
    assert config.second_look_of is not None, "main asks"
    classes = classes_of(read_card(config.second_look_of))
    train_samples, val_samples = read_data(config, classes, process)
    splits = {"train": train_samples, "val": val_samples}
    with open_run(config, process, "") as run:
        prints = {split: photographs.fingerprint(samples) for split, samples in splits.items()}
        log_data(run, splits, prints, classes)
        workers = loader_workers(config, process)
        detector = teach(config, train_samples, device, run.log_metrics, interruption, workers=workers)
        if detector is None:
            run.interrupted()
            say("stopped; the same flags and --resume go on from the last pass over the crops")
            return
        detector.save_folder(config.output / "best", half=config.half)
        finish(config, device, config.epochs, train_samples, val_samples, run, workers=workers)


def open_run(
    config: TrainConfig, process: TorchrunSettings, run_id: str
) -> AbstractContextManager[runs.TrainingRun]:
    """Return the MLflow run of this training, or the one that it goes on with."""
    shown = {"mlflow_tracking_uri": tracker.shown(config.mlflow_tracking_uri)}
    return runs.training_run(
        config.mlflow_tracking_uri, config.experiment, config.run_name,
        {**config.model_dump(mode="json"), **shown}, resume_run_id=run_id or None, folder=config.output,
        active=process.rank == 0, parent_run_id=config.parent_run,
    )  # fmt: skip


class NoTimeLeft(RuntimeError):
    """The minutes were over before the first step."""


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
        versions.check_name(config.model_name, tracking_uri=config.mlflow_tracking_uri)


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


def log_data(
    run: runs.TrainingRun, splits: Mapping[str, Sequence[Sample]], fingerprints: Mapping[str, str],
    classes: Classes,
) -> None:  # fmt: skip
    """Log which images were trained and validated on, and how many boxes of what."""
    for split, samples in splits.items():
        folders = sorted({str(sample.image_path.parent.resolve()) for sample in samples})
        run.log_dataset(split, fingerprints[split], split_summary(samples, classes.names), folders=folders)
        run.log_text("\n".join(sample.name for sample in samples), f"splits/{split}.txt")


def fit(
    keeper: Keeper, order: loading.EpochOrder, batches: DataLoader[Any], val_samples: Sequence[Sample],
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
        self, config: TrainConfig, training: Training, run: runs.TrainingRun, interruption: Interruption,
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
        checkpoints.save_checkpoint(self.training, checkpoint_of(self.config), identity=self.identity)
        self.saved = time.monotonic()


def checkpoint_of(config: TrainConfig) -> Path:
    """Return where the checkpoint of this training is."""
    return config.output / "checkpoint.pt"


def validate(
    config: TrainConfig, training: Training, samples: Sequence[Sample], run: runs.TrainingRun, *,
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
        scores = metrics.coco_summary([s.truth for s in samples], found, training.detector.class_names)
        minutes = {"val/minutes": progress.seconds / 60}  # which a sweep compares trials by
        run.log_metrics({f"val/{name}": value for name, value in scores.items()} | minutes, progress.step)
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


def finish(
    config: TrainConfig, device: torch.device, step: int, train_samples: Sequence[Sample],
    val_samples: Sequence[Sample], run: runs.TrainingRun, *, workers: int,
) -> None:  # fmt: skip
    """Choose calibration, points and bands on the validation split, write report and model, register it.

    All figures are those of the model as it is served: its folder, loaded as the API loads it; and of the
    images that choose.
    """
    folder = config.output / "best"
    served = detectors.load_folder(folder, device=device)
    served.card = chosen.uncalibrated(served.card)
    classes = classes_of(served.card)
    samples = point_samples(config, val_samples)
    found = engine.detect_all(served, samples, workers=workers, description="choose the points")
    truths, groups = [sample.truth for sample in samples], [sample.recording for sample in samples]
    choice = chosen.choose(
        truths, found, classes, groups=groups, max_false_alarms_per_1000=config.max_false_alarms,
        max_unsure_per_1000=config.max_unsure,
    )  # fmt: skip
    point = choice.operating_point
    results = build_report(
        truths, choice.detections, classes, names=[sample.name for sample in samples], groups=groups,
        operating_point=point, unsure_point=choice.unsure_point, bands=choice.bands, split="val",
        model=config.run_name or config.output.name,
        data={
            "Data": ", ".join(map(str, config.point_data or config.data)),
            "Fingerprint": photographs.fingerprint(samples),
            "Code": git_commit() or "not under git",
            "MLflow run": run.run_id,
        },
    )  # fmt: skip
    results = chosen.with_reliability(results, choice)
    results = dataclasses.replace(results, latency=measure_latency(served, samples))
    pictures = look_at_pictures(results, samples, choice.detections)
    reports.write_report(results, config.output / "report", samples, pictures)
    run.log_artifacts(config.output / "report", "report")
    numbers = flat_metrics(results)
    run.log_metrics({name.replace("val/", "best/val/"): value for name, value in numbers.items()}, step)
    origin = provenance(config, train_samples, val_samples, classes, run.run_id)
    card = chosen.into_card(served.card, choice, results, truths).model_copy(update=origin)
    write_card(folder, card)
    if config.export:
        exporting.try_to_export(folder, train_samples, samples, say=say)
    where: object = folder
    if config.register_model:
        where = logged_model.log_and_register(
            folder, name=config.model_name, tracking_uri=config.mlflow_tracking_uri, run_id=run.run_id
        )
    checkpoint_of(config).unlink(missing_ok=True)
    print(
        f"{where}: val map {numbers.get('val/map', 0):.4f}, "
        f"map_50 {numbers.get('val/map_50', 0):.4f}; at score "
        f"{point.score_threshold:.2f} weapon image recall {point.image_recall:.3f} with "
        f"{point.false_alarms_per_1000:.0f} false alarms per 1,000 weapon-free images (validation split)"
    )


def measure_latency(served: Detector, samples: Sequence[Sample]) -> detections.Latency:
    """Time the model as it is served, on a few photographs."""
    warm_up(served)
    return engine.evaluate(served, samples[:TIMED_IMAGES], progress=False)[1]


def provenance(
    config: TrainConfig, train_samples: Sequence[Sample], val_samples: Sequence[Sample], classes: Classes,
    run_id: str,
) -> dict[str, object]:  # fmt: skip
    """Return the fields of the model card that say where a model comes from."""
    return {
        "data_fingerprint": photographs.fingerprint([*train_samples, *val_samples]),
        "data": {
            "roots": [root.name for root in find_roots(config.data)],
            "train": split_summary(train_samples, classes.names),
            "val": split_summary(val_samples, classes.names),
            "points": {
                "roots": [root.name for root in find_roots(config.point_data or config.data)],
                **split_summary(point_samples(config, val_samples), classes.names),
            },
        },
        "library_versions": library_versions(),
        "git_commit": git_commit(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "run_id": run_id,
    }


if __name__ == "__main__":
    main()
