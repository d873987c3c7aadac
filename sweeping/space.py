"""The search space: a TOML file over train.py's own knobs, and the flags that a choice of them makes."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import TrainConfig, train_config
from sweeping.errors import SweepError

Value = bool | int | float | str
# What the sweep says itself, of every trial.
OWN = frozenset(
    {
        "output", "resume", "minutes", "minutes_from", "experiment", "run_name", "parent_run",
        "register_model", "export", "mlflow_tracking_uri", "model_name", "second_look_of", "deterministic",
    }
)  # fmt: skip
NO_KNOBS = frozenset({"preset", "data", "point_data"})  # which a trial does not choose


@dataclass(frozen=True, slots=True)
class Choice:
    """A knob that takes one of several values."""

    values: tuple[Value, ...]

    @property
    def tried(self) -> tuple[Value, ...]:
        """The values to check before the first trial: all."""
        return self.values


@dataclass(frozen=True, slots=True)
class Range:
    """A knob that takes numbers from low to high, both included; whole ones where both are.

    Attributes:
        step: None: any number.
        log: small numbers as often as large ones.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    @property
    def whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def tried(self) -> tuple[Value, ...]:
        """The values to check before the first trial: both ends."""
        return (self.low, self.high)


Space = Mapping[str, Choice | Range]


def read_space(path: Path) -> dict[str, Choice | Range]:
    """Read a search space.

    Raises:
        SweepError: the file is none, or names what is no knob of train.py.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SweepError(f"expected a search space at {path}: {error.strerror}") from error
    except ValueError as error:
        raise SweepError(f"{path} is no TOML: {error}") from error
    if not table:
        raise SweepError(
            f"{path} names no knob: write for instance lr = {{low = 1e-4, high = 1e-2, log = true}}"
        )
    return {_knob(name, path): _what(name, value, path) for name, value in table.items()}


def _knob(name: str, path: Path) -> str:
    knobs = TrainConfig.model_fields.keys() - OWN - NO_KNOBS
    if name in OWN | NO_KNOBS:
        raise SweepError(f"{path}: {name} is no knob of a trial: say it on the command line, or leave it out")
    if name not in knobs:
        near = difflib.get_close_matches(name, knobs, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; python train.py --help lists them"
        raise SweepError(f"{path}: {name} is no knob of train.py{hint}")
    return name


def _what(name: str, value: Any, path: Path) -> Choice | Range:
    if isinstance(value, list) and value and all(isinstance(one, Value) for one in value):
        return Choice(tuple(value))
    if isinstance(value, dict) and {"low", "high"} <= value.keys() <= {"low", "high", "step", "log"}:
        found = Range(**value)
        numbers = [found.low, found.high, *([] if found.step is None else [found.step])]
        if all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers):
            return _checked(name, found, path)
    raise SweepError(
        f"{path}: expected {name} to be a list of values, or {{low = ..., high = ...}} with step or log, got "
        f"{value!r}"
    )


def _checked(name: str, found: Range, path: Path) -> Range:
    if found.low >= found.high:
        raise SweepError(f"{path}: {name}: expected low below high, got {found.low:g} and {found.high:g}")
    if found.log and (found.low <= 0 or found.step is not None):
        raise SweepError(f"{path}: {name}: log wants low above 0 and no step")
    if found.step is not None and found.step <= 0:
        raise SweepError(f"{path}: {name}: expected a step above 0, got {found.step:g}")
    return found


def flags_of(values: Mapping[str, Value]) -> list[str]:
    """Return the flags of train.py that set knobs to values."""
    flags = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", f"{value:.6g}" if isinstance(value, float) else str(value)]
    return flags


def check_flags(space: Space, fixed: Sequence[str]) -> None:
    """See that train.py takes the flags that all trials share, and each knob at the ends of its range.

    Args:
        space: what the trials choose from.
        fixed: the flags that they share.

    Raises:
        UsageError: train.py does not take them.
        SweepError: a shared flag is one that the sweep sets itself, or one that it is to choose.
    """
    given = {word.partition("=")[0].lstrip("-").removeprefix("no-").replace("-", "_")
             for word in fixed if word.startswith("--")}  # fmt: skip
    for taken, why in (
        (given & OWN, "is set by the sweep itself"),
        (given & space.keys(), "is in the space too"),
    ):
        if taken:
            flag = sorted(taken)[0].replace("_", "-")
            raise SweepError(f"--{flag} {why}: leave it out behind --")
    train_config(fixed)
    for name, choice in space.items():
        for value in choice.tried:
            train_config([*fixed, *flags_of({name: value})])
