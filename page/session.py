"""What the parts of the page share: the language, the model behind it, and this person's own answers.

Everything a person puts in stays in that person's Streamlit session, in memory. Nothing of it goes into
st.cache_data or st.cache_resource: those are shared between people. Decoded photos lie side by side in
PICTURES, each for its own session only, so that many visitors need no more memory than one.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, TypeVar

import streamlit as st

from client import (
    Client,
    PhotoTooLarge,
    RequestRefused,
    ServiceBusy,
    ServiceError,
    ServiceNotReady,
    ServiceTooSlow,
    ServiceUnreachable,
    UnexpectedAnswer,
)
from detection import imaging
from detection.names import class_name, percent, printable, score_text
from page import memory
from page.texts import example_name, markdown_safe, text
from schemas import Detection, ImageResult, ModelInfo, Problem
from settings import WebSettings

BUSY_RETRY_S = 5.0  # after which a busy API is asked again, without anybody pressing
MODEL_REFRESH_S = 10.0  # a newly promoted model is noticed within this time
ANSWERS_KEPT = 500
THUMBNAILS_KEPT = 2000  # of all visitors; some 10 kB each
PICTURES_KEPT = 24  # of all visitors; decoded, at most SHOWN_SIDE pixels: some 5 MB each
SHOWN_SIDE = 1600
LEAST_SCORE = 0.0  # the API is asked once, for all: a calibrated score may be small and yet a sign
OUTAGES = (ServiceUnreachable, ServiceNotReady)

# The API's problem types (their last part) and the sentence that says each to a person.
PROBLEM_TEXTS = {
    "not-an-image": "error_not_an_image",
    "bad-image": "error_not_an_image",
    "image-too-large": "error_too_many_pixels",
    "queue-full": "error_busy",
    "not-ready": "error_not_ready",
    "deadline-exceeded": "error_slow",
    "upload-timeout": "error_slow",
    "unauthorized": "error_key",
}
HOPELESS_PROBLEMS = ("not-an-image", "bad-image", "image-too-large")  # of the file itself
ERROR_TEXTS: dict[type[ServiceError], str] = {
    ServiceUnreachable: "error_unreachable",
    ServiceNotReady: "error_not_ready",
    ServiceBusy: "error_busy",
    ServiceTooSlow: "error_slow",
    UnexpectedAnswer: "error_version",
}

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(OrderedDict[Key, Value], Generic[Key, Value]):
    """A dict that forgets what was used longest ago once it holds more than capacity."""

    def __init__(self, capacity: int) -> None:
        super().__init__()
        self.capacity = capacity

    def __getitem__(self, key: Key) -> Value:
        self.move_to_end(key)
        return super().__getitem__(key)

    def __setitem__(self, key: Key, value: Value) -> None:
        super().__setitem__(key, value)
        while len(self) > self.capacity:
            self.popitem(last=False)


@dataclass(frozen=True)
class Photo:
    """A file a person put in, as its bytes; known_digest where that has been worked out before."""

    name: str
    content: bytes = field(repr=False)
    known_digest: str = ""

    @cached_property
    def digest(self) -> str:
        """Return what tells this photo from others."""
        return self.known_digest or hashlib.sha256(self.content).hexdigest()


class Pictures(Generic[Value]):
    """Pictures of all visitors, at most capacity of them; a session sees its own only."""

    def __init__(self, capacity: int) -> None:
        self._recent: Recent[tuple[str, str], Value] = Recent(capacity)
        self._lock = threading.Lock()  # sessions are run in threads

    def __len__(self) -> int:
        return len(self._recent)

    def get(self, session_id: str, name: str, make: Callable[[], Value]) -> Value:
        """Return that session's picture of that name, made now if it is not there."""
        key = (session_id, name)
        with self._lock:
            if key in self._recent:
                return self._recent[key]
        picture = make()
        with self._lock:
            self._recent[key] = picture
        return picture

    def forget(self, session_id: str) -> None:
        """Let go of one session's pictures."""
        with self._lock:
            for key in [key for key in self._recent if key[0] == session_id]:
                del self._recent[key]


PICTURES: Pictures[imaging.Image] = Pictures(PICTURES_KEPT)
THUMBNAILS: Pictures[bytes] = Pictures(THUMBNAILS_KEPT)


def decoded(session_id: str, photo: Photo) -> imaging.Image:
    """Return photo decoded, its longer side at most SHOWN_SIDE pixels.

    Raises:
        imaging.ImageError: the page's image library cannot read it.
    """
    return PICTURES.get(
        session_id, photo.digest, lambda: imaging.shrink(imaging.decode_image(photo.content), SHOWN_SIDE)
    )


def forget_pictures(session_id: str) -> None:
    """Let go of all pictures of one session."""
    PICTURES.forget(session_id)
    THUMBNAILS.forget(session_id)


@dataclass(frozen=True)
class Failure:
    """Why a photo has no answer, as a sentence for its card.

    Attributes:
        waiting: it is asked about again by itself, once the API is back.
        hopeless: asking again would change nothing: the file itself is the trouble.
        is_busy: the API had no room; it is asked again by itself, every BUSY_RETRY_S.
    """

    sentence: str
    waiting: bool = False
    hopeless: bool = False
    is_busy: bool = False


@dataclass
class Page:
    """One run of the page for one person.

    Attributes:
        info: the model served, as last heard; None until the API has answered once.
        outage: why the API cannot be asked at the moment, if so.
        model_key: what changes when another model is served: answers of the old one no longer hold.
    """

    language: str
    settings: WebSettings
    client: Client
    info: ModelInfo | None = None
    outage: ServiceError | None = None
    model_key: str = ""

    def text(self, key: str, **values: object) -> str:
        """Return one of the page's texts in this person's language."""
        return text(self.language, key, **values)

    def class_name(self, label: str) -> str:
        """Return a class's name in this person's language, for Markdown."""
        return markdown_safe(class_name(label, self.language))

    def example_name(self, stem: str) -> str:
        """Return a gallery picture in words in this person's language."""
        return example_name(stem, self.language)

    def hear_of_model(self, *, can_wait: bool = False) -> None:
        """Ask which model is served, at most every MODEL_REFRESH_S, and note an outage.

        Args:
            can_wait: nothing that is open needs the model, so no API that is slow to answer is waited for.
        """
        state = st.session_state
        self.info = state.get("info")
        is_old = self.info is None or time.monotonic() - state["info_at"] >= MODEL_REFRESH_S
        if is_old and not can_wait:
            try:
                self.info = state["info"] = self.client.model()
                state["info_at"] = time.monotonic()
            except ServiceError as error:
                self.note(error)
        if self.info is not None:
            self.model_key = f"{self.info.model.model_dump_json()} {self.info.loaded_at}"

    def note(self, error: ServiceError) -> None:
        """Remember that the API cannot be asked, for the rest of this run, and to ask it again next time."""
        self.outage = error
        st.session_state["info_at"] = -MODEL_REFRESH_S

    def answer(self, photo: Photo) -> ImageResult | Failure:
        """Return every detection in photo: as answered before by this model, else by asking the API now."""
        self.ask_again(photo)
        known = self.known(photo)
        return self.take(photo, self.ask(photo)) if known is None else known

    def known(self, photo: Photo) -> ImageResult | Failure | None:
        """Return what can be said of photo without asking the API; None: it has to be asked."""
        answers, key = self._answers(), self.key_of(photo)
        if key in answers:
            return answers[key].model_copy(update={"file": photo.name})
        if isinstance(self._refusals().get(key), ServiceBusy) and self.may_ask_again():
            self.ask_again(photo)
        if key in self._refusals():
            return self._failure(photo, self._refusals()[key])
        if len(photo.content) > self.settings.api_max_body_mb * 1e6:
            return Failure(self.sentence(PhotoTooLarge(), photo), hopeless=True)
        if self.outage or self.info is None:
            return Failure(self.text("error_waiting"), waiting=True)
        return None

    def ask(self, photo: Photo) -> ImageResult | ServiceError:
        """Ask the API about photo; may be called from any thread."""
        try:
            response = self.client.predict([(photo.name, photo.content)], score_threshold=LEAST_SCORE)
        except ServiceError as error:
            return error
        result = response.results[0]
        return ServiceError(result.error.detail, result.error) if result.error else result

    def take(self, photo: Photo, said: ImageResult | ServiceError) -> ImageResult | Failure:
        """Keep what ask has brought, and return it as it is shown."""
        if isinstance(said, OUTAGES):
            self.note(said)  # the page says which outage it is, once for all photos
            return Failure(self.text("error_waiting"), waiting=True)
        if isinstance(said, ServiceError):
            self._refusals()[self.key_of(photo)] = said
            if isinstance(said, ServiceBusy):
                st.session_state["busy_at"] = time.monotonic()
            return self._failure(photo, said)
        self._answers()[self.key_of(photo)] = said
        return said.model_copy(update={"file": photo.name})

    def ask_again(self, photo: Photo) -> None:
        """Forget why photo has no answer."""
        self._refusals().pop(self.key_of(photo), None)

    def _failure(self, photo: Photo, error: ServiceError) -> Failure:
        hopeless = isinstance(error, PhotoTooLarge) or problem_name(error.problem) in HOPELESS_PROBLEMS
        return Failure(self.sentence(error, photo), hopeless=hopeless, is_busy=isinstance(error, ServiceBusy))

    def may_ask_again(self) -> bool:
        """Say whether a busy API has been left alone for long enough."""
        busy_at = float(st.session_state.get("busy_at", -BUSY_RETRY_S))
        return time.monotonic() - busy_at >= BUSY_RETRY_S

    def key_of(self, photo: Photo) -> tuple[str, str]:
        """Return what an answer to photo is kept under: another model is asked anew."""
        return photo.digest, self.model_key

    def _answers(self) -> Recent[tuple[str, str], ImageResult]:
        answers: Recent[tuple[str, str], ImageResult]
        answers = st.session_state.setdefault("answers", Recent(ANSWERS_KEPT))
        return answers

    def _refusals(self) -> Recent[tuple[str, str], ServiceError]:
        refusals: Recent[tuple[str, str], ServiceError]
        refusals = st.session_state.setdefault("refusals", Recent(ANSWERS_KEPT))
        return refusals

    def sentence(self, error: ServiceError, photo: Photo | None = None) -> str:
        """Return what to tell a person about an error, in plain words."""
        if error.problem and problem_name(error.problem) in PROBLEM_TEXTS:
            return self._problem_sentence(error.problem)
        if isinstance(error, PhotoTooLarge) and photo:
            return self.text("error_file_too_large", size=f"{len(photo.content) / 1e6:.0f}")
        if isinstance(error, RequestRefused) and error.problem and error.problem.status in (401, 403):
            return self.text("error_key")
        if type(error) in ERROR_TEXTS:
            return self.text(ERROR_TEXTS[type(error)])
        return self.text("error_other", detail=printable(str(error)))

    def _problem_sentence(self, problem: Problem) -> str:
        key = PROBLEM_TEXTS.get(problem_name(problem), "error_other")
        return self.text(key, detail=printable(problem.detail))

    def shown(self, photo: Photo) -> imaging.Image:
        """Return photo decoded, its longer side at most SHOWN_SIDE pixels.

        Raises:
            imaging.ImageError: the page's image library cannot read it.
        """
        return decoded(memory.session_id(), photo)

    def percent(self, fraction: float) -> str:
        """Return a fraction in whole percent, in this person's language."""
        return percent(fraction, self.language)

    def score(self, score: float) -> str:
        """Return a score as a number: it is no probability that people could read in percent."""
        return score_text(score, self.language)

    def decimal(self, value: float, digits: int = 3) -> str:
        """Return a number with so many digits after the point, or comma, of this person's language."""
        return f"{value:.{digits}f}".replace(".", self.text("decimal_point"))


def hundredths(score: float) -> float:
    """Return score rounded down to whole hundredths."""
    return math.floor(100 * score + 1e-9) / 100


def problem_name(problem: Problem | None) -> str:
    """Return the last part of a problem's type, "" without a problem."""
    return problem.type.rsplit("/", 1)[-1].rsplit(":", 1)[-1] if problem else ""


def strongest(detections: Sequence[Detection]) -> list[Detection]:
    """Return the best detection of each label, best first."""
    best: dict[str, Detection] = {}
    for detection in sorted(detections, key=lambda d: -d.score):
        best.setdefault(detection.label, detection)
    return list(best.values())
