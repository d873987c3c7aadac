"""MQTT for Home Assistant: a binary sensor and a picture for each camera, found by its discovery.

weapon-watch/CAMERA/alarm      ON with each alarm, OFF a minute after the last one
weapon-watch/CAMERA/event      JSON of each alarm and each suspicion: see alerts.alerts_of
weapon-watch/CAMERA/picture    the crop, a JPEG file; not retained, so that no broker keeps it
weapon-watch/status/SHARD      online or offline, retained
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from cameras.alerts import AlertError
from cameras.config import Camera
from cameras.events import Alert

ROOT = "weapon-watch"
ARRIVES_S = 10.0  # longest wait for a broker to say that it has a message
OFF_AFTER_S = 60


class Mqtt:
    """A broker; connects by itself, and again when it is lost.

    Args:
        address: mqtt://user:password@host:1883, or mqtts:// with TLS.
        cameras: those that Home Assistant shall know.
        shard: of this watcher, such as 1/3.

    Raises:
        AlertError: the address is none of a broker.
    """

    name = "mqtt"

    def __init__(self, address: str, cameras: Sequence[Camera], shard: str = "1/1") -> None:
        parts = _parts(address)
        self._where = parts.hostname or "?"
        self._cameras = cameras
        self._status = f"{ROOT}/status/{shard.replace('/', '-of-')}"
        self._under_way: dict[str, list[paho.MQTTMessageInfo]] = {}  # by alert: never published twice
        self._off: dict[str, threading.Timer] = {}  # by topic: what is ON, and will be OFF
        self._connected = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"watch-{uuid.uuid4().hex[:12]}")
        if parts.username:
            self._client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme == "mqtts":
            self._client.tls_set()
        self._client.will_set(self._status, "offline", qos=1, retain=True)
        self._client.on_connect, self._client.on_disconnect = self._welcome, self._lost
        self._client.reconnect_delay_set(1, 60)
        self._client.connect_async(self._where, parts.port or (8883 if parts.scheme == "mqtts" else 1883))
        self._client.loop_start()

    def send(self, alert: Alert) -> None:
        """Publish it, and wait until the broker has it."""
        if not self._connected.is_set():
            raise AlertError(f"the broker at {self._where} is away, or refuses us")
        if alert.id not in self._under_way:
            self._under_way[alert.id] = self._publish(alert)
        for info in self._under_way[alert.id]:
            try:
                info.wait_for_publish(ARRIVES_S)
            except (RuntimeError, ValueError) as error:
                del self._under_way[alert.id]
                raise AlertError(f"the broker at {self._where} was lost") from error
            if not info.is_published():
                raise AlertError(f"the broker at {self._where} does not say that it has the alert")
        del self._under_way[alert.id]
        if alert.body["verdict"] == "alarm":
            self._switch_off_later(f"{_topic(alert)}/alarm")

    def close(self) -> None:
        """Say goodbye, where the broker is there to hear it."""
        on = [topic for topic, timer in self._off.items() if timer.is_alive()]
        for timer in self._off.values():
            timer.cancel()
        if self._connected.is_set():
            said = [self._client.publish(topic, "OFF", qos=1) for topic in on]
            said.append(self._client.publish(self._status, "offline", qos=1, retain=True))
            self._wait_for(said)
        self._client.disconnect()
        self._client.loop_stop()

    @staticmethod
    def _wait_for(said: Sequence[paho.MQTTMessageInfo]) -> None:
        """Wait until the broker has all that was said, or does not want it.

        Whoever hangs up before its answer comes is taken for lost: what it said last may go unheard, and is
        followed by its last will.
        """
        end = time.monotonic() + ARRIVES_S
        for info in said:
            with contextlib.suppress(RuntimeError, ValueError):
                info.wait_for_publish(max(0.0, end - time.monotonic()))

    def _publish(self, alert: Alert) -> list[paho.MQTTMessageInfo]:
        topic = _topic(alert)
        event = json.dumps({"id": alert.id, **alert.body}, ensure_ascii=False)
        messages: list[tuple[str, Any]] = [("picture", alert.picture), ("event", event)]
        if alert.body["verdict"] == "alarm":
            messages.append(("alarm", "ON"))
        return [self._client.publish(f"{topic}/{part}", payload, qos=1) for part, payload in messages]

    def _switch_off_later(self, topic: str) -> None:
        """Publish OFF when no further alarm has come for a while."""
        if topic in self._off:
            self._off[topic].cancel()
        timer = threading.Timer(OFF_AFTER_S, self._client.publish, (topic, "OFF"), {"qos": 1})
        timer.daemon = True
        self._off[topic] = timer
        timer.start()

    def _welcome(self, client: paho.Client, _: Any, __: Any, reason: Any, ___: Any) -> None:
        if reason.is_failure:
            return
        for camera in self._cameras:
            for topic, config in discovery(camera, self._status):
                client.publish(topic, json.dumps(config, ensure_ascii=False), qos=1, retain=True)
        client.publish(self._status, "online", qos=1, retain=True)
        self._connected.set()

    def _lost(self, *_: Any) -> None:
        self._connected.clear()


def discovery(camera: Camera, status_topic: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (topic, configuration) of the entities by which Home Assistant shows a camera.

    Source:
        Home Assistant's documentation, MQTT: discovery, binary sensor, image.
    """
    name = slug(camera.name)
    topic = f"{ROOT}/{name}"
    shared = {
        "availability_topic": status_topic,
        "device": {
            "identifiers": [f"weapon_watch_{name}"],
            "name": camera.name,
            "manufacturer": "weapon-detector",
        },
    }
    sensor = {
        **shared,
        "name": "Possible weapon, a person must confirm",
        "unique_id": f"weapon_watch_{name}_alarm",
        "device_class": "safety",
        "state_topic": f"{topic}/alarm",
        "off_delay": OFF_AFTER_S,  # also where the watcher is gone before it can say OFF
        "json_attributes_topic": f"{topic}/event",
    }
    picture = {
        **shared,
        "name": "Last possible weapon",
        "unique_id": f"weapon_watch_{name}_picture",
        "image_topic": f"{topic}/picture",
        "content_type": "image/jpeg",
    }
    return [
        (f"homeassistant/binary_sensor/weapon_watch_{name}/config", sensor),
        (f"homeassistant/image/weapon_watch_{name}/config", picture),
    ]


def _topic(alert: Alert) -> str:
    return f"{ROOT}/{slug(str(alert.body['camera']))}"


def slug(name: str) -> str:
    """Return a camera's name as a part of a topic: ASCII letters, digits, - and _, as Home Assistant wants.

    Names that lose more than spaces get a hash, so that no two cameras share a topic.
    """
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_").lower()
    is_known_by_it = re.fullmatch(r"[A-Za-z0-9_ -]+", name) is not None
    number = hashlib.sha256(name.encode()).hexdigest()[:6]
    return plain if is_known_by_it else "_".join(filter(None, (plain, number)))


def _parts(address: str) -> SplitResult:
    sentence = "WATCH_MQTT: expected an address such as mqtt://user:password@192.168.1.5:1883"
    try:
        parts = urlsplit(address)
        is_broker = parts.scheme in ("mqtt", "mqtts") and parts.hostname and parts.port != 0
    except ValueError:  # of a port that is no number; its text holds the password
        raise AlertError(sentence) from None
    if not is_broker:
        raise AlertError(sentence)
    return parts
