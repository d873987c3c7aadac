"""Watches cameras, and notes and tells what their frames confirm.

A thread per camera takes its newest picture at the camera's rate, asks the API, and follows what it finds. A
camera, the API, or the database that fails is told in one sentence, and everything else goes on.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from cameras.alerts import Courier, alerts_of
from cameras.config import Camera
from cameras.events import Alert, Event, EventsError, EventStore, LensTrouble, Scene, Trouble
from cameras.figures import Figures, Tally
from cameras.lens import Lens
from cameras.logs import CameraLog
from cameras.looking import WORDS, Confirmed, Looker, Served
from cameras.streams import Shot, Stream, StreamError, StreamState
from cameras.wording import alarm_text
from client import Client, ServiceBusy, ServiceError, ServiceNotReady
from detection import imaging
from schemas import Verdict

ASK_AGAIN_S, ASK_AGAIN_MOST_S = 0.5, 30.0  # an API that could not answer
LATE_AFTER_S = 0.5  # how long a camera waits for a picture before it looks to its other duties
SAVE_EVERY_S = 5.0  # an event that goes on
CLEAN_EVERY_S = 3600.0
UNSAVED_MOST = 200  # events of a camera that wait for a database; their pictures are in memory
SCORES_KEPT = 200
ALIVE_WITHIN_S = 60.0  # Watcher.run has looked after its workers, or it hangs
STOP_S = 30.0  # for a camera's watcher; a request to the API may be under way

log = logging.getLogger("watch")


@dataclass(frozen=True, slots=True)
class Telling:
    """Who is told of what.

    Attributes:
        destinations: names of those who are told.
        per_hour: alerts that each gets at most in an hour.
        unsure: whether they are told of suspicions too.
    """

    destinations: tuple[str, ...]
    per_hour: int = 12
    unsure: bool = False

    def wants(self, verdict: Verdict) -> bool:
        """Say whether they are to be told of this verdict."""
        return verdict == "alarm" or (verdict == "unsure" and self.unsure)


@dataclass(frozen=True, slots=True)
class CameraState:
    """How a camera does.

    Attributes:
        stream: how its pictures come.
        problem: the sentence that says what hinders looking at it, or keeping what it shows, if anything.
        is_kept: whether what it confirms can be kept, as far as is known.
        lens: what hinders it in seeing, if anything.
        figures: what was counted of it.
    """

    stream: StreamState
    problem: str | None
    is_kept: bool
    lens: LensTrouble | None
    figures: Figures

    @property
    def looks(self) -> int:
        """How many of its pictures were looked at."""
        return self.figures.looks

    @property
    def confirmed(self) -> int:
        """How often something was confirmed."""
        return sum(self.figures.confirmed.values())


class CameraWatch:
    """Watches one camera until told to stop.

    Args:
        camera: which.
        client: of the API.
        served: shared by all cameras.
        store: where events are kept; None keeps none.
        telling: whom to tell of what is confirmed; needs a store, in which alerts wait.
        stall_s: longest wait for a picture.
        blur_faces: whether what is kept and told shows no faces.
        couriers: look at once for an alert that is kept, and bring one that the store cannot keep.
    """

    def __init__(
        self, camera: Camera, client: Client, served: Served, *, store: EventStore | None = None,
        telling: Telling | None = None, stall_s: float = 10.0, blur_faces: bool = True,
        couriers: Sequence[Courier] = (),
    ) -> None:  # fmt: skip
        self.camera, self._log = camera, CameraLog(camera.name)
        self._stream = Stream(camera, stall_s=stall_s)
        self._looker = Looker(camera, client, served, blur_faces=blur_faces)
        self._store, self._telling, self._couriers = store, telling, couriers
        self._events: dict[int, Event] = {}  # of tracks that go on
        self._unsaved: dict[str, Event] = {}
        self._untold: dict[str, list[Alert]] = {}  # by event: saved with it
        self._saved_s = float("-inf")
        self._problem: str | None = None
        self._store_problem: str | None = None
        self._tally, self._lens = Tally(), Lens()
        self._trouble: Trouble | None = None  # of the lens, while it lasts
        self._unsaved_troubles: dict[str, Trouble] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> CameraState:
        """How it does now."""
        problem = self._problem or self._store_problem
        is_kept = self._store_problem is None
        return CameraState(self._stream.state, problem, is_kept, self._lens.trouble, self._tally.now())

    def start(self) -> None:
        """Begin to watch, in two threads."""
        self._stream.start()
        self._start_looking()

    def keep_alive(self) -> None:
        """Start again what has died of something that nobody foresaw."""
        self._stream.keep_alive()
        if self._thread and not self._thread.is_alive() and not self._stop.is_set():
            self._log.error("its watcher died and is started again")
            self._start_looking()

    def ask_to_stop(self) -> None:
        """Stop soon; nobody waits."""
        self._stop.set()
        self._stream.ask_to_stop()

    def stop(self, timeout_s: float) -> bool:
        """Stop, wait for that, and say whether it has stopped."""
        self.ask_to_stop()
        if self._thread:
            self._thread.join(timeout_s)
        return self._stream.stop() and not (self._thread and self._thread.is_alive())

    def _start_looking(self) -> None:
        self._thread = threading.Thread(target=self._run, name=f"watch {self.camera.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        every_s, wait_s, due = 1 / self.camera.rate, ASK_AGAIN_S, time.monotonic()
        while not self._stop.is_set():
            shot = self._stream.newest(LATE_AFTER_S)
            if shot is not None:
                if self._looks_at(shot):
                    wait_s = ASK_AGAIN_S
                else:
                    self._stop.wait(wait_s)
                    wait_s = min(2 * wait_s, ASK_AGAIN_MOST_S)
            self._save()
            due = max(due + every_s, time.monotonic())
            if shot is not None:
                self._stop.wait(due - time.monotonic())
        self._save(at_once=True)
        for kept in self._unsaved.values():
            self._log.error("event %s is lost, it could not be written before the end", kept.id)

    def _looks_at(self, shot: Shot) -> bool:
        """Look at a picture, and say whether the API did."""
        try:
            image = shot.decode()
            self._see(image, shot)
            confirmed = self._looker.look(shot.taken_s, image)
        except (StreamError, imaging.ImageError) as error:
            self._say(f"a picture cannot be used: {error}")
            return True
        except ServiceError as error:
            if isinstance(error, ServiceBusy | ServiceNotReady):
                self._tally.refused((error.problem and error.problem.status) or 503)
            busy = ", the API is busy" if isinstance(error, ServiceBusy) else ""
            self._say(f"nobody looks{busy}: {error}")
            return False
        notes = " and ".join(WORDS.get(note, note) for note in self._looker.notes)
        self._say(f"its picture is {notes}" if notes else None)
        self._tally.looked(time.monotonic() - shot.taken_s)
        for each in confirmed:
            self._tally.confirmed(each.track.verdict)
            self._note(each, shot)
        self._update(shot)
        if confirmed:
            self._save(at_once=True)  # a person waits for it; what belongs to it can come later
        self._add_scenes()
        return True

    def _see(self, image: imaging.Image, shot: Shot) -> None:
        """Note whether the lens sees, and keep when it did not."""
        kind = self._lens.look(shot.taken_s, image)
        if kind is None or (self._trouble and self._trouble.kind != kind):
            if self._trouble:
                self._log.info("its lens is no longer %s", self._trouble.kind)
            self._trouble = None
        if kind is None:
            return
        if self._trouble is None:
            self._tally.troubled(kind)
            self._log.warning("its lens is %s", kind)
            self._saved_s = float("-inf")  # at once
            self._trouble = Trouble(
                id=uuid.uuid4().hex, camera=self.camera.name, kind=kind, started_at=shot.taken_at
            )
        self._trouble.ended_at = shot.taken_at
        if self._store is not None:
            self._unsaved_troubles[self._trouble.id] = self._trouble

    def _say(self, problem: str | None) -> None:
        """Keep what hinders looking, and log it when it is new."""
        if problem and problem != self._problem:
            self._log.warning("%s", problem)
        elif self._problem and not problem:
            self._log.info("looked at again")
        self._problem = problem

    def _note(self, confirmed: Confirmed, shot: Shot) -> None:
        """Log, tell and keep what was confirmed."""
        camera, track = self.camera, confirmed.track
        is_quiet = camera.is_quiet(shot.taken_at.astimezone().time())
        text = alarm_text(track, confirmed.model.card.bands, camera.language)
        if self._store is not None and track.number not in self._events:
            self._events[track.number] = Event(id=uuid.uuid4().hex, quiet=is_quiet, scores=[])
        known = self._events.get(track.number)
        self._log.warning(
            "%s%s", text, " (quiet hours)" if is_quiet else "",
            extra={
                "verdict": track.verdict, "label": track.best.detection.label, "score": track.score,
                "quiet": is_quiet, "event": known.id if known else None,
            },
        )  # fmt: skip
        self._saved_s = float("-inf")  # at once
        if self._store is not None and self._telling and not is_quiet and self._telling.wants(track.verdict):
            kept = self._events[track.number]
            alerts = alerts_of(confirmed, kept, self._telling.destinations)
            self._untold.setdefault(kept.id, []).extend(alerts)

    def _update(self, shot: Shot) -> None:
        """Bring the events of this camera up to date with their tracks; let go of those that ended."""
        followed = {track.number: track for track in self._looker.tracks}
        self._events = {number: kept for number, kept in self._events.items() if number in followed}
        for number, kept in self._events.items():
            if followed[number].last.time_s == shot.taken_s:
                _fill(kept, self._looker.confirmed(followed[number]), shot)
                self._unsaved[kept.id] = kept

    def _add_scenes(self) -> None:
        """Give the events of this camera what was to be seen around their best frames."""
        followed = {track.number: track for track in self._looker.tracks}
        for number, kept in self._events.items():
            around = self._looker.around(followed[number])
            if [each.picture for each in around] != [scene.picture for scene in kept.scenes]:
                kept.scenes = [Scene(place=p, apart_s=apart, picture=picture) for p, apart, picture in around]
                self._unsaved[kept.id] = kept

    def _save(self, *, at_once: bool = False) -> None:
        """Write what is new of events, now and then; what cannot be written waits."""
        now = time.monotonic()
        if self._store is None or not (self._unsaved or self._unsaved_troubles):
            return
        if not at_once:
            if now - self._saved_s < SAVE_EVERY_S:
                return
            self._saved_s = now
        try:
            for kept in list(self._unsaved.values()):
                self._save_event(self._store, kept)
            for trouble in list(self._unsaved_troubles.values()):
                self._store.save_trouble(trouble)
                del self._unsaved_troubles[trouble.id]
        except EventsError as error:
            if str(error) != self._store_problem:
                self._log.error("%s; what is confirmed waits in memory", error)
            self._store_problem, self._saved_s = str(error), time.monotonic()
            self._hurry()
            self._forget_oldest()
        else:
            if self._store_problem:
                self._log.info("what waited in memory is kept")
            self._store_problem = None

    def _save_event(self, store: EventStore, kept: Event) -> None:
        """Write one event and its alerts.

        Raises:
            EventsError: it could not be written.
        """
        alerts = self._untold.get(kept.id, [])
        limit = self._telling.per_hour if self._telling else 0
        held_back = store.save(kept, alerts, per_hour=limit)
        del self._unsaved[kept.id]
        self._untold.pop(kept.id, None)
        if held_back:
            self._log.warning(
                "%d alerts held back, %d in an hour are enough; the event is kept", held_back, limit
            )
        if alerts:
            for courier in self._couriers:
                courier.wake()

    def _hurry(self) -> None:
        """Let alerts leave that the store cannot take: who is told must not wait for room on a disk."""
        alerts = [alert for each in self._untold.values() for alert in each]
        for courier in self._couriers:
            courier.take(alerts, self._telling.per_hour if self._telling else 0)

    def _forget_oldest(self) -> None:
        """Let go of the oldest where too much waits for the store."""
        for event_id in list(self._unsaved)[:-UNSAVED_MOST]:
            self._log.error("event %s is lost, too many wait", event_id)
            del self._unsaved[event_id]
            self._untold.pop(event_id, None)
        for trouble_id in list(self._unsaved_troubles)[:-UNSAVED_MOST]:
            del self._unsaved_troubles[trouble_id]


def _fill(kept: Event, confirmed: Confirmed, shot: Shot) -> None:
    """Write into an event what is known of its object at this shot."""
    track, info, rule = confirmed.track, confirmed.model, confirmed.rule
    box = track.best.detection.box
    kept.camera, kept.verdict, kept.track, kept.frames = (
        confirmed.camera.name, track.verdict, track.number, track.seen,
    )  # fmt: skip
    kept.started_at = shot.taken_at - timedelta(seconds=shot.taken_s - track.first.time_s)
    kept.ended_at = shot.taken_at
    kept.label, kept.box = track.best.detection.label, [box.x1, box.y1, box.x2, box.y2]
    kept.score, kept.best_score = track.score, track.best.detection.score
    known_s = kept.scores[-1][0] if kept.scores else -1.0
    new = [(s.time_s - track.first.time_s, s.detection.score) for s in track.recent]
    added = [[round(time_s, 3), score] for time_s, score in new if round(time_s, 3) > known_s]
    kept.scores = [*kept.scores, *added][-SCORES_KEPT:]
    kept.model_name, kept.model_version = info.model.name, info.model.version
    kept.weights_sha256 = info.card.weights_sha256
    kept.alarm_point, kept.unsure_point = rule.alarm_from, rule.unsure_from
    kept.picture, (kept.width, kept.height) = confirmed.picture, confirmed.size_wh


class Watcher:
    """Watches many cameras at once.

    Args:
        watches: one for each camera.
        store: whose old events are deleted; None where none are kept.
        couriers: one for each who is told.
    """

    def __init__(
        self,
        watches: Sequence[CameraWatch],
        store: EventStore | None = None,
        couriers: Sequence[Courier] = (),
    ) -> None:
        self._watches, self._store, self._couriers = watches, store, couriers
        self._stop = threading.Event()
        self._cleaned_s = float("-inf")
        self._alive_s = time.monotonic()

    @property
    def cameras(self) -> list[Camera]:
        """Those that are watched."""
        return [watch.camera for watch in self._watches]

    @property
    def is_alive(self) -> bool:
        """Whether run() looks after its workers."""
        return time.monotonic() - self._alive_s < ALIVE_WITHIN_S

    def told(self) -> dict[str, str | None]:
        """Return who is told, and the sentence that says why one does not get its alerts, if so."""
        return {courier.name: courier.problem for courier in self._couriers}

    def states(self) -> dict[str, CameraState]:
        """Return how each camera does, by its name."""
        return {watch.camera.name: watch.state for watch in self._watches}

    def ask_to_stop(self) -> None:
        """Let run() return soon; may be called by a signal's handler."""
        self._stop.set()

    def run(self) -> None:
        """Watch until asked to stop."""
        workers: tuple[CameraWatch | Courier, ...] = (*self._watches, *self._couriers)
        for worker in workers:
            worker.start()
        try:
            while not self._stop.wait(1.0):
                self._alive_s = time.monotonic()
                for worker in workers:
                    worker.keep_alive()
                self._clean()
        finally:
            for watch in self._watches:
                watch.ask_to_stop()
            for watch in self._watches:
                if not watch.stop(STOP_S):
                    CameraLog(watch.camera.name).error("did not stop in time and is left behind")
            for courier in self._couriers:
                courier.stop()

    def _clean(self) -> None:
        """Delete what is older than its time, now and then."""
        now = time.monotonic()
        if self._store is None or now - self._cleaned_s < CLEAN_EVERY_S:
            return
        self._cleaned_s = now
        try:
            count = self._store.delete_old()
        except EventsError as error:
            log.error("%s", error)
        else:
            if count:
                log.info("%d events older than %g days are deleted", count, self._store.days)
