"""Which version a caller has seen: ETag, If-Match, If-None-Match (RFC 9110, section 13).

an action without If-Match       428; `If-Match: *` says "whichever version it is", and means it
a version that has moved on      412
W/"v17"                          is taken as "v17": proxies that compress weaken tags
"""

import hashlib
import re
from typing import Annotated, Any

from fastapi import Depends, Header

from app.errors import Conflict
from app.http.problems import MEDIA_TYPE, ProblemDetails

TAG = re.compile(r'(?:W/)?"([^"]*)"')
VERSION = re.compile(r"v([0-9]{1,10})")

IfMatch = Annotated[
    str | None,
    Header(
        max_length=400, description="The `ETag` you have seen, or `*` for whichever it is.", examples=['"v3"']
    ),
]
IfNoneMatch = Annotated[
    str | None, Header(max_length=400, description="The `ETag` you have: 304 while it is still so.")
]


def tag(version: int) -> str:
    """Return the ETag of a version."""
    return f'"v{version}"'


def weak_tag(*parts: object) -> str:
    """Return a tag for something without a version of its own, by what it depends on."""
    digest = hashlib.sha256("\x00".join(map(str, parts)).encode()).hexdigest()
    return f'W/"{digest[:32]}"'


def same(header: str | None, current: str) -> bool:
    """Return whether If-None-Match names the current tag; strength does not matter here."""
    if header is None:
        return False
    return header.strip() == "*" or _opaque(current)[0] in _opaque(header)


def expected(if_match: IfMatch = None) -> frozenset[int] | None:
    """Return the versions that the caller has seen; None if any will do."""
    if if_match is None:
        raise Conflict(
            "say which version you have seen: If-Match with the ETag, or *", code="precondition-required"
        )
    if if_match.strip() == "*":
        return None
    found = (VERSION.fullmatch(each) for each in _opaque(if_match))
    return frozenset(int(each[1]) for each in found if each is not None)


ExpectedDep = Annotated[frozenset[int] | None, Depends(expected)]


def responses() -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI declaration of the two answers that an action may get for its If-Match."""
    said = {
        412: "The request has moved on from the version that you name.",
        428: "An action must say which version it is meant for.",
    }
    return {
        status: {"model": ProblemDetails, "description": text, "content": {MEDIA_TYPE: {}}}
        for status, text in said.items()
    }


def _opaque(header: str) -> list[str]:
    return TAG.findall(header)
