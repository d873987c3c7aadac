"""Every state of the page, through Streamlit's own AppTest, against a small real API."""

from __future__ import annotations

import csv
import io
import json
import re
import string
import xml.etree.ElementTree as ET
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import LONGEST_S
from PIL import Image
from skimage import data
from streamlit.delta_generator import DeltaGenerator
from streamlit.testing.v1 import AppTest

from client import Client
from detection import faces, imaging
from detection.drawing import draw_detections
from detection.names import LANGUAGES, closest_language
from page import corrections, downloads, frames, gallery, texts, video
from page.photos import CARDS_AT_ONCE, VIEWS, zoomed
from page.session import Choice, Failure, Page, Photo, Recent
from photosets import samples as photographs
from schemas import AlarmFigures, AlarmPoint, ImageResult, ModelCard, ModelName
from settings import WebSettings
from tests.fake_api import CARD, FakeApi, detection

WEB = str(Path(__file__).parents[2] / "web.py")
PISTOL = detection("pistol", 0.91, 10, 20, 50, 80)
PHONE = detection("smartphone", 0.72, 55, 10, 95, 60)
FAINT_KNIFE = detection("knife", 0.31, 5, 60, 30, 95)


def picture(shade: int = 90, size: tuple[int, int] = (320, 240)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (shade, shade, shade)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def api():
    with FakeApi([PISTOL, PHONE, FAINT_KNIFE]) as running:
        yield running


@pytest.fixture
def start(api, monkeypatch):
    """Return a function that opens the page as a new person."""

    def start(language: str = "en", **environment: str) -> AppTest:
        for name, value in {"API_URL": api.url, **environment}.items():
            monkeypatch.setenv(name, value)
        app = AppTest.from_file(WEB, default_timeout=LONGEST_S)
        app.session_state["language"] = language
        return app.run()

    return start


def upload(app: AppTest, *files: tuple[str, bytes], key: str = "uploads") -> AppTest:
    uploader = app.file_uploader(key=key)
    uploader.set_value([(name, content, "image/jpeg") for name, content in files] if key == "uploads" else
                       (*files[0], "video/mp4"))  # fmt: skip
    return app.run()


def said(app: AppTest) -> str:
    """Return every sentence the page shows."""
    assert not app.exception
    elements = (*app.error, *app.success, *app.warning, *app.info, *app.caption, *app.markdown, *app.title)
    return "\n".join(element.value for element in elements)


def slider(app: AppTest):
    return app.slider(key="threshold_photos_0.60")


# --- before any photo -------------------------------------------------------------------------------


def test_the_empty_page_invites_and_names_its_limits(start):
    words = said(start())
    assert "Add a photo above" in words
    assert "a person must always look and decide" in words
    assert "Nothing is stored" in words


def test_the_page_speaks_russian(start):
    words = said(start("ru"))
    assert "Добавьте фото выше" in words
    assert "Поиск оружия на фото" in words


# --- the answer -------------------------------------------------------------------------------------


def test_a_weapon_is_one_red_sentence_with_a_person_to_confirm(start):
    app = upload(start(), ("shop.jpg", picture()))
    assert [e.value for e in app.error] == ["**Possible weapon: pistol (91% sure). A person must confirm.**"]
    assert not app.success


def test_a_lookalike_alone_is_no_weapon(api, start):
    api.found = [PHONE]
    app = upload(start(), ("shop.jpg", picture()))
    assert [e.value for e in app.success] == ["**No weapon found. Seen instead: smartphone (72% sure).**"]


def test_nothing_found_is_an_answer(api, start):
    api.found = []
    app = upload(start(), ("shop.jpg", picture()))
    assert "No weapon found, and none of the look-alikes" in app.success[0].value


def test_the_answer_in_russian(start):
    app = upload(start("ru"), ("shop.jpg", picture()))
    assert "Возможно, оружие: пистолет (уверенность 91\N{NO-BREAK SPACE}%)" in app.error[0].value


def test_the_photo_is_asked_about_once_at_the_lowest_threshold(api, start):
    upload(start(), ("shop.jpg", picture()))
    assert [query for _, query, _ in api.requests] == [{"score_threshold": ["0.05"]}]


def test_slider_and_filter_act_without_a_new_request(api, start):
    app = upload(start(), ("shop.jpg", picture()))
    slider(app).set_value(0.2).run()
    assert "knife (31% sure)" in app.error[0].value
    slider(app).set_value(0.95).run()
    assert not app.error
    assert "the strongest sign of a weapon is pistol (91% sure)" in said(app)
    slider(app).set_value(0.6)
    app.toggle(key="only_weapons").set_value(True).run()
    assert "Hidden by your filter: 1." in said(app)
    assert len(api.requests) == 1


def test_the_filter_never_hides_a_weapon_from_the_answer(start):
    app = upload(start(), ("shop.jpg", picture()))
    app.button_group(key="labels").set_value(["smartphone"]).run()
    assert "Possible weapon" in app.error[0].value
    assert "Hidden by your filter: 1. The sentence above still counts weapons" in said(app)


def test_the_slider_starts_at_the_operating_point_and_says_what_it_means(start):
    app = upload(start(), ("shop.jpg", picture()))
    assert slider(app).value == 0.6
    assert "At **60%** the model raised the alarm on **88%** of the photos with a weapon" in said(app)
    assert "**48 of 1,000** photos without one (measured on validation photos)" in said(app)
    slider(app).set_value(0.8).run()
    assert "At **80%** the model raised the alarm on **49%**" in said(app)  # 1 - 0.8 ** 3
    app.button(key="threshold_reset_photos").click().run()
    assert slider(app).value == 0.6


def test_figures_of_the_test_photos_win_over_those_that_chose_the_threshold(api, start):
    assert CARD.operating_point is not None
    point = CARD.operating_point.model_copy(
        update={"split": "test", "image_recall": 0.81, "false_alarms_per_1000": 77, "weapon_images": 600}
    )
    curve = (AlarmPoint(score_threshold=0.8, image_recall=0.66, false_alarms_per_1000=21),)
    figures = AlarmFigures(operating_point=point, curve=curve)
    api.card = CARD.model_copy(update={"tested_alarm": figures})
    app = upload(start(), ("shop.jpg", picture()))
    assert slider(app).value == 0.6
    assert "the alarm on **81%** of the photos with a weapon" in said(app)
    assert "**77 of 1,000** photos without one (measured on test photos)" in said(app)
    assert "Counted on 600 photos with a weapon and 260 without" in said(app)
    assert "was chosen on validation photos by this rule" in said(app)
    assert "What a threshold catches and costs (test photos)" in said(app)
    slider(app).set_value(0.8).run()
    assert "At **80%** the model raised the alarm on **66%**" in said(app)
    assert "falsely on **21 of 1,000**" in said(app)


def test_the_slider_never_starts_above_what_raised_the_alarm(api, start):
    assert CARD.operating_point is not None
    point = CARD.operating_point.model_copy(update={"score_threshold": 0.8064})
    api.card = CARD.model_copy(update={"operating_point": point})
    app = upload(start(), ("shop.jpg", picture()))
    assert app.slider(key="threshold_photos_0.80").value == 0.8


def test_a_model_without_an_operating_point_says_so(api, start):
    api.card = CARD.model_copy(update={"operating_point": None, "alarm_curve": ()})
    app = upload(start(), ("shop.jpg", picture()))
    assert app.slider(key="threshold_photos_0.05").value == 0.05
    assert "no measured operating point" in said(app)


def test_another_model_is_asked_anew(api, start):
    app = upload(start(), ("shop.jpg", picture()))
    api.version, api.found = "8", []
    app.session_state["info_at"] = -1e9
    app.run()
    assert len(api.requests) == 2
    assert not app.error


def test_many_photos_have_one_summary_and_a_card_each(start):
    app = upload(start(), ("a.jpg", picture(10)), ("b.jpg", picture(20)), ("c.txt", b"no picture"))
    assert app.error[0].value == (
        "**Possible weapon in 2 of 2 photos, shown first. A person must confirm. Could not be checked: 1.**"
    )
    assert len(app.error) == 3
    assert "not a photo that can be read" in app.warning[0].value


def test_photos_with_a_weapon_come_first_then_those_without_an_answer(api, start):
    original = api.look

    def look(name, content, threshold):
        answer = original(name, content, threshold)
        return answer if name == "weapon.jpg" else answer.model_copy(update={"detections": []})

    api.look = look
    app = upload(
        start(), ("empty.jpg", picture(10)), ("notes.txt", b"no picture"), ("weapon.jpg", picture(20))
    )
    names = [m.value.removeprefix("##### ") for m in app.markdown if m.value.startswith("##### ")]
    assert names == [r"weapon.jpg", "notes.txt", "empty.jpg"]


def test_nothing_found_is_not_green_while_a_photo_could_not_be_checked(api, start):
    api.found = []
    app = upload(start(), ("a.jpg", picture()), ("notes.txt", b"no picture"))
    assert app.warning[0].value == "**No weapon found. Photos checked: 1. Could not be checked: 1.**"
    assert [e.value for e in app.success] == ["**No weapon found, and none of the look-alikes either.**"]


def test_of_very_many_photos_all_are_checked_and_the_first_shown(api, start):
    app = upload(start(), *((f"{i}.jpg", picture(i)) for i in range(14)))
    assert len(api.requests) == 14
    assert "Possible weapon in 14 of 14 photos" in app.error[0].value
    assert len(app.error) == 1 + CARDS_AT_ONCE
    more = app.button(key="more")
    assert more.label == "Show more photos (2 not shown yet)"
    more.click().run()
    assert len(app.error) == 15
    assert not [button for button in app.button if button.key == "more"]


def test_the_same_photo_twice_is_one(api, start):
    app = upload(start(), ("a.jpg", picture()), ("copy of a.jpg", picture()))
    assert len(app.error) == len(api.requests) == 1


def test_two_people_share_nothing(api, start):
    upload(start(), ("shop.jpg", picture()))
    other = start()
    assert not other.error
    assert "answers" not in other.session_state
    upload(other, ("shop.jpg", picture()))
    assert len(api.requests) == 2  # not even the answer to the same photo


def test_an_example_is_checked_and_taken_away_again(start):
    app = start()
    examples = [button for button in app.button if (button.key or "").startswith("example_")]
    assert len(examples) >= 8
    examples[0].click().run()
    assert len(app.error) == 1
    app.button(key=examples[0].key).click().run()
    assert not app.error


def test_zoom_and_views_draw(start):
    app = upload(start(), ("shop.jpg", picture()))
    for view in VIEWS:
        next(g for g in app.button_group if (g.key or "").startswith("view_")).set_value(view).run()
        said(app)
    next(s for s in app.selectbox if (s.key or "").startswith("zoom_")).select_index(1).run()
    said(app)


def test_zooming_keeps_the_whole_caption_in_the_picture(result):
    original, inside = zoomed(imaging.decode_image(picture()), result.detections, result.detections[0])
    drawn = draw_detections(original, inside, "ru").astype(int)
    vermilion = (drawn[..., 0] > 180) & (drawn[..., 1] < 130) & (drawn[..., 2] < 60)
    assert vermilion.any()
    assert not vermilion[:, -1].any()
    assert original.shape < (240, 320, 3)
    assert [d.label for d in inside] == ["pistol", "smartphone", "knife"]


def test_zooming_leaves_out_what_is_elsewhere():
    left, right = (detection("knife", 0.9, *box) for box in ((0, 0, 20, 20), (200, 100, 220, 130)))
    _, inside = zoomed(imaging.decode_image(picture()), [left, right], right)
    assert [d.box.x1 for d in inside] == [12]


# --- what goes wrong --------------------------------------------------------------------------------


def test_no_image_is_said_beside_that_photo(start):
    app = upload(start(), ("notes.txt", b"hello"))
    assert "This file is not a photo that can be read" in app.warning[0].value
    assert not [button for button in app.button if (button.key or "").startswith("retry_")]


def test_a_file_over_the_limit_is_not_even_sent(api, start):
    app = upload(start(API_MAX_BODY_MB="0.001"), ("big.jpg", picture(size=(900, 900))))
    assert "This file is too large" in app.warning[0].value
    assert not api.requests


@pytest.mark.parametrize(
    ("problem", "status", "sentence"),
    [
        ("queue-full", 503, "busy with other photos"),
        ("body-too-large", 413, "This file is too large"),
        ("deadline-exceeded", 504, "took too long"),
        ("unauthorized", 401, "wants a key"),
        ("bad-image", 400, "not a photo that can be read"),
        ("internal-error", 500, r"could not check this: internal-error\: In the test's words."),
    ],
)
def test_each_refusal_has_its_own_sentence(api, start, problem, status, sentence):
    app = start()
    api.fail_with(problem, status)
    upload(app, ("shop.jpg", picture()))
    assert sentence in app.warning[0].value


@pytest.mark.parametrize(("problem", "status"), [("bad-image", 400), ("image-too-large", 413)])
def test_trying_again_is_not_offered_for_a_file_that_cannot_work(api, start, problem, status):
    app = start()
    api.fail_with(problem, status)
    upload(app, ("shop.jpg", picture()))
    assert app.warning
    assert not [button for button in app.button if (button.key or "").startswith("retry_")]


def test_a_busy_api_is_tried_again_by_the_button(api, start):
    app = start()
    api.fail_with("queue-full", 503)
    upload(app, ("shop.jpg", picture()))
    api.problem = None
    next(b for b in app.button if (b.key or "").startswith("retry_")).click().run()
    assert "Possible weapon" in app.error[0].value


def test_api_down_then_back_loses_nothing(api, start):
    app = upload(start(), ("a.jpg", picture(10)))
    api.stop()
    app.session_state["info_at"] = -1e9
    upload(app, ("a.jpg", picture(10)), ("b.jpg", picture(20)))
    words = said(app)
    assert "cannot be reached at the moment" in words
    assert "Possible weapon: pistol" in words  # a's answer stands
    api.start()
    app.run()
    assert "cannot be reached" not in said(app)
    assert len(app.error) == 3  # the summary, a and b
    assert [names for *_, names in api.requests] == [["a.jpg"], ["b.jpg"]]


def test_a_page_opened_while_the_api_is_down_says_so(api, start):
    api.stop()
    try:
        app = upload(start(), ("a.jpg", picture()))
        assert ["cannot be reached" in warning.value for warning in app.warning] == [True, False]  # said once
        assert "Not checked yet" in app.warning[1].value
    finally:
        api.start()
    assert len(app.run().error) == 1


def test_a_loading_model_is_waited_for(api, start):
    api.fail_with("not-ready", 503)
    app = upload(start(), ("a.jpg", picture()))
    assert "still loading its model" in said(app)
    api.problem = None
    assert len(app.run().error) == 1


def test_a_stranger_at_the_address_is_named(api, start, monkeypatch):
    monkeypatch.setattr(FakeApi, "info", lambda self: ImageResult(file="I am another service"))
    assert "not this version’s API" in said(start())


# --- downloads --------------------------------------------------------------------------------------


@pytest.fixture
def page(api):
    made = Page("ru", WebSettings(api_url=api.url), Client(api.url))
    made.info = api.info()
    return made


@pytest.fixture
def result(api):
    return api.look("кадр.jpg", picture(), 0.05)


ALL = Choice(0.6, frozenset({"pistol", "knife", "smartphone"}))


def test_json_is_what_the_api_would_say_at_this_threshold(page, result):
    content = json.loads(downloads.json_of(page, [result], ALL))
    assert content["score_threshold"] == 0.6
    assert [d["label"] for d in content["results"][0]["detections"]] == ["pistol", "smartphone"]


def test_csv_opens_in_excel(result):
    content = downloads.csv_of([result], ALL)
    assert content.startswith(b"\xef\xbb\xbf")
    rows = list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"))))
    assert [(row["file"], row["label"], row["x1"]) for row in rows] == [
        ("кадр.jpg", "pistol", "32.0"), ("кадр.jpg", "smartphone", "176.0"),
    ]  # fmt: skip


def test_the_zip_holds_every_checked_photo(page, result):
    photos = [Photo("a.jpg", picture(1)), Photo("bad.txt", b"x"), Photo("a.jpg", picture(2))]
    content = downloads.zip_of(page, photos, [result, Failure("no"), result], ALL)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["detections.json", "detections.csv", "001-a.jpg", "003-a.jpg"]
        assert Image.open(io.BytesIO(archive.read("001-a.jpg"))).format == "JPEG"


NASTY = "![x](http://evil/x.png) **b** $a$ :red[x]"
SAFE = (
    "\\!\\[x\\]\\(http\\:\N{WORD JOINER}//evil/x.png\\) "
    r"\*\*b\*\* \$a\$ \:red\[x\]"
)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a_b*c[d](e).jpg", r"a\_b\*c\[d\]\(e\).jpg"),
        (NASTY, SAFE),
        ("a\nb", "a b"),  # no second line, which could begin a heading or a list
        ("1. a", "1\N{WORD JOINER}. a"),
        ("www.evil.com", "www\N{WORD JOINER}.evil.com"),
        ("me@evil.com", "me@\N{WORD JOINER}evil.com"),
        (":material/policy:", "\\:\N{WORD JOINER}material/policy\\:"),
        ("a--b", "a-\N{WORD JOINER}-b"),
        ("- a-b", r"\- a-b"),
        ("a\udce9.jpg", r"a\\udce9.jpg"),
    ],
)
def test_a_name_is_shown_as_it_is(name, shown):
    assert texts.markdown_safe(name) == shown


def test_names_from_outside_are_shown_as_they_are_wherever_markdown_is_drawn(api, start, monkeypatch):
    """The file, and all that a model's card and the API say."""
    nasty = CARD.model_copy(
        update={
            "class_names": ("__background__", "pistol", NASTY),
            "data": {"roots": [NASTY], "train": {"images": 1, "boxes": {NASTY: 2}}},
            "git_commit": NASTY, "library_versions": {NASTY: NASTY}, "metrics": {NASTY: 0.5},
            "tables": CARD.tables.model_copy(update={"confusion": ((0, 1, 2),) * 3}) if CARD.tables else None,
        }
    )  # fmt: skip
    info = FakeApi.info
    monkeypatch.setattr(
        FakeApi, "info",
        lambda self: info(self).model_copy(update={
            "card": nasty, "watch_error": NASTY, "source": NASTY,
            "model": ModelName(name=NASTY, version=NASTY, alias=NASTY),
        }),
    )  # fmt: skip
    api.found = [detection(NASTY, 0.9, 10, 10, 50, 50)]
    said_meanwhile = []
    bar = DeltaGenerator.progress

    def progress(self, value, text):
        said_meanwhile.append(text)
        return bar(self, value, text)

    monkeypatch.setattr(DeltaGenerator, "progress", progress)
    app = upload(start(), (NASTY, picture()))
    api.fail_with("internal-error", 500, detail=NASTY)
    upload(app, (NASTY, picture()), ("other.jpg", picture(7)))
    assert said_meanwhile == [f"Checking {SAFE} (1 of 1)", "Checking other.jpg (2 of 2)"]
    words = [said(app), *(metric.label for metric in app.metric)]
    for table in app.table:
        words += [
            str(cell) for row in table.value.to_dict("records") for pair in row.items() for cell in pair
        ]
    words += [option.content for group in app.button_group for option in group.proto.options]
    assert sum(SAFE in piece for piece in words) > 10
    assert [piece for piece in words if NASTY in piece] == []


# --- video ------------------------------------------------------------------------------------------


def clip(seconds: float = 3, rate: int = 8) -> bytes:
    output = io.BytesIO()
    with av.open(output, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for i in range(round(seconds * rate)):
            image = np.full((120, 160, 3), 10 * i % 255, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return output.getvalue()


def test_a_video_raises_the_alarm_once_enough_frames_agree(api, start):
    app = upload(start(), ("film.mp4", clip()), key="video")
    assert app.error[0].value == (
        "**Possible weapon at 0:00–0:02: pistol (91% sure). A person must confirm.**"
    )
    assert len(api.requests) == 6  # 3 s, 2 frames each
    app.number_input(key="video_window").set_value(20).run()
    app.number_input(key="video_needed_20").set_value(7).run()
    assert "suspected in 6 of 6 frames, but never in 7 of 20" in app.success[0].value
    assert len(api.requests) == 6


def test_the_clip_is_a_video_as_long_as_the_original(start):
    app = upload(start(), ("film.mp4", clip()), key="video")
    app.button(key="video_clip").click().run()
    said(app)
    (content,) = app.session_state["clips"].values()
    assert frames.duration_s(content) == pytest.approx(3, abs=0.2)


def test_an_interrupted_video_goes_on_where_it_stopped(api, start):
    app = start()
    api.fail_with("not-ready", 503, times=0)
    original, seen = api.look, []

    def look(name, content, threshold):
        seen.append(name)
        if len(seen) == 4:
            api.fail_with("queue-full", 503)
        return original(name, content, threshold)

    api.look = look
    upload(app, ("film.mp4", clip()), key="video")
    assert "busy" in app.warning[0].value
    assert "Only the first 0:01 were checked" in said(app)
    api.problem = None
    app.run()
    assert len(seen) == 6
    assert not app.warning


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"no video", "not a video that can be read"), (None, "longer than 2 seconds")],
)
def test_a_video_that_cannot_be_used(start, content, sentence):
    app = upload(start(VIDEO_MAX_SECONDS="2"), ("film.mp4", content or clip()), key="video")
    assert sentence in app.warning[0].value


@pytest.mark.parametrize(
    ("seen", "needed", "window", "alarms"),
    [
        ("100000", 2, 3, "000000"),  # one frame's mistake
        ("101000", 2, 3, "001000"),
        ("111111", 3, 3, "001111"),
        ("110000", 2, 5, "011110"),
        ("0100", 1, 1, "0100"),
    ],
)
def test_n_of_m(seen, needed, window, alarms):
    flags = frames.confirm([c == "1" for c in seen], needed=needed, window=window)
    assert flags == [c == "1" for c in alarms]


@pytest.mark.parametrize(
    ("seen", "needed", "window", "spans"),
    [
        ("0011100000", 2, 3, [(2, 4)]),  # though the alarm lasts from 3 to 5
        ("0101000000", 2, 3, [(1, 3)]),
        ("1000000000", 2, 3, []),
        ("1100001100", 2, 3, [(0, 1), (6, 7)]),
        ("1100100000", 2, 4, [(0, 4)]),
        ("1000100000", 1, 1, [(0, 0), (4, 4)]),
    ],
)
def test_an_alarm_is_dated_by_the_frames_that_agreed(seen, needed, window, spans):
    flags = [c == "1" for c in seen]
    alarms = frames.confirm(flags, needed=needed, window=window)
    assert video.spans(list(range(10)), flags, alarms, window) == spans


# --- model tab --------------------------------------------------------------------------------------


def test_the_model_tab_tells_version_figures_and_intervals(start):
    app = start()
    words = said(app)
    assert "**weapon-detector**, version 7 (champion)" in words
    figures = {metric.label: (metric.value, metric.delta) for metric in app.metric}
    assert figures["Photos with a weapon that raise the alarm"] == ("88%", "95% interval 85% to 91%")
    assert figures["mAP at IoU 0.50"] == ("0.793", "")
    assert "520 photos with a weapon and 260 without" in words
    assert "drawing the 140 recordings again, not single photos" in words


@pytest.mark.parametrize(
    ("how", "said_of_it"),
    [
        ("", "ложных тревогах на 1000 фото без него."),
        (" at the upper end of the 95 % interval", "считается верхняя граница 95-процентного интервала."),
        (" as measured (20 from 5 recordings are too few to bound it)", "фото слишком мало."),
    ],
)
def test_the_model_tab_speaks_russian_to_the_last_figure(api, start, how, said_of_it):
    rule = "highest image-level weapon recall with at most 50 false alarms per 1,000 weapon-free images" + how
    assert CARD.operating_point is not None
    point = CARD.operating_point.model_copy(update={"rule": rule, "score_threshold": 0.8064})
    api.card = CARD.model_copy(update={"operating_point": point})
    app = start("ru")
    words = said(app)
    assert "при не более чем 50 ложных тревогах" in words
    assert said_of_it in words
    assert "Порог 80 % выбран" in words  # as the slider has it
    assert {m.label: m.value for m in app.metric}["mAP при IoU 0,50"] == "0,793"


def test_the_model_tab_counts_the_photos_and_gives_each_class_its_interval(start):
    tables = [table.value.to_dict("records") for table in start().table]
    classes = next(rows for rows in tables if "Class in the data" in rows[0])
    assert classes[0]["AP (95% interval)"] == "0.60 (0.55–0.65)"
    counts = next(rows for rows in tables if "Used for" in rows[0])
    assert [(row["Used for"], row["Photos"], row["pistol"]) for row in counts] == [
        ("training", "4000", "1800"), ("validation", "780", "300"),
    ]  # fmt: skip


def test_the_model_tab_draws_confusions_and_lookalikes(start):
    tables = [table.value.to_dict("records") for table in start().table]
    confusion = next(rows for rows in tables if "What it really was" in rows[0])
    assert confusion[0] == {
        "What it really was": "pistol", "pistol": "90", "knife": "3", "banknote": "4", "wallet": "5",
        "smartphone": "6", "bank card": "7", "not found": "1",
    }  # fmt: skip
    assert confusion[-1]["What it really was"] == "nothing of these"
    lookalikes = next(rows for rows in tables if "taken for a pistol" in rows[0])
    assert lookalikes == [
        {"look-alike": "smartphone", "taken for a pistol": "3 of 54", "a pistol taken for it": "2 of 361"}
    ]


def test_a_model_without_tables_has_the_rest(api, start):
    api.card = CARD.model_copy(update={"tables": None})
    words = said(start())
    assert "What was called what" not in words
    assert "What it looks for" in words


# --- corrections ------------------------------------------------------------------------------------


def test_corrections_are_off_by_default(start):
    app = upload(start(), ("shop.jpg", picture()))
    assert not app.checkbox


def test_a_correction_is_kept_only_after_consent(start, tmp_path):
    folder = tmp_path / "feedback"
    app = upload(start(FEEDBACK_DIR=str(folder)), ("shop.jpg", picture()))
    send = next(b for b in app.button if (b.key or "").startswith("send_"))
    assert send.disabled
    really = [s for s in app.selectbox if (s.key or "").startswith("really_")]
    really[0].set_value("smartphone")
    really[1].set_value("")
    app.checkbox[0].check().run()
    assert not folder.exists()
    next(b for b in app.button if (b.key or "").startswith("send_")).click().run()
    assert "Kept; faces blurred: 0." in said(app)
    (annotation,) = (folder / "annotations" / "xmls").iterdir()
    root = ET.parse(annotation).getroot()
    assert [thing.findtext("name") for thing in root.iter("object")] == ["smartphone"]
    assert [int(root.findtext(f"object/bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")] == [
        32,
        48,
        160,
        192,
    ]
    assert (folder / "images" / root.findtext("filename")).is_file()


def test_a_correction_asks_about_boxes_that_the_filter_hides(start, tmp_path):
    app = upload(start(FEEDBACK_DIR=str(tmp_path)), ("shop.jpg", picture()))
    app.button_group(key="labels").set_value(["smartphone"]).run()
    asked = [s.label for s in app.selectbox if (s.key or "").startswith("really_")]
    assert asked == ["pistol 91% is really", "smartphone 72% is really"]


def test_corrections_train_the_next_model(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (120, 200, 3), np.uint8)
    corrections.keep(tmp_path, image, [corrections.Correction("smartphone", (-3, 20.4, 250, 90))])
    corrections.keep(tmp_path, image // 2, [])
    samples = [sample for split in ("train", "val") for sample in photographs.read_samples([tmp_path], split)]
    found = sorted((sample.labels.tolist(), sample.boxes.tolist()) for sample in samples)
    assert found == [([], []), ([5], [[0, 20, 200, 90]])]  # 5 is the smartphone


def test_a_folder_that_cannot_be_written_is_one_sentence(start):
    app = upload(start(FEEDBACK_DIR="/proc/feedback"), ("shop.jpg", picture()))
    app.checkbox[0].check().run()
    next(b for b in app.button if (b.key or "").startswith("send_")).click().run()
    assert "could not be kept" in said(app)
    assert "FEEDBACK_DIR" in said(app)


def test_faces_are_blurred_before_they_are_kept(tmp_path):
    face = data.astronaut()
    assert corrections.keep(tmp_path, face, []) == 1
    (kept,) = (tmp_path / "images").iterdir()
    image = imaging.decode_image(kept.read_bytes())
    for x1, y1, x2, y2 in faces.find_faces(image):
        assert not (x1 < 224 < x2 and y1 < 116 < y2)  # where her face is
    inside, outside = np.s_[70:160, 180:260], np.s_[300:500, 100:400]
    assert image[inside].astype(float).std() < 0.7 * face[inside].astype(float).std()
    assert np.abs(image[outside].astype(int) - face[outside]).mean() < 6


# --- words ------------------------------------------------------------------------------------------


def fields(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


@pytest.mark.parametrize("key", texts.TEXTS)
def test_every_text_exists_in_every_language_with_the_same_values(key):
    versions = texts.TEXTS[key]
    assert versions.keys() == LANGUAGES.keys()
    assert all(version.strip() for version in versions.values())
    assert len({frozenset(fields(version)) for version in versions.values()}) == 1


def test_every_example_has_a_name_in_every_language():
    stems = {path.stem for path in gallery.GALLERY.glob("*.jpg")}
    assert texts.EXAMPLE_TEXTS.keys() == stems
    assert all(names.keys() == LANGUAGES.keys() for names in texts.EXAMPLE_TEXTS.values())


def test_russian_texts_are_in_russian():
    latin = {key for key, v in texts.TEXTS.items() if not any("а" <= c <= "я" for c in v["ru"].lower())}
    assert latin == {"decimal_point", "download_json", "metric_map"}


def test_the_page_uses_every_text_and_no_other():
    sources = [path for path in (Path(WEB), *Path(WEB).parent.glob("page/*.py")) if path.stem != "texts"]
    code = "\n".join(path.read_text() for path in sources)
    unused = {key for key in texts.TEXTS if f'"{key}"' not in code and f"'{key}'" not in code}
    assert unused == {
        "split_val",
        "split_test",
        "data_train",
        "data_val",
        "curve_recall_of_boxes",
        "curve_precision_of_boxes",
    }  # made of the model card's split


def test_every_text_that_the_page_asks_for_is_there():
    code = "\n".join(path.read_text() for path in (Path(WEB), *Path(WEB).parent.glob("page/*.py")))
    asked = set(re.findall(r"""\.text\(\s*["'](\w+)["']""", code))
    assert len(asked) > 50
    assert asked - texts.TEXTS.keys() == set()


def test_all_that_is_known_of_the_shipped_model_is_shown(api, start):
    api.card = ModelCard.model_validate_json((Path(WEB).parent / "weights/starter/model.json").read_bytes())
    for language in ("en", "ru"):
        app = start(language)
        assert not app.exception
        assert not app.error


@pytest.mark.parametrize(
    ("locale", "language"),
    [("ru-RU", "ru"), ("ru", "ru"), ("en-GB", "en"), ("de-DE", "en"), (None, "en"), ("RU_ru", "ru")],
)
def test_the_browser_chooses_the_first_language(locale, language):
    assert closest_language(locale) == language


def test_recent_forgets_what_was_used_longest_ago():
    recent: Recent[str, int] = Recent(2)
    recent["a"], recent["b"] = 1, 2
    assert recent["a"] == 1
    recent["c"] = 3
    assert list(recent) == ["a", "c"]
