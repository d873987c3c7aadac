"""Cameras beside an API that finds, fails and comes back: what is confirmed, told and kept."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from datetime import datetime

import numpy as np
import pytest
import sqlalchemy
from camera_parts import PISTOL, POINTS, api, camera, clip, store, write_clip
from conftest import free_port, wait_until
from PIL import Image
from skimage import data

from cameras import alerts as telling
from cameras import watcher as watching
from cameras.alerts import Courier
from cameras.config import Camera
from cameras.events import EventStore
from cameras.looking import Looker, Served, rehearse, try_camera
from cameras.watcher import CameraWatch, Telling, Watcher
from client import Client
from detection import imaging
from schemas import Problem
from tests.fake_api import OPERATING_POINT, FakeApi, detection

__all__ = ["api", "clip", "store"]  # fixtures

GREY = np.full((96, 128, 3), 128, np.uint8)
QUEUE_FULL = Problem(type="urn:problem:queue-full", title="Busy", status=503, detail="The queue is full.")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(watching, "ASK_AGAIN_MOST_S", 0.5)


def a_client(api: FakeApi) -> Client:
    return Client(api.url, retries=0)


def a_looker(api: FakeApi, **fields) -> Looker:
    client = a_client(api)
    return Looker(camera("unused", **fields), client, Served(client))


@contextlib.contextmanager
def watched(
    api: FakeApi, *cameras: Camera, store: EventStore | None = None, telling=None, couriers=()
) -> Iterator[Watcher]:
    client = a_client(api)
    served = Served(client)
    watches = [
        CameraWatch(each, client, served, store=store, telling=telling, stall_s=5, couriers=couriers)
        for each in cameras
    ]
    watcher = Watcher(watches, store, couriers)
    thread = threading.Thread(target=watcher.run)
    thread.start()
    try:
        yield watcher
    finally:
        watcher.ask_to_stop()
        thread.join()


# --- looking -----------------------------------------------------------------------------------------


def test_the_third_picture_of_the_same_object_confirms_it_once(api):
    looker = a_looker(api)
    said = [looker.look(0.5 * i, GREY) for i in range(8)]
    assert [len(each) for each in said] == [0, 0, 1, 0, 0, 0, 0, 0]
    ((confirmed,),) = [each for each in said if each]
    assert (confirmed.track.verdict, confirmed.track.score) == ("alarm", 0.91)
    assert imaging.decode_image(confirmed.picture).shape == GREY.shape
    assert confirmed.size_wh == (128, 96)


def test_what_is_unsure_is_of_its_own_kind_and_is_asked_for_from_the_unsure_point(api):
    api.found = [detection("knife", 0.4, 20, 25, 60, 75)]
    looker = a_looker(api)
    (confirmed,) = [each for i in range(5) for each in looker.look(0.5 * i, GREY)]
    assert confirmed.track.verdict == "unsure"
    assert api.requests[0][1]["score_threshold"] == ["0.3"]


def test_a_clock_that_is_taken_for_a_pistol_now_and_then_is_told_once(api):
    """Every ten minutes the sun shines on it for three pictures; once a pistol is held elsewhere."""
    looker, told = a_looker(api), []
    other = detection("pistol", 0.9, 70, 10, 90, 40)
    for minutes in range(0, 120, 10):
        api.found = [PISTOL, other] if minutes == 60 else [PISTOL]
        risen = [each for i in range(3) for each in looker.look(60 * minutes + i, GREY)]
        told += [(minutes, each.track.best.detection.score) for each in risen]
    assert told == [(0, 0.91), (60, 0.9)]
    looker = a_looker(api, at_rest=0)
    assert sum(len(looker.look(600 * again + i, GREY)) for again in range(3) for i in range(3)) == 3


def test_look_alikes_confirm_nothing(api):
    api.found = [detection("smartphone", 0.99, 20, 25, 60, 75)]
    looker = a_looker(api)
    assert [looker.look(0.5 * i, GREY) for i in range(5)] == [[]] * 5


def test_what_lies_in_a_mask_or_is_too_large_confirms_nothing(api):
    mask = ((0, 0), (0.5, 0), (0.5, 1), (0, 1))  # the pistol's middle is at .4, .5
    assert [a_looker(api, masks=(mask,)).look(i, GREY) for i in range(3)] == [[]] * 3
    assert [a_looker(api, largest=0.19).look(i, GREY) for i in range(3)] == [[]] * 3  # it covers 0.2
    looker = a_looker(api, largest=0.21)
    assert [len(looker.look(i, GREY)) for i in range(3)] == [0, 0, 1]


def test_tiles_are_asked_for(api):
    a_looker(api, tiles="2x2").look(0, GREY)
    assert api.requests[0][1]["tiles"] == ["2x2"]


def test_a_large_picture_is_sent_smaller(api):
    looker = a_looker(api)
    large = np.full((1500, 4000, 3), 128, np.uint8)
    (confirmed,) = [each for i in range(3) for each in looker.look(i, large)]
    assert confirmed.size_wh == (2560, 960)


def test_another_model_brings_its_own_points(api):
    looker = a_looker(api)
    looker.look(0, GREY)
    api.version = "99"
    higher = OPERATING_POINT.model_copy(update={"score_threshold": 0.95})
    api.card = POINTS.model_copy(update={"operating_point": higher})
    (confirmed,) = [each for i in range(1, 4) for each in looker.look(i, GREY)]
    assert confirmed.track.verdict == "unsure"
    assert (confirmed.model.model.version, confirmed.rule.alarm_from) == ("99", 0.95)


def shade(looker: Looker, track) -> dict[str, tuple[float, int]]:
    """Return how far each scene is from the best frame, and how light it is."""
    return {
        each.place: (round(each.apart_s, 3), round(imaging.decode_image(each.picture).mean()))
        for each in looker.around(track)
    }


def test_a_picture_before_and_one_after_the_best_frame_are_kept_a_second_apart(api):
    looker = a_looker(api)
    api.found = []
    for i in range(4):  # at 0, 0.5, 1 and 1.5 s
        looker.look(0.5 * i, np.full_like(GREY, 10 * i))
    api.found = [PISTOL]
    for i in range(4, 7):  # the best is the first of those that are alike, at 2 s
        confirmed = looker.look(0.5 * i, np.full_like(GREY, 10 * i))
    track = confirmed[0].track
    assert shade(looker, track) == {"before": (1.0, 20), "after": (1.0, 60)}
    api.found = [PISTOL.model_copy(update={"score": 0.99})]
    looker.look(3.5, np.full_like(GREY, 70))
    assert shade(looker, track) == {"before": (1.0, 50)}, "the best frame is another now"
    api.found = []
    looker.look(4.5, np.full_like(GREY, 90))
    assert shade(looker, track) == {"before": (1.0, 50), "after": (1.0, 90)}, "also where it is not seen"


def test_of_a_slow_camera_the_neighbours_are_kept_and_the_first_picture_has_none_before(api):
    looker = a_looker(api)
    confirmed = [each for i in range(4) for each in looker.look(3 * i, np.full_like(GREY, 10 * i))]
    assert shade(looker, confirmed[0].track) == {"after": (3.0, 10)}


def test_of_a_fast_camera_few_pictures_are_remembered_and_scenes_are_small(api):
    looker = a_looker(api)
    large = np.full((900, 1600, 3), 128, np.uint8)
    for i in range(15):
        looker.look(0.1 * i, large)
    assert len(looker._recent) <= 6
    sizes = [imaging.decode_image(each.picture).shape for each in looker.around(looker.tracks[0])]
    assert sizes == [(360, 640, 3)]


def test_faces_in_scenes_are_blurred_but_what_was_found_there_is_not(api):
    astronaut = np.ascontiguousarray(data.astronaut())
    api.found = [detection("pistol", 0.91, 40, 5, 50, 20)]  # over half of the face
    client = a_client(api)
    for blurs in (False, True):
        looker = Looker(camera("unused"), client, Served(client), blur_faces=blurs)
        for i in range(5):
            looker.look(0.5 * i, astronaut)
        (scene,) = looker.around(looker.tracks[0])
        change = np.abs(imaging.decode_image(scene.picture).astype(int) - astronaut)
        weapon, face = change[26:102, 205:256].mean(), change[60:160, 256:270].mean()
        assert weapon < 8
        assert bool(face > 12) == blurs, face


def test_the_best_frame_is_that_of_the_best_score(api):
    looker = a_looker(api)
    for i, score in enumerate((0.7, 0.95, 0.8)):
        api.found = [detection("pistol", score, 20, 25, 60, 75)]
        said = looker.look(i, np.full((96, 128, 3), 60 + 60 * i, np.uint8))
    assert imaging.decode_image(said[0].picture).mean() == pytest.approx(120, abs=2)


def test_faces_are_blurred_in_the_best_frame_but_not_where_the_weapon_is(api):
    """The face of scikit-image's astronaut lies around 224, 116; the box begins in its middle."""
    face = data.astronaut()
    side = 512 / 100
    api.found = [detection("pistol", 0.9, 224 / side, 60 / side, 60, 170 / side)]
    pictures = []
    for blurs in (True, False):
        client = a_client(api)
        looker = Looker(camera("unused"), client, Served(client), blur_faces=blurs)
        (confirmed,) = [each for i in range(3) for each in looker.look(i, face)]
        pictures.append(imaging.decode_image(confirmed.picture).astype(float))
    blurred, plain = pictures
    face_left, weapon = np.s_[90:140, 190:220], np.s_[70:160, 230:300]
    assert blurred[face_left].std() < 0.7 * plain[face_left].std()
    assert np.abs(blurred[weapon] - plain[weapon]).mean() < 4


# --- a clip, rehearsed -------------------------------------------------------------------------------


def test_a_clip_is_played_and_what_would_have_been_said_is_said(api, clip):
    said = []

    def tell(time_s, confirmed):
        said.append((time_s, confirmed.track.verdict))

    looked = rehearse(camera(clip), a_client(api), stall_s=5, tell=tell)
    assert looked == 4  # 2 s at 2 frames a second
    assert said == [(1.0, "alarm")]


# --- live --------------------------------------------------------------------------------------------


def test_a_looped_clip_becomes_one_event_with_its_model_points_and_picture(api, clip, store, caplog):
    caplog.set_level(logging.INFO)
    with watched(api, camera(clip, rate=10), store=store) as watcher:
        wait_until(lambda: watcher.states()["till"].looks > 10)
    (listed,) = store.events()
    kept = store.event(listed.id)
    assert kept is not None
    assert (kept.camera, kept.verdict, kept.label, kept.best_score) == ("till", "alarm", "pistol", 0.91)
    assert (kept.weights_sha256, kept.alarm_point, kept.unsure_point) == ("f" * 64, 0.6, 0.3)
    assert kept.frames > 10
    assert kept.started_at < kept.ended_at
    assert kept.scores[0] == [0, 0.91]
    assert len(kept.scores) == kept.frames
    assert kept.box == pytest.approx([32, 30, 96, 90])  # of 160 x 120
    assert imaging.decode_image(store.picture(kept.id)).shape == (120, 160, 3)
    lines = [record.message for record in caplog.records if "possible weapon" in record.message]
    assert lines == [
        "camera till: possible weapon, a person must confirm: pistol, strong, score 0.91, seen in 3 frames"
    ]


def test_a_camera_speaks_its_language(api, clip, caplog):
    with watched(api, camera(clip, rate=10, language="ru")) as watcher:
        wait_until(lambda: watcher.states()["till"].confirmed)
    assert "возможно, оружие: человек должен подтвердить: пистолет" in caplog.text


def test_nothing_is_kept_without_a_database(api, clip, tmp_path):
    before = {path.name for path in tmp_path.rglob("*")}
    with watched(api, camera(clip, rate=10)) as watcher:
        wait_until(lambda: watcher.states()["till"].confirmed)
    assert {path.name for path in tmp_path.rglob("*")} == before


def test_in_quiet_hours_an_alarm_is_kept_and_nobody_is_told(api, clip, store):
    now = datetime.now()
    hours = f"{(now.hour - 1) % 24:02}:00-{(now.hour + 2) % 24:02}:00"
    cameras = camera(clip, "quiet", rate=10, quiet=(hours,)), camera(clip, "loud", rate=10)
    with watched(api, *cameras, store=store, telling=Telling(("webhook",))) as watcher:
        wait_until(lambda: all(state.confirmed for state in watcher.states().values()))
    assert [alert.body["camera"] for alert in store.waiting("webhook")] == ["loud"]
    assert {kept.camera: kept.quiet for kept in store.events()} == {"quiet": True, "loud": False}


@pytest.mark.parametrize(("unsure", "told"), [(False, []), (True, ["unsure"])])
def test_of_what_is_unsure_only_those_who_want_it_are_told(api, clip, store, unsure, told):
    api.found = [detection("knife", 0.4, 20, 25, 60, 75)]
    with watched(api, camera(clip, rate=10), store=store, telling=Telling(("a",), unsure=unsure)) as watcher:
        wait_until(lambda: watcher.states()["till"].confirmed)
    assert [kept.verdict for kept in store.events()] == ["unsure"]
    assert [alert.body["verdict"] for alert in store.waiting("a")] == told


def test_an_api_that_is_busy_is_waited_for_and_nothing_is_confirmed_twice(api, clip, store):
    api.problem, api.problems_left = QUEUE_FULL, 10**9
    with watched(api, camera(clip, rate=10), store=store) as watcher:
        said = wait_until(lambda: watcher.states()["till"].problem)
        assert said == "nobody looks, the API is busy: Busy: The queue is full."
        api.problem = None
        wait_until(lambda: watcher.states()["till"].looks > 5)
        assert watcher.states()["till"].problem is None
        api.problem, api.problems_left = QUEUE_FULL, 10**9
        wait_until(lambda: watcher.states()["till"].problem)
        api.problem = None
        wait_until(lambda: watcher.states()["till"].looks > 12)
    assert len(store.events()) == 1


def test_an_api_that_is_away_is_a_sentence_and_comes_back(clip, store):
    port = free_port()
    client = Client(f"http://127.0.0.1:{port}", retries=0)
    watch = CameraWatch(camera(clip, rate=10), client, Served(client), store=store, stall_s=5)
    watch.start()
    said = wait_until(lambda: watch.state.problem)
    assert said.startswith("nobody looks: expected the model API at")
    with FakeApi([PISTOL], card=POINTS, port=port):
        wait_until(lambda: watch.state.confirmed)
    assert watch.stop(60)
    assert len(store.events()) == 1


def test_a_camera_that_is_dead_hinders_no_other(api, clip, store):
    dead = camera(f"rtsp://u:hunter2@127.0.0.1:{free_port()}/x", "dead")
    broken = camera(clip.with_name("absent.mp4"), "broken")
    with watched(api, dead, broken, camera(clip, rate=10), store=store) as watcher:
        wait_until(lambda: watcher.states()["till"].confirmed)
        states = wait_until(lambda: watcher.states() if watcher.states()["broken"].stream.problem else None)
    assert "nothing listens there" in states["dead"].stream.problem
    assert "no such file" in states["broken"].stream.problem
    assert states["till"].stream.problem is None
    assert [kept.camera for kept in store.events()] == ["till"]


class Heard:
    """A destination that gets everything."""

    name = "heard"

    def __init__(self) -> None:
        self.alerts: list[str] = []

    def send(self, alert) -> None:
        self.alerts.append(alert.body["event"])

    def close(self) -> None:
        return


def test_an_alarm_is_kept_and_told_before_anything_else_is_made_of_it(api, clip, store, monkeypatch):
    """While the object is still there, and before what was around it is made ready: that can come later."""
    going_on, plain = threading.Event(), Looker.around

    def slowly(looker, track):
        going_on.wait()
        return plain(looker, track)

    monkeypatch.setattr(Looker, "around", slowly)
    monkeypatch.setattr(watching, "SAVE_EVERY_S", 0.1)
    heard = Heard()
    with watched(
        api, camera(clip, rate=10), store=store, telling=Telling(("heard",)),
        couriers=[Courier(store, heard)],
    ):  # fmt: skip
        (first,) = wait_until(store.events)
        wait_until(lambda: heard.alerts == [first.id])
        assert (first.verdict, first.frames, store.scenes(first.id)) == ("alarm", 3, [])
        assert imaging.decode_image(store.picture(first.id)).size
        going_on.set()
        wait_until(lambda: store.event(first.id).ended_at > first.ended_at and store.scenes(first.id))
    assert [kept.id for kept in store.events()] == heard.alerts == [first.id]


def test_a_disk_that_is_full_loses_nothing_once_it_has_room(api, clip, store, monkeypatch):
    monkeypatch.setattr(watching, "SAVE_EVERY_S", 0.1)
    monkeypatch.setattr(telling, "LOOK_EVERY_S", 0.05)
    heard = Heard()
    pages = {"most": 12}

    @sqlalchemy.event.listens_for(store._engine, "checkout")
    def limit(connection, *_):
        connection.execute(f"PRAGMA max_page_count = {pages['most']}")

    monkeypatch.setattr(imaging, "encode_image", lambda _: (clip.with_name("noise.jpg")).read_bytes())
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (300, 400, 3), np.uint8)).save(clip.with_name("noise.jpg"))
    with watched(
        api, camera(clip, rate=10), store=store, telling=Telling(("heard",)),
        couriers=[Courier(store, heard)],
    ) as watcher:  # fmt: skip
        said = wait_until(lambda: watcher.states()["till"].problem)
        assert "database or disk is full" in said
        assert (store.events(), watcher.states()["till"].is_kept) == ([], False)
        wait_until(lambda: heard.alerts)  # who is told does not wait for room
        looks = watcher.states()["till"].looks
        wait_until(lambda: watcher.states()["till"].looks > looks)  # it goes on looking
        pages["most"] = 10_000
        wait_until(lambda: store.events() and watcher.states()["till"].problem is None)
        assert watcher.states()["till"].is_kept
        wait_until(lambda: not store.waiting("heard"))
    assert [kept.id for kept in store.events()] == heard.alerts


def test_a_dark_picture_is_said(api, tmp_path, monkeypatch):
    looker_notes = ["too-dark"]
    plain = api.look
    monkeypatch.setattr(api, "look", lambda *a: plain(*a).model_copy(update={"notes": list(looker_notes)}))
    clip = write_clip(tmp_path / "dark.mp4", [2] * 10)
    with watched(api, camera(clip, rate=10)) as watcher:
        assert (
            wait_until(lambda: watcher.states()["till"].problem) == "its picture is too dark to see anything"
        )
        looker_notes.clear()
        wait_until(lambda: watcher.states()["till"].problem is None)


def test_a_watcher_that_dies_is_started_again(api, clip, monkeypatch):
    client = a_client(api)
    watch = CameraWatch(camera(clip, rate=10), client, Served(client), stall_s=5)
    monkeypatch.setattr(CameraWatch, "_run", lambda self: None)
    watch.start()
    wait_until(lambda: "watch till" not in {thread.name for thread in threading.enumerate()})
    monkeypatch.undo()
    watch.keep_alive()
    wait_until(lambda: watch.state.confirmed)
    assert watch.stop(60)


# --- trying ------------------------------------------------------------------------------------------


def test_a_camera_that_is_well_is_told_with_its_size(tmp_path):
    tried = try_camera(camera(write_clip(tmp_path / "clip.mp4", [100, 110])), stall_s=5)
    assert not tried.is_well  # one grey throughout
    assert tried.sentence.startswith("160 x 120 pixels, the first after")
    assert tried.sentence.endswith("of one colour: is the lens covered?")


def test_a_camera_that_is_not_there_is_told_why(tmp_path):
    tried = try_camera(camera(tmp_path / "absent.mp4"), stall_s=5)
    assert (tried.is_well, tried.sentence) == (False, "there is no such file, folder or device")
