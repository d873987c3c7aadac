"""Looks at cameras through the model API, and notes and tells what their frames confirm.

A thread per camera takes its newest picture at the camera's rate, asks the API, and follows what it finds. A
camera, the API, or the database that fails is told in one sentence, and everything else goes on.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NamedTuple

from cameras.config import Camera
from cameras.events import Event, EventsError, EventStore
from cameras.streams import Shot, Stream, StreamError, StreamState, at_rate, read
from cameras.wording import alarm_text
from client import Client, ServiceBusy, ServiceError
from detection import imaging
from detection.confirmation import Confirmation, Rule, Track
from detection.drawing import boxes_of
from detection.faces import without_faces
from schemas import ImageResult, ModelInfo, ModelName

SENT_SIDE = 2560  # longer side of what the API gets, pixels: finer, no network of ours looks
ASK_AGAIN_S, ASK_AGAIN_MOST_S = 0.5, 30.0  # an API that could not answer
LATE_AFTER_S = 0.5  # how long a camera waits for a picture before it looks to its other duties
SAVE_EVERY_S = 5.0  # an event that goes on
CLEAN_EVERY_S = 3600.0
UNSAVED_MOST = 200  # events of a camera that wait for a database; their pictures are in memory
SCORES_KEPT = 200
STOP_S = 30.0  # for a camera's watcher; a request to the API may be under way
WORDS = {"too-dark": "too dark to see anything", "blank": "of one colour: is the lens covered?"}

log = logging.getLogger("watch")


class Served:
    """The model that the API serves: its points, asked for when another one answers."""

    def __init__(self, client: Client) -> None:
        self._client, self._lock = client, threading.Lock()
        self._info: ModelInfo | None = None

    def info(self, answered: ModelName | None = None) -> ModelInfo:
        """Return what is known of the model, or of the one that answered.

        Raises:
            ServiceError: the API does not say.
        """
        with self._lock:
            if self._info is None or (answered is not None and answered != self._info.model):
                self._info = self._client.model()
                log.info(
                    "the API serves %s, version %s", self._info.model.name, self._info.model.version or "none"
                )
            return self._info


class Confirmed(NamedTuple):
    """An object whose verdict rose: what was seen, by which model, and its best frame's JPEG file."""

    camera: Camera
    track: Track
    model: ModelInfo
    rule: Rule
    picture: bytes
    size_wh: tuple[int, int]


@dataclass(eq=False, slots=True)
class _Best:
    """The best frame of a track so far; kept is what of it may be kept, made when it is first asked for."""

    score: float
    picture: bytes
    size_wh: tuple[int, int]
    kept: bytes | None = None


class Looker:
    """Looks at one camera's pictures, one after another, and remembers what it follows.

    Args:
        camera: which.
        client: of the API.
        served: shared by all cameras.
        blur_faces: whether a best frame is handed out without the faces in it.

    Attributes:
        notes: what made the last picture hard to judge.
    """

    def __init__(self, camera: Camera, client: Client, served: Served, *, blur_faces: bool = True) -> None:
        self.camera, self._client, self._served = camera, client, served
        self._blurs = blur_faces
        self._confirmation: Confirmation | None = None
        self._best: dict[int, _Best] = {}
        self._info: ModelInfo | None = None
        self.notes: tuple[str, ...] = ()

    @property
    def tracks(self) -> Sequence[Track]:
        """The objects that are followed now."""
        return self._confirmation.tracks if self._confirmation else ()

    def look(self, time_s: float, image: imaging.Image) -> list[Confirmed]:
        """Return what this picture confirms.

        Raises:
            ServiceError: the API did not look at it.
        """
        picture = imaging.encode_image(imaging.shrink(image, SENT_SIDE))
        info = self._served.info()
        answer = self._client.predict(
            [(f"{self.camera.name}.jpg", picture)], score_threshold=self._rule(info).unsure_from,
            tiles=self.camera.tiles,
        )  # fmt: skip
        info = self._served.info(answer.model)
        result = answer.results[0]
        if result.error:
            raise ServiceError(result.error.detail or result.error.title, result.error)
        return self._take(time_s, picture, result, info)

    def _rule(self, info: ModelInfo) -> Rule:
        camera = self.camera
        rule = Rule.of_card(info.card, needed=camera.needed, window=camera.window)
        memory_s = max(rule.memory_s, 2 * camera.window / camera.rate)
        return replace(rule, memory_s=memory_s, cool_down_s=camera.cool_down)

    def _take(self, time_s: float, picture: bytes, result: ImageResult, info: ModelInfo) -> list[Confirmed]:
        rule = self._rule(info)
        if self._confirmation is None:
            self._confirmation = Confirmation(rule)
        self._confirmation.rule = rule
        self.notes, size = tuple(result.notes or ()), result.image_size
        if size is None:
            return []
        found = [d for d in result.detections or () if self.camera.counts(d, size)]
        risen = self._confirmation.look(time_s, found)
        self._keep_best(picture, (size.width, size.height))
        self._info = info
        return [self.confirmed(track) for track in risen]

    def confirmed(self, track: Track) -> Confirmed:
        """Return what is known of a track now."""
        if self._info is None:
            raise LookupError("nothing is known before the first picture")
        best = self._best[track.number]
        if best.kept is None:
            best.kept = _without_faces(best.picture, track) if self._blurs else best.picture
        return Confirmed(self.camera, track, self._info, self._rule(self._info), best.kept, best.size_wh)

    def _keep_best(self, picture: bytes, size_wh: tuple[int, int]) -> None:
        """Keep this frame for the tracks that it shows best, and let go of those that ended."""
        followed = {track.number: track for track in self.tracks}
        self._best = {number: best for number, best in self._best.items() if number in followed}
        for number, track in followed.items():
            score = track.best.detection.score
            if number not in self._best or score > self._best[number].score:
                self._best[number] = _Best(score, picture, size_wh)


def _without_faces(picture: bytes, track: Track) -> bytes:
    """Return the JPEG file of a track's best frame with blurred faces; what may be the weapon stays sharp."""
    image = imaging.decode_image(picture)
    blurred = without_faces(image, boxes_of([track.best.detection]))
    return picture if blurred is image else imaging.encode_image(blurred)


def rehearse(
    camera: Camera, client: Client, *, stall_s: float, tell: Callable[[float, Confirmed], None]
) -> int:
    """Play a clip as fast as the API looks, and return how many frames were looked at.

    Args:
        camera: the clip.
        client: of the API.
        stall_s: longest wait for a picture.
        tell: called with the seconds into the clip at which something would have been said, and with what.

    Raises:
        StreamError: it cannot be played.
        ServiceError: the API does not look at it.
    """
    looker, count = Looker(camera, client, Served(client), blur_faces=False), 0
    with closing(read(camera, stall_s=stall_s)) as pictures:
        for picture in at_rate(pictures, camera.rate):
            count += 1
            for confirmed in looker.look(picture.time_s, picture.decode()):
                tell(picture.time_s, confirmed)
    return count


# --- live -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CameraState:
    """How a camera does: its stream, and the sentence that says what hinders looking at it, if anything."""

    stream: StreamState
    problem: str | None
    looks: int
    confirmed: int


class CameraWatch:
    """Watches one camera until told to stop.

    Args:
        camera: which.
        client: of the API.
        served: shared by all cameras.
        store: where events are kept; None keeps none.
        tell: called with each object that is confirmed.
        stall_s: longest wait for a picture.
        blur_faces: whether what is kept and told shows no faces.
    """

    def __init__(
        self, camera: Camera, client: Client, served: Served, *, store: EventStore | None = None,
        tell: Callable[[Confirmed], None] | None = None, stall_s: float = 10.0, blur_faces: bool = True,
    ) -> None:  # fmt: skip
        self.camera = camera
        self._stream = Stream(camera, stall_s=stall_s)
        self._looker = Looker(camera, client, served, blur_faces=blur_faces)
        self._store, self._tell = store, tell
        self._events: dict[int, Event] = {}  # of tracks that go on
        self._unsaved: dict[str, Event] = {}
        self._saved_s = float("-inf")
        self._problem: str | None = None
        self._store_problem: str | None = None
        self._looks = self._confirmed = 0
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def state(self) -> CameraState:
        """How it does now."""
        problem = self._problem or self._store_problem
        return CameraState(self._stream.state, problem, self._looks, self._confirmed)

    def start(self) -> None:
        """Begin to watch, in two threads."""
        self._stream.start()
        self._start_looking()

    def keep_alive(self) -> None:
        """Start again what has died of something that nobody foresaw."""
        self._stream.keep_alive()
        if self._thread and not self._thread.is_alive() and not self._stop.is_set():
            log.error("camera %s: its watcher died and is started again", self.camera.name)
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
        self._save(all_of_them=True)

    def _looks_at(self, shot: Shot) -> bool:
        """Look at a picture, and say whether the API did."""
        try:
            confirmed = self._looker.look(shot.taken_s, shot.decode())
        except (StreamError, imaging.ImageError) as error:
            self._say(f"a picture cannot be used: {error}")
            return True
        except ServiceBusy as error:
            self._say(f"nobody looks, the API is busy: {error}")
            return False
        except ServiceError as error:
            self._say(f"nobody looks: {error}")
            return False
        notes = " and ".join(WORDS.get(note, note) for note in self._looker.notes)
        self._say(f"its picture is {notes}" if notes else None)
        self._looks += 1
        for each in confirmed:
            self._confirmed += 1
            self._note(each, shot)
        self._update(shot)
        return True

    def _say(self, problem: str | None) -> None:
        """Keep what hinders looking, and log it when it is new."""
        if problem and problem != self._problem:
            log.warning("camera %s: %s", self.camera.name, problem)
        elif self._problem and not problem:
            log.info("camera %s: looked at again", self.camera.name)
        self._problem = problem

    def _note(self, confirmed: Confirmed, shot: Shot) -> None:
        """Log, tell and keep what was confirmed."""
        camera, track = self.camera, confirmed.track
        is_quiet = camera.is_quiet(shot.taken_at.astimezone().time())
        text = alarm_text(track, confirmed.model.card.bands, camera.language)
        log.warning("camera %s: %s%s", camera.name, text, " (quiet hours)" if is_quiet else "")
        if self._store is not None and track.number not in self._events:
            self._events[track.number] = Event(id=uuid.uuid4().hex, quiet=is_quiet, scores=[])
        self._saved_s = float("-inf")  # at once
        if self._tell and not is_quiet:
            self._tell(confirmed)

    def _update(self, shot: Shot) -> None:
        """Bring the events of this camera up to date with their tracks; let go of those that ended."""
        followed = {track.number: track for track in self._looker.tracks}
        self._events = {number: kept for number, kept in self._events.items() if number in followed}
        for number, kept in self._events.items():
            if followed[number].last.time_s == shot.taken_s:
                _fill(kept, self._looker.confirmed(followed[number]), shot)
                self._unsaved[kept.id] = kept

    def _save(self, *, all_of_them: bool = False) -> None:
        """Write what is new of events, now and then; what cannot be written waits."""
        now = time.monotonic()
        if (
            self._store is None
            or not self._unsaved
            or (now - self._saved_s < SAVE_EVERY_S and not all_of_them)
        ):
            return
        self._saved_s = now
        try:
            for event_id, kept in list(self._unsaved.items()):
                self._store.save(kept)
                del self._unsaved[event_id]
        except EventsError as error:
            if str(error) != self._store_problem:
                log.error("camera %s: %s; what is confirmed waits in memory", self.camera.name, error)
            self._store_problem = str(error)
            for event_id in list(self._unsaved)[:-UNSAVED_MOST]:
                log.error("camera %s: event %s is lost, too many wait", self.camera.name, event_id)
                del self._unsaved[event_id]
        else:
            self._store_problem = None


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
    """

    def __init__(self, watches: Sequence[CameraWatch], store: EventStore | None = None) -> None:
        self._watches, self._store = watches, store
        self._stop = threading.Event()
        self._cleaned_s = float("-inf")

    def states(self) -> dict[str, CameraState]:
        """Return how each camera does, by its name."""
        return {watch.camera.name: watch.state for watch in self._watches}

    def ask_to_stop(self) -> None:
        """Let run() return soon; may be called by a signal's handler."""
        self._stop.set()

    def run(self) -> None:
        """Watch until asked to stop."""
        for watch in self._watches:
            watch.start()
        try:
            while not self._stop.wait(1.0):
                for watch in self._watches:
                    watch.keep_alive()
                self._clean()
        finally:
            for watch in self._watches:
                watch.ask_to_stop()
            for watch in self._watches:
                if not watch.stop(STOP_S):
                    log.error("camera %s: did not stop in time and is left behind", watch.camera.name)

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


# --- check ------------------------------------------------------------------------------------------


class Tried(NamedTuple):
    """What became of one camera when it was tried: sentence says it, is_well whether it gives pictures."""

    camera: Camera
    is_well: bool
    sentence: str


def try_camera(camera: Camera, *, stall_s: float) -> Tried:
    """Take one picture of a camera, and say in a sentence how it is."""
    began = time.monotonic()
    try:
        with closing(read(camera, stall_s=stall_s)) as pictures:
            image = next(pictures).decode()
    except (StreamError, imaging.ImageError) as error:
        return Tried(camera, False, str(error))
    except StopIteration:
        return Tried(camera, False, "it gives no picture")
    height, width = image.shape[:2]
    notes = [WORDS.get(note, note) for note in imaging.notes_on(image)]
    said = f"{width} x {height} pixels, the first after {time.monotonic() - began:.1f} s"
    return Tried(camera, not notes, "; ".join([said, *notes]))
