"""OpenDSR 2.0 for a processor that erases: the vocabulary and the bodies. Pure.

The specification contradicts itself in places; what we do:

    /status (3.1) and /requests/{id} (8.1)     both
    processor_signature in the signed body     in the header only: a body cannot hold its own signature
    regulation required, not in the example    required, unless a setting says otherwise
    no status for a refusal                    `cancelled`, and our extension says why
    routes and headers of OpenGDPR (10.1)      if a setting says so
    a repeated id                              the same body gets the same answer, another one 400
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from app.erasure.lifecycle import BEFORE_APPROVAL, State

API_VERSION: Final = "2.0"
DOMAIN_HEADER, SIGNATURE_HEADER = "X-OpenDSR-Processor-Domain", "X-OpenDSR-Signature"
LEGACY_HEADERS: Final = {
    DOMAIN_HEADER: "X-OpenGDPR-Processor-Domain",
    SIGNATURE_HEADER: "X-OpenGDPR-Signature",
}
IDENTITIES_MAX = 20
CALLBACKS_MAX = 10

IDENTIFIER_TYPES: Final[Mapping[str, str]] = {
    "email": "email",
    "controller_customer_id": "customer_id",
    **dict.fromkeys(
        (
            "android_advertising_id",
            "android_id",
            "fire_advertising_id",
            "ios_advertising_id",
            "ios_vendor_id",
            "microsoft_advertising_id",
            "microsoft_publisher_id",
            "roku_advertising_id",
            "roku_publisher_id",
        ),
        "device_id",
    ),
}
"""Their words for what a person is known by, and ours."""
FORMATS: Final = ("raw", "sha256")
"""md5 and sha1 are refused: they cannot be looked up here, and should not be used."""
_UUID4: Final = r"^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"


class Status(StrEnum):
    """Where a request stands, in the protocol's words."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"


def status_of(state: State) -> Status:
    """Return the protocol's word for a state of ours."""
    match state:
        case State.COMPLETED | State.NO_MATCH:
            return Status.COMPLETED
        case State.WITHDRAWN | State.REJECTED:
            return Status.CANCELLED
        case _:
            before = state in BEFORE_APPROVAL or state is State.RECEIVED
            return Status.PENDING if before else Status.IN_PROGRESS


# What comes in -----------------------------------------------------------------------------------


class Identity(BaseModel):
    """What a person is known by: a value, or the SHA-256 of its normalised form."""

    model_config = ConfigDict(hide_input_in_errors=True)

    identity_type: Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,64}$")]
    identity_value: Annotated[SecretStr, Field(min_length=1, max_length=512)]
    identity_format: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]{1,16}$")]


class ErasureAsked(BaseModel):
    """A request as a controller sends it; unknown members are ignored, as versions will add some."""

    model_config = ConfigDict(
        hide_input_in_errors=True,
        json_schema_extra={
            "examples": [
                {
                    "regulation": "gdpr",
                    "subject_request_id": "a7551968-d5d6-44b2-9831-815ac9017798",
                    "subject_request_type": "erasure",
                    "submitted_time": "2026-11-20T15:00:00Z",
                    "subject_identities": [
                        {
                            "identity_type": "email",
                            "identity_value": "ada@example.org",
                            "identity_format": "raw",
                        }
                    ],
                    "api_version": "2.0",
                    "status_callback_urls": ["https://controller.example/opendsr_callbacks"],
                }
            ]
        },
    )

    regulation: Literal["gdpr", "ccpa"] | None = None
    subject_request_id: Annotated[str, StringConstraints(pattern=_UUID4)]
    subject_request_type: Literal["access", "portability", "erasure"]
    submitted_time: AwareDatetime
    subject_identities: Annotated[list[Identity], Field(min_length=1, max_length=IDENTITIES_MAX)]
    status_callback_urls: Annotated[list[str], Field(max_length=CALLBACKS_MAX)] = []

    @property
    def id(self) -> UUID:
        """Return the controller's id of the request."""
        return UUID(self.subject_request_id)


def refusals(asked: ErasureAsked, *, regulation_required: bool) -> list[tuple[str, str]]:
    """Return what of a well-formed request we do not take, as (JSON pointer, code)."""
    found = []
    if asked.regulation is None and regulation_required:
        found.append(("/regulation", "missing"))
    if asked.subject_request_type != "erasure":
        found.append(("/subject_request_type", "unsupported"))
    for index, each in enumerate(asked.subject_identities):
        if each.identity_type not in IDENTIFIER_TYPES:
            found.append((f"/subject_identities/{index}/identity_type", "unsupported"))
        if each.identity_format not in FORMATS:
            found.append((f"/subject_identities/{index}/identity_format", "unsupported"))
    return found


def pointer(ours: str) -> str:
    """Return where in their body stands what our own error points to (`/subject/0/value`)."""
    found = re.fullmatch(r"/subject/([0-9]+)/value", ours)
    return ours if found is None else f"/subject_identities/{found[1]}/identity_value"


# What goes out -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What is said of a request: to whoever asks, and to every callback."""

    controller_id: str
    subject_request_id: UUID
    status: Status
    expected_at: datetime
    results_count: int | None = None
    outcome: str | None = None
    """Where the status alone would mislead: `rejected`, or `partial`."""
    reason: str | None = None
    """The ground of a refusal, as a paragraph of the regulation."""


def discovery(*, certificate: str) -> dict[str, Any]:
    """Return what this processor can do, and where its certificate is."""
    return {
        "api_version": API_VERSION,
        "supported_identities": [
            {"identity_type": type_, "identity_format": form}
            for type_ in sorted(IDENTIFIER_TYPES)
            for form in FORMATS
        ],
        "supported_subject_request_types": ["erasure"],
        "processor_certificate": certificate,
    }


def receipt(
    *,
    controller_id: str,
    subject_request_id: UUID,
    received_at: datetime,
    expected_at: datetime,
    encoded: str,
) -> dict[str, Any]:
    """Return the answer to a request: that it was received, and the request itself, unread by anybody."""
    return {
        "controller_id": controller_id,
        "expected_completion_time": instant(expected_at),
        "received_time": instant(received_at),
        "encoded_request": encoded,
        "subject_request_id": str(subject_request_id),
        "api_version": API_VERSION,
    }


def cancelled(*, controller_id: str, subject_request_id: UUID, received_at: datetime) -> dict[str, Any]:
    """Return the answer to a cancellation."""
    return {
        "controller_id": controller_id,
        "received_time": instant(received_at),
        "subject_request_id": str(subject_request_id),
        "api_version": API_VERSION,
    }


def status_body(standing: Standing, *, domain: str, callback_url: str | None = None) -> dict[str, Any]:
    """Return where a request stands; to a callback also the URL by which it was called."""
    body: dict[str, Any] = {
        "controller_id": standing.controller_id,
        "expected_completion_time": instant(standing.expected_at),
        "subject_request_id": str(standing.subject_request_id),
        "request_status": standing.status.value,
        "api_version": API_VERSION,
    }
    if callback_url is not None:
        body["status_callback_url"] = callback_url
    if standing.results_count is not None:
        body["results_count"] = standing.results_count
    if standing.outcome is not None:
        ours = {"outcome": standing.outcome}
        body["extensions"] = {domain: ours | ({"reason": standing.reason} if standing.reason else {})}
    return body


def error_body(status: int, message: str, errors: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """Return a refusal: places and codes, and nothing of what stood there."""
    return {
        "error": {
            "code": status,
            "message": message,
            "errors": [
                {"domain": "Validation", "reason": code, "message": f"{where}: {code}"}
                for where, code in errors
            ],
        }
    }


def instant(at: datetime) -> str:
    """Return an instant as RFC 3339 has it, in UTC and whole seconds."""
    return at.astimezone(UTC).replace(microsecond=0).isoformat().replace("+00:00", "Z")
