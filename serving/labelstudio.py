"""What Label Studio calls a machine learning backend: it pre-labels pictures, over the same queue and limits.

In Label Studio: Settings, Model, Connect Model, and the API's address with /label-studio behind it; where the
API wants a key, basic authentication with the key as the password. LABEL_STUDIO_URL says whose pictures are
fetched: an address that a request brings is never followed anywhere else.

Source:
    Label Studio 1.23, label_studio/ml/api_connector.py and models.py: what it sends and expects. It was
    tried with 1.23.2: uploads and local files, without a key and with one, both kinds of its own tokens.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import requests
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from detection.alarm import unsure_threshold
from detection.answers import studio_config, studio_prediction, studio_version
from detection.names import class_name
from schemas import ImageResult, ModelCard
from serving.bodies import SentFile
from serving.models import ServedModel
from serving.predict import PredictQuery, to_result
from serving.problems import ApiProblem, note_on
from serving.routes import ServiceDep, look_in_time, record
from serving.service import Service
from settings import ApiSettings

log = logging.getLogger("mlapi")
studio_router = APIRouter(prefix="/label-studio", include_in_schema=False)
FETCH_SECONDS = 10
PERSONAL_TOKEN_DOTS = 2  # a personal access token is a JSON web token, which is changed for a short-lived one


class Up(BaseModel):
    """The backend is there."""

    status: Literal["UP"] = "UP"
    model_class: str = "WeaponDetector"


class SetUp(BaseModel):
    """What a project sends when it connects; the address and the token that come with it are not used."""

    labelling: str = Field("", alias="schema")


class Ready(BaseModel):
    """The model answers for the project."""

    model_version: str


class Tasks(BaseModel):
    """Pictures to look at, and the project's labelling interface."""

    tasks: list[dict[str, Any]] = Field(min_length=1)
    label_config: str = ""


class Predicted(BaseModel):
    """For each task one prediction; of a picture that could not be looked at none, if there are others."""

    results: list[dict[str, Any] | list[Any]]
    model_version: str


@dataclass(frozen=True)
class Interface:
    """Where boxes go in a project's labelling interface.

    Attributes:
        from_name: of its RectangleLabels.
        to_name: of the Image that they label.
        key: of the picture's address in a task's data.
        labels: class of the model -> label there; classes without one are left out.
    """

    from_name: str
    to_name: str
    key: str
    labels: Mapping[str, str]


@studio_router.get("/")
@studio_router.get("/health")
async def health() -> Up:
    """Say that somebody is here."""
    return Up()


@studio_router.get("/config")
async def config(request: Request, service: ServiceDep) -> Response:
    """Return the labelling interface for the classes of the model served, to paste into a project."""
    _let_in(request, service)
    return Response(studio_config(service.host.served.detector.card), media_type="application/xml")


@studio_router.post("/setup")
async def setup(request: Request, service: ServiceDep, asked: SetUp) -> Ready:
    """See that the project's labelling interface has labels for the model's classes."""
    _let_in(request, service)
    served = service.host.served
    _interface(asked.labelling, served.detector.card)
    return Ready(model_version=_version(served))


@studio_router.get("/versions")
async def versions(request: Request, service: ServiceDep) -> dict[str, list[str]]:
    """List what predictions can be told apart by: the version served."""
    _let_in(request, service)
    return {"versions": [_version(service.host.served)]}


@studio_router.post("/webhook")
@studio_router.post("/train")
async def webhook() -> dict[str, str]:
    """Take note of nothing: train.py trains, on an export. Label Studio sends no key with these."""
    return {}


@studio_router.post("/predict")
async def predict(request: Request, service: ServiceDep, asked: Tasks) -> Predicted:
    """Return boxes from the unsure point on: what is too much is deleted faster than what is missed is drawn.

    More tasks than one request may have files: the first alone is answered, and Label Studio, counting fewer
    answers than tasks, asks for them one by one.
    """
    _let_in(request, service)
    served = service.host.served
    card, note = served.detector.card, note_on(request.scope)
    interface = _interface(asked.label_config, card)
    tasks = asked.tasks if len(asked.tasks) <= service.settings.api_max_files else asked.tasks[:1]
    fetched: list[SentFile | ApiProblem] = []

    async def given() -> tuple[list[SentFile], PredictQuery]:
        for task in tasks:
            fetched.append(await _picture(service.settings, task, interface.key))
        found = [one for one in fetched if isinstance(one, SentFile)]
        if not found:
            raise next(one for one in fetched if isinstance(one, ApiProblem))
        return found, PredictQuery(score_threshold=unsure_threshold(card))

    with service.share.request_of(note.get("caller") or note["client"]):
        files, looks = await look_in_time(request, service, served, given)
    if len(tasks) == 1 and looks[0].value.problem is not None:
        service.metrics.files.labels("error").inc()
        raise looks[0].value.problem
    results = [
        to_result(file, look, card, note["request_id"]) for file, look in zip(files, looks, strict=True)
    ]
    record(service.metrics, note, results, [look.value for look in looks], card)
    answers = iter(_answer(result, served, interface) for result in results)
    return Predicted(
        results=[next(answers) if isinstance(one, SentFile) else [] for one in fetched],
        model_version=_version(served),
    )


def _answer(result: ImageResult, served: ServedModel, interface: Interface) -> dict[str, Any] | list[Any]:
    if result.error is not None:
        return []
    kept = [
        found.model_copy(update={"label": interface.labels[found.label]})
        for found in result.detections or ()
        if found.label in interface.labels
    ]
    return studio_prediction(
        result.model_copy(update={"detections": kept}), _version(served),
        from_name=interface.from_name, to_name=interface.to_name,
    )  # fmt: skip


def _version(served: ServedModel) -> str:
    return studio_version(served.name.name, served.name.version, served.detector.card.weights_sha256)


def _let_in(request: Request, service: Service) -> None:
    """Let only holders of a key in; Label Studio sends it as the password of basic authentication."""
    given = request.headers.get("x-api-key")
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if given is None and scheme.lower() == "bearer":
        given = credentials
    elif given is None and scheme.lower() == "basic":
        try:
            given = base64.b64decode(credentials, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            given = ""
    note_on(request.scope)["caller"] = service.keys.holder(given)


def _interface(labelling: str, card: ModelCard) -> Interface:
    """Return where boxes go.

    Raises:
        ApiProblem: the labelling interface cannot be read, or has no rectangles for the model's classes.
    """
    hint = "GET /label-studio/config gives one that fits, for Settings, Labeling Interface, Code."
    try:
        root = ElementTree.fromstring(labelling)
    except ElementTree.ParseError as error:
        detail = f"The labelling interface cannot be read: {error}. {hint}"
        raise ApiProblem("invalid-parameters", detail) from error
    images = {image.get("name", ""): image for image in root.iter("Image")}
    for rectangles in root.iter("RectangleLabels"):
        image = images.get(rectangles.get("toName", ""))
        there = {label.get("value", "").casefold(): label.get("value", "") for label in rectangles}
        labels = {
            name: there[spelling]
            for name in card.class_names[1:]
            for spelling in (class_name(name, "en").casefold(), name.casefold())
            if spelling in there
        }
        if image is not None and labels:
            key = image.get("value", "").removeprefix("$")
            return Interface(rectangles.get("name", ""), rectangles.get("toName", ""), key, labels)
    names = ", ".join(card.class_names[1:])
    detail = f"Expected an Image and RectangleLabels with labels such as {names}, found none. {hint}"
    raise ApiProblem("invalid-parameters", detail)


async def _picture(settings: ApiSettings, task: Mapping[str, Any], key: str) -> SentFile | ApiProblem:
    """Return a task's picture, or what speaks against it."""
    try:
        address = _address(settings, task, key)
        content = await asyncio.to_thread(_fetch, settings, address)
    except ApiProblem as problem:
        log.warning("a picture of Label Studio cannot be had: %s", problem.detail)
        return problem
    return SentFile(f"task {str(task.get('id', ''))[:20]}", content)


def _address(settings: ApiSettings, task: Mapping[str, Any], key: str) -> str:
    """Return where a task's picture is: at LABEL_STUDIO_URL, or nowhere.

    Raises:
        ApiProblem: it has none, it is elsewhere, or nobody said where Label Studio is.
    """
    data = task.get("data")
    value = data.get(key) if isinstance(data, dict) else None
    if not isinstance(value, str) or not value:
        raise ApiProblem("missing-file", f"Expected the address of a picture in the task's data, {key!r}.")
    if not settings.label_studio_url:
        raise ApiProblem("bad-image", "Set LABEL_STUDIO_URL for the API: nothing else is fetched.")
    home = settings.label_studio_url.rstrip("/")
    path = value.removeprefix(home)
    if not re.match(r"/(data|tasks|storage-data)/", path) or "/.." in urllib.parse.unquote(path):
        raise ApiProblem(
            "bad-image",
            f"Expected a picture that Label Studio serves at LABEL_STUDIO_URL, got {value[:80]!r}.",
        )
    return home + path


def _fetch(settings: ApiSettings, address: str) -> bytes:
    """Return a picture that Label Studio serves.

    Raises:
        ApiProblem: it does not serve it, or it is larger than a request may be.
    """
    try:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.get(
                address, headers=_who(session, settings), timeout=FETCH_SECONDS, stream=True,
                allow_redirects=False,
            )  # fmt: skip
            if answer.status_code != requests.codes.ok:
                hint = "set LABEL_STUDIO_API_KEY" if answer.status_code in (401, 403) else "is it there?"
                raise ApiProblem("bad-image", f"Label Studio answered {answer.status_code}: {hint}")
            content = b""
            for chunk in answer.iter_content(1 << 16):
                content += chunk
                if len(content) > settings.max_body_bytes:
                    detail = f"Expected a picture of at most {settings.max_body_bytes:,} bytes, got more."
                    raise ApiProblem("body-too-large", detail)
            return content
    except requests.RequestException as error:
        detail = f"Label Studio at LABEL_STUDIO_URL cannot be asked: {type(error).__name__}."
        raise ApiProblem("bad-image", detail) from error


def _who(session: requests.Session, settings: ApiSettings) -> dict[str, str]:
    """Return the header that says who asks; a personal token is changed for a short-lived one first."""
    if settings.label_studio_api_key is None or settings.label_studio_url is None:
        return {}
    key = settings.label_studio_api_key.get_secret_value()
    if key.count(".") != PERSONAL_TOKEN_DOTS:
        return {"Authorization": f"Token {key}"}
    address = f"{settings.label_studio_url.rstrip('/')}/api/token/refresh"
    answer = session.post(address, json={"refresh": key}, timeout=FETCH_SECONDS, allow_redirects=False)
    access = answer.json().get("access") if answer.status_code == requests.codes.ok else None
    if access is None:
        raise ApiProblem("bad-image", "Label Studio does not take the token of LABEL_STUDIO_API_KEY.")
    return {"Authorization": f"Bearer {access}"}
