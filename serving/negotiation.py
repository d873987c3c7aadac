"""The form of an answer that a caller accepts."""

from __future__ import annotations

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from serving.problems import ApiProblem

JSON = "application/json"
PICTURE_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG"}


def choose_media_type(accept: str) -> str:
    """Return the media type to answer in, by the Accept header's preferences; JSON where it has none.

    Raises:
        ApiProblem: it takes none of JSON, JPEG and PNG.
    """
    given = parse_accept_header(accept, MIMEAccept)
    # A range may say more than a name (application/json;charset=utf-8); what is offered has the name only.
    ranges = MIMEAccept([(name.partition(";")[0].rstrip(), quality) for name, quality in given])
    best = ranges.best_match((JSON, *PICTURE_FORMATS)) if ranges else JSON
    if best is None:
        detail = f"Expected Accept to take {JSON}, {' or '.join(PICTURE_FORMATS)}, got {accept[:100]}."
        raise ApiProblem("not-acceptable", detail)
    return best
