"""What can be done to certificates: gather what is to be said, sign it, issue, release, hand out.

    gather    in a transaction: the facts, from rows that the verdict and the version left
    draft     no transaction: commitments with fresh nonces, the statement, the salted evidence
    sign      no transaction, and the only step that sees private keys
    issue     in a transaction: the rows, still unreleased, and what the public log is to hold of them
    release   once the version is served and the log's checkpoint over them is published

Drafts that were never issued leave nothing behind: a stage that is killed draws new nonces.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

from app import retention
from app.audit import events
from app.audit import service as audit
from app.certificates import bundle, check, commitments, publishing, revoking, statement, status, weights
from app.certificates.check import Report
from app.certificates.commitments import RecordContent
from app.certificates.repository import Certificates
from app.certificates.statement import Evidence, StatementFacts
from app.erasure import service as erasure
from app.errors import Conflict, Forbidden, NotFound, Unavailable
from app.http import ids
from app.jobs.views import JobView
from app.registry import manifest as manifests
from app.registry import service as registry
from app.signing import canonical, envelope, keys, rotation
from app.storage.database import Session
from app.storage.objects import ObjectStore
from app.tables import Certificate
from app.transparency import entries, tree
from app.transparency import keys as log_keys
from app.transparency import service as log
from app.verification import audits, wording
from app.verification import service as verification

OPENING_KEPT = retention.POLICY.openings
LOGGED: Final = "erasure-certificate/v1"
SUITE = "lethe-verify/1"
REPORT = "verification-report"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a certificate is going to say of one request, detached from any session."""

    request_id: UUID
    received_on: date
    issuer: str
    at: datetime
    line: str
    manifest: str
    tensor_root: str
    previous: str
    base: str | None
    erasure_epoch: int
    forms: tuple[str, ...]
    engine: str
    guarantee: str
    attempts: int
    method: Mapping[str, Any]
    """The engine's own statement (code, configuration, environment), and what it was `given`."""
    verdict: str
    level: str
    policy: str
    decision: Mapping[str, Any]
    measurements: Mapping[str, str]
    """Form to SHA-256 of the stored numbers."""
    supersedes: tuple[UUID, str] | None
    """The certificate that the request holds for this model until now, and its identity."""
    certificate_id: UUID
    """A version 4, drawn here: the list below names all of the batch."""
    honoured: tuple[UUID, ...]
    """What the version is going to honour: all that the served one does, then this batch (C29)."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A statement before it is signed, with what belongs beside it."""

    certificate_id: UUID
    facts: Facts
    payload: bytes
    evidence: bytes
    manifest: bytes
    request: commitments.RequestCommitment
    records: commitments.RecordsCommitment


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A draft with its signatures."""

    draft: Draft
    envelope: bytes
    pae_sha256: str


@dataclass(frozen=True, kw_only=True)
class Released:
    """What a request ends with."""

    id: UUID
    level: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A certificate as it is listed: nothing that confirms membership."""

    id: UUID
    request: UUID
    model: UUID
    version: UUID
    level: str
    state: str
    pae_sha256: str
    issued_at: datetime
    released_at: datetime | None
    supersedes: UUID | None
    superseded_by: UUID | None
    audit: str | None
    """What a deep audit of it came to; `due` or `void` where there was none yet or can be none."""


# What a job does ---------------------------------------------------------------------------------


def gather(session: Session, view: JobView, *, issuer: str, at: datetime) -> list[Facts]:
    """Return the facts for every request of a job's attempt, in a fixed order."""
    assert view.candidate_id is not None, "nothing is certified before there is a candidate"
    candidate = registry.version(session, view.candidate_id)
    parent = registry.version(session, view.parent_id)
    model = registry.model(session, view.model_id)
    verdicts = verification.of_attempt(session, view.id, view.attempt)
    measured = verification.measured(session, view.id, view.attempt)
    drawn = {request_id: uuid4() for request_id in view.requests}
    honoured = (*Certificates(session).honoured(view.model_id), *drawn.values())
    return [
        Facts(
            request_id=request_id,
            received_on=erasure.read(session, request_id).request.received_on,
            issuer=issuer,
            at=at,
            line=model.name,
            manifest=str(candidate.manifest),
            tensor_root=str(candidate.tensor_root),
            previous=str(parent.manifest),
            base=model.base_manifest,
            erasure_epoch=model.erasure_epoch + 1,
            forms=view.forms,
            engine=candidate.engine,
            guarantee=verdicts[request_id].decision["guarantee"],  # type: ignore[arg-type]  # JSON of our own
            attempts=verification.attempts(session, request_id, view.model_id),
            method={
                **candidate.statement["statement"],  # type: ignore[dict-item]  # JSON of our own
                "given": candidate.statement["given"],
            },
            verdict=verdicts[request_id].verdict,
            level=verdicts[request_id].level,
            policy=verdicts[request_id].policy_digest,
            decision=verdicts[request_id].decision,
            measurements={form: hashlib.sha256(body).hexdigest() for form, body in measured.items()},
            supersedes=_held(session, request_id, view.model_id),
            certificate_id=drawn[request_id],
            honoured=honoured,
        )
        for request_id in view.requests
    ]


def draft(facts: Facts, *, canonical_sha256: Sequence[str], objects: ObjectStore) -> Draft:
    """Return the statement about one request; ValueError if it would claim more than it may."""
    public_id = ids.encode("er", facts.request_id)
    request = commitments.commit_request(public_id)
    records = commitments.build([RecordContent(each) for each in canonical_sha256])
    manifest = objects.get_manifest(facts.manifest)
    pretrained = facts.base is not None and _has_weights(objects.get_manifest(facts.base))
    evidence = _evidence(facts)
    said = statement.build(
        StatementFacts(
            certificate_id=facts.certificate_id,
            issued_at=facts.at,
            issuer=facts.issuer,
            request=request,
            received_on=facts.received_on,
            records=records,
            manifest=manifest,
            line=facts.line,
            previous=facts.previous,
            tensor_root=facts.tensor_root,
            erasure_epoch=facts.erasure_epoch,
            forms=dict.fromkeys(facts.forms, facts.manifest),
            engine=facts.engine,
            method_class=facts.guarantee,
            attempts=facts.attempts,
            code=str(facts.method["code"]),
            config=canonical.digest({name: facts.method[name] for name in ("config", "given")}),
            environment=canonical.digest(facts.method["environment"]),
            verdict=facts.verdict,
            policy=facts.policy,
            suite=SUITE,
            bounds=facts.decision["bounds"],
            level=facts.level,
            limitations=_limitations(facts, pretrained=pretrained),
            evidence=[Evidence(name=REPORT, sha256=hashlib.sha256(evidence).hexdigest())],
            cumulative=facts.honoured,
            oms_root=weights.root(manifest),
            previous_is_quarantined=True,
            status_list=status.url(facts.issuer),
            supersedes=None if facts.supersedes is None else facts.supersedes[1],
        )
    )
    return Draft(
        certificate_id=facts.certificate_id,
        facts=facts,
        payload=canonical.encode(said),
        evidence=evidence,
        manifest=manifest,
        request=request,
        records=records,
    )


def sign(drafts: Sequence[Draft], directory: Path) -> list[Signed]:
    """Sign every draft with both keys of the directory.

    Raises:
        Unavailable: the keys are not here; another worker may have them, and nothing is lost by waiting.
    """
    try:
        signers = keys.open_signers(directory)
    except keys.KeyUnusable as reason:
        raise Unavailable("the issuer's private keys cannot be read here", code="keys-unusable") from reason
    return [
        Signed(
            draft=each,
            envelope=envelope.encode(envelope.sign(each.payload, signers)),
            pae_sha256=envelope.pae_sha256(each.payload),
        )
        for each in drafts
    ]


def issue(session: Session, view: JobView, signed: Sequence[Signed], *, at: datetime) -> None:
    """Store the certificates of an attempt; nobody receives one before its version is served."""
    stored = Certificates(session)
    assert not stored.of_attempt(view.id, view.attempt), "an attempt is certified once"
    for each in signed:
        made, facts = each.draft, each.draft.facts
        log.append(session, LOGGED, pae_sha256=each.pae_sha256, subject=facts.manifest)
        stored.add(
            Certificate(
                id=made.certificate_id,
                request_id=facts.request_id,
                model_id=view.model_id,
                job_id=view.id,
                attempt=view.attempt,
                version_id=view.candidate_id,
                level=facts.level,
                pae_sha256=each.pae_sha256,
                envelope=each.envelope,
                evidence=made.evidence,
                manifest=made.manifest,
                opening=commitments.opening(
                    statement.urn(made.certificate_id), each.pae_sha256, made.request, made.records
                ),
                supersedes_id=None if facts.supersedes is None else facts.supersedes[0],
                place=facts.honoured.index(made.certificate_id),
            )
        )
        audit.record(
            session,
            events.CertificateIssued(
                certificate=made.certificate_id,
                request=facts.request_id,
                level=facts.level,
                pae_sha256=each.pae_sha256,
                at=at,
            ),
        )


def logged(session: Session, view: JobView, *, directory: Path, now: datetime) -> bool:
    """Return whether all that a checker asks of a job's certificates is there (C15).

    Each is under a published checkpoint, and so is the signed statement that their version was published;
    a fresh list says which certificates do not stand. Where no log is kept (its key was never made), only
    the signatures are waited for.
    """
    keeps_log = _log_policy(directory) is not None
    found = Certificates(session).of_attempt(view.id, view.attempt)
    return (
        revoking.is_fresh(session, now=now)
        and all(publishing.is_shown(session, each.version_id, logged=keeps_log) for each in found)
        and (not keeps_log or all(log.is_published(session, _leaf(each)) for each in found))
    )


def release(session: Session, view: JobView, *, at: datetime) -> dict[UUID, Released]:
    """Let the certificates of a job be fetched: their version is served. Return them by request.

    A certificate that another takes the place of stays as it is, and can still be fetched; what it says
    was so, of a version that is served no more.
    """
    stored = Certificates(session)
    found = stored.of_attempt(view.id, view.attempt)
    for certificate in found:
        older = certificate.supersedes_id
        if older is not None and stored.supersede(older, at=at):
            audit.record(session, events.CertificateSuperseded(older, certificate.pae_sha256, at))
        stored.release(certificate, at=at)
        audit.record(session, events.CertificateReleased(certificate=certificate.id, at=at))
    return {each.request_id: Released(id=each.id, level=each.level) for each in found}


def withdraw(
    session: Session, *, job_id: UUID, attempt: int, request_id: UUID, reason: str, at: datetime
) -> bool:
    """Take a certificate back: what it says was found not to stand. False if it was not held any more.

    Its text stays what it is, and can still be fetched; its state says that it is revoked. The request
    keeps its outcome until a person has looked, who is asked for here.
    """
    found = next(
        (each for each in Certificates(session).of_attempt(job_id, attempt) if each.request_id == request_id),
        None,
    )
    if found is None or not Certificates(session).revoke(found.id, reason="evidence-invalid", at=at):
        return False
    audit.record(session, events.CertificateWithdrawn(certificate=found.id, reason=reason, at=at))
    erasure.raise_attention(session, request_id, "certificate_withdrawn", at=at)
    return True


def altered(session: Session, *, job_id: UUID, attempt: int) -> frozenset[UUID]:
    """Return the requests whose certificate rests on other numbers than are kept.

    The signed statement names the report by its digest; the report names the stored numbers by theirs and
    holds the decision whole. Whatever was changed since, in one place or in several, no longer fits.
    """
    bodies = verification.measured(session, job_id, attempt)
    digests = {form: hashlib.sha256(body).hexdigest() for form, body in bodies.items()}
    rows = verification.of_attempt(session, job_id, attempt)
    found = set()
    for each in Certificates(session).of_attempt(job_id, attempt):
        signed = json.loads(envelope.payload_of(envelope.decode(each.envelope)))["predicate"]["evidence"]
        report = json.loads(each.evidence)
        fits = (
            [part["digest"]["sha256"] for part in signed] == [hashlib.sha256(each.evidence).hexdigest()]
            and report["measurements"] == digests
            and report["decision"] == rows[each.request_id].decision
        )
        if not fits:
            found.add(each.request_id)
    return frozenset(found)


# What callers do ---------------------------------------------------------------------------------


def read(session: Session, certificate_id: UUID) -> Shown:
    """Return what may be said of a certificate to whoever may list it."""
    found = _released(session, certificate_id)
    return Shown(
        id=found.id,
        request=found.request_id,
        model=found.model_id,
        version=found.version_id,
        level=found.level,
        state=found.state,
        pae_sha256=found.pae_sha256,
        issued_at=found.issued_at,
        released_at=found.released_at,
        supersedes=found.supersedes_id,
        superseded_by=Certificates(session).successor(found.id),
        audit=audits.of_certificate(session, found.job_id, found.attempt, found.request_id),
    )


def evidence(session: Session, certificate_id: UUID) -> dict[str, Any]:
    """Return the verification report whose salted digest the certificate carries; for auditors."""
    found: dict[str, Any] = json.loads(_released(session, certificate_id).evidence)
    return found


def handed_out(session: Session, certificate_id: UUID, *, directory: Path, issuer: str) -> bytes:
    """Return the bundle that anyone may hold: without the opening."""
    return _bundle(session, _released(session, certificate_id), None, directory=directory, issuer=issuer)


def opened(
    session: Session, certificate_id: UUID, *, caller: UUID, directory: Path, issuer: str, at: datetime
) -> bytes:
    """Return the requester's bundle, with the nonces; they are destroyed here in the same transaction.

    Raises:
        Forbidden: somebody else made the request.
        Conflict: it was delivered before.
    """
    found = _released(session, certificate_id)
    stored = Certificates(session)
    if stored.submitter(found).id != caller:
        raise Forbidden("the opening belongs to whoever made the request", code="not-the-requester")
    opening = stored.take_opening(certificate_id)
    if opening is None:
        raise Conflict("the opening was delivered before, and is destroyed", code="opening-delivered")
    audit.record(session, events.OpeningDelivered(certificate=certificate_id, principal=caller, at=at))
    return _bundle(session, found, opening, directory=directory, issuer=issuer)


def forget_openings(session: Session, *, now: datetime) -> int:
    """Destroy the nonces that nobody has fetched for `OPENING_KEPT`; return how many certificates' they were.

    From then on the records a certificate speaks of can be confirmed by nobody, the requester included.
    """
    return Certificates(session).forget_openings(before=now - OPENING_KEPT)


def verify(
    session: Session,
    data: bytes,
    *,
    directory: Path,
    issuer: str,
    tsa_roots: Path | None = None,
    at: datetime,
) -> Report:
    """Run the offline checker on a bundle, trusting this issuer's own keys, with the list of today."""
    trusted = trust(directory=directory, issuer=issuer, tsa_roots=tsa_roots)
    return check.check(data, trusted, status=revoking.newest(session), at=at)


def trust(*, directory: Path, issuer: str, tsa_roots: Path | None = None) -> dict[str, Any]:
    """Return the trust file: whose signatures count, whose log, where revocations are, whose time stamps."""
    return keys.trust(
        _public_keys(directory),
        issuer=issuer,
        log_policy=_log_policy(directory),
        status=status.url(issuer),
        tsa=None if tsa_roots is None else tsa_roots.read_text(),
    )


def stated_status(session: Session) -> bytes:
    """Return the signed list of certificates that do not stand."""
    found = revoking.newest(session)
    if found is None:
        raise NotFound("no list was stated yet", code="no-status")
    return found


def continuity(session: Session, certificate_id: UUID, *, directory: Path) -> dict[str, Any]:
    """Return what shows that the newest version of the line still honours a certificate."""
    found = _released(session, certificate_id)
    keeps_log = _log_policy(directory) is not None
    members = publishing.shown(session, found, logged=keeps_log)
    if not members:
        raise NotFound("no publication is shown yet", code="not-published")
    proof = members.get(check.PUBLICATION_PROOF)
    return {
        "continuity": json.loads(members[check.CONTINUITY]),
        "publication": json.loads(members[check.PUBLICATION]),
        "proof": None if proof is None else proof.decode(),
    }


def log_keys_stated(session: Session, *, directory: Path) -> None:
    """Append to the log what was stated about each key; what is there already stays as it is."""
    for each in rotation.stated(directory):
        payload = envelope.payload_of(each)
        log.append(
            session, rotation.KEY, pae_sha256=envelope.pae_sha256(payload), subject=rotation.subject(payload)
        )


def stated_keys(*, directory: Path) -> list[envelope.Envelope]:
    """Return every statement about a key, for whoever trusts an old one and meets a new one."""
    return rotation.stated(directory)


def jwks(*, directory: Path) -> dict[str, Any]:
    """Return the public keys as a JSON Web Key Set."""
    return keys.jwks(_public_keys(directory))


def _released(session: Session, certificate_id: UUID) -> Certificate:
    found = Certificates(session).get(certificate_id)
    if found is None:
        raise NotFound("there is no such certificate")
    if found.released_at is None:
        raise Conflict("the version is not served yet", code="certificate-not-released")
    return found


def _held(session: Session, request_id: UUID, model_id: UUID) -> tuple[UUID, str] | None:
    current = Certificates(session).current(request_id, model_id)
    return None if current is None else (current.id, current.pae_sha256)


def _public_keys(directory: Path) -> list[keys.PublicKey]:
    try:
        return keys.public_keys(directory)
    except keys.KeyUnusable as reason:
        raise Unavailable("the issuer's public keys cannot be read here", code="keys-unusable") from reason


def _log_policy(directory: Path) -> str | None:
    try:
        return log_keys.policy_text(directory)
    except log_keys.NoLog:
        return None


def _leaf(found: Certificate) -> bytes:
    """Return the leaf that stands for a certificate in the log."""
    manifest = hashlib.sha256(found.manifest).hexdigest()
    return tree.leaf_hash(entries.build(LOGGED, pae_sha256=found.pae_sha256, subject=manifest))


def _bundle(
    session: Session,
    found: Certificate,
    opening: Mapping[str, Any] | None,
    *,
    directory: Path,
    issuer: str,
) -> bytes:
    leaf, keeps_log = _leaf(found), _log_policy(directory) is not None
    p256 = [key.keyid for key in _public_keys(directory) if key.algorithm == envelope.P256]
    members = publishing.shown(session, found, logged=keeps_log)
    stated = revoking.newest(session)
    if stated is not None:
        members[check.STATUS] = stated
    if keeps_log and log.is_published(session, leaf):
        members[check.PROOF] = log.proof(session, leaf)
    if found.stamp_ed25519 is not None:
        members[check.STAMP] = found.stamp_ed25519
    return bundle.assemble(
        envelope_bytes=found.envelope,
        manifest=found.manifest,
        p256_keyids=p256,
        certificate_id=found.id,
        issuer=issuer,
        members=members,
        stamp=found.stamp_p256,
        opening=opening,
    )


def _evidence(facts: Facts) -> bytes:
    """Return the report, salted so that its digest tells nothing (C10)."""
    return commitments.salted(
        {
            "version": "lethe/verification-report/1",
            "attempts": facts.attempts,
            "decision": dict(facts.decision),
            "measurements": dict(facts.measurements),
            "method": dict(facts.method),
        }
    )


def _limitations(facts: Facts, *, pretrained: bool) -> list[str]:
    """Return the limits that apply; an approximate version was made from an anchor that is still kept."""
    named = wording.limitations(
        facts.level,  # type: ignore[arg-type]  # a level that `verdict` chose
        wording.Facts(method=facts.engine, new=facts.manifest, pretrained=pretrained),
    )
    return [*named, "L-ANCHOR"] if facts.guarantee == "approximate" else list(named)


def _has_weights(manifest: bytes) -> bool:
    return any(layer.path.endswith(manifests.WEIGHTS) for layer in manifests.layers(manifest))
