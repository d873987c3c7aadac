"""Labelled clips: what belongs to one series, when a weapon is in it, and labels that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage

from detection.detections import CLASS_NAMES, SIX
from photosets import clips
from photosets.clips import ClipError, Frame, Span
from photosets.samples import Sample

PISTOL, PHONE = CLASS_NAMES.index("pistol"), CLASS_NAMES.index("smartphone")


def sample(root: Path, stem: str, *labels: int, recording: str = "cam", box=(10, 10, 50, 40)) -> Sample:
    boxes = np.array([box] * len(labels), np.float32).reshape(-1, 4)
    path = root / "images" / f"{stem}.png"
    return Sample(path, (160, 120), boxes, np.array(labels, np.int64), recording, root)


# --- series ------------------------------------------------------------------------------------------


def test_frames_of_one_recording_are_a_clip_in_the_order_of_their_numbers(tmp_path):
    names = ("cam_frame_10", "cam_frame_9", "cam_frame_8", "cam_frame_11")
    samples = [sample(tmp_path, name, *([PISTOL] if name in names[:2] else [])) for name in names]
    (clip,) = clips.series_clips(samples, SIX, rate=2)
    assert (clip.name, clip.recording, clip.count) == ("cam_frame_8 to cam_frame_11", "cam", 4)
    assert [frame.time_s for frame in clip.frames()] == [0, 0.5, 1, 1.5]
    assert clip.spans == (Span(0.5, 1.0),)  # 9 and 10


def test_a_clip_reads_its_pictures_when_asked_and_again_when_asked_again(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(3):
        PillowImage.new("RGB", (160, 120), (10 * i, 0, 0)).save(tmp_path / "images" / f"cam_frame_{i}.png")
    (clip,) = clips.series_clips([sample(tmp_path, f"cam_frame_{i}") for i in range(3)], SIX, rate=1)
    for _ in range(2):
        assert [frame.load()[0, 0, 0] for frame in clip.frames()] == [0, 10, 20]


def test_a_recording_is_cut_where_its_numbers_jump_and_short_ends_are_left_out(tmp_path):
    numbers = (1, 2, 4, 5, 40, 41, 42, 90, 91)
    samples = [sample(tmp_path, f"cam_frame_{number}") for number in numbers]
    assert [clip.count for clip in clips.series_clips(samples, SIX, rate=2)] == [4, 3]
    assert [one.name for one in clips.without_series(samples)] == ["cam_frame_90", "cam_frame_91"]


def test_numbered_stills_are_a_series_only_where_a_manifest_says_so(tmp_path):
    root = tmp_path / "set" / "root"
    root.mkdir(parents=True)
    samples = [sample(root, f"street_{i}", recording="street_#0") for i in range(6)]
    with pytest.raises(
        ClipError, match=r"at least 3 pictures of one recording.*among 6 pictures, found none"
    ):
        clips.series_clips(samples, SIX, rate=2)
    rows = [f"street_{i}.png,{'a' if i < 3 else 'b' if i < 5 else 'c'}" for i in range(6)]
    (root.parent / "manifest.csv").write_text("\n".join(["file,group", *rows]))
    (clip,) = clips.series_clips(samples, SIX, rate=2)  # b has two pictures
    assert clip.name == "street_0 to street_2"


def test_a_list_of_other_things_is_no_manifest_and_a_damaged_one_is_said(tmp_path):
    manifest = tmp_path / "manifest.csv"
    samples = [sample(tmp_path, f"cam_frame_{i}") for i in range(3)]
    manifest.write_text("name,price\nbread,3\n")
    assert len(clips.series_clips(samples, SIX, rate=2)) == 1
    manifest.write_bytes(b"file,group\n\xff\xfe,1\n")
    with pytest.raises(ClipError, match=r"manifest\.csv cannot be read"):
        clips.series_clips(samples, SIX, rate=2)


def test_pictures_of_two_roots_are_never_one_series(tmp_path):
    samples = [sample(tmp_path / root, f"cam_frame_{i}") for root in ("a", "b") for i in range(2)]
    with pytest.raises(ClipError):
        clips.series_clips(samples, SIX, rate=2)


@pytest.mark.parametrize(
    ("shows", "spans"),
    [
        ("......", []),
        ("x.....", [(0, 0)]),
        (".xx.x.", [(0.5, 2.0)]),  # hidden for one picture
        ("x....x", [(0, 0), (2.5, 2.5)]),  # for 2.5 s: it left
        ("x...x.", [(0, 2.0)]),
    ],
)
def test_a_weapon_that_is_hidden_for_two_seconds_stays_one_event(shows, spans):
    times = [0.5 * i for i in range(len(shows))]
    assert list(clips.spans_of(times, [mark == "x" for mark in shows])) == spans


# --- panned ------------------------------------------------------------------------------------------


def test_a_panned_photograph_moves_inside_it_and_its_events_are_where_the_weapon_is_in_view(tmp_path):
    (tmp_path / "images").mkdir()
    shades = np.indices((120, 160)).sum(axis=0).astype(np.uint8)
    PillowImage.fromarray(shades).convert("RGB").save(tmp_path / "images" / "still.png")
    corner = sample(tmp_path, "still", PISTOL, box=(0, 0, 160, 8))  # only a view of the top shows it
    for one, is_seen in ((corner, False), (sample(tmp_path, "still", PISTOL), True)):
        (clip,) = clips.panned_clips([one], SIX, rate=2, seconds=5)
        frames = list(clip.frames())
        windows = clips.pan((160, 120), 10, seed="still")
        assert (len(frames), clip.count, clip.is_panned) == (10, 10, True)
        assert windows.min() >= 0
        assert (windows[:, 2:] <= (160, 120)).all()
        assert len(np.unique(windows, axis=0)) > 5
        for frame, (x1, y1, _, _) in zip(frames, windows.tolist(), strict=True):
            assert frame.load().shape == (96, 128, 3)
            assert frame.load()[0, 0, 0] == x1 + y1
        in_view = [0.5 * i for i in range(10) if windows[i][1] <= 4]  # half of its 8 rows
        expected = clips.spans_of(in_view, [True] * len(in_view)) if not is_seen else (Span(0, 4.5),)
        assert clip.spans == expected


def test_what_is_no_weapon_is_no_event(tmp_path):
    (clip,) = clips.panned_clips([sample(tmp_path, "still", PHONE)], SIX, rate=2, seconds=3)
    assert clip.spans == ()


# --- videos ------------------------------------------------------------------------------------------


def video(folder: Path, labels: str, name: str = "till") -> Path:
    (folder / f"{name}.json").write_text(labels)
    path = folder / f"{name}.mp4"
    path.write_bytes(b"")
    return path


def ten_a_second(seconds: float):
    def read(path):
        for i in range(round(10 * seconds) + 1):
            yield Frame(i / 10, lambda: np.zeros((4, 4, 3), np.uint8))

    return read


def test_a_video_is_looked_at_at_the_rate_and_its_labels_are_its_events(tmp_path):
    path = video(tmp_path, '{"weapons": [{"from_s": 0.5, "to_s": 2}, {"from_s": 3, "to_s": 3}]}')
    (clip,) = clips.video_clips([path], rate=2, read=ten_a_second(3))
    assert (clip.name, clip.recording, clip.count) == ("till", "till", None)
    assert clip.spans == (Span(0.5, 2), Span(3, 3))
    assert [frame.time_s for frame in clip.frames()] == [0, 0.5, 1, 1.5, 2, 2.5, 3]


def test_a_folder_holds_clips_and_recordings_may_be_shared(tmp_path):
    for name in ("b", "a"):
        video(tmp_path, '{"weapons": [], "recording": "tuesday"}', name)
    found = clips.video_clips([tmp_path], rate=2, read=ten_a_second(3))
    assert [(clip.name, clip.recording) for clip in found] == [("a", "tuesday"), ("b", "tuesday")]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ('{"weapons": [{"from_s": 2, "to_s": 1}]}', "expected spans in order, each from_s no later than"),
        ('{"weapons": [{"from_s": 2, "to_s": 5}, {"from_s": 4, "to_s": 6}]}', "expected spans in order"),
        (
            '{"weapons": [{"from_s": -1, "to_s": 1}]}',
            "weapons.0.from_s: Input should be greater than or equal",
        ),
        ('{"weapons": [{"start": 1}]}', "weapons.0.from_s: Field required"),
        ("{}", "weapons: Field required"),
        ("no json", "Invalid JSON"),
    ],
)
def test_labels_that_cannot_be_are_said_with_their_file(labels, sentence, tmp_path):
    path = video(tmp_path, labels)
    with pytest.raises(ClipError) as told:
        clips.video_clips([path], rate=2, read=ten_a_second(9))
    assert str(told.value).startswith(f"{tmp_path / 'till.json'}: ")
    assert sentence in str(told.value)


def test_absent_labels_are_said_with_what_they_should_be(tmp_path):
    with pytest.raises(
        ClipError, match=r"expected the labels of a clip in .*till\.json: No such file.*from_s"
    ):
        clips.video_clips([tmp_path / "till.mp4"], rate=2, read=ten_a_second(9))


def test_a_folder_without_videos_is_said(tmp_path):
    with pytest.raises(ClipError, match=r"expected videos \(.*\.mp4.*\) in .*, found none"):
        clips.video_clips([tmp_path], rate=2, read=ten_a_second(9))


def test_a_label_beyond_the_end_and_a_video_of_one_picture_are_said(tmp_path):
    path = video(tmp_path, '{"weapons": [{"from_s": 1, "to_s": 9}]}')
    (clip,) = clips.video_clips([path], rate=2, read=ten_a_second(3))
    with pytest.raises(ClipError, match=r"seen until 9 s, but the last picture of till\.mp4 comes at 3\.0 s"):
        list(clip.frames())
    (clip,) = clips.video_clips([path], rate=2, read=ten_a_second(0.1))
    with pytest.raises(ClipError, match="fewer than 3 confirm nothing"):
        list(clip.frames())
