"""Watches cameras through the model API: a possible weapon is an alarm that a person must confirm.

    python watch.py check                    # tries each camera of cameras.toml, and says what is wrong
    python watch.py                          # watches; WATCH_EVENTS=events.db keeps what is confirmed
    python watch.py --dry-run clip.mp4       # plays a clip, and prints what would have been an alarm
    python watch.py --address clip.mp4       # watches this alone, a clip over and over
    python watch.py list                     # the events that are kept, and review and export them
    python watch.py --help

cameras.example.toml shows what cameras.toml holds.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cameras import logs
from cameras.alerts import AlertError, Courier, Destination, Webhook, apprise_services
from cameras.config import Camera, ConfigError, camera_at, load_cameras, of_shard
from cameras.events import Event, EventsError, EventStore, Review, Trouble
from cameras.export import write
from cameras.looking import Confirmed, Served, rehearse, try_camera
from cameras.masks import suggested_mask
from cameras.mqtt import Mqtt
from cameras.status import StatusError, StatusServer
from cameras.streams import StreamError
from cameras.watcher import CameraWatch, Telling, Watcher
from cameras.wording import alarm_text
from client import Client, ServiceError
from settings import (
    EventsCommand,
    ExportEventsCommand,
    ReviewCommand,
    TryCommand,
    WatchCommand,
    environment,
    watch_command,
)

LOCK_WAIT_S = 5.0  # for a database that another holds; a camera is not looked at meanwhile


def main() -> int:
    """Do what the command line says; return 0, or 1 if something is wrong with a camera, 2 with the rest."""
    settings, command = watch_command()
    try:
        if settings.dry_run is not None:
            return _rehearse(settings, settings.dry_run)
        match command:
            case TryCommand():
                return _check(settings)
            case EventsCommand():
                return _list(settings)
            case ReviewCommand(event=event, verdict=verdict, by=by, why=why):
                _review(settings, event, verdict, by=by, why=why)
            case ExportEventsCommand(folder=folder):
                return _export(settings, folder)
            case _:
                return _run(settings)
    except (AlertError, ConfigError, EventsError, ServiceError, StatusError, StreamError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _run(settings: WatchCommand) -> int:
    logs.set_up(settings.log_format)
    client, cameras = _client(settings), _cameras(settings)
    destinations = _destinations(settings, cameras)
    keeps = settings.events is not None or bool(destinations)
    store = _store(settings, wait_s=LOCK_WAIT_S) if keeps else None
    served = Served(client)
    telling = Telling(
        tuple(each.name for each in destinations), settings.alerts_per_hour, settings.alert_unsure
    )
    names = [camera.name for camera in cameras]  # the others' alerts are other watchers'
    couriers = [Courier(store, each, names) for each in destinations] if store else []
    watches = [
        CameraWatch(
            camera, client, served, store=store, telling=telling, stall_s=settings.stall_seconds,
            blur_faces=settings.blur_faces, couriers=couriers,
        )
        for camera in cameras
    ]  # fmt: skip
    watcher = Watcher(watches, store, couriers)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watcher.ask_to_stop())
    kept = f"events are kept in {store.shown} for {store.days:g} days" if store else "no event is kept"
    status = StatusServer(watcher, settings.host, settings.port) if settings.port else None
    logs.log.info("watching %d cameras; %s", len(watches), kept)
    if status:
        status.start()
        logs.log.info("status at %s", status.url)
    watcher.run()
    if status:
        status.close()
    logs.log.info("stopped")
    return 0


def _check(settings: WatchCommand) -> int:
    """Try everything, and say of each how it is."""
    cameras = _cameras(settings)
    is_well = True
    try:
        info = _client(settings).model()
        print(f"API at {settings.api_url}: serves {info.model.name}, version {info.model.version or 'none'}")
    except ServiceError as error:
        is_well = False
        print(f"API: {error}")
    if settings.events is None:
        print("Events: none are kept; --events FILE keeps them")
    else:
        try:
            print(f"Events: {len(_store(settings).events())} in {_store(settings).shown}")
        except EventsError as error:
            is_well = False
            print(f"Events: {error}")
    with ThreadPoolExecutor(min(16, len(cameras))) as pool:
        for tried in pool.map(lambda camera: try_camera(camera, stall_s=settings.stall_seconds), cameras):
            is_well &= tried.is_well
            word = "well" if tried.is_well else "WRONG"
            print(f"camera {tried.camera.name} ({tried.camera.shown}): {word}: {tried.sentence}", flush=True)
    return 0 if is_well else 1


def _rehearse(settings: WatchCommand, clip: Path) -> int:
    said: list[str] = []

    def tell(time_s: float, confirmed: Confirmed) -> None:
        said.append(alarm_text(confirmed.track, confirmed.model.card.bands, camera.language))
        print(f"{time_s:7.1f} s  {said[-1]}", flush=True)

    camera = camera_at(str(clip), environment())
    count = rehearse(camera, _client(settings), stall_s=settings.stall_seconds, tell=tell)
    if said:
        return 0
    if count < camera.needed:
        print(f"The clip has {count} frames to look at, an alarm needs {camera.needed}: nothing can be said.")
    else:
        print(f"Nothing was confirmed in {count} frames; that is no proof that there is nothing.")
    return 0


def _list(settings: WatchCommand) -> int:
    store = _store(settings)
    lines = [(event.started_at, _line(event)) for event in store.events()]
    lines += [(trouble.started_at, _trouble_line(trouble)) for trouble in store.troubles()]
    for _, line in sorted(lines, reverse=True):
        print(line)
    return 0


def _review(settings: WatchCommand, event_id: str, verdict: Review, *, by: str, why: str) -> None:
    """Note what a person says of an event, whatever was said of it before.

    After several that were dismissed at one place, suggest a mask.
    """
    store = _store(settings)
    kept = store.event(event_id)
    store.judge(event_id, verdict, by=by, why=why, seen_at=kept.reviewed_at if kept else None)
    print(f"Event {event_id} is {verdict}.")
    if verdict != "dismissed" or kept is None:
        return
    others = store.events(camera=kept.camera, review="dismissed")
    mask = suggested_mask(sorted(others, key=lambda event: event.id != event_id))  # this one first
    if mask:
        corners = ", ".join(f"[{x:g}, {y:g}]" for x, y in mask)
        print(
            f"Camera {kept.camera} was wrong at this place before. In cameras.toml, masks = [[{corners}]] "
            "keeps it quiet there; a weapon that is held there is not seen then either."
        )


def _line(event: Event) -> str:
    when = event.started_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    lasted = (event.ended_at - event.started_at).total_seconds()
    said = f"{event.review} by {event.reviewed_by}" if event.review else "not reviewed"
    return (
        f"{event.id}  {when}  {lasted:6.1f} s  {event.camera}  {event.verdict}  {event.label} "
        f"{event.score:.2f}  {said}"
    )


def _trouble_line(trouble: Trouble) -> str:
    when = trouble.started_at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    lasted = (trouble.ended_at - trouble.started_at).total_seconds()
    return f"{trouble.id}  {when}  {lasted:6.1f} s  {trouble.camera}  its lens was {trouble.kind}"


def _export(settings: WatchCommand, folder: Path) -> int:
    """Write reviewed events as a data set root; the Pascal VOC files are those that training reads."""
    try:
        counts = write(_store(settings), folder)
    except OSError as error:
        raise EventsError(f"{folder} cannot be written: {error.strerror or error}") from error
    print(
        f"{counts['confirmed']} pictures with a weapon and {counts['dismissed']} without are in {folder}; "
        f"train.py --data takes it"
    )
    return 0


def _cameras(settings: WatchCommand) -> tuple[Camera, ...]:
    if settings.address:
        return (camera_at(settings.address.get_secret_value(), environment()),)
    cameras = of_shard(load_cameras(settings.cameras, environment()), settings.shard)
    if not cameras:
        raise ConfigError(f"{settings.cameras}: the shard {settings.shard} has no camera")
    return cameras


def _destinations(settings: WatchCommand, cameras: Sequence[Camera]) -> list[Destination]:
    """Return who is told of alarms."""
    found: list[Destination] = []
    if settings.webhook:
        key = settings.webhook_key.get_secret_value() if settings.webhook_key else ""
        found.append(Webhook(settings.webhook.get_secret_value(), key))
    if settings.apprise:
        found += apprise_services(settings.apprise.get_secret_value())
    if settings.mqtt:
        found.append(Mqtt(settings.mqtt.get_secret_value(), cameras, settings.shard))
    return found


def _client(settings: WatchCommand) -> Client:
    key = settings.api_key.get_secret_value() if settings.api_key else None
    return Client(settings.api_url, api_key=key, read_timeout_s=settings.api_timeout)


def _store(settings: WatchCommand, wait_s: float = 30.0) -> EventStore:
    if settings.events is None:
        raise EventsError("no event is kept: name the database by --events FILE, or WATCH_EVENTS")
    return EventStore(settings.events.get_secret_value(), days=settings.event_days, wait_s=wait_s)


if __name__ == "__main__":
    sys.exit(main())
