"""The watch over the watcher: what it counts and says, to people and to Prometheus, and to nobody else."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import requests
import yaml
from camera_parts import ROOT, api, camera, write_clip
from conftest import free_port, wait_until
from prometheus_client.parser import text_string_to_metric_families

from cameras import status as serving
from cameras.alerts import Courier
from cameras.events import EventStore
from cameras.figures import HOUR_S, Tally
from cameras.lens import FROZEN_S, LASTS_S, Lens
from cameras.status import StatusError, StatusServer, WatchStatus
from cameras.watcher import Watcher
from tests.cameras.test_watcher import QUEUE_FULL, watched

__all__ = ["api"]  # a fixture

NOISE = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
BLACK, GREY = np.zeros_like(NOISE), np.full_like(NOISE, 128)


@pytest.fixture
def served() -> Iterator[list[StatusServer]]:
    """Servers that a test started; closed at its end."""
    started: list[StatusServer] = []
    yield started
    for each in started:
        each.close()


def serve(watcher: Watcher, served: list[StatusServer]) -> str:
    server = StatusServer(watcher, "127.0.0.1", free_port())
    server.start()
    served.append(server)
    return server.url


def samples(url: str) -> dict[tuple[str, ...], float]:
    """(name, label values ...) -> value of all that /metrics says."""
    families = text_string_to_metric_families(requests.get(f"{url}/metrics", timeout=30).text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


# --- what is counted ---------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_day_of_two_frames_a_second_is_counted():
    clock = Clock()
    tally = Tally(clock)
    for i in range(2 * 86_400):
        clock.now = i / 2
        tally.looked(0.25)
        if i % 7200 == 0:  # once an hour
            tally.confirmed("alarm")
    tally.confirmed("unsure")
    figures = tally.now()
    assert (figures.looks, figures.looks_per_second, figures.delay_s) == (172_800, 2.0, 0.25)
    assert figures.confirmed == {"alarm": 24, "unsure": 1}
    assert figures.in_last_hour == {"alarm": 1, "unsure": 1}
    clock.now += HOUR_S
    assert (tally.now().looks_per_second, tally.now().in_last_hour) == (0.0, {})


@pytest.mark.parametrize(("image", "kind"), [(BLACK, "black"), (GREY, "covered")])
def test_a_lens_that_shows_nothing_for_some_seconds_is_in_trouble_until_it_sees(image, kind):
    lens = Lens()
    assert [lens.look(time_s, image) for time_s in (0, LASTS_S - 0.1, LASTS_S)] == [None, None, kind]
    assert lens.look(LASTS_S + 1, NOISE) is None
    assert lens.look(LASTS_S + 2, image) is None  # one bad picture is none


def test_a_picture_that_stands_still_is_frozen_and_one_that_moves_anywhere_is_not():
    still, moving = Lens(), Lens()
    kinds = []
    for i in range(int(FROZEN_S) + 1):
        coded_again = (NOISE // 2 + 20 + i % 2).astype(np.uint8)  # by one shade
        moved = NOISE.copy()
        moved[i % 90, i % 120] ^= 128
        kinds.append((still.look(i, coded_again), moving.look(i, moved)))
    assert kinds[-2:] == [(None, None), ("frozen", None)]
    assert still.look(FROZEN_S + 1, NOISE) is None


# --- what is said ------------------------------------------------------------------------------------


def test_metrics_and_status_say_how_each_camera_does(api, served, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", range(20, 220, 10))
    dead = camera(f"rtsp://keeper:hunter2@127.0.0.1:{free_port()}/x?token=hunter2", "dead")
    with watched(api, camera(clip, rate=10), dead) as watcher:
        url = serve(watcher, served)
        wait_until(lambda: watcher.states()["till"].confirmed and watcher.states()["dead"].stream.problem)
        found = samples(url)
        said = WatchStatus.model_validate_json(requests.get(f"{url}/status.json", timeout=30).content)
        page = requests.get(url, timeout=30).text
    assert (found["watch_camera_up", "till"], found["watch_camera_up", "dead"]) == (1, 0)
    assert found["watch_confirmed_total", "till", "alarm"] == 1
    assert found["watch_confirmed_total", "dead", "alarm"] == found["watch_reconnects_total", "till"] == 0
    assert found["watch_looks_total", "till"] >= 3
    assert 0 < found["watch_frames_per_second", "till"] <= 10
    assert found["watch_delay_seconds", "till"] > 0
    assert found["watch_last_frame_age_seconds", "till"] >= 0
    assert ("watch_last_frame_age_seconds", "dead") not in found
    assert found["watch_reconnects_total", "dead"] >= 1
    till, lost = said.cameras
    assert (till.problem, till.alarms, till.alarms_last_hour) == (None, 1, 1)
    assert "nothing listens there" in str(lost.problem)
    assert lost.last_frame_age_seconds is None
    assert "nothing listens there" in page
    for text in (page, said.model_dump_json(), str(found)):
        assert "hunter2" not in text


def test_refusals_of_the_api_are_counted_by_status(api, served, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", range(20, 220, 10))
    api.problem, api.problems_left = QUEUE_FULL, 2
    with watched(api, camera(clip, rate=10)) as watcher:
        url = serve(watcher, served)
        wait_until(lambda: watcher.states()["till"].looks)
        found = samples(url)
    assert (found["watch_refusals_total", "till", "503"], found["watch_refusals_total", "till", "429"]) == (
        2,
        0,
    )


def test_a_black_lens_is_an_event_of_its_own_and_a_metric_and_on_the_page(api, served, tmp_path, monkeypatch):
    monkeypatch.setattr("cameras.lens.LASTS_S", 0.2)
    api.found = []
    store = EventStore(str(tmp_path / "events.db"))
    clip = write_clip(tmp_path / "dark.mp4", [0] * 10)
    with watched(api, camera(clip, rate=10), store=store) as watcher:
        url = serve(watcher, served)
        (trouble,) = wait_until(store.troubles)
        found = samples(url)
        page = requests.get(url, timeout=30).text
        wait_until(lambda: watcher.states()["till"].looks > 10)
    (later,) = store.troubles()
    assert (later.id, later.camera, later.kind) == (trouble.id, "till", "black")
    assert later.ended_at > later.started_at
    assert store.events() == []
    assert (found["watch_lens_trouble", "till", "black"], found["watch_lens_trouble", "till", "frozen"]) == (
        1,
        0,
    )
    assert found["watch_lens_troubles_total", "till", "black"] == 1
    assert "its lens is black" in page
    store.close()


class Tags(HTMLParser):
    """Which elements a page has, and what its attributes ask for from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action")]


class Telling:
    """A destination that says what a stranger chose."""

    name = "<b>hook</b>"

    def send(self, alert) -> None:
        raise AssertionError

    def close(self) -> None:
        return


def test_the_page_is_one_table_without_scripts_and_takes_nothing_for_markup(served, tmp_path):
    watcher = Watcher([])
    courier = Courier(None, Telling())  # type: ignore[arg-type]
    courier.problem = "<script>alert(1)</script>"
    watcher = Watcher([], None, [courier])
    answer = requests.get(serve(watcher, served), timeout=30)
    tags = Tags(answer.text)
    assert (tags.names.count("table"), tags.addresses) == (1, [])
    assert not {"script", "b", "img", "iframe"} & set(tags.names)
    assert "&lt;script&gt;" in answer.text
    assert 'http-equiv="refresh"' in answer.text
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


def test_a_cameras_address_is_escaped(served, tmp_path, api):
    clip = write_clip(tmp_path / "<img src=x>.mp4", [100] * 5)
    with watched(api, camera(clip)) as watcher:
        page = requests.get(serve(watcher, served), timeout=30).text
    assert "&lt;img src=x&gt;.mp4" in page
    assert Tags(page).addresses == []


def test_health_says_when_the_watcher_hangs(served, monkeypatch):
    watcher = Watcher([])
    url = serve(watcher, served)
    assert requests.get(f"{url}/health", timeout=30).json() == {"status": "ok"}
    monkeypatch.setattr("cameras.watcher.ALIVE_WITHIN_S", 0.0)
    assert requests.get(f"{url}/health", timeout=30).status_code == 503


# --- the server --------------------------------------------------------------------------------------


def test_what_is_not_there_is_404_nothing_can_be_written_and_a_strange_name_is_refused(served):
    url = serve(Watcher([]), served)
    assert requests.get(f"{url}/events", timeout=30).status_code == 404
    assert requests.post(url, data="x", timeout=30).status_code == 501
    assert requests.get(url, headers={"Host": "evil.example"}, timeout=30).status_code == 421
    assert requests.head(f"{url}/metrics", timeout=30).ok


def test_callers_that_say_nothing_keep_nobody_else_out(served, monkeypatch):
    monkeypatch.setattr(serving._Handler, "timeout", 0.2)
    url = serve(Watcher([]), served)
    port = int(url.rpartition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(serving.MOST_CALLERS + 5)]

    def answered() -> bool:
        try:
            return requests.get(f"{url}/health", timeout=30).ok
        except requests.ConnectionError:
            return False

    assert wait_until(answered)
    for each in silent:
        each.close()


def test_a_port_that_is_taken_is_a_sentence(served):
    url = serve(Watcher([]), served)
    with pytest.raises(StatusError, match=r"cannot listen on 127\.0\.0\.1:\d+: .* set WATCH_PORT"):
        StatusServer(Watcher([]), "127.0.0.1", int(url.rpartition(":")[2]))


# --- Grafana and Prometheus --------------------------------------------------------------------------


def expressions(value: object, keys: tuple[str, ...]) -> list[str]:
    """All texts under one of keys, anywhere in a document."""
    if isinstance(value, dict):
        here = [text for key, text in value.items() if key in keys and isinstance(text, str)]
        return here + [found for each in value.values() for found in expressions(each, keys)]
    return [found for each in value for found in expressions(each, keys)] if isinstance(value, list) else []


BOARD, RULES = "deploy/monitoring/cameras.grafana.json", "deploy/monitoring/cameras.rules.yaml"


def test_every_metric_and_label_that_board_and_rules_name_exists(api, served, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", range(20, 220, 10))
    courier = Courier(None, Telling())  # type: ignore[arg-type]
    with watched(api, camera(clip, rate=10)) as watcher:
        watcher._couriers = [courier]
        url = serve(watcher, served)
        wait_until(lambda: watcher.states()["till"].looks)
        families = list(text_string_to_metric_families(requests.get(f"{url}/metrics", timeout=30).text))
        watcher._couriers = []
    labels = {s.name: set(s.labels) for family in families for s in family.samples}
    board = json.loads((ROOT / BOARD).read_text())
    rules = yaml.safe_load((ROOT / RULES).read_text())
    asked = expressions(board, ("expr",)) + expressions(rules, ("expr",))
    named = {name for text in asked for name in re.findall(r"\bwatch_\w+", text)}
    assert named - labels.keys() == set()
    assert labels.keys() - named <= {name for name in labels if name.startswith("process_")}
    for panel in board["panels"]:
        for target in panel["targets"]:
            (metric, *_) = re.findall(r"\bwatch_\w+", target["expr"])
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels[metric]
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) - {"instance"}
        assert shown <= {
            name for metric in re.findall(r"\bwatch_\w+", rule["expr"]) for name in labels[metric]
        }


@pytest.mark.parametrize("file", [BOARD, RULES])
def test_board_and_rules_name_nothing_twice_and_no_place(file):
    text = (ROOT / Path(file)).read_text()
    names = re.findall(r'(?:"title":|- alert:) ?"?([^",\n]+)', text)
    assert len(names) == len(set(names)) > 5
    assert "http" not in text.replace("127.0.0.1", "")
