"""Training runs side by side: what differed, and what came of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote

from mlflow.entities import Run

from tracking.tracker import RegistryError, check_tracker, connection, shown
from tracking.versions import RegisteredVersion

# What `compare` shows of a split, in this order, and what it is called in a Markdown table.
COMPARED = {
    "map": "mAP",
    "map_50": "mAP at IoU 0.50",
    "map_75": "",
    "lookalike_alarm_rate": "look-alikes taken for a weapon",
    "weapon_as_lookalike_rate": "",
    "alarm/image_recall": "weapon images that raise an alarm",
    "alarm/false_alarms_per_1000": "false alarms per 1,000 weapon-free images",
    "ap50/pistol": "pistol, AP at IoU 0.50",
    "ap50/knife": "knife, AP at IoU 0.50",
    "ap50/billete": "",
    "ap50/monedero": "",
    "ap50/smartphone": "",
    "ap50/tarjeta": "",
    "original_protocol/map": "",
    "original_protocol/map_50": "",
    "latency/detect_median_ms": "",
}
LAST_CLASS = "ap50/tarjeta"  # after it come those of models with classes of their own
LESS_IS_BETTER = ("lookalike_alarm_rate", "weapon_as_lookalike_rate", "false_alarms_per_1000", "_ms")
# Parameters by how much they explain, most first; others follow by name.
TELLING = (
    "preset", "architecture", "weights", "backbone_weights", "data", "limit", "minutes", "epochs",
    "min_size", "max_size", "batch_size", "augmentation", "double_normalise", "optimizer", "lr", "schedule",
    "warmup_steps", "ema_decay", "repeat_threshold", "trainable_layers", "norm", "weight_decay",
)  # fmt: skip
# Parameters that say where and under which name a run was made, not how.
BOOKKEEPING = {
    "checkpoint_minutes", "experiment", "mlflow_tracking_uri", "model_name", "output", "register_model",
    "resume", "run_name",
}  # fmt: skip


def last_runs(experiment: str | None, limit: int, *, tracking_uri: str) -> list[Run]:
    """Return the last runs, newest first.

    Raises:
        RegistryError: there is no such experiment.
    """
    check_tracker(tracking_uri)
    with connection(tracking_uri) as client:
        there = client.search_experiments()
        chosen = [each.experiment_id for each in there if experiment in (None, each.name)]
        if not chosen:
            names = ", ".join(sorted(each.name for each in there))
            raise RegistryError(
                f"There is no experiment {experiment!r} at {tracking_uri}; there are: {names}."
            )
        return list(client.search_runs(chosen, max_results=limit, order_by=["attributes.start_time DESC"]))


class Cell(NamedTuple):
    """One value of a comparison; best marks the best of its row."""

    text: str
    best: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side: rows of a title and one cell per run.

    Attributes:
        heads: name and short id of each run.
        facts: when, how long, what became of it.
        measured: by MLflow's key; of a registered run the model's numbers, else the best epoch's. No value
            is marked as the best where the runs were not measured on the same images.
        parameters: those that differ, the most telling first.
        left_out: how many more differ.
    """

    heads: list[tuple[str, str]]
    facts: list[tuple[str, list[Cell]]]
    measured: list[tuple[str, list[Cell]]]
    parameters: list[tuple[str, list[Cell]]]
    left_out: int


def compare_runs(runs: Sequence[Run], versions: Sequence[RegisteredVersion], most: int) -> Comparison:
    """Put runs side by side, with at most so many of the parameters that differ."""
    registered = {found.run_id: found for found in versions}
    data = {split: [_data_of(run, split) for run in runs] for split in ("val", "test")}
    facts = {
        "started": [as_time(run.info.start_time) for run in runs],
        "minutes": [_minutes(run) for run in runs],
        "status": [run.info.status.lower() for run in runs],
        "registered as": [_label(registered.get(run.info.run_id)) for run in runs],
        "val data": data["val"],
        "test data": data["test"],
    }
    differing = _differing(runs)
    return Comparison(
        heads=[(run.info.run_name or "", run.info.run_id[:8]) for run in runs],
        facts=[(title, [Cell(text) for text in texts]) for title, texts in facts.items() if any(texts)],
        measured=[
            (key, with_mark(key, [_metric(run, key) for run in runs], data[key.partition("/")[0]]))
            for key in _measured_keys(runs)
        ],
        parameters=[
            (name, [Cell(run.data.params.get(name, "")) for run in runs]) for name in differing[:most]
        ],
        left_out=len(differing[most:]),
    )


def _measured_keys(runs: Sequence[Run]) -> list[str]:
    """Return the metrics to compare, split by split, the most important first."""
    there = {key.removeprefix("model/").removeprefix("best/") for run in runs for key in run.data.metrics}
    words = list(COMPARED)
    own = sorted({key.partition("/")[2] for key in there if own_class(key.partition("/")[2])} - {*words})
    words[words.index(LAST_CLASS) + 1 : words.index(LAST_CLASS) + 1] = own
    wanted = [f"{split}/{word}" for split in ("val", "test") for word in words]
    return [key for key in wanted if key in there]


def own_class(word: str) -> str:
    """Return the class that a metric is the AP of, "" for any other metric."""
    found = re.fullmatch(r"ap50/([^/]+)", word)
    return found[1] if found else ""


def what_it_is(word: str) -> str:
    """Return what a metric is called in a Markdown table; "" for one that is left out of it."""
    return COMPARED[word] if word in COMPARED else f"{own_class(word)}, AP at IoU 0.50"


def _metric(run: Run, key: str) -> float | None:
    """Return the registered model's number, else that of the best epoch, else the last one."""
    found = run.data.metrics
    value = next((found[name] for name in (f"model/{key}", f"best/{key}", key) if name in found), math.nan)
    return value if math.isfinite(value) else None


def _data_of(run: Run, split: str) -> str:
    """Return what tells the images of a split from others: a fingerprint's beginning; "" if unknown."""
    if f"evaluation.{split}" in run.data.tags:
        return str(run.data.tags[f"evaluation.{split}"])
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return next((given.dataset.digest[:8] for given in inputs if given.dataset.name == split), "")


def with_mark(key: str, values: Sequence[float | None], data: Sequence[str]) -> list[Cell]:
    """Mark the best value, where all were measured on the same images."""
    known = [value for value in values if value is not None]
    same = len({images for images, value in zip(data, values, strict=True) if value is not None}) == 1
    pick = min if key.endswith(LESS_IS_BETTER) else max
    best = pick(known) if same and len(set(known)) > 1 else None
    return [Cell(as_number(value), value is not None and value == best) for value in values]


def _differing(runs: Sequence[Run]) -> list[str]:
    """Return the parameters in which those runs differ that have them, the most telling first."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in run.data.params.items():
            values.setdefault(name, set()).add(value)
    names = [name for name in values if len(values[name]) > 1 and name not in BOOKKEEPING]
    rank = {name: place for place, name in enumerate(TELLING)}
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), name))


def as_number(value: float | None) -> str:
    """Return a short number: fractions to four places."""
    if value is None:
        return ""
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}".rstrip("0").rstrip(".")


def as_time(milliseconds: int) -> str:
    """Return a time of MLflow, milliseconds, as people read it."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _minutes(run: Run) -> str:
    return f"{(run.info.end_time - run.info.start_time) / 60_000:.1f}" if run.info.end_time else ""


def _label(found: RegisteredVersion | None) -> str:
    return " ".join((f"version {found.version}", *found.aliases)) if found else ""


def comparison_url(runs: Sequence[Run], tracking_uri: str) -> str:
    """Return the address of MLflow's own comparison of these runs."""
    ids = quote(json.dumps([run.info.run_id for run in runs]))
    experiments = quote(json.dumps(sorted({run.info.experiment_id for run in runs})))
    return f"{shown(tracking_uri).rstrip('/')}/#/compare-runs?runs={ids}&experiments={experiments}"
