"""Models, their versions and what came of their making, of app.registry and app.serving."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from app.audit.events.base import Event


@dataclass(frozen=True)
class ModelRegistered(Event):
    """There is a new model line."""

    KIND: ClassVar[str] = "model.registered"

    model: UUID
    dataset: UUID
    principal: UUID
    at: datetime


@dataclass(frozen=True)
class VersionRegistered(Event):
    """A version's weights are in the store; `manifest` and `tensor_root` name them."""

    KIND: ClassVar[str] = "version.registered"

    version: UUID
    model: UUID
    engine: str
    manifest: str
    tensor_root: str
    at: datetime


@dataclass(frozen=True)
class VersionFailed(Event):
    """A version could not be made or may not be used."""

    KIND: ClassVar[str] = "version.failed"

    version: UUID
    model: UUID
    code: str
    at: datetime


@dataclass(frozen=True)
class VersionPublished(Event):
    """A version is what users get: every replica attested it, and it became the live one."""

    KIND: ClassVar[str] = "version.published"

    version: UUID
    model: UUID
    number: int
    manifest: str
    publish_epoch: int
    erasure_epoch: int
    replicas: int
    at: datetime


@dataclass(frozen=True)
class VersionCondemned(Event):
    """A version is to be destroyed; nothing may read it any more."""

    KIND: ClassVar[str] = "version.condemned"

    version: UUID
    model: UUID
    at: datetime


@dataclass(frozen=True)
class VersionDestroyed(Event):
    """A version's weights are gone from the store, as far as no other version holds the same bytes."""

    KIND: ClassVar[str] = "version.destroyed"

    version: UUID
    model: UUID
    manifest: str
    at: datetime


@dataclass(frozen=True)
class ReferenceAdded(Event):
    """A reference model was trained on one shard; `saw` is the root over the records it saw."""

    KIND: ClassVar[str] = "reference.added"

    model: UUID
    shard: int
    manifest: str
    saw: str
    at: datetime


@dataclass(frozen=True)
class ReferenceCondemned(Event):
    """A reference model saw an erased record and is to be destroyed."""

    KIND: ClassVar[str] = "reference.condemned"

    model: UUID
    shard: int
    manifest: str
    at: datetime


@dataclass(frozen=True)
class ReferenceDestroyed(Event):
    """A reference model's weights are gone from the store."""

    KIND: ClassVar[str] = "reference.destroyed"

    model: UUID
    shard: int
    manifest: str
    at: datetime


@dataclass(frozen=True)
class HistoryCondemned(Event):
    """The record of a training that met somebody who is erased is to be destroyed."""

    KIND: ClassVar[str] = "history.condemned"

    version: UUID
    model: UUID
    manifest: str
    at: datetime


@dataclass(frozen=True)
class HistoryDestroyed(Event):
    """The record of that training is no more in the store."""

    KIND: ClassVar[str] = "history.destroyed"

    version: UUID
    model: UUID
    manifest: str
    at: datetime
