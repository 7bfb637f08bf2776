"""What a certificate says: an in-toto Statement v1 with our predicate, and what it may not say.

Facts in, JSON out. A level is copied from the verdict and refused here when it is above the ceiling of
the method's class or stands on another verdict than it may: no code path raises one. Numbers are
integers or decimal strings, dates about the person are days, and there is no free text, no legal ground
and no row id to leak. Knows no key, no clock and no database; how to read it is in `FORMAT.md`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_serializer, model_validator
from pydantic.alias_generators import to_camel

from app.certificates import check
from app.certificates.commitments import RecordsCommitment, RequestCommitment
from app.registry import manifest as manifests
from app.transparency import tree

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = check.PREDICATE_TYPE
MANIFEST_NAME = check.MANIFEST
QUARANTINE_DAYS_MAX = 30
"""Against the one-month clock of GDPR Art. 12(3)."""

Level = Literal["exact", "certified", "verified", "executed", "inconclusive"]
MethodClass = Literal["exact", "bounded", "approximate"]
Verdict = Literal["V", "N", "I", "F"]
Limitation = Literal["L-OUTPUT", "L-SELF-RUN", "L-COPIES", "L-CORRELATED", "L-COHORT", "L-ANCHOR", "L-BASE"]
ALWAYS: tuple[Limitation, ...] = ("L-OUTPUT", "L-SELF-RUN", "L-COPIES", "L-CORRELATED")
"""True of every certificate; the others when they apply."""

Hex64 = Annotated[str, StringConstraints(pattern=f"^{check.HEX}$")]
Text = Annotated[str, StringConstraints(pattern=f"^{check.TEXT}$")]
Number = Annotated[str, StringConstraints(pattern=f"^{check.NUMBER}$")]
Count = Annotated[int, Field(ge=0, lt=2**53)]


class Part(BaseModel):
    """A part of the statement: camelCase on the wire, nothing unknown, nothing coerced."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, strict=True
    )


class Digest(Part):
    """A digest set as in-toto has it; only SHA-2 names are read everywhere."""

    sha256: Hex64


class Described(Part):
    """Something named by its digest alone."""

    digest: Digest


class Subject(Part):
    """A file that the statement is about."""

    name: Text
    digest: Digest


class Issuer(Part):
    """Who states it."""

    id: Text
    role: Literal["controller", "processor"]


class Request(Part):
    """Whose request it answers, behind a commitment."""

    commitment: Hex64
    received_on: Annotated[str, StringConstraints(pattern=f"^{check.DAY}$")]


class Records(Part):
    """Which records, behind commitments."""

    scheme: Literal["rc1"] = "rc1"
    canonicalization: Literal["lethe/canon/1"] = "lethe/canon/1"
    padded_size: Count
    root: Hex64


class Cumulative(Part):
    """The list of all certificates that the version honours."""

    root: Hex64
    size: Count


class Form(Part):
    """A form in which the version is served, and the digest of what is served in it."""

    form: Text
    digest: Digest


class Model(Part):
    """The version before and the version after."""

    line: Text
    previous: Described
    tensor_root: Hex64
    oms_root: Hex64 | None
    erasure_epoch: Count
    cumulative: Cumulative | None
    forms: Annotated[tuple[Form, ...], Field(min_length=1)]


class Method(Part):
    """What ran."""

    engine: Text
    method_class: Annotated[MethodClass, Field(alias="class")]
    attempts: Count
    code: Described
    config: Described
    environment: Described


class Bound(Part):
    """A number that the level's sentence needs; `m` cohort subjects or `n` samples stand behind it."""

    name: Annotated[str, StringConstraints(pattern="^[a-z0-9_]+$")]
    value: Number
    limit: Number | None = None
    confidence: Number | None = None
    form: Text
    m: Count | None = None
    n: Count | None = None

    @model_serializer
    def without_nothing(self) -> dict[str, Any]:
        """Leave out what is not stated."""
        return {name: value for name, value in self if value is not None}


class Verification(Part):
    """What the tests found, per subject."""

    verdict: Verdict
    policy: Described
    suite: Text
    unit: Literal["subject"] = "subject"
    bounds: tuple[Bound, ...]


class Assurance(Part):
    """How much is claimed, and what limits it."""

    level: Level
    execution: Literal["self-asserted", "tee-attested"]
    limitations: Annotated[tuple[Limitation, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def names_what_always_limits(self) -> Self:
        """Refuse a list that omits what is true of every certificate, or names anything twice."""
        missing = [code for code in ALWAYS if code not in self.limitations]
        if missing or len(set(self.limitations)) != len(self.limitations):
            raise ValueError(f"limitations are named each once, and always: {', '.join(ALWAYS)}")
        return self


class EvidencePart(Part):
    """A file kept by the issuer, salted, shown to an auditor."""

    name: Text
    media_type: Text
    digest: Digest


class DispositionPart(Part):
    """What is promised about the version before; the dated facts come in later statements."""

    previous: Literal["quarantined-at-publication"] = "quarantined-at-publication"
    destroy_within_days: Annotated[int, Field(ge=0, le=QUARANTINE_DAYS_MAX)] | None


class Status(Part):
    """Where revocations are listed; null while the issuer keeps no list."""

    list: Text | None


class Predicate(Part):
    """`erasure-certificate/v1`."""

    certificate_id: Annotated[str, StringConstraints(pattern=f"^{check.URN}$")]
    issued_on: Annotated[str, StringConstraints(pattern=f"^{check.TIME}$")]
    issuer: Issuer
    request: Request
    records: Records
    model: Model
    method: Method
    verification: Verification
    assurance: Assurance
    evidence: tuple[EvidencePart, ...]
    disposition: DispositionPart | None
    status: Status
    supersedes: Hex64 | None

    @model_validator(mode="after")
    def claims_no_more_than_it_may(self) -> Self:
        """Refuse a level above its ceiling, or on a verdict that does not carry it."""
        level, verdict, kind = self.assurance.level, self.verification.verdict, self.method.method_class
        ranks = list(check.LEVELS)
        if ranks.index(level) < ranks.index(check.CEILING[kind]):
            raise ValueError(f"level {level} is above the ceiling of class {kind}")
        if verdict not in check.LEVELS[level][0]:
            raise ValueError(f"level {level} cannot stand on verdict {verdict}")
        if level == "verified" and not self.verification.bounds:
            raise ValueError("level verified states its bounds")
        return self


class Statement(Part):
    """The whole, as it is signed."""

    type: Annotated[Literal["https://in-toto.io/Statement/v1"], Field(alias="_type")]
    predicate_type: Literal["https://lethe.example/attestation/erasure-certificate/v1"]
    subject: Annotated[tuple[Subject, ...], Field(min_length=2)]
    predicate: Predicate


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A salted file (`commitments.salted`) and what it is called."""

    name: str
    sha256: str
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementFacts:
    """Everything a certificate states, in Python's own types; digests are lowercase hex SHA-256."""

    certificate_id: UUID
    """A version 4: a version 7 would carry the time."""
    issued_at: datetime
    issuer: str
    role: Literal["controller", "processor"] = "controller"
    request: RequestCommitment
    received_on: date
    records: RecordsCommitment
    manifest: bytes
    """The version's manifest, byte for byte: the subjects are read from it."""
    line: str
    previous: str
    tensor_root: str
    erasure_epoch: int
    forms: Mapping[str, str]
    """Form to digest of what is served in it."""
    engine: str
    method_class: str
    attempts: int
    code: str
    config: str
    environment: str
    verdict: str
    policy: str
    suite: str
    bounds: Sequence[Mapping[str, Any]] = ()
    """Each with `name`, `value`, `form`, and where it applies `limit`, `confidence`, `m`, `n`."""
    level: str
    limitations: Sequence[str]
    execution: Literal["self-asserted", "tee-attested"] = "self-asserted"
    evidence: Sequence[Evidence] = ()
    cumulative: Sequence[UUID] | None = None
    """Ids certified on this line, oldest first, this one and its batch included; None: no list is kept."""
    oms_root: str | None = None
    previous_is_quarantined: bool = False
    """At publication; only where that is what will happen."""
    destroy_within_days: int | None = None
    status_list: str | None = None
    supersedes: str | None = None
    """Identity (paeSha256) of an older certificate."""


def build(facts: StatementFacts) -> dict[str, Any]:
    """Return the statement, ready for `canonical.encode`; ValueError for what may not be said."""
    return Statement.model_validate(_plain(facts)).model_dump(mode="json", by_alias=True)


def urn(certificate_id: UUID) -> str:
    """Return a certificate's id as the statement writes it."""
    return f"urn:uuid:{certificate_id}"


def subjects(manifest: bytes) -> list[tuple[str, str]]:
    """Return name and digest of each subject: the manifest itself first, then its files in its order.

    The manifest comes first because it is small: some tools refuse to hash a blob above 128 MiB.
    """
    files = [(layer.path, layer.digest) for layer in manifests.layers(manifest)]
    return [(MANIFEST_NAME, check.sha256(manifest).hex()), *files]


def cumulative(certificate_ids: Sequence[UUID]) -> dict[str, Any]:
    """Return root and size of the list of certificates a version honours, in order of issue."""
    leaves = [tree.leaf_hash(urn(each).encode()) for each in certificate_ids]
    return {"root": tree.root(leaves).hex(), "size": len(leaves)}


def decimal_string(value: Decimal) -> str:
    """Return a number the one way all languages print it: digits, no exponent."""
    return format(value, "f")


def _plain(facts: StatementFacts) -> dict[str, Any]:
    if facts.issued_at.tzinfo is None:
        raise ValueError("a time without its zone is no time")
    return {
        "_type": STATEMENT_TYPE,
        "predicateType": PREDICATE_TYPE,
        "subject": tuple(
            {"name": name, "digest": {"sha256": sha256}} for name, sha256 in subjects(facts.manifest)
        ),
        "predicate": {
            "certificateId": urn(facts.certificate_id),
            "issuedOn": facts.issued_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "issuer": {"id": facts.issuer, "role": facts.role},
            "request": {
                "commitment": facts.request.commitment,
                "receivedOn": facts.received_on.isoformat(),
            },
            "records": {"paddedSize": facts.records.padded_size, "root": facts.records.root},
            "model": _model(facts),
            "method": {
                "engine": facts.engine,
                "class": facts.method_class,
                "attempts": facts.attempts,
                "code": _digest(facts.code),
                "config": _digest(facts.config),
                "environment": _digest(facts.environment),
            },
            "verification": {
                "verdict": facts.verdict,
                "policy": _digest(facts.policy),
                "suite": facts.suite,
                "bounds": tuple(_bound(each) for each in facts.bounds),
            },
            "assurance": {
                "level": facts.level,
                "execution": facts.execution,
                "limitations": tuple(facts.limitations),
            },
            "evidence": tuple(
                {"name": each.name, "mediaType": each.media_type, **_digest(each.sha256)}
                for each in facts.evidence
            ),
            "disposition": (
                {"destroyWithinDays": facts.destroy_within_days} if facts.previous_is_quarantined else None
            ),
            "status": {"list": facts.status_list},
            "supersedes": facts.supersedes,
        },
    }


def _model(facts: StatementFacts) -> dict[str, Any]:
    return {
        "line": facts.line,
        "previous": _digest(facts.previous),
        "tensorRoot": facts.tensor_root,
        "omsRoot": facts.oms_root,
        "erasureEpoch": facts.erasure_epoch,
        "cumulative": None if facts.cumulative is None else cumulative(facts.cumulative),
        "forms": tuple({"form": form, **_digest(digest)} for form, digest in sorted(facts.forms.items())),
    }


def _bound(bound: Mapping[str, Any]) -> dict[str, Any]:
    """Print decimals; anything else stays as it is, and the model refuses what is no decimal string."""
    return {
        name: decimal_string(value) if isinstance(value, Decimal) else value for name, value in bound.items()
    }


def _digest(sha256: str) -> dict[str, Any]:
    return {"digest": {"sha256": sha256}}
