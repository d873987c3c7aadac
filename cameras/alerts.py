"""Alerts that leave: a signed webhook, apprise's services, MQTT for Home Assistant.

What is to be told is written into the database of events together with the event, and waits there for each
destination until that has got it: through a restart, a dead network, a broker that is away. A program that is
killed between sending and noting it sends once more, with the same id, by which the receiver knows it.

AlertError (RuntimeError)   a destination did not get an alert; str() says why, without its address's secrets
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol
from urllib.parse import urlsplit

import numpy as np
import requests
from apprise import Apprise, AppriseAttachment, NotifyType
from apprise.attachment.memory import AttachMemory

from cameras.events import CLOCK_JUMP_S, Alert, Event, EventsError, EventStore
from cameras.looking import Confirmed
from cameras.wording import alarm_text
from detection import imaging
from detection.drawing import boxes_of, crop_boxes

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 300.0  # before a destination that failed is tried again
LOOK_EVERY_S = 1.0
HOUR_S = 3600.0
ALERTS_REMEMBERED = 1000  # of those that the database could not take, for the limit of an hour
LIVES = timedelta(hours=24)  # what is older warns of nothing
TIMEOUT_S = (5.0, 20.0)  # of a webhook: to connect, to answer
CROP_SIDE = 640  # longer side of the picture that goes with an alert, pixels

log = logging.getLogger("watch")


class AlertError(RuntimeError):
    """A destination did not get an alert."""


class Destination(Protocol):
    """Who is told: name stands in the database, so that another address may take over what waits."""

    name: str

    def send(self, alert: Alert) -> None:
        """Tell it, or raise AlertError; may be called again with the same alert."""

    def close(self) -> None:
        """Let go of its connection."""


def alerts_of(confirmed: Confirmed, kept: Event, destinations: Sequence[str]) -> list[Alert]:
    """Return what each destination is to be told of an object whose verdict rose."""
    camera, track, model = confirmed.camera, confirmed.track, confirmed.model
    image = imaging.decode_image(confirmed.picture)
    crop = crop_boxes(image, boxes_of([track.best.detection]))[0]
    picture = imaging.encode_image(imaging.shrink(np.ascontiguousarray(crop), CROP_SIDE))
    now = datetime.now(UTC)
    body = {
        "event": kept.id,
        "camera": camera.name,
        "verdict": track.verdict,
        "text": alarm_text(track, model.card.bands, camera.language),
        "label": track.best.detection.label,
        "score": track.score,
        "at": now.isoformat(timespec="milliseconds"),
        "model": {"name": model.model.name, "version": model.model.version},
        "weights_sha256": model.card.weights_sha256,
    }
    return [
        Alert(
            id=f"{kept.id}-{track.verdict}-{name}", destination=name, camera=camera.name, created_at=now,
            body=body, picture=picture,
        )
        for name in destinations
    ]  # fmt: skip


class Courier:
    """Brings one destination what waits for it, in a thread, oldest first.

    Args:
        store: where alerts wait.
        destination: who is told.
        cameras: names of those whose alerts are this courier's; None: all.
        clock: the wall's.

    Attributes:
        problem: the sentence that says why the destination does not get its alerts, None while it does.
    """

    def __init__(
        self, store: EventStore, destination: Destination, cameras: Collection[str] | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        self.problem: str | None = None
        self._store, self._destination, self._cameras, self._clock = store, destination, cameras, clock
        self._began = (clock(), time.monotonic())
        self._arrived: set[str] = set()  # and not noted yet
        self._unsaved: dict[str, Alert] = {}  # by id: not in the database, and not brought yet
        self._taken_s: deque[float] = deque(maxlen=ALERTS_REMEMBERED)  # when those came
        self._woken, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """The destination's."""
        return self._destination.name

    def start(self) -> None:
        """Begin to bring."""
        self._thread = threading.Thread(
            target=self._run, name=f"alerts {self._destination.name}", daemon=True
        )
        self._thread.start()

    def keep_alive(self) -> None:
        """Start the thread again if it has died of what nobody foresaw."""
        if self._thread and not self._thread.is_alive() and not self._stop.is_set():
            log.error("alerts to %s: their courier died and is started again", self._destination.name)
            self.start()

    def stop(self) -> None:
        """Stop; what waits goes on waiting."""
        self._stop.set()
        self._woken.set()
        if self._thread:
            self._thread.join(sum(TIMEOUT_S) + LOOK_EVERY_S)
        self._destination.close()

    def wake(self) -> None:
        """Look at once for what waits."""
        self._woken.set()

    def take(self, alerts: Sequence[Alert], per_hour: int) -> None:
        """Bring alerts that the database cannot take; in it later, they are not brought again.

        Args:
            alerts: may be those of an earlier call again.
            per_hour: in any hour, so many alerts at most are taken; what is above waits for the database.
        """
        for alert in alerts:
            if alert.destination != self.name or alert.id in self._arrived or alert.id in self._unsaved:
                continue
            now = time.monotonic()
            if per_hour and sum(now - at < HOUR_S for at in self._taken_s) >= per_hour:
                return
            self._taken_s.append(now)
            self._unsaved[alert.id] = alert
        self.wake()

    def deliver(self) -> bool:
        """Bring all that waits, and say whether nothing waits any more."""
        try:
            for alert in list(self._unsaved.values()):
                self._hand_over(alert)
                del self._unsaved[alert.id]
            self._bring_waiting()
        except (AlertError, EventsError) as error:
            if str(error) != self.problem:
                log.warning("alerts to %s wait: %s", self._destination.name, error)
            self.problem = str(error)
            return False
        if self._stop.is_set():
            return False
        if self.problem is not None:
            log.info("alerts to %s arrive again", self._destination.name)
        self.problem = None
        return True

    def _bring_waiting(self) -> None:
        """Bring all that waits in the database, even where its arrival cannot be noted there."""
        trouble: EventsError | None = None
        for alert in self._store.waiting(self._destination.name, self._cameras):
            if self._stop.is_set():
                return
            self._hand_over(alert)
            try:
                self._store.sent(alert.id)
            except EventsError as error:
                trouble = error
            else:
                self._arrived.discard(alert.id)
        if trouble is not None:
            raise trouble

    def _hand_over(self, alert: Alert) -> None:
        """Send an alert that has not arrived yet."""
        if alert.id in self._arrived:
            return
        if self._clock() - alert.created_at > LIVES and not self._clock_has_jumped():
            log.error("alert %s to %s is given up: too old", alert.id, self._destination.name)
        else:
            self._destination.send(alert)
        self._arrived.add(alert.id)

    def _clock_has_jumped(self) -> bool:
        """Say whether the wall's clock was set since the start, so that nobody knows how old an alert is."""
        passed_s = (self._clock() - self._began[0]).total_seconds()
        return abs(passed_s - (time.monotonic() - self._began[1])) > CLOCK_JUMP_S

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._stop.is_set():
            if self.deliver():
                wait_s = FIRST_WAIT_S
                self._pause(LOOK_EVERY_S)
            else:
                self._pause(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _pause(self, seconds: float) -> None:
        """Wait, unless there is something new to bring."""
        self._woken.wait(seconds)
        self._woken.clear()


# --- destinations -----------------------------------------------------------------------------------


class Webhook:
    """A POST of JSON: the alert's body, its id, and the crop in base64 (picture).

    X-Signature-256 is "sha256=" and the hexadecimal HMAC-SHA256 of the request's body under the key.
    """

    name = "webhook"

    def __init__(self, url: str, key: str = "") -> None:
        if not re.match(r"https?://[^/]", url):
            raise AlertError("WATCH_WEBHOOK: expected an address that begins with http:// or https://")
        self._url, self._key = url, key.encode()
        self._where = urlsplit(url).hostname or "?"

    def send(self, alert: Alert) -> None:
        """Post it; anything but a status of success is a failure."""
        content = json.dumps(
            {"id": alert.id, **alert.body, "picture": base64.b64encode(alert.picture).decode()},
            ensure_ascii=False,
        ).encode()
        headers = {"Content-Type": "application/json", "X-Alert-Id": alert.id}
        if self._key:
            headers["X-Signature-256"] = "sha256=" + hmac.new(self._key, content, hashlib.sha256).hexdigest()
        try:
            answer = requests.post(
                self._url, data=content, headers=headers, timeout=TIMEOUT_S, allow_redirects=False
            )
        except requests.RequestException as error:  # its text holds the address
            raise AlertError(
                f"the webhook at {self._where} does not answer ({type(error).__name__})"
            ) from None
        if not 200 <= answer.status_code < 300:
            raise AlertError(f"the webhook at {self._where} answers {answer.status_code}")

    def close(self) -> None:
        """Nothing is held."""


class AppriseService:
    """One of the many services that apprise knows: Telegram, e-mail ..., by its address."""

    def __init__(self, address: str) -> None:
        self.name = f"apprise-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
        self._service = Apprise()
        if not self._service.add(address):
            raise AlertError("WATCH_APPRISE: one of the addresses is none that apprise knows")
        self._kind = address.partition("://")[0]

    def send(self, alert: Alert) -> None:
        """Notify it, with the crop where the service takes pictures."""
        attachment = AppriseAttachment()
        crop = AttachMemory(content=alert.picture, name="crop.jpg", mimetype="image/jpeg")  # type: ignore[no-untyped-call]
        attachment.add(crop)
        is_sent = self._service.notify(
            body=str(alert.body["text"]), title=str(alert.body["camera"]), notify_type=NotifyType.WARNING,
            attach=attachment,
        )  # fmt: skip
        if not is_sent:
            raise AlertError(f"the service {self._kind}://... did not take it")

    def close(self) -> None:
        """Nothing is held."""


def apprise_services(addresses: str) -> list[AppriseService]:
    """Return the services of several addresses; told one by one, so that one that fails repeats no other."""
    return [AppriseService(address) for address in re.split(r"[\s,]+", addresses.strip()) if address]
