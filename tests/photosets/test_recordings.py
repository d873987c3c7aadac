"""Which pictures validate: by name where names tell recordings apart, in time where they do not."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from hashlib import md5
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from photosets.recordings import divide, in_val, recording_of


def stems_of(pattern: str, count: int = 60) -> list[str]:
    """Fill a pattern with numbers, one-second times and what Roboflow appends to a name."""
    start = datetime(2024, 5, 1, 12)
    return [
        pattern.format(n=number, t=start + timedelta(seconds=number), h=md5(str(number).encode()).hexdigest())
        for number in range(1, count + 1)
    ]


HABITS = {
    "frames of a video": stems_of("frame_{n:04}"),
    "frames without zeros": stems_of("frame{n}"),
    "a phone's photos": stems_of("IMG_{t:%Y%m%d_%H%M%S}"),
    "bare times": stems_of("{t:%Y%m%d_%H%M%S}"),
    "a Pixel's photos": stems_of("PXL_{t:%Y%m%d_%H%M%S}123"),
    "WhatsApp's photos": stems_of("IMG-{t:%Y%m%d}-WA{n:04}"),
    "WhatsApp's photos on a computer": stems_of("WhatsApp Image {t:%Y-%m-%d} at {t:%H.%M.%S}"),
    "bare numbers": stems_of("{n:06}"),
    "two classes": [*stems_of("pistol{n}", 40), *stems_of("knife{n}", 40)],
    "a camera's photos": stems_of("DSC_{n:04}"),
    "copies of one name": stems_of("photo ({n})"),
    "Roboflow's export of a video": stems_of("clip_mp4-{n:04}_jpg.rf.{h}"),
    "stills of a player": stems_of("vlcsnap-{t:%Y-%m-%d-%Hh%Mm%Ss}000"),
    "screenshots": stems_of("Screenshot {t:%Y-%m-%d %H%M%S}"),
    "two videos": [*stems_of("cam1_frame_{n}", 30), *stems_of("cam2_frame_{n}", 30)],
    "random names": stems_of("{h}"),
}


@pytest.mark.parametrize(
    ("recording", "stems"),
    [
        ("KravMagaTraining", ["KravMagaTraining626", "KravMagaTraining21334"]),
        ("office", ["ABbframe00154", "LBsframe00001", "HBmframe00256"]),
        ("rooms", ["pistola_z3v7_05", "smartphone_z3v8_09"]),
        ("DSC", ["DSC_0010", "DSC_00591"]),
        ("cam1_frame_", ["cam1_frame_00154", "cam1_frame_9"]),
        ("knife_605-1016", ["knife_605", "knife_1016"]),
        ("knife_1017-1267", ["knife_1017"]),
        ("knife_#10", ["knife_500", "knife_549"]),
        ("armas (#0", ["armas (1)", "armas (49)", "armas (1)_jpg.rf.0a1b2c"]),
        ("armas (#1", ["armas (50)"]),
        ("img#0", ["img498", "img498v2", "img36"]),
        ("mkd_0_note#0", ["mkd_1000_note15_jpg", "mkd_50_note49_jpg"]),
        ("IMG_20240501", ["IMG_20240501_123344", "IMG_20240501_235959"]),
        ("floor_", ["floor_0", "floor_133"]),
        ("vnd_webcam", ["vnd_010000_10", "vnd_500000_248"]),
        ("vnd_table#0", ["vnd_20250210_111952_018", "vnd_IMG_5285"]),
        (
            "WhatsApp Image 2024-05-01",
            ["WhatsApp Image 2024-05-01 at 12.00.00", "WhatsApp Image 2024-05-01 at 9.1.0 (2)"],
        ),
        ("clip", ["clip"]),
        ("", []),
    ],
)
def test_recordings_follow_from_names(recording, stems):
    assert {recording_of(stem) for stem in stems} <= {recording}


@given(st.text(max_size=40))
def test_any_name_has_a_recording_and_a_side(stem):
    assert in_val(recording_of(stem), 0.12) in (True, False)
    assert not in_val(recording_of(stem), 0)


@given(st.text(st.characters(categories=["L"]), min_size=1, max_size=10))
def test_a_long_series_gives_val_its_share_whatever_it_is_called(series):
    chosen = [in_val(f"{series}#{block}", 0.12) for block in range(200)]
    assert 22 <= sum(chosen) <= 26  # 24 of 200, evenly spread
    assert max(np.diff(np.flatnonzero(chosen))) <= 13


def test_a_larger_share_only_adds_recordings():
    names = [f"series{number}#{number}" for number in range(500)]
    small, large = ({name for name in names if in_val(name, share)} for share in (0.1, 0.3))
    assert small < large


def test_known_pictures_keep_their_side():
    """Fixed by name: a change here moves pictures between train and val, and old numbers stop comparing."""
    assert in_val(recording_of("KravMagaKnifeDefenseTechniques066"))
    assert in_val(recording_of("billete_0031"))
    assert in_val(recording_of("img2500"))
    assert not in_val(recording_of("KravMagaTraining626"))
    assert not in_val(recording_of("ABbframe00154"))
    assert not in_val(recording_of("knife_700"))
    assert not in_val(recording_of("floor_55"))
    assert not in_val(recording_of("vnd_IMG_5377"))


# --- where names say too little ---------------------------------------------------------------------


@pytest.mark.parametrize("val_fraction", [0.05, 0.12, 0.3, 0.45])
@pytest.mark.parametrize("habit", HABITS)
def test_however_the_pictures_are_named_val_gets_about_its_share(habit, val_fraction):
    stems = HABITS[habit]
    divided = divide(stems, val_fraction)
    assert divided.places.keys() == set(stems)
    wanted = val_fraction * len(stems)
    assert 0.5 * wanted <= divided.count("val") <= 1.5 * wanted
    assert divided.count("train") >= (1 - 1.5 * val_fraction - 0.12) * len(stems)
    sides = {name: {place.side for place in divided.places.values() if place.recording == name}
             for name in {place.recording for place in divided.places.values() if place.side}}  # fmt: skip
    assert all(len(of_name - {None}) == 1 for of_name in sides.values())


@pytest.mark.parametrize(
    "habit", ["frames of a video", "frames without zeros", "a phone's photos", "bare times"]
)
def test_one_recording_is_cut_in_time_and_neighbours_are_left_out(habit):
    stems = HABITS[habit]
    divided = divide(stems, 0.12)
    assert divided.rule == "in time"
    sides = [divided.places[stem].side for stem in stems]
    assert sides == ["train"] * 50 + [None] * 3 + ["val"] * 7


def test_each_class_named_by_its_own_series_is_in_both_splits():
    divided = divide(HABITS["two classes"], 0.12)
    for word in ("pistol", "knife"):
        sides = [divided.places[stem].side for stem in HABITS["two classes"] if stem.startswith(word)]
        assert sides == ["train"] * 33 + [None] * 2 + ["val"] * 5


def test_a_long_video_gives_val_parts_from_all_its_length():
    divided = divide(stems_of("frame_{n}", 3000), 0.12)
    sides = [divided.places[f"frame_{number}"].side for number in range(1, 3001)]
    stretch = [None] * 50 + ["train"] * 780 + [None] * 50 + ["val"] * 120
    assert sides == ["train"] * 50 + stretch[50:] + stretch + stretch


def test_copies_of_one_frame_stay_together():
    """Roboflow writes several versions of a picture, each with a hash of its own."""
    stems = [f"{stem}{copy}" for stem in HABITS["Roboflow's export of a video"] for copy in "abc"]
    divided = divide(stems, 0.12)
    sides: dict[str, set[str | None]] = {}
    for stem in stems:
        sides.setdefault(stem.partition(".rf.")[0], set()).add(divided.places[stem].side)
    assert {len(of_frame) for of_frame in sides.values()} == {1}


def test_bursts_stay_whole_where_a_border_between_them_comes_near_the_share():
    stems = [f"walk{letter}frame_{number}" for letter in "ABCDEFGHIJ" for number in range(10)]
    divided = divide(stems, 0.2)
    assert divided.count("val") in (10, 20, 30)
    assert len({place.recording for place in divided.places.values()}) == 10


@given(
    st.sets(st.text(st.characters(categories=["L", "Nd"]), min_size=1, max_size=8), min_size=2, max_size=40)
)
def test_two_pictures_are_enough_to_train_and_validate(stems):
    divided = divide(sorted(stems), 0.12)
    assert divided.count("train") > 0
    assert divided.count("val") > 0


@pytest.mark.parametrize("habit", HABITS)
def test_the_order_of_the_files_changes_nothing(habit):
    shuffled = list(HABITS[habit])
    random.Random(0).shuffle(shuffled)
    assert divide(shuffled).places == divide(HABITS[habit]).places


# --- another share without weapons -------------------------------------------------------------------

ARMED = [f"armas ({number})" for number in range(1000)]
FREE = [f"billete_{number:04}" for number in range(1000)]


def val_at(negative_val_fraction: float | None, stems: list[str], free: list[str]) -> set[str]:
    divided = divide(
        stems,
        0.12,
        negative_val_fraction=negative_val_fraction,
        weapon_free={recording_of(stem) for stem in free},
    )
    return {stem for stem in stems if divided.places[stem].side == "val"}


def test_more_weapon_free_recordings_validate_and_no_other_picture_moves():
    before, after = (val_at(share, [*ARMED, *FREE], FREE) for share in (None, 0.4))
    assert before < after
    assert after - before <= set(FREE)
    assert 350 <= len(after & set(FREE)) <= 450


@pytest.mark.parametrize("habit", HABITS)
def test_a_larger_share_without_weapons_only_adds_to_val(habit):
    stems = HABITS[habit]
    vals = [val_at(share, stems, stems) for share in (None, 0.12, 0.3, 0.4, 0.5)]
    assert vals[0] == vals[1]
    assert all(small <= large for small, large in pairwise(vals))
    assert vals[0] < vals[4]
