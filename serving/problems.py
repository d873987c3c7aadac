"""What can go wrong with a request, as problem documents (RFC 9457).

Each document's type is one of PROBLEMS; types are stable, titles and details are for people.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from schemas import Problem

PROBLEM_JSON = "application/problem+json"
RECORDERS_PREFIX = "/v1/vision"  # video recorders look for what went wrong in fields of their own
TYPE_PREFIX = "urn:weapon-detector:problem:"
PROBLEMS: Mapping[str, tuple[int, str]] = {
    "bad-request": (400, "The request cannot be read"),
    "bad-multipart": (400, "The multipart body cannot be read"),
    "bad-image": (400, "The picture cannot be used"),
    "unauthorized": (401, "A valid API key is needed"),
    "unknown-host": (400, "The service is not to be called by that name"),
    "not-found": (404, "There is nothing at this address"),
    "method-not-allowed": (405, "This address does not take that method"),
    "not-acceptable": (406, "The answer cannot be given in the form asked for"),
    "upload-timeout": (408, "The upload took too long"),
    "body-too-large": (413, "The request body is too large"),
    "image-too-large": (413, "The picture has too many pixels"),
    "not-multipart": (415, "The body is neither multipart/form-data nor JSON"),
    "compressed-body": (415, "The body is compressed"),
    "not-an-image": (415, "The file is not a picture that can be read"),
    "invalid-parameters": (422, "A parameter is not valid"),
    "missing-file": (422, "No file was sent"),
    "too-many-files": (422, "Too many files in one request"),
    "too-many-requests": (429, "Too many requests from one caller"),
    "headers-too-large": (431, "The headers are too large"),
    "internal-error": (500, "Something went wrong here"),
    "not-ready": (503, "The model is not loaded yet"),
    "queue-full": (503, "Too many requests at the moment"),
    "deadline-exceeded": (504, "The answer took too long"),
}


class ApiProblem(Exception):
    """An answer that is an error.

    Attributes:
        name: a key of PROBLEMS.
        detail: what was expected, what came, and what to do.
        headers: to send along.
        errors: what was wrong with each parameter.
    """

    def __init__(
        self,
        name: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(detail)
        self.name, self.detail = name, detail
        self.headers, self.errors = dict(headers or {}), errors

    @property
    def status(self) -> int:
        """The HTTP status."""
        return PROBLEMS[self.name][0]

    def document(self, request_id: str | None) -> Problem:
        """Return the problem document."""
        status, title = PROBLEMS[self.name]
        given: dict[str, Any] = {"type": TYPE_PREFIX + self.name, "title": title, "status": status}
        if self.errors is not None:
            given["errors"] = self.errors
        return Problem(**given, detail=self.detail, request_id=request_id)


def problem_response(problem: ApiProblem, scope: Scope) -> Response:
    """Return the answer that says what went wrong."""
    note_on(scope)["problem"] = problem.name
    document = problem.document(note_on(scope).get("request_id")).model_dump(mode="json", exclude_unset=True)
    if scope["path"].startswith(RECORDERS_PREFIX):
        document |= {"success": False, "error": problem.detail, "code": problem.status}
    return Response(json.dumps(document), problem.status, problem.headers, PROBLEM_JSON)


NOTE = "mlapi.note"  # where in the ASGI scope a request's log line is gathered


def note_on(scope: Scope) -> dict[str, Any]:
    """Return the log line of this request, to add to. No file names, no contents, no pixels."""
    note: dict[str, Any] = scope.setdefault(NOTE, {})
    return note
