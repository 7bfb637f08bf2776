"""Whoever wants to be told, of app.webhooks."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from app.audit.events.base import Event


@dataclass(frozen=True)
class EndpointCreated(Event):
    """A URL is to be told of these kinds of events."""

    KIND: ClassVar[str] = "endpoint.created"

    endpoint: UUID
    principal: UUID
    kinds: tuple[str, ...]
    at: datetime


@dataclass(frozen=True)
class EndpointChanged(Event):
    """What an endpoint is told of, or where, is another; `what` names the fields."""

    KIND: ClassVar[str] = "endpoint.changed"

    endpoint: UUID
    principal: UUID
    what: tuple[str, ...]
    at: datetime


@dataclass(frozen=True)
class EndpointDisabled(Event):
    """An endpoint is told nothing more: somebody asked, or it answered 410, or failed for days."""

    KIND: ClassVar[str] = "endpoint.disabled"

    endpoint: UUID
    principal: UUID | None
    reason: str
    stopped: int
    """How many deliveries were under way."""
    at: datetime


@dataclass(frozen=True)
class EndpointEnabled(Event):
    """An endpoint is told again."""

    KIND: ClassVar[str] = "endpoint.enabled"

    endpoint: UUID
    principal: UUID
    at: datetime


@dataclass(frozen=True)
class SecretRotated(Event):
    """An endpoint's messages are signed by new keys, for a day by the old ones too."""

    KIND: ClassVar[str] = "endpoint.secret_rotated"

    endpoint: UUID
    principal: UUID
    at: datetime


@dataclass(frozen=True)
class DeliveryFailed(Event):
    """A message was given up; `status` is what the endpoint answered last."""

    KIND: ClassVar[str] = "endpoint.delivery_failed"

    endpoint: UUID
    message_id: str
    attempts: int
    status: int | None
    at: datetime


@dataclass(frozen=True)
class DeliveriesReplayed(Event):
    """Messages are delivered once more."""

    KIND: ClassVar[str] = "endpoint.replayed"

    endpoint: UUID
    principal: UUID
    messages: int
    at: datetime
