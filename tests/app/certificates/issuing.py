"""Certificates as a job issues them: over its own rows, with real keys and a real store.

Only the weights and the numbers are made up: a candidate is two tensors, a verdict is written down.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from typing import Any
from uuid import UUID

from app.certificates import publishing, revoking
from app.certificates import service as certificates
from app.certificates.check import Report, check
from app.certificates.commitments import RecordContent
from app.certificates.service import Draft, Released
from app.config import Settings
from app.jobs import service as jobs
from app.jobs.lifecycle import JobStage
from app.jobs.views import JobView
from app.registry.weights import Adopted
from app.signing import rotation
from app.storage.database import Session
from app.storage.objects import ObjectStore
from app.tables import Model, ModelVersion, VerdictRow
from app.transparency import service as log
from app.verification import service as verification
from tests.app.certificates import making
from tests.app.jobs.batches import POLICY, Desk

FORM = "float32/none"
MEASURED = b'{"version":"lethe/measurements/1"}'
RECORDS = [RecordContent.of(each).canonical_sha256 for each in (b"one record", b"another")]
STATEMENT: dict[str, Any] = {
    "engine": "made-up",
    "code": making.sha256(b"code"),
    "config": {"seed": 1},
    "environment": {"python": "3.11"},
}
ATTESTED = {"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": []}
GIVEN: dict[str, Any] = {"seed": 1, "retained": {"root": making.sha256(b"retained"), "size": 3}}


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a verification found of one request."""

    verdict: str
    level: str
    guarantee: str
    bounds: Sequence[Mapping[str, Any]] = ()


EXACT = Judged(verdict="V", level="exact", guarantee="exact")
VERIFIED = Judged(
    verdict="V",
    level="verified",
    guarantee="approximate",
    bounds=[
        {"name": "residual_ratio_upper", "value": "0.13", "limit": "0.2", "confidence": "0.95", "form": FORM, "m": 99}
    ],
)  # fmt: skip
ENGINES = {"exact": "retrain", "approximate": "gradient"}


@dataclass(frozen=True)
class Issuer:
    """Issues for whatever batch was judged at a desk."""

    desk: Desk
    objects: ObjectStore
    settings: Settings

    def judged(self, model_id: UUID, findings: Mapping[UUID, Judged]) -> JobView:
        """Return the job of these requests, as `certify` claims it."""
        [guarantee] = {each.guarantee for each in findings.values()}
        return self.judge(self.desk.at(model_id, JobStage.UNLEARN, engine=ENGINES[guarantee]), findings)

    def judge(self, view: JobView, findings: Mapping[UUID, Judged]) -> JobView:
        """Return a job that has begun to unlearn, as `certify` claims it."""
        assert set(view.requests) == findings.keys()
        with self.desk.transaction() as session:
            made = self.desk.candidate(
                session, view, adopted=self.adopted(), statement={"statement": STATEMENT, "given": GIVEN}
            )
            jobs.made_candidate(session, view, made.id, output={}, seconds=1, at=self.desk.clock())
        verify = self.desk.claimed(view)
        assert verify is not None
        with self.desk.transaction() as session:
            verification.put(session, view.id, attempt=view.attempt, moment="after", form=FORM, body=MEASURED)
            for request_id, found in findings.items():
                decision = {"guarantee": found.guarantee, "bounds": list(found.bounds), "reasons": []}
                session.add(
                    VerdictRow(
                        job_id=view.id, request_id=request_id, attempt=view.attempt, verdict=found.verdict,
                        level=found.level, policy_digest=POLICY, decision=decision,
                    )
                )  # fmt: skip
        return self.desk.onward(verify, JobStage.CERTIFY)

    def adopted(self) -> Adopted:
        """Put the candidate's files into the store."""
        for content in making.WHOLE.values():
            self.objects.put_bytes(content)
        body = making.manifest(making.WHOLE)
        digest = self.objects.put_manifest(body)
        return Adopted(manifest=digest, body=body, tensor_root=making.TENSOR_ROOT, size=1)

    def drafts(self, view: JobView) -> list[Draft]:
        """Return what is going to be signed, as `certify` makes it."""
        with self.desk.transaction() as session:
            facts = certificates.gather(session, view, issuer=self.settings.issuer, at=self.desk.clock())
        return [certificates.draft(each, canonical_sha256=RECORDS, objects=self.objects) for each in facts]

    def issued(self, view: JobView) -> dict[UUID, UUID]:
        """Sign and issue; return the certificates by request."""
        signed = certificates.sign(self.drafts(view), self.settings.keys)
        with self.desk.transaction() as session:
            certificates.issue(session, view, signed, at=self.desk.clock())
            jobs.certified(session, view, output={}, seconds=1, at=self.desk.clock())
        return {each.draft.facts.request_id: each.draft.certificate_id for each in signed}

    def released(self, view: JobView) -> dict[UUID, Released]:
        """Serve the candidate of a job, and let its certificates be fetched, as `conclude` does."""
        with self.desk.transaction() as session:
            self.desk.serve(session, view)
            self.publish(session, view)
        self.stated()
        with self.desk.transaction() as session:
            return certificates.release(session, view, at=self.desk.clock())

    def publish(self, session: Session, view: JobView) -> None:
        """State that the candidate of a job went live, in the transaction that made it so."""
        assert view.candidate_id is not None
        line = session.get_one(Model, view.model_id, populate_existing=True)
        line.erasure_epoch += 1
        version = session.get_one(ModelVersion, view.candidate_id, populate_existing=True)
        version.erasure_epoch = line.erasure_epoch
        session.flush()
        publishing.record(session, view.candidate_id, attestations=[ATTESTED], at=self.desk.clock())

    def stated(self) -> None:
        """Sign what waits for the issuer's keys, as the workers do all the time."""
        directory, transaction = self.settings.keys, self.desk.transaction
        publishing.sign(transaction, directory=directory, objects=self.objects)
        revoking.renew(transaction, directory=directory, issuer=self.settings.issuer, clock=self.desk.clock)

    def settled(self, view: JobView) -> dict[UUID, Released]:
        """Certify a job, serve its candidate, release and conclude; return what each request ends with."""
        self.issued(view)
        publish = self.desk.claimed(view)
        assert publish is not None
        last = self.desk.onward(publish, JobStage.CONCLUDE)
        with self.desk.transaction() as session:
            self.desk.serve(session, last)
            self.publish(session, last)
        self.stated()
        with self.desk.transaction() as session:
            found = certificates.release(session, last, at=self.desk.clock())
            outcomes = {request: (each.level, each.id) for request, each in found.items()}
            self.desk.settle(session, last, outcomes)
        self.desk.end_lease(view.model_id)
        return found

    def certificate(self, model_id: UUID, request_id: UUID, found: Judged = EXACT) -> UUID:
        """Return the released certificate of one request."""
        view = self.judged(model_id, {request_id: found})
        self.issued(view)
        return self.released(view)[request_id].id

    def sequenced(self) -> int:
        """Let the public log take what waits."""
        by = log.sequencer(
            keys_directory=self.settings.keys, storage=self.settings.storage, clock=self.desk.clock
        )
        return log.sequence(self.desk.transaction, by)

    # What others do with it

    def fetched(self, certificate_id: UUID) -> bytes:
        """Return the bundle that anyone may hold."""
        with self.desk.transaction() as session:
            return certificates.handed_out(
                session, certificate_id, directory=self.settings.keys, issuer=self.settings.issuer
            )

    def opened(self, certificate_id: UUID, *, caller: UUID) -> bytes:
        """Return the requester's bundle."""
        with self.desk.transaction() as session:
            return certificates.opened(
                session, certificate_id, caller=caller, directory=self.settings.keys,
                issuer=self.settings.issuer, at=self.desk.clock(),
            )  # fmt: skip

    def trusted(self) -> dict[str, Any]:
        """Return this issuer's trust file."""
        return certificates.trust(directory=self.settings.keys, issuer=self.settings.issuer)

    def rotated(self) -> None:
        """Put new keys in the place of those that sign."""
        rotation.rotate(self.settings.keys, issuer=self.settings.issuer, at=self.desk.clock())

    def checked(self, data: bytes) -> Report:
        """Return what the offline checker says some days later, trusting this issuer."""
        return check(data, self.trusted(), at=self.desk.clock() + timedelta(days=6))


def members(data: bytes) -> dict[str, bytes]:
    """Return the files of a bundle."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def predicate(payload: bytes) -> dict[str, Any]:
    """Return what a statement says."""
    said: dict[str, Any] = json.loads(payload)["predicate"]
    return said
