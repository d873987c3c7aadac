"""Typed client of the model API, and a command that runs photos through it.

    python client.py predict photos/                                  # JSON lines, one per photo
    python client.py predict 'shop/*.jpg' --format csv --output found.csv
    python client.py predict photos/ --format pictures --output drawn/
    python client.py predict photos/ --format label-studio --output tasks.json    # to correct by hand
    python client.py predict --help      # other formats, and all else

ServiceError                the API did not answer as hoped; str() says what to do
  ServiceUnreachable        nothing listens there, or the connection broke
  ServiceTooSlow            no answer within the time allowed
  ServiceNotReady     503   the model is still loading, or could not be loaded
  ServiceBusy     429, 503  the queue is full, or our share of it, also after retries
  PhotoTooLarge       413
  RequestRefused      4xx   anything else the API will not do
  UnexpectedAnswer          what answered is not this version's model API
"""

from __future__ import annotations

import glob
import json
import os
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import requests
from defusedcsv import csv
from pydantic import BaseModel, ValidationError
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidHeader, InvalidSchema, InvalidURL, MissingSchema
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from urllib3.util.retry import Retry

from commands import PredictConfig, predict_config
from detection import drawing, imaging
from detection.answers import CSV_COLUMNS, coco_document, csv_rows, studio_tasks
from detection.names import first_few, printable
from schemas import ImageResult, ModelInfo, ModelList, PredictResponse, Problem, Tiles

CONNECT_TIMEOUT_S = 3.0
RETRY_STATUSES = (429, 503)  # busy with other photos, or with ours
SAME_FOR_ALL = (401, 422)  # a refused key or parameter: the next photo would fare no better
FAILURES_IN_A_ROW = 5  # then the API is ill, and the photos are not to blame

Answer = TypeVar("Answer", bound=BaseModel)
Found = tuple[Path, ImageResult]
Writer = Callable[[Iterable[Found], ModelInfo, Any], list[ImageResult]]


class ServiceError(Exception):
    """The API did not answer as hoped. problem is what it said, where it said something."""

    def __init__(self, message: str = "", problem: Problem | None = None):
        super().__init__(message)
        self.problem = problem


class ServiceUnreachable(ServiceError):
    """Nothing listens at the address, or the connection broke."""


class ServiceTooSlow(ServiceError):
    """No answer came within the time allowed."""


class ServiceNotReady(ServiceError):
    """The model is still loading, or could not be loaded."""


class ServiceBusy(ServiceError):
    """The queue was full at every attempt."""


class PhotoTooLarge(ServiceError):
    """The file or the picture in it is larger than the API accepts."""


class RequestRefused(ServiceError):
    """The API understood the request and will not do it."""


class UnexpectedAnswer(ServiceError):
    """What answered is not this version's model API."""


class Client:
    """Asks the model API; safe to share between threads.

    Args:
        api_url: address of the API, such as http://127.0.0.1:8000.
        api_key: sent as X-API-Key where the API wants one.
        read_timeout_s: longest wait for one answer, seconds.
        retries: further attempts at a busy API; each waits as long as the API asks, or 0, 0.5, 1 ... s.
    """

    def __init__(
        self, api_url: str, *, api_key: str | None = None, read_timeout_s: float = 60.0, retries: int = 4
    ) -> None:
        self.api_url = api_url.rstrip("/")
        self._timeout = (CONNECT_TIMEOUT_S, read_timeout_s)
        retry = Retry(
            total=retries, connect=0, read=0, redirect=0, status=retries, status_forcelist=RETRY_STATUSES,
            allowed_methods=None, backoff_factor=0.25, backoff_max=8, backoff_jitter=0.25, retry_after_max=10,
            raise_on_status=False,
        )  # fmt: skip
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy for the internet must not see, or break, a call next door
        self._session.headers["User-Agent"] = "weapon-detector-client"
        if api_key:
            self._session.headers["X-API-Key"] = api_key
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=retry, pool_maxsize=16))
        self._impatient = requests.Session()
        self._impatient.trust_env = False
        self._impatient.headers.update(self._session.headers)

    def predict(
        self,
        photos: Sequence[tuple[str, bytes]],
        *,
        score_threshold: float | None = None,
        labels: Sequence[str] = (),
        nms_iou: float | None = None,
        max_detections: int | None = None,
        probabilities: bool = False,
        tiles: Tiles = "1x1",
    ) -> PredictResponse:
        """Return what is found in photos, one result per photo in their order.

        Args:
            photos: (file name, encoded picture) pairs.
            score_threshold: lowest score wanted, in [0, 1]; None is the model's operating point.
            labels: class names wanted; none means all.
            nms_iou: IoU above which the lower of two boxes of a class goes, in (0, 1].
            max_detections: at most so many per photo.
            probabilities: ask for each box's probability of every class.
            tiles: look at so many overlapping tiles too, for small objects; auto: by the photo's size.

        Raises:
            ServiceError: one of its kinds; a single bad photo is no error but that photo's result.
        """
        query: dict[str, Any] = {
            "score_threshold": score_threshold, "labels": list(labels) or None, "nms_iou": nms_iou,
            "max_detections": max_detections, "probabilities": "true" if probabilities else None,
            "tiles": None if tiles == "1x1" else tiles,
        }  # fmt: skip
        files = [("file", (name, photo, "application/octet-stream")) for name, photo in photos]
        return self._ask("POST", "/predict", PredictResponse, params=query, files=files)

    def model(self) -> ModelInfo:
        """Return which model is served and what was measured of it; does not wait for a busy API."""
        return self._ask("GET", "/model", ModelInfo, patient=False)

    def models(self) -> ModelList:
        """Return every version that could be served; does not wait for a busy API."""
        return self._ask("GET", "/models", ModelList, patient=False)

    def _ask(
        self, method: str, path: str, answer: type[Answer], *, patient: bool = True, **kwargs: Any
    ) -> Answer:
        url, request_id = self.api_url + path, uuid.uuid4().hex  # by which the API's log can be searched
        try:
            response = (self._session if patient else self._impatient).request(
                method, url, timeout=self._timeout, allow_redirects=False,
                headers={"X-Request-ID": request_id}, **kwargs,
            )  # fmt: skip
        except requests.exceptions.ReadTimeout as error:
            raise ServiceTooSlow(
                f"the API at {self.api_url} did not answer within {self._timeout[1]:g} seconds; "
                f"try again, or with a smaller photo (request {request_id} in its log)"
            ) from error
        except (MissingSchema, InvalidSchema, InvalidURL) as error:
            raise ServiceUnreachable(
                f"expected an address such as http://127.0.0.1:8000, got {self.api_url!r}"
            ) from error
        except InvalidHeader as error:
            raise ServiceError("the API key has characters that no HTTP header can carry") from error
        except requests.exceptions.RequestException as error:
            raise ServiceUnreachable(
                f"expected the model API at {self.api_url}, could not talk to it; is it running there?"
            ) from error
        if response.status_code != requests.codes.ok:
            raise _refusal(response, self.api_url)
        try:
            return answer.model_validate_json(response.content)
        except ValidationError as error:
            raise UnexpectedAnswer(
                f"the answer of {url} is not one of this version's model API; check the address, and that "
                "page and API are of one version"
            ) from error


def _refusal(response: requests.Response, api_url: str) -> ServiceError:
    """Turn an answer other than 200 into the error that says it."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return UnexpectedAnswer(
            f"expected the model API at {api_url}, got an answer {response.status_code} without an "
            "explanation; check the address"
        )
    if response.status_code == requests.codes.service_unavailable:
        # Only a full queue is a matter of seconds; a proxy without an API behind it says 503 too.
        kind: type[ServiceError] = ServiceBusy if "queue-full" in problem.type else ServiceNotReady
    elif response.status_code == requests.codes.too_many_requests:
        kind = ServiceBusy
    elif response.status_code == requests.codes.request_entity_too_large:
        kind = PhotoTooLarge
    else:
        kind = RequestRefused if response.status_code < requests.codes.server_error else ServiceError
    said = ": ".join(filter(None, (problem.title, problem.detail)))
    return kind(said or f"the API at {api_url} answered {response.status_code}", problem)


# --- the predict command ----------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the predict command; return 0, or 1 if a photo failed, or 2 if nothing could be done."""
    config = predict_config(arguments)
    console = Console(stderr=True, markup=False, emoji=False)
    try:
        photos, passed_over = find_photos(config.photos)
        client = Client(config.api_url, api_key=config.api_key, read_timeout_s=config.timeout)
        info = client.model()
        asked = Asked(client, config, photos)
        with _open_output(config.output, config.format) as output:
            write = WRITERS.get(config.format) or write_label_studio(config.studio_prefix)
            failed = write(_with_progress(asked, len(photos), console), info, output)
    except (ServiceError, FileNotFoundError, OutputError) as error:
        _say(console, f"error: {error}", style="red")
        return 2
    except BrokenPipeError:  # whoever reads has read enough, as head does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the last flush complains
        return 1
    except KeyboardInterrupt:
        return 130
    if passed_over:
        names = first_few([path.name for path in passed_over], 3)
        _say(
            console,
            f"passed over {len(passed_over)} files that are no photos: {names}",
        )
    for result in failed:
        detail = result.error.detail if result.error else ""
        _say(console, f"failed: {result.file}: {detail}")
    if asked.stopped_by is not None:
        left = len(photos) - asked.answered
        _say(console, f"error: {asked.stopped_by}; {left} of {len(photos)} photos were not looked at", "red")
        return 2
    return 1 if failed else 0


def _say(console: Console, sentence: str, style: str | None = None) -> None:
    console.print(sentence, style=style, highlight=False, soft_wrap=True)


class OutputError(ValueError):
    """The results cannot be written where they were asked for."""


def find_photos(patterns: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Return the photos that patterns name, each once, and the files that were passed over.

    A file named as such is taken as it is. In folders (searched throughout) and globs a photo is what
    ends as one, and what macOS leaves beside photos (._a.jpg, __MACOSX/) is passed over.

    Raises:
        FileNotFoundError: a pattern names no photo.
    """
    photos: dict[Path, None] = {}
    others: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_file():
            photos[path] = None
            continue
        if path.is_dir():
            named = sorted(each for each in path.rglob("*") if each.is_file())
        else:
            names = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
            named = sorted(Path(name) for name in names if Path(name).is_file())
        found = [each for each in named if imaging.may_be_photo(each)]
        if not found:
            raise FileNotFoundError(
                f"expected a photo, a folder with photos or a glob, {pattern!r} names no photo"
            )
        photos |= dict.fromkeys(found)
        others |= dict.fromkeys(each for each in named if each not in photos)
    return list(photos), list(others)


class Asked:
    """Iterates over (photo, result) in order, keeping config.jobs requests under way.

    A photo that fails is a result. It ends early where the next photo would fare no better: the results
    so far are kept.

    Attributes:
        stopped_by: why it ended early, if it did.
        answered: how many results it gave.
    """

    def __init__(self, client: Client, config: PredictConfig, photos: Sequence[Path]) -> None:
        self._client, self._config, self._photos = client, config, photos
        self.stopped_by: ServiceError | None = None
        self.answered = 0

    def __iter__(self) -> Iterator[Found]:
        failures = 0
        with ThreadPoolExecutor(self._config.jobs) as pool:
            try:
                for path, outcome in zip(self._photos, pool.map(self._ask, self._photos), strict=True):
                    failures = failures + 1 if _is_of_the_api(outcome) else 0
                    if isinstance(outcome, ServiceError):
                        if _concerns_every_photo(outcome) or failures == FAILURES_IN_A_ROW:
                            self.stopped_by = outcome
                            return
                        outcome = _failure(path, outcome)
                    self.answered += 1
                    yield path, outcome
            finally:  # what is still waiting would fail alike, or nobody wants it any more
                pool.shutdown(wait=True, cancel_futures=True)

    def _ask(self, path: Path) -> ImageResult | ServiceError:
        config = self._config
        try:
            answer = self._client.predict(
                [(printable(path.name), path.read_bytes())],
                score_threshold=config.score_threshold,
                labels=config.labels,
                nms_iou=config.nms_iou,
                max_detections=config.max_detections,
                probabilities=config.probabilities,
                tiles=config.tiles,
            )
        except OSError as error:
            return _failure(path, ServiceError(f"cannot be read: {error.strerror or error}"))
        except ServiceError as error:
            return error
        return answer.results[0].model_copy(update={"file": printable(str(path))})


def _concerns_every_photo(error: ServiceError) -> bool:
    if isinstance(error, ServiceUnreachable | ServiceNotReady | UnexpectedAnswer):
        return True
    return error.problem is not None and error.problem.status in SAME_FOR_ALL


def _is_of_the_api(outcome: ImageResult | ServiceError) -> bool:
    """Say whether a photo failed by the API's weakness (5xx, too slow, busy), not by its own."""
    return isinstance(outcome, ServiceError) and not isinstance(outcome, RequestRefused | PhotoTooLarge)


def _failure(path: Path, error: ServiceError) -> ImageResult:
    problem = error.problem or Problem(type="about:blank", title="No answer", status=0, detail=str(error))
    return ImageResult(file=printable(str(path)), error=problem)


def _with_progress(results: Iterable[Found], count: int, console: Console) -> Iterator[Found]:
    columns = (TextColumn("photos"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield from progress.track(results, total=count)


@contextmanager
def _open_output(output: Path | None, output_format: str) -> Iterator[IO[str] | Path]:
    """Open where the results go: a folder for pictures, else a file, or standard output without a name."""
    try:
        if output_format == "pictures":
            if output is None:
                raise OutputError("annotated pictures need a folder: add --output FOLDER")
            output.mkdir(parents=True, exist_ok=True)
            yield output
        elif output is None:
            yield sys.stdout
            sys.stdout.flush()
        else:
            output.parent.mkdir(parents=True, exist_ok=True)
            with output.open("w", encoding="utf-8", newline="") as stream:
                yield stream
    except BrokenPipeError:
        raise
    except OSError as error:
        where = output or "standard output"
        raise OutputError(f"cannot write to {where}: {error.strerror or error}") from error


# Each writer writes every result as it comes and returns those that failed.


def write_jsonl(results: Iterable[Found], info: ModelInfo, output: IO[str]) -> list[ImageResult]:
    """Write one JSON object per line, shaped as the API's result for one file, plus the model's name."""
    failed = []
    for _, result in results:
        line = {"model": info.model.model_dump(), **result.model_dump(exclude_none=True)}
        output.write(json.dumps(line, ensure_ascii=False) + "\n")
        output.flush()  # whoever reads along sees each photo when it is done
        failed += [result] if result.error else []
    return failed


def write_csv(results: Iterable[Found], _: ModelInfo, output: IO[str]) -> list[ImageResult]:
    """Write one row per detection, and one row without a label for a photo without any."""
    failed = []
    table = csv.DictWriter(output, CSV_COLUMNS)
    table.writeheader()
    for _path, result in results:
        table.writerows(csv_rows(result))
        failed += [result] if result.error else []
    return failed


def write_coco(results: Iterable[Found], info: ModelInfo, output: IO[str]) -> list[ImageResult]:
    """Write one COCO object; failed photos are left out."""
    whole, failed = _apart(results)
    json.dump(coco_document((result for _, result in whole), info), output, ensure_ascii=False, indent=1)
    output.write("\n")
    return failed


def write_label_studio(prefix: str) -> Writer:
    """Return what writes tasks for Label Studio, each with the boxes that a person corrects.

    Args:
        prefix: what Label Studio puts before a photo's path.
    """

    def write(results: Iterable[Found], info: ModelInfo, output: IO[str]) -> list[ImageResult]:
        whole, failed = _apart(results)
        tasks = studio_tasks(((printable(str(path.resolve())), one) for path, one in whole), info, prefix)
        json.dump(tasks, output, ensure_ascii=False, indent=1)
        output.write("\n")
        return failed

    return write


def _apart(results: Iterable[Found]) -> tuple[list[Found], list[ImageResult]]:
    """Return the photos that were looked at, and those that failed."""
    whole: list[Found] = []
    failed: list[ImageResult] = []
    for path, result in results:
        if result.error or result.image_size is None:
            failed.append(result)
        else:
            whole.append((path, result))
    return whole, failed


def write_pictures(results: Iterable[Found], _: ModelInfo, output: Path) -> list[ImageResult]:
    """Write each photo with its boxes as a JPEG file into the folder output."""
    failed = []
    for path, result in results:
        if result.error:
            failed.append(result)
            continue
        try:
            drawn = drawing.draw_detections(imaging.decode_image(path.read_bytes()), result.detections or ())
            content = imaging.encode_image(drawn)
        except (OSError, imaging.ImageError) as error:  # the API may read what this machine cannot
            failed.append(_failure(path, ServiceError(f"cannot be drawn on: {error}")))
            continue
        _free_name(output, path.stem).write_bytes(content)
    return failed


def _free_name(folder: Path, stem: str) -> Path:
    """Return a path that is not there yet: photos of several folders may share a name."""
    candidates = (folder / f"{stem}{suffix}.jpg" for suffix in ("", *(f"-{i}" for i in range(2, 100_000))))
    return next(path for path in candidates if not path.exists())


WRITERS: dict[str, Writer] = {
    "jsonl": write_jsonl,
    "csv": write_csv,
    "coco": write_coco,
    "pictures": write_pictures,
}


if __name__ == "__main__":
    sys.exit(main())
