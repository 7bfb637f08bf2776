"""Certificates over HTTP: read, fetch the bundle, take the opening once, check one, the public keys."""

from typing import Any
from uuid import UUID

from fastapi import Response

from app.auth.dependencies import AuditRead, CertificatesRead, CertificatesTake
from app.certificates import bundle, service
from app.certificates.schemas import Certificate, CheckReport
from app.errors import Conflict, Forbidden, NotFound, Unavailable
from app.http.dependencies import NowDep, RawBodyDep, SessionDep, SettingsDep
from app.http.problems import responses
from app.http.routing import router as new_router

router = new_router("/v1/certificates", tag="Certificates")
well_known = new_router("/.well-known", tag="Certificates")

ZIP = "application/zip"


@router.get("/{certificate_id}", responses=responses(Conflict, Forbidden, NotFound))
def read_certificate(certificate_id: UUID, session: SessionDep, _caller: CertificatesRead) -> Certificate:
    """Show a certificate that was released."""
    return Certificate.model_validate(service.read(session, certificate_id), from_attributes=True)


@router.get("/{certificate_id}/evidence", responses=responses(Conflict, Forbidden, NotFound))
def read_evidence(certificate_id: UUID, session: SessionDep, _caller: AuditRead) -> dict[str, Any]:
    """Show the verification report: its numbers confirm membership, so it is for auditors."""
    return service.evidence(session, certificate_id)


@router.get(
    "/{certificate_id}/bundle",
    response_class=Response,
    responses=responses(Conflict, Forbidden, NotFound, Unavailable),
)
def fetch_bundle(
    certificate_id: UUID, session: SessionDep, _caller: CertificatesRead, settings: SettingsDep
) -> Response:
    """Fetch the bundle, without the opening."""
    data = service.handed_out(session, certificate_id, directory=settings.keys, issuer=settings.issuer)
    return _zip(data, certificate_id)


@router.post(
    "/{certificate_id}/opening",
    response_class=Response,
    responses=responses(Conflict, Forbidden, NotFound, Unavailable),
)
def take_opening(
    certificate_id: UUID, session: SessionDep, caller: CertificatesTake, settings: SettingsDep, now: NowDep
) -> Response:
    """Take the requester's bundle with the opening, once; its nonces are destroyed here."""
    data = service.opened(
        session,
        certificate_id,
        caller=caller.principal_id,
        directory=settings.keys,
        issuer=settings.issuer,
        at=now,
    )
    return _zip(data, certificate_id)


@router.post("/verify", responses=responses(Forbidden, Unavailable))
def verify_bundle(
    body: RawBodyDep, _caller: CertificatesRead, settings: SettingsDep, now: NowDep
) -> CheckReport:
    """Run the offline checker on a bundle (the body is the zip), trusting this issuer's keys."""
    report = service.verify(body, directory=settings.keys, issuer=settings.issuer, at=now)
    return CheckReport.model_validate(vars(report))


@well_known.get("/jwks.json", responses=responses(Unavailable))
def read_jwks(settings: SettingsDep) -> dict[str, Any]:
    """Show the public keys that sign certificates (RFC 7517)."""
    return service.jwks(directory=settings.keys)


@well_known.get("/lethe-trust.json", responses=responses(Unavailable))
def read_trust(settings: SettingsDep) -> dict[str, Any]:
    """Show the trust file for the checker; compare its key ids with what you got elsewhere."""
    return service.trust(directory=settings.keys, issuer=settings.issuer)


def _zip(data: bytes, certificate_id: UUID) -> Response:
    headers = {
        "Content-Disposition": f'attachment; filename="{bundle.name(certificate_id)}"',
        "Cache-Control": "no-store",
    }
    return Response(data, media_type=ZIP, headers=headers)
