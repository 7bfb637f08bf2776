"""What is proven to whom, of app.certificates."""

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID

from app.audit.events.base import Event


@dataclass(frozen=True)
class CertificateIssued(Event):
    """A statement was signed; nobody receives it before the version is served."""

    KIND: ClassVar[str] = "certificate.issued"

    certificate: UUID
    request: UUID
    level: str
    pae_sha256: str
    at: datetime


@dataclass(frozen=True)
class CertificateReleased(Event):
    """The version is served; the certificate can be fetched."""

    KIND: ClassVar[str] = "certificate.released"

    certificate: UUID
    at: datetime


@dataclass(frozen=True)
class CertificateSuperseded(Event):
    """A newer certificate of the same request and model, named by its identity, takes its place."""

    KIND: ClassVar[str] = "certificate.superseded"

    certificate: UUID
    by_pae_sha256: str
    at: datetime


@dataclass(frozen=True)
class CertificateWithdrawn(Event):
    """What a certificate says was found not to stand; from now on its state says so."""

    KIND: ClassVar[str] = "certificate.withdrawn"

    certificate: UUID
    reason: str
    at: datetime


@dataclass(frozen=True)
class OpeningDelivered(Event):
    """The requester received the nonces, once; they are destroyed here."""

    KIND: ClassVar[str] = "certificate.opening_delivered"

    certificate: UUID
    principal: UUID
    at: datetime
