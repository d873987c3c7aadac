"""The MLflow tracker: is it there, and one connection to it for all."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Iterator

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.environment_variables import (
    MLFLOW_DISABLE_TELEMETRY,
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
    MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD,
    MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
)
from mlflow.exceptions import MlflowException
from mlflow.telemetry import set_telemetry_client

CONNECT_SECONDS, ANSWER_SECONDS = 4, 10  # how long a tracker that is up may take, on a busy machine
RETRY_SECONDS = 3.0  # between two looks whether a lost tracker is back
_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")


def shown(text: str) -> str:
    """Return text without the names and passwords in its addresses: http://name:password@host -> http://host."""
    return _LOGIN.sub("", text)


class RegistryError(RuntimeError):
    """The tracker or the registry cannot do what was asked; the message says why and what to do.

    A message may reach strangers, by the API or a log, so it never holds a password.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class TrackerUnreachable(RegistryError):
    """Nobody answers at the tracker's address, or not to us."""


def check_tracker(tracking_uri: str) -> None:
    """Make sure that the tracker answers, within a few seconds.

    Raises:
        TrackerUnreachable: it does not, or not to us; the message says what to do.
    """
    ask_version(tracking_uri)
    with connection(tracking_uri) as client:
        client.search_experiments(max_results=1)


def is_server(tracking_uri: str) -> bool:
    """Return whether tracking_uri is that of a server, and not of a database used directly."""
    return tracking_uri.startswith(("http://", "https://"))


def ask_version(tracking_uri: str) -> None:
    """Ask the server for its version, once: MLflow's own client would try for minutes.

    Raises:
        TrackerUnreachable: no server answers.
    """
    if not is_server(tracking_uri):
        return
    try:
        answer = requests.get(
            f"{tracking_uri.rstrip('/')}/version", timeout=(CONNECT_SECONDS, ANSWER_SECONDS)
        )
    except requests.ReadTimeout as error:
        raise TrackerUnreachable(
            f"The MLflow tracker at {tracking_uri} did not answer in {ANSWER_SECONDS} seconds. "
            "Look at its log, or set MLFLOW_TRACKING_URI to another one's address."
        ) from error
    except (requests.ConnectionError, requests.ConnectTimeout) as error:
        raise TrackerUnreachable(
            f"No MLflow tracker answers at {tracking_uri}. Start one (`make demo` and `docker compose -f "
            "mlflow_tracker.compose.yaml up` do), or set MLFLOW_TRACKING_URI to its address."
        ) from error
    except requests.RequestException as error:
        raise TrackerUnreachable(
            f"Expected MLFLOW_TRACKING_URI to be an address such as http://127.0.0.1:5000, got "
            f"{tracking_uri!r}: {error}"
        ) from error
    if answer.status_code != requests.codes.ok or not answer.text[:1].isdigit():
        raise TrackerUnreachable(
            f"What answers at {tracking_uri} is no MLflow tracker, or one that is not ready (HTTP "
            f"{answer.status_code} for /version). Set MLFLOW_TRACKING_URI to the tracker's address."
        )


def _settle_mlflow() -> None:
    """Set MLflow's switches, once, before there are threads.

    MLflow reads them from the environment at each call, and os.environ fails threads that read it while
    another one changes it.
    """
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # type: ignore[no-untyped-call]
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)  # type: ignore[no-untyped-call]
    # It would repeat for minutes, also what is then there twice. What may be repeated is repeated by us.
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(0)  # type: ignore[no-untyped-call]
    # Files go through the tracker, unless the environment says otherwise: MLflow would go past it, to the S3
    # store's own address, which often only the tracker reaches.
    for switch in (MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD, MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD):
        if not switch.is_set():  # type: ignore[no-untyped-call]
            switch.set(False)  # type: ignore[no-untyped-call]
    # Its makers are not told how it is used; nothing has been sent before the first call.
    MLFLOW_DISABLE_TELEMETRY.set(True)  # type: ignore[no-untyped-call]
    set_telemetry_client()  # type: ignore[no-untyped-call]
    logging.getLogger("mlflow").setLevel(logging.ERROR)


_settle_mlflow()


def use_tracker(tracking_uri: str) -> None:
    """Tell MLflow where the tracker is: parts of it look there, whatever its client was told.

    It writes that to os.environ when it changes, so a program says it before it starts threads.
    """
    mlflow.set_tracking_uri(tracking_uri)


@contextlib.contextmanager
def connection(tracking_uri: str) -> Iterator[MlflowClient]:
    """Give MLflow's client, and turn its errors into sentences."""
    use_tracker(tracking_uri)
    try:
        yield MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    except MlflowException as error:
        raise _in_a_sentence(error, tracking_uri) from error
    except requests.RequestException as error:
        raise TrackerUnreachable(f"The tracker at {tracking_uri} failed: {error}") from error


def _in_a_sentence(error: MlflowException, tracking_uri: str) -> RegistryError:
    if "Invalid Host header" in str(error):
        return TrackerUnreachable(
            f"The tracker at {tracking_uri} refuses to be called by that name. Add its name and port to "
            "MLFLOW_SERVER_ALLOWED_HOSTS where the tracker runs."
        )
    if error.error_code in ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        return TrackerUnreachable(
            f"The tracker at {tracking_uri} does not let us in: {error.message} Set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    return RegistryError(f"The tracker at {tracking_uri} refused: {error.message}")


def wait_for_tracker(tracking_uri: str, patience_seconds: float) -> None:
    """Wait until the tracker answers.

    Raises:
        TrackerUnreachable: it did not in that time.
    """
    end = time.monotonic() + patience_seconds
    while True:
        try:
            check_tracker(tracking_uri)
        except RegistryError:
            if time.monotonic() > end:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            return
