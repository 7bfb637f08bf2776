"""What can be done about serving: publish a version everywhere, make it the live one, repair a replica.

`begin` and `promote` live in the caller's transaction; `publish` and `announce` speak to replicas and
hold none. Nothing here knows weights: what a replica holds is what it attests under signature.
"""

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from cryptography.hazmat.primitives.serialization import load_pem_public_key

from app.audit import events
from app.audit import service as audit
from app.errors import Conflict, LeaseLost, NotFound, Unavailable
from app.registry import service as registry
from app.serving.attestation import AttestationRefused, expect, verify
from app.serving.backends import Publication, ServingBackend
from app.serving.repository import Serving
from app.signing.envelope import Envelope
from app.signing.keys import PublicKey, algorithm_of
from app.storage.database import Session, Transaction
from app.tables import Model, ModelVersion

NONCE_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirmation:
    """One replica's checked word that it holds a publication's weights, and nothing of the ones before."""

    address: str
    replica: str
    public_key: str
    envelope: Envelope
    manifest: str
    publish_epoch: int
    erasure_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What a promotion made of a candidate."""

    number: int
    erasure_epoch: int


def begin(
    session: Session,
    *,
    model_id: UUID,
    candidate_id: UUID,
    lease_epoch: int,
    erasure_epoch_step: int,
    backends: Sequence[ServingBackend],
) -> Publication:
    """Order a candidate to be served, under a publish epoch of its own; raises `LeaseLost`."""
    serving = Serving(session)
    publish_epoch = serving.next_publish_epoch(model_id, lease_epoch=lease_epoch)
    if publish_epoch is None:
        raise LeaseLost(f"lease {lease_epoch} on model {model_id} is void")
    registry.require_clean(session, candidate_id)
    model, version = _model(serving, model_id), _version(serving, candidate_id)
    _register(serving, model_id, backends)
    return _publication(
        model, version, publish_epoch=publish_epoch, erasure_epoch=model.erasure_epoch + erasure_epoch_step
    )


def publish(
    backends: Sequence[ServingBackend], publication: Publication, *, drain_seconds: float
) -> tuple[Confirmation, ...]:
    """Bring a version into service on every replica, one after the other; return what each attests.

    Whatever is refused or cannot be reached ends it: replicas that have swapped go on serving the
    new version, the others the old one, each answer wholly by one. Calling it again finishes it.
    """
    if not backends:
        raise Unavailable("there is no model server to publish to", code="no-model-server")
    return tuple(_publish(backend, publication, drain_seconds=drain_seconds) for backend in backends)


def promote(
    session: Session,
    *,
    model_id: UUID,
    candidate_id: UUID,
    parent_id: UUID | None,
    lease_epoch: int,
    publish_epoch: int,
    erasure_epoch_step: int,
    attestation: Sequence[Confirmation],
    at: datetime,
) -> Promotion:
    """Make the candidate the live version, if every replica has confirmed it and the lease still holds.

    One compare-and-set on the model's row, by the database's clock; its parent is quarantined in the
    same transaction. Raises `LeaseLost` or `Conflict`, and then nothing has changed.
    """
    serving = Serving(session)
    erasure_epoch = serving.swap_live(
        model_id,
        parent_id=parent_id,
        candidate_id=candidate_id,
        lease_epoch=lease_epoch,
        publish_epoch=publish_epoch,
        erasure_epoch_step=erasure_epoch_step,
    )
    if erasure_epoch is None:
        if not serving.holds_lease(model_id, lease_epoch=lease_epoch):
            raise LeaseLost(f"lease {lease_epoch} on model {model_id} is void")
        raise Conflict(
            f"model {model_id} has another live version or publish epoch", code="publication-overtaken"
        )
    registry.require_clean(session, candidate_id)
    number = serving.number_next(model_id)
    if not serving.make_live(candidate_id, model_id, number=number, erasure_epoch=erasure_epoch, at=at):
        raise Conflict(f"version {candidate_id} is not a candidate of model {model_id}", code="not-candidate")
    if parent_id is not None:
        serving.quarantine(parent_id)
    version = _version(serving, candidate_id)
    _confirm_all(serving, version, attestation, publish_epoch=publish_epoch, at=at)
    audit.record(
        session,
        events.VersionPublished(
            version=candidate_id,
            model=model_id,
            number=number,
            manifest=str(version.manifest),
            publish_epoch=publish_epoch,
            erasure_epoch=erasure_epoch,
            replicas=len(attestation),
            at=at,
        ),
    )
    return Promotion(number=number, erasure_epoch=erasure_epoch)


def announce(backends: Sequence[ServingBackend], publication: Publication) -> None:
    """Tell the replicas of a promotion, so that they refuse older weights; `converge` repeats it."""
    for backend in backends:
        with suppress(Unavailable, Conflict):
            backend.confirm(publication)


def converge(
    transaction: Transaction,
    backends: Sequence[ServingBackend],
    model_id: UUID,
    *,
    drain_seconds: float,
    at: datetime,
) -> bool:
    """Bring replicas that do not serve the live version back to it; return whether any had to be.

    A replica that was replaced, lost its disk, or was left on a candidate whose job has failed. It
    needs no lease: its publish epoch is fenced by the next one, and while a job publishes this model
    itself nothing is done; nor for a model that is frozen.
    """
    with transaction() as session:
        live = _live(Serving(session), model_id)
    if live is None:
        return False
    astray = [backend for backend in backends if not _serves(backend, live)]
    if not astray:
        return False
    with transaction() as session:
        serving = Serving(session)
        publish_epoch = serving.next_publish_epoch_between_jobs(model_id)
        live = _live(serving, model_id, publish_epoch=publish_epoch)
        if publish_epoch is None or live is None:
            return False
        _register(serving, model_id, backends)
    confirmations = publish(astray, live, drain_seconds=drain_seconds)
    with transaction() as session:
        serving = Serving(session)
        _note(serving, model_id, confirmations, at=at)
    announce(astray, live)
    return True


def _publish(backend: ServingBackend, publication: Publication, *, drain_seconds: float) -> Confirmation:
    nonce = secrets.token_hex(NONCE_BYTES)
    # What an interrupted publication left draining has to be free before another is loaded.
    backend.drain(publication, deadline_seconds=drain_seconds)
    backend.load(publication)
    backend.swap(publication)
    backend.drain(publication, deadline_seconds=drain_seconds)
    current = backend.current()
    envelope = backend.attest(publication, nonce=nonce)
    expect(
        verify(envelope, _key(current.public_key)),
        nonce=nonce,
        model=publication.model,
        manifest=publication.manifest,
        tensor_root=publication.tensor_root,
        form=publication.form,
        publish_epoch=publication.publish_epoch,
        erasure_epoch=publication.erasure_epoch,
    )
    return Confirmation(
        address=backend.address,
        replica=current.replica,
        public_key=current.public_key,
        envelope=envelope,
        manifest=publication.manifest,
        publish_epoch=publication.publish_epoch,
        erasure_epoch=publication.erasure_epoch,
    )


def _key(pem: str) -> PublicKey:
    try:
        key = load_pem_public_key(pem.encode())
        algorithm_of(key)
    except ValueError as reason:
        raise AttestationRefused("the replica's public key is not a key of a kind we know") from reason
    return PublicKey.of(key)  # type: ignore[arg-type]  # algorithm_of has refused every other kind


def _confirm_all(
    serving: Serving,
    version: ModelVersion,
    confirmations: Sequence[Confirmation],
    *,
    publish_epoch: int,
    at: datetime,
) -> None:
    """Refuse unless every replica of the model has confirmed exactly this publication."""
    said = (version.manifest, publish_epoch, version.erasure_epoch)
    for each in confirmations:
        if (each.manifest, each.publish_epoch, each.erasure_epoch) != said:
            raise Conflict(f"the replica at {each.address} confirmed something else", code="unconfirmed")
    missing = _note(serving, version.model_id, confirmations, at=at)
    if missing or not confirmations:
        raise Conflict(
            f"not every replica has confirmed: {', '.join(missing) or 'there is none'}", code="unconfirmed"
        )


def _note(
    serving: Serving, model_id: UUID, confirmations: Sequence[Confirmation], *, at: datetime
) -> list[str]:
    """Keep what replicas attested; return the addresses of those that did not."""
    by_address = {each.address: each for each in confirmations}
    missing = []
    for row in serving.replicas(model_id):
        confirmation = by_address.get(row.address)
        if confirmation is None:
            missing.append(row.address)
        elif row.publish_epoch <= confirmation.publish_epoch:
            row.manifest, row.publish_epoch = confirmation.manifest, confirmation.publish_epoch
            row.attestation = {"envelope": confirmation.envelope, "publicKey": confirmation.public_key}
            row.confirmed_at = at
    return missing


def _register(serving: Serving, model_id: UUID, backends: Sequence[ServingBackend]) -> None:
    """Know exactly the replicas that are configured: one that moved must not be waited for for ever."""
    serving.forget_replicas(model_id, besides=[backend.address for backend in backends])
    for backend in backends:
        serving.add_replica(model_id, backend.address)


def _serves(backend: ServingBackend, live: Publication) -> bool:
    current = backend.current()
    served = current.served.get(live.model)
    if served is None or (served.manifest, served.form) != (live.manifest, live.form):
        return False
    if current.floors.get(live.model, 0) < live.erasure_epoch:
        announce([backend], live)
    return True


def _live(serving: Serving, model_id: UUID, *, publish_epoch: int | None = None) -> Publication | None:
    """Return the order to serve what is live, under the given or the latest publish epoch.

    None for what is frozen, and for weights below the line's erasure epoch: a restored database names
    such a version as live, and the one that is served is another.
    """
    model = _model(serving, model_id)
    if model.live_version_id is None or model.breaker == "frozen":
        return None
    version = _version(serving, model.live_version_id)
    if version.erasure_epoch < model.erasure_epoch:
        return None
    return _publication(
        model,
        version,
        publish_epoch=model.publish_epoch if publish_epoch is None else publish_epoch,
        erasure_epoch=version.erasure_epoch,
    )


def _publication(
    model: Model, version: ModelVersion, *, publish_epoch: int, erasure_epoch: int
) -> Publication:
    if version.manifest is None or version.tensor_root is None:
        raise Conflict(f"version {version.id} has no weights yet", code="version-unready")
    return Publication(
        model_id=model.id,
        model=model.name,
        version_id=version.id,
        manifest=version.manifest,
        tensor_root=version.tensor_root,
        form=model.forms[0],
        publish_epoch=publish_epoch,
        erasure_epoch=erasure_epoch,
        erasure_floor=model.erasure_epoch,
    )


def _model(serving: Serving, model_id: UUID) -> Model:
    model = serving.model(model_id)
    if model is None:
        raise NotFound(f"there is no model {model_id}")
    return model


def _version(serving: Serving, version_id: UUID) -> ModelVersion:
    version = serving.version(version_id)
    if version is None:
        raise NotFound(f"there is no version {version_id}")
    return version
