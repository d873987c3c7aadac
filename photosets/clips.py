"""Labelled clips: what a camera sees picture by picture, and when a weapon is in it.

Three kinds:

series     Pictures of one recording in a photo set root, in the order of the numbers in their names. A
           manifest.csv in the root or beside it, with the columns file and group, says what belongs together;
           without one the names do (photosets/recordings.py), and numbered stills are no series.
panned     A photograph over which the picture's frame moves: no recording, but a scene that changes.
videos     A video file with its labels beside it, under the same name: till.mp4 and till.json,

               {"weapons": [{"from_s": 3.2, "to_s": 9}], "recording": "till"}

           weapons are the spans in which a person sees one, in seconds from the first picture and in order;
           [] says that there is none. recording may be left out: clips of one recording share it.
"""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from detection import imaging
from detection.detections import Classes
from photosets.layout import DatasetError
from photosets.recordings import recording_of
from photosets.samples import Sample, load_image, shows_weapon

LEAST = 3  # pictures of a series: fewer confirm nothing
LONGEST_JUMP = 10  # a recording is cut where the numbers jump by more than so many usual steps
SAME_EVENT_S = 2.0  # a weapon that is hidden for so long at most is still there
WINDOW = 0.8  # of a panned photograph's sides
VISIBLE = 0.5  # share of a weapon's box that lies in the window, to count as seen
VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts"}
MANIFEST = "manifest.csv"
LATE_S = 0.5  # by which a label may end after the last picture: people round

_NUMBERED = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)\D*", re.DOTALL)


class ClipError(DatasetError):
    """There are no clips, or one or its labels cannot be used."""


class Span(NamedTuple):
    """When a weapon is to be seen, in seconds from the clip's first picture, both ends included."""

    start_s: float
    end_s: float


class Frame(NamedTuple):
    """One picture of a clip; load returns (H, W, 3) uint8 RGB, upright."""

    time_s: float
    load: Callable[[], imaging.Image]


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """What a camera sees, and when a weapon is in it.

    Attributes:
        name: what to call it.
        recording: what it comes from; clips of one recording resemble each other.
        rate: pictures per second.
        spans: when a weapon is to be seen, in order.
        frames: reads the pictures from the first on, in order.
        count: how many pictures there are, None where only reading tells.
        is_panned: whether it is one photograph over which the view moves.
    """

    name: str
    recording: str
    rate: float
    spans: tuple[Span, ...]
    frames: Callable[[], Iterator[Frame]]
    count: int | None = None
    is_panned: bool = False


# --- series of a root -------------------------------------------------------------------------------


def series_clips(samples: Sequence[Sample], classes: Classes, *, rate: float) -> list[Clip]:
    """Return the series among the pictures of a split as clips.

    Args:
        samples: of one or more roots.
        classes: which of their objects are weapons.
        rate: pictures per second at which they are played, whatever time lay between them.

    Raises:
        ClipError: there is no series of LEAST pictures.
    """
    clips = [_clip_of(part, classes, rate) for one in _series(samples).values() for part in _cut(one)]
    if not clips:
        raise ClipError(
            f"expected a series of at least {LEAST} pictures of one recording, such as cam1_frame_001.jpg, "
            f"cam1_frame_002.jpg, ..., among {len(samples)} pictures, found none: name them so, or say in "
            f"{MANIFEST} (columns file and group) which belong together"
        )
    return clips


def _series(samples: Sequence[Sample]) -> dict[tuple[Path, str, str], list[tuple[int, Sample]]]:
    """Return (number, picture) of each recording's numbered pictures, in order."""
    groups = {root: read_manifest(root) for root in {sample.root for sample in samples}}
    series: dict[tuple[Path, str, str], list[tuple[int, Sample]]] = {}
    for sample in samples:
        numbered = _NUMBERED.fullmatch(sample.name)
        known = groups[sample.root]
        name = sample.recording if known is None else known.get(sample.image_path.name)
        if numbered is None or name is None or (known is None and "#" in recording_of(sample.name)):
            continue
        key = (sample.root, name, numbered["prefix"])
        series.setdefault(key, []).append((int(numbered["number"]), sample))
    return {key: sorted(one, key=lambda pair: pair[0]) for key, one in sorted(series.items())}


def read_manifest(root: Path) -> dict[str, str] | None:
    """Return the group of each picture by its file name; None where nothing says it.

    Raises:
        ClipError: there is a manifest that cannot be read.
    """
    for path in (root / MANIFEST, root.parent / MANIFEST):
        try:
            with path.open(encoding="utf-8", newline="") as stream:
                rows = csv.DictReader(stream)
                if not {"file", "group"} <= set(rows.fieldnames or ()):
                    continue  # somebody else's list
                return {row["file"]: row["group"] for row in rows}
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ClipError(f"{path} cannot be read: {error}") from error
    return None


def without_series(samples: Sequence[Sample]) -> list[Sample]:
    """Return the pictures that stand in no series_clips."""
    taken = {sample.image_path for one in _series(samples).values() for part in _cut(one) for sample in part}
    return [sample for sample in samples if sample.image_path not in taken]


def _cut(series: Sequence[tuple[int, Sample]]) -> Iterator[list[Sample]]:
    """Cut a recording where its numbers jump: in between is another scene. Yields what is long enough."""
    steps = [after - before for (before, _), (after, _) in pairwise(series)]
    longest = LONGEST_JUMP * max(1, median(steps)) if steps else 0
    part: list[Sample] = []
    for i, (_, sample) in enumerate(series):
        if part and steps[i - 1] > longest:
            if len(part) >= LEAST:
                yield part
            part = []
        part.append(sample)
    if len(part) >= LEAST:
        yield part


def _clip_of(samples: Sequence[Sample], classes: Classes, rate: float) -> Clip:
    times = [i / rate for i in range(len(samples))]
    spans = spans_of(times, [shows_weapon(sample, classes) for sample in samples])
    frames = [Frame(time_s, _loader(sample)) for time_s, sample in zip(times, samples, strict=True)]
    name = f"{samples[0].name} to {samples[-1].name}"
    return Clip(name, samples[0].recording, rate, spans, lambda: iter(frames), len(frames))


def _loader(sample: Sample) -> Callable[[], imaging.Image]:
    return lambda: load_image(sample)


def spans_of(times: Sequence[float], shows: Sequence[bool]) -> tuple[Span, ...]:
    """Return the spans in which frames show a weapon; one that is hidden for SAME_EVENT_S stays one event."""
    spans: list[Span] = []
    for time_s, is_there in zip(times, shows, strict=True):
        if not is_there:
            continue
        if spans and time_s - spans[-1].end_s <= SAME_EVENT_S + 1e-6:
            spans[-1] = Span(spans[-1].start_s, time_s)
        else:
            spans.append(Span(time_s, time_s))
    return tuple(spans)


# --- panned photographs -----------------------------------------------------------------------------


def panned_clips(samples: Iterable[Sample], classes: Classes, *, rate: float, seconds: float) -> list[Clip]:
    """Return a clip of each photograph, in which the view moves across it on a straight line.

    Args:
        samples: photographs.
        classes: which of their objects are weapons.
        rate: pictures per second.
        seconds: how long each clip lasts.
    """
    return [_panned(sample, classes, rate, max(LEAST, round(rate * seconds))) for sample in samples]


def _panned(sample: Sample, classes: Classes, rate: float, count: int) -> Clip:
    windows = pan(sample.size_wh, count, seed=sample.name)
    boxes = sample.boxes[np.isin(sample.labels, classes.weapons)]
    times = [i / rate for i in range(count)]
    spans = spans_of(times, [any(_share_in(box, window) >= VISIBLE for box in boxes) for window in windows])

    def frames() -> Iterator[Frame]:
        image = load_image(sample)
        for time_s, (x1, y1, x2, y2) in zip(times, windows.tolist(), strict=True):
            view = np.ascontiguousarray(image[y1:y2, x1:x2])
            yield Frame(time_s, lambda view=view: view)  # type: ignore[misc]

    return Clip(f"{sample.name}, panned", sample.recording, rate, spans, frames, count, True)


def pan(size_wh: tuple[int, int], count: int, *, seed: str) -> NDArray[np.int64]:
    """Return (count, 4) windows, xyxy pixels, that move across a picture from one place to another."""
    digest = hashlib.sha256(seed.encode(errors="surrogatepass")).digest()
    start, end = np.random.default_rng(int.from_bytes(digest[:8], "big")).uniform(size=(2, 2))
    sides = np.maximum(1, np.round(WINDOW * np.array(size_wh))).astype(np.int64)
    share = np.linspace(0, 1, count)[:, None]
    corner = np.round((start + (end - start) * share) * (np.array(size_wh) - sides)).astype(np.int64)
    return np.concatenate([corner, corner + sides], axis=1)


def _share_in(box: NDArray[np.float32], window: NDArray[np.int64]) -> float:
    sides = np.minimum(box[2:], window[2:]) - np.maximum(box[:2], window[:2])
    return float(np.prod(sides.clip(min=0)) / np.prod(box[2:] - box[:2]))


# --- videos with labels -----------------------------------------------------------------------------


class _Weapon(BaseModel):
    model_config = ConfigDict(extra="forbid")

    from_s: float = Field(ge=0, allow_inf_nan=False)
    to_s: float = Field(ge=0, allow_inf_nan=False)


class _Labels(BaseModel):
    """The JSON file beside a video."""

    model_config = ConfigDict(extra="forbid")

    weapons: tuple[_Weapon, ...]
    recording: str = ""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        ends = [end for one in self.weapons for end in (one.from_s, one.to_s)]
        if ends != sorted(ends):
            raise ValueError("expected spans in order, each from_s no later than its to_s, none in another")
        return self


Read = Callable[[Path], Generator[Frame, None, None]]


def video_clips(paths: Iterable[Path], *, rate: float, read: Read) -> list[Clip]:
    """Return labelled videos as clips.

    Args:
        paths: video files, or folders of them.
        rate: pictures per second that are looked at.
        read: yields all pictures of a video file; what it raises should be a ClipError.

    Raises:
        ClipError: there is none, or the labels of one are absent or cannot be used.
    """
    files = [file for path in paths for file in _videos_in(path)]
    return [_video_clip(file, rate, read) for file in files]


def _videos_in(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in VIDEOS)
    if not found:
        raise ClipError(f"expected videos ({', '.join(sorted(VIDEOS))}) in {path}, found none")
    return found


def _video_clip(path: Path, rate: float, read: Read) -> Clip:
    labels = read_labels(path.with_suffix(".json"))
    spans = tuple(Span(one.from_s, one.to_s) for one in labels.weapons)

    def frames() -> Iterator[Frame]:
        wanted, last_s = 0, -math.inf
        with closing(read(path)) as pictures:
            for frame in pictures:
                last_s = frame.time_s
                if last_s * rate + 1e-6 >= wanted:
                    wanted = int(last_s * rate + 1e-6) + 1
                    yield frame
        if wanted < LEAST:
            raise ClipError(
                f"{path} has {wanted} pictures at {rate:g} a second, and fewer than {LEAST} confirm nothing"
            )
        if spans and spans[-1].end_s > last_s + LATE_S:
            raise ClipError(
                f"{path.with_suffix('.json')}: a weapon is said to be seen until {spans[-1].end_s:g} s, but "
                f"the last picture of {path.name} comes at {last_s:.1f} s"
            )

    return Clip(path.stem, labels.recording or path.stem, rate, spans, frames)


def read_labels(path: Path) -> _Labels:
    """Read the JSON file beside a video.

    Raises:
        ClipError: it is not there, or says what cannot be.
    """
    try:
        return _Labels.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ClipError(
            f"expected the labels of a clip in {path}: {error.strerror}; "
            '{"weapons": [{"from_s": 3.2, "to_s": 9}]} says that one is seen from 3.2 to 9 s, '
            '{"weapons": []} that none is'
        ) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ClipError(f"{path}: {': '.join(filter(None, (where, first['msg'])))}") from error
