"""What the cameras' rule makes of labelled clips: worked-out figures, and the whole program on drawn ones."""

from __future__ import annotations

import json
import shutil

import av
import numpy as np
import pytest
import torch
from fake_detector import KNIFE, OPERATING_POINT, PHONE, PISTOL, FakeDetector, found, make_card
from PIL import Image as PillowImage
from pydantic import TypeAdapter

import evaluate
from commands import evaluate_config
from detection import architectures
from detection import detector as detectors
from detection.card import read_card, write_card
from detection.confirmation import Rule
from detection.detections import CLASS_NAMES
from evaluation import report as reports
from evaluation import video
from evaluation.video import Look, Seen, measure_video
from photosets import clips, layout
from photosets.voc import annotation_xml
from schemas import Box, Detection, ModelCard

RULE = Rule(alarm_from=0.6, unsure_from=0.3)


def pistol(score: float, x: float = 10) -> Detection:
    return Detection(label="pistol", dangerous=True, score=score, box=Box(x1=x, y1=10, x2=x + 40, y2=40))


def seen(scores: str, *spans: tuple[float, float], name: str = "clip", recording: str = "") -> Seen:
    """A clip at 2 pictures a second: a digit is a pistol of that score in tenths, a dot is nothing."""
    looks = [Look(0.5 * i, () if mark == "." else (pistol(int(mark) / 10),)) for i, mark in enumerate(scores)]
    return Seen(name, recording or name, 2.0, spans, tuple(looks))


def figures(*clips_seen: Seen, rule: Rule = RULE, **fields):
    return measure_video(clips_seen, rule, split="val", runtime="torch", **fields).figures


# --- figures -----------------------------------------------------------------------------------------


def test_the_time_to_alarm_runs_from_the_events_first_picture_to_the_third_that_shows_it():
    measured = figures(seen("..999999", (1, 3.5)))
    assert (measured.events, measured.alarmed, measured.noticed, measured.missed) == (1, 1, 1, 0)
    assert measured.time_to_alarm_s == 1.0  # at 1, 1.5 and 2 s
    assert measured.alarms_per_event == 1
    assert (measured.false_alarms, measured.weapon_free_hours) == (0, 1 / 3600)  # the first two pictures


def test_the_mean_is_over_alarmed_events_alone():
    clips_seen = (
        seen("999.....", (0, 1), name="quick"),  # at 1.0 s
        seen("9.9.9...", (0, 2), name="slow"),  # at 2.0 s
        seen("9......", (0, 3), name="missed"),
        seen("555", (0, 1), name="unsure"),
    )
    measured = figures(*clips_seen)
    assert (measured.events, measured.alarmed, measured.noticed) == (4, 2, 3)
    assert (measured.time_to_alarm_s, measured.time_to_alarm_median_s) == (1.5, 1.5)
    result = measure_video(clips_seen, RULE, split="val", runtime="torch")
    assert [(one.name, one.missed) for one in result.clips] == [("missed", ((0, 3),)), ("unsure", ((0, 1),))]


def test_what_is_raised_outside_of_events_is_false_and_counted_per_hour():
    measured = figures(seen("999" + 57 * "."), seen("444" + 57 * ".", name="unsure"))
    assert (measured.events, measured.alarmed_share, measured.time_to_alarm_s) == (0, None, None)
    assert (measured.false_alarms, measured.weapon_free_hours) == (1, pytest.approx(1 / 60))
    assert measured.false_alarms_per_hour == pytest.approx(60)
    assert measured.false_suspicions_per_hour == pytest.approx(60)  # the other clip's


def test_an_alarm_that_an_event_only_inherits_is_no_alarm_of_it():
    """A clock was taken for a pistol, then a pistol is held before it: nobody is told anew."""
    measured = figures(seen("99999999", (2, 3.5)))
    assert (measured.alarmed, measured.false_alarms, measured.noticed) == (0, 1, 0)


def test_five_in_a_row_is_olmos_and_others_rule():
    measured = figures(seen(".9999.99999.", (0.5, 5), name="a"), seen("9999.9999", (0, 4), name="b"))
    assert (measured.five_in_a_row, measured.five_in_a_row_s) == (1, 4.5)  # the tenth picture, from 0.5 s


def test_a_rows_pictures_reach_the_alarm_point_and_lie_in_the_event():
    assert figures(seen("55555", (0, 2))).five_in_a_row == 0
    assert figures(seen("9999999", (1.5, 3))).five_in_a_row == 0


def test_someone_who_is_told_twice_of_one_event_is_counted():
    rule = Rule(alarm_from=0.6, unsure_from=0.3, cool_down_s=1.0, rest_s=0.0)
    again = seen("999......999", (0, 5.5))  # 3.5 s later
    assert figures(again, rule=rule).alarms_per_event == 2
    assert figures(again).alarms_per_event == 1


def test_the_intervals_are_the_wider_of_counting_and_of_drawing_recordings():
    one = figures(seen("999", (0, 1)), seen("9..", (0, 1), name="other"))
    assert (one.alarmed_share_low, one.alarmed_share_high) == (0, 1)  # two recordings, all or nothing
    same = figures(*(seen(marks, (0, 1), name=marks, recording="r") for marks in ("999", "9..")))
    assert same.alarmed_share_low == pytest.approx(0.0945, abs=1e-4)  # Wilson, 1 of 2
    assert same.alarmed_share_high == pytest.approx(0.9055, abs=1e-4)
    still = figures(seen(7200 * "."))  # an hour
    assert (still.false_alarms_per_hour, still.false_alarms_per_hour_low) == (0, 0)
    assert still.false_alarms_per_hour_high == pytest.approx(3.689, abs=1e-3)  # -ln(0.025)
    once = figures(seen("999" + 7197 * "."))
    assert once.false_alarms_per_hour_low == pytest.approx(0.0253, abs=1e-4)
    assert once.false_alarms_per_hour_high == pytest.approx(5.572, abs=1e-3)
    hour, other = seen("999" + 7197 * "."), seen(7200 * ".", name="other")
    uneven = figures(
        *[seen("999......" * 8 + 7128 * ".", name="loud"), hour, other],
        rule=Rule(0.6, 0.3, cool_down_s=1, rest_s=0),
    )
    assert uneven.false_alarms == 9
    assert uneven.false_alarms_per_hour_high > 9 / 3 * 2  # some draws hold the loud recording twice


def test_notes_say_what_the_figures_cannot_tell():
    few = measure_video([seen("999", (0, 1)), seen("...", name="b")], RULE, split="val", runtime="torch")
    (note,) = few.notes
    assert "Only 0.0 minutes of the clips are without a weapon" in note
    none = measure_video([seen(7200 * ".")], RULE, split=None, runtime="torch", panned=1)
    assert [note[:24] for note in none.notes] == ["No clip shows a weapon, ", "1 clips are single photo"]


def test_a_clip_is_looked_at_as_the_api_answers_weapons_alone_and_each_by_one_name():
    detector = FakeDetector(found((PHONE, 0.95), (PISTOL, 0.9), (KNIFE, 0.7)))
    detector.detections.boxes[2] = detector.detections.boxes[1] + 0.5  # the knife lies on the pistol
    frames = [clips.Frame(0.5 * i, lambda: np.zeros((8, 8, 3), np.uint8)) for i in range(3)]
    clip = clips.Clip("a", "r", 2.0, (clips.Span(0, 1),), lambda: iter(frames), 3)
    (looked,) = video.look_at([clip], detector, make_card())
    assert [[one.label for one in look.weapons] for look in looked.looks] == [["pistol"]] * 3
    assert looked.looks[0].weapons[0].box == Box(x1=10, y1=1, x2=18.5, y2=5)
    assert figures(looked).alarmed == 1
    unsure = FakeDetector(found((PISTOL, 0.59)))
    assert (
        video.look_at([clip], unsure, make_card())[0].looks[0].weapons == ()
    )  # this card has no unsure point


def test_the_rows_of_a_table_hold_intervals_and_dashes():
    rows = dict(video.table_rows(figures(seen("999", (0, 1)))))
    assert rows["share with an alarm"] == "1.000 (0.207 to 1.000)"  # Wilson, 1 of 1
    assert rows["seconds to the alarm, mean (AATpI)"] == "1.00"
    assert rows["false alarms per hour"] == "-"


# --- the whole program -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The light network with random weights, at a size that takes no time."""
    torch.manual_seed(0)
    network = architectures.network_config(
        "fasterrcnn_mobilenet_v2_fpn", min_size=64, max_size=96, fpn_channels=16, box_head_width=16,
        box_detections_per_img=10,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("model")
    detectors.Detector(ModelCard(network=network, class_names=CLASS_NAMES)).save_folder(folder)
    write_card(folder, read_card(folder).model_copy(update={"operating_point": OPERATING_POINT}))
    return folder


@pytest.fixture
def root(tmp_path):
    """Four frames of one recording, two of them with a pistol."""
    root = tmp_path / "data"
    images, xmls = (root / part for part in layout.FOLDERS["test"])
    images.mkdir(parents=True)
    xmls.mkdir(parents=True)
    for i in range(4):
        PillowImage.new("RGB", (96, 64), (60 * i, 0, 0)).save(images / f"cam_frame_{i}.png")
        boxes = [[10, 10, 50, 40]] if i > 1 else []
        xml = annotation_xml(f"cam_frame_{i}.png", (96, 64), ["pistol"] * len(boxes), boxes)
        (xmls / f"cam_frame_{i}.xml").write_bytes(xml)
    return root


@pytest.fixture
def till(tmp_path):
    """Three seconds of video with labels."""
    path = tmp_path / "clips" / "till.mp4"
    path.parent.mkdir()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for i in range(31):
            image = np.full((64, 96, 3), 8 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    path.with_suffix(".json").write_text('{"weapons": [{"from_s": 1, "to_s": 2}]}')
    return path


def test_series_and_videos_stand_in_the_report_and_on_its_page_and_are_kept(
    root, till, model, tmp_path, capsys
):
    folder, out = shutil.copytree(model, tmp_path / "model"), tmp_path / "out"
    arguments = ["--data", str(root), "--model", str(folder), "--output", str(out), "--no-latency", "--keep"]
    assert evaluate.main([*arguments, "--video", "--clips", str(till.parent)]) == 0
    said = capsys.readouterr().out
    assert "2 clips of 2 recordings, 2 pictures a second, 3 of 5, torch" in " ".join(said.split())
    result = reports.read_report(out)
    assert result.video is not None
    measured = result.video.figures
    assert (measured.clips, measured.pictures, measured.events) == (2, 4 + 7, 2)
    assert (measured.split, measured.runtime, measured.alarm_from) == ("test", "torch", 0.6)
    assert measured.weapon_free_hours == pytest.approx((1.0 + 2.0) / 3600)  # each event has its last 0.5 s
    assert read_card(folder).video == measured
    assert read_card(folder).tested_alarm is not None
    page = (out / "report.html").read_text()
    assert "On cameras" in page
    assert "seconds to the alarm, mean (AATpI)" in page
    assert "test/video/alarmed_share" in read_card(folder).metrics


def test_videos_alone_need_no_photographs(till, model, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        evaluate.main(["--clips", str(till), "--model", str(model), "--output", str(out), "--rate", "5"]) == 0
    )
    result = TypeAdapter(video.VideoResult).validate_json((out / "video.json").read_bytes())
    assert (result.figures.pictures, result.figures.rate, result.figures.split) == (16, 5, None)
    assert f"report: {out / 'video.json'}" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"video.json"}


def test_photographs_without_a_series_are_panned_over_when_asked(root, model, tmp_path):
    images, xmls = (root / part for part in layout.FOLDERS["test"])
    PillowImage.new("RGB", (96, 64), (0, 90, 0)).save(images / "still.png")
    (xmls / "still.xml").write_bytes(annotation_xml("still.png", (96, 64), [], []))
    out = tmp_path / "out"
    arguments = ["--data", str(root), "--model", str(model), "--output", str(out), "--no-latency", "--video"]
    assert evaluate.main([*arguments, "--pan-seconds", "3"]) == 0
    made = reports.read_report(out).video
    assert made is not None
    measured = made.figures
    assert (measured.clips, measured.panned, measured.pictures) == (2, 1, 4 + 6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--data", "{root}", "--video", "--limit", "2"], "expected a series of at least 3 pictures"),
        (["--clips", "{tmp}/absent.mp4"], "expected the labels of a clip in"),
        (["--clips", "{broken}"], "broken.mp4 cannot be read: what is there is no video that can be read"),
        (["--clips", "{long}"], "a weapon is said to be seen until 99 s"),
        (["--clips", "{tmp}"], "expected videos"),
        (["--data", "{root}", "--runtime", "openvino"], "--runtime openvino cannot run this model"),
        (["--data", "{root}", "--runtime", "auto", "--keep"], "figures of photographs are PyTorch's"),
    ],
)
def test_what_cannot_be_scored_is_a_sentence(arguments, sentence, root, till, model, tmp_path, capsys):
    broken, long = (
        shutil.copytree(till.parent, tmp_path / name) / f"{name}.mp4" for name in ("broken", "long")
    )
    for path in (broken, long):
        (path.parent / "till.mp4").rename(path)
        (path.parent / "till.json").rename(path.with_suffix(".json"))
    broken.write_bytes(b"no video at all")
    long.with_suffix(".json").write_text('{"weapons": [{"from_s": 1, "to_s": 99}]}')
    places = {"root": root, "tmp": tmp_path, "broken": broken, "long": long}
    filled = [argument.format(**places) for argument in arguments]
    assert evaluate.main([*filled, "--model", str(model), "--output", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert sentence in said
    assert "Traceback" not in said


def test_nothing_to_score_is_a_sentence(capsys):
    with pytest.raises(SystemExit) as told:
        evaluate_config(["--model", "m"])
    assert "expected a folder of photographs, or labelled videos with --clips" in str(told.value)


def test_ctrl_c_leaves_no_report(till, model, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(video, "weapons_in", interrupted)
    out = tmp_path / "out"
    assert evaluate.main(["--clips", str(till), "--model", str(model), "--output", str(out)]) == 130
    assert "no report was written" in capsys.readouterr().err
    assert not list(out.iterdir())


def test_a_card_with_figures_of_clips_reads_back_as_it_was():
    card = make_card(video=figures(seen("999", (0, 1))))
    assert ModelCard.model_validate_json(card.model_dump_json()) == card
    assert json.loads(card.model_dump_json())["video"]["alarmed"] == 1
