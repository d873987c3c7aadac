"""Home Assistant's view of the watcher, through a real Mosquitto and a real subscriber."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from camera_parts import ROOT, an_event, camera, quick_alerts, store, write_clip
from conftest import free_port, running, wait_until
from paho.mqtt.enums import CallbackAPIVersion

from cameras import mqtt
from cameras.alerts import Courier
from cameras.events import Alert, EventStore
from cameras.mqtt import Mqtt
from detection import imaging
from tests.fake_api import FakeApi, detection

__all__ = ["quick_alerts", "store"]  # fixtures

PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))
MOSQUITTO, PASSWD = shutil.which("mosquitto", path=PATH), shutil.which("mosquitto_passwd", path=PATH)
pytestmark = pytest.mark.skipif(
    not (MOSQUITTO and PASSWD), reason="needs Debian's mosquitto: apt-get install mosquitto"
)
USER, PASSWORD = "watch", "p@ss/word"


class Mosquitto:
    """The broker on a port of 127.0.0.1, with a password; may be stopped and started again there."""

    def __init__(self, folder: Path) -> None:
        self.port, self.folder = free_port(), folder
        self.url = f"mqtt://{USER}:p%40ss%2Fword@127.0.0.1:{self.port}"
        passwords = folder / "passwords"
        subprocess.run([str(PASSWD), "-b", "-c", str(passwords), USER, PASSWORD], check=True)
        # Started by root it would become a user who may not read the folder.
        user = "user root\n" if os.geteuid() == 0 else ""
        (folder / "mosquitto.conf").write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous false\npassword_file {passwords}\n"
            f"persistence false\n{user}"
        )

    @contextlib.contextmanager
    def up(self) -> Iterator[None]:
        command = [str(MOSQUITTO), "-c", str(self.folder / "mosquitto.conf")]
        with running(command, self.folder / "mosquitto.log", ready=self._listens, cwd=self.folder):
            yield

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Subscriber:
    """Hears everything that is published from now on, and what is retained.

    Attributes:
        heard: (topic, payload, retained) in the order of their coming.
    """

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, bytes, bool]] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=uuid.uuid4().hex)
        self._client.username_pw_set(USER, PASSWORD)
        self._client.on_message = self._note
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.reconnect_delay_set(1, 1)
        is_subscribed: list[bool] = []
        self._client.on_subscribe = lambda *_: is_subscribed.append(True)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        wait_until(lambda: is_subscribed)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def payloads(self, topic: str) -> list[bytes]:
        return [payload for heard, payload, _ in list(self.heard) if heard == topic]

    def _note(self, _client, _, message) -> None:
        self.heard.append((message.topic, message.payload, message.retain))


@pytest.fixture
def mosquitto(tmp_path: Path) -> Mosquitto:
    folder = tmp_path / "broker"
    folder.mkdir()
    return Mosquitto(folder)


def put(store: EventStore, event_id: str) -> None:
    body = {"event": event_id, "camera": "till", "verdict": "alarm", "text": "possible weapon"}
    alert = Alert(
        id=f"{event_id}-alarm-mqtt", destination="mqtt", camera="till", created_at=datetime.now(UTC),
        body=body, picture=b"jpeg",
    )  # fmt: skip
    store.save(an_event(event_id), [alert])


def test_a_watcher_is_found_alarms_and_is_unavailable_the_moment_it_is_killed(mosquitto, tmp_path):
    """As Home Assistant sees it: discovery, state, picture, event, availability by the last will."""
    clip = write_clip(tmp_path / "clip.mp4", range(20, 220, 10))
    (tmp_path / "cameras.toml").write_text(f'[[camera]]\nname = "Till 1"\naddress = "{clip}"\nrate = 5\n')
    command = [
        sys.executable, "watch.py", "--cameras", str(tmp_path / "cameras.toml"),
        "--events", str(tmp_path / "events.db"),
    ]  # fmt: skip
    log, status = tmp_path / "log.txt", "weapon-watch/status/1-of-1"
    with mosquitto.up(), FakeApi([detection("pistol", 0.91, 20, 25, 60, 75)]) as api:
        settings = {"API_URL": api.url, "WATCH_MQTT": mosquitto.url}
        subscriber = Subscriber(mosquitto.port)

        def alarmed() -> bool:
            return b"ON" in subscriber.payloads("weapon-watch/till_1/alarm")

        with running(command, log, ready=alarmed, cwd=ROOT, **settings) as process:
            assert subscriber.payloads(status) == [b"online"]
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        wait_until(lambda: subscriber.payloads(status) == [b"online", b"offline"], log=log)
        late = Subscriber(mosquitto.port)  # Home Assistant, started after all that
        wait_until(lambda: late.payloads("homeassistant/image/weapon_watch_till_1/config"), log=log)
        wait_until(lambda: late.payloads(status) == [b"offline"], log=log)
        api.found = []
        with running(
            command, log, ready=lambda: late.payloads(status)[-1] == b"online", cwd=ROOT, **settings
        ):
            pass
        wait_until(lambda: late.payloads(status) == [b"offline", b"online", b"offline"], log=log)
        subscriber.close()
        late.close()
    (sensor,) = late.payloads("homeassistant/binary_sensor/weapon_watch_till_1/config")[:1]
    config = json.loads(sensor)
    assert (config["state_topic"], config["availability_topic"]) == ("weapon-watch/till_1/alarm", status)
    assert config["device_class"] == "safety"
    # Twice where the kill came between sending and noting it: then the very same.
    (picture,) = set(subscriber.payloads("weapon-watch/till_1/picture"))
    assert imaging.decode_image(picture).size
    (event,) = set(subscriber.payloads("weapon-watch/till_1/event"))
    assert json.loads(event)["text"].startswith("possible weapon, a person must confirm: pistol")
    retained = {topic for topic, _, is_retained in late.heard if is_retained}
    assert retained == {topic for topic in retained if topic.startswith("homeassistant/")} | {status}
    assert "p@ss" not in log.read_text()
    assert "p%40ss" not in log.read_text()
    assert "Traceback" not in log.read_text()


def test_an_alarm_goes_on_and_off_again(mosquitto, store, monkeypatch):
    monkeypatch.setattr(mqtt, "OFF_AFTER_S", 0.3)
    with mosquitto.up():
        subscriber = Subscriber(mosquitto.port)
        courier = Courier(store, Mqtt(mosquitto.url, [camera("unused")]))
        courier.start()
        put(store, "a")
        wait_until(lambda: subscriber.payloads("weapon-watch/till/alarm") == [b"ON", b"OFF"])
        courier.stop()
        wait_until(lambda: subscriber.payloads("weapon-watch/status/1-of-1") == [b"online", b"offline"])
        subscriber.close()
    assert subscriber.payloads("weapon-watch/till/alarm") == [b"ON", b"OFF"]


def test_a_watcher_that_is_stopped_leaves_no_alarm_on(mosquitto, store):
    with mosquitto.up():
        subscriber = Subscriber(mosquitto.port)
        courier = Courier(store, Mqtt(mosquitto.url, [camera("unused")]))
        put(store, "a")
        wait_until(courier.deliver)
        courier.stop()
        wait_until(lambda: subscriber.payloads("weapon-watch/status/1-of-1") == [b"online", b"offline"])
        subscriber.close()
    assert subscriber.payloads("weapon-watch/till/alarm") == [b"ON", b"OFF"]


def test_a_broker_that_goes_away_and_comes_back_gets_each_alarm_once(mosquitto, store):
    courier = Courier(store, Mqtt(mosquitto.url, [camera("unused")]))
    courier.start()
    with mosquitto.up():
        put(store, "a")
        wait_until(lambda: not store.waiting("mqtt"))
    put(store, "b")
    wait_until(lambda: courier.problem)
    assert courier.problem == "the broker at 127.0.0.1 is away, or refuses us"
    with mosquitto.up():
        subscriber = Subscriber(mosquitto.port)
        wait_until(lambda: not store.waiting("mqtt"))
        wait_until(lambda: subscriber.payloads("weapon-watch/till/event"))
        courier.stop()
        wait_until(lambda: subscriber.payloads("weapon-watch/status/1-of-1")[-1:] == [b"offline"])
        subscriber.close()
    (event,) = subscriber.payloads("weapon-watch/till/event")
    assert json.loads(event)["id"] == "b-alarm-mqtt"


def test_a_wrong_password_is_said_without_it(mosquitto, store):
    with mosquitto.up():
        courier = Courier(store, Mqtt(f"mqtt://{USER}:hunter2@127.0.0.1:{mosquitto.port}", []))
        put(store, "a")
        assert not courier.deliver()
        assert courier.problem == "the broker at 127.0.0.1 is away, or refuses us"
        courier.stop()
