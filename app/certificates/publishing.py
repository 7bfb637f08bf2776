"""What can be done about publications: state one with the change, sign it, show what a version honours.

    record     in the transaction that makes a version live: the payload, and its place in the log's queue
    sign       no transaction while it signs, and only where the keys lie: who comes first has signed
    shown      what of it goes into a bundle: the newest version of the line that is signed and logged

The log takes the digest of the payload, so nothing waits for a key while a version goes live.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from app.certificates import check, publication, weights
from app.certificates.publication import Kept, PublicationFacts, Reaudit
from app.certificates.repository import Certificates, Publications
from app.registry import service as registry
from app.signing import canonical, envelope, keys
from app.storage.database import Session, Transaction
from app.storage.objects import ObjectStore
from app.tables import Certificate, ModelVersion, Publication
from app.transparency import entries, tree
from app.transparency import service as log


def record(
    session: Session,
    version_id: UUID,
    *,
    attestations: Sequence[Mapping[str, Any]],
    reaudit: Reaudit | None = None,
    at: datetime,
) -> None:
    """State that a version went live, in the transaction that made it so."""
    version = registry.version(session, version_id)
    assert version.number is not None, "the version is published by now"
    model = registry.model(session, version.model_id)
    honoured = Certificates(session).honoured(model.id)
    payload = publication.build(
        PublicationFacts(
            line=model.name,
            manifest=str(version.manifest),
            erasure_epoch=version.erasure_epoch,
            honoured=honoured,
            published_at=at,
            forms=model.forms,
            attestations=attestations,
            previous=_kept(registry.versions(session, model.id)),
            reaudit=reaudit,
        )
    )
    identity = envelope.pae_sha256(payload)
    Publications(session).add(
        Publication(
            version_id=version_id,
            model_id=model.id,
            number=version.number,
            payload=payload,
            pae_sha256=identity,
            size=len(honoured),
        )
    )
    log.append(session, publication.KIND, pae_sha256=identity, subject=str(version.manifest))


def sign(transaction: Transaction, *, directory: Path, objects: ObjectStore) -> int:
    """Sign what waits: the statement with both keys, the version's files for `model_signing`.

    Raises:
        KeyUnusable: the keys are not here; a worker that has them will do it.
    """
    with transaction() as session:
        waiting = [
            (each.version_id, each.payload, line, str(registry.version(session, each.version_id).manifest))
            for each, line in Publications(session).unsigned()
        ]
    if not waiting:
        return 0
    signers = keys.open_signers(directory)
    [p256] = [each for each in signers if each.algorithm == envelope.P256]
    for version_id, payload, line, manifest in waiting:
        signed = envelope.encode(envelope.sign(payload, signers))
        files = weights.sign(line, objects.get_manifest(manifest), p256)
        with transaction() as session:
            Publications(session).sign(version_id, envelope=signed, model_signature=files)
    return len(waiting)


def is_shown(session: Session, version_id: UUID, *, logged: bool) -> bool:
    """Return whether the statement about a version is signed and, where a log is kept, published there."""
    found = Publications(session).get(version_id)
    return found is not None and found.envelope is not None and _stands(session, found, logged=logged)


def shown(session: Session, certificate: Certificate, *, logged: bool) -> dict[str, bytes]:
    """Return the members of a bundle that show what honours a certificate; none before it is published."""
    own = Publications(session).get(certificate.version_id)
    for each in Publications(session).newest(certificate.model_id, limit=NEWEST_MAX):
        if each.size > certificate.place and _stands(session, each, logged=logged):
            members = {
                check.PUBLICATION: bytes(each.envelope or b""),
                check.CONTINUITY: canonical.encode(_continuity(session, certificate, each)),
            }
            if logged:
                members[check.PUBLICATION_PROOF] = log.proof(session, _leaf(each))
            if own is not None and own.model_signature is not None:
                members[check.MODEL_SIGNATURE] = own.model_signature
            return members
    return {}


NEWEST_MAX = 8
"""How many publications are looked at: the last may be waiting for the log, hardly more."""


def _continuity(session: Session, certificate: Certificate, shown: Publication) -> dict[str, Any]:
    honoured = Certificates(session).honoured(certificate.model_id, up_to=shown.size)
    said = json.loads(envelope.payload_of(envelope.decode(certificate.envelope)))["predicate"]["model"]
    size = None if said["cumulative"] is None else said["cumulative"]["size"]
    return publication.continuity(certificate.id, size=size, honoured=honoured)


def _stands(session: Session, found: Publication, *, logged: bool) -> bool:
    return not logged or log.is_published(session, _leaf(found))


def _leaf(found: Publication) -> bytes:
    manifest = json.loads(found.payload)["subject"][0]["digest"]["sha256"]
    return tree.leaf_hash(entries.build(publication.KIND, pae_sha256=found.pae_sha256, subject=manifest))


def _kept(versions: Sequence[ModelVersion]) -> list[Kept]:
    """Return the versions of before whose weights are still there; an exact one is what jobs start from."""
    return [
        Kept(manifest=str(each.manifest), role="anchor" if each.exact else "served", destroy_by=None)
        for each in versions
        if each.state == "quarantined"
    ]
