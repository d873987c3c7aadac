"""Looks at a camera's pictures through the API, and follows what it finds; plays clips, and tries cameras."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import NamedTuple

from cameras.config import Camera
from cameras.streams import StreamError, at_rate, read
from client import Client, ServiceError
from detection import imaging
from detection.confirmation import Confirmation, Rule, Track
from detection.drawing import boxes_of
from detection.faces import without_faces
from schemas import ImageResult, ModelInfo, ModelName

SENT_SIDE = 2560  # longer side of what the API gets, pixels: finer, no network of ours looks
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
