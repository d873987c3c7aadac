"""What the cameras' rule costs and catches with other numbers than today's, on a validation split.

    python bench/rules.py MODEL ROOT ... --pan-seconds 6 --pan 100

Each picture is looked at once, then every rule is scored on what was found: N of M frames, how far an object
may move, how its size may change, the cool-down, and whether two boxes on one place are one weapon.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from detection import confirmation, runtimes
from detection.card import DetectorError, classes_of
from detection.confirmation import Rule
from evaluation.video import Seen, look_at, measure_video
from photosets.clips import panned_clips, series_clips, without_series
from photosets.layout import DatasetError
from photosets.report import DatasetReport
from photosets.samples import read_samples, shows_weapon

RATE = 2.0
COUNTS = ((1, 1), (2, 3), (3, 3), (3, 4), (3, 5), (3, 7), (4, 5), (4, 7), (5, 8))
CONSTANTS = {
    "REACH": (0.5, 1.0, 2.0, 3.0), "LARGEST_RATIO": (2.0, 4.0, 6.0, 10.0), "SAME_IOU": (0.1, 0.3, 0.5, 2.0),
}  # fmt: skip
COOL_DOWNS = (0.0, 5.0, 10.0, 60.0)
HEAD = (
    "rule",
    "events",
    "alarmed",
    "noticed",
    "s to alarm",
    "told",
    "free h",
    "false",
    "false/h",
    "unsure/h",
)


@contextmanager
def constant(name: str, value: float) -> Iterator[None]:
    """Let a constant of the rule be value while the block lasts."""
    before = getattr(confirmation, name)
    setattr(confirmation, name, value)
    try:
        yield
    finally:
        setattr(confirmation, name, before)


def row(name: str, clips: list[Seen], rule: Rule) -> None:
    """Print what a rule makes of clips."""
    one = measure_video(clips, rule, split="val", runtime="").figures
    values = (
        one.events, one.alarmed, one.noticed, one.time_to_alarm_s, one.alarms_per_event,
        one.weapon_free_hours, one.false_alarms, one.false_alarms_per_hour, one.false_suspicions_per_hour,
    )  # fmt: skip
    shown = ["-" if value is None else f"{value:.4g}" for value in values]
    print(f"| {' | '.join([name, *shown])} |")


def rows(clips: list[Seen], rule: Rule) -> None:
    """Print today's rule first, then what differs from it in one number."""
    print(f"| {' | '.join(HEAD)} |\n| --- |{' ---: |' * (len(HEAD) - 1)}")
    row("today's", clips, rule)
    for needed, window in COUNTS:
        row(f"{needed} of {window}", clips, replace(rule, needed=needed, window=window))
    for cool_down_s in COOL_DOWNS:
        row(f"cool-down {cool_down_s:g} s", clips, replace(rule, cool_down_s=cool_down_s))
    for name, values in CONSTANTS.items():
        for value in values:
            with constant(name, value):
                row(f"{name} {value:g}", clips, rule)


def main() -> None:
    """Look, and print a table for the series and one for photographs over which the view moves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("roots", type=Path, nargs="+")
    parser.add_argument("--pan-seconds", type=float, default=6.0)
    parser.add_argument("--pan", type=int, default=100, help="photographs, half of them with a weapon")
    arguments = parser.parse_args()
    detector = runtimes.load(arguments.model)
    classes = classes_of(detector.card)
    samples = read_samples(arguments.roots, "val", negatives=True, report=DatasetReport())
    alone, rng = without_series(samples), np.random.default_rng(0)
    drawn = []
    for armed in (True, False):
        of_kind = [sample for sample in alone if shows_weapon(sample, classes) == armed]
        drawn += [of_kind[i] for i in rng.permutation(len(of_kind))[: arguments.pan // 2]]
    panned = panned_clips(drawn, classes, rate=RATE, seconds=arguments.pan_seconds)
    for name, clips in (("series", series_clips(samples, classes, rate=RATE)), ("panned", panned)):
        print(f"{len(clips)} clips, {name}")
        rows(look_at(clips, detector, detector.card), Rule.of_card(detector.card))


if __name__ == "__main__":
    try:
        main()
    except (DatasetError, DetectorError) as error:
        raise SystemExit(f"error: {error}") from error
