"""Which pictures train and which validate: a pure function of their file names, the same on every machine.

A folder that has validation pictures of its own keeps them. Another one is divided by the first of these
rules that gives val about its share (see is_near):

by name        Whole recordings go to val, chosen by a hash of the recording's name. Adding pictures moves
               none.
nearest share  The recordings in the order of that hash, as many of them as come nearest to the share. Adding
               pictures can move the recordings next to the border.
in time        Each recording's pictures in the order of the numbers in their names; the last part of each
               stretch goes to val, and a few pictures between the sides to neither. Adding pictures moves the
               borders, so that pictures beside them change sides.

Folders are divided one by one: what else is trained on moves nothing. Adding pictures can also change which
rule a folder needs; then most of its validation pictures change.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

Rule = Literal["own", "by name", "nearest share", "in time"]

VAL_FRACTION = 0.12

# What perceptual hashes say of OD-WeaponDetection and its names do not: which numbers are one scene.
SCENES = (
    (re.compile(r"[AHLM]B[bms]frame\d+"), "office"),  # one person, one wall, four lights, three distances
    (re.compile(r"(pistola|smartphone)_z\d+v\d+_\d+"), "rooms"),
    (re.compile(r"DSC_\d+"), "DSC"),
    (re.compile(r"floor_\d+"), "floor_"),  # and of the look-alikes: one phone on one floor,
    (re.compile(r"vnd_\d{6}_\d+"), "vnd_webcam"),  # one person at one desk,
    (re.compile(r"vnd_(IMG|20250210)_[\d_]+"), "vnd_table#0"),  # one person's stills, some of other tables,
    (re.compile(r"cellp_[0-9a-f]{8}_[0-9a-f]{4}_11ed_94f3_0242ac1c000c"), "cellp_11ed"),  # one upload
)
RUNS = {  # prefix -> first and last number of each video among its stills
    "knife_": ((605, 1016), (1017, 1267), (1268, 1350)),
    "pistol_": ((5000, 5199),),
}
# Numbered stills (armas (12), billete_0031) have no recording in their name. Neighbours in number often come
# from one series, so a block of numbers stays together; 50 is the least that keeps most such series whole.
BLOCK = 50
LONG_BLOCKS = {"img": 1000}  # numbered by video frame
# Of 20,000 seeds this one gives every class of OD-WeaponDetection 10 to 15 % of its boxes in val.
VAL_SEED = 19198
GOLDEN = 0.6180339887498949  # multiples of it spread evenly over [0, 1), however many there are

STRETCH = 1000  # pictures of a recording, about, that give val one part in one piece
GAP = 0.05  # share of a stretch left out between the sides: the next frame shows what the last one did

_EXPORT = re.compile(r"(_(jpe?g|png|bmp|webp))*(\.rf\.[0-9a-f]+)?$", re.IGNORECASE)  # Roboflow's renaming
_DAY = re.compile(r"^.*?(?<!\d)(19|20)\d\d([-_.]?)(0[1-9]|1[0-2])\2([0-2]\d|3[01])(?=\D|\d{6}(\D|$)|$)")
_VIDEO = re.compile(r"[a-z][A-Z]|frame|_f$")  # KravMagaTraining626, cam1_frame_00154, clip_f000003
_NUMBERED = re.compile(r"^(?P<prefix>.*?[ _(-]*)(?P<number>\d+)\)?(v\d)?$")


def recording_of(stem: str) -> str:
    """Return the video, day or series that a picture's name says it comes from.

    The name of a still's series ends in "#" and the number of its block.
    """
    stem = _EXPORT.sub("", stem)
    for pattern, scene in SCENES:
        if pattern.fullmatch(stem):
            return scene
    if day := _DAY.match(stem):
        return day[0]
    numbered = _NUMBERED.match(stem)
    if numbered is None:
        return stem
    prefix, number = numbered["prefix"], int(numbered["number"])
    if _VIDEO.search(prefix):
        return prefix
    for first, last in RUNS.get(prefix, ()):
        if first <= number <= last:
            return f"{prefix}{first}-{last}"
    series = re.sub(r"\d+", "0", prefix)  # mkd_1000_note15 and mkd_50_note15 lie on the same table
    return f"{series}#{number // LONG_BLOCKS.get(prefix, BLOCK)}"


def in_val(recording: str, val_fraction: float = VAL_FRACTION) -> bool:
    """Say whether a recording belongs to val by its name alone; a larger share only adds recordings."""
    return position_of(recording) < val_fraction


def position_of(recording: str) -> float:
    """Return where a recording's name puts it in [0, 1): val is the beginning.

    A hash of the name decides; the blocks of one series follow each other in steps of the golden ratio, so
    that a long series gives val its share whatever the hash.
    """
    block = re.search(r"#(\d+)$", recording)
    series = recording[: block.start()] if block else recording
    digest = hashlib.sha256(f"{VAL_SEED}/{series}".encode(errors="surrogatepass")).digest()
    start = int.from_bytes(digest[:8], "big") / 2**64
    return (start + int(block[1] if block else 0) * GOLDEN) % 1


# --- dividing a folder ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture goes.

    Attributes:
        side: None for a picture left out between the sides.
        recording: what it comes from; one that is cut has a name for each part, so none is on both sides.
    """

    side: Literal["train", "val", "test"] | None
    recording: str


@dataclass(frozen=True, slots=True)
class Division:
    """How the pictures of one folder are divided.

    Attributes:
        rule: by which rule.
        places: by file stem.
    """

    rule: Rule
    places: dict[str, Place]

    def count(self, side: Literal["train", "val"] | None, stems: Collection[str] | None = None) -> int:
        """Return how many pictures go to a side: all, or of stems."""
        chosen = self.places if stems is None else stems
        return sum(self.places[stem].side == side for stem in chosen)


def divide(
    stems: Sequence[str],
    val_fraction: float = VAL_FRACTION,
    *,
    negative_val_fraction: float | None = None,
    weapon_free: Collection[str] = (),
) -> Division:
    """Divide the pictures of one folder into train and val.

    Args:
        stems: the pictures' file names without suffix, each once.
        val_fraction: share of the pictures that val should get, 0 to less than 1.
        negative_val_fraction: another share for the weapon-free recordings; a larger one only adds to val.
        weapon_free: those recordings, by the names recording_of gives.
    """
    recordings = {stem: recording_of(stem) for stem in sorted(stems)}
    counts = Counter(recordings.values())
    threshold = _threshold(counts, val_fraction)
    free_fraction = val_fraction if negative_val_fraction is None else negative_val_fraction
    if threshold is None:
        fractions = {name: free_fraction if name in weapon_free else val_fraction for name in counts}
        return Division("in time", _in_time(recordings, fractions))
    free_threshold = float(np.interp(free_fraction, [0, val_fraction, 1], [0, threshold, 1]))
    chosen = {name for name in counts if in_val(name, free_threshold if name in weapon_free else threshold)}
    places = {stem: Place("val" if name in chosen else "train", name) for stem, name in recordings.items()}
    return Division("by name" if threshold == val_fraction else "nearest share", places)


def is_near(val: int, total: int, val_fraction: float) -> bool:
    """Say whether val pictures of total are about the share asked for: within half of it, or one picture."""
    wanted = total * val_fraction
    return abs(val - wanted) <= max(1.0, wanted / 2)


def _threshold(counts: Mapping[str, int], val_fraction: float) -> float | None:
    """Return the position below which recordings go to val, None if whole recordings come near no share.

    Args:
        counts: pictures of each recording.
        val_fraction: which is also the threshold, unless that leaves a side empty or is far from the share.
    """
    total = sum(counts.values())
    by_name = sum(count for name, count in counts.items() if in_val(name, val_fraction))
    if not val_fraction or total < 2 or (0 < by_name < total and is_near(by_name, total, val_fraction)):
        return val_fraction
    order = sorted(counts, key=position_of)
    sums = np.cumsum([counts[name] for name in order])[:-1]  # never all of them
    if not len(sums):
        return None
    nearest = int(np.abs(sums - total * val_fraction).argmin())
    if not is_near(int(sums[nearest]), total, val_fraction):
        return None
    return position_of(order[nearest + 1])


def _in_time(recordings: Mapping[str, str], fractions: Mapping[str, float]) -> dict[str, Place]:
    """Cut each recording in time: the end of each stretch goes to val, the rest to train.

    Args:
        recordings: by file stem.
        fractions: share for val, by recording.
    """
    moments: dict[str, dict[str, list[str]]] = {name: {} for name in sorted(fractions)}
    for stem, name in recordings.items():  # copies of one picture, which exports make, are one moment
        moments[name].setdefault(_EXPORT.sub("", stem), []).append(stem)
    lengths = {name: len(moments[name]) for name in moments}
    parts = {name: _val_parts(lengths[name], fractions[name]) for name in moments}
    if not any(map(sum, parts.values())):
        longest = max(lengths, key=lambda name: lengths[name])
        parts[longest][-1] = min(1, lengths[longest] - 1)
    places: dict[str, Place] = {}
    for name, of_name in moments.items():
        order = sorted(of_name, key=_in_order)
        for moment, place in zip(order, _cut(name, len(order), parts[name]), strict=True):
            places |= dict.fromkeys(of_name[moment], place)
    return places


def _in_order(stem: str) -> tuple[list[str | int], str]:
    """Sort frame_9 before frame_10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", stem)], stem


def _val_parts(length: int, val_fraction: float) -> list[int]:
    """Return how many pictures each stretch of a recording gives val."""
    return [round(len(stretch) * val_fraction) for stretch in _stretches(length)]


def _stretches(length: int) -> list[range]:
    """Cut a recording into stretches of about STRETCH pictures: positions from first to last."""
    number = max(1, round(length / STRETCH))
    borders = [length * index // number for index in range(number + 1)]
    return [range(first, last) for first, last in pairwise(borders)]


def _cut(name: str, length: int, parts: Sequence[int]) -> list[Place]:
    """Return the places of a recording's pictures, in time; parts is what each stretch gives val."""
    places: list[Place] = []
    before = 0  # what the stretch before gave val
    for number, (stretch, part) in enumerate(zip(_stretches(length), parts, strict=True)):
        rest = len(stretch) - part
        gap = min(round(GAP * len(stretch)), (rest - 1) // 2) if rest else 0
        head, tail = (gap if before else 0), (gap if part else 0)
        left_out = Place(None, name)
        places += [left_out] * head
        places += [Place("train", f"{name}@{2 * number}")] * (rest - head - tail)
        places += [left_out] * tail
        places += [Place("val", f"{name}@{2 * number + 1}")] * part
        before = part
    return places
