"""Webhook endpoints, deliveries and attempts on the wire; a secret is in two answers only."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from app.http.ids import DeliveryId, EndpointId, MessageId, PrincipalId
from app.webhooks import kinds
from app.webhooks.service import Shown, Told

STRICT = ConfigDict(extra="forbid", hide_input_in_errors=True)
DeliveryState = Literal["pending", "delivered", "failed", "stopped"]

Url = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
Kinds = Annotated[
    list[Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}\.([a-z_]{1,40}|\*)$")]],
    Field(
        min_length=1, max_length=100, description=f"`request.*`, or one of: {', '.join(sorted(kinds.KINDS))}"
    ),
]
Sequence = Annotated[int, Field(ge=1, le=2**62)]


class EndpointCreate(BaseModel):
    """Where to tell, and what."""

    model_config = ConfigDict(
        **STRICT,
        json_schema_extra={
            "examples": [
                {"url": "https://hooks.example/lethe", "events": ["request.*", "certificate.released"]}
            ]
        },
    )

    url: Url
    events: Kinds


class EndpointChange(BaseModel):
    """What is to be another: where, what, or whether at all."""

    model_config = STRICT

    url: Url | None = None
    events: Kinds | None = None
    state: Literal["active", "disabled"] | None = None


class ReplayIn(BaseModel):
    """From which place of the audit sequence to which; the last one is the newest unless you say."""

    model_config = STRICT

    from_sequence: Sequence
    to_sequence: Sequence = 2**62

    @model_validator(mode="after")
    def in_order(self) -> Self:
        """Take a range."""
        if self.to_sequence < self.from_sequence:
            raise PydanticCustomError("range_in_order", "a range ends where it begins, or later")
        return self


class Endpoint(BaseModel):
    """An endpoint as it is listed."""

    id: EndpointId
    url: str
    events: list[str]
    state: Literal["active", "disabled"]
    reason: str | None
    """Why it is disabled: `asked`, `gone` (it answered 410), `failing` (for five days)."""
    failing_since: datetime | None
    waiting: int
    """Deliveries that are not done."""
    public_keys: list[str]
    """What `v1a` signatures are checked with; several while keys are changed."""
    created_by: PrincipalId
    created_at: datetime


class EndpointWithSecret(Endpoint):
    """The only answers that show what `v1` signatures are checked with."""

    secret: str = Field(repr=False)


class Delivery(BaseModel):
    """One message to one endpoint."""

    id: DeliveryId
    message: MessageId
    """The `webhook-id` of each attempt."""
    event: str
    sequence: int | None
    state: DeliveryState
    attempts: int
    status: int | None
    error: str | None
    next_at: datetime | None
    created_at: datetime
    ended_at: datetime | None


class Attempt(BaseModel):
    """One call."""

    number: int
    at: datetime
    status: int | None
    error: str | None
    milliseconds: int


class DeliveryInFull(Delivery):
    """A delivery with the exact body and every attempt."""

    body: str
    tried: list[Attempt]


class ReplayOut(BaseModel):
    """How many messages are delivered once more."""

    messages: int


def endpoint(shown: Shown) -> Endpoint:
    """Return an endpoint without its secret."""
    row = shown.endpoint
    assert row.state != "removed", "what was removed is not shown"
    return Endpoint(
        id=row.id,
        url=row.url,
        events=row.kinds,
        state="active" if row.state == "active" else "disabled",
        reason=row.reason,
        failing_since=row.failing_since,
        waiting=shown.waiting,
        public_keys=list(shown.public_keys),
        created_by=row.created_by,
        created_at=row.created_at,
    )


def with_secret(shown: Shown) -> EndpointWithSecret:
    """Return an endpoint with the secret that has just been made."""
    assert shown.secret is not None, "a secret is shown when it is made"
    plain = endpoint(shown).model_dump(mode="python")
    return EndpointWithSecret(**(plain | _ids(shown)), secret=shown.secret)


def delivery(told: Told) -> Delivery:
    """Return a delivery."""
    row = told.delivery
    return Delivery(
        id=row.id,
        message=row.message_id,
        event=told.message.kind,
        sequence=told.message.seq,
        state=_state(row.state),
        attempts=row.tries,
        status=row.status,
        error=row.error,
        next_at=row.next_at if row.state == "pending" else None,
        created_at=row.created_at,
        ended_at=row.ended_at,
    )


def in_full(told: Told) -> DeliveryInFull:
    """Return a delivery with its attempts."""
    row = told.delivery
    return DeliveryInFull(
        **(delivery(told).model_dump(mode="python") | {"id": row.id, "message": row.message_id}),
        body=bytes(told.message.body).decode(),
        tried=[
            Attempt(
                number=each.number,
                at=each.at,
                status=each.status,
                error=each.error,
                milliseconds=each.milliseconds,
            )
            for each in told.attempts
        ],
    )


def _ids(shown: Shown) -> dict[str, object]:
    return {"id": shown.endpoint.id, "created_by": shown.endpoint.created_by}


def _state(state: str) -> DeliveryState:
    match state:
        case "pending" | "delivered" | "failed" | "stopped":
            return state
        case _:
            raise AssertionError("a CHECK keeps the states")
