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

from app.certificates import service as certificates
from app.certificates.check import Report, check
from app.certificates.commitments import RecordContent
from app.certificates.service import Draft, Released
from app.config import Settings
from app.jobs import service as jobs
from app.jobs.lifecycle import JobStage
from app.jobs.service import JobView
from app.registry.weights import Adopted
from app.storage.objects import ObjectStore
from app.tables import VerdictRow
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
        view = self.desk.at(model_id, JobStage.UNLEARN, engine=ENGINES[guarantee])
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
        """Let the certificates of a job be fetched, as `conclude` does."""
        with self.desk.transaction() as session:
            return certificates.release(session, view, at=self.desk.clock())

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

    def checked(self, data: bytes) -> Report:
        """Return what the offline checker says a week later, trusting this issuer."""
        trust = certificates.trust(directory=self.settings.keys, issuer=self.settings.issuer)
        return check(data, trust, at=self.desk.clock() + timedelta(days=7))


def members(data: bytes) -> dict[str, bytes]:
    """Return the files of a bundle."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def predicate(payload: bytes) -> dict[str, Any]:
    """Return what a statement says."""
    said: dict[str, Any] = json.loads(payload)["predicate"]
    return said
