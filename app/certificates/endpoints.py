"""Certificates over HTTP: read, fetch the bundle, take the opening once, check one, the public keys."""

from typing import Any
from uuid import UUID

from fastapi import Response

from app.auth.dependencies import AuditRead, CertificatesRead, CertificatesTake, RequestsReview
from app.certificates import bundle, revoking, service
from app.certificates.schemas import Certificate, CheckReport, Revocation
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


@router.get("/{certificate_id}/continuity", responses=responses(Conflict, Forbidden, NotFound))
def read_continuity(
    certificate_id: UUID, session: SessionDep, _caller: CertificatesRead, settings: SettingsDep
) -> dict[str, Any]:
    """Show that the newest version of the line honours the certificate, and dropped nothing since."""
    return service.continuity(session, certificate_id, directory=settings.keys)


@router.post(
    "/{certificate_id}/revocation", status_code=204, responses=responses(Conflict, Forbidden, NotFound)
)
def revoke_certificate(
    certificate_id: UUID, body: Revocation, session: SessionDep, _caller: RequestsReview, now: NowDep
) -> None:
    """Say that a certificate does not stand; the public list of these says so within a minute."""
    revoking.revoke(session, certificate_id, reason=body.reason, at=now)


@router.post("/verify", responses=responses(Forbidden, Unavailable))
def verify_bundle(
    body: RawBodyDep, session: SessionDep, _caller: CertificatesRead, settings: SettingsDep, now: NowDep
) -> CheckReport:
    """Run the offline checker on a bundle (the body is the zip), trusting this issuer's keys."""
    report = service.verify(
        session,
        body,
        directory=settings.keys,
        issuer=settings.issuer,
        tsa_roots=settings.tsa_roots,
        at=now,
    )
    return CheckReport.model_validate(vars(report))


@well_known.get("/jwks.json", responses=responses(Unavailable))
def read_jwks(settings: SettingsDep) -> dict[str, Any]:
    """Show the public keys that sign certificates (RFC 7517)."""
    return service.jwks(directory=settings.keys)


@well_known.get("/lethe-trust.json", responses=responses(Unavailable))
def read_trust(settings: SettingsDep) -> dict[str, Any]:
    """Show the trust file for the checker; compare its key ids with what you got elsewhere."""
    return service.trust(directory=settings.keys, issuer=settings.issuer, tsa_roots=settings.tsa_roots)


@well_known.get("/lethe-status.json", response_class=Response, responses=responses(NotFound))
def read_status(session: SessionDep) -> Response:
    """Show which certificates do not stand, signed: what a checker takes as `--status`."""
    headers = {"Cache-Control": "public, max-age=300", "Access-Control-Allow-Origin": "*"}
    return Response(service.stated_status(session), media_type="application/json", headers=headers)


@well_known.get("/lethe-keys.json")
def read_stated_keys(settings: SettingsDep) -> dict[str, Any]:
    """Show every statement about a key, signed by the keys before it: from an old trust file to a new one."""
    return {"statements": service.stated_keys(directory=settings.keys)}


def _zip(data: bytes, certificate_id: UUID) -> Response:
    headers = {
        "Content-Disposition": f'attachment; filename="{bundle.name(certificate_id)}"',
        "Cache-Control": "no-store",
    }
    return Response(data, media_type=ZIP, headers=headers)
