"""How photos differ from those that a model was validated on: in what they show, and in how they look."""

from __future__ import annotations

import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from archives.errors import ArchiveError
from detection.appearance import BRIGHTNESS_EDGES, SCORE_EDGES, SHARPNESS_EDGES

TEMPLATE = Path(__file__).with_name("drift_template.html")
ANSWER_SECONDS = 30
FEW = 50  # photos: of fewer, shares say little
TOLD_SHARE = 0.01  # of the photos, beyond all of validation, from which it is worth a sentence
ALIKE, SOMEWHAT = 0.1, 0.25  # distances up to which two distributions are alike, or differ somewhat
NAMESPACE = "weapon_api_"


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that every photo has a number of.

    Attributes:
        key: its column in an archive's rows.
        title: what people call it.
        less: what a photo is that has a lower number.
        more: and a higher one.
        edges: upper ends of all columns but the last.
        metric: its histogram at the API's /metrics.
    """

    key: str
    title: str
    less: str
    more: str
    edges: tuple[float, ...]
    metric: str


MEASURES = (
    Measure("brightness", "Brightness", "darker", "brighter", BRIGHTNESS_EDGES, "picture_brightness"),
    Measure("sharpness", "Sharpness", "less sharp", "sharper", SHARPNESS_EDGES, "picture_sharpness"),
    Measure(
        "weapon_score", "Best weapon score", "lower", "higher", SCORE_EDGES, "weapon_score"
    ),
)  # fmt: skip


@dataclass
class Photos:
    """What is known of many photos, in sums.

    Attributes:
        name: what to call them.
        answered: how many got an answer.
        failed: how many gave none.
        alarms: in how many a possible weapon was found.
        labels: detections of each class.
        counts: of each measure, photos in each column.
    """

    name: str
    answered: int = 0
    failed: int = 0
    alarms: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)


def of_rows(name: str, tables: Iterable[pa.Table]) -> Photos:
    """Sum up an archive's rows.

    Args:
        name: what to call it.
        tables: of rows.ROWS.
    """
    photos = Photos(name, counts={one.key: np.zeros(len(one.edges) + 1, np.int64) for one in MEASURES})
    for table in tables:
        whole = table.filter(pc.is_null(table["error"]))
        photos.answered += len(whole)
        photos.failed += len(table) - len(whole)
        photos.alarms += whole["alarm"].to_numpy(zero_copy_only=False).astype(bool).sum()
        photos.labels.update(label for labels in whole["labels"].to_pylist() for label in labels)
        for one in MEASURES:
            columns = np.searchsorted(one.edges, whole[one.key].to_numpy(), side="left")
            photos.counts[one.key] += np.bincount(columns, minlength=len(one.edges) + 1)
    return photos


def of_metrics(name: str, text: str) -> Photos:
    """Sum up what the API has answered since it was started.

    Args:
        name: what to call it.
        text: of /metrics.

    Raises:
        ArchiveError: it is not this API's.
    """
    try:
        parsed = text_string_to_metric_families(text)
        families = {family.name.removeprefix(NAMESPACE): family for family in parsed}
        files, alarms, found = families["files"], families["alarms"], families["detections"]
        photos = Photos(name, counts={one.key: _buckets(families[one.metric], one) for one in MEASURES})
    except (KeyError, ValueError) as error:
        raise ArchiveError(
            f"{name} does not answer as this API's /metrics does ({error}): give its address, such as "
            "http://127.0.0.1:8000/metrics"
        ) from error
    outcomes = {sample.labels["outcome"]: int(sample.value) for sample in _totals(files)}
    photos.answered, photos.failed = outcomes.get("ok", 0), outcomes.get("error", 0)
    photos.alarms = sum(int(sample.value) for sample in _totals(alarms))
    photos.labels.update({sample.labels["label"]: int(sample.value) for sample in _totals(found)})
    return photos


def _totals(family: Any) -> Iterator[Any]:
    return (sample for sample in family.samples if sample.name.endswith("_total"))


def _buckets(family: Any, measure: Measure) -> NDArray[np.int64]:
    """Return how many photos are in each column of a histogram, whose buckets count all lower ones too."""
    upper = {float(one.labels["le"]): int(one.value) for one in family.samples if "le" in one.labels}
    cumulative = [upper[float(edge)] for edge in (*measure.edges, np.inf)]
    return np.diff(cumulative, prepend=0)


def ask_metrics(address: str) -> str:
    """Return the text of /metrics.

    Raises:
        ArchiveError: nobody answers there.
    """
    try:
        with urllib.request.urlopen(address, timeout=ANSWER_SECONDS) as answer:
            return str(answer.read().decode())
    except (URLError, OSError, ValueError) as error:
        raise ArchiveError(f"{address} does not answer ({error}): is the API up?") from error


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure of photos beside that of validation.

    Attributes:
        title: what people call the measure.
        distance: the largest difference of the two cumulative shares, 0 to 1 (Kolmogorov and Smirnov's).
        below: share of the photos in columns that end below all of validation.
        above: share in columns that begin above it.
        here: share of the photos in each column.
        there: share of validation's.
        sentences: what of it is worth saying.
    """

    title: str
    distance: float
    below: float
    above: float
    here: tuple[float, ...]
    there: tuple[float, ...]
    sentences: tuple[str, ...]


def difference(measure: Measure, photos: Photos, validation: Photos) -> Difference:
    """Compare one measure."""
    here, there = (_shares(each.counts[measure.key]) for each in (photos, validation))
    distance = float(np.abs(np.cumsum(here) - np.cumsum(there)).max())
    inside = np.flatnonzero(there)
    first, last = (inside[0], inside[-1]) if len(inside) else (0, len(there) - 1)
    below, above = float(here[:first].sum()), float(here[last + 1 :].sum())
    how = "like" if distance <= ALIKE else "somewhat unlike" if distance <= SOMEWHAT else "clearly unlike"
    sentences = [f"{measure.title}: {how} validation (distance {distance:.2f} of at most 1)."]
    for share, word in ((below, measure.less), (above, measure.more)):
        if share >= TOLD_SHARE:
            sentences.append(
                f"{measure.title}: {share:.0%} of the photos are {word} than any validation photo."
            )
    return Difference(
        measure.title, distance, below, above, tuple(here.tolist()), tuple(there.tolist()), tuple(sentences)
    )


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = counts / max(1, counts.sum())
    return shares


def label_rates(photos: Photos) -> dict[str, float]:
    """Return how many objects of each class were found in 100 photos."""
    return {label: 100 * count / max(1, photos.answered) for label, count in photos.labels.items()}


def sums(photos: Photos) -> list[str]:
    """Return in sentences how many photos there are and what came of them."""
    total = photos.answered + photos.failed
    said = [f"{photos.name}: {total:,} photos, {photos.alarms / max(1, photos.answered):.1%} with an alarm."]
    if photos.failed:
        said.append(f"{photos.failed / total:.1%} of them gave no answer.")
    if photos.answered < FEW:
        said.append(f"Fewer than {FEW} answers: shares of so few say little.")
    return said


def all_sentences(photos: Photos, validation: Photos) -> list[str]:
    """Return everything that is worth saying, in order."""
    found = [difference(measure, photos, validation).sentences for measure in MEASURES]
    return [*sums(photos), *sums(validation), *(sentence for each in found for sentence in each)]


def render(photos: Photos, validation: Photos) -> str:
    """Return the page: one HTML file that needs no other."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    differences = [difference(measure, photos, validation) for measure in MEASURES]
    rates, expected = label_rates(photos), label_rates(validation)
    named = sorted({*rates, *expected})
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        photos=photos, validation=validation, sums=[*sums(photos), *sums(validation)],
        charts=list(zip(MEASURES, differences, strict=True)),
        labels=[(label, rates.get(label, 0.0), expected.get(label, 0.0)) for label in named],
    )  # fmt: skip
