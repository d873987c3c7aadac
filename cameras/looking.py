"""Looks at a camera's pictures through the API, and follows what it finds; plays clips, and tries cameras."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from cameras.config import Camera
from cameras.events import Place
from cameras.streams import StreamError, at_rate, read
from client import Client, ServiceError
from detection import imaging
from detection.confirmation import Confirmation, Rule, Track
from detection.drawing import boxes_of
from detection.faces import without_faces
from schemas import Detection, ImageResult, ModelInfo, ModelName

SENT_SIDE = 2560  # longer side of what the API gets, pixels: finer, no network of ours looks
APART_S = 1.0  # between an object's best frame and what is kept of before and after it, at least
SCENE_SIDE = 640  # longer side of those, pixels
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


class Around(NamedTuple):
    """What was to be seen apart_s seconds before or after a best frame: a small JPEG file."""

    place: Place
    apart_s: float
    picture: bytes


class _Looked(NamedTuple):
    """A picture as the API got it, when it was taken, and what of it must stay sharp."""

    time_s: float
    picture: bytes
    found: list[Detection]


@dataclass(eq=False, slots=True)
class _Best:
    """The best frame of a track so far, and others around it.

    Attributes:
        kept, around: what of them may be kept, made when it is first asked for.
    """

    score: float
    time_s: float
    picture: bytes
    size_wh: tuple[int, int]
    before: _Looked | None
    after: _Looked | None = None
    kept: bytes | None = None
    around: dict[Place, Around] = field(default_factory=dict)


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
        self._recent: deque[_Looked] = deque()  # what was looked at in the last APART_S and a little before
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
        return replace(rule, memory_s=memory_s, cool_down_s=camera.cool_down, rest_s=camera.at_rest)

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
        self._keep_best(
            _Looked(time_s, picture, [d for d in found if d.dangerous]), (size.width, size.height)
        )
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

    def around(self, track: Track) -> list[Around]:
        """Return what was to be seen before and after a track's best frame, as far as it is known by now."""
        best = self._best[track.number]
        seen: tuple[tuple[Place, _Looked | None], ...] = (("before", best.before), ("after", best.after))
        for place, looked in seen:
            if looked is not None and place not in best.around:
                picture = _small(looked, blur_faces=self._blurs)
                best.around[place] = Around(place, abs(looked.time_s - best.time_s), picture)
        return list(best.around.values())

    def _keep_best(self, looked: _Looked, size_wh: tuple[int, int]) -> None:
        """Keep this frame for the tracks that it shows best, and let go of those that ended."""
        followed = {track.number: track for track in self.tracks}
        self._best = {number: best for number, best in self._best.items() if number in followed}
        earlier = [each for each in self._recent if looked.time_s - each.time_s >= APART_S]
        for number, track in followed.items():
            score = track.best.detection.score
            best = self._best.get(number)
            if best is None or score > best.score:
                before = earlier[-1] if earlier else None
                self._best[number] = _Best(score, looked.time_s, looked.picture, size_wh, before)
            elif best.after is None and looked.time_s - best.time_s >= APART_S:
                best.after = looked
        self._remember(looked)

    def _remember(self, looked: _Looked) -> None:
        """Remember a picture as what came before another; of a fast camera's only some."""
        if not self._recent or looked.time_s - self._recent[-1].time_s >= APART_S / 4:
            self._recent.append(looked)
        while len(self._recent) > 1 and looked.time_s - self._recent[1].time_s >= APART_S:
            self._recent.popleft()


def _small(looked: _Looked, *, blur_faces: bool) -> bytes:
    """Return a picture as a small JPEG file, without faces; what was found in it stays sharp."""
    image = imaging.decode_image(looked.picture)
    small = imaging.shrink(image, SCENE_SIDE)
    if blur_faces:
        small = without_faces(small, boxes_of(looked.found) * (small.shape[1] / image.shape[1])).image
    return imaging.encode_image(small, quality=80)


def _without_faces(picture: bytes, track: Track) -> bytes:
    """Return the JPEG file of a track's best frame with blurred faces; what may be the weapon stays sharp."""
    image = imaging.decode_image(picture)
    blurred, faces = without_faces(image, boxes_of([track.best.detection]))
    return imaging.encode_image(blurred) if faces else picture


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


# --- check ------------------------------------------------------------------------------------------


class Tried(NamedTuple):
    """What became of one camera when it was tried: sentence says it, is_well whether it gives pictures."""

    camera: Camera
    is_well: bool
    sentence: str


def first_picture(camera: Camera, *, stall_s: float) -> imaging.Image:
    """Return the first picture that a camera gives.

    Raises:
        StreamError: it gives none, and why.
    """
    try:
        with closing(read(camera, stall_s=stall_s)) as pictures:
            return next(pictures).decode()
    except imaging.ImageError as error:
        raise StreamError(str(error)) from error
    except StopIteration:
        raise StreamError("it gives no picture") from None


def try_camera(camera: Camera, *, stall_s: float) -> Tried:
    """Take one picture of a camera, and say in a sentence how it is."""
    began = time.monotonic()
    try:
        image = first_picture(camera, stall_s=stall_s)
    except StreamError as error:
        return Tried(camera, False, str(error))
    height, width = image.shape[:2]
    notes = [WORDS.get(note, note) for note in imaging.notes_on(image)]
    said = f"{width} x {height} pixels, the first after {time.monotonic() - began:.1f} s"
    return Tried(camera, not notes, "; ".join([said, *notes]))
