"""Alerts that leave: signed, once, through dead networks, restarts and kill -9, and never too many."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from camera_parts import NOON, ROOT, an_event, camera, quick_alerts, store, write_clip
from conftest import LONGEST_S, free_port, running, stop, wait_until
from mqtt_broker import Broker

from cameras import alerts as telling
from cameras import mqtt
from cameras.alerts import AlertError, AppriseService, Courier, Webhook, alerts_of, apprise_services
from cameras.events import Alert, EventsError, EventStore
from cameras.looking import Looker, Served
from cameras.mqtt import Mqtt, discovery, slug
from client import Client
from detection import imaging
from tests.fake_api import CARD, FakeApi, detection

__all__ = ["quick_alerts", "store"]  # fixtures


class Receiver:
    """A webhook's receiver on a free port.

    Attributes:
        got: (headers, body) of each request.
        status: what it answers.
        holds: while set, it answers nothing.
    """

    def __init__(self, port: int = 0) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((dict(self.headers), body))
                receiver.goes_on.wait()
                self.send_response(receiver.status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return

        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status, self.goes_on = 200, threading.Event()
        self.goes_on.set()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/alarms?token=hunter2"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def ids(self) -> list[str]:
        return [headers["X-Alert-Id"] for headers, _ in self.got]

    def close(self) -> None:
        self.goes_on.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def an_alert(event_id: str = "a", destination: str = "webhook", at: datetime | None = None, **body) -> Alert:
    words = {"event": event_id, "camera": "till", "verdict": "alarm", "text": "possible weapon", **body}
    return Alert(
        id=f"{event_id}-alarm-{destination}", destination=destination, camera=words["camera"],
        created_at=at or datetime.now(UTC), body=words, picture=b"jpeg",
    )  # fmt: skip


def put(store: EventStore, *alerts: Alert, **limits) -> int:
    return sum(store.save(an_event(alert.body["event"]), [alert], **limits) for alert in alerts)


# --- what is told ------------------------------------------------------------------------------------


def test_an_alert_carries_the_crop_the_words_and_which_weights_said_so():
    card = CARD.model_copy(update={"weights_sha256": "f" * 64})
    with FakeApi([detection("knife", 0.91, 20, 25, 60, 75)], card=card) as api:
        client = Client(api.url)
        looker = Looker(camera("unused", language="ru"), client, Served(client))
        picture = np.full((1000, 2000, 3), 128, np.uint8)
        (confirmed,) = [each for i in range(3) for each in looker.look(i, picture)]
    alert, other = alerts_of(confirmed, an_event("e"), ("webhook", "mqtt"))
    assert (alert.id, other.id) == ("e-alarm-webhook", "e-alarm-mqtt")
    assert alert.body["text"].startswith("возможно, оружие: человек должен подтвердить: нож")
    assert (alert.body["camera"], alert.body["label"], alert.body["score"]) == ("till", "knife", 0.91)
    assert (alert.body["weights_sha256"], alert.body["model"]["version"]) == ("f" * 64, "7")
    height, width = imaging.decode_image(alert.picture).shape[:2]
    assert (width, height) == (640, 400)  # 800 x 500 with 15 % around: 1040 x 650


# --- the outbox --------------------------------------------------------------------------------------


def test_an_alert_arrives_once_signed_with_the_key(store, receiver):
    put(store, an_alert())
    courier = Courier(store, Webhook(receiver.url, "long-random-text"))
    assert courier.deliver()
    assert courier.deliver()
    ((headers, body),) = receiver.got
    signature = hmac.new(b"long-random-text", body, hashlib.sha256).hexdigest()
    assert headers["X-Signature-256"] == f"sha256={signature}"
    said = json.loads(body)
    assert (said["id"], said["event"], said["text"]) == ("a-alarm-webhook", "a", "possible weapon")
    assert base64.b64decode(said["picture"]) == b"jpeg"
    assert store.waiting("webhook") == []


def test_the_same_alert_saved_again_is_not_sent_again(store, receiver):
    put(store, an_alert())
    courier = Courier(store, Webhook(receiver.url))
    courier.deliver()
    put(store, an_alert())
    courier.deliver()
    assert receiver.ids() == ["a-alarm-webhook"]


def test_a_dead_network_is_waited_out_in_order_and_said_without_the_token(store, caplog):
    port = free_port()
    put(store, *(an_alert(name, at=datetime.now(UTC) + timedelta(seconds=i)) for i, name in enumerate("abc")))
    courier = Courier(store, Webhook(f"http://127.0.0.1:{port}/alarms?token=hunter2"))
    courier.start()
    assert wait_until(lambda: courier.problem) == "the webhook at 127.0.0.1 does not answer (ConnectionError)"
    receiver = Receiver(port)
    wait_until(lambda: courier.problem is None and len(receiver.got) == 3)
    courier.stop()
    receiver.close()
    assert receiver.ids() == ["a-alarm-webhook", "b-alarm-webhook", "c-alarm-webhook"]
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize("status", [302, 404, 500, 503])
def test_an_answer_that_is_no_success_is_tried_again(store, receiver, status):
    receiver.status = status
    put(store, an_alert())
    courier = Courier(store, Webhook(receiver.url))
    assert not courier.deliver()
    assert courier.problem == f"the webhook at 127.0.0.1 answers {status}"
    receiver.status = 204
    assert courier.deliver()
    assert receiver.ids() == ["a-alarm-webhook"] * 2


def test_what_waits_survives_the_process_that_put_it_there(tmp_path, receiver):
    first = EventStore(str(tmp_path / "events.db"))
    put(first, an_alert())
    first.close()
    second = EventStore(str(tmp_path / "events.db"))
    assert Courier(second, Webhook(receiver.url)).deliver()
    assert receiver.ids() == ["a-alarm-webhook"]
    second.close()


def test_an_alert_that_arrived_but_could_not_be_noted_is_not_sent_again(store, receiver, monkeypatch):
    put(store, an_alert())
    courier = Courier(store, Webhook(receiver.url))
    plain = store.sent

    def full(alert_id: str) -> None:
        monkeypatch.setattr(store, "sent", plain)
        raise EventsError("database or disk is full")

    monkeypatch.setattr(store, "sent", full)
    assert not courier.deliver()
    assert courier.deliver()
    assert receiver.ids() == ["a-alarm-webhook"]


def test_all_that_waits_arrives_once_although_none_of_it_can_be_noted(store, receiver, monkeypatch):
    put(store, an_alert("a"), an_alert("b", at=datetime.now(UTC) + timedelta(seconds=1)))
    courier = Courier(store, Webhook(receiver.url))
    plain = store.sent

    def full(alert_id: str) -> None:
        raise EventsError("database or disk is full")

    monkeypatch.setattr(store, "sent", full)
    assert [courier.deliver(), courier.deliver()] == [False, False]
    assert str(courier.problem) == "database or disk is full"
    assert receiver.ids() == ["a-alarm-webhook", "b-alarm-webhook"]
    monkeypatch.setattr(store, "sent", plain)
    assert courier.deliver()
    assert (courier.problem, store.waiting("webhook")) == (None, [])
    assert len(receiver.got) == 2


def test_what_the_database_cannot_take_leaves_past_it_and_not_again_once_it_can(store, receiver):
    courier = Courier(store, Webhook(receiver.url))
    receiver.status = 503
    courier.take([an_alert(), an_alert(destination="mqtt")], 12)
    assert not courier.deliver()
    receiver.status = 200
    courier.take([an_alert()], 12)  # it still cannot be kept
    assert courier.deliver()
    courier.take([an_alert()], 12)
    put(store, an_alert())
    assert courier.deliver()
    assert receiver.ids() == ["a-alarm-webhook"] * 2  # of which the first was refused
    assert store.waiting("webhook") == []


def test_no_more_leave_past_the_database_than_a_destination_wants_in_an_hour(store, receiver):
    courier = Courier(store, Webhook(receiver.url))
    for name in "abc":
        courier.take([an_alert(name)], 2)
    assert courier.deliver()
    assert receiver.ids() == ["a-alarm-webhook", "b-alarm-webhook"]


def test_a_courier_that_is_woken_brings_at_once(store, receiver, monkeypatch):
    monkeypatch.setattr(telling, "LOOK_EVERY_S", 10 * LONGEST_S)
    courier = Courier(store, Webhook(receiver.url))
    courier.start()
    for name in "ab":
        put(store, an_alert(name))
        courier.wake()
        wait_until(lambda name=name: f"{name}-alarm-webhook" in receiver.ids())
    courier.stop()


def test_an_alert_of_yesterday_is_given_up(store, receiver):
    put(store, an_alert(at=datetime.now(UTC) - timedelta(hours=25)))
    assert Courier(store, Webhook(receiver.url)).deliver()
    assert (receiver.got, store.waiting("webhook")) == ([], [])


@pytest.mark.parametrize("years", [-30, 30])
def test_an_alert_is_not_given_up_because_the_clock_was_set(store, receiver, years):
    """A small computer without a clock of its own begins in 1970, and is put right when the network comes."""
    now = [NOON]
    courier = Courier(store, Webhook(receiver.url), clock=lambda: now[0])
    put(store, an_alert(at=NOON))
    now[0] += timedelta(days=365 * years)
    put(store, an_alert("b", at=now[0]))
    assert courier.deliver()
    assert sorted(receiver.ids()) == ["a-alarm-webhook", "b-alarm-webhook"]


def test_a_clock_that_was_ahead_holds_nothing_back_once_it_is_right(store):
    ahead = [an_alert(f"e{i}", at=NOON + timedelta(days=365, minutes=i)) for i in range(2)]
    assert put(store, *ahead, per_hour=2) == 0
    assert put(store, an_alert("now", at=NOON), per_hour=2) == 0


class _Hours(threading.Event):
    """A courier's stop: its waits pass at once, and what is due happens; set when all is done.

    Attributes:
        now_s: seconds that were waited for so far.
        waits: when each wait ended.
    """

    def __init__(self, due: dict[float, Callable[[], object]], is_done: Callable[[], bool]) -> None:
        super().__init__()
        self.now_s, self.waits, self._due, self._is_done = 0.0, list[float](), dict(due), is_done
        self._longest = time.monotonic() + LONGEST_S

    def wait(self, timeout: float | None = None) -> bool:
        self.now_s += timeout or 0
        self.waits.append(self.now_s)
        for at in [at for at in self._due if at <= self.now_s]:
            self._due.pop(at)()
        if not self._due and (self._is_done() or time.monotonic() > self._longest):
            self.set()
        return super().wait(0.01)


def test_a_broker_that_is_away_for_an_hour_gets_each_alarm_once_in_order(broker, store, monkeypatch):
    monkeypatch.setattr(telling, "FIRST_WAIT_S", 1.0)
    monkeypatch.setattr(telling, "LONGEST_WAIT_S", 300.0)
    monkeypatch.setattr(telling, "LOOK_EVERY_S", 1.0)
    broker.stop()
    courier = Courier(store, Mqtt(f"mqtt://127.0.0.1:{broker.port}", []))
    put(store, an_alert("a", "mqtt"))
    hours = _Hours(
        {1800: lambda: put(store, an_alert("b", "mqtt")), 3600: broker.start},
        is_done=lambda: not store.waiting("mqtt"),
    )
    monkeypatch.setattr(courier, "_stop", hours)
    monkeypatch.setattr(courier, "_pause", hours.wait)
    courier._run()
    courier.stop()
    events = [json.loads(one.payload)["id"] for one in broker.messages if one.topic.endswith("/event")]
    assert events == ["a-alarm-mqtt", "b-alarm-mqtt"]
    assert (
        len([at for at in hours.waits if at < 3600]) < 25
    )  # a broker that is away is not asked all the time
    assert not store.waiting("mqtt")
    assert courier.problem is None


def test_each_destination_gets_at_most_so_many_in_any_hour(store):
    alerts = [an_alert(f"e{i}", at=NOON + timedelta(minutes=20 * i)) for i in range(6)]
    assert put(store, *alerts, per_hour=2) == 2
    held_back = {"e2", "e5"}  # 2 of the hour before stand already; at 60 minutes the first counts no more
    told = {alert.body["event"] for alert in store.waiting("webhook")}
    assert told == {kept.id for kept in store.events()} - held_back
    assert len(store.events()) == 6
    assert put(store, an_alert("other", "mqtt", at=NOON + timedelta(minutes=41)), per_hour=2) == 0


def test_watchers_that_share_a_database_bring_the_alerts_of_their_own_cameras(store, receiver):
    put(store, an_alert("a", camera="till"), an_alert("b", camera="door"))
    for names in (["till"], ["door", "yard"], ["till"]):
        assert Courier(store, Webhook(receiver.url), names).deliver()
    assert receiver.ids() == ["a-alarm-webhook", "b-alarm-webhook"]


def test_a_courier_that_dies_is_started_again(store, receiver, monkeypatch):
    courier = Courier(store, Webhook(receiver.url))
    monkeypatch.setattr(Courier, "_run", lambda self: None)
    courier.start()
    wait_until(lambda: "alerts webhook" not in {thread.name for thread in threading.enumerate()})
    monkeypatch.undo()
    put(store, an_alert())
    courier.keep_alive()
    wait_until(lambda: receiver.got)
    courier.stop()


def test_a_watcher_killed_in_the_middle_of_an_alert_sends_it_when_it_is_back(tmp_path, receiver):
    clip = write_clip(tmp_path / "clip.mp4", range(20, 220, 10))
    (tmp_path / "cameras.toml").write_text(f'[[camera]]\nname = "till"\naddress = "{clip}"\nrate = 5\n')
    command = [
        sys.executable, "watch.py", "--cameras", str(tmp_path / "cameras.toml"),
        "--events", str(tmp_path / "events.db"), "--webhook", receiver.url,
    ]  # fmt: skip
    receiver.goes_on.clear()
    with FakeApi([detection("pistol", 0.91, 20, 25, 60, 75)]) as api:
        log = tmp_path / "log.txt"
        with running(command, log, ready=lambda: receiver.got, cwd=ROOT, API_URL=api.url) as process:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        receiver.goes_on.set()
        api.found = []  # nothing new happens
        store = EventStore(str(tmp_path / "events.db"))
        (waiting,) = store.waiting("webhook")
        with running(
            command, log, ready=lambda: not store.waiting("webhook"), cwd=ROOT, API_URL=api.url
        ) as process:
            assert stop(process) == 0
    assert receiver.ids() == [waiting.id] * 2  # the one that nobody answered, and the one that arrived
    assert len(store.events()) == 1
    assert "hunter2" not in log.read_text()
    store.close()


@pytest.mark.parametrize("wrong", ["ftp://x", "hunter2", "http:///x"])
def test_an_address_that_is_no_webhook_is_refused(wrong):
    with pytest.raises(AlertError, match="WATCH_WEBHOOK: expected an address") as caught:
        Webhook(wrong)
    assert "hunter2" not in str(caught.value)


# --- apprise -----------------------------------------------------------------------------------------


def test_a_service_of_apprise_gets_words_and_crop_and_one_that_fails_repeats_no_other(store, receiver):
    dead = f"json://127.0.0.1:{free_port()}/"
    services = apprise_services(f"json://127.0.0.1:{receiver.port}/, {dead}")
    for service in services:
        put(store, an_alert("a", service.name))
    for _ in range(3):
        for service in services:
            Courier(store, service).deliver()
    ((_, body),) = receiver.got
    said = json.loads(body)
    assert (said["title"], said["message"]) == ("till", "possible weapon")
    assert base64.b64decode(said["attachments"][0]["base64"]) == b"jpeg"
    assert [len(store.waiting(service.name)) for service in services] == [0, 1]


def test_a_service_that_apprise_does_not_know_is_refused_without_its_secret():
    with pytest.raises(AlertError, match="none that apprise knows") as caught:
        AppriseService("nonsense://hunter2@x")
    assert "hunter2" not in str(caught.value)


# --- MQTT --------------------------------------------------------------------------------------------


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    made.start()
    yield made
    made.stop()


def test_home_assistant_finds_each_camera_and_hears_of_each_alarm(broker, store):
    till = camera("unused", name="Till 1")
    destination = Mqtt(f"mqtt://watch:s%40fe@127.0.0.1:{broker.port}", [till], "2/3")
    wait_until(lambda: "weapon-watch/status/2-of-3" in broker.topics())
    put(
        store,
        an_alert("a", "mqtt", camera="Till 1"),
        an_alert("b", "mqtt", camera="Till 1", verdict="unsure"),
    )
    courier = Courier(store, destination)
    wait_until(courier.deliver)
    courier.stop()
    wait_until(lambda: broker.messages[-1].payload == b"offline")
    assert broker.logins == [("watch", "s@fe")]
    assert broker.wills == ["weapon-watch/status/2-of-3"]
    sensor, picture, online, *told, offline = broker.messages
    assert [message.topic for message in (sensor, picture)] == [
        "homeassistant/binary_sensor/weapon_watch_till_1/config",
        "homeassistant/image/weapon_watch_till_1/config",
    ]
    assert json.loads(sensor.payload)["state_topic"] == "weapon-watch/till_1/alarm"
    assert all(message.retained for message in (sensor, picture, online, offline))
    assert not any(message.retained for message in told)
    assert [message.topic.rpartition("/")[2] for message in told] == [
        "picture", "event", "alarm", "picture", "event", "alarm",
    ]  # fmt: skip
    assert told[0].payload == b"jpeg"
    assert (told[2].payload, told[-1].payload) == (b"ON", b"OFF")
    assert json.loads(told[1].payload)["text"] == "possible weapon"


def test_a_broker_that_is_away_is_waited_for_and_nothing_is_told_twice(broker, store, monkeypatch):
    broker.stop()
    destination = Mqtt(f"mqtt://127.0.0.1:{broker.port}", [])
    put(store, an_alert("a", "mqtt"))
    courier = Courier(store, destination)
    assert not courier.deliver()
    assert courier.problem == "the broker at 127.0.0.1 is away, or refuses us"
    broker.start()
    wait_until(courier.deliver)
    courier.stop()
    assert broker.topics().count("weapon-watch/till/event") == 1


def test_a_broker_that_does_not_acknowledge_is_asked_again_without_a_second_message(
    broker, store, monkeypatch
):
    monkeypatch.setattr(mqtt, "ARRIVES_S", 0.2)
    broker.acknowledges = False
    destination = Mqtt(f"mqtt://127.0.0.1:{broker.port}", [])
    put(store, an_alert("a", "mqtt"))
    courier = Courier(store, destination)
    wait_until(lambda: courier.deliver() or "does not say" in (courier.problem or ""))
    assert not courier.deliver()
    assert not courier.deliver()
    assert broker.topics().count("weapon-watch/till/event") == 1
    courier.stop()


def test_a_broker_that_is_slow_hears_all_that_is_said_at_the_end(broker, store):
    cameras = [camera("unused", name=name) for name in ("till", "door", "yard")]
    courier = Courier(store, Mqtt(f"mqtt://127.0.0.1:{broker.port}", cameras))
    put(store, *(an_alert(each.name, "mqtt", camera=each.name) for each in cameras))
    wait_until(courier.deliver)
    broker.slow_s = 0.3
    courier.stop()
    said = [(each.topic.removeprefix("weapon-watch/"), each.payload) for each in broker.messages[-4:]]
    off = [(f"{each.name}/alarm", b"OFF") for each in cameras]
    assert said == [*off, ("status/1-of-1", b"offline")]


def test_a_wrong_password_for_the_broker_is_said(broker, store):
    broker.password = "right"
    destination = Mqtt(f"mqtt://watch:hunter2@127.0.0.1:{broker.port}", [])
    wait_until(lambda: broker.logins)
    put(store, an_alert("a", "mqtt"))
    courier = Courier(store, destination)
    assert not courier.deliver()
    assert "refuses us" in str(courier.problem)
    assert "hunter2" not in str(courier.problem)
    courier.stop()


@pytest.mark.parametrize("wrong", ["http://u:hunter2@x", "mqtt://", "mqtt://u:hunter2@x:port", "hunter2"])
def test_an_address_that_is_no_brokers_is_refused(wrong):
    with pytest.raises(AlertError, match="WATCH_MQTT: expected an address such as") as caught:
        Mqtt(wrong, [])
    assert "hunter2" not in str(caught.value)


def test_names_of_cameras_become_topics():
    assert slug("Till 1") == "till_1"
    names = ["Back door", "Back.door", "касса", "кассы", "門"]
    topics = [topic for name in names for topic, _ in discovery(camera("unused", name=name), "s")]
    assert len(set(topics)) == 2 * len(names)
    taken = re.compile(r"homeassistant/(binary_sensor|image)/[a-zA-Z0-9_-]+/config")  # by Home Assistant
    assert all(taken.fullmatch(topic) for topic in topics)
